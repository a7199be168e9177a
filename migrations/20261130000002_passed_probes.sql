-- Which profiles were found to match what their third parties answer.
SET LOCAL lock_timeout = '2s';

CREATE TABLE passed_probes (
    profile_hash bytea       NOT NULL,
    profile      text        NOT NULL,
    is_live      boolean     NOT NULL,
    passed_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT passed_probes_pkey PRIMARY KEY (profile_hash),
    CONSTRAINT passed_probes_profile_hash_is_sha256 CHECK (octet_length(profile_hash) = 32),
    CONSTRAINT passed_probes_profile_length CHECK (char_length(profile) BETWEEN 1 AND 64)
);

COMMENT ON TABLE passed_probes IS 'Profiles with which `quartet third-party probe` has passed: a row for each text of a profile. `quartet serve` warns of a profile without one.';
COMMENT ON COLUMN passed_probes.profile_hash IS 'SHA-256 of the profile''s text: one that is changed is to be probed again.';
COMMENT ON COLUMN passed_probes.profile IS 'Its name.';
COMMENT ON COLUMN passed_probes.is_live IS 'Whether one of these probes created a transaction; false for lookups alone.';
COMMENT ON COLUMN passed_probes.passed_at IS 'When the last one passed.';
