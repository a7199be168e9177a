//! Witnesses inside the database: triggers of the harness that see each change as it happens, and
//! know by the database role which process made it.
//!
//! What is only wrong for a moment leaves no trace in a database at rest: that a stale worker wrote
//! an outcome, that a version went down and up again.

use sqlx::{AssertSqlSafe, PgPool};

use super::plan::{DEAD_AFTER, NODES};

const TRIGGERS: &str = r#"
CREATE SCHEMA chaos;
CREATE TABLE chaos.seen (at timestamptz NOT NULL DEFAULT clock_timestamp(), violation text NOT NULL);
-- Which process a worker belongs to; workers are forgotten by Quartet, not here.
CREATE TABLE chaos.workers (id text PRIMARY KEY, role text NOT NULL);

CREATE FUNCTION chaos.note_worker() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.workers VALUES (NEW.id, session_user) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_note_worker AFTER INSERT ON apalis.workers
    FOR EACH ROW EXECUTE FUNCTION chaos.note_worker();

CREATE FUNCTION chaos.watch_job() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    job text := OLD.job_type || ' ' || COALESCE(OLD.idempotency_key, 'null');
BEGIN
    -- Settling ends update_status, whoever runs it, and nobody else needs to.
    IF OLD.job_type = 'update_status' AND NEW.status = 'Done' THEN
        RETURN NULL;
    END IF;
    IF OLD.status = 'Running' AND (OLD.lock_by, OLD.lock_at) IS DISTINCT FROM (NEW.lock_by, NEW.lock_at)
        AND NOT EXISTS (SELECT FROM chaos.workers WHERE id = OLD.lock_by AND role = session_user)
        AND EXISTS (
            SELECT FROM apalis.workers
            WHERE id = OLD.lock_by AND last_seen >= clock_timestamp() - interval '$dead_after s'
        )
    THEN
        INSERT INTO chaos.seen (violation) VALUES (format(
            '7: %s, leased to %s, was made %s by %s', job, OLD.lock_by, NEW.status, session_user
        ));
    ELSIF OLD.status <> 'Running' AND NEW.status IN ('Done', 'Failed') AND NEW.status <> OLD.status THEN
        INSERT INTO chaos.seen (violation) VALUES (format(
            '7: %s was made %s by %s although nobody ran it', job, NEW.status, session_user
        ));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_watch_job AFTER UPDATE ON apalis.jobs
    FOR EACH ROW EXECUTE FUNCTION chaos.watch_job();

CREATE FUNCTION chaos.watch_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM chaos.workers WHERE id = NEW.lock_by AND role = session_user) THEN
        INSERT INTO chaos.seen (violation) VALUES (format(
            '7: %s %s was leased to %s by %s',
            NEW.job_type, NEW.idempotency_key, NEW.lock_by, session_user
        ));
    END IF;
    RETURN NULL;
END $$;
-- A claim, or the statement that writes the job or makes it due: to a worker of its own process.
CREATE TRIGGER chaos_watch_new_lease AFTER INSERT ON apalis.jobs
    FOR EACH ROW WHEN (NEW.lock_by IS NOT NULL) EXECUTE FUNCTION chaos.watch_lease();
CREATE TRIGGER chaos_watch_lease AFTER UPDATE ON apalis.jobs
    FOR EACH ROW WHEN (NEW.lock_by IS NOT NULL AND NEW.lock_by IS DISTINCT FROM OLD.lock_by)
    EXECUTE FUNCTION chaos.watch_lease();

CREATE FUNCTION chaos.watch_transaction() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO chaos.seen (violation)
        VALUES (format('6: %s was deleted by %s', OLD.id, session_user));
        RETURN NULL;
    END IF;
    IF OLD.status <> 'pending' AND NEW.status <> OLD.status THEN
        INSERT INTO chaos.seen (violation) VALUES (format(
            '2: %s went from %s to %s by %s', OLD.id, OLD.status, NEW.status, session_user
        ));
    END IF;
    IF NEW.version <> OLD.version + (NEW.status <> OLD.status)::int THEN
        INSERT INTO chaos.seen (violation) VALUES (format(
            '2: %s went from version %s to %s by %s', OLD.id, OLD.version, NEW.version, session_user
        ));
    END IF;
    IF NEW.notified_version < OLD.notified_version THEN
        INSERT INTO chaos.seen (violation) VALUES (format(
            '3: notified_version of %s went down from %s to %s by %s',
            OLD.id, OLD.notified_version, NEW.notified_version, session_user
        ));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_watch_transaction AFTER UPDATE OR DELETE ON transactions
    FOR EACH ROW EXECUTE FUNCTION chaos.watch_transaction();
"#;

/// The role of a process.
pub fn role(name: &str) -> String {
    name.replace('-', "_")
}

/// A role with the caller's own password: its verifier is cheap, while a debug build takes 50 ms
/// for one that Postgres makes. Roles belong to the server, which other databases may have been on.
const ROLE: &str = r#"
DO $$ BEGIN
    EXECUTE format('CREATE ROLE $role LOGIN SUPERUSER PASSWORD %L', (
        SELECT rolpassword FROM pg_authid WHERE rolname = current_user
    ));
EXCEPTION WHEN duplicate_object THEN NULL;
END $$
"#;

/// Adds the triggers, and a role for each process, with the password of `pool`'s.
pub async fn install(pool: &PgPool) {
    let triggers = TRIGGERS.replace("$dead_after", &DEAD_AFTER.as_secs_f64().to_string());
    sqlx::raw_sql(AssertSqlSafe(triggers)).execute(pool).await.unwrap();
    for name in NODES {
        let create = ROLE.replace("$role", &role(name));
        sqlx::raw_sql(AssertSqlSafe(create)).execute(pool).await.unwrap();
    }
}

/// What the triggers saw, in order.
pub async fn violations(pool: &PgPool) -> Vec<String> {
    let seen = "SELECT violation FROM chaos.seen ORDER BY at";
    sqlx::query_scalar(seen).fetch_all(pool).await.unwrap()
}
