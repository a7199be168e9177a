//! The configuration.

use std::io::Write;

use quartet::{
    config::{Config, ConfigError, Role},
    jobs,
};
use tempfile::NamedTempFile;

/// Where this stands in a secret's value it must stand nowhere else.
const SECRET: &str = "s3cr3tValue";
/// The variables whose values are secrets.
const SECRETS: [&str; 5] = [
    "QUARTET_OPERATOR_TOKEN",
    "QUARTET_SECRETS__MASTER_KEY",
    "QUARTET_WEBHOOK__SECRETS",
    "QUARTET_DEFAULT_CLIENT__API_KEY",
    "QUARTET_DEFAULT_CLIENT__SIGNING_SECRET",
];

/// Environment (lines `NAME=value`) and file (after a line `---`) give a configuration that works,
/// or name each variable at fault; and no secret is shown either way.
pub fn config(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (lines, toml) = text.split_once("---\n").unwrap_or((&text, ""));
    let env: Vec<(String, String)> = lines
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let is_secret = |(name, value): &(String, String)| {
        SECRETS.contains(&name.as_str()) || !(name.contains(SECRET) || value.contains(SECRET))
    };
    let hides = env.iter().all(is_secret) && !toml.contains(SECRET);

    let mut file = NamedTempFile::new().unwrap();
    file.write_all(toml.as_bytes()).unwrap();
    let shown = match Config::load(env, Some(file.path())) {
        Ok(config) => {
            works(&config);
            format!("{config:?}")
        }
        Err(error) => {
            if let ConfigError::Invalid(problems) = &error {
                assert!(!problems.is_empty());
                for problem in problems {
                    let name = &problem.variable;
                    // An unknown key of the file is named as it stands there.
                    let named = problem.message.contains(name) || problem.message.starts_with('`');
                    assert!(!name.is_empty() && named, "{problem}");
                }
            }
            format!("{error} {error:?}")
        }
    };
    assert!(!hides || !shown.contains(SECRET), "a secret is shown: {shown}");
}

/// What is made of a configuration at the start.
fn works(config: &Config) {
    for role in [Role::All, Role::Api, Role::Worker] {
        let complete = config.validate_for(role);
        if let Err(error) = complete {
            assert!(!error.problems().is_empty());
        }
    }
    jobs::plan(config);
    let definitions = jobs::definitions(config);
    assert_eq!(definitions.len(), 4);
    let faster = config.scaled(60.0);
    assert!(faster.poll.deadline <= config.poll.deadline);
    let address = "0.0.0.0:8080".parse().unwrap();
    let webhook_url = config.webhook_url(address);
    assert!(webhook_url.parse::<url::Url>().is_ok(), "{webhook_url}");
}
