//! What tests stand on: a database of their own, the app, the simulated peers, and the invariants.
//!
//! - [`spawn_app`], [`spawn_api`] (workers off), [`World`] for more than one app or a process
//! - [`wait_until`], [`wait_for`]: polling with a bound, instead of sleeping
//! - [`invariants`]: DESIGN section 5 on a database at rest

pub mod aged;
pub mod app;
pub mod browser;
pub mod client;
pub mod collector;
pub mod command;
pub mod contents;
pub mod detour;
pub mod exposition;
pub mod faketime;
pub mod hung;
pub mod invariant_queries;
pub mod invariants;
pub mod job_rows;
pub mod jobs;
pub mod line;
pub mod name_server;
pub mod peer;
pub mod pgbouncer;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod raw_http;
pub mod small_disk;
pub mod wait;
pub mod world;

pub use self::{
    app::{TestApp, spawn_api, spawn_api_at_rest, spawn_app},
    client::{Answer, Client, transaction},
    contents::{contents, counts},
    wait::{wait_for, wait_until},
    world::World,
};
