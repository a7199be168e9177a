-- What operators see with psql of rejected webhooks, and of why the circuit is open.
CREATE VIEW operator.rejected_webhooks AS
SELECT minute, reason, count, last_at, last_detail, last_remote, last_webhook_id
FROM rejected_webhooks;
COMMENT ON VIEW operator.rejected_webhooks IS 'Webhooks that were rejected in the last seven days, counted by minute and reason. Fast filters: minute; minute with reason.';
COMMENT ON COLUMN operator.rejected_webhooks.minute IS 'The minute in which they came.';
COMMENT ON COLUMN operator.rejected_webhooks.reason IS 'Why, in a fixed word such as wrong_signature or too_old.';
COMMENT ON COLUMN operator.rejected_webhooks.count IS 'How many.';
COMMENT ON COLUMN operator.rejected_webhooks.last_at IS 'When the last one of them came.';
COMMENT ON COLUMN operator.rejected_webhooks.last_detail IS 'What the last one was answered.';
COMMENT ON COLUMN operator.rejected_webhooks.last_remote IS 'The address that the last one came from: a proxy''s, where one is in front.';
COMMENT ON COLUMN operator.rejected_webhooks.last_webhook_id IS 'The webhook-id of the last one, as its sender says; null where it had none.';

-- A view is replaced only with more columns at its end.
CREATE OR REPLACE VIEW operator.circuit AS
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
    trips,
    cause
FROM circuits;
COMMENT ON COLUMN operator.circuit.cause IS 'Why it is open, or last was: outage (calls fail), lookup_refused or create_refused (401 or 403: our credentials are refused for that call).';

DO $$
BEGIN
    GRANT SELECT ON operator.rejected_webhooks TO quartet_reader;
EXCEPTION
    WHEN undefined_object THEN NULL;
END
$$;
