//! Traces: OTLP over HTTP, off unless `QUARTET_TRACES__ENDPOINT` is set.
//!
//! A transaction is one trace. The accept's span (a child of the caller's, if the request
//! carried a `traceparent`) is stored in the four job rows as W3C `traceparent`; each run of a job
//! and the webhook continue it, and outbound calls carry it on. Only what is sampled is stored and
//! sent: a job without a `traceparent` belongs to no trace and makes no span.
//!
//! Spans have ids, counts and outcomes as attributes. Log lines do not become part of them: those
//! may quote what a peer answered.
//!
//! While traces are off, each function here is one look at a flag.

use std::{
    any::TypeId,
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator,
    trace::{
        SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
    },
};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider},
};
use tracing::{
    Span, Subscriber,
    span::{Attributes, Id, Record},
};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, layer::Context as LayerContext, registry::LookupSpan};

/// The header, and the key in a job row's metadata (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";
/// How long one export may take, and how long a process waits for the last one.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// A span waits at most this long before it is sent.
const EXPORT_DELAY: Duration = Duration::from_secs(1);
/// Spans that wait to be sent; more are dropped rather than waited for.
const QUEUE: usize = 16_384;

static ON: AtomicBool = AtomicBool::new(false);

/// Where spans go.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// The collector's URL for traces.
    pub endpoint: String,
    /// Share of the traces that begin here which is sampled, 0 to 1.
    pub sample_ratio: f64,
}

/// The export of this process's spans.
#[derive(Debug)]
pub(super) struct TraceExport {
    provider: SdkTracerProvider,
}

impl TraceExport {
    pub(super) fn new(settings: &TraceSettings) -> Result<Self, ExporterBuildError> {
        // An error means that a provider is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&settings.endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_scheduled_delay(EXPORT_DELAY)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let sampler = Sampler::TraceIdRatioBased(settings.sample_ratio);
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(sampler)))
            .with_resource(
                Resource::builder()
                    .with_service_name("quartet")
                    .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                    .build(),
            )
            .with_span_processor(processor)
            .build();
        Ok(Self { provider })
    }

    /// What makes Quartet's own spans into OpenTelemetry's.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        OwnSpans(
            tracing_opentelemetry::layer()
                .with_tracer(self.provider.tracer("quartet"))
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_level(false)
                .with_tracked_inactivity(false)
                // Everything here goes by the tracing span.
                .with_context_activation(false),
        )
    }

    pub(super) async fn shutdown(self) {
        ON.store(false, Ordering::Relaxed);
        // It waits for the exporting thread.
        let ended = tokio::task::spawn_blocking(move || {
            self.provider.shutdown_with_timeout(EXPORT_TIMEOUT)
        });
        match ended.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the last spans could not be sent");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the last spans could not be sent");
            }
        }
    }
}

/// Passes on Quartet's own spans, and no events.
///
/// Not `Layer::with_filter`: the state of such a filter outlives a question that no event follows,
/// as sqlx asks them, and then takes the next span away.
struct OwnSpans<L>(L);

impl<S, L> Layer<S> for OwnSpans<L>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    L: Layer<S>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: LayerContext<'_, S>) {
        let target = attributes.metadata().target();
        if target == "quartet" || target.starts_with("quartet::") {
            self.0.on_new_span(attributes, id, context);
        }
    }

    // What follows finds nothing to do for a span that was not passed on.

    fn on_record(&self, id: &Id, values: &Record<'_>, context: LayerContext<'_, S>) {
        self.0.on_record(id, values, context);
    }

    fn on_exit(&self, id: &Id, context: LayerContext<'_, S>) {
        self.0.on_exit(id, context);
    }

    fn on_close(&self, id: Id, context: LayerContext<'_, S>) {
        self.0.on_close(id, context);
    }

    unsafe fn downcast_raw(&self, id: TypeId) -> Option<*const ()> {
        // SAFETY: what is pointed to is a part of `self.0`, and lives as long as `self`.
        unsafe { self.0.downcast_raw(id) }
    }
}

pub(super) fn turn_on() {
    ON.store(true, Ordering::Relaxed);
}

/// Whether spans are exported.
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// The `traceparent` of a span that is sampled. It can have no other parent afterwards.
pub fn traceparent(span: &Span) -> Option<String> {
    if !is_on() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    (context.is_valid() && context.is_sampled())
        .then(|| format!("00-{}-{}-01", context.trace_id(), context.span_id()))
}

/// Records the trace's id in the field `trace_id` of a span that is sampled.
pub fn record_trace_id(span: &Span) {
    if let Some(traceparent) = traceparent(span)
        && let Some(id) = traceparent.split('-').nth(1)
    {
        span.record("trace_id", id);
    }
}

/// The trace's id in a `traceparent`, for a span's field.
pub fn trace_id(traceparent: Option<&str>) -> Option<&str> {
    traceparent.filter(|_| is_on())?.split('-').nth(1)
}

/// Makes `span` a child of `traceparent`; without one it belongs to no trace.
pub fn follow(span: &Span, traceparent: Option<&str>) {
    if !is_on() {
        return;
    }
    let parent = traceparent.and_then(parse).unwrap_or_else(unsampled);
    set_parent(span, parent);
}

/// Makes `span` a child of the request's trace, if the request carried one.
pub fn continue_incoming(span: &Span, traceparent: Option<&str>) {
    if is_on()
        && let Some(parent) = traceparent.and_then(parse)
    {
        set_parent(span, parent);
    }
}

/// Moves `span` from the request's own trace into the trace of `traceparent`; the former stays as a
/// link.
pub fn join(span: &Span, traceparent: &str, incoming: Option<&str>) {
    let Some(parent) = parse(traceparent) else { return };
    if !is_on() {
        return;
    }
    set_parent(span, parent);
    if let Some(incoming) = incoming.and_then(parse) {
        span.add_link(incoming);
    }
}

fn set_parent(span: &Span, parent: SpanContext) {
    // Fails for a span that has begun already, and for one that nobody records.
    if let Err(error) = span.set_parent(Context::new().with_remote_span_context(parent)) {
        tracing::debug!("a span keeps its parent: {error}");
    }
}

fn parse(traceparent: &str) -> Option<SpanContext> {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    let context = context.span().span_context().clone();
    context.is_valid().then_some(context)
}

/// A parent whose children are not sampled.
fn unsampled() -> SpanContext {
    let (trace, span) = (TraceId::from(1_u128), SpanId::from(1_u64));
    SpanContext::new(trace, span, TraceFlags::NOT_SAMPLED, true, TraceState::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_standard_allows_and_nothing_else() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = parse(good).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        for bad in ["", "00-0-0-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn nothing_is_stored_while_it_is_off() {
        assert_eq!(traceparent(&Span::current()), None);
        assert_eq!(trace_id(Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")), None);
    }
}
