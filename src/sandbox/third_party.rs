//! The simulated third party: `POST /transaction`, `GET /transaction/{id}`, and its handle.
//!
//! What a create leads to (the commit, the settlement, the webhook) runs in tasks of the sandbox,
//! not in the request: a caller that hangs up does not undo what the third party does later. That
//! is what makes its timeouts ambiguous. It is not idempotent: a repeated create overwrites and is
//! counted as a double create, unless the sandbox is configured otherwise.
//!
//! [`ThirdParty`] is the tests' side: scripts, state, and the calls in order of arrival.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use poem::{
    Body, Response, handler,
    web::{Data, Path, RemoteAddr},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    MAX_BODY, Shared, Status,
    error::SandboxError,
    ledger::{Call, CreateRequest, ThirdPartyStats},
    profile::{CreateAnswer, CreateFate, Settlement},
    script::{self, CreateStep, LookupStep, Reaction, Store},
    webhook::{self, SendWebhook},
};

/// Time between a webhook and its duplicate, or the out-of-order one that follows it.
pub(super) const FOLLOW_UP_AFTER: Duration = Duration::from_secs(1);

#[handler]
pub(super) async fn create_transaction(
    remote: &RemoteAddr,
    body: Body,
    Data(shared): Data<&Arc<Shared>>,
) -> Response {
    let request = match parse(body).await {
        Ok(request) => request,
        Err(reason) => {
            shared.ledger().stats.creates_malformed += 1;
            let answer = Reaction::status_code(400).json(json!({ "error": reason }));
            return shared.respond(answer, remote, |_| Value::Null, |_| {}).await;
        }
    };
    let id = request.id;
    let entered = shared.ledger().enter_create(&request);
    let reaction = match &entered.step {
        Some(step) => run_script(shared, id, step),
        None => {
            let fate = shared.config.profile.create_fate(shared.config.seed, id, entered.nth);
            run_fate(shared, id, fate).await
        }
    };
    let note = |code| shared.ledger().create_answered(id, &entered, code);
    shared.respond(reaction, remote, |status| request.transaction(status), note).await
}

#[handler]
pub(super) async fn lookup_transaction(
    remote: &RemoteAddr,
    Path(id): Path<String>,
    Data(shared): Data<&Arc<Shared>>,
) -> Response {
    let Ok(id) = id.parse::<Uuid>() else {
        let answer = Reaction::status_code(404);
        return shared.respond(answer, remote, |_| Value::Null, |_| {}).await;
    };
    let entered = shared.ledger().enter_lookup(id);
    let reaction = match &entered.step {
        Some(LookupStep::React(reaction)) => reaction.clone(),
        Some(LookupStep::FromState(delay)) => {
            tokio::time::sleep(*delay).await;
            truth(shared, id)
        }
        None => {
            let fate = shared.config.profile.lookup_fate(shared.config.seed, id, entered.nth);
            tokio::time::sleep(shared.scaled(fate.latency)).await;
            if fate.fails { Reaction::status_code(500) } else { truth(shared, id) }
        }
    };
    if !matches!(reaction, Reaction::Answer(_)) {
        shared.ledger().lookup_answered(id, &entered, None);
    }
    let note = |code| shared.ledger().lookup_answered(id, &entered, Some(code));
    shared.respond(reaction, remote, |status| json!({ "id": id, "status": status }), note).await
}

async fn parse(body: Body) -> Result<CreateRequest, String> {
    let bytes = body.into_bytes_limit(MAX_BODY).await.map_err(|error| error.to_string())?;
    let request: CreateRequest =
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    request.check()?;
    Ok(request)
}

/// What a lookup answers without faults.
fn truth(shared: &Shared, id: Uuid) -> Reaction {
    match shared.ledger().view(id) {
        Some(transaction) => Reaction::status_code(200).json(transaction),
        None => Reaction::status_code(404).json(json!({ "error": "not found" })),
    }
}

fn run_script(shared: &Arc<Shared>, id: Uuid, step: &CreateStep) -> Reaction {
    if let Some(Store { status, after, if_absent }) = step.store {
        if after.is_zero() {
            shared.ledger().commit(id, status, if_absent);
        } else {
            let task = shared.clone();
            shared.spawn(async move {
                tokio::time::sleep(after).await;
                task.ledger().commit(id, status, if_absent);
            });
        }
    }
    step.reaction.clone()
}

async fn run_fate(shared: &Arc<Shared>, id: Uuid, fate: CreateFate) -> Reaction {
    let task = shared.clone();
    let CreateFate { answer, settlement } = fate;
    match answer {
        CreateAnswer::Created { after, final_in_answer } => {
            let status = if final_in_answer { settlement.status } else { Status::Pending };
            let created = shared.spawn(async move {
                tokio::time::sleep(task.scaled(after)).await;
                commit_and_settle(&task, id, status, settlement)
            });
            match created.await {
                Ok(Some(true)) => CreateStep::created_final(status).reaction,
                Ok(Some(false)) => script::already_exists(),
                // The sandbox is stopping.
                Ok(None) | Err(_) => Reaction::Reset,
            }
        }
        CreateAnswer::TimedOut { after, stored_after } => {
            if let Some(stored_after) = stored_after {
                shared.spawn(async move {
                    tokio::time::sleep(task.scaled(stored_after)).await;
                    if commit_and_settle(&task, id, Status::Pending, settlement) {
                        task.ledger().stats.gateway_timeouts_stored += 1;
                    }
                });
            }
            script::gateway_timeout().delay(shared.scaled(after))
        }
    }
}

/// Stores the transaction and sees to its end. `false`: an idempotent third party has it already.
fn commit_and_settle(
    shared: &Arc<Shared>,
    id: Uuid,
    status: Status,
    settlement: Settlement,
) -> bool {
    let committed = shared.ledger().commit(id, status, shared.config.idempotent);
    if let Some(generation) = committed {
        let task = shared.clone();
        shared.spawn(async move { settle(&task, id, generation, settlement).await });
    }
    committed.is_some()
}

async fn settle(shared: &Shared, id: Uuid, generation: u32, settlement: Settlement) {
    tokio::time::sleep(shared.scaled(settlement.after)).await;
    if !shared.ledger().settle(id, generation, settlement.status) {
        return;
    }
    let Some(fate) = settlement.webhook else {
        shared.ledger().stats.webhooks_lost += 1;
        return;
    };
    tokio::time::sleep(shared.scaled(fate.late_by)).await;
    let webhook_id = webhook::new_webhook_id();
    let bad = fate.bad_signature;
    webhook::send_event(shared, id, settlement.status, &webhook_id, bad).await;
    if fate.duplicate {
        tokio::time::sleep(shared.scaled(FOLLOW_UP_AFTER)).await;
        webhook::send_event(shared, id, settlement.status, &webhook_id, bad).await;
    }
    if fate.out_of_order {
        tokio::time::sleep(shared.scaled(FOLLOW_UP_AFTER)).await;
        let webhook_id = webhook::new_webhook_id();
        webhook::send_event(shared, id, Status::Pending, &webhook_id, bad).await;
    }
}

/// A handle on the simulated third party: scripts it, changes and reads its state.
#[derive(Clone)]
pub struct ThirdParty(pub(super) Arc<Shared>);

impl ThirdParty {
    /// Steps for the next creates of any id, one a call.
    pub fn script_creates(&self, steps: Vec<CreateStep>) {
        self.0.ledger().create_script.push(steps);
    }

    /// Steps for the next creates of `id`; they go before those for any id.
    pub fn script_creates_for(&self, id: Uuid, steps: Vec<CreateStep>) {
        self.0.ledger().create_script.push_for(id, steps);
    }

    /// What creates do that no script covers; `None`: the random profile.
    pub fn set_create_default(&self, step: impl Into<Option<CreateStep>>) {
        self.0.ledger().create_script.set_default(step.into());
    }

    /// Steps for the next lookups of any id, one a call.
    pub fn script_lookups(&self, steps: Vec<LookupStep>) {
        self.0.ledger().lookup_script.push(steps);
    }

    /// Steps for the next lookups of `id`; they go before those for any id.
    pub fn script_lookups_for(&self, id: Uuid, steps: Vec<LookupStep>) {
        self.0.ledger().lookup_script.push_for(id, steps);
    }

    /// What lookups do that no script covers; `None`: the random profile.
    pub fn set_lookup_default(&self, step: impl Into<Option<LookupStep>>) {
        self.0.ledger().lookup_script.set_default(step.into());
    }

    /// Forgets all steps and defaults.
    pub fn clear_scripts(&self) {
        let mut ledger = self.0.ledger();
        ledger.create_script.clear();
        ledger.lookup_script.clear();
    }

    /// Stores `id` as if it had always been there: no create, no webhook.
    pub fn store(&self, id: Uuid, status: Status) {
        self.0.ledger().set_status(id, Some(status));
    }

    /// Changes what lookups show; the same as [`store`](Self::store). A settlement of the random
    /// profile that is under way is dropped, its webhook included.
    pub fn set_status(&self, id: Uuid, status: Status) {
        self.store(id, status);
    }

    /// Forgets that `id` is stored.
    pub fn remove(&self, id: Uuid) {
        self.0.ledger().set_status(id, None);
    }

    /// Puts the clock that webhooks are signed with this much ahead; negative is behind.
    pub fn set_clock_skew_seconds(&self, seconds: i64) {
        self.0.third_party_skew_seconds.store(seconds, Ordering::Relaxed);
    }

    /// Commits, settlements and webhooks of the random profile that are still to come.
    pub fn under_way(&self) -> usize {
        self.0.tasks.len()
    }

    /// `None`: not stored.
    pub fn status_of(&self, id: Uuid) -> Option<Status> {
        match &self.0.provider {
            Some(provider) => provider.status_of(id),
            None => self.0.ledger().status(id),
        }
    }

    /// Creates received, however they were answered.
    pub fn creates_of(&self, id: Uuid) -> usize {
        self.0.ledger().counts(id).0
    }

    /// Lookups received, however they were answered.
    pub fn lookups_of(&self, id: Uuid) -> usize {
        self.0.ledger().counts(id).1
    }

    /// The calls about `id` in order of arrival; the first thousand.
    pub fn calls_of(&self, id: Uuid) -> Vec<Call> {
        self.0.ledger().calls(id)
    }

    /// The body of the last create of `id`.
    pub fn request_of(&self, id: Uuid) -> Option<Value> {
        let request = self.0.ledger().request(id).cloned()?;
        serde_json::to_value(request).ok()
    }

    /// The ids for which a create arrived although a lookup at that time would have found them
    /// (DESIGN invariant 4), once for each such create. Not counted where the last lookup was
    /// scripted to hide the id (404, 405 or 501).
    pub fn violations(&self) -> Vec<Uuid> {
        self.0.ledger().violations.clone()
    }

    /// The ids that were stored over themselves, once for each time.
    pub fn double_creates(&self) -> Vec<Uuid> {
        self.0.ledger().double_creates.clone()
    }

    pub fn stats(&self) -> ThirdPartyStats {
        self.0.ledger().stats
    }

    /// Sends one webhook; returns the answer's status code and body (`Null` where it is no JSON).
    pub async fn send_webhook(&self, webhook: SendWebhook) -> Result<(u16, Value), SandboxError> {
        webhook::send(&self.0, webhook).await
    }
}
