//! Sessions of the console that were ended before their time, `console_sign_outs`.
//!
//! A session is named by a SHA-256, from which no cookie can be made.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::StoreError;

/// Ends a session for every process; one that was ended already stays so. Removes those that have
/// expired meanwhile.
pub async fn sign_out(
    executor: impl PgExecutor<'_>,
    session: &[u8; 32],
    expires_at: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        WITH expired AS (
            -- Not this one, which the insert would then find changed by its own statement.
            DELETE FROM console_sign_outs WHERE expires_at < now() AND session <> $1
        )
        INSERT INTO console_sign_outs (session, expires_at) VALUES ($1, $2)
        ON CONFLICT (session) DO NOTHING
        "#,
        session.as_slice(),
        expires_at
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Whether a session was ended.
pub async fn is_signed_out(
    executor: impl PgExecutor<'_>,
    session: &[u8; 32],
) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM console_sign_outs WHERE session = $1) AS "ended!""#,
        session.as_slice()
    )
    .fetch_one(executor)
    .await?)
}
