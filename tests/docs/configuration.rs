//! A setting's meaning and default stand once, in the call of `src/config` that reads it.

use quartet::config::{self, Config};

use crate::{
    check_written, files, pages,
    quantity::{self, Quantity},
    read,
};

#[test]
fn the_configuration_page_is_made_from_the_code() {
    check_written("docs/configuration.md", &config::reference_page(), "just configuration");
}

/// The doc comments of public fields in a file, each with its field.
fn field_comments(text: &str) -> Vec<(String, String)> {
    let (mut found, mut comment) = (Vec::new(), String::new());
    for line in text.lines().map(str::trim) {
        if let Some(more) = line.strip_prefix("///") {
            comment.push_str(more);
        } else {
            let field = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": "));
            if let Some((name, _)) = field.filter(|(name, _)| !name.contains(['(', ' '])) {
                found.push((name.to_owned(), comment.clone()));
            }
            comment.clear();
        }
    }
    found
}

/// What shows that a doc comment states a default: a number, the word, or an appended value.
fn states_a_default(comment: &str) -> bool {
    comment.contains(|character: char| character.is_ascii_digit() || character == ';')
        || comment.contains("default")
}

#[test]
fn no_doc_comment_of_a_setting_states_a_default() {
    let mut seen = 0;
    for file in files("src/config", &[".rs"]) {
        let path = file.display().to_string();
        if !path.contains("/sections/") && !path.ends_with("default_client.rs") {
            continue;
        }
        for (field, comment) in field_comments(&read(&file)) {
            seen += 1;
            assert!(
                !states_a_default(&comment),
                "{path}: the doc comment of `{field}` states a default or another number:\n\
                 {comment}\nState it only in the call that reads the setting (`settings.read`), \
                 from which docs/configuration.md is made."
            );
        }
    }
    assert!(seen > 50, "{seen} fields");
    for comment in ["Longest gap; 60 s.", "Where it is, by default here.", "At most 60 s."] {
        assert!(states_a_default(comment), "{comment}");
    }
}

/// The default of a setting that a page names, with or without its prefixes, as a quantity.
fn default_of(name: &str) -> Option<Quantity> {
    let name = name.strip_prefix("QUARTET_").unwrap_or(name);
    let ending = format!("_{name}");
    let mut found = Config::reference().into_iter().filter(|doc| doc.variable.ends_with(&ending));
    let doc = found.next()?;
    // A name that several settings end in says nothing.
    if found.next().is_some() {
        return None;
    }
    quantity::first(doc.default)
}

#[test]
fn defaults_that_pages_mention_are_the_settings() {
    let mut seen = 0;
    for page in pages() {
        let text = read(&page);
        for (index, _) in text.match_indices("` (") {
            let before = &text[..index];
            let name = &before[before.rfind('`').map_or(0, |start| start + 1)..];
            let after = &text[index + "` (".len()..];
            let inside = &after[..after.find(')').unwrap_or(after.len())];
            let is_value = inside.starts_with(|first: char| first.is_ascii_digit());
            let (Some(default), true) = (default_of(name), is_value) else { continue };
            seen += 1;
            assert_eq!(
                quantity::first(inside),
                Some(default),
                "{}: `{name}` ({inside}) is not the setting's default",
                page.display()
            );
        }
    }
    assert!(seen >= 5, "{seen} mentions");
    assert_eq!(default_of("CREATE_BACKOFF"), Some(Quantity::Seconds(120.0)));
    assert_eq!(default_of("MAX_DELAY"), None);
}
