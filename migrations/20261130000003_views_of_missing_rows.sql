-- A copy of the database by table may lack rows that migrations have written, and a clock that was
-- set back leaves times that are too far ahead: the views show what Quartet makes of both.

-- A floor without a row is at the beginning of time: from null on nothing is due and nothing runs.
CREATE OR REPLACE VIEW operator.floors AS
SELECT
    known.name,
    LEAST(
        COALESCE(floors.floor, '-infinity'),
        (SELECT min(resets.floor) FROM queue_floor_resets AS resets WHERE resets.name = known.name)
    ) AS floor
FROM (
    VALUES ('create_transaction'), ('create_at_third_party'), ('update_status'),
        ('notify_client'), ('leased')
) AS known (name)
LEFT JOIN queue_floors AS floors ON floors.name = known.name;

CREATE OR REPLACE VIEW operator.circuit AS
SELECT
    name,
    CASE
        WHEN opened_at IS NULL THEN 'closed'
        -- Epochs: an infinite time has no difference to another.
        WHEN open_until > clock_timestamp() AND isfinite(open_until)
            AND extract(epoch FROM open_until)::float8
                - extract(epoch FROM clock_timestamp())::float8 <= open_for
        THEN 'open'
        ELSE 'half_open'
    END AS state,
    opened_at,
    open_until,
    reason,
    trips,
    cause
FROM circuits;
