//! Which webhooks were rejected, and why.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{Object, OpenApi, param::Query, payload::Json};

use super::answers;
use crate::{
    http::{ApiState, auth::OperatorAuth, page},
    store::{
        job_list::JobCursor,
        rejected_webhooks::{self, RejectedWebhooks},
    },
};

/// The operation on rejected webhooks.
pub struct RejectedWebhooksApi;

/// Webhooks that were rejected in one minute for one reason.
#[derive(Debug, Object)]
#[oai(rename = "RejectedWebhooks")]
pub struct Rejected {
    /// When the minute began.
    pub minute: DateTime<Utc>,
    /// Why: `missing_header`, `repeated_header`, `bad_timestamp`, `too_old`, `too_new`,
    /// `too_many_signatures`, `wrong_signature`, `bad_webhook_id`, `content_coding`,
    /// `content_type`, `too_large`, `unreadable_body`, `bad_json` or `bad_fields`.
    pub reason: String,
    /// How many.
    pub count: i64,
    /// When the last one of them came.
    pub last_at: DateTime<Utc>,
    /// What the last one was answered.
    pub last_detail: String,
    /// The address that the last one came from: a proxy's, where one is in front.
    pub last_remote: String,
    /// The `webhook-id` of the last one, as its sender says.
    pub last_webhook_id: Option<String>,
}

impl From<RejectedWebhooks> for Rejected {
    fn from(row: RejectedWebhooks) -> Self {
        Self {
            minute: row.minute,
            reason: row.reason,
            count: row.count,
            last_at: row.last_at,
            last_detail: row.last_detail,
            last_remote: row.last_remote,
            last_webhook_id: row.last_webhook_id,
        }
    }
}

/// A page of rejected webhooks.
#[derive(Debug, Object)]
pub struct RejectedWebhooksList {
    /// By minute and reason, newest first.
    pub items: Vec<Rejected>,
    /// Pass it as `cursor` for the next page; null on the last one.
    pub next_cursor: Option<String>,
}

answers! { list
    /// Answers of `GET /v1/operator/rejected-webhooks`.
    ListRejectedWebhooksResponse {
        /// A page of rejected webhooks.
        Page(RejectedWebhooksList)
    }
}

/// The place of a row in the list.
pub fn cursor(row: &RejectedWebhooks) -> JobCursor {
    JobCursor { at: row.minute.into(), id: row.reason.clone() }
}

#[OpenApi(prefix_path = "/v1/operator", tag = "crate::http::Tag::Operator")]
impl RejectedWebhooksApi {
    /// List the webhooks that were rejected in the last seven days, by minute and reason.
    ///
    /// Anyone can send a webhook, so what is kept of those without a good signature is a count and
    /// the last one as an example. What is new appears within two seconds.
    #[oai(path = "/rejected-webhooks", method = "get", operation_id = "list_rejected_webhooks")]
    async fn list_rejected_webhooks(
        &self,
        _operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Entries of a page.
        #[oai(
            default = "page::default_limit",
            validator(minimum(value = "1"), maximum(value = "200"))
        )]
        limit: Query<u32>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> poem::Result<ListRejectedWebhooksResponse> {
        let after = cursor.0.as_deref().map(page::decode_job).transpose()?;
        let list = rejected_webhooks::list(&state.pool, after, i64::from(limit.0) + 1);
        let mut rows = state.within_limit(list).await?;
        let next_cursor = page::cut_jobs(&mut rows, limit.0, self::cursor);
        let items = rows.into_iter().map(Into::into).collect();
        Ok(ListRejectedWebhooksResponse::Page(Json(RejectedWebhooksList { items, next_cursor })))
    }
}
