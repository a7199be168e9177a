//! How arguments are read, and what is said of those that cannot be.
//!
//! A parser's own words, such as `invalid digit found in string`, mean nothing to an operator: they
//! are replaced by what the argument must be.

use std::{
    net::AddrParseError,
    num::{IntErrorKind, ParseFloatError, ParseIntError},
    time::Duration,
};

use clap::{
    CommandFactory, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};
use uuid::Uuid;

use super::Cli;
use crate::{config, domain::parse_duration, http::page::PageCursor};

/// Reads the command line; ends the process where there is nothing to run.
pub(super) fn read() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| plain(error).exit())
}

/// The same error in plain words.
fn plain(error: clap::Error) -> clap::Error {
    let said = std::error::Error::source(&error).and_then(must_be);
    let given = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    match said {
        Some(must_be) if error.kind() == ErrorKind::ValueValidation => {
            let (value, arg) = (given(ContextKind::InvalidValue), given(ContextKind::InvalidArg));
            let message = format!("invalid value '{value}' for '{arg}': {must_be}\n");
            clap::Error::raw(error.kind(), message).with_cmd(&Cli::command())
        }
        _ => error,
    }
}

/// What a value must be that this parser could not read.
fn must_be(source: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if let Some(error) = source.downcast_ref::<ParseIntError>() {
        return Some(match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "is out of range",
            _ => "must be a whole number",
        });
    }
    if source.is::<ParseFloatError>() {
        return Some("must be a number, such as 10 or 0.5");
    }
    if source.is::<AddrParseError>() {
        return Some("must be an IP address and a port, such as 127.0.0.1:8080");
    }
    if source.is::<humantime::DurationError>() {
        return Some(DURATION);
    }
    source.is::<uuid::Error>().then_some("must be an id (a UUID)")
}

const DURATION: &str = "must be a duration with its unit, such as 200ms, 15m or 7d";

/// A transaction's id.
pub(super) fn transaction_id(text: &str) -> Result<Uuid, String> {
    text.parse().map_err(|_| format!("{text} is no transaction id (a UUID)"))
}

/// A dead letter's id.
pub(super) fn dead_letter_id(text: &str) -> Result<Uuid, String> {
    text.parse().map_err(|_| format!("{text} is no dead letter's id (a UUID)"))
}

/// Where a page of a list starts.
pub(super) fn cursor<C: PageCursor>(text: &str) -> Result<C, String> {
    let wrong = "must be the next_cursor of an earlier page, which --json prints";
    C::from_text(text).ok_or_else(|| wrong.to_owned())
}

/// How long ago, however long.
pub(super) fn age(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

/// What an operator goes by.
pub(super) fn operator_name(text: &str) -> Result<String, String> {
    let name = config::name(text.trim())?;
    if name.is_empty() { Err("must not be empty".to_owned()) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    /// The arguments of `command` that take a value, as they are given one: with the commands
    /// before them.
    fn given(command: &Command, path: &[String], into: &mut Vec<Vec<String>>) {
        for arg in command.get_arguments().filter(|arg| arg.get_action().takes_values()) {
            let mut line = path.to_vec();
            line.extend(arg.get_long().map(|long| format!("--{long}")));
            into.push(line);
        }
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let path = [path, &[sub.get_name().to_owned()]].concat();
            given(sub, &path, into);
        }
    }

    #[test]
    fn no_argument_is_refused_in_the_words_of_a_parser() {
        let mut command = Cli::command();
        command.build();
        let mut lines = Vec::new();
        given(&command, &["quartet".to_owned()], &mut lines);
        assert!(lines.len() > 80, "{lines:?}");
        let mut refused = 0;
        for line in &lines {
            for wrong in ["x y", "99999999999999999999999", "-", "1..2"] {
                let line = line.iter().map(String::as_str).chain([wrong]);
                let Err(error) = Cli::try_parse_from(line.clone()) else { continue };
                let text = plain(error).to_string();
                let line: Vec<&str> = line.collect();
                for words in ["found in string", "float", "found `", "socket", "expected a"] {
                    assert!(!text.contains(words), "{line:?}: {text}");
                }
                refused += usize::from(text.contains(": must be") || text.contains("out of range"));
            }
        }
        assert!(refused > 60, "{refused}");
    }

    #[test]
    fn an_id_that_is_none_is_named() {
        let error = Cli::try_parse_from(["quartet", "explain", "abc"]).unwrap_err();
        let text = plain(error).to_string();
        assert!(text.contains("abc is no transaction id (a UUID)"), "{text}");
        let error = Cli::try_parse_from(["quartet", "dead-letters", "show", "7"]).unwrap_err();
        assert!(error.to_string().contains("7 is no dead letter's id (a UUID)"), "{error}");
    }

    #[test]
    fn a_page_of_a_list_has_an_entry_and_starts_at_a_cursor_of_ours() {
        for list in [&["audit"][..], &["jobs", "list"], &["dead-letters", "list"]] {
            for (option, value, part) in
                [("--cursor", "x", "must be the next_cursor"), ("--limit", "0", "0 is not in 1..")]
            {
                let line = [&["quartet"], list, &[option, value]].concat();
                let text = plain(Cli::try_parse_from(&line).unwrap_err()).to_string();
                assert!(text.contains(part), "{line:?}: {text}");
            }
        }
    }

    #[test]
    fn an_age_may_be_longer_than_any_setting() {
        assert_eq!(age("2h"), Ok(Duration::from_secs(7200)));
        assert!(age("36500d").is_ok());
        assert!(age("15M").is_err());
        assert!(age("2").unwrap_err().contains("has no unit"));
        assert!(age("soon").unwrap_err().contains("such as 200ms"));
    }
}
