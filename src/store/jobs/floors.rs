//! The floors, `queue_floors`: where a scan of the due or of the leased jobs may start (view
//! `operator.floors`), so that counts and lists do not walk what earlier claims and leases left in
//! the indexes.
//!
//! What moves them is in the database (`quartet_advance_floors`): it takes some tens of
//! milliseconds at most, and one process at a time does it. Where nobody does, as without a worker
//! process, nothing is claimed either, and the floors stay where they are.

use sqlx::PgExecutor;

use crate::store::StoreError;

/// Moves the floors forward, unless that was done a few seconds ago.
pub async fn advance(executor: impl PgExecutor<'_>) -> Result<(), StoreError> {
    sqlx::query!("SELECT FROM quartet_advance_floors()").execute(executor).await?;
    Ok(())
}
