//! What `quartet demo`, `quartet dev` and the tests need on a bare machine.
//!
//! Nothing in here runs in production: `quartet serve` takes its database from
//! `DATABASE_URL` and never starts one.

pub mod postgres;
