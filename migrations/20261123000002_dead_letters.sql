-- What arrived by webhook, and what a machine must not decide.

CREATE TABLE webhook_deliveries (
    webhook_id     text        NOT NULL,
    transaction_id uuid        NOT NULL,
    status         text        NOT NULL,
    outcome        text        NOT NULL,
    received_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (webhook_id),
    CONSTRAINT webhook_deliveries_webhook_id_length CHECK (length(webhook_id) BETWEEN 1 AND 255),
    CONSTRAINT webhook_deliveries_status_known
        CHECK (status IN ('pending', 'completed', 'declined')),
    CONSTRAINT webhook_deliveries_outcome_known
        CHECK (outcome IN ('settled', 'unchanged', 'conflict', 'unknown_transaction'))
);

CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (received_at);

COMMENT ON TABLE webhook_deliveries IS 'Every verified webhook once: a repeated webhook-id gets the first outcome and does nothing.';
COMMENT ON COLUMN webhook_deliveries.webhook_id IS 'The webhook-id header: the third party''s idempotency key.';
COMMENT ON COLUMN webhook_deliveries.transaction_id IS 'The id in its body; may be unknown here.';
COMMENT ON COLUMN webhook_deliveries.status IS 'The status in its body.';
COMMENT ON COLUMN webhook_deliveries.outcome IS 'What it did, as answered.';
COMMENT ON COLUMN webhook_deliveries.received_at IS 'When it was first received.';

CREATE TABLE failed_jobs (
    id             uuid        NOT NULL DEFAULT gen_random_uuid(),
    kind           text        NOT NULL,
    state          text        NOT NULL DEFAULT 'open',
    cause          text        NOT NULL,
    transaction_id uuid,
    job_id         text,
    queue          text,
    job            jsonb,
    reason         text        NOT NULL,
    detail         jsonb       NOT NULL DEFAULT '{}',
    attempts       jsonb       NOT NULL DEFAULT '[]',
    opened_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    closed_at      timestamptz,
    closed_by      text,
    note           text,
    CONSTRAINT failed_jobs_pkey PRIMARY KEY (id),
    CONSTRAINT failed_jobs_kind_known CHECK (kind IN (
        'exhausted', 'rejected', 'creation_failure', 'deadline', 'status_conflict',
        'unknown_transaction', 'poison'
    )),
    CONSTRAINT failed_jobs_state_known
        CHECK (state IN ('open', 'replayed', 'resolved', 'discarded')),
    CONSTRAINT failed_jobs_open_is_not_closed CHECK ((state = 'open') = (closed_at IS NULL)),
    CONSTRAINT failed_jobs_closed_by_with_closed_at
        CHECK ((closed_at IS NULL) = (closed_by IS NULL)),
    CONSTRAINT failed_jobs_job_with_queue
        CHECK ((job_id IS NULL) = (queue IS NULL) AND (job_id IS NULL) = (job IS NULL)),
    CONSTRAINT failed_jobs_attempts_is_array CHECK (jsonb_typeof(attempts) = 'array'),
    CONSTRAINT failed_jobs_detail_is_object CHECK (jsonb_typeof(detail) = 'object')
);

-- Never two open dead letters for the same cause; a closed one may be followed by a new one.
CREATE UNIQUE INDEX failed_jobs_one_open_per_cause ON failed_jobs (cause) WHERE state = 'open';
CREATE INDEX failed_jobs_by_age ON failed_jobs (opened_at DESC, id DESC);
CREATE INDEX failed_jobs_open_by_age ON failed_jobs (kind, opened_at DESC, id DESC)
    WHERE state = 'open';
CREATE INDEX failed_jobs_by_transaction ON failed_jobs (transaction_id, opened_at DESC, id DESC);
CREATE INDEX failed_jobs_open_by_job ON failed_jobs (job_id) WHERE state = 'open';

COMMENT ON TABLE failed_jobs IS 'The dead-letter store: what a machine must not decide, for an operator.';
COMMENT ON COLUMN failed_jobs.id IS 'The dead letter''s id.';
COMMENT ON COLUMN failed_jobs.kind IS 'Why it is here.';
COMMENT ON COLUMN failed_jobs.state IS 'open, then replayed, resolved or discarded.';
COMMENT ON COLUMN failed_jobs.cause IS 'What it is about; unique among the open ones.';
COMMENT ON COLUMN failed_jobs.transaction_id IS 'The transaction, where known. No foreign key: a webhook may name one that does not exist.';
COMMENT ON COLUMN failed_jobs.job_id IS 'The job row it came from; null for one that a webhook opened.';
COMMENT ON COLUMN failed_jobs.queue IS 'That job''s job_type.';
COMMENT ON COLUMN failed_jobs.job IS 'That job''s row as it was, payload as text.';
COMMENT ON COLUMN failed_jobs.reason IS 'One sentence for the operator.';
COMMENT ON COLUMN failed_jobs.detail IS 'What replay needs: the status and webhook-id of a webhook, both statuses of a conflict.';
COMMENT ON COLUMN failed_jobs.attempts IS 'The attempts'' errors: [{attempt, at, error}], oldest first.';
COMMENT ON COLUMN failed_jobs.opened_at IS 'When it was opened.';
COMMENT ON COLUMN failed_jobs.closed_at IS 'When it was closed.';
COMMENT ON COLUMN failed_jobs.closed_by IS 'Who closed it: an operator, or the event that explained it.';
COMMENT ON COLUMN failed_jobs.note IS 'Why it was closed, in the operator''s words.';
