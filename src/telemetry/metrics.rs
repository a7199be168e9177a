//! The metrics of one application, in Prometheus's model.
//!
//! Children of labelled metrics are resolved when the application is built: counting is an atomic
//! addition, without a lock or an allocation. Whatever has no fixed set of labels (HTTP statuses)
//! resolves its child at its first use. What only the database knows is read when somebody
//! scrapes; see [`super::reading`].

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use prometheus::{
    GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, process_collector::ProcessCollector, proto::MetricFamily,
};
use sqlx::PgPool;

use super::{
    database_errors::DatabaseErrors,
    labels::{AcceptResult, CalledPeer, NotifyResult, RejectReason, SentAgain, WebhookResult},
    operations::OperationMetrics,
    reading::DatabaseReading,
    registering::{ByWord, LONG_BUCKETS, Maker, buckets},
    third_party::{ThirdPartyFamilies, ThirdPartyMetrics},
};
use crate::domain::{JobKind, RunOutcome, SettledBy};

/// Seconds of what is done here: a request, a run of a job that calls nobody.
const SHORT_BUCKETS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0];
/// Seconds that a due job waited.
const LATENESS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0];
/// Seconds from accept to final status: fine enough to draw a median from.
const TO_FINAL: [f64; 20] = [
    0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0,
    300.0, 600.0, 900.0,
];
/// Attempts that a job took.
const ATTEMPTS: [f64; 8] = [1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0, 15.0];

/// What is counted about the jobs of one queue.
#[derive(Debug)]
struct QueueMetrics {
    runs: ByWord<RunOutcome>,
    duration: Histogram,
    lateness: Histogram,
    attempts: Histogram,
}

/// A connection pool of the metrics.
#[derive(Debug)]
pub struct NamedPool {
    /// What it is for.
    pub name: &'static str,
    pub pool: PgPool,
}

/// How often something was counted so far, under the name it has in the figures per minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Total {
    /// `accepted`, `jobs` or `final`.
    pub figure: &'static str,
    pub label: String,
    pub count: u64,
}

/// The metrics of one application.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pools: Vec<NamedPool>,
    accepts: ByWord<AcceptResult>,
    webhooks: ByWord<WebhookResult>,
    queues: ByWord<JobKind, QueueMetrics>,
    third_parties: ThirdPartyFamilies,
    has_several_third_parties: bool,
    idle_closed: ByWord<CalledPeer>,
    sent_again: ByWord<CalledPeer, ByWord<SentAgain>>,
    notifications: ByWord<NotifyResult>,
    notifications_postponed: IntCounter,
    callback_hosts_open: IntGauge,
    notify_duration: Histogram,
    time_to_final: ByWord<SettledBy, Histogram>,
    requests: IntCounterVec,
    request_durations: HistogramVec,
    refusals: ByWord<RejectReason>,
    http_connections: IntGauge,
    clock_skew: GaugeVec,
    connections: IntGaugeVec,
    database_error_counts: Arc<DatabaseErrors>,
    database_errors: IntCounterVec,
}

impl Metrics {
    /// Metrics at zero, of a process of this role with these pools, whose `database_error_counts`
    /// are exposed.
    pub fn new(
        role: &str,
        pools: Vec<NamedPool>,
        database_error_counts: Arc<DatabaseErrors>,
    ) -> Result<Self, prometheus::Error> {
        Self::of_third_parties(false, role, pools, database_error_counts)
    }

    /// The same where there may be several third parties, which a label then names.
    pub fn of_third_parties(
        has_several_third_parties: bool,
        role: &str,
        pools: Vec<NamedPool>,
        database_error_counts: Arc<DatabaseErrors>,
    ) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let make = Maker { registry: &registry };
        let build = make.gauge(
            Opts::new("quartet_build_info", "Always 1; what runs here.")
                .const_label("version", env!("CARGO_PKG_VERSION"))
                .const_label("role", role),
        )?;
        build.set(1.0);
        registry.register(Box::new(ProcessCollector::for_self()))?;

        let accepts = make.counters(
            "quartet_accepts_total",
            "Transactions posted, by how the post was answered.",
            &["result"],
        )?;
        let webhooks = make.counters(
            "quartet_webhooks_total",
            "Webhooks of the third party, by what became of them.",
            &["outcome"],
        )?;
        let runs = make.counters(
            "quartet_job_runs_total",
            "Runs of jobs that ended, by queue and outcome.",
            &["queue", "outcome"],
        )?;
        let durations = make.histograms(
            "quartet_job_duration_seconds",
            "From the start of a job's run to its written outcome.",
            &["queue"],
            &LONG_BUCKETS,
        )?;
        let lateness = make.histograms(
            "quartet_job_lateness_seconds",
            "From when a job was due to its claim, by the database's clock.",
            &["queue"],
            &LATENESS,
        )?;
        let attempts = make.histograms(
            "quartet_job_attempts",
            "Attempts that a job took until it was done or became a dead letter.",
            &["queue"],
            &ATTEMPTS,
        )?;
        let queue = |kind: JobKind| {
            let queue = kind.as_str();
            QueueMetrics {
                runs: ByWord::new(|word: RunOutcome| {
                    runs.with_label_values(&[queue, word.as_str()])
                }),
                duration: durations.with_label_values(&[queue]),
                lateness: lateness.with_label_values(&[queue]),
                attempts: attempts.with_label_values(&[queue]),
            }
        };
        let third_parties = ThirdPartyFamilies::new(&make, has_several_third_parties)?;
        let idle_closed = make.counters(
            "quartet_idle_connections_closed_total",
            "Connections to peers that were closed because nobody had used them for a few seconds.",
            &["peer"],
        )?;
        let sent_again = make.counters(
            "quartet_calls_sent_again_total",
            "Calls of peers that were sent again at once, by cause.",
            &["peer", "cause"],
        )?;
        let notifications = make.counters(
            "quartet_notifications_total",
            "Notifications sent to clients, by result.",
            &["result"],
        )?;
        let notifications_postponed = make.counters(
            "quartet_notifications_postponed_total",
            "Runs of notify_client that made no call, because the client's callback host does not \
             answer.",
            &[],
        )?;
        let callback_hosts_open = make.gauges(
            "quartet_callback_hosts_open",
            "Callback hosts that do not answer this process, so that it only probes them.",
            &[],
        )?;
        let notify_duration = make.histograms(
            "quartet_notification_duration_seconds",
            "Time that notifications took, answered or not.",
            &[],
            &LONG_BUCKETS,
        )?;
        let time_to_final = make.histograms(
            "quartet_time_to_final_seconds",
            "From accept to final status, by what settled the transaction.",
            &["settled_by"],
            &TO_FINAL,
        )?;
        let requests = make.counters(
            "quartet_http_requests_total",
            "HTTP requests answered, by operation and status.",
            &["operation", "status"],
        )?;
        let request_durations = make.histograms(
            "quartet_http_request_duration_seconds",
            "Time to answer HTTP requests, by operation.",
            &["operation"],
            &SHORT_BUCKETS,
        )?;
        let refusals = make.counters(
            "quartet_requests_refused_total",
            "Requests and connections refused to protect the others, by reason.",
            &["reason"],
        )?;
        let http_connections =
            make.gauges("quartet_http_connections", "Connections of callers that are open.", &[])?;
        let connections = make.gauges(
            "quartet_database_connections",
            "Connections of this process to the database, by pool and state; `max` is the limit.",
            &["pool", "state"],
        )?;
        let database_errors = make.counters(
            "quartet_database_errors_total",
            "Statements and connections that the database did not serve, by cause.",
            &["cause"],
        )?;
        let clock_skew = GaugeVec::new(
            Opts::new(
                "quartet_clock_skew_seconds",
                "How far the clock of this process is ahead of the database's; negative: behind.",
            ),
            &[],
        )?;
        registry.register(Box::new(clock_skew.clone()))?;
        Ok(Self {
            clock_skew,
            pools,
            database_error_counts,
            database_errors,
            accepts: ByWord::new(|word: AcceptResult| accepts.with_label_values(&[word.as_str()])),
            webhooks: ByWord::new(|word: WebhookResult| {
                webhooks.with_label_values(&[word.as_str()])
            }),
            queues: ByWord::new(queue),
            third_parties,
            has_several_third_parties,
            idle_closed: ByWord::new(|peer: CalledPeer| {
                idle_closed.with_label_values(&[peer.as_str()])
            }),
            sent_again: ByWord::new(|peer: CalledPeer| {
                ByWord::new(|cause: SentAgain| {
                    sent_again.with_label_values(&[peer.as_str(), cause.as_str()])
                })
            }),
            notifications: ByWord::new(|word: NotifyResult| {
                notifications.with_label_values(&[word.as_str()])
            }),
            notifications_postponed: notifications_postponed.with_label_values::<&str>(&[]),
            callback_hosts_open: callback_hosts_open.with_label_values::<&str>(&[]),
            notify_duration: notify_duration.with_label_values::<&str>(&[]),
            time_to_final: ByWord::new(|by: SettledBy| {
                time_to_final.with_label_values(&[by.as_str()])
            }),
            requests,
            request_durations,
            refusals: ByWord::new(|word: RejectReason| {
                refusals.with_label_values(&[word.as_str()])
            }),
            http_connections: http_connections.with_label_values::<&str>(&[]),
            connections,
            registry,
        })
    }

    /// The counters of one HTTP operation.
    pub fn operation(&self, operation: &str) -> OperationMetrics {
        OperationMetrics::new(operation, &self.requests, &self.request_durations)
    }

    /// A posted transaction was answered.
    pub fn accept(&self, result: AcceptResult) {
        self.accepts.get(result).inc();
    }

    /// A webhook was answered.
    pub fn webhook(&self, result: WebhookResult) {
        self.webhooks.get(result).inc();
    }

    /// A request or a connection was refused.
    pub fn refused(&self, why: RejectReason) {
        self.refusals.get(why).inc();
    }

    /// Connections to a peer were closed because nobody had used them for too long.
    pub fn idle_connections_closed(&self, peer: CalledPeer, count: u64) {
        self.idle_closed.get(peer).inc_by(count);
    }

    /// A call of a peer is sent again at once.
    pub fn sent_again(&self, peer: CalledPeer, cause: SentAgain) {
        self.sent_again.get(peer).get(cause).inc();
    }

    /// A caller's connection was opened.
    pub fn connection_opened(&self) {
        self.http_connections.inc();
    }

    /// A caller's connection was closed.
    pub fn connection_closed(&self) {
        self.http_connections.dec();
    }

    /// The wall clock of this process was found this far ahead of the database's. Before the first
    /// time the metric has no value.
    pub fn clock_skew(&self, skew: TimeDelta) {
        self.clock_skew.with_label_values::<&str>(&[]).set(skew.as_seconds_f64());
    }

    /// A job was claimed this long after it was due.
    pub fn claimed(&self, queue: &str, late: Duration) {
        if let Some(queue) = self.queue(queue) {
            queue.lateness.observe(late.as_secs_f64());
        }
    }

    /// A run of a job ended after `took`; it was attempt number `attempt`.
    pub fn run_ended(&self, queue: &str, outcome: RunOutcome, attempt: u32, took: Duration) {
        let Some(queue) = self.queue(queue) else { return };
        queue.runs.get(outcome).inc();
        queue.duration.observe(took.as_secs_f64());
        if matches!(outcome, RunOutcome::Done | RunOutcome::Dead) {
            queue.attempts.observe(attempt.into());
        }
    }

    /// What is counted of the calls of one third party. Its name is a label where there are
    /// several.
    pub fn third_party(&self, name: &str) -> ThirdPartyMetrics {
        let name = self.has_several_third_parties.then_some(name);
        ThirdPartyMetrics::new(name, &self.third_parties)
    }

    /// A notification was answered, or not, after `took`.
    pub fn notification(&self, result: NotifyResult, took: Duration) {
        self.notifications.get(result).inc();
        self.notify_duration.observe(took.as_secs_f64());
    }

    /// A notification was postponed, because its client's callback host does not answer.
    pub fn notification_postponed(&self) {
        self.notifications_postponed.inc();
    }

    /// This many callback hosts do not answer.
    pub fn callback_hosts_open(&self, count: usize) {
        self.callback_hosts_open.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A transaction became final this long after its accept.
    pub fn settled(&self, by: SettledBy, after: Duration) {
        self.time_to_final.get(by).observe(after.as_secs_f64());
    }

    fn queue(&self, queue: &str) -> Option<&QueueMetrics> {
        queue.parse().ok().map(|kind| self.queues.get(kind))
    }

    /// What the figures per minute are made of, always the same ones in the same order.
    pub fn totals(&self) -> Vec<Total> {
        let mut totals = vec![Total {
            figure: "accepted",
            label: String::new(),
            count: self.accepts.get(AcceptResult::Accepted).get(),
        }];
        for (kind, queue) in self.queues.iter() {
            totals.extend(queue.runs.iter().map(|(outcome, counter)| Total {
                figure: "jobs",
                label: format!("{kind}/{outcome}"),
                count: counter.get(),
            }));
        }
        for (by, histogram) in self.time_to_final.iter() {
            totals.extend(buckets(histogram).into_iter().map(|(bound, count)| Total {
                figure: "final",
                label: format!("{by}/{bound}"),
                count,
            }));
        }
        totals
    }

    /// Everything in Prometheus's text format, with what was read of the database; without it
    /// where it could not be read.
    pub fn expose(&self, reading: Option<&DatabaseReading>) -> Result<String, prometheus::Error> {
        for NamedPool { name, pool } in &self.pools {
            let idle = pool.num_idle().min(pool.size() as usize) as i64;
            let set = |state, value| {
                self.connections.with_label_values(&[*name, state]).set(value);
            };
            set("idle", idle);
            set("in_use", i64::from(pool.size()) - idle);
            set("max", i64::from(pool.options().get_max_connections()));
        }
        for (cause, count) in self.database_error_counts.counts() {
            let counter = self.database_errors.with_label_values(&[cause.as_str()]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        let mut families: Vec<MetricFamily> = self.registry.gather();
        families.extend(super::reading::families(reading)?);
        TextEncoder::new().encode_to_string(&families)
    }
}
