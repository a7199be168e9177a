//! After the last fault: waiting until everything has come to rest, and judging what is there.
//!
//! Beside the invariants of the tests (`support::invariants`) that is what only this harness knows:
//! what was posted, what the witnesses saw, and that Quartet and the third party agree.

use std::{
    collections::HashSet,
    fmt::Write,
    time::{Duration, Instant},
};

use quartet::sandbox::{Sandbox, Status, ThirdParty};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    cluster::Cluster,
    faults,
    load::Book,
    other,
    plan::DEAD_AFTER,
    support::invariants::{self, Expected},
    witness,
};

/// `WORKER__HEARTBEAT` of the processes.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// How long it may take until nothing is under way any more: the polls' deadline, the creates'
/// tries with their backoff, and what a loaded machine may add.
const AT_REST: Duration = Duration::from_secs(75);
/// How long reconciliation is waited for. What it has looked up in vain it looks up again after
/// twice the time; meanwhile it is in front of an operator.
const RECONCILED: Duration = Duration::from_secs(25);
const POLL: Duration = Duration::from_millis(100);
/// Most violations of which everything known is written down.
const EXPLAINED: usize = 20;

/// What there is to say in the end.
pub struct Verdict {
    pub violations: Vec<String>,
    pub figures: String,
    /// Everything known about the transactions that are named in violations.
    pub evidence: String,
}

/// Waits for rest, and judges.
pub async fn judge(cluster: &Cluster, book: &Book, complaints: Vec<String>) -> Verdict {
    let pool = &cluster.world.pool;
    let mut violations = complaints;
    violations.extend(book.violations.iter().cloned());
    let began = Instant::now();
    let stuck = wait_at_rest(cluster).await;
    let rest = began.elapsed();
    let accepted: Vec<Uuid> = book.accepted.keys().copied().collect();
    let expected =
        Expected { dead_after: DEAD_AFTER, heartbeat: HEARTBEAT, ..Expected::new(&accepted) };
    let broken = invariants::check(pool, &cluster.world.sandbox, &expected).await;
    let broken_there = invariants::check_third_party(&cluster.other.sandbox, &expected);
    let seen = witness::violations(pool).await;
    let (said, rescued) = faults::read_logs(cluster);
    let disagreements = compare(cluster, book).await;
    let found = [stuck, broken, broken_there, seen, said, disagreements];
    violations.extend(found.into_iter().flatten());

    let mut figures = summary(pool).await;
    let count = |kind| violations.iter().filter(|violation| Kind::of(violation) == kind).count();
    write!(
        figures,
        "; {} posts refused for the moment, {} without an answer, {} repeated; leases rescued: \
         {rescued}; at rest {:.1} s later; lost {}, doubled {}, stuck {}, version regressions {}, \
         other violations {}",
        book.refused,
        book.unanswered,
        book.repeats,
        rest.as_secs_f64(),
        count(Kind::Lost),
        count(Kind::Doubled),
        count(Kind::Stuck),
        count(Kind::Regression),
        count(Kind::Other),
    )
    .expect("a string takes it");
    let evidence = evidence(cluster, &violations).await;
    Verdict { violations, figures, evidence }
}

/// What violations are counted as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lost,
    Doubled,
    Stuck,
    Regression,
    Other,
}

impl Kind {
    fn of(violation: &str) -> Self {
        let is_regression = ["went down to an older version", "notified_version of"];
        match violation.split(':').next() {
            Some("6") => Self::Lost,
            Some("4") => Self::Doubled,
            Some("5" | "stuck") => Self::Stuck,
            _ if is_regression.iter().any(|words| violation.contains(words)) => Self::Regression,
            _ => Self::Other,
        }
    }
}

/// Waits until no job runs or waits, and nothing of the third party is to come; and for a while
/// until nothing is pending that has ended there, because where polling gave up, reconciliation
/// finds it out. Returns the jobs that do not end.
async fn wait_at_rest(cluster: &Cluster) -> Vec<String> {
    let jobs = "SELECT 'stuck: ' || job_type || ' ' || idempotency_key || ' ' || status || ', due '
            || run_at || ', attempts ' || attempts || COALESCE(', leased to ' || lock_by, '')
        FROM apalis.jobs WHERE status IN ('Pending', 'Queued', 'Running')";
    let pending = "SELECT id FROM transactions WHERE status = 'pending'";
    let pool = &cluster.world.pool;
    let third_parties = [&*cluster.world.sandbox, &cluster.other.sandbox];
    let third_parties = third_parties.map(Sandbox::third_party);
    let began = Instant::now();
    loop {
        let busy: Vec<String> = sqlx::query_scalar(jobs).fetch_all(pool).await.unwrap();
        let pending: Vec<Uuid> = sqlx::query_scalar(pending).fetch_all(pool).await.unwrap();
        let has_ended = |id: &Uuid| {
            let mut statuses = third_parties.iter().filter_map(|known| known.status_of(*id));
            statuses.any(Status::is_final)
        };
        let are_known = !pending.iter().any(has_ended) || began.elapsed() > RECONCILED;
        let under_way: usize = third_parties.iter().map(ThirdParty::under_way).sum();
        let is_at_rest = busy.is_empty() && under_way == 0 && are_known;
        if is_at_rest || began.elapsed() > AT_REST {
            return busy;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What is stored is what was posted, and what the third party says.
async fn compare(cluster: &Cluster, book: &Book) -> Vec<String> {
    let query = "SELECT id, amount, status, settled_by, third_party FROM transactions";
    type Row = (Uuid, Option<i64>, String, Option<String>, String);
    let rows: Vec<Row> = sqlx::query_as(query).fetch_all(&cluster.world.pool).await.unwrap();
    let open = "SELECT DISTINCT transaction_id FROM failed_jobs
        WHERE state = 'open' AND transaction_id IS NOT NULL";
    let open: Vec<Uuid> = sqlx::query_scalar(open).fetch_all(&cluster.world.pool).await.unwrap();
    let open: HashSet<Uuid> = open.into_iter().collect();
    let (own, other) = (cluster.world.sandbox.third_party(), cluster.other.sandbox.third_party());
    let mut violations = Vec::new();
    for (id, amount, status, settled_by, third_party) in rows {
        match book.accepted.get(&id) {
            None => violations.push(format!("6: {id} is there, and nobody was told so")),
            Some(posted) if amount != Some(posted.amount) => {
                violations.push(format!("6: {id} has another content than was posted"));
            }
            Some(_) => {}
        }
        if status == "pending" && !open.contains(&id) {
            violations.push(format!("2: {id} is pending, and in front of nobody"));
        }
        let (asked, not_asked) =
            if third_party == other::NAME { (&other, &own) } else { (&own, &other) };
        if not_asked.status_of(id).is_some() {
            violations
                .push(format!("4: {id} was created at another third party than {third_party}"));
        }
        let there = asked.status_of(id);
        let agrees = matches!(
            (status.as_str(), there),
            ("completed", Some(Status::Completed))
                | ("declined", Some(Status::Declined))
                | ("failed", None)
                | ("pending", _)
        );
        if !agrees {
            let there = there.map_or("absent", Status::as_str);
            let by = settled_by.unwrap_or_default();
            violations
                .push(format!("2: {id} is {status} (by {by}), and {there} at the third party"));
        }
    }
    violations
}

/// One line about the transactions and dead letters.
async fn summary(pool: &PgPool) -> String {
    let list = async |query: &'static str| {
        let rows: Vec<(String, i64)> = sqlx::query_as(query).fetch_all(pool).await.unwrap();
        let total: i64 = rows.iter().map(|(_, count)| count).sum();
        let parts = rows.iter().map(|(name, count)| format!("{name} {count}"));
        (total, parts.collect::<Vec<_>>().join(", "))
    };
    let (total, by_status) =
        list("SELECT status, count(*) FROM transactions GROUP BY 1 ORDER BY 2 DESC").await;
    let (letters, by_kind) = list(
        "SELECT kind || ' ' || state, count(*) FROM failed_jobs GROUP BY kind, state ORDER BY 2 DESC",
    )
    .await;
    format!("{total} transactions ({by_status}); {letters} dead letters ({by_kind})")
}

/// Everything that is known about the transactions that violations name.
async fn evidence(cluster: &Cluster, violations: &[String]) -> String {
    let words = violations.iter().flat_map(|text| text.split([' ', ':', ',', '(', ')']));
    let mut ids = HashSet::new();
    let ids: Vec<Uuid> =
        words.filter_map(|word| word.parse().ok()).filter(|id| ids.insert(*id)).collect();
    let queries = [
        ("transaction", "SELECT to_jsonb(t)::text FROM transactions t WHERE id = $1"),
        (
            "job",
            "SELECT (to_jsonb(j) - 'job')::text FROM apalis.jobs j WHERE idempotency_key = $1::text",
        ),
        (
            "event",
            "SELECT to_jsonb(e)::text FROM transaction_events e WHERE transaction_id = $1 ORDER BY id",
        ),
        ("dead letter", "SELECT to_jsonb(f)::text FROM failed_jobs f WHERE transaction_id = $1"),
    ];
    let mut text = String::new();
    for id in ids.into_iter().take(EXPLAINED) {
        text += &format!("== {id}\n");
        for (what, query) in queries {
            let rows: Vec<String> =
                sqlx::query_scalar(query).bind(id).fetch_all(&cluster.world.pool).await.unwrap();
            text.extend(rows.iter().map(|row| format!("{what}: {row}\n")));
        }
        for call in cluster.world.sandbox.third_party().calls_of(id) {
            let answered = call.answered.map(|(at, code)| (at - call.at, code));
            text += &format!("call: {:?} at {} answered {answered:?}\n", call.kind, call.time);
        }
        for delivery in cluster.world.sandbox.client().deliveries_of(id) {
            text += &format!(
                "delivery: version {} {} at {} answered {:?}\n",
                delivery.version, delivery.status, delivery.time, delivery.answered_status
            );
        }
    }
    text
}
