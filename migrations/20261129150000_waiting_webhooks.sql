-- Webhooks that name a transaction by the third party's id alone, and come before the create's answer
-- with that id is recorded.
SET LOCAL lock_timeout = '2s';

CREATE TABLE waiting_webhooks (
    webhook_id  text        NOT NULL,
    third_party text        NOT NULL,
    profile     text        NOT NULL,
    provider_id text        NOT NULL,
    status      text        NOT NULL,
    rule        text        NOT NULL,
    claims      jsonb       NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    tries       integer     NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,
    CONSTRAINT waiting_webhooks_pkey PRIMARY KEY (webhook_id),
    CONSTRAINT waiting_webhooks_webhook_id_length CHECK (char_length(webhook_id) BETWEEN 1 AND 255),
    CONSTRAINT waiting_webhooks_third_party_length
        CHECK (char_length(third_party) BETWEEN 1 AND 64),
    CONSTRAINT waiting_webhooks_profile_length CHECK (char_length(profile) BETWEEN 1 AND 64),
    CONSTRAINT waiting_webhooks_tries_not_negative CHECK (tries >= 0),
    CONSTRAINT waiting_webhooks_provider_id_length
        CHECK (char_length(provider_id) BETWEEN 1 AND 255),
    CONSTRAINT waiting_webhooks_status_known
        CHECK (status IN ('pending', 'completed', 'declined')),
    CONSTRAINT waiting_webhooks_claims_is_array CHECK (jsonb_typeof(claims) = 'array'),
    CONSTRAINT waiting_webhooks_times_are_finite
        CHECK (isfinite(received_at) AND isfinite(next_try_at) AND isfinite(ended_at))
);

CREATE INDEX waiting_webhooks_waiting ON waiting_webhooks (received_at) WHERE ended_at IS NULL;
CREATE INDEX waiting_webhooks_ended ON waiting_webhooks (ended_at) WHERE ended_at IS NOT NULL;

COMMENT ON TABLE waiting_webhooks IS 'Verified webhooks about a third party''s id that no transaction has yet. One is applied and removed once a transaction has the id; after the deadline of polls a final status becomes an unknown_transaction, and the row only recognises repeats.';
COMMENT ON COLUMN waiting_webhooks.webhook_id IS 'The event''s idempotency key, as in webhook_deliveries.';
COMMENT ON COLUMN waiting_webhooks.third_party IS 'Name of the third party.';
COMMENT ON COLUMN waiting_webhooks.profile IS 'Name of the profile that it was read by. It is applied by this one alone.';
COMMENT ON COLUMN waiting_webhooks.provider_id IS 'The third party''s id of the transaction.';
COMMENT ON COLUMN waiting_webhooks.status IS 'What it reports; pending where it only says that there is something to look up, or proves nothing.';
COMMENT ON COLUMN waiting_webhooks.rule IS 'What of the profile decided that.';
COMMENT ON COLUMN waiting_webhooks.claims IS 'What else it says, to be compared with the transaction: [{at, found, is}].';
COMMENT ON COLUMN waiting_webhooks.received_at IS 'When it was received.';
COMMENT ON COLUMN waiting_webhooks.tries IS 'How often it could not be applied.';
COMMENT ON COLUMN waiting_webhooks.next_try_at IS 'It is not applied sooner.';
COMMENT ON COLUMN waiting_webhooks.ended_at IS 'When it was given up; null while it waits.';

COMMENT ON COLUMN apalis.jobs.metadata IS 'polls = polls done by update_status; answers = the last different answers to them; last_answer = the last answer, where it could not be used; waits = waits for a transaction that is missing, or postponements of notify_client because of its callback host; host_down_since, host_error = since when that host does not answer, and how its last call ended; probes = failed calls in a row while the circuit was open, or refusals of a create in a row; poll_since = where the deadline counts from, after a replay or after time in which the circuit was open; hinted_at = when the last poll was due that a webhook made due, in milliseconds since 1970; traceparent = the W3C trace context of the accept, which each run continues, where it was traced.';
