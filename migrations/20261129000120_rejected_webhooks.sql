-- Rejected webhooks, for operators: why the third party's webhooks are not taken. Anyone can send one
-- without a key, so there is one row a minute and reason, whatever comes.
CREATE TABLE rejected_webhooks (
    minute          timestamptz NOT NULL,
    reason          text        NOT NULL,
    count           bigint      NOT NULL,
    last_at         timestamptz NOT NULL,
    last_detail     text        NOT NULL,
    last_remote     text        NOT NULL,
    last_webhook_id text,
    CONSTRAINT rejected_webhooks_pkey PRIMARY KEY (minute, reason),
    CONSTRAINT rejected_webhooks_minute_is_whole CHECK (minute = date_trunc('minute', minute, 'UTC')),
    CONSTRAINT rejected_webhooks_times_are_finite CHECK (isfinite(minute) AND isfinite(last_at)),
    CONSTRAINT rejected_webhooks_count_positive CHECK (count > 0),
    CONSTRAINT rejected_webhooks_texts_are_short CHECK (
        char_length(reason) <= 100 AND char_length(last_detail) <= 1000
        AND char_length(last_remote) <= 100 AND char_length(last_webhook_id) <= 300
    )
);

COMMENT ON TABLE rejected_webhooks IS 'Webhooks that were rejected in the last seven days, counted by minute and reason, added up over all processes; each adds what it has rejected about every second.';
COMMENT ON COLUMN rejected_webhooks.minute IS 'The minute in which they came, by the database''s clock.';
COMMENT ON COLUMN rejected_webhooks.reason IS 'Why, in a fixed word such as wrong_signature or too_old.';
COMMENT ON COLUMN rejected_webhooks.count IS 'How many.';
COMMENT ON COLUMN rejected_webhooks.last_at IS 'When the last one of them came.';
COMMENT ON COLUMN rejected_webhooks.last_detail IS 'What the last one was answered; control characters are escaped.';
COMMENT ON COLUMN rejected_webhooks.last_remote IS 'The address that the last one came from: a proxy''s, where one is in front.';
COMMENT ON COLUMN rejected_webhooks.last_webhook_id IS 'The webhook-id of the last one, as its sender says; null where it had none.';
