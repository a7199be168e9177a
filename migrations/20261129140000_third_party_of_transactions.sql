-- Which third party a transaction is created at, and what it is called there.
SET LOCAL lock_timeout = '2s';

-- A constant default and a column without values: no row is written, however many there are. No row
-- can break the checks; they are validated by a scan of its own, which lets rows be written.
ALTER TABLE transactions
    ADD COLUMN third_party text NOT NULL DEFAULT 'third-party',
    ADD COLUMN provider_id text,
    ADD CONSTRAINT transactions_third_party_length
        CHECK (char_length(third_party) BETWEEN 1 AND 64) NOT VALID,
    ADD CONSTRAINT transactions_provider_id_length
        CHECK (char_length(provider_id) BETWEEN 1 AND 255) NOT VALID;
COMMENT ON COLUMN transactions.third_party IS 'Name of the third party at which it is created.';
COMMENT ON COLUMN transactions.provider_id IS 'The third party''s own id of it, once it is known.';

-- Written before a create is sent, where the third party cannot be asked whether it arrived: what was
-- sent, and since when. A crash between the create and its answer leaves this row.
CREATE TABLE sent_creates (
    transaction_id uuid        NOT NULL,
    first_sent_at  timestamptz NOT NULL,
    last_sent_at   timestamptz NOT NULL,
    repeat_until   timestamptz NOT NULL,
    request        text,
    CONSTRAINT sent_creates_pkey PRIMARY KEY (transaction_id),
    CONSTRAINT sent_creates_transaction_id_fkey
        FOREIGN KEY (transaction_id) REFERENCES transactions (id) ON DELETE CASCADE,
    CONSTRAINT sent_creates_times_are_finite CHECK (
        isfinite(first_sent_at) AND isfinite(last_sent_at) AND isfinite(repeat_until)
    ),
    CONSTRAINT sent_creates_first_before_last CHECK (first_sent_at <= last_sent_at)
);

CREATE INDEX sent_creates_by_repeat_until ON sent_creates (repeat_until) WHERE request IS NOT NULL;

COMMENT ON TABLE sent_creates IS 'Creates that may have gone through, of third parties whose profile needs to know; a row is removed once its transaction has ended.';
COMMENT ON COLUMN sent_creates.transaction_id IS 'The transaction.';
COMMENT ON COLUMN sent_creates.first_sent_at IS 'When the first create was sent that may have gone through.';
COMMENT ON COLUMN sent_creates.last_sent_at IS 'When the last one was sent.';
COMMENT ON COLUMN sent_creates.repeat_until IS 'Until when the same request may be sent again without a second transaction.';
COMMENT ON COLUMN sent_creates.request IS 'The first request, sealed with the master key, to be sent again byte for byte; null where it is never repeated, or not any more.';
