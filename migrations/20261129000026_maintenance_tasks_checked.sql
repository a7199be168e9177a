SET LOCAL lock_timeout = '2s';

SELECT quartet_add_check('maintenance_tasks', 'maintenance_tasks_held_until_is_finite',
    'isfinite(held_until)');
