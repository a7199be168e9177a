//! Transactions with a create that got no answer, `ambiguous_creates`: until when, and how often,
//! they are looked up after they have ended here.
//!
//! A third party may store such a create minutes later, besides the one that it answered. So a
//! final status is compared with what it shows for as long as that is possible, and once more after
//! it.

use std::time::Duration;

use sqlx::PgExecutor;
use uuid::Uuid;

use crate::store::StoreError;

/// How long transactions are looked up again.
#[derive(Debug, Clone, Copy)]
pub struct LateStoring {
    /// A create without an answer may be stored for as long as this.
    pub possible_for: Duration,
    /// Where no lookup after that time has said how it ended, it is looked up for as long as this.
    pub give_up_after: Duration,
}

/// Notes that a transaction was looked up; `is_conclusive` when the answer will stay as it is,
/// unless something is stored late. Nothing where it has no create without an answer.
pub(super) async fn looked_up(
    executor: impl PgExecutor<'_>,
    transaction_id: Uuid,
    is_conclusive: bool,
    late: LateStoring,
    recheck: Duration,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        WITH known AS (
            SELECT ambiguous_at + make_interval(secs => $3) AS possible_until,
                statement_timestamp() - ambiguous_at AS age
            FROM ambiguous_creates
            WHERE transaction_id = $1
        ), judged AS (
            SELECT *, age > make_interval(secs => $4)
                OR $2 AND possible_until <= statement_timestamp() AS is_over
            FROM known
        ), removed AS (
            DELETE FROM ambiguous_creates
            USING judged
            WHERE transaction_id = $1 AND is_over
        )
        UPDATE ambiguous_creates
        SET look_at = CASE
            -- While it may be stored: after the interval, and at the end.
            WHEN possible_until > statement_timestamp()
            THEN LEAST(statement_timestamp() + make_interval(secs => $5), possible_until)
            -- Then with gaps that grow with its age.
            ELSE statement_timestamp()
                + LEAST(GREATEST(make_interval(secs => $5), age / 2), interval '24 hours')
        END
        FROM judged
        WHERE transaction_id = $1 AND NOT is_over
        "#,
        transaction_id,
        is_conclusive,
        late.possible_for.as_secs_f64(),
        late.give_up_after.as_secs_f64(),
        recheck.as_secs_f64(),
    )
    .execute(executor)
    .await?;
    Ok(())
}
