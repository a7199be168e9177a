//! Operators' actions and questions that need more than SQL: previewing a replay, replaying many,
//! explaining why a transaction waits, reconciling with the third party.
//!
//! The API, the command line and the console all act through these functions and those of `store`,
//! so that all of them do the same. An operator's preview may wait for the third party, bounded in
//! time; no client's request ever does.
//!
//! [`doctor`] looks at everything that a deployment needs, and changes nothing.
//!
//! [`maintenance`] runs the periodic tasks of a worker process, each in one process at a time:
//! [`reconcile`] looks up what is open, [`retention`] removes what has ended. The command line runs
//! the first one on demand, under the same lease. [`secrets`] seals what clients' callbacks are
//! signed with. A crash leaves a lease, which ends by itself, and
//! whatever was committed: each step is one SQL transaction, and may be done again.

pub mod doctor;
pub mod explain;
pub mod maintenance;
pub mod reconcile;
pub mod replay;
pub mod retention;
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
