//! Configuration of the sandbox: what the command line sets, and what a start may refuse.

use std::net::{Ipv4Addr, SocketAddr};

use clap::Args;

use super::{error::SandboxError, profile::Profile, providers::Interface};
use crate::signature::Secret;

/// The flags of `quartet sandbox`.
#[derive(Args, Clone, Debug)]
pub struct SandboxArgs {
    /// Address to serve on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Divides every delay: 10 makes the peers ten times as fast
    #[arg(long, default_value_t = 1.0)]
    pub speed: f64,
    /// Seed of all random behaviour
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The interface of the third party, as the profile for it is called; default: Quartet's own
    /// contract
    #[arg(long = "profile", value_name = "NAME")]
    pub interface: Option<Interface>,
    /// Key that callers of the third party must present, with --profile; default: a new one
    #[arg(long, env = "SANDBOX_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Where the third party sends its webhooks, with a --profile whose creates do not say it
    #[arg(long, value_name = "URL")]
    pub webhook_url: Option<String>,
    /// Secret (`whsec_…`) the third party signs its webhooks with; default: a new one
    #[arg(long, env = "SANDBOX_WEBHOOK_SECRET", hide_env_values = true)]
    pub webhook_secret: Option<Secret>,
    /// Secret (`whsec_…`) the client checks its callbacks with; default: a new one
    #[arg(long, env = "SANDBOX_CLIENT_SECRET", hide_env_values = true)]
    pub client_secret: Option<Secret>,
    /// Answer a repeated create with 409 instead of storing it again
    #[arg(long)]
    pub idempotent: bool,
    /// How often a webhook that was not answered 2xx is sent again
    #[arg(long, default_value_t = 0)]
    pub webhook_retries: u32,
    #[command(flatten)]
    pub profile: Profile,
}

/// What a sandbox is started with. `Default`: a free port on localhost, new secrets, seed 1, speed
/// 1 and the default [`Profile`].
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    pub listen: SocketAddr,
    /// Divides the profile's delays; scripted delays are taken as written.
    pub speed: f64,
    pub seed: u64,
    pub interface: Interface,
    /// What callers must present, where the interface asks for a key; `None`: a new one.
    pub api_key: Option<String>,
    /// Where webhooks go that no create names an address for.
    pub webhook_url: Option<String>,
    /// The third party signs its webhooks with this one.
    pub webhook_secret: Secret,
    /// The client checks callbacks with this one.
    pub client_secret: Secret,
    /// A repeated create is answered with 409 instead of overwriting.
    pub idempotent: bool,
    pub webhook_retries: u32,
    pub profile: Profile,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            speed: 1.0,
            seed: 1,
            interface: Interface::default(),
            api_key: None,
            webhook_url: None,
            webhook_secret: Secret::generate(),
            client_secret: Secret::generate(),
            idempotent: false,
            webhook_retries: 0,
            profile: Profile::default(),
        }
    }
}

impl From<SandboxArgs> for SandboxConfig {
    fn from(args: SandboxArgs) -> Self {
        Self {
            listen: args.listen,
            speed: args.speed,
            seed: args.seed,
            interface: args.interface.unwrap_or_default(),
            api_key: args.api_key,
            webhook_url: args.webhook_url,
            webhook_secret: args.webhook_secret.unwrap_or_else(Secret::generate),
            client_secret: args.client_secret.unwrap_or_else(Secret::generate),
            idempotent: args.idempotent,
            webhook_retries: args.webhook_retries,
            profile: args.profile,
        }
    }
}

impl SandboxConfig {
    pub(super) fn validate(&self) -> Result<(), SandboxError> {
        if !SPEEDS.contains(&self.speed) {
            return Err(SandboxError::Speed);
        }
        self.profile.validate()
    }
}

/// Speeds at which no delay over- or underflows.
const SPEEDS: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: SandboxArgs,
    }

    #[test]
    fn flags_become_configuration() {
        let secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        let line = ["sandbox", "--timeout-rate", "0.25", "--create-latency-max", "2s", "--seed"];
        let line = line.into_iter().chain(["9", "--webhook-secret", secret, "--idempotent"]);
        let config = SandboxConfig::from(Cli::try_parse_from(line).ok().unwrap().args);
        assert_eq!(config.profile.timeout_rate, 0.25);
        assert_eq!(config.profile.create_latency_max.as_secs(), 2);
        assert_eq!((config.seed, config.idempotent), (9, true));
        assert_eq!(config.webhook_secret.reveal(), secret);
        assert_eq!(config.profile.webhook_rate, Profile::default().webhook_rate);
        assert!(config.validate().is_ok());
        assert!(SandboxConfig { speed: 0.0, ..config }.validate().is_err());
    }
}
