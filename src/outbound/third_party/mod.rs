//! The third party: creating a transaction there, and looking one up.
//!
//! What matters is what is known afterwards. A create that timed out may have gone through
//! ([`CreateError::Ambiguous`]); a lookup that was not answered says nothing
//! ([`LookupError`]), least of all that the transaction is not there.

mod report;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::body::Bytes;
use reqwest::{StatusCode, header::CONTENT_TYPE};
use serde::Serialize;
use tracing::Instrument;
use uuid::Uuid;

use self::report::read_report;
pub use super::third_party_answers::{
    CreateError, Lookup, LookupError, LookupErrorKind, StatusReport,
};
use super::{
    CallTurn, LeaseCalls, LeaseGuard, SetupError, answer,
    budget::CallBudget,
    call_span, lease_guard, name_limit,
    names::Names,
    profile::{PreparedCreate, ProfileClient, RepeatError, nothing},
    progress, retry_after,
    reuse::Trust,
    sender::{CREATE_IDLE_TIMEOUT, IDLE_TIMEOUT, Sender},
    traced,
};
use crate::{
    config,
    domain::{CallRate, Content, DatabaseClock, Subject},
    profiles::{RenderError, webhook::Claim},
    telemetry::{
        Metrics, ThirdPartyMetrics,
        labels::{CalledPeer, CreateResult, LookupResult},
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
    /// Calls it, where it speaks an interface of its own.
    profile: Option<Arc<ProfileClient>>,
    /// How many calls it allows, where they may be leased.
    max_calls: Option<CallRate>,
    budget: Option<CallBudget>,
    metrics: Option<Arc<ThirdPartyMetrics>>,
    clock: DatabaseClock,
}

/// The status codes that are about who asks, and not about what is asked for. The last one is from
/// a proxy on the way.
fn is_unauthorized(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 407)
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
        let profile = match &config.profile {
            Some(profile) => {
                let client = ProfileClient::new(config, dns, profile, webhook_url.clone())?;
                Some(Arc::new(client))
            }
            None => None,
        };
        Ok(Self {
            profile,
            creates: sender(config.timeout, CREATE_IDLE_TIMEOUT)?,
            lookups: sender(config.lookup_timeout, IDLE_TIMEOUT)?,
            create_url: config.create_url().unwrap_or_default(),
            lookup_url: config.lookup_url(ID_PLACEHOLDER).unwrap_or_default(),
            webhook_url,
            max_calls: config.max_calls,
            budget: None,
            metrics: None,
            clock: DatabaseClock::default(),
        })
    }

    /// The same, going by this clock.
    pub fn with_clock(self, clock: DatabaseClock) -> Self {
        Self { clock, ..self }
    }

    /// The same, keeping to the third party's budget of calls, if it has one, with times that `lease`
    /// leases. Without this, calls count in no budget.
    pub fn with_leases(self, lease: LeaseCalls) -> Self {
        let budget = self.max_calls.map(|rate| CallBudget::new(rate, lease));
        Self { budget, ..self }
    }

    /// A turn of a client's job in the third party's budget; or how long the job is to be postponed,
    /// because too many calls of the client wait.
    pub fn turn(&self, client_id: Uuid) -> Result<CallTurn, Duration> {
        CallTurn::of_job(self.budget.as_ref(), self.metrics.as_ref(), client_id)
    }

    /// The same, counting its calls in `metrics` under this name.
    pub fn with_metrics(mut self, metrics: Arc<Metrics>, name: &str) -> Self {
        self.creates = self.creates.with_metrics(metrics.clone());
        self.lookups = self.lookups.with_metrics(metrics.clone());
        if let Some(profile) = &self.profile {
            profile.set_metrics(metrics.clone());
        }
        self.metrics = Some(Arc::new(metrics.third_party(name)));
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

    /// What calls it, where a profile describes it.
    pub fn profile(&self) -> Option<&ProfileClient> {
        self.profile.as_deref()
    }

    /// The request that creates a transaction.
    pub fn prepare(
        &self,
        profile: &ProfileClient,
        id: Uuid,
        subject: &Subject,
    ) -> Result<PreparedCreate, RenderError> {
        profile.prepare(id, subject, &self.clock)
    }

    /// The first such request once more, as [`PreparedCreate::to_bytes`] kept it.
    pub fn repeat(
        &self,
        profile: &ProfileClient,
        id: Uuid,
        subject: &Subject,
        first: &[u8],
    ) -> Result<PreparedCreate, RepeatError> {
        profile.repeat(id, subject, first, &self.clock)
    }

    /// Why an event that was received before is not about this transaction; `None`: it may be. The
    /// claims are those that [`Claim::write_all`] wrote. Nothing is asked.
    pub fn contradiction(
        &self,
        profile: &ProfileClient,
        id: Uuid,
        subject: &Subject,
        provider_id: Option<&str>,
        claims: &serde_json::Value,
    ) -> Option<String> {
        match Claim::read_all(claims) {
            Some(claims) => profile.contradiction(id, subject, provider_id, &claims, &self.clock),
            None => Some("what it says besides its status cannot be read".to_owned()),
        }
    }

    /// `POST {base_url}/transaction`. Not sent once `fence` says no.
    pub async fn create(
        &self,
        id: Uuid,
        content: &Content,
        turn: &CallTurn,
        fence: LeaseGuard,
    ) -> Result<StatusReport, CreateError> {
        self.observed_create(id, turn, self.post(id, content, turn, fence)).await
    }

    /// The same, as a profile says.
    pub async fn create_by_profile(
        &self,
        profile: &ProfileClient,
        id: Uuid,
        prepared: &PreparedCreate,
        turn: &CallTurn,
        fence: LeaseGuard,
    ) -> Result<StatusReport, CreateError> {
        let call = profile.create(id, prepared, turn, fence, &self.clock);
        self.observed_create(id, turn, call).await
    }

    async fn observed_create(
        &self,
        id: Uuid,
        turn: &CallTurn,
        call: impl Future<Output = Result<StatusReport, CreateError>>,
    ) -> Result<StatusReport, CreateError> {
        let span = call_span!("create_at_third_party", "POST", id);
        let (began, waited) = (Instant::now(), turn.waited());
        let created = call.instrument(span.clone()).await;
        let result = match &created {
            Ok(_) => CreateResult::Created,
            Err(error) => error.result(),
        };
        match &created {
            Ok(StatusReport { unusable: Some(reason), .. })
            | Err(
                CreateError::Unauthorized { reason }
                | CreateError::NoToken { reason }
                | CreateError::Rejected { reason }
                | CreateError::Unclear { reason },
            ) => {
                log_strange("create", id, reason);
            }
            _ => {}
        }
        span.record("outcome", result.as_str());
        if let Some(metrics) = &self.metrics {
            metrics.create(result, began.elapsed().saturating_sub(turn.waited() - waited));
        }
        created
    }

    async fn post(
        &self,
        id: Uuid,
        content: &Content,
        turn: &CallTurn,
        fence: LeaseGuard,
    ) -> Result<StatusReport, CreateError> {
        let body = CreateBody { id, webhook_url: &self.webhook_url, content };
        let body = serde_json::to_vec(&body)
            .map_err(|error| CreateError::Unreachable { reason: error.to_string() })?;
        let body = Bytes::from(body);
        let sent = self.creates.send_create(turn, |http, progress| {
            let request = http.post(&self.create_url).header(CONTENT_TYPE, "application/json");
            traced(request.body(lease_guard::body(body.clone(), fence.clone(), progress)))
        });
        let response = sent.await?;
        let status = response.status();
        match status {
            _ if status.is_success() => {
                // 2xx is enough: a body that breaks off or is no JSON takes nothing away.
                let report = read_report(id, status, response).await;
                Ok(report.unwrap_or_else(|error| StatusReport::unusable(error.reason)))
            }
            StatusCode::CONFLICT => Err(CreateError::AlreadyExists(StatusReport::default())),
            // 421: the server that answered is not the third party's.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::MISDIRECTED_REQUEST
            | StatusCode::SERVICE_UNAVAILABLE => {
                let retry_after = retry_after(&response, &self.clock);
                Err(CreateError::Busy {
                    reason: answer::describe(response).await,
                    retry_after,
                    may_be_lost: status == StatusCode::SERVICE_UNAVAILABLE,
                    is_outage: status == StatusCode::SERVICE_UNAVAILABLE,
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

    /// Looks up an id that was never used: a harmless call, which says whether our credentials are
    /// taken.
    pub async fn look_up_nothing(&self) -> Result<Lookup, LookupError> {
        self.look_up_unknown(Uuid::new_v4()).await
    }

    /// Looks up an id of which nothing else is known here.
    pub async fn look_up_unknown(&self, id: Uuid) -> Result<Lookup, LookupError> {
        self.look_up(id, || nothing(&self.clock)).await
    }

    /// Whether that call can be made: not where lookups are by the third party's own id, or have
    /// something of the transaction.
    pub fn can_look_up_nothing(&self) -> bool {
        let subject = nothing(&self.clock);
        self.profile.as_ref().is_none_or(|profile| {
            profile.can_look_up(&subject) && profile.can_render_lookup(&subject, &self.clock)
        })
    }

    /// `GET {base_url}/transaction/{id}`, or as a profile says, which is made of `subject`.
    pub async fn look_up(
        &self,
        id: Uuid,
        subject: impl FnOnce() -> Subject,
    ) -> Result<Lookup, LookupError> {
        let turn = CallTurn::of_call(self.budget.as_ref(), self.metrics.as_ref());
        self.look_up_in_turn(id, subject, &turn).await
    }

    /// The same in a job's turn.
    pub async fn look_up_in_turn(
        &self,
        id: Uuid,
        subject: impl FnOnce() -> Subject,
        turn: &CallTurn,
    ) -> Result<Lookup, LookupError> {
        let span = call_span!("look_up_at_third_party", "GET", id);
        let (began, waited) = (Instant::now(), turn.waited());
        let found = match &self.profile {
            None => self.get(id, turn).instrument(span.clone()).await,
            Some(profile) => {
                let subject = subject();
                let call = profile.look_up(id, &subject, turn, &self.clock);
                call.instrument(span.clone()).await
            }
        };
        let result = match &found {
            Ok(Lookup::Found(_) | Lookup::Unclear { .. }) => LookupResult::Found,
            Ok(Lookup::Absent) => LookupResult::Absent,
            Err(error) => error.result(),
        };
        match &found {
            Ok(Lookup::Found(StatusReport { unusable: Some(reason), .. }))
            | Ok(Lookup::Unclear { reason })
            | Err(LookupError { reason, .. })
                if !found.as_ref().is_err_and(LookupError::is_over_budget) =>
            {
                log_strange("lookup", id, reason);
            }
            _ => {}
        }
        span.record("outcome", result.as_str());
        if let Some(metrics) = &self.metrics {
            metrics.lookup(result, began.elapsed().saturating_sub(turn.waited() - waited));
        }
        found
    }

    async fn get(&self, id: Uuid, turn: &CallTurn) -> Result<Lookup, LookupError> {
        let sent = self.lookups.send_in_turn(turn, |http, progress| {
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
