//! A third party that a profile describes: its requests are rendered and its answers read by the
//! profile; sending them, tokens and certificates are here.
//!
//! - A 401 to a call with an OAuth2 token has the token renewed and the call made once more, which
//!   uses no attempt: what is answered 401 was not processed. So has a 403, which some answer to a
//!   token that was taken back, where the token has worked before.
//! - Where there is no token the call is not made.
//! - What an answer repeats of our secrets is taken out of what people read of it.

mod answers;
mod call_error;
mod connections;
mod events;
pub mod probe;
mod tokens;

use std::sync::Arc;

use hyper::body::Bytes;
use reqwest::{
    Client, Method, RequestBuilder, Response,
    header::{CONTENT_TYPE, HeaderValue},
};
use uuid::Uuid;

use self::{
    answers::{Answered, read_answer, reason, report},
    call_error::{CallError, unrendered},
    connections::{Connections, Senders},
    tokens::{TokenInUse, Tokens},
};
use super::{
    CallTurn, LeaseGuard, SetupError, answer, lease_guard,
    progress::{self, Progress},
    retry_after,
    sender::SendError,
    third_party_answers::{CreateError, Lookup, LookupError, LookupErrorKind, StatusReport},
    traced,
};
use crate::{
    config::{self, ThirdPartyProfile},
    domain::{Content, DatabaseClock, Subject},
    profiles::{
        CreateMeans, Header, Inputs, LookupBy, LookupMeans, Profile, RenderError, Request,
        SecretText, Signing, StoredRequest, ThirdParty, Token, TokenError, Values, read_token,
    },
    telemetry::Metrics,
};

const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;
/// Why a transaction is not looked up.
const NO_ID: &str = "its id at the third party is not known";

/// Calls a third party as its profile says.
#[derive(Debug)]
pub struct ProfileClient {
    profile: Arc<Profile>,
    settings: ThirdPartyProfile,
    base_url: String,
    webhook_url: String,
    connections: Connections,
    tokens: Tokens,
}

/// A create that is ready to be sent.
#[derive(Debug, Clone)]
pub struct PreparedCreate {
    id: Uuid,
    request: Request,
    base_url: String,
    /// An earlier one may have gone through.
    is_repeat: bool,
}

impl PreparedCreate {
    /// What is kept of it to be sent again: see [`ProfileClient::repeat`].
    pub fn to_bytes(&self) -> Vec<u8> {
        StoredRequest::new(&self.base_url, &self.request).to_bytes()
    }
}

/// Why a create cannot be sent again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepeatError {
    #[error("the first request cannot be read")]
    Unreadable,
    #[error("the first request was sent to {0}, where the third party is not any more")]
    Moved(String),
    #[error(transparent)]
    Render(#[from] RenderError),
}

/// How a request is sent.
#[derive(Clone, Copy)]
enum How<'a> {
    /// Not once the guard says no.
    Create(&'a PreparedCreate, &'a LeaseGuard),
    /// It may be sent again.
    Lookup,
}

impl How<'_> {
    /// The nonce of the request's signature, and whether the request is a repeat.
    ///
    /// Some third parties take the nonce of a create for its idempotency key, so that it must stay
    /// the same for the transaction, and refuse one that was used in another call.
    fn nonce(self) -> (Uuid, bool) {
        match self {
            Self::Create(prepared, _) => (prepared.id, prepared.is_repeat),
            Self::Lookup => (Uuid::new_v4(), false),
        }
    }
}

impl ProfileClient {
    pub(super) fn new(
        settings: &config::ThirdParty,
        dns: &config::Dns,
        profile: &ThirdPartyProfile,
        webhook_url: String,
    ) -> Result<Self, SetupError> {
        let base_url = settings.base_url.as_ref().map(|url| url.as_str().to_owned());
        Ok(Self {
            profile: profile.profile.clone(),
            settings: profile.clone(),
            base_url: base_url.unwrap_or_default(),
            webhook_url,
            connections: Connections::new(settings, dns, profile)?,
            tokens: Tokens::default(),
        })
    }

    /// Counts its calls in `metrics` from now on.
    pub(super) fn set_metrics(&self, metrics: Arc<Metrics>) {
        self.connections.set_metrics(metrics);
    }

    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Whether a transaction can be looked up: by our id, or by theirs once it is known.
    pub fn can_look_up(&self, subject: &Subject) -> bool {
        self.profile.lookup_by() == LookupBy::Id || subject.provider_id.is_some()
    }

    /// Whether the lookup of such a transaction can be made.
    pub fn can_render_lookup(&self, subject: &Subject, clock: &DatabaseClock) -> bool {
        let values = self.settings.values.get();
        let inputs = self.inputs(Uuid::nil(), subject, &values, clock);
        self.profile.lookup_request(&inputs).is_ok()
    }

    /// The request that creates a transaction.
    pub fn prepare(
        &self,
        id: Uuid,
        subject: &Subject,
        clock: &DatabaseClock,
    ) -> Result<PreparedCreate, RenderError> {
        let values = self.settings.values.get();
        let request = self.profile.create_request(&self.inputs(id, subject, &values, clock))?;
        let (base_url, is_repeat) = (self.base_url.clone(), subject.since_create.is_some());
        Ok(PreparedCreate { id, request, base_url, is_repeat })
    }

    /// The first request once more, as [`PreparedCreate::to_bytes`] kept it. Its headers with
    /// secrets are those of now.
    pub fn repeat(
        &self,
        id: Uuid,
        subject: &Subject,
        first: &[u8],
        clock: &DatabaseClock,
    ) -> Result<PreparedCreate, RepeatError> {
        let StoredRequest { base_url, mut request } =
            StoredRequest::parse(first).ok_or(RepeatError::Unreadable)?;
        if base_url != self.base_url {
            return Err(RepeatError::Moved(base_url));
        }
        let now = self.prepare(id, subject, clock)?.request;
        request.headers.extend(now.headers.into_iter().filter(|header| header.is_secret));
        Ok(PreparedCreate { id, request, base_url, is_repeat: true })
    }

    /// Sends a create. Not sent once `fence` says no.
    pub(super) async fn create(
        &self,
        id: Uuid,
        prepared: &PreparedCreate,
        turn: &CallTurn,
        fence: LeaseGuard,
        clock: &DatabaseClock,
    ) -> Result<StatusReport, CreateError> {
        let is_refused = |answered: &Answered| {
            answered.read(|answer| self.profile.read_create(id, answer)).means
                == CreateMeans::Blocked
        };
        let how = How::Create(prepared, &fence);
        let answered = self.call(&prepared.request, how, turn, is_refused, clock).await?;
        let read = answered.read(|answer| self.profile.read_create(id, answer));
        let retry_after = answered.retry_after;
        let reason = reason(&read);
        match read.means {
            CreateMeans::Created => Ok(report(read, &self.profile)),
            CreateMeans::Exists => Err(CreateError::AlreadyExists(report(read, &self.profile))),
            CreateMeans::Refused => Err(CreateError::Rejected { reason }),
            CreateMeans::Later => Err(CreateError::Busy {
                reason,
                retry_after,
                may_be_lost: read.may_be_lost(),
                is_outage: read.is_outage(),
            }),
            CreateMeans::Unclear => Err(CreateError::Unclear { reason }),
            CreateMeans::Blocked => Err(CreateError::Unauthorized { reason }),
            CreateMeans::Ambiguous => {
                Err(CreateError::Ambiguous { reason, is_outage: read.is_outage() })
            }
        }
    }

    /// Looks a transaction up.
    pub(super) async fn look_up(
        &self,
        id: Uuid,
        subject: &Subject,
        turn: &CallTurn,
        clock: &DatabaseClock,
    ) -> Result<Lookup, LookupError> {
        if !self.can_look_up(subject) {
            return Err(LookupError::not_asked(NO_ID.to_owned()));
        }
        let values = self.settings.values.get();
        let inputs = self.inputs(id, subject, &values, clock);
        let request = self.profile.lookup_request(&inputs).map_err(|why| unrendered(&why))?;
        let read = |answered: &Answered| {
            answered.read(|answer| self.profile.read_lookup(&inputs, answer, subject.since_create))
        };
        let is_refused = |answered: &Answered| read(answered).is_unauthorized();
        let answered = self.call(&request, How::Lookup, turn, is_refused, clock).await?;
        let read = read(&answered);
        let reason = reason(&read);
        match read.means {
            LookupMeans::Found => Ok(Lookup::Found(report(read, &self.profile))),
            LookupMeans::Absent => Ok(Lookup::Absent),
            LookupMeans::Unclear => Ok(Lookup::Unclear { reason }),
            LookupMeans::NoAnswer | LookupMeans::NotOurs => {
                let kind = if read.is_unauthorized() {
                    LookupErrorKind::Unauthorized
                } else if read.is_outage() {
                    LookupErrorKind::Outage
                } else {
                    LookupErrorKind::Unusable
                };
                Err(LookupError { reason, retry_after: answered.retry_after, kind })
            }
        }
    }

    fn inputs<'a>(
        &'a self,
        id: Uuid,
        subject: &'a Subject,
        values: &'a Values,
        clock: &DatabaseClock,
    ) -> Inputs<'a> {
        Inputs {
            id,
            content: &subject.content,
            provider_id: subject.provider_id.as_deref(),
            created_at: subject.created_at,
            now: clock.now(),
            webhook_url: &self.webhook_url,
            values,
        }
    }

    /// Makes a call with its credentials, and once more with a new token where the token was refused:
    /// by a 401 or 403 of which `is_refused` says that it is about our credentials. What asks for
    /// tokens is another service: it counts in no budget.
    async fn call(
        &self,
        request: &Request,
        how: How<'_>,
        turn: &CallTurn,
        is_refused: impl Fn(&Answered) -> bool,
        clock: &DatabaseClock,
    ) -> Result<Answered, CallError> {
        let values = self.settings.values.get();
        let senders = self.connections.with(&values);
        let mut is_renewed = false;
        loop {
            let token = self.token(&values, &senders, clock).await.map_err(CallError::Token)?;
            let text = token.as_ref().map(TokenInUse::text);
            let signed = self.authenticated(request, how, &values, text, clock);
            let signed = signed.map_err(CallError::Render)?;
            let response = self.send(&senders, &signed, how, turn).await;
            let response = response.map_err(CallError::Send)?;
            let answered = read_answer(response, &values, &signed.headers, clock).await;
            let Some(token) = token else { return Ok(answered) };
            if !matches!(answered.code, UNAUTHORIZED | FORBIDDEN) || !is_refused(&answered) {
                token.worked();
                return Ok(answered);
            }
            let may_renew = || match answered.code {
                UNAUTHORIZED => self.tokens.refused(&token),
                _ => token.doubt(),
            };
            if is_renewed || !may_renew() {
                return Ok(answered);
            }
            is_renewed = true;
        }
    }

    async fn send(
        &self,
        senders: &Senders,
        request: &Request,
        how: How<'_>,
        turn: &CallTurn,
    ) -> Result<Response, SendError> {
        let How::Create(_, may_be_sent) = how else {
            let make = |http: &Client, progress: Progress| {
                traced(self.builder(http, request).body(progress::no_body(progress)))
            };
            return senders.lookups.send_in_turn(turn, make).await;
        };
        let body = Bytes::from(request.body.clone());
        // Without a body there is nothing that could be held back later.
        if body.is_empty() && !may_be_sent() {
            return Err(SendError::Stale);
        }
        let make = |http: &Client, progress: Progress| {
            let body = match body.is_empty() {
                true => progress::no_body(progress),
                false => lease_guard::body(body.clone(), may_be_sent.clone(), progress),
            };
            traced(self.builder(http, request).body(body))
        };
        senders.creates.send_create(turn, make).await
    }

    /// The request with its credentials and its signature.
    fn authenticated(
        &self,
        request: &Request,
        how: How<'_>,
        values: &Values,
        token: Option<&SecretText>,
        clock: &DatabaseClock,
    ) -> Result<Request, RenderError> {
        let mut request = request.clone();
        request.headers.extend(self.profile.credential_headers(values, token)?);
        if let Some(signer) = self.profile.signer() {
            let (nonce, is_repeat) = how.nonce();
            let (base_url, now, nonce) = (self.base_url.as_str(), clock.now(), nonce.to_string());
            let with = Signing { base_url, values, now, nonce: &nonce, is_repeat };
            signer.sign(&mut request, &with)?;
        }
        Ok(request)
    }

    /// `None`: the profile needs none.
    async fn token(
        &self,
        values: &Values,
        senders: &Senders,
        clock: &DatabaseClock,
    ) -> Result<Option<TokenInUse>, TokenError> {
        let failed = |why: RenderError| TokenError {
            reason: why.to_string(),
            is_refused: true,
            retry_after: None,
        };
        let Some(asking) = self.profile.token_request(values).map_err(failed)? else {
            return Ok(None);
        };
        let url = match asking.url.starts_with('/') {
            true => format!("{}{}", self.base_url, asking.url),
            false => asking.url.clone(),
        };
        let ask = || ask_token(senders, &url, &asking.request, clock);
        self.tokens.get(self.profile.renew_token_early(), ask).await.map(Some)
    }

    fn builder(&self, http: &Client, request: &Request) -> RequestBuilder {
        let method = match Method::from_bytes(request.method.as_str().as_bytes()) {
            Ok(method) => method,
            // The language has no other than those that HTTP has.
            Err(_) => Method::POST,
        };
        let url = format!("{}{}", self.base_url, request.target());
        with_headers(http.request(method, url), request)
    }
}

/// Asks for a token.
async fn ask_token(
    senders: &Senders,
    url: &str,
    request: &Request,
    clock: &DatabaseClock,
) -> Result<Token, TokenError> {
    let body = Bytes::from(request.body.clone());
    let make = |http: &Client, progress: Progress| {
        let always: LeaseGuard = Arc::new(|| true);
        let builder = http.request(Method::POST, url);
        with_headers(builder, request).body(lease_guard::body(body.clone(), always, progress))
    };
    let unanswered = |error: SendError| TokenError {
        reason: format!("the token request got no answer: {}", error.reason()),
        is_refused: false,
        retry_after: None,
    };
    let response = senders.tokens.send(make).await.map_err(unanswered)?;
    let (code, retry_after) = (response.status().as_u16(), retry_after(&response, clock));
    let body = answer::text(response).await.map_err(|error| error.to_string());
    let body = body.as_deref().map_err(String::as_str);
    read_token(code, body).map_err(|error| TokenError { retry_after, ..error })
}

fn with_headers(mut builder: RequestBuilder, request: &Request) -> RequestBuilder {
    if let Some(content_type) = request.content_type() {
        builder = builder.header(CONTENT_TYPE, content_type);
    }
    for Header { name, value, is_secret } in &request.headers {
        builder = match HeaderValue::from_str(value) {
            Ok(mut value) => {
                value.set_sensitive(*is_secret);
                builder.header(name, value)
            }
            // The builder keeps the error, which does not show the value.
            Err(_) => builder.header(name, value),
        };
    }
    builder
}

/// What a transaction is that was never accepted: for a lookup that must find nothing.
pub(super) fn nothing(clock: &DatabaseClock) -> Subject {
    Subject {
        content: Content::default(),
        provider_id: None,
        created_at: clock.now(),
        since_create: None,
    }
}

#[cfg(test)]
mod tests;
