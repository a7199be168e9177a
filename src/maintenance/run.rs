//! What a periodic task works with, and how a run of it ends.

use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    outbound::ThirdPartyClients,
    store::{Database, StoreError},
};

/// What the tasks work with.
#[derive(Debug, Clone)]
pub struct MaintenanceContext {
    pub pool: Database,
    pub config: Config,
    pub third_parties: ThirdPartyClients,
    /// Cancelled when the process stops.
    pub stopping: CancellationToken,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Run {
    /// What it did, a JSON object.
    pub result: Value,
    /// When it is due next, where that is not after the interval.
    pub due_in: Option<Duration>,
}

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the task panicked")]
    Panicked,
    #[error("the lease was lost: another process may have taken the task over")]
    LeaseLost,
    #[error("the process stops")]
    Stopped,
}
