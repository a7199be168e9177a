//! One job's turn in a third party's budget of calls.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use uuid::Uuid;

use super::{
    Admission, CallBudget, CallTime,
    line::{Order, Owner},
};
use crate::{domain::BootInstant, telemetry::ThirdPartyMetrics};

/// How long the first call of a job waits at most: longer than it was admitted for, since others
/// may have leased meanwhile.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same of a call that nobody can postpone, as one of an operator or of reconciliation.
const LONG_PATIENCE: Duration = Duration::from_secs(30);

/// No call was free in time: nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverBudget;

/// The turn of one run: it waits in the line for its first call, and its next ones go first.
/// Without a budget there is nothing to wait for.
#[derive(Debug, Default)]
pub struct CallTurn {
    budget: Option<CallBudget>,
    metrics: Option<Arc<ThirdPartyMetrics>>,
    owner: Owner,
    state: Mutex<TurnState>,
}

#[derive(Debug, Default)]
struct TurnState {
    admission: Option<Admission>,
    patience: Duration,
    has_called: bool,
    waited: Duration,
}

impl CallTurn {
    /// A turn of a job of this client; or how long it is to be postponed.
    pub(in crate::outbound) fn of_job(
        budget: Option<&CallBudget>,
        metrics: Option<&Arc<ThirdPartyMetrics>>,
        client_id: Uuid,
    ) -> Result<Self, Duration> {
        let Some(budget) = budget else { return Ok(Self::default()) };
        let owner = Some(client_id);
        match budget.admit(owner) {
            Ok(admission) => {
                let turn = Self::new(budget, metrics, owner, PATIENCE);
                turn.state().admission = Some(admission);
                Ok(turn)
            }
            Err(wait) => {
                if let Some(metrics) = metrics {
                    metrics.postponed_by_budget();
                }
                Err(wait)
            }
        }
    }

    /// A turn of a call that is not postponed.
    pub(in crate::outbound) fn of_call(
        budget: Option<&CallBudget>,
        metrics: Option<&Arc<ThirdPartyMetrics>>,
    ) -> Self {
        budget.map(|budget| Self::new(budget, metrics, None, LONG_PATIENCE)).unwrap_or_default()
    }

    fn new(
        budget: &CallBudget,
        metrics: Option<&Arc<ThirdPartyMetrics>>,
        owner: Owner,
        patience: Duration,
    ) -> Self {
        let state = Mutex::new(TurnState { patience, ..TurnState::default() });
        Self { budget: Some(budget.clone()), metrics: metrics.cloned(), owner, state }
    }

    /// Waits until a request may be sent, and says until when it may be; `None` where there is no
    /// budget.
    pub(in crate::outbound) async fn take(&self) -> Result<Option<CallTime>, OverBudget> {
        let Some(budget) = &self.budget else { return Ok(None) };
        let (order, patience, admission) = {
            let mut state = self.state();
            let order = if state.has_called { Order::Next } else { Order::First };
            let patience = match order {
                Order::First => state.patience,
                Order::Next => state.patience.max(budget.rate().longest_wait()),
            };
            (order, patience, state.admission.take())
        };
        drop(admission);
        let began = BootInstant::now();
        let time = budget.wait(order, self.owner, patience).await;
        let waited = began.elapsed();
        if let Some(metrics) = &self.metrics {
            metrics.waited_for_budget(waited);
        }
        let mut state = self.state();
        state.waited += waited;
        state.has_called |= time.is_ok();
        time.map(Some)
    }

    /// How long its calls have waited so far.
    pub(in crate::outbound) fn waited(&self) -> Duration {
        self.state().waited
    }

    fn state(&self) -> std::sync::MutexGuard<'_, TurnState> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
