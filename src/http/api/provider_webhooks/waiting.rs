//! Applies webhooks that have waited for the third party's id, once a transaction has it.
//!
//! Each process that serves the API looks once a second. Two that find the same webhook do no harm:
//! the second one is a repeat. One that cannot be applied is tried again later, and stops none of
//! the others. A crash loses nothing: the rows stay until they are applied.
//!
//! A final status that has waited for `POLL__DEADLINE` becomes an `unknown_transaction`. Every
//! process sees to that, also where the profile was removed or another one took its place.

use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    ProviderWebhooks,
    events::{self, Reported},
};
use crate::{
    config::Config,
    http::{ApiState, api::named_webhooks::NamedWebhooks, problem::Problem},
    store::provider_webhooks::{self, WaitingWebhook},
    telemetry::labels::WebhookResult,
};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);
/// Most that are applied in one look.
const MAX_APPLIED: i64 = 200;
/// How often those are given up that have waited too long.
const GIVE_UP_EVERY: Duration = Duration::from_secs(10);

/// Applies waiting webhooks until `stop`, and gives up those that wait too long.
pub async fn run(state: &ApiState, config: &Config, stop: CancellationToken) {
    let mut given_up_at: Option<Instant> = None;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => break,
        }
        for webhooks in state.named_webhooks.iter().filter_map(NamedWebhooks::by_profile) {
            if let Err(problem) = look(state, webhooks).await {
                let (detail, cause) = (problem.detail, problem.cause);
                tracing::debug!(detail, cause, "waiting webhooks could not be applied yet");
            }
        }
        if given_up_at.is_none_or(|at| at.elapsed() >= GIVE_UP_EVERY) {
            given_up_at = Some(Instant::now());
            if let Err(problem) = give_up(state, config).await {
                let (detail, cause) = (problem.detail, problem.cause);
                tracing::debug!(detail, cause, "waiting webhooks could not be given up yet");
            }
        }
    }
}

async fn look(state: &ApiState, webhooks: &ProviderWebhooks) -> Result<(), Problem> {
    let profile = webhooks.profile.name();
    let known = provider_webhooks::known(&state.pool, &webhooks.third_party, profile, MAX_APPLIED);
    let known = state.within_limit(known).await?;
    for (waiting, transaction_id) in known {
        let webhook_id = waiting.webhook_id.clone();
        if apply(state, webhooks, waiting, transaction_id).await {
            state.within_limit(provider_webhooks::remove(&state.pool, &webhook_id)).await?;
        } else {
            state.within_limit(provider_webhooks::try_later(&state.pool, &webhook_id)).await?;
        }
    }
    Ok(())
}

/// Whether it was applied.
async fn apply(
    state: &ApiState,
    webhooks: &ProviderWebhooks,
    waiting: WaitingWebhook,
    transaction_id: Uuid,
) -> bool {
    let webhook_id = waiting.webhook_id.clone();
    let Some(reported) = Reported::waited(waiting, transaction_id) else {
        tracing::error!(webhook_id, "a waiting webhook cannot be read");
        return false;
    };
    let applied = events::apply(state, webhooks, vec![reported]).await;
    if let Err(Problem { detail, cause, .. }) = &applied {
        tracing::warn!(webhook_id, detail, cause, "a waiting webhook was not applied yet");
    }
    applied.is_ok()
}

async fn give_up(state: &ApiState, config: &Config) -> Result<(), Problem> {
    let (wait, age) = (config.poll.deadline, config.retention.webhooks);
    let given_up = provider_webhooks::give_up(&state.pool, wait, age);
    for _ in 0..state.within_limit(given_up).await? {
        state.metrics.webhook(WebhookResult::UnknownTransaction);
    }
    Ok(())
}
