-- no-transaction
-- A client's transactions by status, newest first; without a status, four ordered ranges merged. A
-- rare status is found among millions of others. Takes the place of `transactions_by_client`, so that
-- an accept writes no more than before.
CREATE INDEX CONCURRENTLY IF NOT EXISTS transactions_by_client_and_status
    ON transactions (client_id, status, created_at DESC, id DESC);
