//! Commits and statements that hang, as behind a disk or a standby that does.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgPool};

use super::wait_until;

const BOUND: Duration = Duration::from_secs(30);

/// The first commit after this that makes a job row `Running` by an `INSERT` or an `UPDATE`, which
/// `event` says, hangs for three seconds.
pub async fn hang_first_lease(pool: &PgPool, event: &str) {
    let statements = format!(
        "CREATE SEQUENCE leases;
        CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('leases') = 1 THEN PERFORM pg_sleep(3); END IF;
                RETURN NULL;
            END $$;
        CREATE CONSTRAINT TRIGGER hang AFTER {event} ON apalis.jobs
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
            WHEN (NEW.status = 'Running') EXECUTE FUNCTION hang()"
    );
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(pool).await.unwrap();
}

/// The first claim of a create after this hangs for three seconds, before its rows are locked for
/// others.
pub async fn hang_first_claim_of_a_create(pool: &PgPool) {
    let statements = "
        CREATE SEQUENCE claims;
        CREATE FUNCTION hang_claim() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('claims') = 1 THEN PERFORM pg_sleep(3); END IF;
                RETURN NEW;
            END $$;
        CREATE TRIGGER hang_claim BEFORE UPDATE ON apalis.jobs FOR EACH ROW
            WHEN (OLD.status = 'Pending' AND NEW.status = 'Running'
                AND NEW.job_type = 'create_at_third_party')
            EXECUTE FUNCTION hang_claim()";
    sqlx::raw_sql(statements).execute(pool).await.unwrap();
}

/// Waits until a session hangs there.
pub async fn wait_hung(pool: &PgPool) {
    let query = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event = 'PgSleep'";
    wait_until("a session hangs", BOUND, async || {
        sqlx::query_scalar::<_, i64>(query).fetch_one(pool).await.unwrap() > 0
    })
    .await;
}
