//! Sending one request, over a connection that is new or was used before, and saying exactly what
//! is known when there is no answer.
//!
//! - A request that may be sent twice (a lookup, a notification) and whose used connection broke
//!   instead of answering is sent again at once, over a new connection.
//! - A create is sent again only where it provably was not processed: none of its body was given
//!   out, or the peer says so (RFC 9113 section 8.7: `REFUSED_STREAM`, or `GOAWAY` with a lower
//!   stream id). What goes over a used connection at all is decided by [`Trust`].
//! - Where a peer that spoke HTTP/2 gives no connection over it any more, what was not sent goes over
//!   a new connection of whichever version the peer takes.
//! - Each time that a request is sent takes a time of the third party's budget, where it has one
//!   ([`CallTurn`]); waiting for that is not the peer's time.
//! - The time limit of a call begins when it starts to be sent ([`Progress`]): opening a connection
//!   has its own limit, and waiting for a place on an HTTP/2 connection is not the peer's fault.
//!
//! Bodies are made again for each time that a request is sent, because each asks whether it may be
//! sent. So reqwest, which only sends again what it can copy, sends nothing twice by itself.

use std::{pin::pin, sync::Arc, time::Duration};

use reqwest::{Client, ClientBuilder, RequestBuilder, Response};
use tokio::sync::Semaphore;

use super::{
    CONNECT_TIMEOUT, CallTurn, SetupError,
    budget::{CallTime, OverBudget},
    cause_in, describe_failure, http_client,
    progress::Progress,
    reuse::{Answered, Trust},
};
use crate::{
    domain::BootInstant,
    telemetry::{
        Metrics,
        labels::{CalledPeer, SentAgain},
    },
};

/// For how long a connection is kept that nobody uses: less than servers keep theirs (5 s in the
/// shortest common default), so that few close one while a request is on its way.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// The same for connections that creates go over, which cannot simply be sent again.
pub(super) const CREATE_IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a request is sent at most while the peer says that it was not processed.
const MAX_SENDS: u32 = 3;
/// How often it is given another time in the budget because it missed its own.
const MAX_MISSED: u32 = 3;

/// The longest that a call takes, sent again and all, whose answer may take `timeout`.
pub fn longest_call(timeout: Duration) -> Duration {
    // What is sent again had failed within the time limit.
    2 * CONNECT_TIMEOUT.min(timeout) + 3 * timeout
}

/// Sends the calls of one kind to one peer, or to any client's callback host.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    /// Keeps connections for a while.
    kept: Client,
    /// Opens a connection for each request.
    new: Client,
    /// Speaks HTTP/2 alone, for one peer that does: a burst of requests waits for the one
    /// connection that is being opened, where `kept` would open one for each, to find that one is
    /// enough.
    shared: Option<Shared>,
    timeout: Duration,
    peer: CalledPeer,
    answered: Arc<Answered>,
    trust: Trust,
    metrics: Option<Arc<Metrics>>,
}

/// One HTTP/2 connection for all requests.
#[derive(Debug, Clone)]
struct Shared {
    client: Client,
    /// One place, of the request that waits for a stream. The others wait here and not in the
    /// connection, which takes all that wait as soon as one stream ends, and has them wait again.
    next: Arc<Semaphore>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("the worker's lease was lost before it was sent")]
    Stale,
    /// Nothing was sent.
    #[error("no connection could be opened")]
    NoConnection(#[source] reqwest::Error),
    /// Nothing was sent.
    #[error("it was not sent: it found no place on a connection in time")]
    Queued,
    /// Nothing was sent.
    #[error("it was not sent: no call of the third party's budget was free in time")]
    OverBudget,
    /// Nothing was sent: its time in the budget passed before.
    #[error("it was not sent: it found no place on a connection when it was its turn")]
    Missed,
    /// It was sent, and not processed.
    #[error("the peer did not process it")]
    Refused(#[source] reqwest::Error),
    /// It was sent, at least in part.
    #[error("no answer in time")]
    Late,
    #[error("the connection broke")]
    Broken {
        #[source]
        error: reqwest::Error,
        /// Whether the connection had answered before.
        is_reused: bool,
        /// Whether any of the body was given out, or of the head where there is no body.
        is_sent: bool,
    },
}

impl SendError {
    /// For an operator's eyes.
    pub fn reason(&self) -> String {
        match self {
            Self::Stale | Self::Queued | Self::OverBudget | Self::Missed | Self::Late => {
                self.to_string()
            }
            Self::NoConnection(error) | Self::Broken { error, .. } => describe_failure(error),
            Self::Refused(error) => format!("{self}: {}", describe_failure(error)),
        }
    }

    /// The HTTP client's error, where there is one.
    pub fn source_error(&self) -> Option<&reqwest::Error> {
        match self {
            Self::NoConnection(error) | Self::Refused(error) | Self::Broken { error, .. } => {
                Some(error)
            }
            Self::Stale | Self::Queued | Self::OverBudget | Self::Missed | Self::Late => None,
        }
    }

    /// Whether the peer seems to be down. A used connection that breaks says nothing of that, nor
    /// does time that was spent here.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::NoConnection(_) | Self::Late => true,
            Self::Broken { is_reused, .. } => !is_reused,
            Self::Stale | Self::Queued | Self::OverBudget | Self::Missed | Self::Refused(_) => {
                false
            }
        }
    }

    /// Whether no connection could be opened, or a new one broke before it had answered.
    fn is_new_connection(&self) -> bool {
        matches!(self, Self::NoConnection(_) | Self::Broken { is_reused: false, .. })
    }

    /// Whether it says nothing at all of the peer, neither that it answers nor that it does not.
    pub fn says_nothing(&self) -> bool {
        matches!(
            self,
            Self::Stale
                | Self::Queued
                | Self::OverBudget
                | Self::Missed
                | Self::Broken { is_reused: true, .. }
        )
    }
}

impl Sender {
    /// Sends with clients that `configure` completes, whose answers may take `timeout`.
    pub fn new(
        peer: CalledPeer,
        timeout: Duration,
        idle_timeout: Duration,
        trust: Trust,
        configure: impl Fn(ClientBuilder) -> ClientBuilder,
    ) -> Result<Self, SetupError> {
        // The body of an answer may take as long as the rest of the call has left.
        let limit = Self::turn_limit(timeout) + timeout;
        let builder = || configure(http_client(timeout)).timeout(limit);
        let build = |builder: ClientBuilder| builder.build().map_err(SetupError);
        let kept = build(builder().pool_idle_timeout(idle_timeout))?;
        let new = build(builder().pool_max_idle_per_host(0))?;
        let shared = match peer {
            CalledPeer::ThirdParty => {
                let builder = builder().pool_idle_timeout(IDLE_TIMEOUT).http2_prior_knowledge();
                Some(Shared { client: build(builder)?, next: Arc::new(Semaphore::new(1)) })
            }
            // Whether one host speaks HTTP/2 says nothing of another.
            CalledPeer::Client => None,
        };
        let answered = Arc::new(Answered::new(idle_timeout.max(IDLE_TIMEOUT)));
        Ok(Self { kept, new, shared, timeout, peer, answered, trust, metrics: None })
    }

    /// The same, counting in `metrics`.
    pub fn with_metrics(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// The client for a request, and what it has a place in while it waits to be sent.
    fn route(&self, may_reuse: bool) -> (&Client, Option<&Semaphore>) {
        match self.shared.as_ref().filter(|_| self.trust.is_http2()) {
            _ if !may_reuse => (&self.new, None),
            Some(Shared { client, next }) => (client, Some(next)),
            None => (&self.kept, None),
        }
    }

    /// How long a request may wait for its turn: to open a connection, or for a place on one, which
    /// is free at the latest when another call's time is over.
    fn turn_limit(timeout: Duration) -> Duration {
        CONNECT_TIMEOUT.min(timeout) + timeout
    }

    /// Sends a request that may be processed twice and counts in no budget. `request` makes it, with
    /// a body that starts its progress.
    pub async fn send(
        &self,
        request: impl Fn(&Client, Progress) -> RequestBuilder,
    ) -> Result<Response, SendError> {
        self.send_in_turn(&CallTurn::default(), request).await
    }

    /// The same where each time that it is sent counts.
    pub async fn send_in_turn(
        &self,
        turn: &CallTurn,
        request: impl Fn(&Client, Progress) -> RequestBuilder,
    ) -> Result<Response, SendError> {
        self.send_until_processed(turn, request, false).await
    }

    /// Sends a request that must not be processed twice. Each time that it is sent counts.
    pub async fn send_create(
        &self,
        turn: &CallTurn,
        request: impl Fn(&Client, Progress) -> RequestBuilder,
    ) -> Result<Response, SendError> {
        self.send_until_processed(turn, request, true).await
    }

    async fn send_until_processed(
        &self,
        turn: &CallTurn,
        request: impl Fn(&Client, Progress) -> RequestBuilder,
        is_create: bool,
    ) -> Result<Response, SendError> {
        let (began, waited) = (tokio::time::Instant::now(), turn.waited());
        let mut lease = if is_create { self.trust.lease() } else { None };
        let mut may_reuse = !is_create || lease.is_some();
        let (mut sends, mut missed) = (0, 0);
        loop {
            sends += 1;
            let time = turn.take().await.map_err(|OverBudget| SendError::OverBudget)?;
            let (client, queue) = self.route(may_reuse);
            let sent = self.send_once((client, queue), time, &request, is_create).await;
            let error = match sent {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if matches!(error, SendError::Missed) && missed < MAX_MISSED {
                (sends, missed) = (sends - 1, missed + 1);
                continue;
            }
            // The client that speaks HTTP/2 alone is the one with a queue.
            let is_http2_failed = queue.is_some() && error.is_new_connection();
            if is_http2_failed {
                self.trust.http2_failed();
            }
            // The time that it waited for the budget is not the peer's.
            let took = began.elapsed().saturating_sub(turn.waited() - waited);
            if sends >= MAX_SENDS || took > self.timeout {
                return Err(error);
            }
            let cause = match error {
                SendError::Refused(_) => Some(SentAgain::NotProcessed),
                SendError::Broken { is_reused: true, is_sent, .. } if !(is_create && is_sent) => {
                    Some(SentAgain::ConnectionBroke)
                }
                // Nothing was sent, so that it is not sent again.
                SendError::NoConnection(_) | SendError::Broken { is_sent: false, .. }
                    if is_http2_failed =>
                {
                    None
                }
                error => return Err(error),
            };
            if let Some(cause) = cause {
                self.count(cause);
            }
            // The last time not over a connection that may be ending.
            if cause != Some(SentAgain::NotProcessed) || sends + 1 == MAX_SENDS {
                may_reuse = false;
                drop(lease.take());
            }
        }
    }

    async fn send_once(
        &self,
        (client, queue): (&Client, Option<&Semaphore>),
        time: Option<CallTime>,
        request: impl Fn(&Client, Progress) -> RequestBuilder,
        is_create: bool,
    ) -> Result<Response, SendError> {
        let turn_ends = tokio::time::Instant::now() + Self::turn_limit(self.timeout);
        let place = match queue {
            Some(queue) => {
                let place = tokio::time::timeout_at(turn_ends, queue.acquire()).await;
                place.map_err(|_| SendError::Queued)?.ok()
            }
            None => None,
        };
        // This process may have been stopped meanwhile, or there was no place for a while.
        if time.is_some_and(|time| time.is_over(BootInstant::now())) {
            return Err(SendError::Missed);
        }
        let progress = Progress::default();
        let mut send = pin!(request(client, progress.clone()).send());
        let turn = async {
            let _ = tokio::time::timeout_at(turn_ends, progress.started()).await;
            // So that the connection opens its stream before another request asks for one.
            tokio::task::yield_now().await;
            drop(place);
            // Where it has started meanwhile, it is waited for.
            !progress.withdraw()
        };
        let sent = tokio::select! {
            biased;
            sent = &mut send => Some(sent),
            is_started = turn => {
                if !is_started {
                    return Err(SendError::Queued);
                }
                tokio::time::timeout(self.timeout, &mut send).await.ok()
            }
        };
        match sent.ok_or(SendError::Late)? {
            Ok(response) => {
                let (is_reused, closed) = self.answered.note(&response);
                self.trust.answered(response.version(), is_reused, is_create);
                if let Some(metrics) = &self.metrics {
                    metrics.idle_connections_closed(self.peer, closed);
                }
                Ok(response)
            }
            // From here on nothing of it can be sent any more where nothing was.
            Err(_) if progress.is_forbidden() => Err(SendError::Stale),
            Err(error) => Err(self.failed(error, !progress.withdraw())),
        }
    }

    fn failed(&self, error: reqwest::Error, is_sent: bool) -> SendError {
        if error.is_connect() || error.is_builder() {
            return SendError::NoConnection(error);
        }
        if is_unprocessed(&error) {
            return SendError::Refused(error);
        }
        if error.is_timeout() {
            return if is_sent { SendError::Late } else { SendError::Queued };
        }
        let is_reused = self.answered.forget(&error);
        if is_reused {
            self.trust.broke();
        }
        SendError::Broken { error, is_reused, is_sent }
    }

    fn count(&self, cause: SentAgain) {
        if let Some(metrics) = &self.metrics {
            metrics.sent_again(self.peer, cause);
        }
    }
}

/// Whether the peer says that it has not processed the request (RFC 9113 section 8.7). Of a
/// `GOAWAY` h2 ends only the streams with this error that the peer has not processed; the others go
/// on, and end as broken where the connection ends before they are answered.
fn is_unprocessed(error: &reqwest::Error) -> bool {
    cause_in::<h2::Error>(error).is_some_and(|error| {
        let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (is_refused || error.is_go_away())
    })
}

#[cfg(test)]
mod tests;
