-- Constraints that say what the program needs of a value, added to tables that may hold a row which
-- breaks one. Such a row must not block an upgrade, and the constraint must not be there beside it: a
-- CHECK that is NOT VALID is still enforced on every update of a row, whatever columns change. One
-- such job row would fail each claim of its queue. So a constraint is added where no row breaks it,
-- and where one does, a warning says so. The program does not rely on any of them.
CREATE FUNCTION quartet_add_check(table_name regclass, constraint_name text, expression text)
    RETURNS boolean
    LANGUAGE plpgsql
AS $$
DECLARE
    breaking bigint;
BEGIN
    IF EXISTS (
        SELECT FROM pg_constraint WHERE conrelid = table_name AND conname = constraint_name
    ) THEN
        RETURN true;
    END IF;
    EXECUTE format('SELECT count(*) FROM %s WHERE NOT (%s)', table_name, expression) INTO breaking;
    IF breaking > 0 THEN
        RAISE WARNING
            '% rows of % break the constraint %, which is not added. See them: SELECT * FROM % WHERE NOT (%)',
            breaking, table_name, constraint_name, table_name, expression;
        RETURN false;
    END IF;
    -- No scan under this lock.
    EXECUTE format(
        'ALTER TABLE %s ADD CONSTRAINT %I CHECK (%s) NOT VALID', table_name, constraint_name, expression
    );
    RETURN true;
END
$$;
COMMENT ON FUNCTION quartet_add_check IS 'Adds a constraint, not validated, unless a row breaks it; tells whether it is there.';

-- A row may have come to break it between the count and the lock.
CREATE FUNCTION quartet_validate_check(table_name regclass, constraint_name text) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_constraint WHERE conrelid = table_name AND conname = constraint_name
    ) THEN
        RETURN false;
    END IF;
    BEGIN
        EXECUTE format('ALTER TABLE %s VALIDATE CONSTRAINT %I', table_name, constraint_name);
    EXCEPTION WHEN check_violation THEN
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', table_name, constraint_name);
        RAISE WARNING 'a row of % breaks the constraint %, which is dropped', table_name, constraint_name;
        RETURN false;
    END;
    RETURN true;
END
$$;
COMMENT ON FUNCTION quartet_validate_check IS 'Validates a constraint that quartet_add_check added, or drops it where a row breaks it; tells whether it is valid.';
