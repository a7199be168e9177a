//! Signing secrets on the command line.

use std::ffi::OsStr;

use clap::{
    Arg, Command, Error,
    builder::{TypedValueParser, ValueParserFactory},
    error::ErrorKind,
};

use crate::signature::Secret;

/// Reads `whsec_…`. Other than clap's own parsers it does not repeat what it cannot read, which may
/// be most of a secret.
#[derive(Debug, Clone, Copy)]
pub struct SecretArg;

/// So that no argument that is a [`Secret`] is read by another parser.
impl ValueParserFactory for Secret {
    type Parser = SecretArg;

    fn value_parser() -> SecretArg {
        SecretArg
    }
}

impl TypedValueParser for SecretArg {
    type Value = Secret;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Secret, Error> {
        let text = value.to_string_lossy();
        text.parse().map_err(|error| {
            let arg = arg.map(ToString::to_string).unwrap_or_default();
            let message = format!("invalid value for '{arg}': {error}\n");
            Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::Cli;

    #[test]
    fn a_secret_that_cannot_be_read_is_not_repeated() {
        for (command, flag) in [
            (&["sandbox"][..], "--webhook-secret"),
            (&["sandbox"], "--client-secret"),
            (&["sign-webhook"], "--secret"),
            (
                &["clients", "add", "shop", "--callback-url", "https://x.example"],
                "--signing-secret",
            ),
            (&["clients", "rotate-secret", "shop"], "--signing-secret"),
        ] {
            for malformed in ["c2VjcmV0c2VjcmV0", "whsec_c2VjcmV0c2VjcmV0*"] {
                for given in [&[flag, malformed][..], &[&format!("{flag}={malformed}")]] {
                    let line = ["quartet"].iter().chain(command).chain(given);
                    let error = Cli::try_parse_from(line).unwrap_err().to_string();
                    assert!(error.contains(flag) && error.contains("whsec_"), "{error}");
                    assert!(!error.contains("c2VjcmV0"), "{error}");
                }
            }
        }
    }
}
