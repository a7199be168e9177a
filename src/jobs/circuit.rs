//! A third party's circuit breaker, as this process sees it; each third party has its own.
//!
//! Handlers ask before each call and report how it ended. Each process counts its own calls; once
//! too many of them failed it opens the circuit in the database, for all processes
//! ([`crate::store::circuit`]). While the circuit is open no call is made and jobs are postponed.
//! After that one lookup at a time probes: an answer closes the circuit, a failure opens it for
//! twice as long. Only lookups probe: they are harmless, so a probe costs no attempt.
//!
//! Decisions go by a view of the shared state, which the [`watcher`](super::watcher) refreshes
//! every second and every change made here at once. A view may be late; what it leads to is
//! decided by the database: one process trips, one probe is live. A database that is away leaves
//! the view as it is.
//!
//! A third party that refuses our credentials (401, 403) opens it at once, whatever the ratio: see
//! [`super::credentials`]. Where it refuses them for creates alone, creates probe.
//!
//! A crash loses this process's counts, and frees its probe when that has lasted too long.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ulid::Ulid;

use crate::{
    config,
    domain::{
        CircuitCause, CircuitState, ThirdPartyName,
        circuit::{TripRule, Window},
    },
    store::{
        Database, StoreError,
        circuit::{self, Circuit},
    },
};

/// How old a view may become.
const REFRESH: Duration = Duration::from_secs(1);
/// Number of consecutive failed calls of one job, while the circuit is open, that cost no attempt.
/// A job that has made more is likely the cause itself: its calls count as usual, so that it comes
/// to an end, and it lets others probe first.
pub const FREE_PROBES: u32 = 10;
/// The shortest postponement.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// What the result of a probe may take to be written, before another probe is made.
const PROBE_MARGIN: Duration = Duration::from_secs(1);
/// How long a handler waits for the database to note how its call ended. The call itself counts
/// whatever happens here.
const RECORD_TIMEOUT: Duration = Duration::from_secs(1);

/// The answer to a handler that is about to call.
#[derive(Debug)]
pub enum CircuitAdmission {
    /// Call, and report how it ended.
    Granted(Permit),
    /// Do not call; ask again after `wait`.
    Denied { wait: Duration },
}

/// The right to one call.
#[derive(Debug)]
#[must_use]
pub struct Permit(PermitKind);

#[derive(Debug)]
enum PermitKind {
    /// While the circuit was closed, after this number of trips.
    Pass { trips: i32 },
    /// To probe, after an opening of `open_for`.
    Probe { probe: String, open_for: Duration, cause: CircuitCause },
}

impl Permit {
    /// Whether this call is to find out if creates are taken again.
    pub fn probes_creates(&self) -> bool {
        matches!(self.0, PermitKind::Probe { cause: CircuitCause::CreateRefused, .. })
    }
}

/// The circuit breaker of this process.
#[derive(Debug)]
pub struct CircuitBreaker {
    pool: Database,
    third_party: ThirdPartyName,
    rule: TripRule,
    window: Duration,
    began: Instant,
    local: Mutex<Local>,
    /// Held while this process changes the shared state: of many calls that fail together one
    /// trips, and of many jobs that wake together one asks for the probe.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Local {
    view: Option<View>,
    /// The calls since the last trip.
    calls: Window,
}

/// The shared state in this process's time.
#[derive(Debug, Clone, Copy)]
struct View {
    /// When it was asked for: a later view replaces it, an earlier one does not.
    asked: Instant,
    trips: i32,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    Opened { until: Instant, probe_until: Instant, open_for: Duration, cause: CircuitCause },
}

impl CircuitBreaker {
    /// A breaker that has not seen the shared state yet.
    pub fn new(pool: Database, third_party: ThirdPartyName, config: &config::Circuit) -> Self {
        let rule = TripRule {
            failure_ratio: config.failure_ratio,
            min_calls: config.min_calls,
            open_for: config.open_for,
            max_open_for: config.max_open_for,
        };
        Self {
            pool,
            third_party,
            rule,
            window: config.window,
            began: Instant::now(),
            local: Mutex::new(Local { view: None, calls: Window::new(config.window) }),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Asks for a call that may go through while the circuit is closed, and for nothing else.
    pub async fn pass(&self) -> Result<CircuitAdmission, StoreError> {
        let view = self.view().await?;
        Ok(match self.wait_in(view) {
            None => CircuitAdmission::Granted(Permit(PermitKind::Pass { trips: view.trips })),
            Some(wait) => CircuitAdmission::Denied { wait },
        })
    }

    /// Asks for a call that may also probe, and takes at most `longest`.
    pub async fn pass_or_probe(&self, longest: Duration) -> Result<CircuitAdmission, StoreError> {
        self.probe(longest, false).await
    }

    /// The same for a create, which begins with a lookup.
    pub async fn pass_or_probe_create(
        &self,
        longest: Duration,
    ) -> Result<CircuitAdmission, StoreError> {
        self.probe(longest, true).await
    }

    async fn probe(
        &self,
        longest: Duration,
        is_create: bool,
    ) -> Result<CircuitAdmission, StoreError> {
        let Phase::Opened { mut until, probe_until, open_for, cause } = self.view().await?.phase
        else {
            return self.pass().await;
        };
        if cause == CircuitCause::CreateRefused && !is_create {
            // A lookup says nothing about creates. Where none comes, lookups go on.
            until += open_for;
        }
        let now = Instant::now();
        if until > now || probe_until > now {
            return self.pass().await;
        }
        // The task that holds the lock gets the probe, or the reason why there is none.
        let Ok(_changing) = self.changing.try_lock() else { return self.pass().await };
        let probe = format!("{}-{}", std::process::id(), Ulid::generate());
        let taken =
            circuit::take_probe(&self.pool, &self.third_party, &probe, longest + PROBE_MARGIN)
                .await?;
        self.refresh().await?;
        match taken {
            Some(open_for) => {
                tracing::debug!(probe, "probing the third party");
                Ok(CircuitAdmission::Granted(Permit(PermitKind::Probe { probe, open_for, cause })))
            }
            None => self.pass().await,
        }
    }

    /// Reports how a permitted call ended: `None` where it was answered, else why not.
    pub async fn record(&self, permit: Permit, failure: Option<&str>) {
        self.note(async {
            match permit.0 {
                PermitKind::Pass { trips } => self.count(trips, failure).await,
                PermitKind::Probe { probe, open_for, cause } => {
                    let failure = failure.map(|failure| (cause, failure));
                    self.end_probe(&probe, open_for, failure).await
                }
            }
        })
        .await;
    }

    /// Reports that a permitted call was refused for our credentials: no call is made until a probe
    /// is answered otherwise.
    pub async fn refuse(&self, permit: Permit, cause: CircuitCause, answer: &str) {
        self.note(async {
            match permit.0 {
                PermitKind::Pass { trips } => {
                    let reason = format!("the third party refuses our credentials: it {answer}");
                    let _changing = self.changing.lock().await;
                    if is_closed_after(self.local().view, trips) {
                        let open_for = self.rule.open_for;
                        circuit::trip(
                            &self.pool,
                            &self.third_party,
                            trips,
                            open_for,
                            cause,
                            &reason,
                        )
                        .await?;
                    }
                    self.refresh().await
                }
                PermitKind::Probe { probe, open_for, .. } => {
                    self.end_probe(&probe, open_for, Some((cause, answer))).await
                }
            }
        })
        .await;
    }

    async fn note(&self, noted: impl Future<Output = Result<(), StoreError>>) {
        match tokio::time::timeout(RECORD_TIMEOUT, noted).await {
            Ok(Ok(())) => {}
            // The next failure trips as well, and a probe that was not ended is soon free.
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the circuit's state could not be changed");
            }
            Err(_) => tracing::warn!("the circuit's state could not be changed in time"),
        }
    }

    /// How long to postpone a job now; `None` while the circuit is closed.
    pub fn wait(&self) -> Option<Duration> {
        self.local().view.and_then(|view| self.wait_in(view))
    }

    /// How often the view is to be read again.
    pub fn refresh_interval(&self) -> Duration {
        // A short opening must not be missed.
        REFRESH.min(self.rule.open_for / 4)
    }

    /// Whether the view is due to be read again.
    pub fn is_stale(&self) -> bool {
        // A task that looks in that interval acts a little early or late, which does no harm.
        let refresh = self.refresh_interval() * 9 / 10;
        self.local().view.is_none_or(|view| view.asked.elapsed() >= refresh)
    }

    /// Takes the shared state as it was when it was asked for.
    pub fn see(&self, asked: Instant, circuit: &Circuit) {
        let phase = match circuit.state {
            CircuitState::Closed => Phase::Closed,
            CircuitState::Open | CircuitState::HalfOpen => {
                let now = Instant::now();
                Phase::Opened {
                    until: now + circuit.open_left,
                    probe_until: now + circuit.probe_left,
                    open_for: circuit.open_for.unwrap_or(self.rule.open_for),
                    cause: circuit.cause,
                }
            }
        };
        let mut local = self.local();
        let before = local.view;
        if before.is_some_and(|view| view.asked > asked) {
            return;
        }
        local.view = Some(View { asked, trips: circuit.trips, phase });
        if before.is_some_and(|view| view.trips != circuit.trips) {
            // What was counted led to that trip, or is older.
            local.calls.clear();
        }
        drop(local);
        let was_open = before.is_some_and(|view| matches!(view.phase, Phase::Opened { .. }));
        let reason = circuit.reason.as_deref().unwrap_or_default();
        let third_party = self.third_party.as_str();
        match phase {
            Phase::Opened { .. } if !was_open => {
                let trips = circuit.trips;
                tracing::warn!(third_party, reason, trips, "the third party's circuit is open");
            }
            Phase::Closed if was_open => {
                tracing::info!(
                    third_party,
                    "the third party's circuit is closed: a probe was answered"
                );
            }
            Phase::Opened { .. } | Phase::Closed => {}
        }
    }

    async fn count(&self, trips: i32, failure: Option<&str>) -> Result<(), StoreError> {
        let at = self.began.elapsed();
        {
            let mut local = self.local();
            if !is_closed_after(local.view, trips) {
                // It began before the circuit opened, and says nothing new.
                return Ok(());
            }
            local.calls.record(at, failure.is_none());
        }
        let Some(failure) = failure else { return Ok(()) };
        if !self.rule.trips(self.local().calls.calls(at)) {
            return Ok(());
        }
        let _changing = self.changing.lock().await;
        let calls = {
            let mut local = self.local();
            if !is_closed_after(local.view, trips) {
                return Ok(());
            }
            local.calls.calls(at)
        };
        let reason = format!(
            "{} of {} calls failed within {}; the last one: {failure}",
            calls.failed,
            calls.total(),
            humantime::format_duration(self.window),
        );
        let (open_for, cause) = (self.rule.open_for, CircuitCause::Outage);
        circuit::trip(&self.pool, &self.third_party, trips, open_for, cause, &reason).await?;
        self.refresh().await
    }

    async fn end_probe(
        &self,
        probe: &str,
        open_for: Duration,
        failure: Option<(CircuitCause, &str)>,
    ) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        match failure {
            None => {
                circuit::close(&self.pool, &self.third_party, probe).await?;
            }
            Some((cause, failure)) => {
                let open_for = self.rule.next_open_for(open_for);
                let reason = match cause {
                    CircuitCause::Outage => format!("a probe failed: {failure}"),
                    CircuitCause::LookupRefused | CircuitCause::CreateRefused => {
                        format!("the third party refuses our credentials: it {failure}")
                    }
                };
                if circuit::reopen(&self.pool, &self.third_party, probe, open_for, cause, &reason)
                    .await?
                {
                    let open_for = humantime::format_duration(open_for);
                    tracing::info!(
                        failure,
                        "a probe failed: the circuit stays open for {open_for}"
                    );
                }
            }
        }
        self.refresh().await
    }

    async fn refresh(&self) -> Result<(), StoreError> {
        let asked = Instant::now();
        self.see(asked, &circuit::get(&self.pool, &self.third_party).await?);
        Ok(())
    }

    /// The view; read now, where there was none yet.
    async fn view(&self) -> Result<View, StoreError> {
        let seen = self.local().view;
        if let Some(view) = seen {
            return Ok(view);
        }
        let asked = Instant::now();
        let circuit = circuit::get(&self.pool, &self.third_party).await?;
        self.see(asked, &circuit);
        // It was set by the line before, or by somebody else.
        Ok(self.local().view.expect("a view that was seen stays"))
    }

    /// How long to wait by this view: until a probe may be made, or the present one has likely
    /// ended, and somewhat longer, so that not all jobs come at once.
    fn wait_in(&self, view: View) -> Option<Duration> {
        let Phase::Opened { until, probe_until, open_for, .. } = view.phase else { return None };
        let now = Instant::now();
        // Most probes are answered long before they count as lost.
        let probe = probe_until.saturating_duration_since(now).min(open_for);
        let left = until.saturating_duration_since(now).max(probe);
        // The longer the outage, the more jobs wait.
        let spread = (open_for / 2).mul_f64(rand::random());
        Some(left.max(SHORTEST_WAIT) + spread)
    }

    fn local(&self) -> MutexGuard<'_, Local> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the circuit is closed, and has tripped as often as when a call began.
fn is_closed_after(view: Option<View>, trips: i32) -> bool {
    view.is_some_and(|view| matches!(view.phase, Phase::Closed) && view.trips == trips)
}
