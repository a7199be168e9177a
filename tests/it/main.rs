//! Integration tests, black-box: over HTTP, SQL and processes. One binary, so that one embedded
//! Postgres serves all of them.

// Tests hold transactions of their own, which nobody cancels.
#![allow(clippy::disallowed_methods)]

mod auth;
mod chaos;
mod circuit;
mod clocks;
mod coalescing;
mod commands;
mod console;
mod crashes;
mod create_at_third_party;
mod create_transaction;
mod database_loss;
mod dead_letter_replay;
mod dead_letters;
mod deploy;
mod doctor;
mod egress;
mod embedded_postgres;
mod fair_claims;
mod fairness;
mod figures;
mod fuzzed;
mod guide;
mod harness;
mod health;
mod idle;
mod intake;
mod invariants;
mod invisible_text;
mod lease_leaks;
mod leases;
mod logs;
mod maintenance;
mod messages;
mod metrics;
mod migrations;
mod model;
mod notify_client;
mod openapi;
mod operator;
mod outages;
mod plans;
mod poison;
mod pressure;
mod readme;
mod reconcile;
mod rescue;
mod retention;
mod routes;
mod secrets;
mod security_headers;
mod settings;
mod shutdown;
mod standard_webhooks;
mod strange_rows;
mod support;
mod tls;
mod traces;
mod transactions;
mod update_status;
mod webhook_races;
mod webhooks;
