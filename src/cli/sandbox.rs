//! `quartet sandbox`: the simulated third party and client, on their own.

use tokio_util::sync::CancellationToken;

use super::{CliError, output};
use crate::sandbox::{Sandbox, SandboxArgs};

pub(super) async fn run(args: SandboxArgs, stop: CancellationToken) -> Result<(), CliError> {
    let profile = args.interface;
    let sandbox = Sandbox::start(args.into()).await?;
    let config = sandbox.config();
    println!("QUARTET_THIRD_PARTY__BASE_URL={}", sandbox.base_url());
    match profile {
        Some(interface) => {
            println!("QUARTET_THIRD_PARTY__PROFILE={}", interface.name());
            for (name, value) in sandbox.provider_values() {
                println!("QUARTET_THIRD_PARTY__{name}={value}");
            }
        }
        None => println!("QUARTET_WEBHOOK__SECRETS={}", config.webhook_secret.reveal()),
    }
    println!("QUARTET_DEFAULT_CLIENT__CALLBACK_URL={}", sandbox.callback_url());
    println!("QUARTET_NOTIFY__ALLOWED_NETWORKS={}", sandbox.address().ip());
    println!("QUARTET_DEFAULT_CLIENT__SIGNING_SECRET={}", config.client_secret.reveal());
    eprintln!("Statistics: {}/stats. Ctrl-C ends it.", sandbox.base_url());
    // Nobody can use it without its settings.
    if !output::has_failed() {
        stop.cancelled().await;
    }
    let stats = serde_json::to_string_pretty(&sandbox.stats())?;
    sandbox.stop().await;
    println!("{stats}");
    Ok(())
}
