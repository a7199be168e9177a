-- Which transactions are looked up again although they have ended: a third party may store a create
-- minutes after it answered 504, so that what it says later may differ from what it said first.
--
-- A table of its own, because it holds only what is still to be looked up: neither the evidence nor the
-- transactions need an index for it. A create that got no answer is rare, and one row is written for it.
CREATE TABLE ambiguous_creates (
    transaction_id uuid        NOT NULL,
    ambiguous_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    look_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT ambiguous_creates_pkey PRIMARY KEY (transaction_id),
    CONSTRAINT ambiguous_creates_transaction_id_fkey
        FOREIGN KEY (transaction_id) REFERENCES transactions (id) ON DELETE CASCADE,
    CONSTRAINT ambiguous_creates_times_are_finite
        CHECK (isfinite(ambiguous_at) AND isfinite(look_at))
);

CREATE INDEX ambiguous_creates_by_look ON ambiguous_creates (look_at);

COMMENT ON TABLE ambiguous_creates IS 'Transactions with a create that got no answer, until a lookup has said how they ended after the last moment at which the third party may have stored it.';
COMMENT ON COLUMN ambiguous_creates.transaction_id IS 'The transaction.';
COMMENT ON COLUMN ambiguous_creates.ambiguous_at IS 'When its last create without an answer was noted.';
COMMENT ON COLUMN ambiguous_creates.look_at IS 'A reconciliation sweep looks it up from then on, once it has ended here.';

-- With the rights of the owner, so that whoever may write evidence needs no further right.
CREATE FUNCTION quartet_note_ambiguous_create() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO ambiguous_creates (transaction_id) VALUES (NEW.transaction_id)
    ON CONFLICT (transaction_id) DO UPDATE
    SET ambiguous_at = excluded.ambiguous_at, look_at = excluded.look_at;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION quartet_note_ambiguous_create IS 'Has a transaction looked up again later, whose create got no answer.';

-- A trigger rather than a statement in each of the places that write this evidence, the processes of
-- earlier releases among them. The condition costs other evidence next to nothing.
CREATE TRIGGER quartet_note_ambiguous_create
    AFTER INSERT ON transaction_events
    FOR EACH ROW WHEN (NEW.kind = 'create_ambiguous')
    EXECUTE FUNCTION quartet_note_ambiguous_create();
