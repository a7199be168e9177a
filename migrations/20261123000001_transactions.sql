-- Clients, the transactions they post, and the evidence about each transaction.

CREATE TABLE clients (
    id             uuid        NOT NULL DEFAULT gen_random_uuid(),
    name           text        NOT NULL,
    api_key_hash   bytea       NOT NULL,
    callback_url   text        NOT NULL,
    signing_secret text        NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    disabled_at    timestamptz,
    CONSTRAINT clients_pkey PRIMARY KEY (id),
    CONSTRAINT clients_name_key UNIQUE (name),
    CONSTRAINT clients_api_key_hash_key UNIQUE (api_key_hash),
    CONSTRAINT clients_name_length CHECK (length(name) BETWEEN 1 AND 100),
    CONSTRAINT clients_api_key_hash_is_sha256 CHECK (octet_length(api_key_hash) = 32),
    CONSTRAINT clients_callback_url_is_http CHECK (callback_url ~ '^https?://')
);

COMMENT ON TABLE clients IS 'Who may post transactions, and where each is told about them.';
COMMENT ON COLUMN clients.id IS 'Internal id.';
COMMENT ON COLUMN clients.name IS 'Unique name, chosen by the operator.';
COMMENT ON COLUMN clients.api_key_hash IS 'SHA-256 of the API key; the key itself is shown once and never stored.';
COMMENT ON COLUMN clients.callback_url IS 'Where notify_client sends PUT requests.';
COMMENT ON COLUMN clients.signing_secret IS 'whsec_… secret that signs what is sent to callback_url.';
COMMENT ON COLUMN clients.created_at IS 'When the client was added.';
COMMENT ON COLUMN clients.updated_at IS 'When its key, URL, secret or state last changed.';
COMMENT ON COLUMN clients.disabled_at IS 'Set: its API key is refused. Its accepted transactions still run to their end.';

CREATE TABLE transactions (
    id               uuid        NOT NULL,
    client_id        uuid        NOT NULL,
    content_hash     bytea       NOT NULL,
    amount           bigint,
    currency         text,
    reference        text,
    metadata         jsonb,
    status           text        NOT NULL DEFAULT 'pending',
    version          integer     NOT NULL DEFAULT 1,
    notified_version integer     NOT NULL DEFAULT 0,
    settled_at       timestamptz,
    settled_by       text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT transactions_pkey PRIMARY KEY (id),
    CONSTRAINT transactions_client_id_fkey FOREIGN KEY (client_id) REFERENCES clients (id),
    CONSTRAINT transactions_content_hash_is_sha256 CHECK (octet_length(content_hash) = 32),
    CONSTRAINT transactions_amount_not_negative CHECK (amount >= 0),
    CONSTRAINT transactions_amount_with_currency CHECK ((amount IS NULL) = (currency IS NULL)),
    CONSTRAINT transactions_currency_is_iso_4217 CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT transactions_reference_length CHECK (length(reference) <= 140),
    CONSTRAINT transactions_metadata_is_object CHECK (jsonb_typeof(metadata) = 'object'),
    CONSTRAINT transactions_status_known
        CHECK (status IN ('pending', 'completed', 'declined', 'failed')),
    CONSTRAINT transactions_settled_by_known CHECK (
        settled_by IN ('third_party_response', 'poll', 'webhook', 'creation_failure', 'operator')
    ),
    CONSTRAINT transactions_pending_is_unsettled
        CHECK ((status = 'pending') = (settled_at IS NULL)),
    CONSTRAINT transactions_settled_by_with_settled_at
        CHECK ((settled_at IS NULL) = (settled_by IS NULL)),
    CONSTRAINT transactions_first_version_is_pending CHECK ((version = 1) = (status = 'pending')),
    CONSTRAINT transactions_notified_version_exists
        CHECK (notified_version BETWEEN 0 AND version)
) WITH (fillfactor = 80);

-- A client's list, newest first, by keyset.
CREATE INDEX transactions_by_client ON transactions (client_id, created_at DESC, id DESC);

COMMENT ON TABLE transactions IS 'One row for each accepted transaction, written in the same SQL statement as its four jobs in apalis.jobs.';
COMMENT ON COLUMN transactions.id IS 'The client''s id for it: the idempotency key, also at the third party.';
COMMENT ON COLUMN transactions.client_id IS 'The client that posted it.';
COMMENT ON COLUMN transactions.content_hash IS 'SHA-256 of the canonical content: a repeated id must carry the same content.';
COMMENT ON COLUMN transactions.amount IS 'Minor units of the currency (cents for EUR).';
COMMENT ON COLUMN transactions.currency IS 'ISO 4217 alphabetic code.';
COMMENT ON COLUMN transactions.reference IS 'The client''s free text, at most 140 characters.';
COMMENT ON COLUMN transactions.metadata IS 'The client''s string pairs, at most 50.';
COMMENT ON COLUMN transactions.status IS 'pending, then once completed, declined or failed.';
COMMENT ON COLUMN transactions.version IS 'Starts at 1 and grows by one with each status change.';
COMMENT ON COLUMN transactions.notified_version IS 'The last version the client has acknowledged with a 2xx; 0 = none yet.';
COMMENT ON COLUMN transactions.settled_at IS 'When the status left pending, or an operator last set it.';
COMMENT ON COLUMN transactions.settled_by IS 'What settled it.';
COMMENT ON COLUMN transactions.created_at IS 'When it was accepted.';
COMMENT ON COLUMN transactions.updated_at IS 'When the status last changed.';

CREATE TABLE transaction_events (
    id             bigint      GENERATED ALWAYS AS IDENTITY,
    transaction_id uuid        NOT NULL,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind           text        NOT NULL,
    source         text        NOT NULL,
    detail         jsonb       NOT NULL DEFAULT '{}',
    CONSTRAINT transaction_events_pkey PRIMARY KEY (id),
    CONSTRAINT transaction_events_transaction_id_fkey
        FOREIGN KEY (transaction_id) REFERENCES transactions (id) ON DELETE CASCADE,
    CONSTRAINT transaction_events_kind_known CHECK (kind IN (
        'accepted', 'found_at_third_party', 'created_at_third_party', 'create_ambiguous',
        'poll_status', 'webhook', 'settled', 'conflict', 'client_notified', 'client_refused',
        'dead_letter_opened', 'dead_letter_closed', 'operator'
    )),
    CONSTRAINT transaction_events_detail_is_object CHECK (jsonb_typeof(detail) = 'object')
);

CREATE INDEX transaction_events_by_transaction ON transaction_events (transaction_id, id);

COMMENT ON TABLE transaction_events IS 'Evidence, append-only: everything observed or decided about a transaction.';
COMMENT ON COLUMN transaction_events.id IS 'Order of writing.';
COMMENT ON COLUMN transaction_events.transaction_id IS 'The transaction it is about.';
COMMENT ON COLUMN transaction_events.at IS 'When it was written.';
COMMENT ON COLUMN transaction_events.kind IS 'What happened.';
COMMENT ON COLUMN transaction_events.source IS 'Who saw or did it: api, webhook, operator, lease, or a job_type.';
COMMENT ON COLUMN transaction_events.detail IS 'What was seen: status, version, error, ids.';
