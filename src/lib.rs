//! Quartet: a durable transaction relay on Postgres. One transaction, four jobs, one commit.
//!
//! # The map
//!
//! [`app`] builds the application for the binary and the tests alike: [`app::App::build`], `run`.
//! [`cli`] holds the commands and what they print.
//!
//! [`config`] reads the settings from the environment over a TOML file and names the variable of
//! every wrong one. [`telemetry`] is logs, metrics and traces.
//!
//! [`domain`] is the rules, pure: statuses and their legal transitions, schedules, backoff; and the
//! clocks.
//! [`signature`] signs and verifies Standard Webhooks, pure. [`secrets`] hashes keys and seals
//! clients' signing secrets, pure.
//!
//! [`profiles`] are third parties as data: how one is asked, what its answers mean, and how its
//! webhooks are verified ([`profiles::webhook`]). Pure.
//!
//! [`store`] is all SQL: the accept statement, claims and leases, settling, outcomes, dead letters.
//!
//! [`jobs`] is the four kinds of job and what runs them: the claim behind an apalis worker, the
//! runner, the supervisor, the lease keeper, the circuit breaker.
//!
//! [`maintenance`] is what runs by the clock: reconciling, retention, the figures per minute that
//! the console draws.
//!
//! [`operations`] is what operators do, from the API, the console and the command line alike; and
//! what they ask beyond SQL: previews, explaining, the doctor.
//!
//! [`outbound`] calls out: to the third party, and to clients' callback URLs.
//!
//! [`http`] is the API: all routes, strict bodies, problem+json, Swagger UI; and the operators'
//! console, [`http::console`].
//!
//! [`sandbox`] is the simulated third party and client, over HTTP. [`dev`] is the embedded
//! Postgres.
//!
//! # Who may import whom
//!
//! Imports go one way: the table is in `docs/architecture.md`, "Layers", and a test compares it
//! with the `use` lines.

pub mod app;
pub mod cli;
pub mod config;
pub mod dev;
pub mod domain;
pub mod http;
pub mod jobs;
pub mod maintenance;
pub mod operations;
pub mod outbound;
pub mod profiles;
pub mod sandbox;
pub mod secrets;
pub mod signature;
pub mod store;
pub mod telemetry;
