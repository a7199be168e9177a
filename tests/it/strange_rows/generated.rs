//! Some hundreds of strange rows in one database, drawn from its catalog by a seed.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use quartet::{
    config::Role,
    sandbox::{CreateStep, Status},
};
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    BOUND, drop_added_checks, open_letters, reads,
    tables::{self, Strange},
    values::Random,
};
use crate::{
    console::visitor::Visitor,
    support::{TestApp, World, transaction, wait_until},
};

/// For hundreds of transactions on a busy machine.
const LONG_BOUND: Duration = Duration::from_secs(180);
/// A client whose row is strange is soon in front of an operator.
const ATTEMPTS: (&str, &str) = ("QUARTET_NOTIFY__MAX_ATTEMPTS", "3");
const SEED: u64 = 14;

/// What the rows of one app are, and which of them is strange how.
struct Rows {
    strange: HashMap<Uuid, Strange>,
    ordinary: Vec<Uuid>,
}

impl Rows {
    /// Accepts a transaction for each strange row, up to `each` of a column, and ordinary ones
    /// between them.
    async fn accept(app: &TestApp, random: &mut Random) -> Self {
        let (mut rows, mut count) =
            (Self { strange: HashMap::new(), ordinary: Vec::new() }, HashMap::new());
        for strange in tables::generate(&app.pool, random).await {
            let taken = count.entry((strange.table, strange.column.clone())).or_insert(0);
            if *taken == strange.table().each {
                continue;
            }
            let id = accept(app).await;
            if tables::apply(&app.pool, &id.to_string(), &strange).await {
                *taken += 1;
                rows.strange.insert(id, strange);
            } else {
                rows.ordinary.push(id);
            }
        }
        rows
    }

    fn all(&self) -> Vec<Uuid> {
        self.ordinary.iter().chain(self.strange.keys()).copied().collect()
    }
}

/// Posts until it is accepted: on a machine that is busy with other tests some posts are refused.
async fn accept(app: &TestApp) -> Uuid {
    let id = Uuid::now_v7();
    wait_until("a post is accepted", LONG_BOUND, async || {
        let answer = app.client().post_transaction(&transaction(id)).await;
        assert!(matches!(answer.status, 200 | 202 | 503), "{}", answer.text);
        answer.status != 503
    })
    .await;
    id
}

/// Whether a transaction has ended: its client knows, or an operator does. One whose third party is
/// not configured waits until it is, which `explain`, readiness and the log say; what can be no name
/// of one is in front of an operator.
async fn has_ended(pool: &PgPool, id: Uuid) -> bool {
    let query = "SELECT status <> 'pending' AND notified_version = version
            OR EXISTS (SELECT FROM failed_jobs WHERE transaction_id = $1 AND state = 'open')
            OR third_party <> 'third-party' AND char_length(third_party) <= 64
                AND third_party ~ '^[a-z0-9]+(-[a-z0-9]+)*$'
            -- Its job row no longer names it: then the letter has the job alone.
            OR EXISTS (
                SELECT FROM failed_jobs
                WHERE state = 'open' AND kind = 'poison'
                    AND job ->> 'payload' LIKE '%' || $1::text || '%'
            )
        FROM transactions WHERE id = $1";
    sqlx::query_scalar(query).bind(id).fetch_one(pool).await.unwrap()
}

/// Waits until `done`; where that fails, says what is there of the transaction.
async fn wait_ended(pool: &PgPool, id: Uuid, what: &str, mut done: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !done().await {
        if began.elapsed() > LONG_BOUND {
            let query = "SELECT jsonb_pretty(jsonb_build_object(
                    'transaction', (SELECT to_jsonb(t) FROM transactions t WHERE id = $1),
                    'jobs', (SELECT jsonb_agg(to_jsonb(j) - 'job') FROM apalis.jobs j
                        WHERE idempotency_key = $1::text),
                    'letters', (SELECT jsonb_agg(to_jsonb(l)) FROM failed_jobs l
                        WHERE transaction_id = $1)
                ))";
            let rows: String = sqlx::query_scalar(query).bind(id).fetch_one(pool).await.unwrap();
            panic!("{what} has not ended: {rows}");
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

async fn none_stops_another(drop_checks: bool) -> usize {
    let app = World::new().await.app().role(Role::Api).set(ATTEMPTS.0, ATTEMPTS.1).spawn().await;
    if drop_checks {
        drop_added_checks(&app.pool).await;
    }
    let rows = Rows::accept(&app, &mut Random::new(SEED)).await;
    // No poll is needed for those that are created, however slow the machine is.
    let created = CreateStep::created_final(Status::Completed);
    app.sandbox.third_party().set_create_default(created);
    // Its deadline passes: what is read of the pauses for that is among the strange rows.
    let late = accept(&app).await;
    app.sandbox.third_party().script_creates_for(late, vec![CreateStep::created()]);

    let worker = app
        .sibling()
        .role(Role::Worker)
        .set(ATTEMPTS.0, ATTEMPTS.1)
        .set("QUARTET_POLL__DEADLINE", "15s")
        // Hundreds are due at once, and other tests run beside this one.
        .set("QUARTET_WORKER__CONCURRENCY", "20")
        .set("QUARTET_WORKER__HEARTBEAT", "2s")
        .set("QUARTET_WORKER__DEAD_AFTER", "20s");
    let _worker = worker.spawn().await;
    for id in &rows.ordinary {
        wait_ended(&app.pool, *id, "an ordinary transaction", async || {
            let answer = app.client().get_transaction(*id).await;
            assert!(matches!(answer.status, 200 | 503), "{}", answer.text);
            let read = &answer.body;
            read["status"] == "completed" && read["notified_version"] == read["version"]
        })
        .await;
    }
    let letters = open_letters(&app, late).await;
    assert_eq!(letters[0]["kind"], "deadline", "{letters:#?}");
    for (id, strange) in &rows.strange {
        let what = strange.to_string();
        wait_ended(&app.pool, *id, &what, async || has_ended(&app.pool, *id).await).await;
    }
    let (strange, ordinary) = (rows.strange.len(), rows.ordinary.len());
    println!("{strange} strange rows and {ordinary} others have ended");
    let visitor = Visitor::signed_in(&app).await;
    for (id, strange) in &rows.strange {
        println!("{id}: {strange}");
        reads::transaction(&app, &visitor, *id, strange.table().name != "clients").await;
    }
    let all: Vec<Uuid> = rows.all().into_iter().chain([late]).collect();
    let own =
        |id: &&Uuid| rows.strange.get(*id).is_none_or(|strange| strange.table().name != "clients");
    let own: Vec<Uuid> = all.iter().filter(own).copied().collect();
    reads::lists(&app, &own, &all).await;

    // And whatever comes now runs as if nothing were there.
    for _ in 0..5 {
        let id = accept(&app).await;
        app.wait_told(id, BOUND).await;
    }
    strange
}

/// A seed that fails is printed with its rows; `PROPTEST_RNG_SEED` makes others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_constraints_let_in_stops_no_other_row() {
    let count = none_stops_another(false).await;
    assert!(count >= 100, "only {count} strange rows were let in");
}

/// As in a database that has held a strange row since before the upgrade.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_an_old_database_holds_stops_no_other_row() {
    let count = none_stops_another(true).await;
    assert!(count >= 150, "only {count} strange rows were let in");
}
