//! Looks up at the third party what is open here, and settles what can be settled.
//!
//! What is open: transactions that are pending past the deadline, those that failed although a
//! create may have gone through, what open dead letters are about, and, for as long as the third
//! party may store a create late, what has ended after a create without an answer. They are looked
//! up at a bounded rate; what follows from an answer is decided and written in `store::reconcile`,
//! one SQL transaction each. The gap between two looks at the same transaction doubles up to a day.
//!
//! Each third party is asked after the other. While its circuit is open, when it asks for patience
//! (`Retry-After`), or when it stops answering, the sweep leaves it alone; where something there is
//! left to look up, it postpones itself.
//! What is open at one that is not configured in this process is counted and logged. A crash loses
//! the answers that were not written.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use serde_json::{Map, Value, json};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::run::{MaintenanceContext, Run, RunError};
use crate::{
    config::{self, Config},
    domain::{CircuitState, Finding, Seen, ThirdPartyName},
    outbound::{
        ThirdPartyClient,
        third_party::{Lookup, LookupError, LookupErrorKind},
    },
    store::{
        Database, StoreError,
        circuit::{self, Circuit},
        reconcile::{self, Action, Candidate, Checked, LateStoring, Scope, Terms},
        transactions,
    },
};

/// Most lookups of one periodic sweep; the next one goes on.
const SWEEP: i64 = 10_000;
/// Findings that are looked at for closing in one statement.
const CLOSE_STEP: i64 = 2_000;
/// Most lookups under way at once, however slow they are.
const IN_FLIGHT: usize = 50;
/// Number of consecutive lookups without an answer that ends a sweep.
const SILENCE: u32 = 20;
/// Number of lookups after which the circuit is asked again.
const CIRCUIT_EVERY: usize = 25;
/// What failed is swept for this much longer than its job rows are kept.
const FAILED_MARGIN: Duration = Duration::from_secs(24 * 60 * 60);

/// What a sweep is asked to do.
#[derive(Debug, Clone)]
pub struct Request {
    /// On demand: everything open that began since then, whenever it was last looked up.
    pub since: Option<DateTime<Utc>>,
    /// Writes nothing, and reports what would be written.
    pub dry_run: bool,
    /// Most lookups.
    pub limit: i64,
}

/// What a sweep found and did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What there was to look up.
    pub candidates: usize,
    /// Whether there was more than the request's limit.
    pub at_limit: bool,
    pub checked: Vec<Checked>,
    /// Findings that something else has settled since they were noted.
    pub closed: u64,
    /// Late pending transactions of third parties that are not configured in this process.
    pub not_configured: BTreeMap<ThirdPartyName, i64>,
    /// Why it ended early, and how long the third party is left alone.
    pub postponed: Option<(String, Duration)>,
    /// Whether it was stopped before its end.
    pub stopped: bool,
}

impl Report {
    /// How many checks ended with this action.
    pub fn count(&self, action: Action) -> usize {
        self.checked.iter().filter(|checked| checked.action == action).count()
    }

    /// Why this is not all that was asked for.
    pub fn shortfall(&self) -> Option<String> {
        if let Some((reason, _)) = &self.postponed {
            Some(format!("it ended early: {reason}"))
        } else if self.stopped {
            Some("it was stopped before its end".to_owned())
        } else if self.at_limit {
            Some(format!("it stopped at its limit of {}: there are more", self.candidates))
        } else {
            let (name, count) = self.not_configured.first_key_value()?;
            Some(format!(
                "{count} transactions are pending at {name}, which is not configured here: set {}",
                name.setting()
            ))
        }
    }

    /// The figures as a JSON object.
    pub fn summary(&self) -> Value {
        let noted = |finding: &Finding| {
            let is_noted = |checked: &&Checked| {
                checked.finding == *finding && checked.action != Action::Settled
            };
            let count = self.checked.iter().filter(is_noted).count();
            (finding.as_str().to_owned(), Value::from(count))
        };
        json!({
            "candidates": self.candidates,
            "at_limit": self.at_limit,
            "looked_up": self.checked.len(),
            "settled": self.count(Action::Settled),
            "conflicts_opened": self.count(Action::ConflictOpened),
            "skipped": self.count(Action::Skipped),
            "findings": Finding::ALL.iter().map(noted).collect::<Map<_, _>>(),
            "findings_closed": self.closed,
            "not_configured": self.not_configured,
            "postponed": self.postponed.as_ref().map(|(reason, _)| reason),
            "stopped": self.stopped,
        })
    }
}

/// The periodic sweep.
pub async fn run(context: &MaintenanceContext) -> Result<Run, RunError> {
    let request = Request { since: None, dry_run: false, limit: SWEEP };
    let mut report = Report::default();
    sweep(context, &request, &mut report, |_| {}).await?;
    for (name, count) in &report.not_configured {
        tracing::error!(
            third_party = name.as_str(),
            count,
            "pending transactions are not reconciled because their third party is not configured \
             in this process: set {}",
            name.setting()
        );
    }
    let (settled, conflicts) =
        (report.count(Action::Settled), report.count(Action::ConflictOpened));
    if settled + conflicts > 0 {
        tracing::info!(looked_up = report.checked.len(), settled, conflicts, "reconciled");
    }
    let due_in = match &report.postponed {
        Some((reason, wait)) => {
            tracing::info!(reason, ?wait, "reconciliation is postponed");
            Some(*wait)
        }
        None => report.stopped.then_some(Duration::ZERO),
    };
    Ok(Run { result: report.summary(), due_in })
}

/// Looks up and writes, until all is done, `stopping`, or the third party cannot be asked.
/// What it does is added to `report`, so that it is known also where an error ends it; `progress`
/// is called after each lookup.
pub async fn sweep(
    context: &MaintenanceContext,
    request: &Request,
    report: &mut Report,
    mut progress: impl FnMut(&Report),
) -> Result<(), StoreError> {
    let MaintenanceContext { pool, config, third_parties, stopping } = context;
    if !request.dry_run {
        close_settled(pool, stopping, report).await?;
    }
    let configured: Vec<_> = third_parties.iter().map(|(name, _)| name.clone()).collect();
    report.not_configured =
        reconcile::open_elsewhere(pool, &configured, config.poll.deadline, request.since).await?;
    let circuits = circuit::get_all(pool).await?;
    let configured = configured.into_iter().map(|name| {
        let deadline = config.poll_deadline(&name);
        (name, deadline)
    });
    let (asked, left_alone): (Vec<_>, Vec<_>) =
        configured.partition(|(name, _)| circuit_open(&circuits.of(name)).is_none());
    let scope = |third_parties, limit| Scope {
        third_parties,
        failed_within: config.retention.jobs + FAILED_MARGIN,
        since: request.since,
        limit,
    };
    // Where nothing is open at one that is left alone, this is the whole of what was asked for.
    for third_party in &left_alone {
        let (name, _) = third_party;
        let Some((reason, wait)) = circuit_open(&circuits.of(name)) else { continue };
        let third_parties = std::slice::from_ref(third_party);
        if reconcile::candidates(pool, &scope(third_parties, 1)).await?.is_empty() {
            continue;
        }
        // The next sweep is about the others as well.
        let wait = if asked.is_empty() { wait } else { wait.min(config.reconcile.interval) };
        postpone(report, format!("{name}: {reason}"), wait);
    }
    if asked.is_empty() {
        return Ok(());
    }
    // With one more it is known whether there are more.
    let mut candidates = reconcile::candidates(pool, &scope(&asked, request.limit + 1)).await?;
    let limit = usize::try_from(request.limit).unwrap_or_default();
    report.at_limit = candidates.len() > limit;
    candidates.truncate(limit);
    report.candidates = candidates.len();

    let mut refused = None;
    for (name, ids) in by_third_party(candidates) {
        let Some(client) = third_parties.get(&name) else { continue };
        let sweep = PartySweep { pool, config, request, stopping };
        let ended = sweep.run(&name, client, ids, report, &mut refused, &mut progress).await?;
        if let Some((reason, wait)) = ended {
            postpone(report, format!("{name}: {reason}"), wait);
        }
        if stopping.is_cancelled() {
            break;
        }
    }
    if let Some(error) = refused {
        return Err(error);
    }
    report.stopped = report.postponed.is_none() && report.checked.len() < report.candidates;
    Ok(())
}

/// Notes that a third party is left alone. The others are asked nevertheless, and the next sweep
/// does not wait for longer than for the one that may be asked first.
fn postpone(report: &mut Report, reason: String, wait: Duration) {
    if report.postponed.as_ref().is_none_or(|(_, before)| wait < *before) {
        report.postponed = Some((reason, wait));
    }
}

/// The candidates of each third party, in their order.
fn by_third_party(candidates: Vec<Candidate>) -> BTreeMap<ThirdPartyName, Vec<Uuid>> {
    let mut sorted: BTreeMap<ThirdPartyName, Vec<Uuid>> = BTreeMap::new();
    for Candidate { transaction_id, third_party } in candidates {
        sorted.entry(third_party).or_default().push(transaction_id);
    }
    sorted
}

/// The part of a sweep that asks one third party.
struct PartySweep<'a> {
    pool: &'a Database,
    config: &'a Config,
    request: &'a Request,
    stopping: &'a CancellationToken,
}

impl PartySweep<'_> {
    /// Why and for how long the third party is left alone, where the sweep of it ended early.
    async fn run(
        &self,
        name: &ThirdPartyName,
        client: &ThirdPartyClient,
        ids: Vec<Uuid>,
        report: &mut Report,
        refused: &mut Option<StoreError>,
        progress: &mut impl FnMut(&Report),
    ) -> Result<Option<(String, Duration)>, StoreError> {
        let Self { pool, config, request, stopping } = *self;
        let settings = config.all_third_parties().find(|(known, _)| known == name);
        let settings = settings.map_or(&config.third_party, |(_, settings)| settings);
        let mut answers = std::pin::pin!(
            look_up(pool, name, client, config.reconcile.rate, ids)
                .take_until(stopping.cancelled())
        );
        let (mut silence, mut looked_up) = (0, 0_usize);
        while let Some((id, answer)) = answers.next().await {
            let retry_after = answer.as_ref().err().and_then(|error| error.retry_after);
            silence = match &answer {
                Err(error)
                    if matches!(
                        error.kind,
                        LookupErrorKind::NotAsked | LookupErrorKind::OverBudget
                    ) =>
                {
                    silence
                }
                Err(_) => silence + 1,
                Ok(_) => 0,
            };
            let terms = Terms {
                deadline: config.poll_deadline(name),
                recheck: config.reconcile.interval,
                late: request.since.is_none().then(|| late_storing(config, settings)),
                retry_after: retry_after.unwrap_or_default(),
                dry_run: request.dry_run,
            };
            let provider_id = match &answer {
                Ok(Lookup::Found(report)) => report.provider_id.clone(),
                _ => None,
            };
            let seen = seen(answer);
            match reconcile::record(pool, id, name, seen, provider_id.as_deref(), &terms).await {
                Ok(checked) => {
                    report.checked.push(checked);
                    progress(report);
                }
                // One that cannot be written must not keep the others from their turn.
                Err(error) if error.may_concern_one() => {
                    let cause = &error as &dyn std::error::Error;
                    tracing::warn!(transaction_id = %id, error = cause, "not reconciled");
                    *refused = Some(error);
                }
                Err(error) => return Err(error),
            }
            looked_up += 1;
            if let Some(wait) = retry_after {
                return Ok(Some(("the third party asks for patience".to_owned(), wait)));
            }
            if silence >= SILENCE {
                let reason = format!("the third party left {silence} lookups without an answer");
                return Ok(Some((reason, config.reconcile.interval)));
            }
            if looked_up.is_multiple_of(CIRCUIT_EVERY)
                && let Some(open) = circuit_open(&circuit::get(pool, name).await?)
            {
                return Ok(Some(open));
            }
        }
        Ok(None)
    }
}

/// How long a transaction is looked up again after a create without an answer. The create may still
/// be under way there for as long as an answer may take, and be stored that much later.
fn late_storing(config: &Config, third_party: &config::ThirdParty) -> LateStoring {
    LateStoring {
        possible_for: third_party.late_storing.max(third_party.create_backoff)
            + third_party.timeout,
        give_up_after: config.retention.jobs + FAILED_MARGIN,
    }
}

/// Closes the findings that something else has settled, until none is left.
async fn close_settled(
    pool: &Database,
    stopping: &CancellationToken,
    report: &mut Report,
) -> Result<(), StoreError> {
    let mut after = None;
    while !stopping.is_cancelled()
        && let Some(step) = reconcile::close_settled(pool, after, CLOSE_STEP).await?
    {
        report.closed += step.closed.unsigned_abs();
        after = Some(step.last);
    }
    Ok(())
}

/// Looks `ids` up, at most `rate` a second, and without a burst after a slow one.
fn look_up(
    pool: &Database,
    name: &ThirdPartyName,
    third_party: &ThirdPartyClient,
    rate: u32,
    ids: Vec<Uuid>,
) -> impl stream::Stream<Item = (Uuid, Result<Lookup, LookupError>)> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold((ids.into_iter(), ticks), async |(mut ids, mut ticks)| {
        let id = ids.next()?;
        ticks.tick().await;
        Some((id, (ids, ticks)))
    })
    .map(move |id| async move { (id, look_up_one(pool, name, third_party, id).await) })
    .buffer_unordered(IN_FLIGHT)
}

async fn look_up_one(
    pool: &Database,
    name: &ThirdPartyName,
    third_party: &ThirdPartyClient,
    id: Uuid,
) -> Result<Lookup, LookupError> {
    // Quartet's own contract asks by the id alone; whose transaction it is then shows when the
    // answer is written.
    if third_party.profile().is_none() {
        return third_party.look_up_unknown(id).await;
    }
    match transactions::get(pool, id).await {
        Ok(Some(transaction)) if transaction.third_party != *name => {
            Err(LookupError::not_asked(format!("it is one of {}", transaction.third_party)))
        }
        Ok(Some(transaction)) => third_party.look_up(id, || transaction.subject()).await,
        Ok(None) => third_party.look_up_unknown(id).await,
        Err(error) => Err(LookupError::not_asked(error.to_string())),
    }
}

fn seen(answer: Result<Lookup, LookupError>) -> Seen {
    match answer {
        Ok(Lookup::Found(report)) => Seen::Found(report.status),
        Ok(Lookup::Absent) => Seen::Absent,
        Ok(Lookup::Unclear { reason }) => Seen::Unanswered(reason),
        Err(error) => Seen::Unanswered(error.reason),
    }
}

/// Why and for how long the third party is not asked. Half-open it is: where no job wants to call
/// it, nobody else would find out that it answers again.
fn circuit_open(circuit: &Circuit) -> Option<(String, Duration)> {
    let is_open = circuit.state == CircuitState::Open;
    is_open.then(|| ("the third party's circuit is open".to_owned(), circuit.open_left))
}
