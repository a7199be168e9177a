//! The steps of the model, made for real.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::Utc;
use quartet::{
    config::{Config, Role},
    domain::{
        EvidenceKind, JobKind, SettledBy, Status,
        claim_plan::{ClaimPlan, HoldLimit},
    },
    jobs::{
        CallbackHosts, Job, JobContext, JobDefinition, LeaseKeeper, Slot, ThirdParties,
        WorkerLease, definitions,
    },
    outbound::{CallbackClient, ThirdPartyClients},
    sandbox::{CreateStep, LookupStep, Reaction, SendWebhook},
    store::{
        self, Target,
        direct_leases::HandOver,
        holds::Holds,
        jobs::{
            ClaimedJob, JobPayload,
            claims::{Claims, Wanted},
            job_latency::JobLatency,
            outcomes::{EndedRun, Next, Outcome, Outcomes, Written},
            rescue,
        },
        postgres::{
            batch::{Batch, Locked},
            coalesce::Coalescer,
        },
        transactions::Reads,
        wakeups::{Wakeups, announce::Announcer},
    },
    telemetry::Metrics,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    actions::{Action, Scenario},
    on_the_database::{Observed, Row, cause, word},
    rules,
    state::{Answer, Fate, KINDS, Letter, Run, State},
};
use crate::support::{TestApp, World, job_rows::die, transaction, world::set};

/// When the first jobs are scheduled, as far as the writers know: no job takes a part of it here, so
/// that nothing pauses or lags for one.
const SCHEDULED: Duration = Duration::from_secs(80);
/// Longer than a walk takes: nothing falls due, or dies, by itself.
const NEVER: &str = "1h";
const SETTINGS: [(&str, &str); 8] = [
    ("QUARTET_THIRD_PARTY__TIMEOUT", "10s"),
    ("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "10s"),
    ("QUARTET_NOTIFY__TIMEOUT", "10s"),
    ("QUARTET_WORKER__DEAD_AFTER", NEVER),
    ("QUARTET_POLL__DEADLINE", NEVER),
    // Long enough that a poll is not followed by another one in the same run.
    ("QUARTET_POLL__SECOND", "5s"),
    ("QUARTET_POLL__MAX_DELAY", "5s"),
    ("QUARTET_HTTP__LISTEN", "127.0.0.1:0"),
];

/// An API without workers, and what workers work with.
pub struct Real {
    app: TestApp,
    context: Arc<JobContext>,
    keeper: Arc<LeaseKeeper>,
    definitions: HashMap<&'static str, JobDefinition>,
    steps: AtomicUsize,
}

impl Real {
    pub async fn start() -> Self {
        let world = World::new().await;
        let app = world.app().role(Role::Api).spawn().await;
        let mut settings = world.settings();
        for (variable, value) in SETTINGS {
            set(&mut settings, variable, value);
        }
        let config = Config::load(settings, None).unwrap();
        let target = Target::new(app.database_url(), false).unwrap();
        let pool = store::connect(&target, 3, Duration::from_secs(10), &Arc::default());
        let wakeups = Wakeups::default();
        let queues = KINDS.iter().map(|kind| kind.as_str().to_owned()).collect();
        let metrics = Arc::new(Metrics::new("worker", Vec::new(), Arc::default()).unwrap());
        let latency = JobLatency::new(SCHEDULED);
        let clients =
            ThirdPartyClients::new(&config, |_| app.webhook_url(), |_, client| client).unwrap();
        let context = JobContext {
            clock: Default::default(),
            pool: pool.clone(),
            claims: Coalescer::start(Claims { latency: latency.clone() }, 1, &pool, None),
            outcomes: Coalescer::start(
                Outcomes { latency: latency.clone(), direct_leases: Default::default() },
                1,
                &pool,
                None,
            ),
            latency,
            direct_leases: Default::default(),
            reads: Coalescer::start(Reads, 1, &pool, None),
            lease_pool: pool.clone(),
            watch_pool: pool.clone(),
            announcer: Announcer::new(wakeups.clone()),
            third_parties: ThirdParties::new(&config, &clients, &pool, Default::default()),
            callbacks: CallbackClient::new(&config.notify, &config.dns).unwrap(),
            callback_hosts: CallbackHosts::new(&config.notify, metrics.clone()),
            wakeups,
            metrics,
            stopping: CancellationToken::new(),
            config: config.clone(),
        };
        let definitions = definitions(&config).into_iter();
        Self {
            keeper: Arc::new(LeaseKeeper::new(&context, queues)),
            context: Arc::new(context),
            definitions: definitions.map(|definition| (definition.queue, definition)).collect(),
            steps: AtomicUsize::new(0),
            app,
        }
    }

    /// Steps made so far.
    pub fn steps(&self) -> usize {
        self.steps.load(Ordering::Relaxed)
    }

    /// Ends what an earlier walk left.
    pub async fn clean_up(&self) {
        let end = "UPDATE apalis.jobs SET status = 'Killed', lock_by = NULL, lock_at = NULL
            WHERE status IN ('Pending', 'Running')";
        sqlx::query(end).execute(&self.app.pool).await.unwrap();
    }

    /// A transaction that is to be walked with.
    pub fn begin(&self, id: Uuid, scenario: Scenario) -> Life<'_> {
        Life { real: self, id, scenario, held: HashMap::new(), stale: Vec::new() }
    }
}

/// A run that a worker has in hand.
#[derive(Clone)]
struct RealRun {
    claimed: Arc<ClaimedJob>,
    lease: WorkerLease,
    outcome: Option<Outcome>,
}

/// One transaction's walk.
pub struct Life<'a> {
    real: &'a Real,
    id: Uuid,
    scenario: Scenario,
    held: HashMap<JobKind, RealRun>,
    /// Beside the model's name for each.
    stale: Vec<(Run, RealRun)>,
}

impl Life<'_> {
    /// Makes the step that leads from `before` to `after`.
    pub async fn apply(
        &mut self,
        action: Action,
        before: &State,
        after: &State,
    ) -> Result<(), String> {
        self.real.steps.fetch_add(1, Ordering::Relaxed);
        let app = &self.real.app;
        let third_party = app.sandbox.third_party();
        match action {
            Action::Accept => self.accept().await,
            Action::Claim(kind) => self.claim(kind).await,
            Action::Call(kind, answer) => {
                let run = before.job(kind).run.unwrap();
                let mut held = self.held.remove(&kind).unwrap();
                self.call(&mut held, &Run { answer: Some(answer), ..run }).await?;
                self.held.insert(kind, held);
            }
            Action::CallStale(run, answer) => {
                let mut stale = self.take_stale(&run);
                let called = Run { answer: Some(answer), ..run };
                self.call(&mut stale, &called).await?;
                self.stale.push((called, stale));
            }
            Action::Write { kind, is_answered } => {
                let held = self.held.remove(&kind).unwrap();
                let written = self.write(&held).await;
                if matches!(written, Written::LeaseLost) {
                    return Err("a held lease was lost".to_owned());
                }
                if !is_answered {
                    self.stale.push((before.job(kind).run.unwrap(), held));
                }
            }
            Action::WriteStale(run) => {
                let stale = self.take_stale(&run);
                if self.write(&stale).await != Written::LeaseLost {
                    return Err("an outcome was written without its lease".to_owned());
                }
            }
            Action::Rescue { kind, is_frozen } => {
                let held = self.held.remove(&kind).unwrap();
                self.rescue(kind, &held).await;
                if is_frozen {
                    self.stale.push((before.job(kind).run.unwrap(), held));
                }
            }
            Action::Settle => third_party.set_status(self.id, word(self.scenario.truth)),
            Action::Arrive => {
                if before.third_party.is_none() {
                    third_party.store(self.id, quartet::sandbox::Status::Pending);
                }
            }
            Action::Webhook(nth) => self.webhook(nth, before, after).await?,
            Action::Replay(letter) => self.act(letter, "replay", json!({})).await,
            Action::Resolve(letter, status) => {
                let status = status.map(Status::as_str);
                self.act(letter, "resolve", json!({ "status": status, "note": "walk" })).await;
            }
            Action::Discard(letter) => self.act(letter, "discard", json!({})).await,
            Action::Cancel(kind) => self.act_on_job(kind, "cancel").await,
            Action::Retry(kind) => self.act_on_job(kind, "retry").await,
        }
        // A settlement takes update_status from whoever runs it.
        let is_taken = |kind: &JobKind| after.job(*kind).run.is_none();
        let taken: Vec<JobKind> = self.held.keys().copied().filter(is_taken).collect();
        for kind in taken {
            let held = self.held.remove(&kind).unwrap();
            let run = before.job(kind).run.unwrap();
            self.stale.push((run, held));
        }
        Ok(())
    }

    async fn accept(&self) {
        let app = &self.real.app;
        app.client().post_transaction(&transaction(self.id)).await.expect(202);
        let limit = "UPDATE apalis.jobs SET max_attempts = $3
            WHERE idempotency_key = $1 AND job_type = $2";
        for kind in KINDS {
            let max_attempts = i32::from(self.scenario.max_attempts(kind));
            let limit = sqlx::query(limit).bind(self.id.to_string()).bind(kind.as_str());
            limit.bind(max_attempts).execute(&app.pool).await.unwrap();
        }
    }

    async fn claim(&mut self, kind: JobKind) {
        let (real, queue) = (self.real, kind.as_str());
        let worker = format!("{queue} {}", Uuid::now_v7());
        let lease = real.keeper.register(&worker, queue, Holds::default()).await.unwrap();
        let due = "UPDATE apalis.jobs SET run_at = now() - interval '1 s'
            WHERE idempotency_key = $1 AND job_type = $2";
        let due = sqlx::query(due).bind(self.id.to_string()).bind(queue);
        due.execute(&real.app.pool).await.unwrap();
        let scans = ClaimPlan::new(HoldLimit::None, 2).scans(2);
        let lag = Duration::ZERO;
        let wanted = Wanted { queue, worker, scans, lag, seeks_next: false, holds: None };
        let claim = real.context.claims.submit(wanted).await.unwrap();
        let [claimed] = <[ClaimedJob; 1]>::try_from(claim.jobs).expect("one job is due");
        assert_eq!(claimed.transaction_id(), Some(self.id));
        let run = RealRun { claimed: Arc::new(claimed), lease, outcome: None };
        self.held.insert(kind, run);
    }

    /// Runs the real handler against peers that answer as the model says.
    async fn call(&self, held: &mut RealRun, run: &Run) -> Result<(), String> {
        self.script(run);
        if run.answer == Some(Answer::DeadlinePassed) {
            let long_ago = Utc::now() - Duration::from_secs(24 * 60 * 60);
            let claimed = Arc::make_mut(&mut held.claimed);
            claimed.poll_since = Some(long_ago);
        }
        let payload: JobPayload = serde_json::from_slice(&held.claimed.payload).unwrap();
        let slot = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let slot = Arc::new(Slot::new(slot));
        let job = Job { claimed: held.claimed.clone(), payload, lease: held.lease.clone(), slot };
        let handler = &self.real.definitions[run.kind.as_str()].handler;
        let outcome = handler(self.real.context.clone(), job).await.unwrap();
        let is_last = run.attempts + 1 >= self.scenario.max_attempts(run.kind);
        let (predicted, found) = (shape(&rules::outcome(run, is_last)), shape(&outcome));
        held.outcome = Some(outcome);
        if predicted != found {
            return Err(format!(
                "the model says {predicted:?} comes of {run:?}, but {found:?} does"
            ));
        }
        Ok(())
    }

    fn script(&self, run: &Run) {
        let sandbox = &self.real.app.sandbox;
        let (third_party, client) = (sandbox.third_party(), sandbox.client());
        let create = |step| third_party.script_creates_for(self.id, vec![step]);
        let answer = |code| client.script_for(self.id, vec![Reaction::status_code(code)]);
        match run.answer.unwrap() {
            Answer::Silence { .. } => {
                third_party.script_lookups_for(self.id, vec![LookupStep::status_code(500)]);
            }
            Answer::Created(status) => create(CreateStep::created_final(word(status))),
            Answer::Ambiguous(Fate::Stored) => {
                create(CreateStep::gateway_timeout_stored(quartet::sandbox::Status::Pending));
            }
            Answer::Ambiguous(_) => create(CreateStep::gateway_timeout_lost()),
            Answer::Refused => create(CreateStep::rejected(422)),
            Answer::Told => answer(204),
            Answer::NotTold => answer(500),
            Answer::Gone => answer(410),
            // Lookups show what is there.
            Answer::NotNeeded | Answer::Found(_) | Answer::Absent | Answer::DeadlinePassed => {}
        }
    }

    async fn write(&self, run: &RealRun) -> Written {
        let queue = KINDS.iter().map(|kind| kind.as_str());
        let queue = queue.into_iter().find(|queue| run.lease.worker().starts_with(queue)).unwrap();
        let outcome = run.outcome.clone().unwrap();
        let ended = EndedRun { queue, job: run.claimed.clone(), outcome };
        let mut conn = self.real.app.pool.acquire().await.unwrap();
        let latency = JobLatency::new(SCHEDULED);
        let outcomes = Outcomes { latency, direct_leases: Default::default() };
        let mut after = HandOver::default();
        let written = outcomes.run(&mut conn, &[ended], Locked::Wait, &mut after).await;
        let mut written = written.unwrap();
        written.remove(0).expect("nobody else holds the lock")
    }

    fn take_stale(&mut self, run: &Run) -> RealRun {
        let place = self.stale.iter().position(|(other, _)| other == run);
        let (_, stale) = self.stale.swap_remove(place.unwrap());
        // The model keeps one of several that are alike.
        self.stale.retain(|(other, _)| other != run);
        stale
    }

    async fn rescue(&self, kind: JobKind, held: &RealRun) {
        let pool = &self.real.app.pool;
        let worker = held.lease.worker();
        die(pool, worker).await;
        let mark = "UPDATE apalis.workers SET dead_at = now() WHERE id = $1";
        sqlx::query(mark).bind(worker).execute(pool).await.unwrap();
        let (database, dead) = (&self.real.context.pool, [worker.to_owned()]);
        let taken = rescue::take(database, &dead, Duration::ZERO).await.unwrap();
        let queues: Vec<&str> = taken.iter().map(|job| job.queue.as_str()).collect();
        assert_eq!(queues, [kind.as_str()]);
        rescue::remove(database, &dead).await.unwrap();
    }

    async fn webhook(&self, nth: usize, before: &State, after: &State) -> Result<(), String> {
        let webhook = SendWebhook::new(self.id, before.webhooks[nth].status.as_str())
            .webhook_id(format!("{}.{nth}", self.id));
        let (code, answer) = self.real.app.send_webhook(webhook).await;
        let predicted = json!({
            "outcome": after.webhooks[nth].first.map(|outcome| outcome.as_str()),
            "duplicate": before.webhooks[nth].first.is_some(),
        });
        if (code, &answer) != (200, &predicted) {
            return Err(format!("the model answers {predicted}, but {code} {answer} came"));
        }
        Ok(())
    }

    async fn job_id(&self, kind: JobKind) -> String {
        let query = "SELECT id FROM apalis.jobs WHERE idempotency_key = $1 AND job_type = $2";
        let id = sqlx::query_scalar(query).bind(self.id.to_string()).bind(kind.as_str());
        id.fetch_one(&self.real.app.pool).await.unwrap()
    }

    async fn act(&self, letter: Letter, action: &str, body: Value) {
        let job = match letter {
            Letter::Job(kind) => self.job_id(kind).await,
            _ => String::new(),
        };
        let query = "SELECT id FROM failed_jobs WHERE cause = $1 AND state = 'open'";
        let found = sqlx::query_scalar(query).bind(cause(letter, self.id, |_| job.clone()));
        let id: Uuid = found.fetch_one(&self.real.app.pool).await.unwrap();
        let operator = self.real.app.operator();
        operator.act_on_dead_letter(&id.to_string(), action, &body).await.expect(200);
    }

    async fn act_on_job(&self, kind: JobKind, action: &str) {
        let path = format!("/v1/operator/jobs/{}/{action}", self.job_id(kind).await);
        self.real.app.operator().post(&path, &json!({})).await.expect(200);
    }

    pub async fn observe(&self) -> Observed {
        let (pool, id) = (&self.real.app.pool, self.id);
        let row = "SELECT status, version, notified_version, settled_by
            FROM transactions WHERE id = $1";
        let transaction: Option<Row> =
            sqlx::query_as(row).bind(id).fetch_optional(pool).await.unwrap();
        let jobs = "SELECT status, attempts FROM apalis.jobs
            WHERE idempotency_key = $1 AND job_type <> 'create_transaction'
            ORDER BY array_position($2::text[], job_type)";
        let queues: Vec<&str> = KINDS.iter().map(|kind| kind.as_str()).collect();
        let jobs = sqlx::query_as(jobs).bind(id.to_string()).bind(queues);
        let letters = "SELECT kind, COALESCE(queue, split_part(cause, ':', 3)) FROM failed_jobs
            WHERE transaction_id = $1 AND state = 'open'";
        let mut letters: Vec<(String, String)> =
            sqlx::query_as(letters).bind(id).fetch_all(pool).await.unwrap();
        letters.sort();
        let evidence = "SELECT
                count(*) FILTER (WHERE kind = 'settled' AND detail ->> 'settled_by' <> $2),
                count(*) FILTER (WHERE kind = 'settled' AND detail ->> 'settled_by' = $2),
                count(*) FILTER (WHERE kind = $3) > 0
            FROM transaction_events WHERE transaction_id = $1";
        let evidence = sqlx::query_as(evidence).bind(id).bind(SettledBy::Operator.as_str());
        let evidence = evidence.bind(EvidenceKind::CreateAmbiguous.as_str());
        let (by_machine, by_operator, has_ambiguous_create) =
            evidence.fetch_one(pool).await.unwrap();
        let deliveries = self.real.app.sandbox.client().deliveries_of(id);
        let acknowledged = deliveries.iter().rev().find(|delivery| delivery.is_acknowledged());
        let version = |delivery: Option<&quartet::sandbox::Delivery>| {
            delivery.map_or(0, |delivery| delivery.version)
        };
        let third_party = self.real.app.sandbox.third_party().status_of(id);
        Observed {
            transaction,
            jobs: jobs.fetch_all(pool).await.unwrap(),
            letters,
            settlements: (by_machine, by_operator),
            has_ambiguous_create,
            third_party: third_party.map(|status| status.as_str().to_owned()),
            told: (version(deliveries.last()), version(acknowledged)),
        }
    }
}

/// What decides in an outcome.
type Shape = (String, Option<(Status, SettledBy)>, Option<(i32, bool)>, bool);

fn shape(outcome: &Outcome) -> Shape {
    let next = match &outcome.next {
        Next::Done => "done".to_owned(),
        Next::Snooze { .. } => "snooze".to_owned(),
        Next::Retry { .. } => "retry".to_owned(),
        Next::Dead { kind, .. } => format!("dead {kind}"),
        Next::GiveUp { kind, .. } => format!("give up {kind}"),
    };
    let notified = outcome.notified.map(|notified| (notified.version, notified.delivered));
    let is_ambiguous = |(kind, _): &(EvidenceKind, _)| *kind == EvidenceKind::CreateAmbiguous;
    (next, outcome.report, notified, outcome.evidence.iter().any(is_ambiguous))
}
