//! Which webhooks were rejected, and why.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{Object, OpenApi, param::Query, payload::Json};

use super::answers;
use crate::{
    http::{
        ApiState,
        middleware::auth::OperatorAuth,
        page::{self, Page, list_object},
    },
    store::rejected_webhooks::{self, RejectedWebhooks},
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
    /// `content_type`, `too_large`, `unreadable_body`, `bad_json`, `bad_fields`, `method`,
    /// `wrong_credentials`, `unknown_key`, `body_not_signed`, `bad_signature_header` or
    /// `not_ours`.
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
            minute: row.minute.at(),
            reason: row.reason,
            count: row.count,
            last_at: row.last_at.at(),
            last_detail: row.last_detail,
            last_remote: row.last_remote,
            last_webhook_id: row.last_webhook_id,
        }
    }
}

list_object! {
    /// A page of rejected webhooks.
    RejectedWebhooksList {
        /// By minute and reason, newest first.
        items: Rejected
    }
}

answers! { list
    /// Answers of `GET /v1/operator/rejected-webhooks`.
    ListRejectedWebhooksResponse {
        /// A page of rejected webhooks.
        Page(RejectedWebhooksList)
    }
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
        let after = page::after(cursor.0.as_deref())?;
        let list = rejected_webhooks::list(&state.pool, after, page::rows(limit.0));
        let page = Page::new(state.read(None, list).await?, limit.0, RejectedWebhooks::cursor);
        Ok(ListRejectedWebhooksResponse::Page(Json(page.into())))
    }
}

#[cfg(test)]
mod tests {
    use poem_openapi::{registry::Registry, types::Type};

    use super::*;
    use crate::store::rejected_webhooks::WebhookRejection;

    #[test]
    fn each_reason_is_documented() {
        let mut registry = Registry::new();
        Rejected::register(&mut registry);
        let properties = &registry.schemas["RejectedWebhooks"].properties;
        let (_, reason) = properties.iter().find(|(name, _)| *name == "reason").unwrap();
        let description = reason.unwrap_inline().description.unwrap();
        let documented: Vec<&str> = description.split('`').skip(1).step_by(2).collect();
        let words: Vec<&str> = WebhookRejection::ALL.iter().map(|word| word.as_str()).collect();
        assert_eq!(documented, words);
    }
}
