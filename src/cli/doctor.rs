//! `quartet doctor`: what is wrong with a deployment, and how to correct it.

use std::{path::Path, time::Duration};

use clap::Args;
use serde_json::json;

use super::{CliError, page::wrapped};
use crate::{
    config::{self, Config, Role, WithDefaults},
    operations::doctor::{self, Finding, Level, Request},
};

/// Columns before the text: the level, and the name of the check.
const LEVEL_WIDTH: usize = 9;
const CHECK_WIDTH: usize = 26;
const INDENT: usize = LEVEL_WIDTH + CHECK_WIDTH;

/// What `doctor` looks at.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// What the process is to do
    #[arg(long, value_enum, default_value_t)]
    role: Role,
    /// Report transactions in the database that have been open for longer
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = config::duration)]
    open_for: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(file: Option<&Path>, args: DoctorArgs) -> Result<(), CliError> {
    let findings = match Config::load_for(args.role, config::environment(), file) {
        Ok(config) => {
            let given = WithDefaults::new(config::environment(), file)?;
            let request = Request {
                role: args.role,
                open_limit: args.open_for,
                operator_token: given.text("QUARTET_OPERATOR_TOKEN"),
                ignored_variables: config::service_links(config::environment()),
            };
            doctor::examine(&config, &request).await
        }
        Err(error) => doctor::of_wrong_configuration(&error),
    };
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let [errors, warnings, good] = [Level::Error, Level::Warning, Level::Ok].map(count);
    if args.json {
        let findings: Vec<_> = findings.iter().map(as_json).collect();
        println!(
            "{}",
            json!({ "errors": errors, "warnings": warnings, "ok": good, "findings": findings })
        );
    } else {
        for finding in &findings {
            print!("{}", as_text(finding));
        }
        println!("\n{}, {}, {good} ok", counted(errors, "error"), counted(warnings, "warning"));
    }
    match errors {
        0 => Ok(()),
        1 => Err(CliError::Failed("1 check failed".to_owned())),
        errors => Err(CliError::Failed(format!("{errors} checks failed"))),
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Error => "error",
    }
}

fn as_json(finding: &Finding) -> serde_json::Value {
    json!({
        "check": finding.check,
        "level": word(finding.level),
        "found": finding.found,
        "remedy": finding.remedy,
    })
}

/// The level, the name, what was found; the remedy on lines of its own.
fn as_text(finding: &Finding) -> String {
    let start = format!("{:LEVEL_WIDTH$}{:CHECK_WIDTH$}", word(finding.level), finding.check);
    let mut text = wrapped(&start, &escaped(&finding.found));
    if let Some(remedy) = &finding.remedy {
        text.push_str(&wrapped(&format!("{:INDENT$}→ ", ""), &escaped(remedy)));
    }
    text
}

/// What others have named, such as a session's application, must not steer the terminal.
fn escaped(text: &str) -> String {
    let is_steering = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => escaped.push(' '),
            character if is_steering(character) => escaped.extend(character.escape_unicode()),
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_within_the_text() {
        let finding = Finding {
            check: "database",
            level: Level::Error,
            found: "word ".repeat(40).trim().to_owned(),
            remedy: Some("ALTER SYSTEM".to_owned()),
        };
        let text = as_text(&finding);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[0].starts_with("error    database                  word word"), "{text}");
        assert!(lines[1].starts_with(&format!("{:INDENT$}word", "")), "{text}");
        assert_eq!(lines[3], format!("{:INDENT$}→ ALTER SYSTEM", ""));
        assert!(lines.iter().all(|line| line.chars().count() <= 110), "{text}");
    }

    #[test]
    fn controls_are_escaped() {
        assert_eq!(escaped("a\u{1b}[2Jb\u{202e}c\nd"), "a\\u{1b}[2Jb\\u{202e}c d");
    }
}
