//! Who is let in: what would spoil the service of everybody is refused before it costs anything.
//!
//! A request is looked at here before it is routed, before its key is looked up and before its body
//! is read. It is refused
//!
//! - with 429, where its client sends more than `LIMITS__RATE`, on whatever path (see
//!   [`super::rate_limit`]), or waits for as many transactions as are its share (see
//!   [`super::shares`]);
//! - with 503, if `HTTP__MAX_IN_FLIGHT` requests of its kind are under way, or nearly as many and
//!   its client (or address) has its share of the rest, or if posts (or webhooks) wait too long to
//!   be written (`HTTP__MAX_QUEUE_DELAY`) and its client (or third party) has its share of those
//!   that wait.
//!
//! Kinds are counted apart, so that none takes the others' places: posts, reads, reads that wait
//! for a final status, webhooks, operators. Webhooks end work, and so have a patience of their own.
//! Health checks, metrics and documents are always let in. What is refused here has changed
//! nothing: the same request may be sent again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use poem::{
    Endpoint, IntoResponse, Middleware, Request, Response, Result,
    http::{StatusCode, header},
};
use uuid::Uuid;

use super::{
    auth,
    rate_limit::{Allowance, RateLimits},
    shares::{Caller, NoPlace, Place, Shares},
};
use crate::{
    http::{
        ApiState,
        problem::Problem,
        route_list::{Limit, RouteInfo, UNKNOWN},
    },
    telemetry::labels::RejectReason,
};

/// The query parameter of a request that waits for a final status.
const WAIT: &str = "wait_seconds";
/// The log says at most this often that requests are refused.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A wait often ends within a second.
const RETRY_SHARE_AFTER: u16 = 1;

/// In the extensions of an answer: refused on purpose, which is logged in sum.
#[derive(Debug, Clone, Copy)]
pub struct Shed;

/// What requests are counted apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Post,
    Read,
    WaitingRead,
    Webhook,
    Operator,
}

impl Kind {
    const ALL: [Self; 5] =
        [Self::Post, Self::Read, Self::WaitingRead, Self::Webhook, Self::Operator];

    fn is_of_clients(self) -> bool {
        match self {
            Self::Post | Self::Read | Self::WaitingRead => true,
            Self::Webhook | Self::Operator => false,
        }
    }

    /// `None` for what is always let in.
    fn of(route: &RouteInfo, request: &Request) -> Option<Self> {
        match route.limit {
            Limit::Posts => Some(Self::Post),
            Limit::Reads if waits(request) => Some(Self::WaitingRead),
            Limit::Reads => Some(Self::Read),
            Limit::Webhooks => Some(Self::Webhook),
            Limit::Operators => Some(Self::Operator),
            Limit::Unlimited | Limit::Vital => None,
        }
    }
}

/// How many of `places` are shared out among the callers once no more are free: all of them where
/// a request holds its place for long by what it asks for, and else a quarter, since that takes a
/// caller that sends slowly.
fn reserve(kind: Kind, places: usize) -> usize {
    match kind {
        Kind::WaitingRead => places,
        Kind::Post | Kind::Read | Kind::Webhook | Kind::Operator => places / 4,
    }
}

/// Whether a read waits for a final status.
fn waits(request: &Request) -> bool {
    let query = request.uri().query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == WAIT)
}

/// What [`super::observe`] has found the request to be.
fn route(request: &Request) -> &'static RouteInfo {
    request.extensions().get::<&'static RouteInfo>().copied().unwrap_or(UNKNOWN)
}

/// The middleware.
pub struct Admission(Arc<Gate>);

struct Gate {
    state: Arc<ApiState>,
    rate_limits: Option<RateLimits>,
    /// Those of each kind.
    places: [Shares; Kind::ALL.len()],
    refused: RefusedLog,
}

/// Why a request is not let in, and after how many seconds it should be sent again, where that is
/// known.
#[derive(Debug, Clone, Copy)]
struct Refusal {
    why: RejectReason,
    retry_after: Option<u16>,
}

impl From<RejectReason> for Refusal {
    fn from(why: RejectReason) -> Self {
        let retry_after = (why == RejectReason::WaitingShare).then_some(RETRY_SHARE_AFTER);
        Self { why, retry_after }
    }
}

impl Admission {
    /// Lets in what the state's configuration allows.
    pub fn new(state: Arc<ApiState>) -> Self {
        let places = state.intake.max_in_flight as usize;
        Self(Arc::new(Gate {
            rate_limits: RateLimits::new(&state.limits),
            places: Kind::ALL.map(|kind| Shares::new(places, reserve(kind, places))),
            refused: RefusedLog::new(),
            state,
        }))
    }
}

impl<E: Endpoint<Output = Response>> Middleware<E> for Admission {
    type Output = Admitted<E>;

    fn transform(&self, inner: E) -> Self::Output {
        Admitted { gate: self.0.clone(), inner }
    }
}

/// An endpoint behind [`Admission`].
pub struct Admitted<E> {
    gate: Arc<Gate>,
    inner: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for Admitted<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let kind = Kind::of(route(&request), &request);
        let client = self.gate.client(kind, &request);
        let counted = self.gate.count(client);
        let unknown_key = self.gate.unknown_key(&request);
        let place = match (counted, kind) {
            (Some((_, allowance)), _) if !allowance.is_allowed => {
                Err(RejectReason::RateLimit.into())
            }
            (_, Some(kind)) => self.gate.let_in(kind, client, &request).map(Some),
            (_, None) => Ok(None),
        };
        let mut response = match &place {
            Err(refusal) => self.gate.refuse(*refusal),
            Ok(_) => self.inner.call(request).await?,
        };
        if let Some(key) = unknown_key {
            self.gate.learn(&key, response.status()).await;
        }
        if let Some((limits, allowance)) = counted {
            limits.write_headers(allowance, response.headers_mut());
        }
        Ok(response)
    }
}

impl Gate {
    /// Whose request it is, where somebody asks: a limit counts on whatever path.
    fn client(&self, kind: Option<Kind>, request: &Request) -> Option<Uuid> {
        let is_asked = self.rate_limits.is_some() || kind.is_some_and(Kind::is_of_clients);
        is_asked.then(|| auth::known_client(&self.state, request))?
    }

    /// Counts a request against its client's limit, whatever its path; `None` without a limit or a
    /// client.
    fn count(&self, client: Option<Uuid>) -> Option<(&RateLimits, Allowance)> {
        let limits = self.rate_limits.as_ref()?;
        Some((limits, limits.count(client?)))
    }

    /// The hash of a key that may be a client's, whose requests could not be counted yet.
    fn unknown_key(&self, request: &Request) -> Option<[u8; 32]> {
        self.rate_limits.as_ref()?;
        // These are answered without the database, too.
        let is_vital = route(request).limit == Limit::Vital;
        (!is_vital).then(|| auth::unknown_key(&self.state, request))?
    }

    /// Looks a key up where its path did not, so that its client's next request is counted on any
    /// path.
    async fn learn(&self, key: &[u8; 32], status: StatusCode) {
        // A path that asks for a key has looked it up.
        if status != StatusCode::UNAUTHORIZED {
            auth::learn(&self.state, key).await;
        }
    }

    /// A place among the requests of its kind, or why there is none for it.
    fn let_in(
        &self,
        kind: Kind,
        client: Option<Uuid>,
        request: &Request,
    ) -> Result<Place<'_>, Refusal> {
        if let Some(retry_after) = self.congestion(kind, request) {
            return Err(Refusal { why: RejectReason::Queue, retry_after: Some(retry_after) });
        }
        Ok(self.take_place(kind, client, request)?)
    }

    fn take_place(
        &self,
        kind: Kind,
        client: Option<Uuid>,
        request: &Request,
    ) -> Result<Place<'_>, RejectReason> {
        let client = client.filter(|_| kind.is_of_clients());
        let address = || request.remote_addr().as_socket_addr().map(|address| address.ip());
        let caller = client.map_or_else(|| Caller::Address(address()), Caller::Client);
        self.places[kind as usize].take(caller).map_err(|why| match (why, kind) {
            (NoPlace::Share, Kind::WaitingRead) => RejectReason::WaitingShare,
            (NoPlace::Share | NoPlace::Full, _) => RejectReason::InFlight,
        })
    }

    /// Where the request would wait too long for a writer, or make others do so: after how many
    /// seconds its caller should come back.
    fn congestion(&self, kind: Kind, request: &Request) -> Option<u16> {
        match kind {
            Kind::Post => self.state.accepts.refuse(|| auth::poster(&self.state, request)),
            Kind::Webhook => {
                let path = request.uri().path();
                self.state.webhooks.refuse(|| self.state.webhook_sender(path))
            }
            Kind::Read | Kind::WaitingRead | Kind::Operator => None,
        }
    }

    fn refuse(&self, Refusal { why, retry_after }: Refusal) -> Response {
        self.state.metrics.refused(why);
        self.refused.note();
        let mut response = match why {
            RejectReason::RateLimit => {
                let detail = "you send more requests than you may; wait for `Retry-After` seconds";
                Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
            }
            RejectReason::WaitingShare => {
                let detail = "you wait for as many transactions at the same time as you may; let \
                              one of these reads end, or read without `wait_seconds`";
                Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
            }
            _ => {
                let detail = "there is too much to do at this moment; nothing was done, send the \
                              same request again";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
            }
        }
        .into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response.extensions_mut().insert(Shed);
        response
    }
}

/// Logs the refusals in sum: a line for each would be load of its own.
struct RefusedLog {
    epoch: Instant,
    /// Refused since the last line.
    count: AtomicU64,
    /// When the next line is due; ms since `epoch`.
    next: AtomicU64,
}

impl RefusedLog {
    fn new() -> Self {
        Self { epoch: Instant::now(), count: AtomicU64::new(0), next: AtomicU64::new(0) }
    }

    fn note(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let (now, next) =
            (self.epoch.elapsed().as_millis() as u64, self.next.load(Ordering::Relaxed));
        let after = now + LOG_EVERY.as_millis() as u64;
        // One of those that see that a line is due writes it.
        if now >= next
            && self.next.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            let requests = self.count.swap(0, Ordering::Relaxed);
            tracing::warn!(
                requests,
                "requests were refused since the last such line; metrics say why"
            );
        }
    }
}
