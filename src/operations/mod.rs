//! What operators do, and the questions that take more than one query to answer.
//!
//! The API, the console and the command line read from `store`, but change something only through
//! these functions; a test holds them to it. So an action does the same from everywhere: it takes
//! place and is audited in one SQL transaction, then the workers are woken where it made jobs due.
//! The callers translate: parameters into arguments, results and errors into answers, pages or
//! lines.
//!
//! - [`dead_letters`], [`jobs`], [`queues`], [`clients`], [`sessions`]: one action each.
//! - [`replay`]: previewing a replay, replaying many.
//! - [`reconcile`]: the sweep on demand.
//! - [`secrets`]: sealing what clients' callbacks are signed with.
//! - [`explain`]: why a transaction waits.
//! - [`probes`]: which profiles were tried against their third parties.
//! - [`doctor`]: looks at everything that a deployment needs, and changes nothing.
//!
//! An operator's preview may wait for the third party, bounded in time; no client's request ever
//! does. A crash leaves what was committed: each step may be done again.

pub mod clients;
pub mod dead_letters;
pub mod doctor;
pub mod explain;
pub mod jobs;
pub mod probes;
pub mod queues;
pub mod reconcile;
pub mod replay;
mod replay_plan;
pub mod secrets;
pub mod sessions;

use std::time::Duration;

use crate::{
    outbound::ThirdPartyClients,
    store::{Database, jobs::JobPlan, wakeups::announce::Announcer},
};

/// What operators' actions work with.
#[derive(Debug, Clone)]
pub struct Operations {
    pub pool: Database,
    pub plan: JobPlan,
    /// Those that are configured: at others nothing is looked up.
    pub third_parties: ThirdPartyClients,
    /// Silence after which a worker counts as dead.
    pub dead_after: Duration,
    /// Wakes the workers of all processes. `None` in a command, which ends before it could
    /// announce anything: a trigger announces what it writes into the job table, and workers look
    /// from time to time.
    pub announcer: Option<Announcer>,
}

impl Operations {
    /// Jobs may be due now: the workers look. Call this after the commit.
    fn wake_workers(&self) {
        if let Some(announcer) = &self.announcer {
            announcer.announce_change();
        }
    }
}
