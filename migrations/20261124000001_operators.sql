-- The operators' side: who did what, and which queues are paused.

CREATE TABLE operator_actions (
    id             bigint      GENERATED ALWAYS AS IDENTITY,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    operator       text        NOT NULL,
    action         text        NOT NULL,
    transaction_id uuid,
    dead_letter_id uuid,
    job_id         text,
    queue          text,
    note           text,
    detail         jsonb       NOT NULL DEFAULT '{}',
    CONSTRAINT operator_actions_pkey PRIMARY KEY (id),
    CONSTRAINT operator_actions_operator_length CHECK (length(operator) BETWEEN 1 AND 200),
    CONSTRAINT operator_actions_action_known CHECK (action IN (
        'replay', 'resolve', 'discard', 'retry_job', 'cancel_job', 'pause_queue', 'resume_queue'
    )),
    CONSTRAINT operator_actions_detail_is_object CHECK (jsonb_typeof(detail) = 'object')
);

CREATE INDEX operator_actions_by_dead_letter ON operator_actions (dead_letter_id, id)
    WHERE dead_letter_id IS NOT NULL;
CREATE INDEX operator_actions_by_transaction ON operator_actions (transaction_id, id)
    WHERE transaction_id IS NOT NULL;

COMMENT ON TABLE operator_actions IS 'Audit, append-only: every action of an operator that took place, written in the SQL transaction of the action.';
COMMENT ON COLUMN operator_actions.id IS 'Order of writing.';
COMMENT ON COLUMN operator_actions.at IS 'When.';
COMMENT ON COLUMN operator_actions.operator IS 'Who: operator, with the name that was given in brackets.';
COMMENT ON COLUMN operator_actions.action IS 'What was done.';
COMMENT ON COLUMN operator_actions.transaction_id IS 'The transaction that it was about, where there was one.';
COMMENT ON COLUMN operator_actions.dead_letter_id IS 'The dead letter that was acted on.';
COMMENT ON COLUMN operator_actions.job_id IS 'The job that was acted on.';
COMMENT ON COLUMN operator_actions.queue IS 'The queue that was acted on, or that of the job.';
COMMENT ON COLUMN operator_actions.note IS 'Why, in the operator''s words.';
COMMENT ON COLUMN operator_actions.detail IS 'What changed: the status that was set, the state before.';

CREATE TABLE queue_pauses (
    queue     text        NOT NULL,
    paused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    paused_by text        NOT NULL,
    note      text,
    CONSTRAINT queue_pauses_pkey PRIMARY KEY (queue),
    CONSTRAINT queue_pauses_queue_known CHECK (queue IN (
        'create_transaction', 'create_at_third_party', 'update_status', 'notify_client'
    ))
);

COMMENT ON TABLE queue_pauses IS 'The queues that are paused: no process claims a job of a queue that has a row here.';
COMMENT ON COLUMN queue_pauses.queue IS 'The job_type.';
COMMENT ON COLUMN queue_pauses.paused_at IS 'When it was paused.';
COMMENT ON COLUMN queue_pauses.paused_by IS 'The operator that paused it.';
COMMENT ON COLUMN queue_pauses.note IS 'Why.';

CREATE TABLE past_pauses (
    queue      text        NOT NULL,
    paused_at  timestamptz NOT NULL,
    resumed_at timestamptz NOT NULL,
    CONSTRAINT past_pauses_pkey PRIMARY KEY (queue, resumed_at, paused_at)
);

COMMENT ON TABLE past_pauses IS 'When queues were paused: such time does not count towards the polls'' deadline.';
COMMENT ON COLUMN past_pauses.queue IS 'The job_type.';
COMMENT ON COLUMN past_pauses.paused_at IS 'When the pause began.';
COMMENT ON COLUMN past_pauses.resumed_at IS 'When it ended.';
