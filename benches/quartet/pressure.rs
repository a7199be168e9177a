//! What ordinary life does to a database: sessions that hold back vacuum, and sessions that read.
//!
//! Each cell is put on for the whole time of the load, and taken off when it is dropped.

use std::path::PathBuf;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::{process::Command, task::JoinSet};

use crate::{
    bench::Run,
    cell::Cell,
    error::{BenchError, Doing},
    standby::AbandonedSlot,
};

const READERS: usize = 4;
const TABLES: [&str; 3] = ["transactions", "apalis.jobs", "transaction_events"];

/// A cell that is on.
pub struct Pressure {
    /// Sessions that do nothing but stay open.
    sessions: Vec<PgConnection>,
    /// What reads and dumps, until it is aborted.
    work: JoinSet<BenchError>,
    slot: Option<AbandonedSlot>,
}

impl Pressure {
    /// Puts `cell` on.
    pub async fn start(cell: Cell, run: &Run) -> Result<Self, BenchError> {
        let mut pressure = Self { sessions: Vec::new(), work: JoinSet::new(), slot: None };
        let url = run.database.url();
        match cell {
            Cell::Nothing => {}
            Cell::Snapshot => {
                let hold = "BEGIN ISOLATION LEVEL REPEATABLE READ; \
                    SELECT count(*) FROM transactions";
                pressure.hold(url, hold).await?;
            }
            Cell::IdleWriter => {
                let hold = "BEGIN; CREATE TABLE written_and_left (note text); \
                    INSERT INTO written_and_left VALUES ('not committed')";
                pressure.hold(url, hold).await?;
            }
            Cell::Dump => {
                let program = run.server_programs()?.join("pg_dump");
                let url = url.to_owned();
                pressure.work.spawn(async move {
                    loop {
                        if let Err(error) = dump(&program, &url).await {
                            return error;
                        }
                    }
                });
            }
            Cell::Readers => {
                for _ in 0..READERS {
                    let url = url.to_owned();
                    pressure.work.spawn(async move {
                        loop {
                            if let Err(error) = read_all(&url).await {
                                return error;
                            }
                        }
                    });
                }
            }
            Cell::AbandonedSlot => {
                pressure.slot = Some(AbandonedSlot::leave(run.postmaster, url).await?);
            }
        }
        Ok(pressure)
    }

    async fn hold(&mut self, url: &str, statements: &'static str) -> Result<(), BenchError> {
        let mut session = PgConnection::connect(url).await?;
        sqlx::raw_sql(statements).execute(&mut session).await?;
        self.sessions.push(session);
        Ok(())
    }

    /// Takes it off; an error where it ended before this.
    pub async fn stop(mut self) -> Result<(), BenchError> {
        if let Some(Ok(error)) = self.work.try_join_next() {
            return Err(error);
        }
        self.work.shutdown().await;
        for mut session in self.sessions {
            // Also shows that it was there until now.
            sqlx::raw_sql("ROLLBACK").execute(&mut session).await?;
            session.close().await?;
        }
        match self.slot {
            Some(slot) => slot.drop_slot().await,
            None => Ok(()),
        }
    }
}

async fn dump(program: &PathBuf, url: &str) -> Result<(), BenchError> {
    let output = Command::new(program)
        .args(["--file", "/dev/null", "--dbname", url])
        .kill_on_drop(true)
        .output()
        .await
        .doing("run pg_dump")?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(BenchError::Program { name: "pg_dump", status: output.status, output: text })
}

/// Reads each table once, in a session that takes one core at most.
async fn read_all(url: &str) -> Result<(), BenchError> {
    let mut session = PgConnection::connect(url).await?;
    sqlx::raw_sql("SET max_parallel_workers_per_gather = 0").execute(&mut session).await?;
    for table in TABLES {
        // The text of each row: whole rows are read, as a report does.
        let read = format!("SELECT sum(length(read::text)) FROM {table} AS read");
        sqlx::raw_sql(AssertSqlSafe(read)).execute(&mut session).await?;
    }
    Ok(session.close().await?)
}
