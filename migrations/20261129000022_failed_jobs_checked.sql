SET LOCAL lock_timeout = '2s';

SELECT quartet_add_check('failed_jobs', 'failed_jobs_times_in_range',
    $$opened_at BETWEEN '0001-01-01Z' AND '9999-12-31Z'
        AND closed_at BETWEEN '0001-01-01Z' AND '9999-12-31Z'$$);
