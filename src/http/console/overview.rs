//! The overview: what needs an operator, and the state of queues, workers and the third party.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use askama::Template;
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use poem::{Response, handler, web::Data};

use super::{
    charts::{Chart, Point, Subject},
    format::{self, Chip},
    layout::{self, Layout, Section},
    quantiles::Histogram,
    queues::{self, Queue},
    session::Session,
};
use crate::{
    domain::{CircuitState, JobKind, ThirdPartyName},
    http::{self, ApiState},
    store::{
        StoreError,
        audit::{self, Recorded},
        circuit::{self, Circuit, Circuits},
        dead_letters::{self, OpenCount},
        jobs::leases,
        maintenance::{self, TaskState},
        minute_figures::{self, MinuteFigure},
        reconcile::{self, FindingRow},
    },
};

/// Number of recent actions and findings on the page.
const RECENT: i64 = 6;
/// How far the charts go back, in full minutes.
const MINUTES: u32 = 60;

const THROUGHPUT: Subject = Subject {
    id: "throughput",
    title: "Transactions per minute",
    names: ["accepted", "final"],
    write: |value| format::number(value.round() as i64),
};

const TIME_TO_FINAL: Subject = Subject {
    id: "time-to-final",
    title: "Time to final",
    names: ["half within (p50)", "95 % within (p95)"],
    write: |value| {
        format::format_duration(
            Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(Duration::MAX),
        )
    },
};

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    layout: Layout,
    queues: Vec<Queue>,
    open: Vec<OpenCount>,
    /// Live workers by queue.
    alive: BTreeMap<String, i64>,
    circuits: Vec<NamedCircuit>,
    charts: [Chart; 2],
    tasks: Vec<TaskState>,
    findings: Vec<FindingRow>,
    actions: Vec<Recorded>,
}

impl OverviewPage {
    fn open_count(&self) -> i64 {
        self.open.iter().map(|open| open.count).sum()
    }

    fn oldest_open(&self) -> Option<DateTime<Utc>> {
        self.open.iter().map(|open| open.oldest_opened_at).min()
    }

    fn workers(&self) -> i64 {
        self.alive.values().sum()
    }

    fn workers_of(&self, queue: &JobKind) -> i64 {
        self.alive.get(queue.as_str()).copied().unwrap_or_default()
    }

    /// The queues that nobody works on.
    fn idle_queues(&self) -> Vec<&'static str> {
        JobKind::ALL
            .iter()
            .filter(|kind| self.workers_of(kind) == 0)
            .map(|kind| kind.as_str())
            .collect()
    }

    fn paused(&self) -> Vec<&'static str> {
        let paused = self.queues.iter().filter(|queue| queue.figures.paused.is_some());
        paused.map(|queue| queue.figures.queue.as_str()).collect()
    }
}

/// The circuit of one third party.
struct NamedCircuit {
    /// Where there are several.
    name: Option<ThirdPartyName>,
    circuit: Circuit,
}

impl NamedCircuit {
    fn chip(&self) -> Chip {
        if self.circuit.refuses_credentials() {
            return Chip::toned("credentials refused", "bad");
        }
        match self.circuit.state {
            CircuitState::Closed => Chip::toned("closed", "good"),
            CircuitState::HalfOpen => Chip::toned("half open", "busy"),
            CircuitState::Open => Chip::toned("open", "bad"),
        }
    }
}

fn circuits(state: &ApiState, circuits: &Circuits) -> Vec<NamedCircuit> {
    let names = &state.third_parties;
    let named = names.iter().map(|name| NamedCircuit {
        name: (names.len() > 1).then(|| name.clone()),
        circuit: circuits.of(name),
    });
    named.collect()
}

/// The overview.
#[handler]
pub async fn show_overview(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
) -> poem::Result<Response> {
    let page = state.fetch(read(state, session)).await?;
    layout::page(&page)
}

async fn read(state: &ApiState, session: &Session) -> Result<OverviewPage, StoreError> {
    let pool = &state.pool;
    let alive = leases::count_alive(pool, state.operations.dead_after).await?;
    let figures = minute_figures::since(pool, MINUTES + 1).await?;
    Ok(OverviewPage {
        layout: Layout::new(session, Section::Overview, "Overview"),
        queues: queues::read(state).await?,
        open: dead_letters::count_open(pool).await?,
        alive: alive.into_iter().map(|alive| (alive.queue, alive.workers)).collect(),
        circuits: circuits(state, &circuit::get_all(pool).await?),
        charts: charts(&figures, http::now()),
        tasks: maintenance::list(pool).await?,
        findings: reconcile::findings(pool, None, RECENT).await?,
        actions: audit::list(pool, audit::Filter::default(), RECENT).await?,
    })
}

/// Throughput and time to final of the full minutes before `now`: the present one would look like
/// a collapse.
fn charts(figures: &[MinuteFigure], now: DateTime<Utc>) -> [Chart; 2] {
    let (mut accepted, mut finals) = (BTreeMap::new(), BTreeMap::<_, Histogram>::new());
    for figure in figures {
        match figure.figure.as_str() {
            "accepted" => {
                let sum: &mut i64 = accepted.entry(figure.minute).or_default();
                *sum = sum.saturating_add(figure.value);
            }
            "final" => finals.entry(figure.minute).or_default().add(&figure.label, figure.value),
            _ => {}
        }
    }
    let nothing = accepted.is_empty() && finals.is_empty();
    // A time of this century can be cut to its minute.
    let minute = now.duration_trunc(TimeDelta::minutes(1)).unwrap_or(now);
    let minutes = (1..=i64::from(MINUTES)).rev().map(|ago| minute - TimeDelta::minutes(ago));
    let minutes: Vec<DateTime<Utc>> = minutes.collect();
    let throughput = minutes.iter().map(|minute| Point {
        minute: *minute,
        values: [
            accepted.get(minute).copied().unwrap_or_default(),
            finals.get(minute).map_or(0, Histogram::count),
        ]
        .map(|count| (!nothing).then_some(count as f64)),
    });
    let times = minutes.iter().map(|minute| Point {
        minute: *minute,
        values: [0.5, 0.95].map(|share| finals.get(minute)?.quantile(share)),
    });
    [
        Chart::draw(THROUGHPUT, &throughput.collect::<Vec<_>>()),
        Chart::draw(TIME_TO_FINAL, &times.collect::<Vec<_>>()),
    ]
}
