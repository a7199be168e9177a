-- Why the third party's circuit is open, and what a job was last answered while it still waits.
SET LOCAL lock_timeout = '2s';

-- One row: a constant default and a check cost nothing.
ALTER TABLE circuits
    ADD COLUMN cause text NOT NULL DEFAULT 'outage',
    ADD CONSTRAINT circuits_cause_known
        CHECK (cause IN ('outage', 'lookup_refused', 'create_refused'));
COMMENT ON COLUMN circuits.cause IS 'Why it is open, or last was: outage (calls fail), lookup_refused or create_refused (401 or 403: our credentials are refused for that call).';

COMMENT ON COLUMN apalis.jobs.metadata IS 'polls = polls done by update_status; answers = the last different answers to them; last_answer = the last answer, where it could not be used; waits = waits for a transaction that is missing, or postponements of notify_client because of its callback host; host_down_since, host_error = since when that host does not answer, and how its last call ended; probes = failed calls in a row while the circuit was open, or refusals of a create in a row; poll_since = where the deadline counts from, after a replay or after time in which the circuit was open; traceparent = the W3C trace context of the accept, which each run continues, where it was traced.';

CREATE OR REPLACE VIEW operator.jobs AS
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
    CASE WHEN jobs.status IN ('Pending', 'Queued', 'Running')
        THEN COALESCE(jobs.metadata -> 'last_answer', jobs.last_result ->> 'Err')
        ELSE jobs.last_result ->> 'Err'
    END AS last_error,
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
COMMENT ON COLUMN operator.jobs.last_error IS 'The last failed attempt''s error; while the job waits or runs, the third party''s last answer where that could not be used.';
