//! Tokens, keys and secrets: refuses malformed and guessable ones. No message repeats a value.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::value::{Parsed, Redacted};
use crate::{
    secrets::{self, MasterKeys},
    signature::Secret,
};

/// Shorter operator tokens are refused: these can be guessed.
const MIN_TOKEN_CHARS: usize = 16;
/// What examples, ours among them, have in place of a value. Compared without case and separators.
const PLACEHOLDERS: [&str; 7] =
    ["changeme", "replaceme", "replacethis", "placeholder", "fillmein", "insertyour", "yourtoken"];
/// Words that make no value, however often they are repeated.
const GUESSED_WORDS: [&str; 4] = ["secret", "password", "token", "example"];
const PLACEHOLDER: &str = "is a placeholder of an example, which anybody knows: set random \
                           characters, such as those of `openssl rand -hex 32`";

/// A secret that travels as `Authorization: Bearer …`. Its hash is all that is kept of it.
pub(super) fn bearer_token(text: &str) -> Parsed<Redacted<[u8; 32]>> {
    if text.contains(['"', '\'', '`']) {
        return Err(
            "has a quote in it, which is no character of a token. In some env files quotes \
                    are a part of the value: write it without them"
                .to_owned(),
        );
    }
    if text.contains(char::is_whitespace) {
        return Err("has white space in it, which is no character of a token".to_owned());
    }
    if is_placeholder(text) {
        return Err(PLACEHOLDER.to_owned());
    }
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err("must be printable ASCII without spaces".to_owned());
    }
    Ok(secrets::hash_token(text).into())
}

/// Tokens of operators, separated by commas.
pub(super) fn operator_tokens(text: &str) -> Parsed<Vec<Redacted<[u8; 32]>>> {
    let operator_token = |text: &str| {
        let token = bearer_token(text)?;
        if text.len() < MIN_TOKEN_CHARS {
            return Err(format!(
                "is shorter than {MIN_TOKEN_CHARS} characters and can be guessed: set 32 random \
                 ones or more, such as those of `openssl rand -hex 32`"
            ));
        }
        Ok(token)
    };
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let tokens: Vec<_> = parts
        .enumerate()
        .map(|(index, part)| {
            operator_token(part).map_err(|wrong| format!("entry {} {wrong}", index + 1))
        })
        .collect::<Result<_, _>>()
        .map_err(|error: String| format!("is wrong: {error}"))?;
    if tokens.is_empty() {
        return Err("must hold at least one token".to_owned());
    }
    Ok(tokens)
}

/// Master keys, separated by commas.
pub(super) fn master_keys(text: &str) -> Parsed<MasterKeys> {
    if text.split(',').any(|key| is_encoded_placeholder(key.trim())) {
        return Err(format!("{PLACEHOLDER}; `quartet secrets generate-key` makes a key"));
    }
    text.parse().map_err(|error| {
        format!(
            "is wrong: {error}; it must hold keys of 32 bytes in base64, separated by commas, as \
             `quartet secrets generate-key` prints them"
        )
    })
}

/// One Standard Webhooks secret.
pub(super) fn secret(text: &str) -> Parsed<Secret> {
    known_to_few(text).map_err(|error| format!("is wrong: {error}"))
}

/// Standard Webhooks secrets, separated by commas.
pub(super) fn secrets(text: &str) -> Parsed<Vec<Secret>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let secrets: Vec<Secret> = parts
        .enumerate()
        .map(|(index, part)| {
            known_to_few(part).map_err(|error| format!("is wrong in entry {}: {error}", index + 1))
        })
        .collect::<Result<_, _>>()?;
    if secrets.is_empty() {
        return Err("must hold at least one secret `whsec_…`".to_owned());
    }
    Ok(secrets)
}

fn known_to_few(text: &str) -> Parsed<Secret> {
    let secret: Secret = text.parse().map_err(|error| format!("{error}"))?;
    let written = secret.reveal();
    if is_encoded_placeholder(written.strip_prefix("whsec_").unwrap_or_default()) {
        return Err("it is a placeholder of an example, which anybody knows: set whsec_ and what \
                    `openssl rand -base64 32` prints"
            .to_owned());
    }
    Ok(secret)
}

fn is_encoded_placeholder(base64: &str) -> bool {
    STANDARD
        .decode(base64)
        .is_ok_and(|key| names_placeholder(&bare(&String::from_utf8_lossy(&key))))
}

fn is_placeholder(text: &str) -> bool {
    // `<your token>`, `{{ token }}`, `${TOKEN}`: nobody filled it in.
    if text.starts_with(['<', '{']) || text.starts_with("${") || text.starts_with("$(") {
        return true;
    }
    let bare = bare(text);
    let rest = GUESSED_WORDS.iter().fold(bare.clone(), |rest, word| rest.replace(word, ""));
    let is_guessed = rest != bare && rest.chars().all(|c| c.is_ascii_digit());
    is_guessed || names_placeholder(&bare)
}

fn names_placeholder(bare: &str) -> bool {
    PLACEHOLDERS.iter().any(|placeholder| bare.contains(placeholder))
}

/// The text without case and separators.
fn bare(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        operator_tokens(text).expect_err(text)
    }

    #[test]
    fn a_token_that_can_be_guessed_or_is_none_is_refused_and_not_repeated() {
        for (text, part) in [
            ("x", "shorter than 16 characters"),
            ("0123456789abcde", "shorter than 16 characters"),
            ("\"f81d4fae7dec11d0a76500a0c91e6bf6\"", "a quote"),
            ("'f81d4fae7dec11d0a76500a0c91e6bf6'", "a quote"),
            ("\"abc\"", "a quote"),
            ("f81d4fae7dec11d0 a76500a0c91e6bf6", "white space"),
            ("f81d4fae7dec11d0\u{a0}a76500a0c91e6bf6", "white space"),
            ("f81d4fae7dec11d0a76500a0c91e6bfé", "printable ASCII"),
            ("change-me", "a placeholder"),
            ("change-me-to-32-random-characters", "a placeholder"),
            ("CHANGEME_CHANGEME_CHANGEME", "a placeholder"),
            ("please.replace-me.please", "a placeholder"),
            ("secret", "a placeholder"),
            ("secret-secret-token-1", "a placeholder"),
            ("${QUARTET_OPERATOR_TOKEN}", "a placeholder"),
            ("<32-random-characters>", "a placeholder"),
        ] {
            let said = wrong(text);
            assert!(said.starts_with("is wrong: entry 1 ") && said.contains(part), "{said}");
            assert!(text.len() < 12 || !said.contains(&text[1..12]), "{said}");
        }
        assert!(wrong("f81d4fae7dec11d0a76500a0c91e6bf6, x").contains("entry 2 "));
        for good in
            ["f81d4fae7dec11d0a76500a0c91e6bf6", "my-secret-of-16-or-more", "a+b/c=d.e~f_g-h!"]
        {
            assert!(operator_tokens(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn keys_and_secrets_of_examples_are_refused() {
        let key = STANDARD.encode("change-me-change-me-change-me-!!");
        assert!(master_keys(&key).is_err_and(|wrong| wrong.contains("a placeholder")));
        let secret_text = format!("whsec_{}", STANDARD.encode("replace-me-replace-me-replace-me"));
        assert!(secret(&secret_text).is_err_and(|wrong| wrong.contains("a placeholder")));
        assert!(secrets(&format!("{}, {secret_text}", Secret::generate().reveal())).is_err());
        assert!(bearer_token("qk_change-me-to-32-random-characters").is_err());
        assert!(master_keys(&MasterKeys::generate()).is_ok());
    }
}
