-- Sessions of the console that were ended before their time.

CREATE TABLE console_sign_outs (
    session    bytea       NOT NULL,
    expires_at timestamptz NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT console_sign_outs_pkey PRIMARY KEY (session),
    CONSTRAINT console_sign_outs_session_is_sha256 CHECK (octet_length(session) = 32)
);

CREATE INDEX console_sign_outs_by_expiry ON console_sign_outs (expires_at);

COMMENT ON TABLE console_sign_outs IS 'Sessions of the console that were signed out, kept until their cookies would have expired anyway.';
COMMENT ON COLUMN console_sign_outs.session IS 'SHA-256 of what the session''s cookie says and signs: which one it is, and no use to anybody.';
COMMENT ON COLUMN console_sign_outs.expires_at IS 'When the cookie expires by itself. The row is removed by a later sign-out.';
COMMENT ON COLUMN console_sign_outs.at IS 'When it was signed out.';
