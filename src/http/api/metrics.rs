//! `GET /metrics`: Prometheus's text format, for every role and without a key, as the health
//! checks are. Concurrent scrapes share one reading of the database, over a connection of its own.

use std::{sync::Arc, time::Duration};

use hyper::body::Bytes;
use poem::{IntoResponse, Response, handler, http::StatusCode, web::Data};

use crate::{
    http::{ApiState, problem::Problem},
    store::{
        self, StoreError, circuit,
        queues::{self, QueueStats},
        scrape,
    },
    telemetry::reading::{DatabaseReading, QueueReading, ThirdPartyReading},
};

/// Text format 0.0.4.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// A scrape that waits longer for the database goes without it: Prometheus gives up after 10 s.
const READ_LIMIT: Duration = Duration::from_millis(1_800);

/// What a scrape is answered; nothing where the metrics could not be written as text.
pub(in crate::http) type Scrape = Option<Bytes>;

/// The process's metrics, and what the database says at this moment.
#[handler]
pub async fn scrape_metrics(state: Data<&Arc<ApiState>>) -> Response {
    let collect = || collect(Arc::clone(&state));
    match state.scrapes.run(collect).await.flatten() {
        Some(text) => text.with_content_type(CONTENT_TYPE).into_response(),
        None => {
            let detail = "the metrics could not be collected; the cause is in the log";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response()
        }
    }
}

async fn collect(state: Arc<ApiState>) -> Scrape {
    let reading = match tokio::time::timeout(READ_LIMIT, read(&state)).await {
        Ok(Ok(reading)) => Some(reading),
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the database could not be read for a scrape");
            None
        }
        Err(_) => {
            tracing::warn!("the database took too long for a scrape");
            None
        }
    };
    match state.metrics.expose(reading.as_ref()) {
        Ok(text) => Some(text.into()),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the metrics could not be written as text");
            None
        }
    }
}

async fn read(state: &ApiState) -> Result<DatabaseReading, StoreError> {
    // Of one moment.
    let mut connection = store::begin_snapshot(&state.scrape_pool).await?;
    let queues = queues::list(&mut *connection).await?;
    let circuits = circuit::get_all(&mut *connection).await?;
    let has_several = state.third_parties.len() > 1;
    let third_parties = state.third_parties.iter().map(|name| {
        let circuit = circuits.of(name);
        ThirdPartyReading {
            name: has_several.then(|| name.to_string()),
            circuit: circuit.state,
            credentials_refused: circuit.refuses_credentials(),
        }
    });
    let without_third_party = match &state.called_third_parties {
        Some(called) => {
            let elsewhere = scrape::pending_elsewhere(&mut *connection, called).await?;
            called.iter().map(|name| (name.clone(), 0)).chain(elsewhere).collect()
        }
        None => Vec::new(),
    };
    Ok(DatabaseReading {
        queues: queues.into_iter().map(Into::into).collect(),
        dead_letters: scrape::open_dead_letters(&mut *connection).await?,
        workers: scrape::workers_alive(&mut *connection, state.dead_after).await?,
        third_parties: third_parties.collect(),
        without_third_party,
    })
}

impl From<QueueStats> for QueueReading {
    fn from(figures: QueueStats) -> Self {
        Self {
            queue: figures.queue,
            due: figures.due,
            scheduled: figures.scheduled,
            running: figures.running,
            failed: figures.failed,
            oldest_due_age: figures.oldest_due_age,
            paused: figures.paused.is_some(),
        }
    }
}
