//! What the console has to show: single dead letters made by webhooks, and a database that looks
//! like a working day.

use quartet::sandbox::SendWebhook;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::TestApp;

/// Every page that needs a session and no transaction.
pub fn paths(letter: &str) -> Vec<String> {
    let pages = [
        "/console",
        "/console/rejected-webhooks",
        "/console/transactions",
        "/console/dead-letters",
        "/console/dead-letters?state=any",
        "/console/jobs",
        "/console/queues",
        "/console/queues/notify_client/pause",
        "/console/queues/notify_client/resume",
        "/console/audit",
    ];
    let actions = ["replay", "resolve", "discard"]
        .map(|action| format!("/console/dead-letters/confirm?action={action}&id={letter}"));
    let others = [
        format!("/console/dead-letters/{letter}"),
        format!("/console/dead-letters/result?action=replay&id={letter}"),
    ];
    pages.map(str::to_owned).into_iter().chain(actions).chain(others).collect()
}

/// A webhook about a transaction that is not here; returns its dead letter's id.
pub async fn unknown_transaction(app: &TestApp) -> String {
    let id = Uuid::now_v7();
    app.send_webhook(SendWebhook::new(id, "completed")).await;
    only_letter(app, id).await
}

/// The transaction that a dead letter names.
pub async fn transaction_of(app: &TestApp, letter: &str) -> Uuid {
    let letter = app.operator().get(&format!("/v1/operator/dead-letters/{letter}")).await;
    letter.expect(200)["transaction_id"].as_str().unwrap().parse().unwrap()
}

/// A completed transaction that a webhook calls declined; returns it and its dead letter's id.
pub async fn conflict(app: &TestApp) -> (Uuid, String) {
    let id = app.client().accept().await;
    app.send_webhook(SendWebhook::new(id, "completed")).await;
    app.send_webhook(SendWebhook::new(id, "declined")).await;
    (id, only_letter(app, id).await)
}

async fn only_letter(app: &TestApp, id: Uuid) -> String {
    let letters = app.operator().open_dead_letters(id).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    letters[0]["id"].as_str().unwrap().to_owned()
}

/// Transactions of two clients with their jobs and evidence, over the last hours: of ten each,
/// seven are completed, one is declined, one pending, one failed.
const TRANSACTIONS: &str = r#"
WITH client AS (
    INSERT INTO clients (name, api_key_hash, callback_url, signing_secret)
    SELECT name, sha256(convert_to(name, 'UTF8')), 'http://127.0.0.1:9/callback', 'whsec_AAAA'
    FROM (VALUES ('Harbour Books'), ('Nordlicht Energie')) AS client (name)
    RETURNING id, name
), fresh AS (
    SELECT
        i, gen_random_uuid() AS id,
        now() - (i * i % 7 + i * 41) * interval '1 second' AS created_at,
        (ARRAY['completed','completed','completed','completed','completed','completed',
            'completed','declined','pending','failed'])[i % 10 + 1] AS status
    FROM generate_series(0, $1 - 1) AS i
), written AS (
    INSERT INTO transactions (id, client_id, content_hash, amount, currency, reference, metadata,
        status, version, notified_version, settled_at, settled_by, created_at, updated_at)
    SELECT fresh.id, client.id, sha256(fresh.id::text::bytea),
        CASE WHEN i % 9 <> 4 THEN 995 + i * 137 % 250000 END,
        CASE WHEN i % 9 <> 4 THEN (ARRAY['EUR','GBP','JPY'])[i % 3 + 1] END,
        CASE WHEN i % 4 <> 3 THEN 'Invoice 2026-' || lpad((1000 + i)::text, 5, '0') END,
        CASE WHEN i % 2 = 0 THEN jsonb_build_object('order', 'A-' || i, 'shop', (i % 12)::text) END,
        status, CASE WHEN status = 'pending' THEN 1 ELSE 2 END,
        CASE WHEN status = 'pending' THEN i % 2 WHEN i % 30 = 9 THEN 1 ELSE 2 END,
        CASE WHEN status <> 'pending' THEN created_at + (3 + i % 50) * interval '0.7 second' END,
        CASE WHEN status = 'failed' THEN 'creation_failure'
            WHEN status <> 'pending' THEN (ARRAY['webhook','poll','third_party_response'])[i % 3 + 1]
        END, created_at, created_at
    FROM fresh JOIN client
        ON client.name = (ARRAY['Harbour Books','Nordlicht Energie'])[i % 2 + 1]
), events AS (
    INSERT INTO transaction_events (transaction_id, at, kind, source, detail)
    SELECT fresh.id, created_at + after * interval '1 second', kind, source, detail::jsonb
    FROM fresh, (VALUES
        (0.0, 'accepted', 'api', '{}'),
        (0.4, 'client_notified', 'notify_client', '{"version": 1, "status": "pending", "http_status": 204}'),
        (1.2, 'create_ambiguous', 'create_at_third_party', '{"error": "the third party answered 504 Gateway Timeout", "attempt": 1}'),
        (2.9, 'found_at_third_party', 'create_at_third_party', '{"status": "pending"}'),
        (3.4, 'webhook', 'webhook', '{"status": "completed", "webhook_id": "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", "outcome": "settled"}'),
        (3.5, 'settled', 'webhook', '{"status": "completed", "version": 2, "settled_by": "webhook"}'),
        (3.9, 'client_notified', 'notify_client', '{"version": 2, "status": "completed", "http_status": 200}')
    ) AS event (after, kind, source, detail)
    WHERE status <> 'pending' OR after < 3
    ORDER BY created_at + after * interval '1 second'
)
INSERT INTO apalis.jobs
    (id, job_type, job, status, attempts, max_attempts, run_at, done_at, idempotency_key,
    last_result)
SELECT '01JFILL' || lpad(i::text, 15, '0') || lpad(position::text, 4, '0'), queue,
    convert_to(jsonb_build_object('transaction_id', fresh.id)::text, 'UTF8'),
    CASE
        WHEN fresh.status = 'failed' AND queue = 'create_at_third_party' THEN 'Failed'
        WHEN fresh.status = 'pending' AND queue = 'update_status' THEN 'Pending'
        WHEN i % 30 = 9 AND queue = 'notify_client' THEN 'Failed'
        ELSE 'Done'
    END,
    CASE WHEN fresh.status = 'failed' AND queue = 'create_at_third_party' THEN 4 ELSE 1 END,
    CASE queue WHEN 'create_at_third_party' THEN 4 WHEN 'notify_client' THEN 15 ELSE 5 END,
    CASE WHEN fresh.status = 'pending' THEN now() + (i - 40) * interval '1 second' ELSE created_at END,
    CASE WHEN NOT (fresh.status = 'pending' AND queue = 'update_status')
        THEN created_at + interval '4 seconds' END,
    fresh.id::text,
    CASE WHEN fresh.status = 'failed' AND queue = 'create_at_third_party' THEN jsonb_build_object(
        'Err', 'the third party answered 504 Gateway Timeout', 'errors', jsonb_build_array(
            jsonb_build_object('attempt', 1, 'at', created_at, 'error', 'no answer within 35 s'),
            jsonb_build_object('attempt', 2, 'at', created_at + interval '2 minutes', 'error',
                'the third party answered 504 Gateway Timeout')
    )) ELSE '{"Ok": null}' END
FROM fresh, (VALUES (1, 'create_transaction'), (2, 'create_at_third_party'), (3, 'update_status'),
    (4, 'notify_client')) AS job (position, queue)
"#;

/// Dead letters of each kind, open and closed.
const LETTERS: &str = r#"
WITH ranked AS (
    SELECT id, client_id, created_at, status,
        row_number() OVER (PARTITION BY status ORDER BY created_at DESC) AS place
    FROM transactions
), about AS (
    -- Each kind about transactions that it can be about, six of each kind.
    SELECT ranked.id, client_id, created_at, n + 7 * turn + 1 AS i
    FROM generate_series(0, 6) AS n, generate_series(0, 5) AS turn, ranked
    WHERE place = n + 7 * turn % 12 + 1 AND status = CASE
        WHEN n IN (1, 2) THEN 'failed' WHEN n IN (3, 6) THEN 'pending' ELSE 'completed' END
), kind AS (
    SELECT * FROM (VALUES
        (0, 'exhausted', 'notify_client', 'the client did not acknowledge version 2 in 15 attempts', '{}'),
        (1, 'rejected', 'create_at_third_party', 'the third party refused it: 422 Unprocessable Content', '{}'),
        (2, 'creation_failure', 'create_at_third_party', 'it could not be created in 4 tries', '{}'),
        (3, 'deadline', 'update_status', 'no final status within 15m', '{}'),
        (4, 'status_conflict', NULL, 'the third party says declined, here it is completed', '{"status": "declined", "present": "completed"}'),
        (5, 'unknown_transaction', NULL, 'a webhook names a transaction that is not here', '{"status": "completed", "webhook_id": "msg_p5jXN8AQM9LWM0D4loKWxJek"}'),
        (6, 'poison', 'create_transaction', 'the payload cannot be read: missing field `content` at line 1 column 57', '{}')
    ) AS kind (n, kind, queue, reason, detail)
)
INSERT INTO failed_jobs (kind, state, cause, transaction_id, client_id, job_id, queue, job, reason,
    detail, attempts, opened_at, closed_at, closed_by, note)
SELECT kind.kind, CASE WHEN i > 28 THEN (ARRAY['replayed','resolved','discarded'])[i % 3 + 1] ELSE 'open' END,
    'fill:' || i,
    CASE WHEN kind.kind = 'unknown_transaction' THEN gen_random_uuid() ELSE about.id END, CASE WHEN kind.kind <> 'unknown_transaction' THEN about.client_id END,
    jobs.id, kind.queue,
    CASE WHEN kind.queue IS NOT NULL THEN jsonb_build_object('id', jobs.id, 'status', 'Running',
        'job_type', kind.queue, 'attempts', 3, 'payload', '{"transaction_id": "' || about.id || '"}')
    END,
    kind.reason, kind.detail::jsonb,
    CASE WHEN kind.queue IS NULL THEN '[]' ELSE jsonb_build_array(
        jsonb_build_object('attempt', 1, 'at', about.created_at, 'error', 'connection refused'),
        jsonb_build_object('attempt', 2, 'at', about.created_at + interval '2 seconds',
            'error', 'the answer was 503 Service Unavailable, Retry-After 120')) END,
    now() - i * i * interval '11 minutes',
    CASE WHEN i > 28 THEN now() - i * interval '3 minutes' END,
    CASE WHEN i > 28 THEN (ARRAY['operator (Ada)','webhook','operator (Grace)'])[i % 3 + 1] END,
    CASE WHEN i > 28 THEN 'the third party was repaired' END
FROM about JOIN kind ON kind.n = (about.i - 1) % 7
LEFT JOIN apalis.jobs ON jobs.idempotency_key = about.id::text AND jobs.job_type = kind.queue
"#;

/// The last hour's figures, the audit, a pause, an open circuit, and what reconciliation found.
const REST: [&str; 8] = [
    "INSERT INTO minute_figures (minute, figure, label, value)
        SELECT date_trunc('minute', now(), 'UTC') - i * interval '1 minute', 'accepted', '',
            40 + (i * 7 % 23) + CASE WHEN i BETWEEN 20 AND 31 THEN 55 ELSE 0 END
        FROM generate_series(1, 60) AS i",
    "INSERT INTO minute_figures (minute, figure, label, value)
        SELECT date_trunc('minute', now(), 'UTC') - i * interval '1 minute', 'final',
            way || '/' || bound, (20 + (i * 5 % 17)) / part
        FROM generate_series(1, 60) AS i, (VALUES ('webhook', '1000', 1), ('poll', '2500', 2),
            ('webhook', '10000', 4), ('poll', '60000', 9)) AS bucket (way, bound, part)
        WHERE i NOT BETWEEN 14 AND 18",
    "INSERT INTO minute_figures (minute, figure, label, value)
        SELECT date_trunc('minute', now(), 'UTC') - interval '1 minute', 'jobs', queue || '/done', 1234
        FROM (VALUES ('create_transaction'), ('update_status')) AS done (queue)",
    "INSERT INTO operator_actions (at, operator, action, transaction_id, dead_letter_id, queue, note, detail)
        SELECT closed_at, closed_by, CASE state WHEN 'replayed' THEN 'replay' WHEN 'resolved'
            THEN 'resolve' ELSE 'discard' END, transaction_id, id, queue, note, '{}'
        FROM failed_jobs WHERE state <> 'open' ORDER BY closed_at",
    "INSERT INTO queue_pauses (queue, paused_at, paused_by, note) VALUES ('notify_client',
        now() - interval '12 minutes', 'operator (Ada)', 'Harbour Books moves its callback server')",
    "UPDATE circuits SET opened_at = now() - interval '40 seconds', open_for = 3600,
        open_until = now() + interval '1 hour', reason = '18 of 20 calls failed in 30s',
        trips = 3, changed_at = now()",
    r#"UPDATE maintenance_tasks SET started_at = now() - interval '4 minutes',
        finished_at = now() - interval '3 minutes', due_at = now() + interval '7 minutes',
        last_result = '{"checked": 112, "settled": 3, "missing_there": 2}'"#,
    r#"INSERT INTO reconcile_findings (transaction_id, finding, detail, first_found_at, next_check_at)
        SELECT id, 'missing_there', '{"ours": "pending", "theirs": null}',
            now() - interval '2 hours', now() + interval '1 hour'
        FROM transactions WHERE status = 'pending' LIMIT 3"#,
];

/// Writes `transactions` transactions and all that goes with a working day.
pub async fn fill(pool: &PgPool, transactions: i32) {
    sqlx::query(TRANSACTIONS).bind(transactions).execute(pool).await.unwrap();
    sqlx::query(LETTERS).execute(pool).await.unwrap();
    for statement in REST {
        sqlx::query(statement).execute(pool).await.unwrap();
    }
}
