//! Some hundreds of strange rows in one database, drawn from its catalog by a seed.

use std::{collections::HashMap, time::Duration};

use quartet::{config::Role, sandbox::CreateStep};
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    BOUND, drop_added_checks, open_letters, reads,
    tables::{self, Strange},
    values::Random,
};
use crate::{
    console::visitor::Visitor,
    support::{TestApp, World, wait_until},
};

/// For hundreds of transactions on a busy machine.
const LONG_BOUND: Duration = Duration::from_secs(120);
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
            let id = app.client().accept().await;
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

/// Whether a transaction has ended: its client knows, or an operator does, or the job that waits is
/// one whose time is in the row.
async fn has_ended(pool: &PgPool, id: Uuid) -> bool {
    let query = "SELECT status <> 'pending' AND notified_version = version
            OR EXISTS (SELECT FROM failed_jobs WHERE transaction_id = $1 AND state = 'open')
            -- Its job row no longer names it: then the letter has the job alone.
            OR EXISTS (
                SELECT FROM failed_jobs
                WHERE state = 'open' AND kind = 'poison'
                    AND job ->> 'payload' LIKE '%' || $1::text || '%'
            )
        FROM transactions WHERE id = $1";
    sqlx::query_scalar(query).bind(id).fetch_one(pool).await.unwrap()
}

async fn none_stops_another(drop_checks: bool) -> usize {
    let world = World::new().await;
    let app = world
        .app()
        .role(Role::Api)
        .set("QUARTET_NOTIFY__MAX_ATTEMPTS", "3")
        .set("QUARTET_POLL__DEADLINE", "3s");
    let app = app.spawn().await;
    if drop_checks {
        drop_added_checks(&app.pool).await;
    }
    let rows = Rows::accept(&app, &mut Random::new(SEED)).await;
    // Its deadline passes: what is read of the pauses for that is among the strange rows.
    let late = app.client().accept().await;
    app.sandbox.third_party().script_creates_for(late, vec![CreateStep::created()]);

    let worker = app
        .sibling()
        .role(Role::Worker)
        .set("QUARTET_NOTIFY__MAX_ATTEMPTS", "3")
        .set("QUARTET_POLL__DEADLINE", "3s");
    let _worker = worker.spawn().await;
    for id in &rows.ordinary {
        app.wait_told(*id, LONG_BOUND).await;
    }
    let letters = open_letters(&app, late).await;
    assert_eq!(letters[0]["kind"], "deadline", "{letters:#?}");
    for (id, strange) in &rows.strange {
        let what = format!("{id} has ended: {strange}");
        wait_until(&what, LONG_BOUND, async || has_ended(&app.pool, *id).await).await;
    }
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
        let id = app.client().accept().await;
        app.wait_told(id, BOUND).await;
    }
    rows.strange.len()
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
