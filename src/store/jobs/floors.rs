//! The floors, `queue_floors`: where a scan of the due or of the leased jobs may start (view
//! `operator.floors`), so that counts and lists do not walk what earlier claims and leases left in
//! the indexes.
//!
//! What moves them is in the database (`quartet_advance_floors`): it takes some tens of
//! milliseconds at most, and one process at a time does it. Where nobody does, as without a worker
//! process, nothing is claimed either, and the floors stay where they are. A row that is missing,
//! as after a copy of some tables, stands for the beginning of time.

use sqlx::PgExecutor;

use crate::{
    domain::JobKind,
    store::{StoreError, wanted},
};

/// Moves the floors forward, unless that was done a few seconds ago; writes those that are missing.
pub async fn advance(executor: impl PgExecutor<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        WITH added AS (
            INSERT INTO queue_floors (name)
            SELECT wanted.name FROM unnest($1::text[] || '{leased}'::text[]) AS wanted (name)
            -- Without this the conflict would wait for the process that moves the floors.
            WHERE NOT EXISTS (SELECT FROM queue_floors WHERE queue_floors.name = wanted.name)
            ON CONFLICT DO NOTHING
        )
        SELECT FROM quartet_advance_floors()
        "#,
        &wanted::<JobKind>(None),
    )
    .execute(executor)
    .await?;
    Ok(())
}
