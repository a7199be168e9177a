//! Operators' actions and questions that need more than SQL: previewing a replay, replaying many,
//! explaining why a transaction waits.
//!
//! The API, the command line and the console all act through these functions and those of `store`,
//! so that all of them do the same. An operator's preview may wait for the third party, bounded in
//! time; no client's request ever does.
//!
//! [`doctor`] looks at everything that a deployment needs, and changes nothing.
//!
//! [`secrets`] seals what clients' callbacks are signed with. A crash leaves whatever was
//! committed: each step is one SQL transaction, and may be done again.

pub mod doctor;
pub mod explain;
pub mod replay;
pub mod secrets;

use std::time::Duration;

use crate::{
    outbound::ThirdPartyClient,
    store::{Database, jobs::JobPlan},
};

/// What operators' actions work with.
#[derive(Debug, Clone)]
pub struct Operations {
    pub pool: Database,
    pub plan: JobPlan,
    /// `None` where no third party is configured: then nothing is looked up there.
    pub third_party: Option<ThirdPartyClient>,
    /// Silence after which a worker counts as dead.
    pub dead_after: Duration,
}
