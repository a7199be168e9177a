//! Applies webhooks that have waited for the third party's id, once a transaction has it.
//!
//! Each process that serves the API looks once a second. Two that find the same webhook do no harm:
//! the second one is a repeat. What has waited for `POLL__DEADLINE` becomes an
//! `unknown_transaction`. A crash loses nothing: the rows stay until they are applied.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{
    ProviderWebhooks,
    events::{self, Reported},
};
use crate::{
    config::Config,
    http::{ApiState, problem::Problem},
    store::provider_webhooks,
    telemetry::labels::WebhookResult,
};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);
/// Most that are applied in one look.
const MAX_APPLIED: i64 = 200;

/// Applies waiting webhooks until `stop`.
pub async fn run(state: &ApiState, config: &Config, stop: CancellationToken) {
    let Some(webhooks) = &state.provider_webhooks else { return };
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => break,
        }
        if let Err(problem) = look(state, webhooks, config).await {
            let (detail, cause) = (problem.detail, problem.cause);
            tracing::debug!(detail, cause, "waiting webhooks could not be applied yet");
        }
    }
}

async fn look(
    state: &ApiState,
    webhooks: &ProviderWebhooks,
    config: &Config,
) -> Result<(), Problem> {
    let known = state.within_limit(provider_webhooks::known(&state.pool, MAX_APPLIED)).await?;
    for (waiting, transaction_id) in known {
        let webhook_id = waiting.webhook_id.clone();
        let Some(reported) = Reported::waited(waiting, transaction_id) else {
            tracing::error!(webhook_id, "a waiting webhook cannot be read");
            continue;
        };
        if let Err(problem) = events::apply(state, webhooks, vec![reported]).await {
            let (detail, cause) = (problem.detail, problem.cause);
            tracing::warn!(webhook_id, detail, cause, "a waiting webhook was not applied yet");
            continue;
        }
        state.within_limit(provider_webhooks::remove(&state.pool, &webhook_id)).await?;
    }
    let (wait, age) = (config.poll.deadline, config.retention.webhooks);
    let given_up = provider_webhooks::give_up(&state.pool, wait, age);
    for _ in 0..state.within_limit(given_up).await? {
        state.metrics.webhook(WebhookResult::UnknownTransaction);
    }
    Ok(())
}
