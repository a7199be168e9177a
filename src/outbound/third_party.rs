//! The third party: creating a transaction there, and looking one up.
//!
//! What matters is what is known afterwards. A create that timed out may have gone through
//! ([`CreateError::Ambiguous`]); a lookup that was not answered says nothing
//! ([`LookupError`]), least of all that the transaction is not there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::body::Bytes;
use reqwest::{Response, StatusCode, header::CONTENT_TYPE};
use serde::Serialize;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    Fence, SetupError, answer,
    answer::BodyError,
    call_span, fence, name_limit,
    names::Names,
    progress, retry_after,
    reuse::Trust,
    sender::{CREATE_IDLE_TIMEOUT, IDLE_TIMEOUT, SendError, Sender},
    traced,
};
use crate::{
    config,
    domain::{
        Content, DatabaseClock, ReportedStatus,
        peer_answer::{self, MAX_EXCERPT_CHARS, Report, excerpt},
    },
    telemetry::{
        Metrics,
        labels::{CallResult, CalledPeer},
    },
};

/// Calls the third party. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ThirdPartyClient {
    /// Creates may fill the connections that they use, so that lookups have their own.
    creates: Sender,
    lookups: Sender,
    create_url: String,
    lookup_url: String,
    webhook_url: String,
    metrics: Option<Arc<Metrics>>,
    clock: DatabaseClock,
}

/// What the third party says about a transaction that it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusReport {
    /// `None`: the answer had no status that is known.
    pub status: Option<ReportedStatus>,
    /// What of the answer could not be used, for an operator.
    pub unusable: Option<String>,
}

/// Why a create was not answered with 2xx.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// 504, a timeout, a broken connection or another 5xx: it may have gone through. Where a used
    /// connection broke, that says nothing of the third party as a whole.
    #[error("ambiguous: {reason}")]
    Ambiguous { reason: String, is_outage: bool },
    /// No connection could be opened: it was not sent.
    #[error("unreachable: {reason}")]
    Unreachable { reason: String },
    /// It was not sent: it found no place on a connection, or that broke before.
    #[error("not sent: {reason}")]
    NotSent { reason: String },
    /// 429 or 503, or not processed by its own word: not now. Behind a gateway, 503 may also mean
    /// that the answer was lost.
    #[error("busy: {reason}")]
    Busy { reason: String, retry_after: Option<Duration>, may_be_lost: bool },
    /// 409: it exists there already.
    #[error("it exists there already")]
    AlreadyExists,
    /// 401 or 403: our credentials were refused, and likely not this transaction.
    #[error("the credentials were refused: {reason}")]
    Unauthorized { reason: String },
    /// Another 4xx: never.
    #[error("rejected: {reason}")]
    Rejected { reason: String },
    /// Another worker may have created it meanwhile: it was not sent.
    #[error("the worker's lease was lost before it was sent")]
    Stale,
}

impl CreateError {
    /// Whether the third party as a whole seems to be down: no answer, a 5xx, or a redirect to
    /// nowhere. A refusal is an answer, and so is 'not so fast' (429).
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Ambiguous { is_outage, .. } => *is_outage,
            Self::Unreachable { .. } => true,
            Self::Busy { may_be_lost, .. } => *may_be_lost,
            Self::AlreadyExists
            | Self::Unauthorized { .. }
            | Self::Rejected { .. }
            | Self::NotSent { .. }
            | Self::Stale => false,
        }
    }

    /// Whether it says nothing of the third party as a whole, not even that it answers.
    pub fn says_nothing(&self) -> bool {
        matches!(
            self,
            Self::Ambiguous { is_outage: false, .. } | Self::NotSent { .. } | Self::Stale
        )
    }

    fn result(&self) -> CallResult {
        match self {
            Self::Ambiguous { .. } => CallResult::Ambiguous,
            Self::Unreachable { .. } => CallResult::Unreachable,
            Self::NotSent { .. } => CallResult::NotSent,
            Self::Busy { .. } => CallResult::Busy,
            Self::AlreadyExists => CallResult::Exists,
            Self::Unauthorized { .. } => CallResult::Unauthorized,
            Self::Rejected { .. } => CallResult::Rejected,
            Self::Stale => CallResult::Stale,
        }
    }
}

/// What a lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// It exists there.
    Found(StatusReport),
    /// 404, or 405 and 501: it is not there, or lookups are not offered.
    Absent,
}

/// A lookup that was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lookup got no answer: {reason}")]
pub struct LookupError {
    pub reason: String,
    pub retry_after: Option<Duration>,
    pub kind: LookupErrorKind,
}

/// What a lookup that was not answered says of the third party as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupErrorKind {
    /// It seems to be down, as in [`CreateError::is_outage`].
    Outage,
    /// It refused our credentials: 401 or 403.
    Unauthorized,
    /// It answers, but this answer cannot be used.
    Unusable,
    /// Nothing, not even that it answers: the lookup was not sent, or ended with a used connection.
    Inconclusive,
}

impl LookupError {
    fn new(kind: LookupErrorKind, reason: String) -> Self {
        Self { reason, retry_after: None, kind }
    }

    pub fn is_outage(&self) -> bool {
        self.kind == LookupErrorKind::Outage
    }

    pub fn is_unauthorized(&self) -> bool {
        self.kind == LookupErrorKind::Unauthorized
    }

    pub fn is_inconclusive(&self) -> bool {
        self.kind == LookupErrorKind::Inconclusive
    }

    fn result(&self) -> CallResult {
        match self.kind {
            LookupErrorKind::Outage | LookupErrorKind::Unusable => CallResult::NoAnswer,
            LookupErrorKind::Unauthorized => CallResult::Unauthorized,
            LookupErrorKind::Inconclusive => CallResult::Queued,
        }
    }
}

/// The status codes that are about who asks, and not about what is asked for.
fn is_unauthorized(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

impl From<SendError> for LookupError {
    fn from(error: SendError) -> Self {
        let kind = if error.is_outage() {
            LookupErrorKind::Outage
        } else if error.says_nothing() {
            LookupErrorKind::Inconclusive
        } else {
            LookupErrorKind::Unusable
        };
        Self::new(kind, error.reason())
    }
}

impl From<SendError> for CreateError {
    fn from(error: SendError) -> Self {
        let (reason, is_outage) = (error.reason(), error.is_outage());
        match error {
            SendError::Stale => Self::Stale,
            SendError::NoConnection(_) => Self::Unreachable { reason },
            SendError::Queued => Self::NotSent { reason },
            // Without its body it counts for nothing, whatever of its head was read.
            SendError::Broken { is_sent: false, is_reused: true, .. } => Self::NotSent { reason },
            SendError::Broken { is_sent: false, .. } => Self::Unreachable { reason },
            SendError::Refused(_) => Self::Busy { reason, retry_after: None, may_be_lost: false },
            SendError::Late | SendError::Broken { is_sent: true, .. } => {
                Self::Ambiguous { reason, is_outage }
            }
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreateBody<'a> {
    id: Uuid,
    webhook_url: &'a str,
    #[serde(flatten)]
    content: &'a Content,
}

/// What stands for the id in the lookup path.
const ID_PLACEHOLDER: &str = "{id}";

impl ThirdPartyClient {
    /// A client for the third party of `config`, which sends its webhooks to `webhook_url`.
    /// Fails where `BASE_URL` is unset only in that every call is then unreachable: the
    /// configuration is checked before.
    pub fn new(
        config: &config::ThirdParty,
        dns: &config::Dns,
        webhook_url: String,
    ) -> Result<Self, SetupError> {
        let names = Names::new(dns, name_limit(config.timeout));
        // What lookups say about the third party's connections is true of its creates as well.
        let trust = Trust::default();
        let sender = |timeout, idle_timeout| {
            Sender::new(CalledPeer::ThirdParty, timeout, idle_timeout, trust.clone(), |http| {
                http.dns_resolver(names.clone())
            })
        };
        Ok(Self {
            creates: sender(config.timeout, CREATE_IDLE_TIMEOUT)?,
            lookups: sender(config.lookup_timeout, IDLE_TIMEOUT)?,
            create_url: config.create_url().unwrap_or_default(),
            lookup_url: config.lookup_url(ID_PLACEHOLDER).unwrap_or_default(),
            webhook_url,
            metrics: None,
            clock: DatabaseClock::default(),
        })
    }

    /// The same, going by this clock.
    pub fn with_clock(self, clock: DatabaseClock) -> Self {
        Self { clock, ..self }
    }

    /// The same, counting its calls in `metrics`.
    pub fn with_metrics(mut self, metrics: Arc<Metrics>) -> Self {
        self.creates = self.creates.with_metrics(metrics.clone());
        self.lookups = self.lookups.with_metrics(metrics.clone());
        self.metrics = Some(metrics);
        self
    }

    /// The URL that a transaction is posted to.
    pub fn create_url(&self) -> &str {
        &self.create_url
    }

    /// The URL of one transaction.
    pub fn lookup_url(&self, id: Uuid) -> String {
        self.lookup_url.replace(ID_PLACEHOLDER, &id.to_string())
    }

    /// `POST {base_url}/transaction`. Not sent once `fence` says no.
    pub async fn create(
        &self,
        id: Uuid,
        content: &Content,
        fence: Fence,
    ) -> Result<StatusReport, CreateError> {
        let span = call_span!("create_at_third_party", "POST", id);
        let began = Instant::now();
        let created = self.post(id, content, fence).instrument(span.clone()).await;
        let result = match &created {
            Ok(_) => CallResult::Created,
            Err(error) => error.result(),
        };
        match &created {
            Ok(StatusReport { unusable: Some(reason), .. })
            | Err(CreateError::Unauthorized { reason } | CreateError::Rejected { reason }) => {
                log_strange("create", id, reason);
            }
            _ => {}
        }
        span.record("outcome", result.as_str());
        if let Some(metrics) = &self.metrics {
            metrics.third_party_create(result, began.elapsed());
        }
        created
    }

    async fn post(
        &self,
        id: Uuid,
        content: &Content,
        fence: Fence,
    ) -> Result<StatusReport, CreateError> {
        let body = CreateBody { id, webhook_url: &self.webhook_url, content };
        let body = serde_json::to_vec(&body)
            .map_err(|error| CreateError::Unreachable { reason: error.to_string() })?;
        let body = Bytes::from(body);
        let sent = self.creates.send_create(|http, progress| {
            let request = http.post(&self.create_url).header(CONTENT_TYPE, "application/json");
            traced(request.body(fence::body(body.clone(), fence.clone(), progress)))
        });
        let response = sent.await?;
        let status = response.status();
        match status {
            _ if status.is_success() => {
                // 2xx is enough: a body that breaks off or is no JSON takes nothing away.
                let report = read_report(id, status, response).await;
                Ok(report.unwrap_or_else(|error| StatusReport::unusable(error.reason)))
            }
            StatusCode::CONFLICT => Err(CreateError::AlreadyExists),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let retry_after = retry_after(&response, &self.clock);
                Err(CreateError::Busy {
                    reason: answer::describe(response).await,
                    retry_after,
                    may_be_lost: status == StatusCode::SERVICE_UNAVAILABLE,
                })
            }
            _ if is_unauthorized(status) => {
                Err(CreateError::Unauthorized { reason: answer::describe(response).await })
            }
            _ if status.is_client_error() => {
                Err(CreateError::Rejected { reason: answer::describe(response).await })
            }
            // 5xx; and 3xx, which is followed nowhere and says nothing.
            _ => Err(CreateError::Ambiguous {
                reason: answer::describe(response).await,
                is_outage: true,
            }),
        }
    }

    /// `GET {base_url}/transaction/{id}`.
    pub async fn look_up(&self, id: Uuid) -> Result<Lookup, LookupError> {
        let span = call_span!("look_up_at_third_party", "GET", id);
        let began = Instant::now();
        let found = self.get(id).instrument(span.clone()).await;
        let result = match &found {
            Ok(Lookup::Found(_)) => CallResult::Found,
            Ok(Lookup::Absent) => CallResult::Absent,
            Err(error) => error.result(),
        };
        match &found {
            Ok(Lookup::Found(StatusReport { unusable: Some(reason), .. }))
            | Err(LookupError { reason, .. }) => log_strange("lookup", id, reason),
            Ok(_) => {}
        }
        span.record("outcome", result.as_str());
        if let Some(metrics) = &self.metrics {
            metrics.third_party_lookup(result, began.elapsed());
        }
        found
    }

    async fn get(&self, id: Uuid) -> Result<Lookup, LookupError> {
        let sent = self.lookups.send(|http, progress| {
            traced(http.get(self.lookup_url(id)).body(progress::no_body(progress)))
        });
        let response = sent.await?;
        match response.status() {
            status if status.is_success() => {
                read_report(id, status, response).await.map(Lookup::Found)
            }
            StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => Ok(Lookup::Absent),
            status => {
                let retry_after = retry_after(&response, &self.clock);
                let kind = if is_unauthorized(status) {
                    LookupErrorKind::Unauthorized
                } else if status.is_client_error() {
                    LookupErrorKind::Unusable
                } else {
                    LookupErrorKind::Outage
                };
                Err(LookupError { reason: answer::describe(response).await, retry_after, kind })
            }
        }
    }
}

impl StatusReport {
    fn unusable(reason: String) -> Self {
        Self { status: None, unusable: Some(reason) }
    }
}

/// What an answer of 2xx says about `id`. An error where it broke off or cannot be read.
async fn read_report(
    id: Uuid,
    status: StatusCode,
    response: Response,
) -> Result<StatusReport, LookupError> {
    let code = status.as_u16();
    let text = answer::text(response).await.map_err(|error| {
        let kind = match error {
            BodyError::BrokeOff => LookupErrorKind::Outage,
            _ => LookupErrorKind::Unusable,
        };
        LookupError::new(kind, format!("answered {code}, but {error}"))
    })?;
    let body = excerpt(&text, MAX_EXCERPT_CHARS);
    match peer_answer::report(id, &text) {
        Ok(Report { status: Some(status), .. }) => {
            Ok(StatusReport { status: Some(status), unusable: None })
        }
        Ok(Report { unknown: Some(word), .. }) => Ok(StatusReport::unusable(format!(
            "answered {code} with the unknown status `{word}`: {body}"
        ))),
        Ok(_) => Ok(StatusReport::unusable(format!("answered {code} without a status: {body}"))),
        Err(why) => {
            let body = if body.is_empty() { body } else { format!(": {body}") };
            let reason = format!("answered {code}, but the answer {why}{body}");
            Err(LookupError::new(LookupErrorKind::Unusable, reason))
        }
    }
}

/// Logs what an answer could not be used for, once a minute for each cause.
fn log_strange(call: &'static str, id: Uuid, reason: &str) {
    // What follows is the peer's own text, and differs from answer to answer.
    let cause = reason.split([':', '`']).next().unwrap_or(reason);
    if answer::is_news(&format!("{call} {cause}")) {
        tracing::warn!(
            transaction_id = %id,
            call,
            reason,
            "the third party's answer could not be used"
        );
    }
}
