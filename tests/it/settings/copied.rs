//! A database that came by logical replication or by a copy of tables: its sequences did not come
//! along, and rows that migrations have written may be missing.

use quartet::{config::Role, store::postgres::requirements::Level};
use serde_json::Value;

use super::{Admin, BOUND, Scratch, migrate, refusals::start_refused, schemas::finding, spawn_on};
use crate::support::{spawn_api, wait_until};

/// A transaction goes from its post to its end.
async fn assert_serves(url: &str) {
    let mut app = spawn_on(url).await;
    let id = app.client().accept().await;
    app.wait_told(id, BOUND).await;
    app.wait_at_rest(BOUND).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_behind_its_rows_is_refused_with_the_statement_that_mends_it() {
    let mut scratch = Scratch::migrated().await;
    let rights = format!("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {}", scratch.role);
    scratch.admin.run(rights).await;
    assert_serves(&scratch.url).await;
    for behind in [
        "ALTER TABLE transaction_events ALTER COLUMN id RESTART WITH 1",
        "SELECT setval('transaction_events_id_seq', max(id) - 1) FROM transaction_events",
    ] {
        scratch.admin.run(behind).await;
        let said = start_refused(&scratch.url).await;
        assert!(said.contains("public.transaction_events.id"), "{said}");
        let migrated = migrate(scratch.database.url(), &[]).await;
        assert!(migrated.expect_failure().contains("setval"), "{migrated:?}");
        let finding = finding(&scratch.url, "sequences").await;
        assert_eq!(finding.level, Level::Error);
        scratch.admin.run(finding.remedy.unwrap()).await;
        migrate(scratch.database.url(), &[]).await.expect();
        assert_serves(&scratch.url).await;
    }

    // A number that no sequence has given: the others do not stop for its sake.
    scratch
        .admin
        .run(
            "INSERT INTO transaction_events (id, transaction_id, kind, source)
            OVERRIDING SYSTEM VALUE
            SELECT 9223372036854775807, transaction_id, kind, source
            FROM transaction_events LIMIT 1",
        )
        .await;
    assert_serves(&scratch.url).await;
    scratch.admin.run("DELETE FROM transaction_events WHERE id = 9223372036854775807").await;

    // Set by hand so that the next number is just free.
    let restart = "SELECT format('ALTER TABLE transaction_events ALTER COLUMN id RESTART WITH %s',
        max(id) + 1) FROM transaction_events";
    let restart = scratch.admin.texts(restart).await.remove(0);
    scratch.admin.run(restart).await;
    let rights = format!("GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {}", scratch.role);
    scratch.admin.run(rights).await;
    assert_serves(&scratch.url).await;
    scratch.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_migrations_that_are_missing_leave_nothing_out() {
    let app = spawn_api().await;
    let mut admin = Admin::of(app.database_url()).await;
    admin.run("TRUNCATE queue_floors, maintenance_tasks").await;
    let id = app.client().accept().await;
    let jobs = app.operator().get("/v1/operator/jobs?state=due&queue=create_at_third_party").await;
    let jobs = jobs.expect(200)["items"].as_array().unwrap().clone();
    let of: Vec<&Value> = jobs.iter().map(|job| &job["transaction_id"]).collect();
    assert_eq!(of, [&Value::from(id.to_string())]);
    let due = "SELECT due::text FROM operator.queues WHERE queue = 'create_at_third_party'";
    assert_eq!(admin.texts(due).await, ["1"]);

    let _worker = app.sibling().role(Role::Worker).spawn().await;
    app.wait_told(id, BOUND).await;
    let ran = "SELECT name FROM maintenance_tasks WHERE finished_at IS NOT NULL ORDER BY name";
    wait_until("both tasks have run", BOUND, async || {
        admin.texts(ran).await == ["reconcile", "retention"]
    })
    .await;
    let moved = "SELECT name FROM queue_floors WHERE isfinite(floor)";
    wait_until("the floors are moved again", BOUND, async || admin.texts(moved).await.len() == 5)
        .await;
}
