-- Views for people with psql: plain words, decoded payloads, ages. They show no secret. The API's
-- own lists read them too, so that all tell the same.
CREATE SCHEMA IF NOT EXISTS operator;
COMMENT ON SCHEMA operator IS 'Read-only views for operators.';

-- Not parallel safe: an exception block is a subtransaction, which Postgres refuses in a parallel
-- plan until version 17.
CREATE OR REPLACE FUNCTION operator.decode_payload(payload bytea) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE
    AS $$
BEGIN
    RETURN convert_from(payload, 'UTF8')::jsonb;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION operator.decode_payload IS 'A job''s payload, or null where it is no JSON: a strange row must not fail the query over all others.';

CREATE VIEW operator.jobs AS
SELECT
    jobs.id,
    jobs.job_type AS queue,
    CASE
        WHEN jobs.status = 'Pending' AND jobs.run_at <= now() THEN 'due'
        WHEN jobs.status = 'Pending' THEN 'scheduled'
        WHEN jobs.status IN ('Queued', 'Running') THEN 'running'
        WHEN jobs.status = 'Done' THEN 'done'
        WHEN jobs.status = 'Killed' THEN 'cancelled'
        ELSE 'failed'
    END AS state,
    quartet_uuid(jobs.idempotency_key) AS transaction_id,
    jobs.attempts,
    jobs.max_attempts,
    jobs.run_at,
    -- An import may have written an infinite time, from which nothing can be subtracted.
    LEAST(GREATEST(jobs.run_at, '0001-01-01Z'), '9999-12-31Z') - now() AS due_in,
    jobs.done_at,
    jobs.last_result ->> 'Err' AS last_error,
    COALESCE(jobs.last_result -> 'errors', '[]') AS errors,
    jobs.lock_by AS worker,
    jobs.lock_at AS leased_at,
    workers.last_seen AS worker_seen_at,
    CASE WHEN jobs.metadata -> 'polls' ~ '^[0-9]{1,9}$' THEN (jobs.metadata -> 'polls')::int END
        AS polls,
    operator.decode_payload(jobs.job) AS payload,
    queue_pauses.queue IS NOT NULL AS paused,
    jobs.status AS status,
    jobs.idempotency_key AS idempotency_key
FROM apalis.jobs
LEFT JOIN apalis.workers ON workers.id = jobs.lock_by
LEFT JOIN queue_pauses ON queue_pauses.queue = jobs.job_type
WHERE jobs.job_type IN (
    'create_transaction', 'create_at_third_party', 'update_status', 'notify_client'
);
COMMENT ON VIEW operator.jobs IS 'The job rows: state (due, scheduled, running, done, failed, cancelled), decoded payload, lease. Fast filters: idempotency_key (the transaction''s id as text), queue with status and run_at, id.';
COMMENT ON COLUMN operator.jobs.id IS 'The job''s id, a ULID: the order of writing.';
COMMENT ON COLUMN operator.jobs.queue IS 'create_transaction, create_at_third_party, update_status or notify_client.';
COMMENT ON COLUMN operator.jobs.state IS 'due, scheduled, running, done, failed (see its dead letter) or cancelled.';
COMMENT ON COLUMN operator.jobs.transaction_id IS 'The transaction that it is about; null where idempotency_key is no uuid.';
COMMENT ON COLUMN operator.jobs.attempts IS 'Attempts that ended: failed ones, lost leases and the successful last one.';
COMMENT ON COLUMN operator.jobs.max_attempts IS 'At this many attempts without success it becomes a dead letter.';
COMMENT ON COLUMN operator.jobs.run_at IS 'When it is or was due.';
COMMENT ON COLUMN operator.jobs.due_in IS 'From now to run_at, negative where that has passed.';
COMMENT ON COLUMN operator.jobs.done_at IS 'When it was done, failed or cancelled.';
COMMENT ON COLUMN operator.jobs.last_error IS 'The last failed attempt''s error.';
COMMENT ON COLUMN operator.jobs.errors IS 'The failed attempts: [{attempt, at, error}], oldest first.';
COMMENT ON COLUMN operator.jobs.worker IS 'The worker that runs it, while one does.';
COMMENT ON COLUMN operator.jobs.leased_at IS 'When that run began.';
COMMENT ON COLUMN operator.jobs.worker_seen_at IS 'When that worker was last seen; after WORKER__DEAD_AFTER of silence the job goes to another.';
COMMENT ON COLUMN operator.jobs.polls IS 'update_status: polls that were made, as of the last wait of a second or more.';
COMMENT ON COLUMN operator.jobs.payload IS 'The payload, decoded; null where it is no JSON.';
COMMENT ON COLUMN operator.jobs.paused IS 'Whether its queue is paused.';
COMMENT ON COLUMN operator.jobs.status IS 'apalis''s word for the state, which the indexes have.';
COMMENT ON COLUMN operator.jobs.idempotency_key IS 'The transaction''s id as text, which the indexes have.';

CREATE VIEW operator.transactions AS
SELECT
    transactions.id,
    clients.name AS client,
    transactions.status,
    transactions.version,
    transactions.notified_version,
    transactions.notified_version = transactions.version AS client_told,
    transactions.amount,
    transactions.currency,
    transactions.reference,
    transactions.metadata,
    transactions.created_at,
    transactions.settled_at,
    transactions.settled_by,
    now() - transactions.created_at AS age,
    transactions.settled_at - transactions.created_at AS time_to_final,
    transactions.client_id,
    transactions.pruned_at
FROM transactions
JOIN clients ON clients.id = transactions.client_id;
COMMENT ON VIEW operator.transactions IS 'Transactions with their client''s name and their ages. Fast filters: id; status, client or client_id, each with created_at.';
COMMENT ON COLUMN operator.transactions.id IS 'The client''s id for it, also at the third party.';
COMMENT ON COLUMN operator.transactions.client IS 'The client''s name.';
COMMENT ON COLUMN operator.transactions.status IS 'pending, then once completed, declined or failed.';
COMMENT ON COLUMN operator.transactions.version IS 'Starts at 1 and grows by one with each status change.';
COMMENT ON COLUMN operator.transactions.notified_version IS 'The last version that the client acknowledged; 0 = none yet.';
COMMENT ON COLUMN operator.transactions.client_told IS 'Whether the client acknowledged the present version.';
COMMENT ON COLUMN operator.transactions.amount IS 'Minor units of the currency.';
COMMENT ON COLUMN operator.transactions.currency IS 'ISO 4217 alphabetic code.';
COMMENT ON COLUMN operator.transactions.reference IS 'The client''s free text.';
COMMENT ON COLUMN operator.transactions.metadata IS 'The client''s string pairs.';
COMMENT ON COLUMN operator.transactions.created_at IS 'When it was accepted.';
COMMENT ON COLUMN operator.transactions.settled_at IS 'When the status left pending, or an operator last set it.';
COMMENT ON COLUMN operator.transactions.settled_by IS 'third_party_response, poll, webhook, creation_failure or operator.';
COMMENT ON COLUMN operator.transactions.age IS 'From its acceptance to now.';
COMMENT ON COLUMN operator.transactions.time_to_final IS 'From its acceptance to settled_at.';
COMMENT ON COLUMN operator.transactions.client_id IS 'The client''s internal id, which the indexes have.';
COMMENT ON COLUMN operator.transactions.pruned_at IS 'When its job rows were removed by age; null while they are here.';

CREATE VIEW operator.dead_letters AS
SELECT
    failed_jobs.id,
    failed_jobs.kind,
    failed_jobs.state,
    failed_jobs.transaction_id,
    clients.name AS client,
    failed_jobs.queue,
    failed_jobs.reason,
    jsonb_array_length(failed_jobs.attempts) AS attempts,
    failed_jobs.attempts -> -1 ->> 'error' AS last_error,
    failed_jobs.opened_at,
    now() - failed_jobs.opened_at AS age,
    failed_jobs.closed_at,
    failed_jobs.closed_by,
    failed_jobs.note,
    failed_jobs.job_id,
    failed_jobs.detail
FROM failed_jobs
LEFT JOIN clients ON clients.id = failed_jobs.client_id;
COMMENT ON VIEW operator.dead_letters IS 'Dead letters with their client''s name and their age. Fast filters: id; state = ''open'', also with kind; transaction_id; client; opened_at.';
COMMENT ON COLUMN operator.dead_letters.id IS 'The dead letter''s id.';
COMMENT ON COLUMN operator.dead_letters.kind IS 'exhausted, rejected, creation_failure, deadline, status_conflict, unknown_transaction or poison.';
COMMENT ON COLUMN operator.dead_letters.state IS 'open, then replayed, resolved or discarded.';
COMMENT ON COLUMN operator.dead_letters.transaction_id IS 'The transaction; unknown_transaction names one that is not here.';
COMMENT ON COLUMN operator.dead_letters.client IS 'The name of the transaction''s client, where known.';
COMMENT ON COLUMN operator.dead_letters.queue IS 'The queue of the job that stopped; null for one that a webhook or a contradiction opened.';
COMMENT ON COLUMN operator.dead_letters.reason IS 'One sentence.';
COMMENT ON COLUMN operator.dead_letters.attempts IS 'Failed attempts that it keeps the errors of.';
COMMENT ON COLUMN operator.dead_letters.last_error IS 'The last of these errors.';
COMMENT ON COLUMN operator.dead_letters.opened_at IS 'When it was opened.';
COMMENT ON COLUMN operator.dead_letters.age IS 'From its opening to now.';
COMMENT ON COLUMN operator.dead_letters.closed_at IS 'When it was closed.';
COMMENT ON COLUMN operator.dead_letters.closed_by IS 'Who closed it: an operator, or the event that explained it.';
COMMENT ON COLUMN operator.dead_letters.note IS 'Why it was closed.';
COMMENT ON COLUMN operator.dead_letters.job_id IS 'The job that stopped.';
COMMENT ON COLUMN operator.dead_letters.detail IS 'The reported statuses, where it is about one.';

CREATE VIEW operator.queues AS
SELECT
    queue.name AS queue,
    -- Counts stop at 10,000: a list that operators look at must not read a long backlog.
    (
        SELECT count(*) FROM (
            SELECT FROM apalis.jobs
            WHERE job_type = queue.name AND status = 'Pending' AND run_at <= now()
            LIMIT 10000
        ) AS counted
    ) AS due,
    (
        SELECT count(*) FROM (
            SELECT FROM apalis.jobs
            WHERE job_type = queue.name AND status = 'Pending' AND run_at > now()
            LIMIT 10000
        ) AS counted
    ) AS scheduled,
    COALESCE(running.jobs, 0) AS running,
    (
        SELECT count(*) FROM (
            SELECT FROM apalis.jobs
            WHERE job_type = queue.name AND status IN ('Failed', 'Killed') AND status = 'Failed'
            LIMIT 10000
        ) AS counted
    ) AS failed,
    now() - (
        SELECT GREATEST(run_at, '0001-01-01Z') FROM apalis.jobs
        WHERE job_type = queue.name AND status = 'Pending' AND run_at <= now()
        ORDER BY run_at
        LIMIT 1
    ) AS oldest_due_age,
    COALESCE((
        SELECT value FROM minute_figures
        WHERE minute = date_trunc('minute', now(), 'UTC') - interval '1 minute'
            AND figure = 'jobs' AND label = queue.name || '/done'
    ), 0) AS done_per_minute,
    queue_pauses.queue IS NOT NULL AS paused,
    queue_pauses.paused_at,
    queue_pauses.paused_by,
    queue_pauses.note AS pause_note
FROM (
    VALUES (1, 'create_transaction'), (2, 'create_at_third_party'), (3, 'update_status'),
        (4, 'notify_client')
) AS queue (position, name)
LEFT JOIN queue_pauses ON queue_pauses.queue = queue.name
LEFT JOIN (
    SELECT job_type, count(*) AS jobs FROM apalis.jobs WHERE lock_by IS NOT NULL GROUP BY job_type
) AS running ON running.job_type = queue.name
ORDER BY queue.position;
COMMENT ON VIEW operator.queues IS 'Each queue''s backlog (counts stop at 10,000) and how many of its jobs were done in the last full minute.';
COMMENT ON COLUMN operator.queues.queue IS 'The queue, in the order of a transaction''s life.';
COMMENT ON COLUMN operator.queues.due IS 'Jobs that wait for a worker; counted up to 10,000.';
COMMENT ON COLUMN operator.queues.scheduled IS 'Jobs whose time has not come; counted up to 10,000.';
COMMENT ON COLUMN operator.queues.running IS 'Jobs that a worker holds.';
COMMENT ON COLUMN operator.queues.failed IS 'Jobs that stopped; counted up to 10,000.';
COMMENT ON COLUMN operator.queues.oldest_due_age IS 'How long the longest waiting due job has been due.';
COMMENT ON COLUMN operator.queues.done_per_minute IS 'Jobs done in the last full minute.';
COMMENT ON COLUMN operator.queues.paused IS 'Whether no process begins a job of it.';
COMMENT ON COLUMN operator.queues.paused_at IS 'When it was paused.';
COMMENT ON COLUMN operator.queues.paused_by IS 'Who paused it.';
COMMENT ON COLUMN operator.queues.pause_note IS 'Why it was paused.';

CREATE VIEW operator.evidence AS
SELECT id, transaction_id, at, kind, source, detail FROM transaction_events;
COMMENT ON VIEW operator.evidence IS 'Everything observed or decided about transactions. Fast filters: transaction_id; id.';
COMMENT ON COLUMN operator.evidence.id IS 'Order of writing.';
COMMENT ON COLUMN operator.evidence.transaction_id IS 'The transaction it is about.';
COMMENT ON COLUMN operator.evidence.at IS 'When it was written.';
COMMENT ON COLUMN operator.evidence.kind IS 'What happened.';
COMMENT ON COLUMN operator.evidence.source IS 'Who saw or did it: api, webhook, operator, lease, reconcile, or a queue.';
COMMENT ON COLUMN operator.evidence.detail IS 'What was seen: status, version, error, ids.';

CREATE VIEW operator.actions AS
SELECT id, at, operator, action, transaction_id, dead_letter_id, job_id, queue, note, detail
FROM operator_actions;
COMMENT ON VIEW operator.actions IS 'The audit: what operators did. Fast filters: id; transaction_id; dead_letter_id.';
COMMENT ON COLUMN operator.actions.id IS 'Order of writing.';
COMMENT ON COLUMN operator.actions.at IS 'When.';
COMMENT ON COLUMN operator.actions.operator IS 'Who.';
COMMENT ON COLUMN operator.actions.action IS 'What.';
COMMENT ON COLUMN operator.actions.transaction_id IS 'The transaction that it was about.';
COMMENT ON COLUMN operator.actions.dead_letter_id IS 'The dead letter that was acted on.';
COMMENT ON COLUMN operator.actions.job_id IS 'The job that was acted on.';
COMMENT ON COLUMN operator.actions.queue IS 'The queue that was acted on, or that of the job.';
COMMENT ON COLUMN operator.actions.note IS 'Why.';
COMMENT ON COLUMN operator.actions.detail IS 'What changed.';

CREATE VIEW operator.circuit AS
SELECT
    name,
    CASE
        WHEN opened_at IS NULL THEN 'closed'
        WHEN open_until > clock_timestamp() THEN 'open'
        ELSE 'half_open'
    END AS state,
    opened_at,
    open_until,
    reason,
    trips
FROM circuits;
COMMENT ON VIEW operator.circuit IS 'The circuit breaker that all processes share.';
COMMENT ON COLUMN operator.circuit.name IS 'The peer: third_party.';
COMMENT ON COLUMN operator.circuit.state IS 'closed (calls are made), open (none is) or half_open (one at a time, to try).';
COMMENT ON COLUMN operator.circuit.opened_at IS 'When it opened.';
COMMENT ON COLUMN operator.circuit.open_until IS 'From then on one call at a time is tried.';
COMMENT ON COLUMN operator.circuit.reason IS 'Why it is open, or last was.';
COMMENT ON COLUMN operator.circuit.trips IS 'How often it has opened.';

CREATE VIEW operator.findings AS
SELECT
    transaction_id, finding, detail, first_found_at, now() - first_found_at AS age,
    last_checked_at, checks, next_check_at
FROM reconcile_findings
WHERE closed_at IS NULL;
COMMENT ON VIEW operator.findings IS 'How transactions here differ from what the third party shows.';
COMMENT ON COLUMN operator.findings.transaction_id IS 'The transaction.';
COMMENT ON COLUMN operator.findings.finding IS 'missing_there, missing_here, status_differs, late or unanswered.';
COMMENT ON COLUMN operator.findings.detail IS 'Both statuses, or why there was no answer.';
COMMENT ON COLUMN operator.findings.first_found_at IS 'When it was first found.';
COMMENT ON COLUMN operator.findings.age IS 'From then to now.';
COMMENT ON COLUMN operator.findings.last_checked_at IS 'When the third party was last asked.';
COMMENT ON COLUMN operator.findings.checks IS 'How often it was asked.';
COMMENT ON COLUMN operator.findings.next_check_at IS 'When it is asked again.';

-- A role to grant to people. Roles belong to the whole cluster: one that exists is taken, and where
-- this user may not make roles, whoever may makes it and grants the same.
DO $$
BEGIN
    CREATE ROLE quartet_reader NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'the role quartet_reader was not created: CREATEROLE is missing';
END
$$;
DO $$
BEGIN
    GRANT USAGE ON SCHEMA operator TO quartet_reader;
    GRANT SELECT ON ALL TABLES IN SCHEMA operator TO quartet_reader;
EXCEPTION
    WHEN undefined_object THEN NULL;
END
$$;
