//! Integration tests, black-box: over HTTP, SQL and processes. One binary, so that one embedded
//! Postgres serves all of them.

mod invariants;
mod support;
