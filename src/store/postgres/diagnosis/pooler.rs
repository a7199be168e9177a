//! Whether a pooler stands between here and the server that hands its sessions from transaction to
//! transaction.
//!
//! Such a pooler gives the session that one client's transaction has just left to the next one:
//! while the first client is still connected, another is served by the same server process, or the
//! first one's next transaction by another. Without a pooler, or with one that keeps sessions, each
//! connection has a process of its own for as long as it lives.

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Row};

use super::super::{
    database::in_time_of,
    session::{CONNECT_LIMIT, Target},
};
use crate::store::StoreError;

/// Beside other clients one round may see nothing.
const ROUNDS: usize = 5;

/// Whether the sessions at `target` are shared, which must be a target that sends no settings at
/// the start: a pooler may refuse those.
pub async fn shares_sessions(target: &Target) -> Result<bool, StoreError> {
    let options = target.options(&[]);
    in_time_of(CONNECT_LIMIT, async {
        let mut first = options.connect().await?;
        let mut second = options.connect().await?;
        let is_shared = is_shared(&mut first, &mut second).await?;
        for conn in [first, second] {
            // The answer is known.
            let _ = conn.close().await;
        }
        Ok(is_shared)
    })
    .await
}

async fn is_shared(
    first: &mut PgConnection,
    second: &mut PgConnection,
) -> Result<bool, StoreError> {
    let before = process(first, "").await?;
    for _ in 0..ROUNDS {
        if process(second, "").await? == before || process(first, "").await? != before {
            return Ok(true);
        }
        // Occupied by the second connection, the process is not there for the first one.
        let second_process = process(second, "BEGIN; ").await?;
        let is_shared = second_process == before || process(first, "").await? != before;
        second.execute("ROLLBACK").await?;
        if is_shared {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The server process that does this, in the simple protocol: nothing is prepared, which a pooler
/// might lose.
async fn process(conn: &mut PgConnection, begin: &'static str) -> Result<i32, StoreError> {
    let statement = format!("{begin}SELECT pg_backend_pid()");
    let row = conn.fetch_one(AssertSqlSafe(statement)).await?;
    Ok(row.try_get(0)?)
}
