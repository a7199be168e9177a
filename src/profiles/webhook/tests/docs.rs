//! The page about the section.

use serde::Deserialize;

use super::{support::*, *};

const PAGE: &str = include_str!("../../../../docs/webhook-profiles.md");

#[derive(Deserialize)]
struct Profile {
    webhook: WebhookProfile,
}

#[test]
fn the_example_verifies_what_it_is_about() {
    let (_, rest) = PAGE.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let profile: Profile = toml::from_str(example).unwrap();
    let receiver = profile.webhook.receiver(&Vars::new()).unwrap();
    let paid = vector("stripe/valid");
    let event = paid.verify(&receiver, &paid.keys(&receiver)).unwrap().remove(0);
    assert_eq!(event.report.unwrap().status.as_deref(), Some("paid"));
}

/// What serde says is allowed where a key or a word is unknown.
fn allowed(toml: &str) -> Vec<String> {
    let error = toml::from_str::<WebhookProfile>(toml).unwrap_err().to_string();
    let (_, allowed) = error.split_once("expected one of ").unwrap_or_else(|| panic!("{error}"));
    allowed.trim().split(", ").map(str::to_owned).collect()
}

#[test]
fn every_key_and_word_is_explained() {
    let none = "signature = { scheme = 'none' }";
    for toml in [
        "x = 1".to_owned(),
        "signature = { x = 1 }".to_owned(),
        "signature = { scheme = 'x' }".to_owned(),
        "signature = { adapter = 'x' }".to_owned(),
        "signature = { hash = 'x' }".to_owned(),
        "signature = { encoding = 'x' }".to_owned(),
        "signature = { format = 'x' }".to_owned(),
        "signature = { secret_encoding = 'x' }".to_owned(),
        "signature = { timestamp = { from = 'pair:t', unit = 'x' } }".to_owned(),
        format!("{none}\nmethods = ['x']"),
        format!("{none}\ncontent = 'x'"),
    ] {
        for word in allowed(&toml) {
            assert!(PAGE.contains(&word), "{toml}: {word} is not on the page");
        }
    }
}
