-- What the indexes now have.
COMMENT ON VIEW operator.transactions IS 'Transactions with their client''s name and their ages. Fast filters: id; status with created_at; client or client_id, with status and created_at.';
COMMENT ON VIEW operator.dead_letters IS 'Dead letters with their client''s name and their age. Fast filters: id; state, also with kind; transaction_id; client, also with state; opened_at.';
