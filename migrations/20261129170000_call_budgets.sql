-- Budgets of calls a second, which hold for all processes together.
SET LOCAL lock_timeout = '2s';

CREATE TABLE call_budgets (
    third_party text        NOT NULL,
    next_at     timestamptz NOT NULL,
    CONSTRAINT call_budgets_pkey PRIMARY KEY (third_party),
    CONSTRAINT call_budgets_third_party_is_name CHECK (
        third_party ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND char_length(third_party) <= 64
    ),
    CONSTRAINT call_budgets_next_at_is_finite CHECK (isfinite(next_at))
);

COMMENT ON TABLE call_budgets IS 'Up to when the calls of a third party with a budget are leased: a row for each, written a few times a second while it is called. A process leases the next times in one statement; each is for one call.';
COMMENT ON COLUMN call_budgets.third_party IS 'Its name; third-party is the one without a name.';
COMMENT ON COLUMN call_budgets.next_at IS 'The next time that nobody has, by the database''s clock; in the past where nobody calls. More than a minute beyond what can be leased it counts as the present.';
