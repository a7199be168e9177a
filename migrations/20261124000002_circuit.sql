-- The circuit breakers' shared state: one row for each guarded peer, by the database's clock.

CREATE TABLE circuits (
    name        text             NOT NULL,
    opened_at   timestamptz,
    open_until  timestamptz,
    open_for    double precision,
    reason      text,
    trips       integer          NOT NULL DEFAULT 0,
    probe_by    text,
    probe_until timestamptz,
    changed_at  timestamptz      NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT circuits_pkey PRIMARY KEY (name),
    CONSTRAINT circuits_open_until_while_opened
        CHECK ((opened_at IS NULL) = (open_until IS NULL)),
    CONSTRAINT circuits_open_for_while_opened CHECK ((opened_at IS NULL) = (open_for IS NULL)),
    CONSTRAINT circuits_open_for_positive CHECK (open_for > 0),
    CONSTRAINT circuits_opened_for_a_reason CHECK (opened_at IS NULL OR reason IS NOT NULL),
    CONSTRAINT circuits_opened_by_a_trip CHECK (trips >= CASE WHEN opened_at IS NULL THEN 0 ELSE 1 END),
    CONSTRAINT circuits_probe_while_opened CHECK (opened_at IS NOT NULL OR probe_by IS NULL),
    CONSTRAINT circuits_probe_until_with_probe_by
        CHECK ((probe_by IS NULL) = (probe_until IS NULL))
);

INSERT INTO circuits (name) VALUES ('third_party');

COMMENT ON TABLE circuits IS 'Circuit breakers. closed: opened_at is null; open: open_until lies ahead, no call is made; half_open: open_until has passed, one probe at a time is made.';
COMMENT ON COLUMN circuits.name IS 'The guarded peer: third_party.';
COMMENT ON COLUMN circuits.opened_at IS 'When it opened; failed probes leave it. Null while it is closed.';
COMMENT ON COLUMN circuits.open_until IS 'From then on a probe may be made.';
COMMENT ON COLUMN circuits.open_for IS 'Seconds of the present opening; doubled by each failed probe.';
COMMENT ON COLUMN circuits.reason IS 'Why it is open; once it has closed: why it last was.';
COMMENT ON COLUMN circuits.trips IS 'How often it has opened; failed probes do not count.';
COMMENT ON COLUMN circuits.probe_by IS 'The probe under way: the process and a ULID, the fence that its result must match.';
COMMENT ON COLUMN circuits.probe_until IS 'From then on that probe counts as lost, and another may be made.';
COMMENT ON COLUMN circuits.changed_at IS 'When it last opened, closed, or was probed.';

COMMENT ON COLUMN apalis.jobs.metadata IS 'polls = polls done by update_status; waits = waits in a row for a transaction that is missing; poll_since = where the deadline counts from, after a replay or after time in which the circuit was open.';
