//! Job 4: tells the client the current status and version.
//!
//! First due at accept + `NOTIFY__FIRST`, so that a client hears `pending` when nothing better is
//! known; a status change makes the same row due at once. When it ends, the version that was sent
//! is compared with the present one under the transaction's lock: if the status changed meanwhile
//! the row is due again, so that no wake-up is lost, and notifications never overtake each other.
//!
//! It is signed by the client's secret, and by one that was rotated for as long as that is good; both
//! are opened with the master key for this call alone.
//!
//! Failures back off exponentially (`Retry-After` honoured) until the attempts are used up; 410
//! stops at once. A crash after the client's answer sends the same version once more.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::{Job, JobContext, retry_backoff, transaction_missing};
use crate::{
    clients::client_callback::{Notification, NotifyError},
    domain::{DeadLetterKind, EvidenceKind},
    signature::Secret,
    store::{
        StoreError,
        clients::Callback,
        outcomes::{Next, Outcome},
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
    // What is told, and nothing else: a client hears the end of a transaction whose other columns
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
    let fence = job.lease.fence();
    let answer = context.callbacks.notify(&callback.url, &secrets, &notification, fence).await;
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
                NotifyError::Stale => Outcome::snooze(context.config.notify.base),
            }
        }
    })
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
