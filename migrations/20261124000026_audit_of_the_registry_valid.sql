-- A scan of the table, under a lock that lets rows be read and written.
SET LOCAL lock_timeout = '2s';
ALTER TABLE operator_actions VALIDATE CONSTRAINT operator_actions_action_known;
