-- The database's clock may be set back, as by a failover to a server whose clock is an hour behind.
-- The floors that were moved before then lie ahead of all that falls due in that hour, and so does
-- the time at which they were moved. A time that is later than now counts as none: the scans start
-- at the beginning of time, and the next worker process moves the floors again.
CREATE OR REPLACE VIEW operator.floors AS
SELECT
    known.name,
    LEAST(
        -- Also where there is no row.
        CASE WHEN floors.floor <= now() THEN floors.floor ELSE '-infinity' END,
        (SELECT min(resets.floor) FROM queue_floor_resets AS resets WHERE resets.name = known.name)
    ) AS floor
FROM (
    VALUES ('create_transaction'), ('create_at_third_party'), ('update_status'),
        ('notify_client'), ('leased')
) AS known (name)
LEFT JOIN queue_floors AS floors ON floors.name = known.name;

CREATE OR REPLACE FUNCTION quartet_advance_floors() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $$
DECLARE
    -- Times are those of the beginning of an SQL transaction: one that is under way may still write
    -- a job that was due, or leased, when it began. None of Quartet's lasts as long as this.
    stop CONSTANT timestamptz := clock_timestamp() - interval '20 seconds';
    resets CONSTANT bigint[] := ARRAY(SELECT id FROM queue_floor_resets);
    old record;
    look record;
    sweep record;
    is_swept boolean;
BEGIN
    -- One process at a time, every few seconds.
    PERFORM FROM queue_floors
    WHERE name = 'leased' AND (
        advanced_at < clock_timestamp() - interval '4 seconds' OR advanced_at > clock_timestamp()
    )
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR old IN
        SELECT
            floors.name,
            CASE WHEN floors.floor <= clock_timestamp() THEN floors.floor ELSE '-infinity' END
                AS floor,
            -- Null stays null: there is no sweep under way.
            CASE WHEN floors.swept_to > clock_timestamp() THEN '-infinity' ELSE floors.swept_to END
                AS swept_to,
            CASE WHEN floors.swept_at <= clock_timestamp() THEN floors.swept_at ELSE '-infinity' END
                AS swept_at
        FROM queue_floors AS floors
        ORDER BY floors.name
    LOOP
        look := quartet_look(
            old.name,
            LEAST(old.floor, (
                SELECT min(floor) FROM queue_floor_resets
                WHERE name = old.name AND id = ANY (resets)
            )),
            stop, '100 ms'
        );
        UPDATE queue_floors SET floor = look.reached, advanced_at = clock_timestamp()
        WHERE name = old.name;
        -- Nothing of Quartet's writes below a floor. A sweep finds what does so all the same, such
        -- as a process of an earlier release.
        CONTINUE WHEN old.swept_to IS NULL
            AND old.swept_at > clock_timestamp() - interval '5 minutes';
        sweep := quartet_look(
            old.name, COALESCE(old.swept_to, '-infinity'), look.reached, '20 ms'
        );
        is_swept := sweep.is_found OR sweep.reached >= look.reached;
        UPDATE queue_floors
        SET floor = CASE WHEN sweep.is_found THEN sweep.reached ELSE floor END,
            swept_to = CASE WHEN NOT is_swept THEN sweep.reached END,
            swept_at = CASE WHEN is_swept THEN clock_timestamp() ELSE swept_at END
        WHERE name = old.name;
    END LOOP;
    DELETE FROM queue_floor_resets WHERE id = ANY (resets);
END
$$;
