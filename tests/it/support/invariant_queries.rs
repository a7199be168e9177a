//! The part of DESIGN section 5 that the database alone can tell, as queries on one at rest.
//!
//! Included by the tests and by the benchmark, which know in different ways what the client and the
//! third party saw.

use std::{collections::HashMap, time::Duration};

use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

/// What each query selects, as one text column, violates the sentence's invariant.
const QUERIES: [(&str, &str); 12] = [
    (
        "1: not exactly the four jobs, or none once pruned",
        r#"
        SELECT t.id || ': ' || COALESCE(string_agg(j.job_type, ', ' ORDER BY j.job_type), 'none')
        FROM transactions t LEFT JOIN apalis.jobs j ON j.idempotency_key = t.id::text
        GROUP BY t.id
        HAVING array_agg(j.job_type ORDER BY j.job_type) IS DISTINCT FROM
            CASE WHEN t.pruned_at IS NULL THEN ARRAY[
                'create_at_third_party', 'create_transaction', 'notify_client', 'update_status'
            ] ELSE ARRAY[NULL] END
        "#,
    ),
    (
        "1: a job without its transaction",
        r#"
        -- Beside an OR each of millions of jobs would be compared with each transaction.
        SELECT job_type || ' null' FROM apalis.jobs WHERE idempotency_key IS NULL
        UNION ALL
        SELECT job_type || ' ' || idempotency_key FROM apalis.jobs
        WHERE idempotency_key IS NOT NULL
            AND NOT EXISTS (SELECT FROM transactions WHERE id::text = idempotency_key)
        "#,
    ),
    (
        "2: settled more than once by a machine",
        r#"
        SELECT transaction_id || ': ' || count(*) FROM transaction_events
        WHERE kind = 'settled' AND detail ->> 'settled_by' <> 'operator'
        GROUP BY transaction_id HAVING count(*) > 1
        "#,
    ),
    (
        "2: the version is not 1 + the number of status changes",
        r#"
        SELECT t.id || ': version ' || version || ', changes ' || count(e.id)
        FROM transactions t
        LEFT JOIN transaction_events e ON e.transaction_id = t.id AND e.kind = 'settled'
        -- Of a pruned one the evidence may be gone too.
        WHERE t.evidence_pruned_at IS NULL
        GROUP BY t.id HAVING version <> 1 + count(e.id)
        "#,
    ),
    (
        "2: the status is not what the last evidence says",
        r#"
        SELECT t.id || ': ' || t.status || ' by ' || COALESCE(t.settled_by, 'nobody')
            || ', evidence ' || COALESCE(last.detail::text, 'none')
        FROM transactions t
        LEFT JOIN LATERAL (
            SELECT detail FROM transaction_events
            WHERE transaction_id = t.id AND kind = 'settled' ORDER BY id DESC LIMIT 1
        ) last ON true
        WHERE t.evidence_pruned_at IS NULL AND (
            COALESCE(last.detail ->> 'status', 'pending') <> t.status
            OR last.detail ->> 'settled_by' IS DISTINCT FROM t.settled_by
            OR COALESCE((last.detail ->> 'version')::int, 1) <> t.version
        )
        "#,
    ),
    (
        "2: settled_at or settled_by does not fit the status",
        r#"
        SELECT id || ': ' || status FROM transactions
        WHERE (status = 'pending') <> (settled_at IS NULL)
            OR (status = 'pending') <> (settled_by IS NULL)
            OR settled_at < created_at
        "#,
    ),
    (
        "2: pending, and nothing is under way to end it",
        r#"
        SELECT t.id::text FROM transactions t
        WHERE status = 'pending'
            AND EXISTS (
                SELECT FROM apalis.jobs
                WHERE idempotency_key = t.id::text AND job_type = 'update_status'
                    AND status IN ('Done', 'Failed')
            )
            AND NOT EXISTS (
                SELECT FROM failed_jobs
                WHERE transaction_id = t.id AND queue = 'update_status' AND state <> 'replayed'
            )
        "#,
    ),
    (
        "5: a job stopped without a dead letter",
        r#"
        SELECT job_type || ' ' || idempotency_key FROM apalis.jobs j
        WHERE status = 'Failed' AND NOT EXISTS (
            SELECT FROM failed_jobs WHERE job_id = j.id AND state <> 'replayed'
        )
        "#,
    ),
    (
        "5: more attempts than allowed",
        r#"
        SELECT job_type || ' ' || idempotency_key || ': ' || attempts || ' of ' || max_attempts
        FROM apalis.jobs WHERE attempts > max_attempts
        "#,
    ),
    (
        "5: waiting although its attempts are used up",
        r#"
        SELECT job_type || ' ' || idempotency_key FROM apalis.jobs
        WHERE status = 'Pending' AND attempts >= max_attempts
        "#,
    ),
    (
        "dead letters: two open ones for one cause",
        r#"
        SELECT cause || ': ' || count(*) FROM failed_jobs
        WHERE state = 'open' GROUP BY cause HAVING count(*) > 1
        "#,
    ),
    (
        "dead letters: two open ones for one job",
        r#"
        SELECT job_id || ': ' || count(*) FROM failed_jobs
        WHERE state = 'open' AND job_id IS NOT NULL GROUP BY job_id HAVING count(*) > 1
        "#,
    ),
];

const STALE_LEASES: &str = r#"
    SELECT job_type || ' ' || idempotency_key || ' by ' || COALESCE(lock_by, 'nobody')
    FROM apalis.jobs j LEFT JOIN apalis.workers w ON w.id = j.lock_by
    WHERE j.status IN ('Running', 'Queued')
        AND (w.id IS NULL OR w.last_seen < clock_timestamp() - make_interval(secs => $lease))
"#;

/// Violations of what holds between the rows; no lease may be older than `lease`.
pub async fn check_rows(pool: &PgPool, lease: Duration) -> sqlx::Result<Vec<String>> {
    let mut violations = Vec::new();
    for (sentence, query) in QUERIES {
        violations.extend(select(pool, sentence, query).await?);
    }
    let leases = STALE_LEASES.replace("$lease", &lease.as_secs_f64().to_string());
    violations.extend(select(pool, "5: leased under a worker that is gone", &leases).await?);
    Ok(violations)
}

async fn select(pool: &PgPool, sentence: &str, query: &str) -> sqlx::Result<Vec<String>> {
    let rows: Vec<Option<String>> =
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(pool).await?;
    Ok(rows.into_iter().map(|row| format!("{sentence}: {}", row.unwrap_or_default())).collect())
}

#[derive(sqlx::FromRow)]
struct Told {
    id: Uuid,
    version: i32,
    notified_version: i32,
    /// Whether an open dead letter or an operator's cancel explains that the client was not told.
    explained: bool,
}

/// Invariant 3: the client and `notified_version` have the last version, or it is explained.
/// `heard` holds the last version of each id that the client answered 2xx; several, where any of them
/// may be the last one before the backup that the database was restored from.
pub async fn check_told(
    pool: &PgPool,
    heard: &HashMap<Uuid, Vec<i64>>,
) -> sqlx::Result<Vec<String>> {
    let query = r#"
        SELECT t.id, t.version, t.notified_version,
            EXISTS (
                SELECT FROM failed_jobs
                WHERE transaction_id = t.id AND queue = 'notify_client' AND state = 'open'
            ) OR EXISTS (
                SELECT FROM apalis.jobs
                WHERE idempotency_key = t.id::text AND job_type = 'notify_client'
                    AND status = 'Killed'
            ) AS explained
        FROM transactions t
    "#;
    let transactions: Vec<Told> = sqlx::query_as(query).fetch_all(pool).await?;
    let mut violations = Vec::new();
    for Told { id, version, notified_version, explained } in transactions {
        let heard = heard.get(&id).map_or(&[][..], Vec::as_slice);
        let last = heard.iter().copied().max().unwrap_or_default();
        if !heard.contains(&i64::from(version)) && !explained {
            violations.push(format!("3: {id} has version {version}, the client heard {last}"));
        }
        if notified_version != version && !explained {
            violations.push(format!(
                "3: {id} has version {version}, but notified_version {notified_version}"
            ));
        }
        if i64::from(notified_version) > last {
            violations.push(format!(
                "3: {id} has notified_version {notified_version}, but the client heard {last}"
            ));
        }
    }
    Ok(violations)
}

/// Invariant 6: what was answered 2xx is there.
pub async fn check_accepted(pool: &PgPool, accepted: &[Uuid]) -> sqlx::Result<Vec<String>> {
    let query = "SELECT accepted.id FROM unnest($1::uuid[]) AS accepted (id)
        WHERE NOT EXISTS (SELECT FROM transactions WHERE transactions.id = accepted.id)";
    let lost: Vec<Uuid> = sqlx::query_scalar(query).bind(accepted).fetch_all(pool).await?;
    Ok(lost.into_iter().map(|id| format!("6: {id} was answered 2xx and is gone")).collect())
}
