//! Runs one claimed job: decodes it, bounds its time, catches its panics, writes its outcome.
//!
//! Each handler runs in a task of its own, so that one that blocks or panics delays no other job.
//! While the database is away, or refuses the role or the schema, writing the outcome is retried
//! until it succeeds or the lease is lost, so a peer's answer is not forgotten because of that.
//! Only an outcome whose own values or rows cannot be written is replaced by another one.

use std::{
    any::Any,
    collections::HashSet,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::json;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, field::Empty};
use ulid::Ulid;

use super::{CrashDelay, Job, JobContext, JobDefinition, Slot, poison, queue::LeasedJob};
use crate::{
    domain::{Backoff, EvidenceKind, Retries, RunOutcome},
    store::{
        StoreError,
        evidence::BACKOFF,
        jobs::{
            ClaimedJob, JobPayload,
            outcomes::{Due, EndedRun, Next, Outcome, Written},
        },
    },
    telemetry::traces,
};

/// Delay of a job whose handler the database did not serve.
const DATABASE_AWAY: Duration = Duration::from_secs(1);
/// Waits between tries to write an outcome.
const WRITE_RETRY: Backoff =
    Backoff { base: Duration::from_millis(100), max_delay: Duration::from_secs(2) };

/// How soon to check again a run that has exceeded its time limit only by its waits for a slot.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Runs the jobs of one worker.
#[derive(Clone)]
pub struct Runner {
    context: Arc<JobContext>,
    definition: JobDefinition,
    /// The name of a run's span in a trace.
    span_name: Arc<str>,
    started: Arc<Mutex<HashSet<String>>>,
}

impl Runner {
    /// A runner of `definition`'s jobs.
    pub fn new(context: Arc<JobContext>, definition: JobDefinition) -> Self {
        let span_name = format!("job {}", definition.queue).into();
        Self { context, definition, span_name, started: Arc::default() }
    }

    /// The jobs whose handler has begun and whose outcome is not written.
    pub fn started(&self) -> Vec<String> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Runs a job to its written outcome.
    pub async fn run(self, leased: LeasedJob) {
        let job_id = leased.claimed.lease.job_id.clone();
        self.started.lock().unwrap_or_else(PoisonError::into_inner).insert(job_id.clone());
        let transaction_id = leased.claimed.transaction_id();
        let (began, attempt) = (Instant::now(), leased.claimed.attempt());
        let traceparent = leased.claimed.traceparent.as_deref();
        // Of the highest level, so that the ids stand in each line, whatever is logged.
        let span = tracing::error_span!("job",
            otel.name = traces::is_on().then_some(&*self.span_name),
            otel.kind = traces::is_on().then_some("consumer"),
            queue = self.definition.queue, job_id = %job_id.escape_debug(),
            transaction_id = transaction_id.map(display), attempt,
            trace_id = traces::trace_id(traceparent), outcome = Empty);
        traces::follow(&span, traceparent);
        let run = async {
            let outcome = match decode(&leased.claimed) {
                Ok(payload) => self.handle(&leased, payload).await,
                Err(reason) => poison(reason),
            };
            let handled = began.elapsed();
            let run = self.write(&leased.claimed, outcome).await;
            if let Ok(kind) = self.definition.queue.parse() {
                let now = Instant::now();
                self.context.latency.ran(kind, handled, now - began - handled, now);
            }
            run
        };
        let run = run.instrument(span.clone()).await;
        leased.end();
        span.record("outcome", run.as_str());
        self.context.metrics.run_ended(self.definition.queue, run, attempt, began.elapsed());
        self.started.lock().unwrap_or_else(PoisonError::into_inner).remove(&job_id);
    }

    async fn handle(&self, leased: &LeasedJob, payload: JobPayload) -> Outcome {
        let (claimed, slot) = (leased.claimed.clone(), leased.slot.clone());
        let job = Job { claimed, payload, lease: leased.lease.clone(), slot };
        let (context, handler) = (self.context.clone(), self.definition.handler.clone());
        let run = async move { handler(context, job).await }.in_current_span();
        // Aborted with the worker: a lost lease or an ended grace stops the handler too.
        let run = AbortOnDropHandle::new(tokio::spawn(run));
        match within(self.definition.timeout, &leased.slot, run).await {
            Some(Ok(Ok(outcome))) => outcome,
            Some(Ok(Err(error))) => self.store_failed(&leased.claimed, &error),
            Some(Err(ended)) => {
                let text = match ended.try_into_panic() {
                    Ok(panic) => format!("the handler panicked: {}", panic_text(&*panic)),
                    Err(_) => "the handler was cancelled".to_owned(),
                };
                self.crashed(&leased.claimed, text)
            }
            None => {
                let timeout = humantime::format_duration(self.definition.timeout);
                self.crashed(&leased.claimed, format!("the handler did not end within {timeout}"))
            }
        }
    }

    fn store_failed(&self, job: &ClaimedJob, error: &StoreError) -> Outcome {
        let cause = error as &dyn std::error::Error;
        if error.is_unavailable() {
            tracing::warn!(error = cause, "the database did not serve the handler");
            return Outcome::snooze(DATABASE_AWAY);
        }
        tracing::error!(error = cause, "the handler's query failed");
        let text = match error {
            StoreError::Query(source) | StoreError::Unavailable(source) => {
                format!("{error}: {source}")
            }
        };
        Outcome::retry(self.crash_delay(job), text)
    }

    fn crashed(&self, job: &ClaimedJob, text: String) -> Outcome {
        tracing::error!("{text}");
        let delay = self.crash_delay(job);
        let outcome = Outcome::retry(delay, text.clone());
        match self.definition.crash_delay {
            CrashDelay::Ambiguous => {
                let detail = json!({ "error": text, BACKOFF: delay.as_secs_f64() });
                outcome.with_evidence(EvidenceKind::CreateAmbiguous, detail)
            }
            CrashDelay::Backoff(_) => outcome,
        }
    }

    fn crash_delay(&self, job: &ClaimedJob) -> Duration {
        let failures = job.attempt();
        match self.definition.crash_delay {
            CrashDelay::Ambiguous => {
                let third_party =
                    job.transaction.as_ref().map(|transaction| &transaction.third_party);
                let called = third_party.and_then(|name| self.context.third_parties.get(name));
                let own = &self.context.config.third_party;
                called.map_or(own, |called| &called.settings).create_backoff
            }
            CrashDelay::Backoff(backoff) => backoff.delay(failures, rand::random()),
        }
    }

    async fn write(&self, job: &Arc<ClaimedJob>, mut outcome: Outcome) -> RunOutcome {
        let queue = self.definition.queue;
        let mut retries = Retries::new(WRITE_RETRY);
        let mut refused = false;
        loop {
            let run = EndedRun { queue, job: job.clone(), outcome: outcome.clone() };
            match self.context.outcomes.submit(run).await {
                Ok(Written::Applied { due, run, settled }) => {
                    for Due { queue, run_at, delay } in due {
                        self.context.wakeups.committed(queue, run_at, delay);
                    }
                    if let Some((by, accepted_at)) = settled {
                        let after = self.context.clock.since(accepted_at);
                        self.context.metrics.settled(by, after);
                    }
                    return run;
                }
                Ok(Written::LeaseLost) => {
                    tracing::debug!("the job was ended or taken over meanwhile: nothing written");
                    return RunOutcome::LeaseLost;
                }
                Err(error) if error.is_unavailable() => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the outcome could not be written yet");
                }
                Err(error) => {
                    // A value or a row is at fault: a defect of ours, or a row stranger than this
                    // build knows. The job must not stay leased for ever because of it.
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        ?outcome,
                        "the outcome cannot be written"
                    );
                    outcome = self.store_failed(job, &error);
                    if std::mem::replace(&mut refused, true) {
                        // Another failure is refused as well: then it is for an operator.
                        let Next::Retry { error, .. } = outcome.next else { continue };
                        outcome = poison(format!("its outcome cannot be written: {error}"));
                    }
                }
            }
            tokio::time::sleep(retries.next_delay(rand::random())).await;
        }
    }
}

/// What `run` ends with; `None` once it has taken longer than `limit`, without the time in which it
/// waited for a slot. Those waits end: each run that holds a slot is bounded by its own limit.
async fn within<T>(limit: Duration, slot: &Slot, run: impl Future<Output = T>) -> Option<T> {
    let began = tokio::time::Instant::now();
    let mut run = pin!(run);
    loop {
        let waited = slot.waited();
        let end = began + limit + waited;
        // A run that is waiting now is looked at again soon, not all the time.
        let look = end.max(tokio::time::Instant::now() + LOOK_AGAIN.min(limit));
        if let Ok(ended) = tokio::time::timeout_at(look, &mut run).await {
            return Some(ended);
        }
        if began + limit + slot.waited() <= tokio::time::Instant::now() {
            return None;
        }
    }
}

fn decode(job: &ClaimedJob) -> Result<JobPayload, String> {
    if Ulid::from_string(&job.lease.job_id).is_err() {
        return Err("the job's id is no ULID".to_owned());
    }
    let payload: JobPayload = serde_json::from_slice(&job.payload)
        .map_err(|_| "the payload cannot be decoded".to_owned())?;
    if job.transaction_id() != Some(payload.transaction_id()) {
        return Err("the payload's transaction is not the one in idempotency_key".to_owned());
    }
    let ClaimedJob { attempts, max_attempts, .. } = job;
    if !(0..*max_attempts).contains(attempts) {
        let of = format!("attempts is {attempts} and max_attempts {max_attempts}");
        return Err(format!("the job's attempts cannot be counted: {of}"));
    }
    Ok(payload)
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_run_that_hangs_is_ended_also_while_it_holds_its_slot() {
        let slots = Arc::new(Semaphore::new(1));
        let slot = Slot::new(slots.acquire_owned().await.unwrap());
        let began = Instant::now();
        assert_eq!(within(LIMIT, &slot, std::future::pending::<()>()).await, None);
        assert!(began.elapsed() >= LIMIT);
    }

    #[tokio::test]
    async fn a_run_that_waits_for_a_slot_does_not_hang() {
        let slots = Arc::new(Semaphore::new(1));
        let slot = Arc::new(Slot::new(slots.clone().acquire_owned().await.unwrap()));
        slot.release();
        let holder = slots.acquire_owned().await.unwrap();
        let run = async {
            slot.reacquire().await;
            "ended"
        };
        let others = async {
            tokio::time::sleep(LIMIT * 5).await;
            drop(holder);
        };
        let (ended, ()) = tokio::join!(within(LIMIT, &slot, run), others);
        assert_eq!(ended, Some("ended"));
        assert!(slot.waited() >= LIMIT * 4);
        // From then on its own time counts again.
        assert_eq!(within(LIMIT, &slot, std::future::pending::<()>()).await, None);
    }
}
