//! A circuit breaker for each callback host: calls to one that does not answer stop for a while.
//!
//! A call that hangs holds a slot until its timeout. After `NOTIFY__HOST_FAILURES` outages of a
//! host in a row (no answer in time, no connection, a name that does not resolve; any answer resets
//! the count) no further call is made: notifications for it are postponed, which
//! costs no attempt. Then one call at a time probes whether it answers again. The first opening
//! lasts `NOTIFY__BASE`, each failed probe doubles it, up to `MAX_OPEN_FOR`. The first call that
//! gets through closes it.
//!
//! A host is an origin (scheme, host and port) as one client uses it. Two clients on one host have
//! a breaker each, so that a path of one that hangs never holds up the other.
//!
//! Unlike the third party's circuit it is kept by each process for itself, in memory. What a
//! process has to learn is cheap (a few calls a client) and soon out of date, while shared state
//! would cost writes in the middle of the outage. Operators see it in the log, in the metrics, and
//! in the rows of the jobs that were postponed.
//!
//! A crash forgets everything: the next process learns it again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use url::Url;
use uuid::Uuid;

use crate::{
    config,
    domain::circuit::{Calls, TripRule},
    telemetry::Metrics,
};

/// The longest time between two probes.
const MAX_OPEN_FOR: Duration = Duration::from_secs(60);
/// The shortest postponement.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// A host that no job has asked for is forgotten after this, or after twice the longest wait
/// between two attempts.
const FORGET_AFTER: Duration = Duration::from_secs(10 * 60);

/// A callback host as one client uses it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallbackHost {
    client_id: Uuid,
    /// `https://shop.example:8443`; the whole text where it is no URL.
    origin: String,
}

impl CallbackHost {
    /// The host that `callback_url` of a client names.
    pub fn new(client_id: Uuid, callback_url: &str) -> Self {
        let origin = Url::parse(callback_url).map(|url| url.origin().ascii_serialization());
        Self { client_id, origin: origin.unwrap_or_else(|_| callback_url.to_owned()) }
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

/// Why a host is not called now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostOutage {
    /// Since when no call was answered.
    pub since: DateTime<Utc>,
    /// How the last call ended.
    pub error: String,
    /// How long to wait before asking again.
    pub wait: Duration,
}

/// The breakers of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CallbackHosts(Arc<Breakers>);

#[derive(Debug)]
struct Breakers {
    rule: TripRule,
    forget_after: Duration,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The hosts whose last call was an outage.
    failing: HashMap<CallbackHost, Failing>,
    /// When hosts were last forgotten.
    pruned: Instant,
}

/// A host that did not answer its last call.
#[derive(Debug)]
struct Failing {
    /// Outages in a row.
    failed: u32,
    since: DateTime<Utc>,
    error: String,
    /// When a job last asked for it.
    asked: Instant,
    opening: Option<Opening>,
}

#[derive(Debug)]
struct Opening {
    until: Instant,
    open_for: Duration,
    is_probed: bool,
    postponed: u64,
}

/// The right to one call. Dropped without a report, the call says nothing about the host.
#[derive(Debug)]
#[must_use]
pub struct HostPermit {
    breakers: Arc<Breakers>,
    host: CallbackHost,
    is_probe: bool,
}

impl CallbackHosts {
    /// Breakers that know of no outage.
    pub fn new(config: &config::Notify, metrics: Arc<Metrics>) -> Self {
        let open_for = config.base.min(MAX_OPEN_FOR);
        let rule = TripRule {
            failure_ratio: 1.0,
            min_calls: config.host_failures,
            open_for,
            max_open_for: config.max_delay.min(MAX_OPEN_FOR).max(open_for),
        };
        let forget_after = FORGET_AFTER.max(config.max_delay.saturating_mul(2));
        let state = State { failing: HashMap::new(), pruned: Instant::now() };
        Self(Arc::new(Breakers { rule, forget_after, metrics, state: Mutex::new(state) }))
    }

    /// Asks for a call of `host`.
    pub fn pass(&self, host: &CallbackHost) -> Result<HostPermit, HostOutage> {
        self.pass_at(host, Instant::now())
    }

    fn pass_at(&self, host: &CallbackHost, now: Instant) -> Result<HostPermit, HostOutage> {
        let breakers = &self.0;
        let mut state = breakers.state();
        breakers.prune(&mut state, now);
        let mut is_probe = false;
        if let Some(failing) = state.failing.get_mut(host) {
            failing.asked = now;
            if let Some(opening) = &mut failing.opening {
                if opening.is_probed || opening.until > now {
                    opening.postponed += 1;
                    breakers.metrics.notification_postponed();
                    // Somewhat longer, so that not all jobs ask at once.
                    let spread = (opening.open_for / 2).mul_f64(rand::random());
                    let left = opening.until.saturating_duration_since(now);
                    let wait = left.max(SHORTEST_WAIT) + spread;
                    let (since, error) = (failing.since, failing.error.clone());
                    return Err(HostOutage { since, error, wait });
                }
                opening.is_probed = true;
                is_probe = true;
            }
        }
        Ok(HostPermit { breakers: breakers.clone(), host: host.clone(), is_probe })
    }
}

impl HostPermit {
    /// The host answered, whatever it said.
    pub fn answered(self) {
        let mut state = self.breakers.state();
        let failing = state.failing.remove(&self.host);
        self.breakers.show(&state);
        drop(state);
        if let Some(Failing { since, opening: Some(opening), .. }) = failing {
            tracing::info!(
                client_id = %self.host.client_id,
                host = self.host.origin,
                %since,
                postponed = opening.postponed,
                "a client's callback host answers again"
            );
        }
    }

    /// The host gave no answer, for this reason.
    pub fn failed(self, error: &str) {
        self.failed_at(error, Instant::now());
    }

    fn failed_at(self, error: &str, now: Instant) {
        let rule = &self.breakers.rule;
        let mut state = self.breakers.state();
        let failing = state.failing.entry(self.host.clone()).or_insert_with(|| Failing {
            failed: 0,
            since: Utc::now(),
            error: String::new(),
            asked: now,
            opening: None,
        });
        failing.failed = failing.failed.saturating_add(1);
        error.clone_into(&mut failing.error);
        let mut is_new = false;
        match &mut failing.opening {
            Some(opening) if self.is_probe => {
                opening.open_for = rule.next_open_for(opening.open_for);
                opening.until = now + opening.open_for;
                opening.is_probed = false;
            }
            // It began before the host was left alone, and says nothing new.
            Some(_) => {}
            None if rule.trips(Calls { answered: 0, failed: failing.failed }) => {
                is_new = true;
                let (open_for, until) = (rule.open_for, now + rule.open_for);
                failing.opening = Some(Opening { until, open_for, is_probed: false, postponed: 0 });
            }
            None => {}
        }
        let failed = failing.failed;
        self.breakers.show(&state);
        drop(state);
        if is_new {
            tracing::warn!(
                client_id = %self.host.client_id,
                host = self.host.origin,
                error,
                "a client's callback host gave no answer to {failed} calls in a row: its \
                 notifications are postponed until one gets through"
            );
        }
    }
}

impl Drop for HostPermit {
    fn drop(&mut self) {
        if !self.is_probe {
            return;
        }
        // After a report there is nothing to do: it closed the opening, or freed the probe.
        let mut state = self.breakers.state();
        let opening = state.failing.get_mut(&self.host).and_then(|host| host.opening.as_mut());
        if let Some(opening) = opening.filter(|opening| opening.until <= Instant::now()) {
            opening.is_probed = false;
        }
    }
}

impl Breakers {
    /// Forgets hosts that no job has asked for, now and then.
    fn prune(&self, state: &mut State, now: Instant) {
        if now.saturating_duration_since(state.pruned) < SHORTEST_WAIT.max(self.forget_after / 10) {
            return;
        }
        state.pruned = now;
        let forget_after = self.forget_after;
        state
            .failing
            .retain(|_, failing| now.saturating_duration_since(failing.asked) < forget_after);
        self.show(state);
    }

    /// Brings the metric up to date.
    fn show(&self, state: &State) {
        let open = state.failing.values().filter(|failing| failing.opening.is_some()).count();
        self.metrics.callback_hosts_open(open);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const S: Duration = Duration::from_secs(1);

    fn breakers() -> CallbackHosts {
        let metrics = Metrics::new("worker", Vec::new(), Arc::default()).unwrap();
        CallbackHosts::new(&Config::default().notify, Arc::new(metrics))
    }

    fn host(client: u128, url: &str) -> CallbackHost {
        CallbackHost::new(Uuid::from_u128(client), url)
    }

    fn open(hosts: &CallbackHosts) -> usize {
        hosts.0.state().failing.values().filter(|failing| failing.opening.is_some()).count()
    }

    /// Five outages in a row, which began before any of them ended.
    fn fail(hosts: &CallbackHosts, host: &CallbackHost, now: Instant) {
        let calls: Vec<_> = (0..5).map(|_| hosts.pass_at(host, now).unwrap()).collect();
        calls.into_iter().for_each(|call| call.failed_at("no answer in time", now));
    }

    #[test]
    fn an_origin_of_one_client_is_a_host() {
        let shop = host(1, "https://shop.example/paid?key=1");
        assert_eq!(shop, host(1, "https://shop.example:443/other"));
        assert_ne!(shop, host(1, "http://shop.example/paid"));
        assert_ne!(shop, host(1, "https://shop.example:8443/paid"));
        assert_ne!(shop, host(2, "https://shop.example/paid"));
        assert_eq!(shop.origin(), "https://shop.example");
    }

    #[test]
    fn an_answer_between_outages_keeps_a_host_closed() {
        let (hosts, shop, now) = (breakers(), host(1, "https://shop.example"), Instant::now());
        for _ in 0..3 {
            for _ in 0..4 {
                hosts.pass_at(&shop, now).unwrap().failed_at("reset", now);
            }
            hosts.pass_at(&shop, now).unwrap().answered();
        }
        assert_eq!(open(&hosts), 0);
    }

    #[test]
    fn an_open_host_is_probed_by_one_call_after_growing_waits() {
        let (hosts, shop, mut now) = (breakers(), host(1, "https://shop.example"), Instant::now());
        fail(&hosts, &shop, now);
        assert_eq!(open(&hosts), 1);
        for open_for in [1, 2, 4, 8, 16, 32, 60, 60] {
            let outage = hosts.pass_at(&shop, now + S * (open_for - 1)).unwrap_err();
            assert_eq!(outage.error, "no answer in time");
            assert!(outage.wait >= S && outage.wait <= S + S * open_for / 2, "{outage:?}");
            now += S * open_for;
            let probe = hosts.pass_at(&shop, now).unwrap();
            hosts.pass_at(&shop, now).unwrap_err();
            probe.failed_at("no answer in time", now);
        }
        // Another client on the same host is none of that.
        hosts.pass_at(&host(2, "https://shop.example"), now).unwrap().answered();
        hosts.pass_at(&shop, now + S * 60).unwrap().answered();
        assert_eq!(open(&hosts), 0);
        hosts.pass_at(&shop, now).unwrap().answered();
    }

    #[test]
    fn a_late_answer_closes_and_a_late_outage_changes_nothing() {
        let (hosts, shop, now) = (breakers(), host(1, "https://shop.example"), Instant::now());
        let late: Vec<_> = (0..2).map(|_| hosts.pass_at(&shop, now).unwrap()).collect();
        fail(&hosts, &shop, now);
        let [outage, answer] = <[HostPermit; 2]>::try_from(late).unwrap();
        outage.failed_at("reset", now);
        hosts.pass_at(&shop, now + S / 2).unwrap_err();
        answer.answered();
        hosts.pass_at(&shop, now + S / 2).unwrap().answered();
    }

    #[test]
    fn a_probe_that_is_given_up_leaves_room_for_another() {
        let hosts = breakers();
        let shop = host(1, "https://shop.example");
        let past = Instant::now() - S * 2;
        fail(&hosts, &shop, past);
        let probe = hosts.pass(&shop).unwrap();
        hosts.pass(&shop).unwrap_err();
        drop(probe);
        hosts.pass(&shop).unwrap().answered();
    }

    #[test]
    fn a_host_that_no_job_asks_for_is_forgotten() {
        let (hosts, now) = (breakers(), Instant::now());
        fail(&hosts, &host(1, "https://shop.example"), now);
        let later = now + S * 3 * 60 * 60;
        hosts.pass_at(&host(2, "https://other.example"), later).unwrap().answered();
        assert!(hosts.0.state().failing.is_empty());
    }
}
