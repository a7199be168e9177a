-- Which third parties a client may use. Constant defaults: no row is written, and a client that is
-- there keeps the one third party that it has used.
SET LOCAL lock_timeout = '2s';

ALTER TABLE clients
    ADD COLUMN third_party text NOT NULL DEFAULT 'third-party',
    ADD COLUMN other_third_parties text[] NOT NULL DEFAULT '{}',
    ADD CONSTRAINT clients_third_party_is_name
        CHECK (third_party ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND char_length(third_party) <= 64),
    ADD CONSTRAINT clients_other_third_parties_are_there
        -- A plain list: other bounds and dimensions are refused.
        CHECK (
            array_position(other_third_parties, NULL) IS NULL
            AND COALESCE(array_lower(other_third_parties, 1), 1) = 1
        );
COMMENT ON COLUMN clients.third_party IS 'Where its transactions are created that name no third party.';
COMMENT ON COLUMN clients.other_third_parties IS 'The third parties that its transactions may name besides.';

COMMENT ON TABLE circuits IS 'Circuit breakers, a row for each third party once its circuit has opened. closed: opened_at is null; open: open_until lies ahead, no call is made; half_open: open_until has passed, one probe at a time is made.';
COMMENT ON COLUMN circuits.name IS 'The third party; third_party is the one without a name.';

-- New columns at the end: what an older process selects stays as it is.
CREATE OR REPLACE VIEW operator.transactions AS
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
    now() - LEAST(GREATEST(transactions.created_at, '0001-01-01Z'), '9999-12-31Z') AS age,
    CASE WHEN transactions.settled_at IS NOT NULL THEN
        LEAST(GREATEST(transactions.settled_at, '0001-01-01Z'), '9999-12-31Z')
            - LEAST(GREATEST(transactions.created_at, '0001-01-01Z'), '9999-12-31Z')
    END AS time_to_final,
    transactions.client_id,
    transactions.pruned_at,
    transactions.third_party,
    transactions.provider_id
FROM transactions
JOIN clients ON clients.id = transactions.client_id;
COMMENT ON VIEW operator.transactions IS 'Transactions with their client''s name and their ages. Fast filters: id; status with created_at; client or client_id, with status and created_at; third_party with provider_id; third_party <> ''third-party'' and third_party, with status and created_at.';
COMMENT ON COLUMN operator.transactions.third_party IS 'Name of the third party at which it is created.';
COMMENT ON COLUMN operator.transactions.provider_id IS 'The third party''s own id of it, once it is known.';
