//! The four kinds of job, and the context of every run.
//!
//! All kinds are registered in [`definitions`]. A handler does its calls and returns an
//! [`Outcome`]; it writes nothing, except that a create which nobody could look up is noted before
//! it is sent (`create_by_profile`). The [`runner`] around it bounds its time, catches its panics
//! and writes the outcome under the job's lease, together with all effects, in one SQL
//! transaction. The `claimer` claims what is due for a worker, the [`queue`] gives that to apalis,
//! the [`supervisor`] keeps one apalis worker running for each kind, the [`lease_keeper`] renews
//! this process's leases and takes over those of dead ones, the [`watcher`] learns what other
//! processes made due, and the [`circuit`] breaker stands before every call to the third party,
//! and those of the [`callback_hosts`] before every call of a client.
//!
//! A crash at any point leaves a leased row and nothing else; it is rescued after
//! `WORKER__DEAD_AFTER` and run again.

mod backend;
mod call_leases;
mod call_places;
pub mod callback_hosts;
pub mod circuit;
mod claim_pace;
mod claimer;
pub mod create_at_third_party;
mod create_by_profile;
mod create_run;
pub mod create_transaction;
pub mod credentials;
pub mod freshness;
pub mod lease_keeper;
pub mod notify_client;
pub mod queue;
pub mod runner;
pub mod slot;
pub mod supervisor;
pub mod third_parties;
pub mod update_status;
pub mod watcher;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    config::{self, Config},
    domain::{Backoff, DatabaseClock, DeadLetterKind, JobKind, claim_plan::HoldLimit},
    outbound::{CallbackClient, longest_call},
    store::{
        Database, StoreError,
        direct_leases::DirectLeases,
        jobs::{
            ClaimedJob, CreateTerms, JobPayload, JobPlan, JobTerms,
            claims::Claims,
            job_latency::JobLatency,
            outcomes::{Next, Outcome, Outcomes, SnoozeCount},
        },
        postgres::coalesce::Coalescer,
        transactions::{Reads, Transaction, Unreadable},
        wakeups::{Wakeups, announce::Announcer},
    },
    telemetry::Metrics,
};
pub use call_leases::call_leases;
pub use callback_hosts::CallbackHosts;
pub use circuit::CircuitBreaker;
pub use credentials::Credentials;
pub use lease_keeper::{LeaseKeeper, WorkerLease};
pub use slot::Slot;
pub use third_parties::{CalledThirdParty, MissingThirdParties, ThirdParties};

/// Attempts of the jobs whose work is all in the database: create_transaction, and update_status
/// (whose polls are no attempts). Ten attempts with backoff outlast a long outage.
const DATABASE_JOB_ATTEMPTS: u32 = 10;
/// What a handler may take on top of the calls it makes.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(10);

/// What handlers work with.
#[derive(Debug)]
pub struct JobContext {
    pub pool: Database,
    /// The workers of this process that other statements than claims lease jobs to.
    pub direct_leases: DirectLeases,
    /// Where due jobs are claimed.
    pub claims: Coalescer<Claims>,
    /// How long jobs wait for the database.
    pub latency: JobLatency,
    /// Where outcomes are written.
    pub outcomes: Coalescer<Outcomes>,
    /// Batched reads of transactions, for polling.
    pub reads: Coalescer<Reads>,
    /// For the leases alone: their renewal must not wait behind jobs.
    pub lease_pool: Database,
    /// For the watcher alone.
    pub watch_pool: Database,
    pub announcer: Announcer,
    /// For deadlines and ages.
    pub clock: DatabaseClock,
    pub config: Config,
    pub third_parties: ThirdParties,
    pub callbacks: CallbackClient,
    /// To be asked before each call of a client.
    pub callback_hosts: CallbackHosts,
    pub wakeups: Wakeups,
    pub metrics: Arc<Metrics>,
    /// Cancelled when the process stops: handlers that only wait end early.
    pub stopping: CancellationToken,
}

/// A job as its handler gets it.
#[derive(Debug, Clone)]
pub struct Job {
    pub claimed: Arc<ClaimedJob>,
    pub payload: JobPayload,
    /// The lease of the worker that runs it.
    pub lease: WorkerLease,
    /// Its slot among the calls of the worker. A handler that only sleeps may give it back.
    pub slot: Arc<Slot>,
}

impl Job {
    /// The transaction that the job is about.
    pub fn transaction_id(&self) -> Uuid {
        self.payload.transaction_id()
    }

    /// What it is about, where that exists, as it was when the job was claimed.
    pub fn transaction(&self) -> Option<&Transaction> {
        self.claimed.transaction.as_ref()
    }

    /// The number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.claimed.attempt()
    }
}

/// Does one run of a job. An error means that the database was not there to ask.
pub type Handler = Arc<
    dyn Fn(Arc<JobContext>, Job) -> BoxFuture<'static, Result<Outcome, StoreError>> + Send + Sync,
>;

/// When a job whose run panicked or took too long is run again.
#[derive(Debug, Clone, Copy)]
pub enum CrashDelay {
    /// The run may have reached the third party: its create's backoff, and evidence of it.
    Ambiguous,
    /// With backoff.
    Backoff(Backoff),
}

/// One kind of job: its queue and how it is run.
#[derive(Clone)]
pub struct JobDefinition {
    /// The `job_type` of its rows.
    pub queue: &'static str,
    /// Most jobs of this kind at once in this process.
    pub concurrency: u32,
    /// How many of those may be one client's.
    pub hold_limit: HoldLimit,
    /// A run that takes longer is ended, and counts as failed.
    pub timeout: Duration,
    /// Delay after a run that panicked or took too long.
    pub crash_delay: CrashDelay,
    pub handler: Handler,
}

impl JobDefinition {
    fn new<F>(
        kind: JobKind,
        concurrency: u32,
        timeout: Duration,
        crash_delay: CrashDelay,
        handler: impl Fn(Arc<JobContext>, Job) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Outcome, StoreError>> + Send + 'static,
    {
        Self {
            queue: kind.as_str(),
            concurrency,
            hold_limit: match kind {
                // A callback that hangs is one client's, and must not hold up the others'.
                JobKind::NotifyClient => HoldLimit::LeaveAsMuchFree,
                JobKind::CreateTransaction
                | JobKind::CreateAtThirdParty
                | JobKind::UpdateStatus => HoldLimit::None,
            },
            timeout: timeout + TIMEOUT_MARGIN,
            crash_delay,
            handler: Arc::new(move |context, job| Box::pin(handler(context, job))),
        }
    }
}

/// The longest that a call to the third party takes, with what is called for it: for one that a
/// profile describes a token, and both once more where that was refused.
fn longest_calls(third_party: &config::ThirdParty, timeout: Duration) -> Duration {
    longest_wait(third_party) + longest_answers(third_party, timeout)
}

/// The longest that one of them waits for the third party's budget, and waits once more because it
/// is sent again.
fn longest_wait(third_party: &config::ThirdParty) -> Duration {
    third_party.max_calls.map(|rate| rate.longest_wait() * 2).unwrap_or_default()
}

fn longest_answers(third_party: &config::ThirdParty, timeout: Duration) -> Duration {
    match &third_party.profile {
        None => longest_call(timeout),
        Some(_) => 2 * (longest_call(timeout) + longest_call(third_party.lookup_timeout)),
    }
}

/// The longest of what each third party says.
fn longest_of_all(config: &Config, each: impl Fn(&config::ThirdParty) -> Duration) -> Duration {
    let all = config.all_third_parties().map(|(_, third_party)| each(third_party));
    all.max().unwrap_or_else(|| each(&config.third_party))
}

/// Most jobs that call third parties at once, of each of the two kinds.
fn outbound_slots(config: &Config) -> u32 {
    let in_flight = config.all_third_parties().map(|(_, third_party)| third_party.max_in_flight);
    config.worker.concurrency.min(in_flight.fold(0, u32::saturating_add).max(1))
}

/// How long a create waits whose lease was lost: which third party's it is the statements that take
/// leases back do not look up.
fn longest_create_backoff(config: &Config) -> Duration {
    longest_of_all(config, |third_party| third_party.create_backoff)
}

/// The four kinds of job.
pub fn definitions(config: &Config) -> Vec<JobDefinition> {
    let concurrency = config.worker.concurrency;
    let outbound = outbound_slots(config);
    let backoff = CrashDelay::Backoff(retry_backoff(config));
    vec![
        JobDefinition::new(
            JobKind::CreateTransaction,
            concurrency,
            Duration::ZERO,
            backoff,
            create_transaction::run,
        ),
        JobDefinition::new(
            JobKind::CreateAtThirdParty,
            outbound,
            longest_of_all(config, |third_party| {
                longest_calls(third_party, third_party.lookup_timeout)
                    + longest_calls(third_party, third_party.timeout)
            }),
            CrashDelay::Ambiguous,
            create_at_third_party::run,
        ),
        JobDefinition::new(
            JobKind::UpdateStatus,
            outbound,
            update_status::longest_run(config),
            backoff,
            {
                let sleepers = update_status::Sleepers::new(outbound);
                move |context, job| update_status::run(context, job, sleepers.clone())
            },
        ),
        JobDefinition::new(
            JobKind::NotifyClient,
            concurrency,
            longest_call(config.notify.timeout),
            backoff,
            notify_client::run,
        ),
    ]
}

/// When each job is first due, and how often it may be attempted.
pub fn plan(config: &Config) -> JobPlan {
    let create = |third_party: &config::ThirdParty| CreateTerms {
        max_attempts: create_at_third_party::max_attempts(third_party.create_retries),
        backoff: third_party.create_backoff,
    };
    let creates = config.all_third_parties().map(|(name, settings)| (name, create(settings)));
    let own = create(&config.third_party);
    JobPlan::new(creates.collect(), |kind| match kind {
        JobKind::CreateTransaction => {
            JobTerms { delay: Duration::ZERO, max_attempts: DATABASE_JOB_ATTEMPTS }
        }
        JobKind::CreateAtThirdParty => {
            JobTerms { delay: Duration::ZERO, max_attempts: own.max_attempts }
        }
        JobKind::UpdateStatus => {
            JobTerms { delay: config.poll.first, max_attempts: DATABASE_JOB_ATTEMPTS }
        }
        JobKind::NotifyClient => {
            JobTerms { delay: config.notify.first, max_attempts: config.notify.max_attempts }
        }
    })
}

/// The backoff of everything that is not the third party's: `NOTIFY__BASE`, doubled up to
/// `NOTIFY__MAX_DELAY`.
fn retry_backoff(config: &Config) -> Backoff {
    Backoff { base: config.notify.base, max_delay: config.notify.max_delay }
}

/// The end of a job that cannot be run, and will not get better by itself.
fn poison(reason: String) -> Outcome {
    let error = Some(reason.clone());
    Outcome::new(Next::Dead { kind: DeadLetterKind::Poison, reason, error })
}

/// What a job says that cannot read what it needs of its transaction's row.
fn unreadable(Unreadable { column, why }: &Unreadable) -> Outcome {
    poison(format!("the transaction's {column} cannot be read: it {why}"))
}

/// What a job says that finds no transaction: create_transaction will write it, if anything does.
/// Waiting for it costs none of the job's own attempts, but it is not waited for without end.
fn transaction_missing(context: &JobContext, job: &Job) -> Outcome {
    let waits = job.claimed.waits.saturating_add(1);
    if waits >= DATABASE_JOB_ATTEMPTS {
        return Outcome::new(Next::Dead {
            kind: DeadLetterKind::Exhausted,
            reason: format!("the transaction does not exist after {waits} waits for it"),
            error: None,
        });
    }
    let delay = retry_backoff(&context.config).delay(waits, rand::random());
    Outcome::new(Next::Snooze { delay, count: Some(SnoozeCount::Waits(waits)) })
}
