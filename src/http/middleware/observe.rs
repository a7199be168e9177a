//! What every request leaves behind: its id, a log span, a trace span, counts, and one line in the
//! log if it failed.
//!
//! The request's id is the caller's `X-Request-Id` where that is sane, or else a new one; it stands
//! in every log line of the request and in the answer. The operation is found before the request
//! is routed, from the OpenAPI document, so that it stands there too.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use poem::{
    Endpoint, Middleware, Request, Response, Result,
    http::{HeaderValue, Method, StatusCode},
};
use serde_json::Value;
use tracing::{Instrument, Span, field::Empty};
use uuid::Uuid;

use super::{admission::Shed, path_template::PathTemplate};
use crate::{
    http::problem::Cause,
    telemetry::{
        Metrics,
        labels::{AcceptResult, WebhookResult},
        operations::OperationMetrics,
        traces,
    },
};

/// The header that carries a request's id, both ways.
pub const REQUEST_ID: &str = "x-request-id";
/// Most characters of a caller's request id.
const MAX_REQUEST_ID: usize = 128;
/// The operations that count what they answer.
const ACCEPT: &str = "create_transaction";
const WEBHOOK: &str = "receive_third_party_webhook";
/// Paths that no operation of the document has, by their beginning.
const PAGES: [(&str, &str); 4] = [
    ("/metrics", "scrape_metrics"),
    ("/console", "console"),
    ("/docs", "docs"),
    ("/openapi.json", "openapi"),
];
/// What has no operation: unknown paths.
const UNKNOWN: &str = "unknown";

/// The operation of a request, as metrics and logs name it.
#[derive(Debug)]
struct Operation {
    name: String,
    /// `None` for a page, which takes every method.
    method: Option<String>,
    path: PathTemplate,
    metrics: OperationMetrics,
    /// Whether it makes a trace: what clients, the third party and operators call does.
    traced: bool,
}

/// All operations, and what they are counted with.
#[derive(Debug)]
struct Operations {
    known: Vec<Operation>,
    unknown: Operation,
    metrics: Arc<Metrics>,
}

impl Operations {
    fn new(openapi: &str, metrics: Arc<Metrics>) -> Self {
        let document: Value = serde_json::from_str(openapi).unwrap_or_default();
        let paths = document["paths"].as_object().into_iter().flatten();
        let operations = paths.flat_map(|(path, item)| {
            let methods = item.as_object().into_iter().flatten();
            methods.filter_map(move |(method, operation)| {
                let name = operation["operationId"].as_str()?;
                Some((name.to_owned(), Some(method.to_uppercase()), path.clone()))
            })
        });
        let pages = PAGES.iter().map(|(path, name)| ((*name).to_owned(), None, (*path).to_owned()));
        let make = |(name, method, path): (String, Option<String>, String)| Operation {
            metrics: metrics.operation(&name),
            path: PathTemplate::new(&path),
            traced: path.starts_with("/v1/"),
            name,
            method,
        };
        let unknown = make((UNKNOWN.to_owned(), None, String::new()));
        Self { known: operations.chain(pages).map(make).collect(), unknown, metrics }
    }

    fn of(&self, request: &Request) -> &Operation {
        let (method, path) = (request.method(), request.uri().path());
        let found = self.known.iter().find(|operation| operation.matches(method, path));
        found.unwrap_or(&self.unknown)
    }
}

impl Operation {
    fn matches(&self, method: &Method, path: &str) -> bool {
        let method = if *method == Method::HEAD { Method::GET.as_str() } else { method.as_str() };
        if self.method.as_deref().is_some_and(|own| own != method) {
            return false;
        }
        match self.method {
            Some(_) => self.path.matches(path),
            None => self.path.begins(path),
        }
    }
}

/// The middleware.
pub struct Observe(Arc<Operations>);

impl Observe {
    /// Knows the operations of `openapi` and counts with `metrics`.
    pub fn new(openapi: &str, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Operations::new(openapi, metrics)))
    }
}

impl<E: Endpoint<Output = Response>> Middleware<E> for Observe {
    type Output = Observed<E>;

    fn transform(&self, inner: E) -> Self::Output {
        Observed { operations: self.0.clone(), inner }
    }
}

/// An endpoint behind [`Observe`].
pub struct Observed<E> {
    operations: Arc<Operations>,
    inner: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for Observed<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let began = Instant::now();
        let operation = self.operations.of(&request);
        let request_id = request_id(&request);
        let span = begin(operation, &request_id, &request);
        let answered = self.inner.call(request).instrument(span.clone()).await;
        let mut response = answered.unwrap_or_else(|error| error.into_response());

        let (status, took) = (response.status(), began.elapsed());
        operation.metrics.answered(status.as_u16(), took);
        count(&self.operations.metrics, &operation.name, status);
        span.record("status", status.as_u16());
        span.in_scope(|| log(&response, took));
        // Printable ASCII, or a uuid: always a valid value.
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        Ok(response)
    }
}

/// The caller's id of the request, if it can stand in a log and a header, or a new one.
fn request_id(request: &Request) -> String {
    let given = request.header(REQUEST_ID).filter(|id| {
        (1..=MAX_REQUEST_ID).contains(&id.len())
            && id.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    });
    given.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// The request's span. Of the highest level, so that the ids stand in each line, whatever is
/// logged.
fn begin(operation: &Operation, request_id: &str, request: &Request) -> Span {
    if !operation.traced {
        // Of a target that no span of a trace has, and that a log filter for `quartet` takes.
        return tracing::error_span!(target: "quartet_untraced", "request", request_id,
            operation = operation.name, transaction_id = Empty, status = Empty);
    }
    let span = tracing::error_span!(
        "request",
        otel.name = traces::is_on().then_some(operation.name.as_str()),
        otel.kind = traces::is_on().then_some("server"),
        request_id,
        operation = operation.name,
        transaction_id = Empty,
        trace_id = Empty,
        status = Empty
    );
    if traces::is_on() {
        traces::continue_incoming(&span, request.header(traces::TRACEPARENT));
        // A webhook's trace is known when its transaction is.
        if operation.name != WEBHOOK {
            traces::record_trace_id(&span);
        }
    }
    span
}

fn count(metrics: &Metrics, operation: &str, status: StatusCode) {
    match operation {
        ACCEPT => metrics.accept(AcceptResult::of_status(status.as_u16())),
        // The others were counted by what they did.
        WEBHOOK if status != StatusCode::OK => {
            metrics.webhook(WebhookResult::of_refusal(status.as_u16()));
        }
        _ => {}
    }
}

/// One line for a request that failed; the others are logged at debug.
fn log(response: &Response, took: Duration) {
    let took_ms = took.as_secs_f64() * 1_000.0;
    let cause = response.extensions().get::<Cause>().map(|cause| &*cause.0);
    match response.status() {
        // Logged in total.
        _ if response.extensions().get::<Shed>().is_some() => {
            tracing::debug!(took_ms, "request refused");
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            tracing::warn!(took_ms, cause, "request refused");
        }
        status if status.is_server_error() => tracing::error!(took_ms, cause, "request failed"),
        _ => tracing::debug!(took_ms, "request answered"),
    }
}
