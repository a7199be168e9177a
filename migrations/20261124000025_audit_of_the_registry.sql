-- What operators do to the client registry and to secrets, and the reconciliation that they ask for,
-- is audited like everything else that they do.
SET LOCAL lock_timeout = '2s';

-- NOT VALID: no scan under this lock; the next file validates it under a weaker one.
ALTER TABLE operator_actions
    DROP CONSTRAINT operator_actions_action_known,
    ADD CONSTRAINT operator_actions_action_known CHECK (action IN (
        'replay', 'resolve', 'discard', 'retry_job', 'cancel_job', 'pause_queue', 'resume_queue',
        'add_client', 'configure_client', 'disable_client', 'rotate_client_key',
        'rotate_client_secret', 'reseal_secrets', 'reconcile'
    )) NOT VALID;

COMMENT ON COLUMN operator_actions.detail IS 'What changed: the status that was set, the state before, the client; never a key or secret.';
