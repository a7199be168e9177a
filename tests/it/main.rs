//! Integration tests, black-box: over HTTP, SQL and processes. One binary, so that one embedded
//! Postgres serves all of them.

mod auth;
mod crashes;
mod database_loss;
mod dead_letters;
mod harness;
mod health;
mod invariants;
mod leases;
mod openapi;
mod poison;
mod readme;
mod routes;
mod standard_webhooks;
mod support;
mod transactions;
mod webhooks;
