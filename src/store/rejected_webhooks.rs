//! Rejected webhooks: why the third party's webhooks are not taken, for operators.
//!
//! Anybody who can reach the API can send a webhook, so the rows do not grow with the number of
//! webhooks: one row a minute and reason, which counts, and holds the last one of them as an
//! example. All processes add to the same rows. A killed process takes its last second with it.

use sqlx::PgExecutor;

use super::{StoreError, jobs::job_list::JobCursor, postgres::columns::Time};
use crate::domain::string_enum;

string_enum! {
    /// Why a webhook is not taken.
    WebhookRejection {
        /// 401: `webhook-id`, `webhook-timestamp` or `webhook-signature` is missing.
        MissingHeader = "missing_header",
        /// 400: `webhook-id` or `webhook-timestamp` is there more than once.
        RepeatedHeader = "repeated_header",
        /// 401: the timestamp is not in Unix seconds.
        BadTimestamp = "bad_timestamp",
        /// 401: the timestamp is older than the tolerance allows.
        TooOld = "too_old",
        /// 401: the timestamp is further in the future than the tolerance allows.
        TooNew = "too_new",
        /// 401: there are more signatures than are compared.
        TooManySignatures = "too_many_signatures",
        /// 401: no signature matches.
        WrongSignature = "wrong_signature",
        /// 422: the signed `webhook-id` is too long.
        BadWebhookId = "bad_webhook_id",
        /// 415: the body is compressed.
        ContentCoding = "content_coding",
        /// 415: the signed body is not declared as JSON.
        ContentType = "content_type",
        /// 413: the body is too long.
        TooLarge = "too_large",
        /// 400 or 408: the body did not come to its end.
        UnreadableBody = "unreadable_body",
        /// 400: the signed body is no JSON object.
        BadJson = "bad_json",
        /// 422: a field of the signed body is wrong or missing. Of one of several events: 2xx.
        BadFields = "bad_fields",
        /// 405: the profile of the third party has another method.
        Method = "method",
        /// 401: the token or the password is wrong.
        WrongCredentials = "wrong_credentials",
        /// 401: the key that the webhook names is not known.
        UnknownKey = "unknown_key",
        /// 401: the signature does not cover the body, or a header that is used.
        BodyNotSigned = "body_not_signed",
        /// 401: a header of the signature cannot be read.
        BadSignatureHeader = "bad_signature_header",
        /// 2xx: an event is about something that has no id of ours.
        NotOurs = "not_ours",
    }
}

/// Webhooks that were rejected in one minute for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedWebhooks {
    /// When the minute began.
    pub minute: Time,
    /// A word of [`WebhookRejection`], or of another release.
    pub reason: String,
    /// Above zero.
    pub count: i64,
    /// When the last one arrived.
    pub last_at: Time,
    /// What it was answered; at most 1,000 characters.
    pub last_detail: String,
    /// Its sender; at most 100 characters.
    pub last_remote: String,
    /// What it called itself; at most 300 characters.
    pub last_webhook_id: Option<String>,
}

impl RejectedWebhooks {
    /// Its place in the list.
    pub fn cursor(&self) -> JobCursor {
        JobCursor { at: self.minute, id: self.reason.clone() }
    }
}

/// Adds to what is there of the same minutes and reasons, and removes what is older than a week.
pub async fn add(
    executor: impl PgExecutor<'_>,
    rejected: &[RejectedWebhooks],
) -> Result<(), StoreError> {
    let minutes: Vec<_> = rejected.iter().map(|row| row.minute.at()).collect();
    let reasons: Vec<_> = rejected.iter().map(|row| row.reason.clone()).collect();
    let counts: Vec<_> = rejected.iter().map(|row| row.count).collect();
    let times: Vec<_> = rejected.iter().map(|row| row.last_at.at()).collect();
    let details: Vec<_> = rejected.iter().map(|row| row.last_detail.clone()).collect();
    let remotes: Vec<_> = rejected.iter().map(|row| row.last_remote.clone()).collect();
    let ids: Vec<_> = rejected.iter().map(|row| row.last_webhook_id.clone()).collect();
    sqlx::query!(
        r#"
        WITH old AS (
            DELETE FROM rejected_webhooks WHERE minute < now() - interval '7 days'
        )
        INSERT INTO rejected_webhooks AS known
            (minute, reason, count, last_at, last_detail, last_remote, last_webhook_id)
        SELECT date_trunc('minute', minute, 'UTC'), reason, count, last_at, detail, remote, id
        FROM unnest(
            $1::timestamptz[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[],
            $6::text[], $7::text[]
        ) AS added (minute, reason, count, last_at, detail, remote, id)
        WHERE minute >= now() - interval '7 days'
        -- In one order, so that two processes wait for each other instead of deadlocking.
        ORDER BY minute, reason
        ON CONFLICT (minute, reason) DO UPDATE SET
            count = LEAST(known.count, 1000000000000000) + excluded.count,
            last_at = excluded.last_at,
            last_detail = excluded.last_detail,
            last_remote = excluded.last_remote,
            last_webhook_id = excluded.last_webhook_id
        "#,
        &minutes as _,
        &reasons as _,
        &counts as _,
        &times as _,
        &details as _,
        &remotes as _,
        &ids as _,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// The newest first; from `cursor` on, the minute and the reason of the last row before.
pub async fn list(
    executor: impl PgExecutor<'_>,
    cursor: Option<JobCursor>,
    limit: i64,
) -> Result<Vec<RejectedWebhooks>, StoreError> {
    let (at, reason) = match cursor {
        Some(JobCursor { at, id }) => (at, id),
        None => (Time::infinity(), String::new()),
    };
    let rows = sqlx::query!(
        r#"
        SELECT
            minute AS "minute: Time", reason, count, last_at AS "last_at: Time", last_detail,
            last_remote, last_webhook_id
        FROM rejected_webhooks
        WHERE (minute, reason) < ($1::timestamptz, $2)
        ORDER BY minute DESC, reason DESC
        LIMIT $3
        "#,
        at as _,
        reason,
        limit,
    )
    .fetch_all(executor)
    .await?;
    let rows = rows.into_iter().map(|row| RejectedWebhooks {
        minute: row.minute,
        reason: row.reason,
        count: row.count,
        last_at: row.last_at,
        last_detail: row.last_detail,
        last_remote: row.last_remote,
        last_webhook_id: row.last_webhook_id,
    });
    Ok(rows.collect())
}
