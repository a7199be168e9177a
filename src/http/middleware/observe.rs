//! What every request leaves behind: its id, a log span, a trace span, counts, and one line in the
//! log if it failed.
//!
//! The request's id is the caller's `X-Request-Id` where that is sane, or else a new one; it stands
//! in every log line of the request and in the answer. The operation is found before the request
//! is routed, in the list of routes, so that it stands there too.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use poem::{
    Endpoint, Middleware, Request, Response, Result,
    http::{HeaderValue, Method, StatusCode},
};
use tracing::{Instrument, Span, field::Empty};
use uuid::Uuid;

use super::{admission::Shed, path_template::PathTemplate};
use crate::{
    config::Role,
    http::{
        problem::Cause,
        route_list::{ROUTES, RouteInfo, UNKNOWN},
    },
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
const PROVIDER_WEBHOOK: &str = "receive_provider_webhook";

/// A route, and what its requests are counted with.
#[derive(Debug)]
struct Operation {
    route: &'static RouteInfo,
    path: PathTemplate,
    metrics: OperationMetrics,
}

/// All operations.
#[derive(Debug)]
struct Operations {
    known: Vec<Operation>,
    unknown: Operation,
    metrics: Arc<Metrics>,
}

impl Operations {
    fn new(role: Role, metrics: Arc<Metrics>) -> Self {
        let make = |route: &'static RouteInfo| Operation {
            route,
            path: PathTemplate::new(route.path),
            metrics: metrics.operation(route.operation),
        };
        let served = ROUTES.iter().filter(|route| route.is_served_by(role));
        Self { known: served.map(make).collect(), unknown: make(UNKNOWN), metrics }
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
        match self.route.method {
            Some(own) if own != method => false,
            Some(_) => self.path.matches(path),
            None => self.path.begins(path),
        }
    }
}

/// The middleware.
pub struct Observe(Arc<Operations>);

impl Observe {
    /// Knows the routes that `role` serves, and counts with `metrics`.
    pub fn new(role: Role, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Operations::new(role, metrics)))
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

    async fn call(&self, mut request: Request) -> Result<Response> {
        let began = Instant::now();
        let operation = self.operations.of(&request);
        request.extensions_mut().insert(operation.route);
        let request_id = request_id(&request);
        let span = begin(operation.route, &request_id, &request);
        let answered = self.inner.call(request).instrument(span.clone()).await;
        let mut response = answered.unwrap_or_else(|error| error.into_response());

        let (status, took) = (response.status(), began.elapsed());
        operation.metrics.answered(status.as_u16(), took);
        let is_shed = response.extensions().get::<Shed>().is_some();
        count(&self.operations.metrics, operation.route.operation, status, is_shed);
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
fn begin(route: &RouteInfo, request_id: &str, request: &Request) -> Span {
    let operation = route.operation;
    if !route.is_traced() {
        // Of a target that no span of a trace has, and that a log filter for `quartet` takes.
        return tracing::error_span!(target: "quartet_untraced", "request", request_id,
            operation, transaction_id = Empty, status = Empty);
    }
    let span = tracing::error_span!(
        "request",
        otel.name = traces::is_on().then_some(operation),
        otel.kind = traces::is_on().then_some("server"),
        request_id,
        operation,
        transaction_id = Empty,
        trace_id = Empty,
        status = Empty
    );
    if traces::is_on() {
        traces::continue_incoming(&span, request.header(traces::TRACEPARENT));
        // A webhook's trace is known when its transaction is.
        if operation != WEBHOOK {
            traces::record_trace_id(&span);
        }
    }
    span
}

fn count(metrics: &Metrics, operation: &str, status: StatusCode, is_shed: bool) {
    match operation {
        ACCEPT => metrics.accept(AcceptResult::of_status(status.as_u16())),
        // The others were counted by what they did.
        WEBHOOK if status != StatusCode::OK => {
            metrics.webhook(WebhookResult::of_refusal(status.as_u16()));
        }
        // It counts what it answers itself: an event each.
        PROVIDER_WEBHOOK if is_shed => metrics.webhook(WebhookResult::Unavailable),
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
