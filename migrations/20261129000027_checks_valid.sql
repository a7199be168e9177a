-- Scans, under locks that let rows be read and written.
SET LOCAL lock_timeout = '2s';

SELECT
    quartet_validate_check('transactions', 'transactions_metadata_is_strings'),
    quartet_validate_check('transactions', 'transactions_times_in_range'),
    quartet_validate_check('transactions', 'transactions_version_from_one'),
    quartet_validate_check('failed_jobs', 'failed_jobs_times_in_range'),
    quartet_validate_check('apalis.jobs', 'quartet_jobs_attempts_in_range'),
    quartet_validate_check('apalis.jobs', 'quartet_jobs_last_result_is_object'),
    quartet_validate_check('past_pauses', 'past_pauses_resumed_after_paused'),
    quartet_validate_check('circuits', 'circuits_times_are_finite'),
    quartet_validate_check('maintenance_tasks', 'maintenance_tasks_held_until_is_finite');
