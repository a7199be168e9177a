//! What a start of the sandbox may refuse, and why a webhook was not answered.

use std::net::SocketAddr;

/// Why a sandbox did not start, or a webhook was not answered.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("`--{name}` must be between 0 and 1")]
    Rate { name: &'static str },
    #[error("`--{name}-min` must not be greater than `--{name}-max`")]
    Range { name: &'static str },
    #[error("`--speed` must be between 0.001 and 1000000")]
    Speed,
    #[error("the sandbox cannot listen on {listen}")]
    Listen {
        listen: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the sandbox's HTTP client cannot be built")]
    HttpClient(#[source] reqwest::Error),
    #[error("no create of this transaction was received: its webhook needs a URL")]
    WebhookUrl,
    #[error("the webhook was not answered")]
    Webhook(#[source] reqwest::Error),
}
