//! What protects the intake: connections that cost too much, clients that send too much, and more
//! than can be written.

mod connections;
mod overload;
mod rate_limits;
mod strict_requests;
mod unauthenticated;
mod withdrawn_keys;

use crate::{metrics::scrape, support::TestApp};

/// How often something was refused for this reason.
async fn refused(app: &TestApp, reason: &str) -> f64 {
    let metrics = scrape(app).await;
    metrics.value("quartet_requests_refused_total", &[("reason", reason)]).unwrap()
}
