//! What a session that migrates waits for, seen from a second one: said at once, and bounded.
//!
//! A migration may wait for a lock, and `CREATE INDEX CONCURRENTLY` for every older snapshot, a
//! dump's as well as that of a forgotten session. Nothing of that shows in the session
//! that waits.

use std::{
    fmt,
    pin::pin,
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};

use super::StoreError;
use crate::{domain::with_causes, store::postgres::database::in_time};

/// How long a statement works before its session is looked at, and how often after that.
const FIRST_LOOK: Duration = Duration::from_millis(300);
const LOOKS: Duration = Duration::from_secs(1);
/// How often a wait for the same sessions, or work that goes on, is reported again.
const REPORTS: Duration = Duration::from_secs(30);
/// How long a cancelled statement may take to end.
const CANCEL_LIMIT: Duration = Duration::from_secs(10);

/// A session that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// Process id in the server; 0 for a prepared transaction.
    pub pid: i32,
    description: String,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

/// The wait took longer than it may.
#[derive(Debug)]
pub(super) struct GaveUp(pub(super) Vec<Blocker>);

/// Watches one session, and counts how long it waited in all.
pub(super) struct Waits<'a> {
    options: PgConnectOptions,
    /// Opened when a statement takes long.
    second: Option<PgConnection>,
    /// The session that is watched.
    pid: i32,
    limit: Duration,
    waited: Duration,
    report: &'a (dyn Fn(&str) + Send + Sync),
    /// Whom it was last seen waiting for.
    blockers: Vec<Blocker>,
    /// What was last reported, and when.
    reported: Option<(Instant, String, Vec<i32>)>,
}

impl<'a> Waits<'a> {
    pub(super) fn new(
        options: PgConnectOptions,
        pid: i32,
        limit: Duration,
        report: &'a (dyn Fn(&str) + Send + Sync),
    ) -> Self {
        Self {
            options,
            second: None,
            pid,
            limit,
            waited: Duration::ZERO,
            report,
            blockers: Vec::new(),
            reported: None,
        }
    }

    /// Reports that `doing` waits for `blockers`, where that is news.
    pub(super) fn saw(&mut self, doing: &str, blockers: Vec<Blocker>) {
        let pids: Vec<_> = blockers.iter().map(|blocker| blocker.pid).collect();
        let is_known = self.reported.as_ref().is_some_and(|(at, what, known)| {
            at.elapsed() < REPORTS && what == doing && *known == pids
        });
        if !is_known {
            let left = seconds(self.limit.saturating_sub(self.waited));
            for blocker in &blockers {
                (self.report)(&format!("{doing} waits for {blocker}; gives up after {left}"));
            }
            self.reported = Some((Instant::now(), doing.to_owned(), pids));
        }
        self.blockers = blockers;
    }

    /// Counts `time` of waiting for what was last seen; fails where it is too long.
    pub(super) fn count(&mut self, time: Duration) -> Result<(), GaveUp> {
        self.waited += time;
        if self.waited < self.limit { Ok(()) } else { Err(GaveUp(self.blockers.clone())) }
    }

    /// Does `work` in the session that is watched, and says whom it waits for meanwhile. A
    /// statement that waits for too long is cancelled.
    pub(super) async fn watch<T, E>(
        &mut self,
        doing: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, GaveUp> {
        let began = Instant::now();
        let mut work = pin!(work);
        let (mut until_look, mut next_report) = (FIRST_LOOK, REPORTS);
        loop {
            if let Ok(done) = tokio::time::timeout(until_look, &mut work).await {
                return Ok(done);
            }
            let (blockers, unseen) = match self.blockers().await {
                Ok(blockers) => (blockers, None),
                Err(error) => (Vec::new(), Some(error)),
            };
            if blockers.is_empty() {
                if began.elapsed() >= next_report {
                    let how = match unseen {
                        None => self.progress().await,
                        Some(error) => format!(
                            "(whom it may wait for cannot be seen, nor can it be cancelled: {})",
                            with_causes(&error)
                        ),
                    };
                    (self.report)(&format!("{doing} goes on {how}"));
                    next_report += REPORTS;
                }
            } else {
                self.saw(doing, blockers);
                if let Err(gave_up) = self.count(until_look) {
                    self.cancel().await;
                    return match tokio::time::timeout(CANCEL_LIMIT, &mut work).await {
                        // It was just done.
                        Ok(Ok(done)) => Ok(Ok(done)),
                        Ok(Err(_)) | Err(_) => Err(gave_up),
                    };
                }
            }
            until_look = LOOKS;
        }
    }

    /// The second session.
    async fn second(&mut self) -> Result<&mut PgConnection, StoreError> {
        let conn = match self.second.take() {
            Some(conn) => conn,
            None => in_time(self.options.connect()).await?,
        };
        Ok(self.second.insert(conn))
    }

    /// The sessions that the watched one waits for.
    async fn blockers(&mut self) -> Result<Vec<Blocker>, StoreError> {
        let pid = self.pid;
        let conn = self.second().await?;
        let blockers = in_time(blockers(conn, pid)).await;
        if blockers.is_err() {
            self.second = None;
        }
        blockers
    }

    /// What the watched session does, as far as the server says.
    async fn progress(&mut self) -> String {
        let pid = self.pid;
        let progress = async {
            let conn = self.second().await?;
            in_time(progress(conn, pid)).await
        };
        progress.await.ok().flatten().unwrap_or_default()
    }

    /// Cancels what the watched session does.
    pub(super) async fn cancel(&mut self) {
        let pid = self.pid;
        let cancelled = async {
            let conn = self.second().await?;
            let cancel = sqlx::query!(r#"SELECT pg_cancel_backend($1) AS "sent!""#, pid);
            Ok::<_, StoreError>(in_time(cancel.fetch_one(conn)).await?)
        };
        if let Err(error) = cancelled.await {
            tracing::debug!(error = &error as &dyn std::error::Error, "cannot cancel");
        }
    }
}

/// Whom the session `waiting` waits for.
async fn blockers(conn: &mut PgConnection, waiting: i32) -> Result<Vec<Blocker>, StoreError> {
    let pids = sqlx::query_scalar!(r#"SELECT pg_blocking_pids($1) AS "pids!""#, waiting);
    let pids = pids.fetch_one(&mut *conn).await?;
    describe(conn, &pids).await
}

/// Who holds the advisory lock `key`.
pub(super) async fn holders(conn: &mut PgConnection, key: i64) -> Result<Vec<Blocker>, StoreError> {
    let pids = sqlx::query_scalar!(
        r#"
        SELECT pid AS "pid!" FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND objsubid = 1
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND classid = ($1::bigint >> 32)::oid AND objid = ($1::bigint & 4294967295)::oid
        "#,
        key,
    );
    let pids = pids.fetch_all(&mut *conn).await?;
    describe(conn, &pids).await
}

async fn describe(conn: &mut PgConnection, pids: &[i32]) -> Result<Vec<Blocker>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT
            blocker.pid AS "pid!",
            usename::text AS user, application_name AS application, backend_type, state,
            extract(epoch FROM clock_timestamp() - xact_start)::float8 AS transaction_seconds,
            extract(epoch FROM clock_timestamp() - query_start)::float8 AS query_seconds,
            left(regexp_replace(query, '\s+', ' ', 'g'), 80) AS query
        FROM (SELECT DISTINCT pid FROM unnest($1::int[]) AS pid) AS blocker
        LEFT JOIN pg_stat_activity ON pg_stat_activity.pid = blocker.pid
        ORDER BY 1
        "#,
        pids,
    )
    .fetch_all(conn)
    .await?;
    let blockers = rows.into_iter().map(|row| {
        if row.pid == 0 {
            let description = "a prepared transaction (see pg_prepared_xacts)".to_owned();
            return Blocker { pid: 0, description };
        }
        let mut about = vec![format!("user {}", row.user.as_deref().unwrap_or("unknown"))];
        match row.application.as_deref() {
            None | Some("") => about.extend(row.backend_type),
            Some(name) => about.push(format!("application {name}")),
        }
        about.extend(row.state);
        let age = |seconds: f64| self::seconds(Duration::from_secs_f64(seconds.max(0.0)));
        about.extend(row.transaction_seconds.map(|s| format!("in a transaction for {}", age(s))));
        about.extend(row.query_seconds.map(|s| format!("its statement began {} ago", age(s))));
        let query = row.query.filter(|query| !query.is_empty());
        let query = query.map(|query| format!(": {query}")).unwrap_or_default();
        let description = format!("the session {} ({}){query}", row.pid, about.join(", "));
        Blocker { pid: row.pid, description }
    });
    Ok(blockers.collect())
}

async fn progress(conn: &mut PgConnection, pid: i32) -> Result<Option<String>, StoreError> {
    let row = sqlx::query!(
        r#"
        SELECT
            wait_event, phase,
            100 * blocks_done / NULLIF(blocks_total, 0) AS percent
        FROM pg_stat_activity
        LEFT JOIN pg_stat_progress_create_index ON pg_stat_progress_create_index.pid = $1
        WHERE pg_stat_activity.pid = $1
        "#,
        pid,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| {
        let percent = row.percent.map(|percent| format!("{percent} %"));
        let wait = row.wait_event.map(|event| format!("waits for {event}"));
        let parts: Vec<_> = row.phase.into_iter().chain(percent).chain(wait).collect();
        if parts.is_empty() { String::new() } else { format!("({})", parts.join(", ")) }
    }))
}

/// Whole seconds, as people say them.
fn seconds(duration: Duration) -> String {
    let whole = Duration::from_secs(duration.as_secs());
    humantime::format_duration(whole).to_string()
}
