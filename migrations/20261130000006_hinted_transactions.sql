-- Transactions that a hint contradicts are looked up again as well.
COMMENT ON TABLE ambiguous_creates IS 'Transactions that are looked up again after they have ended: with a create that got no answer, until a lookup has said how they ended after the last moment at which the third party may have stored it; and those that a webhook contradicts without proving anything, for as long.';
COMMENT ON COLUMN ambiguous_creates.ambiguous_at IS 'When its last create without an answer, or its last such webhook, was noted.';
