-- no-transaction
-- Its place has been taken by `transactions_by_client_and_status`.
DROP INDEX CONCURRENTLY IF EXISTS transactions_by_client;
