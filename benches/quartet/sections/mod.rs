//! The sections of the benchmark, in the order in which they run.

use std::pin::Pin;

use crate::{bench::Bench, error::BenchError, section::Section};

mod accept;
mod accept_busy;
mod e2e;
mod idle;
mod latency;
mod limit;
mod overload;
mod pick_up;
mod pressure;
mod punctuality;
mod queue;
mod scale;
mod soak;
mod third_parties;
mod unauthenticated;

/// A section that runs.
type Running<'a> = Pin<Box<dyn Future<Output = Result<Section, BenchError>> + 'a>>;

/// A section that can be run.
type Run = fn(&Bench) -> Running<'_>;

/// Each by the name that `--only` takes. A section is one function, `pub async fn run(bench:
/// &Bench) -> Result<Section, BenchError>`; here it gets its name.
pub const ALL: [(&str, Run); 15] = [
    ("accept", |bench| Box::pin(accept::run(bench))),
    ("accept-busy", |bench| Box::pin(accept_busy::run(bench))),
    ("e2e", |bench| Box::pin(e2e::run(bench))),
    ("limit", |bench| Box::pin(limit::run(bench))),
    ("latency", |bench| Box::pin(latency::run(bench))),
    ("punctuality", |bench| Box::pin(punctuality::run(bench))),
    ("pick-up", |bench| Box::pin(pick_up::run(bench))),
    ("queue", |bench| Box::pin(queue::run(bench))),
    ("scale", |bench| Box::pin(scale::run(bench))),
    ("third-parties", |bench| Box::pin(third_parties::run(bench))),
    ("overload", |bench| Box::pin(overload::run(bench))),
    ("soak", |bench| Box::pin(soak::run(bench))),
    ("pressure", |bench| Box::pin(pressure::run(bench))),
    ("idle", |bench| Box::pin(idle::run(bench))),
    ("unauthenticated", |bench| Box::pin(unauthenticated::run(bench))),
];
