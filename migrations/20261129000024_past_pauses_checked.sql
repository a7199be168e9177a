SET LOCAL lock_timeout = '2s';

SELECT quartet_add_check('past_pauses', 'past_pauses_resumed_after_paused',
    $$isfinite(paused_at) AND isfinite(resumed_at) AND paused_at <= resumed_at$$);
