//! An OTLP collector that keeps what it is sent.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value as AnyValue,
    trace::v1::Span as ProtoSpan,
};
use poem::{
    EndpointExt, Route, Server, handler, http::StatusCode, listener::TcpAcceptor, post, web::Data,
};
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

type Received = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// A span as a test looks at it.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty for a root.
    pub parent: String,
    pub kind: i32,
    pub attributes: Vec<(String, String)>,
    /// Traces of its links.
    pub links: Vec<String>,
    pub events: usize,
}

impl Span {
    fn new(span: &ProtoSpan) -> Self {
        let attribute = |value: &AnyValue| match value {
            AnyValue::StringValue(text) => text.clone(),
            other => format!("{other:?}"),
        };
        Self {
            name: span.name.clone(),
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            kind: span.kind,
            attributes: span
                .attributes
                .iter()
                .map(|pair| {
                    let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
                    (pair.key.clone(), value.map(attribute).unwrap_or_default())
                })
                .collect(),
            links: span.links.iter().map(|link| hex(&link.trace_id)).collect(),
            events: span.events.len(),
        }
    }

    /// An attribute's text; empty where there is none.
    pub fn attribute(&self, key: &str) -> &str {
        let found = self.attributes.iter().find(|(name, _)| name == key);
        found.map_or("", |(_, value)| value)
    }
}

/// A running collector; stops when dropped.
pub struct Collector {
    address: SocketAddr,
    received: Received,
    _stop: DropGuard,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (received, stop) = (Received::default(), CancellationToken::new());
        let routes = Route::new().at("/v1/traces", post(export)).data(received.clone());
        let server = Server::new_with_acceptor(TcpAcceptor::from_tokio(listener).unwrap());
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(server.run_with_graceful_shutdown(routes, stopped, None));
        Self { address, received, _stop: stop.drop_guard() }
    }

    /// For `QUARTET_TRACES__ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every span that was received.
    pub fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap();
        let resources = received.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| &scope.spans).map(Span::new).collect()
    }

    /// Everything that was received, as text.
    pub fn text(&self) -> String {
        format!("{:?}", self.received.lock().unwrap())
    }
}

#[handler]
async fn export(received: Data<&Received>, body: Vec<u8>) -> StatusCode {
    match ExportTraceServiceRequest::decode(&body[..]) {
        Ok(request) => {
            received.lock().unwrap().push(request);
            StatusCode::OK
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
