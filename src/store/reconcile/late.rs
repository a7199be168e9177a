//! Transactions that are looked up again after they have ended here, `ambiguous_creates`: until
//! when, and how often.
//!
//! A third party may store a create that got no answer minutes later, besides the one that it
//! answered. So a final status is compared with what it shows for as long as that is possible, and
//! once more after it.
//!
//! The same is done with one that a webhook contradicts without proving anything, as where a payment
//! is taken back: what the third party shows may change a little later as well.

use std::time::Duration;

use sqlx::PgExecutor;
use uuid::Uuid;

use crate::{domain::Status, store::StoreError};

/// A hint without a word is about what a transaction has just ended with, until this much later.
const SETTLED_JUST_NOW: Duration = Duration::from_secs(600);

/// How long transactions are looked up again.
#[derive(Debug, Clone, Copy)]
pub struct LateStoring {
    /// A create without an answer may be stored for as long as this.
    pub possible_for: Duration,
    /// Where no lookup after that time has said how it ended, it is looked up for as long as this.
    pub give_up_after: Duration,
}

/// Schedules a lookup, in the next sweep, for each transaction of this third party that has ended here
/// and that a hint contradicts; each with the status that it says, or `None` where it has no word that
/// is known. One without a word contradicts nothing soon after the end. But any hint about a
/// transaction that failed here, or that an operator declined, says that it exists there.
pub async fn look_again(
    executor: impl PgExecutor<'_>,
    third_party: &str,
    hints: &[(Uuid, Option<Status>)],
) -> Result<(), StoreError> {
    if hints.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = hints.iter().map(|(id, _)| *id).collect();
    let said: Vec<Option<&str>> =
        hints.iter().map(|(_, status)| status.map(Status::as_str)).collect();
    sqlx::query!(
        r#"
        INSERT INTO ambiguous_creates (transaction_id)
        SELECT id
        FROM (
            SELECT DISTINCT transactions.id
            FROM unnest($1::uuid[], $2::text[]) AS hint (id, status)
            JOIN transactions ON transactions.id = hint.id AND transactions.id = ANY ($1)
            WHERE third_party = $3 AND CASE
                WHEN transactions.status = 'pending' THEN false
                WHEN hint.status = transactions.status THEN false
                WHEN transactions.status = 'failed'
                    OR transactions.status = 'declined' AND settled_by = 'operator' THEN true
                WHEN hint.status IS NULL THEN settled_at < now() - make_interval(secs => $4)
                ELSE hint.status <> 'pending'
            END
        ) AS contradicted
        ORDER BY id
        ON CONFLICT (transaction_id) DO UPDATE
        -- A lookup that is under way may have been answered before: it does not end this.
        SET ambiguous_at = excluded.ambiguous_at,
            look_at = LEAST(ambiguous_creates.look_at, excluded.look_at)
        -- However many hints there are, they are one within some seconds.
        WHERE ambiguous_creates.ambiguous_at < excluded.ambiguous_at - interval '2 seconds'
        "#,
        &ids,
        &said as _,
        third_party,
        SETTLED_JUST_NOW.as_secs_f64(),
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Notes that a transaction was looked up; `is_conclusive` when the answer will stay as it is,
/// unless something is stored late. Nothing where it has no row.
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
