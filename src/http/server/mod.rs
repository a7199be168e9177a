//! The HTTP server: takes connections, and bounds what each of them may cost.
//!
//! poem's own server takes any number of connections, waits for a request's head for ever, and
//! tries again at once when the system has no file left for a connection. Here a connection is
//! closed when a request's head has not come within `HTTP__HEAD_TIMEOUT`, or none at all within
//! `HTTP__IDLE_TIMEOUT`; there are at most `HTTP__MAX_CONNECTIONS`, and a few more on which only
//! the health checks and metrics are answered, so that a full process is not taken for a dead one.
//! Beyond those, a connection is closed as soon as it comes.
//!
//! A request of HTTP/1 that another program could read otherwise is refused (`framing`).
//!
//! A token stops it: it then accepts no connection any more, closes those without a
//! request, and leaves the others until the grace is over.

mod activity;
mod framing;
mod open_files;
mod unread_body;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use poem::{
    Endpoint, IntoResponse, Request, Response,
    http::{self, HeaderValue, StatusCode, Version, header, uri::Scheme},
    listener::Acceptor,
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    activity::{Activity, Bounds, Expired, Watched},
    unread_body::UnreadBody,
};
use super::{problem::Problem, route_list};
use crate::{
    config::Intake,
    telemetry::{Metrics, labels::RejectReason},
};

/// Connections beyond the most, for health checks and metrics.
const SPARE: usize = 64;
/// What those are given to send their request.
const SPARE_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of a request's line and headers (HTTP/1.1), and what is buffered of its body.
const MAX_HEAD: usize = 32 * 1024;
/// The same for HTTP/2, uncompressed.
const MAX_HEAD_LIST: u32 = 16 * 1024;
/// Most requests at the same time on one connection (HTTP/2).
const MAX_STREAMS: u32 = 128;
/// Resets by the caller that are not yet taken notice of (HTTP/2; CVE-2023-44487).
const MAX_RESETS: usize = 20;
/// How long a connection that is closed may take to end in good order.
const CLOSE: Duration = Duration::from_secs(1);
/// Wait when the system gives no connection, as when it has no file left for one.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What all connections share.
struct Server<E> {
    endpoint: E,
    bounds: Bounds,
    metrics: Arc<Metrics>,
    places: Arc<Semaphore>,
    spare: Arc<Semaphore>,
    stop: CancellationToken,
    /// The grace is over.
    abort: CancellationToken,
}

/// A connection as it was accepted.
struct Accepted<Io> {
    io: Io,
    local: LocalAddr,
    remote: RemoteAddr,
    scheme: Scheme,
}

/// What a connection holds while it is open.
struct Place {
    is_spare: bool,
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.connection_closed();
    }
}

/// Serves `endpoint` to all callers until `stop`, and then what is under way for at most
/// `grace`.
pub async fn serve<E>(
    mut acceptor: impl Acceptor + 'static,
    endpoint: E,
    intake: &Intake,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    grace: Duration,
) where
    E: Endpoint<Output = Response> + 'static,
{
    let most = open_files::connections(intake.max_connections as usize);
    let server = Arc::new(Server {
        endpoint,
        bounds: Bounds { head: intake.head_timeout, idle: intake.idle_timeout },
        metrics,
        places: Arc::new(Semaphore::new(most)),
        spare: Arc::new(Semaphore::new(SPARE)),
        stop,
        abort: CancellationToken::new(),
    });
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = server.stop.cancelled() => break,
            accepted = acceptor.accept() => accepted,
        };
        match accepted {
            Ok((io, local, remote, scheme)) => match server.place() {
                Some(place) => {
                    let accepted = Accepted { io, local, remote, scheme };
                    connections.spawn(server.clone().connection(accepted, place));
                }
                // Dropped, and so closed.
                None => server.metrics.refused(RejectReason::Connections),
            },
            // The caller has gone away again.
            Err(error) if is_of_connection(&error) => {}
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "no connection can be taken"
                );
                tokio::select! {
                    () = server.stop.cancelled() => break,
                    () = tokio::time::sleep(ACCEPT_RETRY) => {}
                }
            }
        }
    }
    drop(acceptor);
    connections.close();
    if tokio::time::timeout(grace, connections.wait()).await.is_err() {
        server.abort.cancel();
        connections.wait().await;
    }
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl<E: Endpoint<Output = Response> + 'static> Server<E> {
    /// A place for another connection, where there is one.
    fn place(&self) -> Option<Place> {
        let (permit, is_spare) = match self.places.clone().try_acquire_owned() {
            Ok(permit) => (permit, false),
            Err(_) => (self.spare.clone().try_acquire_owned().ok()?, true),
        };
        self.metrics.connection_opened();
        Some(Place { is_spare, metrics: self.metrics.clone(), _permit: permit })
    }

    /// One connection, from its first byte to its end.
    async fn connection<Io>(self: Arc<Self>, accepted: Accepted<Io>, place: Place)
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Accepted { io, local, remote, scheme } = accepted;
        let is_spare = place.is_spare;
        let bounds = if is_spare { self.bounds.at_most(SPARE_TIMEOUT) } else { self.bounds };
        let activity = Arc::new(Activity::new());
        let service = service_fn(|request: http::Request<Incoming>| {
            let server = self.clone();
            let busy = activity.begin(request.version() == Version::HTTP_2);
            let mut request =
                Request::from((request, local.clone(), remote.clone(), scheme.clone()));
            // Boxed: a connection that waits for a request is then as small as can be.
            Box::pin(async move {
                let unread = UnreadBody::of(&mut request);
                let response = server.answer(request, is_spare).await;
                if let Some(unread) = unread {
                    unread.drain().await;
                }
                drop(busy);
                Ok::<http::Response<_>, Infallible>(response.into())
            })
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        // Without a timer: the watch here looks after the time, on every version alike.
        builder.http1().max_buf_size(MAX_HEAD);
        builder
            .http2()
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_header_list_size(MAX_HEAD_LIST);
        let io = TokioIo::new(Watched::new(io, activity.clone(), self.metrics.clone()));
        let connection = builder.serve_connection(io, service);
        tokio::pin!(connection);
        let mut is_stopping = false;
        let expired = loop {
            tokio::select! {
                // How it ended is the caller's business.
                _ = connection.as_mut() => return,
                expired = activity.expired(bounds) => break expired,
                () = self.stop.cancelled(), if !is_stopping => {
                    is_stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.abort.cancelled() => return,
            }
        };
        if expired == Expired::Head {
            self.metrics.refused(RejectReason::SlowHead);
        }
        connection.as_mut().graceful_shutdown();
        // It is closed in any case.
        let _ = tokio::time::timeout(CLOSE, connection).await;
    }

    async fn answer(&self, request: Request, is_spare: bool) -> Response {
        if !is_spare {
            return self.endpoint.get_response(request).await;
        }
        let path = request.uri().path();
        let is_vital = route_list::is_vital(path);
        let mut response = if is_vital {
            self.endpoint.get_response(request).await
        } else {
            self.metrics.refused(RejectReason::Connections);
            let detail = "there are too many connections; nothing was done, send the same request \
                          again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response()
        };
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }
}
