//! Telling a client: a signed `PUT` to its callback URL.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, SecondsFormat, Utc};
use reqwest::{StatusCode, header::CONTENT_TYPE};
use serde::Serialize;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    SetupError, call_span, describe_answer, describe_failure, http_client, retry_after, traced,
};
use crate::{
    domain::Status,
    signature::{self, Secret},
    telemetry::{Metrics, labels::NotifyResult},
};

/// Calls clients. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CallbackClient {
    http: reqwest::Client,
    metrics: Option<Arc<Metrics>>,
}

/// What a client is told.
#[derive(Debug, Clone, Copy)]
pub struct Notification {
    pub id: Uuid,
    pub status: Status,
    pub version: i32,
    /// When the transaction took this status.
    pub occurred_at: DateTime<Utc>,
}

/// Why a notification was not acknowledged with 2xx.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// 410: the client wants no more.
    #[error("the client is gone: {reason}")]
    Gone { reason: String },
    /// Another answer: again later.
    #[error("the client {reason}")]
    Refused { reason: String, retry_after: Option<Duration> },
    /// No answer: again later.
    #[error("the client gave no answer: {reason}")]
    Unreachable { reason: String },
}

#[derive(Serialize)]
struct Body {
    id: Uuid,
    status: &'static str,
    version: i32,
    occurred_at: String,
}

impl CallbackClient {
    /// A client whose calls take at most `timeout`.
    pub fn new(timeout: Duration) -> Result<Self, SetupError> {
        Ok(Self { http: http_client(timeout)?, metrics: None })
    }

    /// The same, counting its calls in `metrics`.
    pub fn with_metrics(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// `PUT {url}`, signed with each of `secrets`; `webhook-id` is `{id}_{version}`.
    pub async fn notify(
        &self,
        url: &str,
        secrets: &[Secret],
        notification: &Notification,
    ) -> Result<(), NotifyError> {
        let span = call_span!("notify_client", "PUT", notification.id);
        let began = Instant::now();
        let told = self.put(url, secrets, notification).instrument(span.clone()).await;
        let result = match &told {
            Ok(()) => NotifyResult::Delivered,
            Err(NotifyError::Gone { .. }) => NotifyResult::Gone,
            Err(NotifyError::Refused { .. }) => NotifyResult::Refused,
            Err(NotifyError::Unreachable { .. }) => NotifyResult::Unreachable,
        };
        span.record("outcome", result.as_str());
        if let Some(metrics) = &self.metrics {
            metrics.notification(result, began.elapsed());
        }
        told
    }

    async fn put(
        &self,
        url: &str,
        secrets: &[Secret],
        notification: &Notification,
    ) -> Result<(), NotifyError> {
        let body = Body {
            id: notification.id,
            status: notification.status.as_str(),
            version: notification.version,
            occurred_at: notification.occurred_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        };
        // Serialised once: these bytes are signed, and these bytes are sent.
        let body = serde_json::to_vec(&body)
            .map_err(|error| NotifyError::Unreachable { reason: error.to_string() })?;
        let webhook_id = format!("{}_{}", notification.id, notification.version);
        let timestamp = Utc::now().timestamp();
        let signature = signature::sign_with_each(secrets, &webhook_id, timestamp, &body);
        let request = self
            .http
            .put(url)
            .header(CONTENT_TYPE, "application/json")
            .header(signature::ID_HEADER, webhook_id)
            .header(signature::TIMESTAMP_HEADER, timestamp)
            .header(signature::SIGNATURE_HEADER, signature)
            .body(body);
        let sent = traced(request).send().await;
        let response =
            sent.map_err(|error| NotifyError::Unreachable { reason: describe_failure(&error) })?;
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::GONE => Err(NotifyError::Gone { reason: describe_answer(response).await }),
            _ => {
                let retry_after = retry_after(&response);
                Err(NotifyError::Refused { reason: describe_answer(response).await, retry_after })
            }
        }
    }
}
