//! A claim whose caller has given up, and which is committed all the same: its jobs are leased to a
//! living worker that does not know them.

use std::time::Duration;

use quartet::config::Role;
use sqlx::PgPool;

use crate::support::{
    job_rows::{event_times, job_row, park_all_but, wait_job},
    line::Line,
    spawn_api, wait_until,
};

const BOUND: Duration = Duration::from_secs(30);
const CREATE: &str = "create_at_third_party";
/// What the first commit of a claimed job waits for, as for a disk or a standby that hangs.
const HUNG: &str = "
    CREATE SEQUENCE claims;
    CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('claims') = 1 THEN PERFORM pg_sleep(3); END IF;
            RETURN NULL;
        END $$;
    CREATE CONSTRAINT TRIGGER hang AFTER UPDATE ON apalis.jobs
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
        WHEN (NEW.status = 'Running') EXECUTE FUNCTION hang()";

/// Whether a commit hangs.
async fn hangs(pool: &PgPool) -> bool {
    let query = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event = 'PgSleep'";
    sqlx::query_scalar::<_, i64>(query).fetch_one(pool).await.unwrap() > 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_a_claim_that_was_committed_after_it_was_given_up_are_given_back() {
    let api = spawn_api().await;
    let id = api.client().accept().await;
    park_all_but(&api.pool, id, Some(CREATE)).await;
    sqlx::raw_sql(HUNG).execute(&api.pool).await.unwrap();
    let line = Line::to(api.database_url()).await;
    let _worker = api
        .sibling()
        .role(Role::Worker)
        .set("DATABASE_URL", line.url())
        .set("QUARTET_THIRD_PARTY__TIMEOUT", "30s")
        .set("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "30s")
        .set("QUARTET_WORKER__HEARTBEAT", "500ms")
        // Nobody is taken for dead here.
        .set("QUARTET_WORKER__DEAD_AFTER", "1h")
        .without_waiting()
        .spawn()
        .await;
    wait_until("a claim is being committed", BOUND, async || hangs(&api.pool).await).await;
    line.cut();
    line.open();
    wait_until("it is committed", BOUND, async || {
        job_row(&api.pool, id, CREATE).await.status == "Running"
    })
    .await;

    // It is the database's alone: known to nobody, until it is given back.
    let done = wait_job(&api.pool, id, CREATE, "Done", BOUND).await;
    assert_eq!(done.attempts, 1, "giving it back costs no attempt");
    assert!(event_times(&api.pool, id, "create_ambiguous").await.is_empty());
    assert_eq!(api.sandbox.third_party().creates_of(id), 1);
    park_all_but(&api.pool, id, None).await;
    api.wait_told(id, BOUND).await;
    api.wait_at_rest(BOUND).await;
    api.assert_invariants(&[id]).await;
}
