//! A pooler between here and the database: whether it keeps sessions, what leads around it, and
//! whether notifications arrive.

use std::time::Duration;

use humantime::format_duration;

use super::{Finding, failed};
use crate::{
    config::Config,
    store::{
        self, StoreError, Target,
        postgres::diagnosis,
        wakeups::{
            Wakeups,
            announce::{Announcer, Heard},
        },
    },
};

pub(super) const POOLER: &str = "pooler";
pub(super) const LISTENING: &str = "notifications";

const ACQUIRE: Duration = Duration::from_secs(5);
/// How long an announcement of one's own may take to be heard.
const HEAR_LIMIT: Duration = Duration::from_secs(2);

/// Whether what is between here and the server is what the configuration says.
pub(super) async fn check_pooler(config: &Config, plain: &Target) -> Vec<Finding> {
    let is_configured = config.database.pooler.shares_sessions();
    match (diagnosis::shares_sessions(plain).await, is_configured) {
        (Err(error), _) => vec![failed(POOLER, &error)],
        (Ok(true), false) => vec![Finding::error(
            POOLER,
            format!(
                "a pooler at {} hands its sessions from transaction to transaction",
                plain.place()
            ),
            "set QUARTET_DATABASE__POOLER=transaction, and QUARTET_DATABASE__DIRECT_URL to Postgres",
        )],
        (Ok(false), false) => vec![Finding::ok(POOLER, "sessions are kept, as configured")],
        (Ok(false), true) => vec![Finding::ok(
            POOLER,
            "sessions are kept: QUARTET_DATABASE__POOLER=transaction would not be needed",
        )],
        (Ok(true), true) => match check_direct(config, plain).await {
            Some(finding) => vec![finding],
            None => vec![Finding::ok(POOLER, "sessions are shared, as configured")],
        },
    }
}

/// Whether the way around the pooler is one, and leads to the same database.
async fn check_direct(config: &Config, pooled: &Target) -> Option<Finding> {
    const CHECK: &str = "direct_url";
    let Some(url) = &config.database.direct_url else {
        return Some(Finding::warning(
            POOLER,
            "sessions are shared, as configured; there is no way around the pooler",
            "set QUARTET_DATABASE__DIRECT_URL to Postgres itself: `quartet migrate` needs it, and \
             workers hear of due jobs at once",
        ));
    };
    let remedy = "set QUARTET_DATABASE__DIRECT_URL to Postgres itself";
    let direct = match Target::new(url.expose(), false) {
        Ok(direct) => direct.named(diagnosis::APPLICATION),
        Err(error) => return Some(Finding::error(CHECK, diagnosis::cause(&error), remedy)),
    };
    if let Err(failure) = diagnosis::connect(&direct).await {
        return Some(Finding::error(CHECK, failure.found, failure.remedy));
    }
    match (identity(pooled).await, identity(&direct).await) {
        (Ok(pooled), Ok(direct)) if pooled != direct => {
            Some(Finding::error(CHECK, "it leads to another database than DATABASE_URL", remedy))
        }
        (Ok(_), Ok(_)) => None,
        (Err(error), _) | (_, Err(error)) => Some(failed(CHECK, &error)),
    }
}

async fn identity(target: &Target) -> Result<(i64, i64), StoreError> {
    let pool = store::connect(target, 1, ACQUIRE, &std::sync::Arc::default());
    let server = async {
        let mut tx = store::begin_snapshot(&pool).await?;
        diagnosis::server(&mut tx).await
    };
    let server = server.await;
    pool.close().await;
    server.map(|server| (server.started_at.at().timestamp_micros(), server.database_oid))
}

/// Whether what one process announces is heard by another.
pub(super) async fn check_listening(config: &Config, shares_sessions: bool) -> Vec<Finding> {
    let database = &config.database;
    let interval = format_duration(config.worker.poll_interval);
    let url = match (&database.direct_url, &database.url) {
        (Some(url), _) => url,
        (None, Some(url)) if !shares_sessions => url,
        _ => {
            let found =
                format!("not heard through the pooler: workers look for due jobs every {interval}");
            return vec![Finding::ok(LISTENING, found)];
        }
    };
    let heard = async {
        let target = Target::new(url.expose(), false)?.named(diagnosis::APPLICATION);
        let pool = store::connect(&target, 1, ACQUIRE, &std::sync::Arc::default());
        let announcer = Announcer::new(Wakeups::new([]));
        let mut listener = announcer.listen(&pool).await?;
        listener.probe().await?;
        let heard = async {
            while listener.hear().await? != Heard::Own {}
            Ok::<_, StoreError>(true)
        };
        tokio::time::timeout(HEAR_LIMIT, heard).await.unwrap_or(Ok(false))
    };
    let finding = match heard.await {
        Ok(true) => Finding::ok(LISTENING, "NOTIFY reaches those that LISTEN"),
        Ok(false) => Finding::warning(
            LISTENING,
            format!("NOTIFY is not heard: workers look for due jobs every {interval}"),
            "set QUARTET_DATABASE__DIRECT_URL to Postgres itself, where a pooler is in between",
        ),
        Err(error) => failed(LISTENING, &error),
    };
    vec![finding]
}
