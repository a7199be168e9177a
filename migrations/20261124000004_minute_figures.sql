-- What operators watch: figures per minute, and the trace of a transaction in its job rows.
--
-- What the operators' console draws its charts from: a few counts for each minute, so that nobody
-- counts a history in a request.

CREATE TABLE minute_figures (
    minute timestamptz NOT NULL,
    figure text        NOT NULL,
    label  text        NOT NULL,
    value  bigint      NOT NULL,
    CONSTRAINT minute_figures_pkey PRIMARY KEY (minute, figure, label),
    CONSTRAINT minute_figures_minute_is_whole CHECK (minute = date_trunc('minute', minute, 'UTC')),
    CONSTRAINT minute_figures_figure_known CHECK (figure IN ('accepted', 'jobs', 'final')),
    CONSTRAINT minute_figures_value_positive CHECK (value > 0)
-- Each row of the present minute is updated every few seconds by each busy process.
) WITH (fillfactor = 50);

COMMENT ON TABLE minute_figures IS 'Counts for each minute of the last 25 hours, added up over all processes; each adds what it has counted about every 5 s. Approximate: a process that is killed loses its last seconds.';
COMMENT ON COLUMN minute_figures.minute IS 'The minute in which it was written, by the database''s clock.';
COMMENT ON COLUMN minute_figures.figure IS 'accepted = transactions accepted; jobs = runs of jobs; final = transactions that became final.';
COMMENT ON COLUMN minute_figures.label IS 'accepted: empty. jobs: {queue}/{outcome}. final: {settled_by}/{upper bound of the time from accept to final in ms, or inf}; the bucket excludes the one below.';
COMMENT ON COLUMN minute_figures.value IS 'How many.';

COMMENT ON COLUMN apalis.jobs.metadata IS 'polls = polls done by update_status; waits = waits in a row for a transaction that is missing; poll_since = where the deadline counts from after a replay; traceparent = the W3C trace context of the accept, which each run continues, where it was traced.';
