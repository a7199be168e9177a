//! The simulated third party's books: what is stored, what was asked, and what went wrong.
//!
//! Plain data behind one mutex of the sandbox; nothing here waits. A transaction's entry exists
//! from the first call about its id, stored or not, so that calls can be counted and ordered. A
//! commit over a stored transaction overwrites it and starts a new generation; settlements of an
//! older generation are dropped, as the overwritten transaction is gone.
//!
//! Memory: one request body and a few dozen bytes a call for each id, calls up to
//! [`MAX_CALLS_KEPT`]; entries are never evicted, since a lookup must find what was stored.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Status,
    script::{CreateStep, LookupStep, Script},
    webhook::is_success,
};

/// Calls kept for each id; later ones are counted only.
const MAX_CALLS_KEPT: usize = 1_000;

/// The body of `POST /transaction`. Strict, so that a relay that breaks the contract is noticed.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateRequest {
    pub id: Uuid,
    #[serde(rename = "webhookUrl")]
    pub webhook_url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amount: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    currency: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<BTreeMap<String, String>>,
}

impl CreateRequest {
    /// What the types leave open.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.amount.is_some() != self.currency.is_some() {
            return Err("`amount` and `currency` go together".to_owned());
        }
        if !self.webhook_url.starts_with("http") {
            return Err("`webhookUrl` must be an http or https URL".to_owned());
        }
        Ok(())
    }

    /// The transaction as answers show it.
    pub(super) fn transaction(&self, status: Status) -> Value {
        json!({
            "id": self.id,
            "status": status,
            "amount": self.amount,
            "currency": self.currency,
            "reference": self.reference,
            "metadata": self.metadata,
        })
    }
}

/// What the third party counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ThirdPartyStats {
    /// `POST /transaction` calls with a valid body.
    pub creates_received: u64,
    /// Calls without good credentials, where the third party asks for some.
    pub unauthorized: u64,
    /// `POST /transaction` calls that break the contract, answered 400.
    pub creates_malformed: u64,
    /// Commits, double ones included.
    pub creates_stored: u64,
    /// Commits of an id that was stored already: money that left twice.
    pub double_creates: u64,
    /// Creates of an id that the lookup showed at that time.
    pub violations: u64,
    /// Creates answered 504.
    pub gateway_timeouts: u64,
    /// Creates of the random profile that were stored after their 504.
    pub gateway_timeouts_stored: u64,
    /// Creates answered 409, or as the third party does, since the id or its key exists.
    pub conflicts: u64,
    pub lookups: u64,
    pub lookups_found: u64,
    pub lookups_not_found: u64,
    /// Lookups answered neither 200 nor 404, or not at all.
    pub lookups_failed: u64,
    /// Stored transactions that became final.
    pub settled: u64,
    /// Webhook requests made, repeats included.
    pub webhooks_sent: u64,
    /// Webhook requests not answered 2xx.
    pub webhooks_failed: u64,
    /// Those of them that were answered 4xx.
    pub webhooks_refused: u64,
    /// Settlements whose webhook the profile lost.
    pub webhooks_lost: u64,
}

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    Create,
    Lookup,
}

/// One call about an id.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub kind: CallKind,
    /// When it arrived, on the clock for intervals.
    pub at: Instant,
    /// When it arrived, on the wall clock.
    pub time: DateTime<Utc>,
    /// When and how it was answered; `None` as long as it was not.
    pub answered: Option<(Instant, u16)>,
}

/// A call that was entered: which one it is for its id, and its script step.
pub(super) struct Entered<Step> {
    pub nth: u32,
    pub step: Option<Step>,
    call: usize,
}

#[derive(Default)]
struct Record {
    request: Option<CreateRequest>,
    status: Option<Status>,
    generation: u32,
    creates: u32,
    lookups: u32,
    /// The last lookup said 'not here' against the truth, by script.
    hidden: bool,
    calls: Vec<Call>,
}

/// The third party's state.
#[derive(Default)]
pub(super) struct Ledger {
    records: HashMap<Uuid, Record>,
    pub create_script: Script<CreateStep>,
    pub lookup_script: Script<LookupStep>,
    pub stats: ThirdPartyStats,
    pub violations: Vec<Uuid>,
    pub double_creates: Vec<Uuid>,
}

impl Ledger {
    /// Notes a webhook that was sent. `code`: how it was answered, if it was. Returns whether it was
    /// accepted.
    pub(super) fn webhook_sent(&mut self, code: Option<u16>) -> bool {
        let is_accepted = code.is_some_and(is_success);
        self.stats.webhooks_sent += 1;
        self.stats.webhooks_failed += u64::from(!is_accepted);
        self.stats.webhooks_refused += u64::from(matches!(code, Some(400..=499)));
        is_accepted
    }

    /// Enters a create that just arrived.
    pub(super) fn enter_create(&mut self, request: &CreateRequest) -> Entered<CreateStep> {
        let record = self.records.entry(request.id).or_default();
        if record.status.is_some() && !record.hidden {
            self.stats.violations += 1;
            self.violations.push(request.id);
        }
        // One hidden lookup excuses one create.
        record.hidden = false;
        self.stats.creates_received += 1;
        record.creates += 1;
        record.request = Some(request.clone());
        let call = record.enter(CallKind::Create);
        Entered { nth: record.creates, step: self.create_script.next(request.id), call }
    }

    /// Enters a lookup that just arrived.
    pub(super) fn enter_lookup(&mut self, id: Uuid) -> Entered<LookupStep> {
        let record = self.records.entry(id).or_default();
        self.stats.lookups += 1;
        record.lookups += 1;
        // From here to its answer the lookup counts as one that shows the truth.
        record.hidden = false;
        let call = record.enter(CallKind::Lookup);
        Entered { nth: record.lookups, step: self.lookup_script.next(id), call }
    }

    /// Notes the answer of an entered create.
    pub(super) fn create_answered(&mut self, id: Uuid, entered: &Entered<CreateStep>, code: u16) {
        match code {
            409 => self.stats.conflicts += 1,
            504 => self.stats.gateway_timeouts += 1,
            _ => {}
        }
        if let Some(record) = self.records.get_mut(&id) {
            record.answered(entered.call, code);
        }
    }

    /// Notes the answer of an entered lookup. `None`: it gets none.
    pub(super) fn lookup_answered(
        &mut self,
        id: Uuid,
        entered: &Entered<LookupStep>,
        code: Option<u16>,
    ) {
        match code {
            Some(200) => self.stats.lookups_found += 1,
            Some(404) => self.stats.lookups_not_found += 1,
            _ => self.stats.lookups_failed += 1,
        }
        let (Some(record), Some(code)) = (self.records.get_mut(&id), code) else { return };
        record.answered(entered.call, code);
        let scripted = matches!(entered.step, Some(LookupStep::React(_)));
        record.hidden = scripted && record.status.is_some() && matches!(code, 404 | 405 | 501);
    }

    /// Stores `id` with `status`, over whatever is stored; returns the new generation. `None`: it
    /// was stored already and `if_absent` asked to leave it.
    pub(super) fn commit(&mut self, id: Uuid, status: Status, if_absent: bool) -> Option<u32> {
        let record = self.records.entry(id).or_default();
        if record.status.is_some() {
            if if_absent {
                return None;
            }
            self.stats.double_creates += 1;
            self.double_creates.push(id);
        }
        self.stats.creates_stored += 1;
        record.status = Some(status);
        record.generation += 1;
        Some(record.generation)
    }

    /// Makes the transaction final, if it is still the one of `generation`.
    pub(super) fn settle(&mut self, id: Uuid, generation: u32, status: Status) -> bool {
        let current = self.records.get_mut(&id).filter(|record| record.generation == generation);
        let Some(record) = current else { return false };
        record.status = Some(status);
        self.stats.settled += 1;
        true
    }

    /// Puts a transaction where it is wanted, without a create.
    pub(super) fn set_status(&mut self, id: Uuid, status: Option<Status>) {
        let record = self.records.entry(id).or_default();
        record.status = status;
        // A settlement that is under way must not undo this.
        record.generation += 1;
    }

    pub(super) fn status(&self, id: Uuid) -> Option<Status> {
        self.records.get(&id).and_then(|record| record.status)
    }

    /// The last create's body.
    pub(super) fn request(&self, id: Uuid) -> Option<&CreateRequest> {
        self.records.get(&id).and_then(|record| record.request.as_ref())
    }

    /// What a true lookup shows.
    pub(super) fn view(&self, id: Uuid) -> Option<Value> {
        let record = self.records.get(&id)?;
        let status = record.status?;
        Some(match &record.request {
            Some(request) => request.transaction(status),
            None => json!({ "id": id, "status": status }),
        })
    }

    /// Creates and lookups received.
    pub(super) fn counts(&self, id: Uuid) -> (usize, usize) {
        let record = self.records.get(&id);
        record.map_or((0, 0), |record| (record.creates as usize, record.lookups as usize))
    }

    pub(super) fn calls(&self, id: Uuid) -> Vec<Call> {
        self.records.get(&id).map(|record| record.calls.clone()).unwrap_or_default()
    }
}

impl Record {
    fn enter(&mut self, kind: CallKind) -> usize {
        if self.calls.len() < MAX_CALLS_KEPT {
            self.calls.push(Call { kind, at: Instant::now(), time: Utc::now(), answered: None });
            return self.calls.len() - 1;
        }
        MAX_CALLS_KEPT
    }

    fn answered(&mut self, call: usize, code: u16) {
        if let Some(call) = self.calls.get_mut(call) {
            call.answered = Some((Instant::now(), code));
        }
    }
}
