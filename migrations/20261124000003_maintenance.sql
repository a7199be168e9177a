-- Periodic tasks that run in one process at a time, and what reconciliation found.

CREATE TABLE maintenance_tasks (
    name        text        NOT NULL,
    held_by     text,
    held_until  timestamptz,
    due_at      timestamptz NOT NULL,
    started_at  timestamptz,
    finished_at timestamptz,
    last_result jsonb,
    last_error  text,
    CONSTRAINT maintenance_tasks_pkey PRIMARY KEY (name),
    CONSTRAINT maintenance_tasks_name_known CHECK (name IN ('reconcile', 'retention')),
    CONSTRAINT maintenance_tasks_due_at_is_finite CHECK (isfinite(due_at)),
    CONSTRAINT maintenance_tasks_held_until_with_held_by
        CHECK ((held_by IS NULL) = (held_until IS NULL)),
    CONSTRAINT maintenance_tasks_last_result_is_object
        CHECK (jsonb_typeof(last_result) = 'object')
);

COMMENT ON TABLE maintenance_tasks IS 'The periodic tasks, each run by one process at a time: the row is the lease.';
COMMENT ON COLUMN maintenance_tasks.name IS 'reconcile or retention.';
COMMENT ON COLUMN maintenance_tasks.held_by IS 'The process that runs it now; null = nobody.';
COMMENT ON COLUMN maintenance_tasks.held_until IS 'When the lease ends unless it is renewed; another process may take it from then on.';
COMMENT ON COLUMN maintenance_tasks.due_at IS 'When it is due next. Set it to now() to have it run soon.';
COMMENT ON COLUMN maintenance_tasks.started_at IS 'When the last run began.';
COMMENT ON COLUMN maintenance_tasks.finished_at IS 'When the last run that was not cut off ended.';
COMMENT ON COLUMN maintenance_tasks.last_result IS 'What the last run without an error did.';
COMMENT ON COLUMN maintenance_tasks.last_error IS 'Why the last run failed; null after one that did not.';

-- Not due at once: what an upgrade restarts has other things to do first.
INSERT INTO maintenance_tasks (name, due_at)
VALUES ('reconcile', now() + interval '5 minutes'), ('retention', now() + interval '10 minutes');

CREATE TABLE reconcile_findings (
    transaction_id  uuid        NOT NULL,
    finding         text        NOT NULL,
    detail          jsonb       NOT NULL DEFAULT '{}',
    first_found_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_checked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    checks          integer     NOT NULL DEFAULT 1,
    next_check_at   timestamptz NOT NULL,
    closed_at       timestamptz,
    CONSTRAINT reconcile_findings_pkey PRIMARY KEY (transaction_id),
    CONSTRAINT reconcile_findings_finding_known CHECK (finding IN (
        'missing_there', 'missing_here', 'status_differs', 'late', 'unanswered', 'agreed'
    )),
    CONSTRAINT reconcile_findings_agreed_is_closed
        CHECK (finding <> 'agreed' OR closed_at IS NOT NULL),
    CONSTRAINT reconcile_findings_detail_is_object CHECK (jsonb_typeof(detail) = 'object'),
    CONSTRAINT reconcile_findings_checks_positive CHECK (checks > 0)
);

CREATE INDEX reconcile_findings_open_by_age
    ON reconcile_findings (first_found_at DESC, transaction_id DESC) WHERE closed_at IS NULL;
CREATE INDEX reconcile_findings_closed_by_age
    ON reconcile_findings (closed_at) WHERE closed_at IS NOT NULL;

COMMENT ON TABLE reconcile_findings IS 'What the reconciliation sweep saw at the third party about what is open here; one row a transaction.';
COMMENT ON COLUMN reconcile_findings.transaction_id IS 'The transaction. No foreign key: missing_here names one that is not here.';
COMMENT ON COLUMN reconcile_findings.finding IS 'missing_there, missing_here, status_differs, late (still pending there past our deadline), unanswered (the lookup was: nothing is known), or agreed (both sides say the same).';
COMMENT ON COLUMN reconcile_findings.detail IS 'ours = the status here, theirs = the status there, error = why the lookup was not answered.';
COMMENT ON COLUMN reconcile_findings.first_found_at IS 'Since when this is the finding.';
COMMENT ON COLUMN reconcile_findings.last_checked_at IS 'When it was last looked up.';
COMMENT ON COLUMN reconcile_findings.checks IS 'Lookups by the sweep so far.';
COMMENT ON COLUMN reconcile_findings.next_check_at IS 'A sweep looks it up again from then on; the gap doubles up to 24 hours.';
COMMENT ON COLUMN reconcile_findings.closed_at IS 'When the matter was settled, or both sides agreed; null = open.';

COMMENT ON TABLE apalis.jobs IS 'apalis''s job table. Each transaction has exactly four rows: create_transaction, create_at_third_party, update_status, notify_client; or none, where transactions.pruned_at is set.';

COMMENT ON COLUMN transaction_events.source IS 'Who saw or did it: api, webhook, operator, lease, reconcile, or a job_type.';
