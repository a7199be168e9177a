//! What only the database knows, as gauges created for each scrape.
//!
//! Every process shows the same values, which are those of the whole installation. Where the
//! database could not be read they are left out, and `quartet_database_up` is 0: a gauge that kept
//! its last value would say that all is well.

use std::time::Duration;

use prometheus::{GaugeVec, Opts, Registry, core::Collector, proto::MetricFamily};

use super::third_party::THIRD_PARTY;
use crate::domain::{CircuitState, DeadLetterKind, JobKind, ThirdPartyName};

/// What was read for one scrape.
#[derive(Debug, Clone)]
pub struct DatabaseReading {
    pub queues: Vec<QueueReading>,
    /// Open dead letters; a kind that is not here has none.
    pub dead_letters: Vec<(DeadLetterKind, i64)>,
    /// Workers that were seen lately; a queue that is not here has none.
    pub workers: Vec<(JobKind, i64)>,
    /// Each third party.
    pub third_parties: Vec<ThirdPartyReading>,
    /// Pending transactions of third parties that jobs of this process do not call, by name; of
    /// those that they call, 0.
    pub without_third_party: Vec<(ThirdPartyName, i64)>,
}

/// How a third party stands.
#[derive(Debug, Clone)]
pub struct ThirdPartyReading {
    /// Where there are several.
    pub name: Option<String>,
    pub circuit: CircuitState,
    /// Whether it is open because the third party refuses our credentials.
    pub credentials_refused: bool,
}

/// How a queue stands.
#[derive(Debug, Clone)]
pub struct QueueReading {
    pub queue: JobKind,
    pub due: i64,
    pub scheduled: i64,
    pub running: i64,
    pub failed: i64,
    /// How long the longest waiting due job has been due.
    pub oldest_due_age: Option<Duration>,
    pub paused: bool,
}

/// The gauges of a reading.
pub(super) fn families(
    reading: Option<&DatabaseReading>,
) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let registry = Registry::new();
    let gauge = |name: &str, help: &str, labels: &[&str]| {
        let gauge = GaugeVec::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(gauge.clone()) as Box<dyn Collector>)?;
        Ok::<_, prometheus::Error>(gauge)
    };
    gauge("quartet_database_up", "Whether the database answered this scrape.", &[])?
        .with_label_values::<&str>(&[])
        .set(f64::from(u8::from(reading.is_some())));
    let Some(reading) = reading else { return Ok(registry.gather()) };

    let jobs = gauge(
        "quartet_queue_jobs",
        "Jobs by queue and state (due, scheduled, running, failed); counted up to 10000.",
        &["queue", "state"],
    )?;
    let oldest = gauge(
        "quartet_queue_oldest_due_age_seconds",
        "How long the longest waiting due job has been due; 0 where none waits.",
        &["queue"],
    )?;
    let paused = gauge("quartet_queue_paused", "Whether the queue is paused.", &["queue"])?;
    for queue in &reading.queues {
        let name = queue.queue.as_str();
        for (state, count) in [
            ("due", queue.due),
            ("scheduled", queue.scheduled),
            ("running", queue.running),
            ("failed", queue.failed),
        ] {
            jobs.with_label_values(&[name, state]).set(count as f64);
        }
        let age = queue.oldest_due_age.unwrap_or_default();
        oldest.with_label_values(&[name]).set(age.as_secs_f64());
        paused.with_label_values(&[name]).set(f64::from(u8::from(queue.paused)));
    }

    let open = gauge(
        "quartet_dead_letters_open",
        "Open dead letters by kind; counted up to 10000.",
        &["kind"],
    )?;
    for kind in DeadLetterKind::ALL {
        let count = reading.dead_letters.iter().find(|(known, _)| known == kind);
        open.with_label_values(&[kind.as_str()]).set(count.map_or(0, |(_, count)| *count) as f64);
    }

    let workers = gauge(
        "quartet_workers_alive",
        "Workers of all processes that have renewed their lease in time, by queue.",
        &["queue"],
    )?;
    for queue in JobKind::ALL {
        let count = reading.workers.iter().find(|(known, _)| known == queue);
        workers.with_label_values(&[queue.as_str()]).set(count.map_or(0, |(_, n)| *n) as f64);
    }

    let has_names = reading.third_parties.iter().any(|third_party| third_party.name.is_some());
    let name = has_names.then_some(THIRD_PARTY);
    let state = ["state"].into_iter().chain(name).collect::<Vec<_>>();
    let circuit = gauge(
        "quartet_circuit_state",
        "A third party's circuit: 1 for the state that it is in (closed, open, half_open).",
        &state,
    )?;
    let refused = gauge(
        "quartet_third_party_credentials_refused",
        "Whether a third party's jobs are held because it refuses our credentials (401, 403).",
        &Vec::from_iter(name),
    )?;
    for third_party in &reading.third_parties {
        let name = third_party.name.as_deref();
        for state in CircuitState::ALL {
            let is_in = f64::from(u8::from(*state == third_party.circuit));
            let labels: Vec<&str> = [state.as_str()].into_iter().chain(name).collect();
            circuit.with_label_values(&labels).set(is_in);
        }
        let labels = Vec::from_iter(name);
        refused
            .with_label_values(&labels)
            .set(f64::from(u8::from(third_party.credentials_refused)));
    }

    let without = gauge(
        "quartet_transactions_without_third_party",
        "Pending transactions whose third party is not configured in this process, which runs \
         jobs; 0 for those that are. Counted up to 10000.",
        &[THIRD_PARTY],
    )?;
    for (name, count) in &reading.without_third_party {
        without.with_label_values(&[name.as_str()]).set(*count as f64);
    }
    Ok(registry.gather())
}
