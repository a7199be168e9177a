-- Keys and secrets that were rotated and are still good for a while, and secrets that are sealed.
--
-- Only added to: processes of the release before go on with `clients` as it is. What they stored in
-- plain is sealed in place by the first process of this release that has a master key; theirs then
-- cannot read it and try again until they are replaced. A later release may add the CHECK that
-- `client_retiring_secrets` has to `clients`.
SET LOCAL lock_timeout = '2s';

CREATE TABLE client_retiring_keys (
    api_key_hash bytea       NOT NULL,
    client_id    uuid        NOT NULL,
    retired_at   timestamptz NOT NULL DEFAULT now(),
    valid_until  timestamptz NOT NULL,
    CONSTRAINT client_retiring_keys_pkey PRIMARY KEY (api_key_hash),
    CONSTRAINT client_retiring_keys_client_id_fkey FOREIGN KEY (client_id) REFERENCES clients (id),
    CONSTRAINT client_retiring_keys_api_key_hash_is_sha256 CHECK (octet_length(api_key_hash) = 32)
);

CREATE INDEX client_retiring_keys_by_client ON client_retiring_keys (client_id);

COMMENT ON TABLE client_retiring_keys IS 'API keys that were rotated with an overlap, each accepted beside the present one until valid_until.';
COMMENT ON COLUMN client_retiring_keys.api_key_hash IS 'SHA-256 of the API key.';
COMMENT ON COLUMN client_retiring_keys.client_id IS 'The client whose key it is.';
COMMENT ON COLUMN client_retiring_keys.retired_at IS 'When another key took its place.';
COMMENT ON COLUMN client_retiring_keys.valid_until IS 'From then on it is refused. The row is removed by a later rotation.';

CREATE TABLE client_retiring_secrets (
    id             bigint      GENERATED ALWAYS AS IDENTITY,
    client_id      uuid        NOT NULL,
    signing_secret text        NOT NULL,
    retired_at     timestamptz NOT NULL DEFAULT now(),
    valid_until    timestamptz NOT NULL,
    CONSTRAINT client_retiring_secrets_pkey PRIMARY KEY (id),
    CONSTRAINT client_retiring_secrets_client_id_fkey
        FOREIGN KEY (client_id) REFERENCES clients (id),
    CONSTRAINT client_retiring_secrets_signing_secret_is_sealed
        CHECK (signing_secret LIKE 'sealed:%')
);

CREATE INDEX client_retiring_secrets_by_client ON client_retiring_secrets (client_id);

COMMENT ON TABLE client_retiring_secrets IS 'Signing secrets that were rotated with an overlap: each signs beside the present one until valid_until.';
COMMENT ON COLUMN client_retiring_secrets.id IS 'Order of retirement.';
COMMENT ON COLUMN client_retiring_secrets.client_id IS 'The client whose secret it is.';
COMMENT ON COLUMN client_retiring_secrets.signing_secret IS 'The secret, sealed with a master key: sealed:v1:key id:ciphertext.';
COMMENT ON COLUMN client_retiring_secrets.retired_at IS 'When another secret took its place.';
COMMENT ON COLUMN client_retiring_secrets.valid_until IS 'From then on it does not sign. The row is removed by a later rotation.';

COMMENT ON COLUMN clients.api_key_hash IS 'SHA-256 of the present API key; the key itself is shown once and never stored.';
COMMENT ON COLUMN clients.signing_secret IS 'The secret that signs what is sent to callback_url, sealed with a master key (sealed:v1:key id:ciphertext); whsec_… where the release before stored it and nobody has sealed it yet.';
