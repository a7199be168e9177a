//! The third party's side: a signed webhook that says how a transaction stands.
//!
//! The signature is checked over the raw bytes before anything is parsed.

use std::{sync::Arc, time::Duration};

use poem::{
    IntoResponse, Request, RequestBody,
    http::{HeaderValue, StatusCode, header},
    web::Data,
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions, Object, OpenApi,
    payload::Json,
    registry::{MetaRequest, MetaSecurityScheme, Registry},
    types::{Example, Type},
};
use tracing::{Span, field::display};
use uuid::Uuid;

use crate::{
    domain::{
        JobKind, ReportedStatus, SettledBy, ThirdPartyName, UnknownWord,
        peer_answer::{self, Field},
    },
    http::{
        ApiState,
        api::provider_webhooks::webhook_id,
        api_enum::ApiEnum,
        middleware::body,
        problem::{FieldProblem, Problem, ProblemJson, ProblemType},
    },
    signature::{self, Secret, SignedHeaders, VerifyError},
    store::{
        jobs,
        rejected_webhooks::WebhookRejection,
        webhooks::{Received, Webhook, WebhookOutcome},
    },
    telemetry::{labels::WebhookResult, traces},
};

/// Most characters of a `webhook-id`.
pub(in crate::http) const MAX_WEBHOOK_ID: usize = 255;
const SCHEME: &str = "WebhookSignature";

/// The third party's operation.
pub struct WebhooksApi;

/// What the third party sends. Unknown fields are ignored.
#[derive(Debug, Clone, Object)]
#[oai(example)]
pub struct ThirdPartyWebhook {
    /// The transaction's id.
    pub id: Uuid,
    /// How it stands.
    pub status: ApiEnum<ReportedStatus>,
}

impl Example for ThirdPartyWebhook {
    fn example() -> Self {
        let id = Uuid::from_u128(0x0195_f3a2_7b1c_7e9a_8d4f_2c6b_5a1e_9f03);
        Self { id, status: ApiEnum(ReportedStatus::Completed) }
    }
}

impl ThirdPartyWebhook {
    /// Reads a webhook's body, whatever its other fields are: 400 where it is no object that can be
    /// read, 422 where one of the two fields is missing or wrong.
    pub fn read(body: &[u8], content_type: Option<&str>) -> Result<Self, Problem> {
        let text = peer_answer::text(body, content_type.and_then(peer_answer::charset));
        let malformed = |why: peer_answer::Unreadable| {
            Problem::new(StatusCode::BAD_REQUEST, format!("the body {why}"))
        };
        let [id, status] = peer_answer::fields(&text, ["id", "status"]).map_err(malformed)?;
        for (field, name) in [(&id, "id"), (&status, "status")] {
            if *field == Field::Repeated {
                return Err(malformed(peer_answer::Unreadable::Repeated(name)));
            }
        }
        let mut errors = Vec::new();
        let mut used = |field: Field, name: &str| match field {
            Field::Text(text) => Some(text),
            Field::Other(raw) if raw != "null" => Some(String::new()),
            Field::Unreadable => Some(String::new()),
            _ => {
                errors.push(FieldProblem::at(format!("/{name}"), "is required".to_owned()));
                None
            }
        };
        let (id, status) = (used(id, "id"), used(status, "status"));
        // However it is written, as in the answer to a lookup.
        let id = id.and_then(|text| match Uuid::parse_str(text.trim()) {
            Ok(id) => Some(id),
            Err(_) => {
                errors.push(FieldProblem::at("/id".to_owned(), "must be a uuid".to_owned()));
                None
            }
        });
        let status = status.and_then(|word| match peer_answer::status_word(&word) {
            Some(status) => Some(ApiEnum(status)),
            None => {
                let allowed = UnknownWord::of::<ReportedStatus>();
                errors.push(FieldProblem::at("/status".to_owned(), allowed.to_string()));
                None
            }
        });
        match (id, status) {
            (Some(id), Some(status)) => Ok(Self { id, status }),
            _ => {
                errors.sort_by(|a, b| a.pointer.cmp(&b.pointer));
                Err(Problem::invalid(errors))
            }
        }
    }
}

/// A webhook whose signature is good.
pub struct SignedWebhook {
    webhook: Webhook,
    /// The trace that it came with, while traces are exported.
    traceparent: Option<String>,
}

impl<'a> ApiExtractor<'a> for SignedWebhook {
    const TYPES: &'static [ApiExtractorType] =
        &[ApiExtractorType::RequestObject, ApiExtractorType::SecurityScheme];
    const PARAM_IS_REQUIRED: bool = true;

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        ThirdPartyWebhook::register(registry);
        registry.create_security_scheme(
            SCHEME,
            MetaSecurityScheme {
                ty: "apiKey",
                description: Some(
                    "Standard Webhooks: HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{raw \
                     body}`, as `v1,<base64>`, several separated by spaces. `webhook-id` (at most \
                     255 characters) is unique for each event; `webhook-timestamp` is in Unix \
                     seconds, at most 300 s off. `quartet sign-webhook` makes all three headers.",
                ),
                name: Some(signature::SIGNATURE_HEADER),
                key_in: Some("header"),
                scheme: None,
                bearer_format: None,
                flows: None,
                openid_connect_url: None,
            },
        );
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![SCHEME]
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(body::json_request::<ThirdPartyWebhook>())
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let state = ApiState::of(request);
        let sender = Sender { name: ThirdPartyName::default(), secrets: &state.webhook.secrets };
        Self::from_sender(sender, request, body).await
    }
}

/// A third party that speaks Quartet's own contract.
pub(in crate::http) struct Sender<'a> {
    pub name: ThirdPartyName,
    pub secrets: &'a [Secret],
}

impl Sender<'_> {
    /// The id that repeats of a webhook are recognised by, among those of all third parties. That
    /// of the one without a name is as it arrived, and ASCII, as no other's is.
    fn webhook_id(&self, given: &str) -> String {
        match self.name.is_default() {
            true => given.to_owned(),
            false => webhook_id(&self.name, &self.name, given),
        }
    }
}

/// Why a webhook is not taken, and how it is answered.
struct Rejected {
    reason: WebhookRejection,
    problem: Box<Problem>,
}

impl Rejected {
    fn new(reason: WebhookRejection, problem: Problem) -> Self {
        Self { reason, problem: Box::new(problem) }
    }

    /// What its body alone says; `otherwise` where the status does not tell.
    fn body(problem: Problem, otherwise: WebhookRejection) -> Self {
        let reason = match StatusCode::from_u16(problem.status) {
            Ok(StatusCode::PAYLOAD_TOO_LARGE) => WebhookRejection::TooLarge,
            Ok(StatusCode::UNPROCESSABLE_ENTITY) => WebhookRejection::BadFields,
            Ok(StatusCode::UNSUPPORTED_MEDIA_TYPE) => WebhookRejection::ContentCoding,
            _ => otherwise,
        };
        Self::new(reason, problem)
    }
}

impl From<VerifyError> for Rejected {
    fn from(error: VerifyError) -> Self {
        let reason = match error {
            VerifyError::MissingHeader(_) => WebhookRejection::MissingHeader,
            VerifyError::Timestamp => WebhookRejection::BadTimestamp,
            VerifyError::TooOld => WebhookRejection::TooOld,
            VerifyError::TooNew => WebhookRejection::TooNew,
            VerifyError::TooManySignatures => WebhookRejection::TooManySignatures,
            VerifyError::NoMatch => WebhookRejection::WrongSignature,
        };
        Self::new(reason, Problem::new(StatusCode::UNAUTHORIZED, error.to_string()))
    }
}

impl SignedWebhook {
    /// A webhook of this sender; an error is the answer to one that is not taken.
    pub(in crate::http) async fn from_sender(
        sender: Sender<'_>,
        request: &Request,
        body: &mut RequestBody,
    ) -> poem::Result<Self> {
        Self::read(sender, request, body).await.map_err(|Rejected { reason, problem }| {
            ApiState::of(request).rejected_webhooks.note(request, reason, &problem.detail);
            if problem.status == StatusCode::UNAUTHORIZED.as_u16() {
                unsigned(*problem)
            } else {
                (*problem).into()
            }
        })
    }

    async fn read(
        sender: Sender<'_>,
        request: &Request,
        body: &mut RequestBody,
    ) -> Result<Self, Rejected> {
        let state = ApiState::of(request);
        let bytes = body::read(request, body)
            .await
            .map_err(|problem| Rejected::body(problem, WebhookRejection::UnreadableBody))?;
        let signatures = signature_lines(request);
        let headers = SignedHeaders {
            id: only_line(request, signature::ID_HEADER)?,
            timestamp: only_line(request, signature::TIMESTAMP_HEADER)?,
            signature: Some(&signatures),
        };
        let (secrets, tolerance) = (sender.secrets, state.webhook.tolerance);
        let now = crate::http::now().timestamp();
        let webhook_id = signature::verify(secrets, headers, &bytes, now, tolerance)?;
        if webhook_id.chars().count() > MAX_WEBHOOK_ID {
            let detail = format!("must be at most {MAX_WEBHOOK_ID} characters");
            let problem = FieldProblem::parameter(signature::ID_HEADER, detail);
            let problem = Problem::invalid(vec![problem]);
            return Err(Rejected::new(WebhookRejection::BadWebhookId, problem));
        }
        body::check_content_type(request)
            .map_err(|problem| Rejected::new(WebhookRejection::ContentType, problem))?;
        let parsed = ThirdPartyWebhook::read(&bytes, request.content_type())
            .map_err(|problem| Rejected::body(problem, WebhookRejection::BadJson))?;
        let webhook = Webhook {
            webhook_id: sender.webhook_id(webhook_id),
            third_party: sender.name,
            transaction_id: parsed.id,
            status: parsed.status.0,
            rule: None,
            claims: String::new(),
            compared: None,
            comparison: None,
        };
        let traceparent = request.header(traces::TRACEPARENT).filter(|_| traces::is_on());
        Ok(Self { webhook, traceparent: traceparent.map(str::to_owned) })
    }
}

/// All signatures: a sender may put each of them into a header line of its own. A line that is no
/// text holds none.
fn signature_lines(request: &Request) -> String {
    let lines = request.headers().get_all(signature::SIGNATURE_HEADER);
    let lines: Vec<_> = lines.iter().filter_map(|line| line.to_str().ok()).collect();
    lines.join(" ")
}

/// The value of a header that is a part of what is signed: with two of them, the sender and we
/// could mean different ones.
fn only_line<'a>(request: &'a Request, name: &'static str) -> Result<Option<&'a str>, Rejected> {
    let mut lines = request.headers().get_all(name).iter();
    let line = lines.next().map(HeaderValue::to_str);
    let rejected = |reason, status, what: &str| {
        let problem = Problem::new(status, format!("the header `{name}` {what}"));
        Err(Rejected::new(reason, problem))
    };
    if lines.next().is_some() {
        let reason = WebhookRejection::RepeatedHeader;
        return rejected(reason, StatusCode::BAD_REQUEST, "is there twice");
    }
    match line {
        Some(Err(_)) if name == signature::ID_HEADER => {
            let what = "has other characters than visible ASCII";
            rejected(WebhookRejection::BadWebhookId, StatusCode::UNAUTHORIZED, what)
        }
        line => Ok(line.and_then(Result::ok)),
    }
}

/// 401. What is asked for is a signature: no key would help.
fn unsigned(problem: Problem) -> poem::Error {
    let mut response = problem.of_type(ProblemType::InvalidSignature).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(SCHEME));
    poem::Error::from_response(response)
}

/// What a webhook did.
#[derive(Debug, Clone, Object)]
#[oai(example)]
pub struct WebhookReceipt {
    /// `settled`; `unchanged` (pending, or known already); `conflict` (another final status is
    /// known: an operator decides); `unknown_transaction` (kept for an operator).
    pub outcome: ApiEnum<WebhookOutcome>,
    /// Whether this `webhook-id` came before; then nothing was done, and this is its first outcome.
    pub duplicate: bool,
}

impl Example for WebhookReceipt {
    fn example() -> Self {
        Self { outcome: ApiEnum(WebhookOutcome::Settled), duplicate: false }
    }
}

/// Answers of `POST /v1/webhooks/third-party`.
#[derive(ApiResponse)]
pub enum ReceiveWebhookResponse {
    /// Received; the outcome says what it did.
    #[oai(status = 200)]
    Received(Json<WebhookReceipt>),
    /// The body is no JSON object, or `webhook-id` or `webhook-timestamp` is there twice.
    #[oai(status = 400)]
    BadRequest(ProblemJson),
    /// The signature is wrong, missing or too old, or there are more than 16.
    #[oai(status = 401)]
    Unauthorized(ProblemJson),
    /// The body did not come in time.
    #[oai(status = 408)]
    TimedOut(ProblemJson),
    /// The body is too long.
    #[oai(status = 413)]
    TooLarge(ProblemJson),
    /// The body is not declared as JSON, or is compressed.
    #[oai(status = 415)]
    UnsupportedMediaType(ProblemJson),
    /// A field is wrong or missing.
    #[oai(status = 422)]
    Invalid(ProblemJson),
    /// There is too much to do, or the database is away: send the same webhook again after
    /// `Retry-After` seconds.
    #[oai(status = 503)]
    Unavailable(ProblemJson),
}

#[OpenApi(tag = "crate::http::Tag::Webhooks")]
impl WebhooksApi {
    /// Report how a transaction stands.
    ///
    /// Signed as Standard Webhooks, with the headers `webhook-id`, `webhook-timestamp` and
    /// `webhook-signature`. Repeating a webhook with the same `webhook-id` is harmless.
    #[oai(
        path = "/v1/webhooks/third-party",
        method = "post",
        operation_id = "receive_third_party_webhook",
        request_header(
            name = "webhook-id",
            ty = "String",
            description = "Unique for each event, at most 255 characters; a repeat carries the same."
        ),
        request_header(
            name = "webhook-timestamp",
            ty = "i64",
            description = "When it was sent, in Unix seconds; at most 300 s off."
        )
    )]
    async fn receive_third_party_webhook(
        &self,
        state: Data<&Arc<ApiState>>,
        webhook: SignedWebhook,
    ) -> poem::Result<ReceiveWebhookResponse> {
        Ok(ReceiveWebhookResponse::Received(Json(receive(&state, webhook).await?)))
    }
}

/// Does what a webhook says.
pub(in crate::http) async fn receive(
    state: &ApiState,
    webhook: SignedWebhook,
) -> Result<WebhookReceipt, Problem> {
    let SignedWebhook { webhook, traceparent } = webhook;
    Span::current().record("transaction_id", display(webhook.transaction_id));
    if traces::is_on() {
        join_trace(state, webhook.transaction_id, traceparent.as_deref()).await;
    }
    let received = state.within_limit(state.webhooks.submit(webhook)).await?;
    note(state, received);
    Ok(WebhookReceipt { outcome: ApiEnum(received.outcome), duplicate: received.duplicate })
}

/// Makes the request a part of the trace that the transaction's accept began; the trace that the
/// third party sent stays as a link. Where that cannot be read the webhook has a trace of its own.
async fn join_trace(state: &ApiState, id: Uuid, incoming: Option<&str>) {
    let span = Span::current();
    let read = state.within_limit(jobs::traceparent(&state.pool, id)).await;
    if let Ok(Some(traceparent)) = read {
        traces::join(&span, &traceparent, incoming);
    }
    traces::record_trace_id(&span);
}

/// Announces and counts what a webhook did.
pub(in crate::http) fn note(state: &ApiState, received: Received) {
    let settled = received.outcome == WebhookOutcome::Settled && !received.duplicate;
    if settled && !received.is_leased {
        let queue = JobKind::NotifyClient.as_str();
        state.announcer.announce(queue, received.at, Duration::ZERO);
    }
    state.metrics.webhook(result(received));
    if let Some(accepted_at) = received.settled_since {
        state.metrics.settled(SettledBy::Webhook, state.clock.since(accepted_at));
    }
}

fn result(received: Received) -> WebhookResult {
    match received.outcome {
        _ if received.duplicate => WebhookResult::Duplicate,
        WebhookOutcome::Settled => WebhookResult::Settled,
        WebhookOutcome::Unchanged => WebhookResult::Unchanged,
        WebhookOutcome::Conflict => WebhookResult::Conflict,
        WebhookOutcome::UnknownTransaction => WebhookResult::UnknownTransaction,
    }
}
