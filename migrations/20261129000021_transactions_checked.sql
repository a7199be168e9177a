SET LOCAL lock_timeout = '2s';

-- Strict: in lax mode an array of strings would pass for its elements. Silent: what is no object is
-- another constraint's.
SELECT quartet_add_check('transactions', 'transactions_metadata_is_strings',
    $$NOT jsonb_path_exists(metadata, 'strict $.* ? (@.type() != "string")', '{}', true)$$);
SELECT quartet_add_check('transactions', 'transactions_times_in_range',
    $$created_at BETWEEN '0001-01-01Z' AND '9999-12-31Z'
        AND updated_at BETWEEN '0001-01-01Z' AND '9999-12-31Z'
        AND settled_at BETWEEN '0001-01-01Z' AND '9999-12-31Z'$$);
SELECT quartet_add_check('transactions', 'transactions_version_from_one', 'version >= 1');
