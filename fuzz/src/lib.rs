//! What is fuzzed: one function a target. Each takes any bytes, and panics where what it says in
//! its first line does not hold.
//!
//! `just fuzz` drives them with libFuzzer, from `seeds/` and with the words of `dictionaries/`.
//! `cargo test` runs them over the seeds and over some thousand inputs made of these
//! (`tests/it/fuzzed.rs`), so that they are kept right without a fuzzer.

mod bodies;
mod config;
mod peers;
mod provider_webhooks;
mod signatures;
mod tokens;

pub use self::{
    bodies::{accept_body, operator_body, webhook_body},
    config::config,
    peers::{peer_answer, peer_body, url},
    provider_webhooks::provider_webhook,
    signatures::{secret, signature},
    tokens::{cursor, path_template},
};

/// A target, by the name of its seeds and its dictionary.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 12] = [
    ("accept_body", accept_body),
    ("config", config),
    ("cursor", cursor),
    ("operator_body", operator_body),
    ("path_template", path_template),
    ("peer_answer", peer_answer),
    ("peer_body", peer_body),
    ("provider_webhook", provider_webhook),
    ("secret", secret),
    ("signature", signature),
    ("url", url),
    ("webhook_body", webhook_body),
];

/// The text before and after the first line break.
fn lines(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}
