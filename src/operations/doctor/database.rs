//! The database: whether it can be reached and fits Quartet's needs, and what holds vacuum back.

use std::time::Duration;

use humantime::format_duration;

use super::{
    Finding, Level, Request, bounded, failed,
    pooler::{LISTENING, POOLER, check_listening, check_pooler},
    profiles::{self, PROFILES},
};
use crate::{
    config::Config,
    domain::ThirdPartyName,
    operations::secrets,
    store::{
        self, Database, SqlTransaction, StoreError, Target,
        clients::{self, Client},
        postgres::{
            diagnosis::{self, OpenTransaction, Slot},
            requirements::{self, Purpose},
        },
        reconcile,
    },
};

/// Connections of these checks.
const CONNECTIONS: u32 = 3;
const ACQUIRE: Duration = Duration::from_secs(5);
/// A difference of clocks that nothing notices.
const SKEW_NOTICED: Duration = Duration::from_secs(5);
/// Dead rows beside which a table is slow, whatever its size.
const MANY_DEAD: i64 = 1_000_000;
/// What a slot may keep before it is worth a word: 1 GiB, a million transactions.
const SLOT_BYTES: i64 = 1 << 30;
const SLOT_TRANSACTIONS: i64 = 1_000_000;

const DATABASE: &str = "database";

/// The findings, and the registered clients where they could be read.
pub(super) async fn check(
    config: &Config,
    request: &Request,
) -> (Vec<Finding>, Option<Vec<Client>>) {
    let Some(url) = &config.database.url else { return (Vec::new(), None) };
    let mut shares_sessions = config.database.pooler.shares_sessions();
    let target = match Target::new(url.expose(), shares_sessions) {
        Ok(target) => target.named(diagnosis::APPLICATION),
        Err(error) => {
            let remedy = "correct it: postgres://user:password@host:5432/database";
            let found = format!("DATABASE_URL cannot be used: {}", diagnosis::cause(&error));
            return (vec![Finding::error(DATABASE, found, remedy)], None);
        }
    };
    let mut findings = Vec::new();
    // It sends no settings at the start, which a pooler may refuse.
    let Ok(plain) = Target::new(url.expose(), true) else { return (findings, None) };
    let plain = plain.named(diagnosis::APPLICATION);
    match diagnosis::connect(&target).await {
        Err(failure) if failure.is_pooler => {
            findings.push(Finding::error(POOLER, failure.found, failure.remedy));
        }
        Err(failure) => {
            return (vec![Finding::error(DATABASE, failure.found, failure.remedy)], None);
        }
        Ok(()) => findings.extend(bounded(POOLER, check_pooler(config, &plain)).await),
    }
    // What an unknown pooler hides is looked at all the same, in a way that goes through it.
    shares_sessions |= findings.iter().any(|finding| finding.level == Level::Error);
    let pool = store::connect(
        if shares_sessions { &plain } else { &target },
        CONNECTIONS,
        ACQUIRE,
        &std::sync::Arc::default(),
    );

    let (
        server,
        required,
        schema,
        listening,
        held,
        tables,
        connections,
        clock,
        secrets,
        pending,
        profiles,
        registered,
    ) = tokio::join!(
        on(&pool, DATABASE, async |tx| server(tx).await),
        bounded(REQUIREMENTS, check_requirements(&pool)),
        bounded(MIGRATIONS, check_schema(&pool)),
        bounded(LISTENING, check_listening(config, shares_sessions)),
        on(&pool, HELD, async |tx| check_held(tx, request.open_limit).await),
        on(&pool, VACUUM, async |tx| check_vacuuming(tx).await),
        on(&pool, PLACES, async |tx| check_connections(tx, config, shares_sessions).await),
        on(&pool, CLOCK, async |tx| check_clock(tx, config).await),
        bounded(SECRETS, check_secrets(&pool, config)),
        bounded(PENDING, check_pending(&pool, config)),
        bounded(PROFILES, profiles::check(&pool, config)),
        clients::list(&pool),
    );
    let checked = [
        server,
        required,
        schema,
        listening,
        held,
        tables,
        connections,
        clock,
        secrets,
        pending,
        profiles,
    ];
    findings.extend(checked.into_iter().flatten());
    pool.close().await;
    (findings, registered.ok())
}

/// Runs one check in a transaction of its own, which works through every pooler.
async fn on(
    pool: &Database,
    check: &'static str,
    findings: impl AsyncFnOnce(&mut SqlTransaction) -> Result<Vec<Finding>, StoreError>,
) -> Vec<Finding> {
    bounded(check, async {
        let result = async {
            let mut tx = store::begin_snapshot(pool).await?;
            findings(&mut tx).await
        };
        result.await.unwrap_or_else(|error| vec![failed(check, &error)])
    })
    .await
}

async fn server(tx: &mut SqlTransaction) -> Result<Vec<Finding>, StoreError> {
    let server = diagnosis::server(tx).await?;
    let found =
        format!("PostgreSQL {}, database {} as {}", server.version, server.database, server.user);
    if server.is_standby {
        let found = format!("{found}: a standby, which takes no writes");
        return Ok(vec![Finding::error(DATABASE, found, "let DATABASE_URL lead to the primary")]);
    }
    let mut findings = vec![Finding::ok(DATABASE, found)];
    if diagnosis::anybody_may_create(tx).await? {
        let found = "every role may create tables and functions in the schema public";
        let remedy = "REVOKE CREATE ON SCHEMA public FROM PUBLIC";
        findings.push(Finding::warning("public_schema", found, remedy));
    }
    Ok(findings)
}

const REQUIREMENTS: &str = "requirements";

/// What `serve` itself looks at before it starts.
async fn check_requirements(pool: &Database) -> Vec<Finding> {
    match requirements::check_database(pool, Purpose::Serve).await {
        Ok(findings) => findings.into_iter().map(Finding::from).collect(),
        Err(error) => vec![failed(REQUIREMENTS, &error)],
    }
}

const MIGRATIONS: &str = "migrations";

async fn check_schema(pool: &Database) -> Vec<Finding> {
    let finding = match store::is_migrated(pool).await {
        Ok(true) => Finding::ok(MIGRATIONS, "every migration of this release has been applied"),
        Ok(false) => {
            Finding::error(MIGRATIONS, "older than this release, or not there", "quartet migrate")
        }
        Err(error) => failed(MIGRATIONS, &error),
    };
    vec![finding]
}

const PENDING: &str = "several_third_parties";

/// What is pending at third parties that have a name: the releases before know the one without a
/// name alone, and would create it there.
async fn check_pending(pool: &Database, config: &Config) -> Vec<Finding> {
    let unnamed = [ThirdPartyName::default()];
    let pending = reconcile::open_elsewhere(pool, &unnamed, Duration::ZERO, None).await;
    // Where it cannot be read, the schema or the database says why.
    let pending = pending.unwrap_or_default();
    let is_known =
        |name: &ThirdPartyName| config.all_third_parties().any(|(known, _)| known == *name);
    let finding = |(name, count): (&ThirdPartyName, &i64)| match is_known(name) {
        true => Finding::ok(
            PENDING,
            format!(
                "{count} transactions are pending at {name}: until they have ended, do not go back \
                 to a release that does not know `transactions.third_party`"
            ),
        ),
        false => Finding::warning(
            PENDING,
            format!("{count} transactions are pending at {name}, which is not configured here"),
            format!("set {}, unless another process has it", name.setting()),
        ),
    };
    pending.iter().map(finding).collect()
}

const HELD: &str = "held_snapshots";

/// What keeps dead rows from being removed: the queues get slower with each of them.
async fn check_held(tx: &mut SqlTransaction, limit: Duration) -> Result<Vec<Finding>, StoreError> {
    let open = diagnosis::open_transactions(tx, limit).await?;
    let mut findings: Vec<Finding> = open.iter().map(of_transaction).collect();
    for prepared in diagnosis::prepared_transactions(tx, limit).await? {
        let gid = quoted(&prepared.gid);
        findings.push(Finding::warning(
            HELD,
            format!(
                "transaction {gid} of {} was prepared {} ago and not ended: it holds vacuum back",
                prepared.owner,
                seconds(prepared.age_seconds)
            ),
            format!("COMMIT PREPARED {gid} or ROLLBACK PREPARED {gid}"),
        ));
    }
    let slots = diagnosis::slots(tx).await?;
    findings.extend(slots.iter().filter_map(of_slot));
    let hidden = diagnosis::hidden_sessions(tx).await?;
    if !findings.is_empty() {
        return Ok(findings);
    }
    let limit = format_duration(limit);
    let found = format!("no transaction is open for longer than {limit}");
    Ok(vec![match hidden {
        0 => Finding::ok(HELD, found),
        // Nothing is wrong; but more would be seen.
        hidden => Finding {
            remedy: Some("GRANT pg_read_all_stats TO the role, to see them all".to_owned()),
            ..Finding::ok(HELD, format!("{found}, of those it may see: {hidden} are hidden"))
        },
    }])
}

fn of_transaction(open: &OpenTransaction) -> Finding {
    let OpenTransaction { pid, user, application, address, state, statement, .. } = open;
    let from = if address.is_empty() { "this host" } else { address };
    let holds = match open.holds_vacuum_back {
        true => "holds vacuum back",
        false => "holds its locks",
    };
    let for_long = seconds(open.open_for_seconds);
    Finding::warning(
        HELD,
        format!(
            "pid {pid} ({user}, {application:?}, {from}) {holds} since {for_long}, {state}: \
             {statement}"
        ),
        format!("SELECT pg_terminate_backend({pid})"),
    )
}

fn of_slot(slot: &Slot) -> Option<Finding> {
    let bytes = slot.kept_bytes.unwrap_or_default();
    let transactions = slot.kept_transactions.unwrap_or_default();
    if slot.is_active && bytes < SLOT_BYTES && transactions < SLOT_TRANSACTIONS {
        return None;
    }
    let name = quoted(&slot.name);
    let state = if slot.is_active { "is behind" } else { "is read by nobody" };
    let mut found = format!("replication slot {name} {state}: it keeps {} MiB of WAL", bytes >> 20);
    if slot.kept_transactions.is_some() {
        found.push_str(&format!(" and the dead rows of {transactions} transactions"));
    }
    let remedy = match slot.is_active {
        true => "look at what reads it".to_owned(),
        false => format!("SELECT pg_drop_replication_slot({name}), if its reader is gone for good"),
    };
    Some(Finding::warning(HELD, found, remedy))
}

/// As an SQL literal.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn seconds(seconds: f64) -> String {
    format_duration(Duration::from_secs(seconds.max(0.0) as u64)).to_string()
}

const VACUUM: &str = "autovacuum";

async fn check_vacuuming(tx: &mut SqlTransaction) -> Result<Vec<Finding>, StoreError> {
    let (is_on, tables) = diagnosis::vacuuming(tx).await?;
    if !is_on {
        let found =
            "autovacuum or track_counts is off: dead rows stay, and every claim gets slower";
        let remedy = "ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET track_counts = on; \
                      SELECT pg_reload_conf()";
        return Ok(vec![Finding::error(VACUUM, found, remedy)]);
    }
    let mut findings = Vec::new();
    for table in &tables {
        let name = &table.name;
        if table.is_left_out {
            let remedy = format!("ALTER TABLE {name} RESET (autovacuum_enabled)");
            findings.push(Finding::error(VACUUM, format!("{name} is left out of it"), remedy));
        }
        if table.dead_rows > MANY_DEAD.max(table.live_rows / 2) {
            let found = format!(
                "{name} has {} dead rows beside {} live ones",
                table.dead_rows, table.live_rows
            );
            let remedy = format!("end what holds vacuum back, then: VACUUM {name}");
            findings.push(Finding::warning(VACUUM, found, remedy));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(VACUUM, "on, also for the tables of Quartet"));
    }
    Ok(findings)
}

const PLACES: &str = "connections";

/// Whether one more process finds the connections that it may open.
async fn check_connections(
    tx: &mut SqlTransaction,
    config: &Config,
    shares_sessions: bool,
) -> Result<Vec<Finding>, StoreError> {
    let connections = diagnosis::connections(tx).await?;
    let limits = [
        ("max_connections", Some(connections.most), connections.used),
        ("the role's CONNECTION LIMIT", connections.role_limit, connections.used_by_role),
        (
            "the database's CONNECTION LIMIT",
            connections.database_limit,
            connections.used_in_database,
        ),
    ];
    let narrowest = limits
        .into_iter()
        .filter_map(|(name, most, used)| most.map(|most| (name, most, used)))
        .min_by_key(|(_, most, used)| most - used);
    let Some((name, most, used)) = narrowest else { return Ok(Vec::new()) };
    // These checks' own are soon given back.
    let used = used.saturating_sub(i64::from(CONNECTIONS)).max(0);
    let needed = i64::from(config.database.max_connections);
    let found = format!(
        "{used} of {most} in use ({name}), {} of them by Quartet; a process may open {needed}",
        connections.ours
    );
    if shares_sessions || most - used >= needed {
        return Ok(vec![Finding::ok(PLACES, found)]);
    }
    let remedy = format!(
        "raise {name}, or lower QUARTET_DATABASE__MAX_CONNECTIONS; one more process would not \
         find all that it may open"
    );
    Ok(vec![Finding::warning(PLACES, found, remedy)])
}

const CLOCK: &str = "clock";

async fn check_clock(tx: &mut SqlTransaction, config: &Config) -> Result<Vec<Finding>, StoreError> {
    let (ahead, precision) = diagnosis::clock_skew(tx).await?;
    let off = ahead.abs().to_std().unwrap_or_default();
    let direction = if ahead < chrono::TimeDelta::zero() { "behind" } else { "ahead of" };
    // A difference smaller than the time that the question took is none.
    if off <= precision.max(Duration::from_millis(100)) {
        return Ok(vec![Finding::ok(CLOCK, "this machine's and the database's agree")]);
    }
    // To the tenth of a second, and where it is much to the second.
    let unit = if off < Duration::from_secs(10) { 100 } else { 1000 };
    let rounded = (off.as_millis() as u64 + unit / 2) / unit * unit;
    let rounded = Duration::from_millis(rounded);
    let mut found =
        format!("this machine is {} {direction} the database", format_duration(rounded));
    if off <= SKEW_NOTICED {
        return Ok(vec![Finding::ok(CLOCK, found)]);
    }
    let remedy = "synchronise both clocks by NTP (chronyc tracking, timedatectl)";
    let tolerance = config.webhook.tolerance;
    if off < tolerance {
        return Ok(vec![Finding::warning(CLOCK, found, remedy)]);
    }
    found.push_str(&format!(
        ": beyond the {} within which signatures are accepted",
        format_duration(tolerance)
    ));
    Ok(vec![Finding::error(CLOCK, found, remedy)])
}

const SECRETS: &str = "signing_secrets";

/// Whether what clients' notifications are signed with can be opened.
async fn check_secrets(pool: &Database, config: &Config) -> Vec<Finding> {
    let keys = &config.secrets.master_keys;
    let seals = match secrets::seals(pool, keys).await {
        Ok(seals) => seals,
        Err(error) => return vec![failed(SECRETS, &error)],
    };
    // The configuration brings that client's secret along.
    let default = config.default_client.as_ref().map(|client| client.name.as_str());
    let closed: Vec<_> =
        seals.unreadable.iter().filter(|(client, _)| default != Some(client)).collect();
    if let Some((client, reason)) = closed.first() {
        let found =
            format!("{} cannot be opened, such as that of {client}: {reason}", closed.len());
        let remedy = "set QUARTET_SECRETS__MASTER_KEY to the keys that they were sealed with, or \
                      rotate them: quartet clients rotate-secret";
        return vec![Finding::error(SECRETS, found, remedy)];
    }
    if keys.is_empty() {
        let found = "QUARTET_SECRETS__MASTER_KEY is not set: they are stored in plain";
        let remedy = "set it to a key that `quartet secrets generate-key` prints";
        return vec![Finding::warning(SECRETS, found, remedy)];
    }
    let all = seals.current + seals.older + seals.plain;
    if seals.older + seals.plain > 0 {
        let found =
            format!("{} of {all} are not sealed with the first key", seals.older + seals.plain);
        let remedy = "quartet secrets reseal, once all processes have that key";
        return vec![Finding::warning(SECRETS, found, remedy)];
    }
    vec![Finding::ok(SECRETS, format!("{all} sealed, each can be opened"))]
}
