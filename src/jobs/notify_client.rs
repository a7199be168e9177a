//! Job 4: notifies the client of the current status and version.
//!
//! First due at accept + `NOTIFY__FIRST`, so that a client hears `pending` when nothing better is
//! known; a status change makes the same row due at once. When it ends, the version that was sent
//! is compared with the present one under the transaction's lock: if the status changed meanwhile
//! the row is due again, so that no wake-up is lost, and notifications never overtake each other.
//!
//! It is signed by the client's secret, and by one that was rotated for as long as that is good;
//! both are opened with the master key for this call alone.
//!
//! Failures back off exponentially (`Retry-After` honoured) until the attempts are used up; 410
//! stops at once. A crash after the client's answer sends the same version once more.
//!
//! While the client's callback host does not answer ([`super::callback_hosts`]) no call is made and
//! the job is postponed, which costs no attempt. But it counts in the backoff like a failed
//! attempt, and the job ends as `exhausted` when its attempts and postponements together reach its
//! maximum of attempts. So an outage becomes a dead letter after the same time with and without the
//! breaker, and no job runs more than twice as often as it has attempts.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::{
    Job, JobContext,
    callback_hosts::{CallbackHost, HostOutage},
    retry_backoff, transaction_missing,
};
use crate::{
    domain::{DeadLetterKind, EvidenceKind},
    outbound::client_callback::{Notification, NotifyError},
    signature::Secret,
    store::{
        StoreError,
        clients::Callback,
        jobs::outcomes::{HostDown, Next, Outcome, SnoozeCount},
    },
};

/// Runs the job.
pub async fn run(context: Arc<JobContext>, job: Job) -> Result<Outcome, StoreError> {
    let id = job.transaction_id();
    let (Some(transaction), Some(callback)) = (job.transaction(), &job.claimed.callback) else {
        return Ok(transaction_missing(&context, &job));
    };
    let secrets = match open_secrets(&context, callback) {
        Ok(secrets) => secrets,
        Err(error) => {
            let error = format!("the client's signing secret cannot be read: {error}");
            return Ok(Outcome::retry(backoff_delay(&context, &job), error));
        }
    };
    // Only what is sent: a client is notified of the end of a transaction whose other columns
    // are in front of an operator.
    if let Some(unreadable) = transaction.unreadable_among(&["status", "updated_at"]) {
        return Ok(super::unreadable(unreadable));
    }
    let version = transaction.version;
    let notification = Notification {
        id,
        status: transaction.status,
        version,
        occurred_at: transaction.updated_at,
    };
    let host = CallbackHost::new(transaction.client_id, &callback.url);
    let permit = match context.callback_hosts.pass(&host) {
        Ok(permit) => permit,
        Err(outage) => {
            let outcome = postponed(&context, &job, &host, outage);
            return Ok(outcome.with_notified(version, false));
        }
    };
    let fence = job.lease.fence();
    let answer = context.callbacks.notify(&callback.url, &secrets, &notification, fence).await;
    match &answer {
        Ok(()) => permit.answered(),
        Err(error) if error.is_answer() => permit.answered(),
        Err(error) if error.is_outage() => permit.failed(&error.to_string()),
        // It was not called.
        Err(_) => drop(permit),
    }
    let detail = json!({ "status": transaction.status.as_str(), "version": version });
    Ok(match answer {
        Ok(()) => Outcome::done()
            .with_evidence(EvidenceKind::ClientNotified, detail)
            .with_notified(version, true),
        Err(error) => {
            let text = error.to_string();
            let refused = json!({ "version": version, "error": text });
            match error {
                NotifyError::Gone { reason } => Outcome::new(Next::Dead {
                    kind: DeadLetterKind::Rejected,
                    reason: format!("the client {reason}"),
                    error: Some(text),
                })
                .with_evidence(EvidenceKind::ClientRefused, refused)
                .with_notified(version, false),
                NotifyError::Refused { retry_after, .. } => {
                    let delay = backoff_delay(&context, &job).max(retry_after.unwrap_or_default());
                    Outcome::retry(delay, text)
                        .with_evidence(EvidenceKind::ClientRefused, refused)
                        .with_notified(version, false)
                }
                NotifyError::Unreachable { .. } | NotifyError::Blocked(_) => {
                    Outcome::retry(backoff_delay(&context, &job), text)
                        .with_notified(version, false)
                }
                NotifyError::Stale | NotifyError::NotSent { .. } => {
                    Outcome::snooze(context.config.notify.base)
                }
            }
        }
    })
}

/// What becomes of a job whose client's callback host does not answer: it waits for as long as
/// after a failed attempt, and for the host's next probe at least.
fn postponed(context: &JobContext, job: &Job, host: &CallbackHost, outage: HostOutage) -> Outcome {
    let HostOutage { since, error, wait } = outage;
    let attempts = u32::try_from(job.claimed.attempts).unwrap_or_default();
    let most = u32::try_from(job.claimed.max_attempts).unwrap_or_default();
    let waits = job.claimed.waits + 1;
    let places = attempts.saturating_add(waits);
    // Not at the first postponement: a host that was away for a moment must not end a job that has
    // only one attempt.
    if waits > 1 && places >= most {
        return Outcome::new(Next::Dead {
            kind: DeadLetterKind::Exhausted,
            reason: format!(
                "the callback host {} gives no answer since {}, after {attempts} attempts of this \
                 job and {waits} postponements, which last as long as its {most} attempts; the \
                 host's last error: {error}",
                host.origin(),
                since.format("%F %T UTC"),
            ),
            error: Some(error),
        });
    }
    let delay = retry_backoff(&context.config).delay(places, rand::random()).max(wait);
    let count = SnoozeCount::HostDown(HostDown { waits, since, error });
    Outcome::new(Next::Snooze { delay, count: Some(count) })
}

/// What signs: the present secret, and those in rotation that can be opened.
fn open_secrets(context: &JobContext, callback: &Callback) -> Result<Vec<Secret>, String> {
    let keys = &context.config.secrets.master_keys;
    let mut secrets = Vec::with_capacity(callback.signing_secrets.len());
    for (index, stored) in callback.signing_secrets.iter().enumerate() {
        match keys.open(&callback.client, stored) {
            Ok(secret) => secrets.push(secret),
            Err(error) if index == 0 => return Err(error.to_string()),
            // The client may verify by the present one already.
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(client = callback.client, error, "a retiring secret does not sign");
            }
        }
    }
    Ok(secrets)
}

fn backoff_delay(context: &JobContext, job: &Job) -> Duration {
    retry_backoff(&context.config).delay(job.attempt(), rand::random())
}
