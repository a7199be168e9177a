SET LOCAL lock_timeout = '2s';

-- NaN is larger than infinity.
SELECT quartet_add_check('circuits', 'circuits_times_are_finite',
    $$isfinite(opened_at) AND isfinite(open_until) AND isfinite(probe_until)
        AND isfinite(changed_at) AND open_for < 'infinity'$$);
