SET LOCAL lock_timeout = '2s';

-- For Quartet's queues alone, as the table's other constraints of ours. `run_at` may be infinite: a
-- job is parked that way.
SELECT quartet_add_check('apalis.jobs', 'quartet_jobs_attempts_in_range',
    $$job_type NOT IN ('create_transaction', 'create_at_third_party', 'update_status', 'notify_client')
        OR attempts >= 0 AND max_attempts >= 1$$);
SELECT quartet_add_check('apalis.jobs', 'quartet_jobs_last_result_is_object',
    $$job_type NOT IN ('create_transaction', 'create_at_third_party', 'update_status', 'notify_client')
        OR jsonb_typeof(last_result) = 'object'$$);
