//! Webhooks of a third party with a profile, at `/v1/webhooks/{name}`: the methods, bodies and
//! answers are those that its profile asks for, so the OpenAPI document cannot describe them.
//!
//! The sender is proved over the raw request before anything is parsed
//! ([`crate::profiles::webhook`]). Then each event is dealt with by itself (`events`); the answer
//! is a success only if every one of them is safely stored, so that the third party sends the
//! webhook again otherwise.

mod events;
mod hint_pace;
mod third_party;
pub mod waiting;

use std::sync::Arc;

use poem::{
    Endpoint, IntoResponse, Request, RequestBody, Response, Result,
    http::{HeaderValue, Method, StatusCode, header},
};

pub use self::{events::webhook_id, third_party::ProviderWebhooks};
use crate::{
    http::{
        ApiState,
        middleware::body,
        problem::{Problem, ProblemType},
    },
    profiles::webhook::{Answers, Headers, Incoming, Rejection},
    store::rejected_webhooks::WebhookRejection,
    telemetry::labels::WebhookResult,
};

/// What a 401 asks for.
const SCHEME: &str = "WebhookSignature";

/// Largest body, in bytes, where `HTTP__MAX_BODY` is less: some third parties send hundreds of events
/// together.
const MAX_BATCH_BODY: usize = 256 * 1024;

/// Receives webhooks of a third party with a profile.
pub struct ReceiveProviderWebhook(pub Arc<ProviderWebhooks>);

/// Why a webhook is not taken, and how it is answered.
struct Rejected {
    /// `None` where it may be taken later.
    reason: Option<WebhookRejection>,
    result: WebhookResult,
    problem: Box<Problem>,
}

impl Endpoint for ReceiveProviderWebhook {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let (request, mut body) = request.split();
        let state = ApiState::of(&request);
        let webhooks = &*self.0;
        let answers = &webhooks.receiver.answers;
        if request.method() == Method::HEAD && answers.head {
            return Ok(StatusCode::OK.into_response());
        }
        let Err(Rejected { reason, result, problem }) =
            receive(state, webhooks, &request, &mut body).await
        else {
            return Ok(taken(answers));
        };
        if let Some(reason) = reason {
            state.rejected_webhooks.note(&request, reason, &problem.detail);
        }
        state.metrics.webhook(result);
        let mut response = problem.into_response();
        let headers = match response.status() {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, SCHEME.to_owned())),
            StatusCode::METHOD_NOT_ALLOWED => Some((header::ALLOW, webhooks.allowed_methods())),
            _ => None,
        };
        if let Some((name, value)) = headers
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            response.headers_mut().insert(name, value);
        }
        Ok(response)
    }
}

/// The answer to a webhook that is taken.
fn taken(answers: &Answers) -> Response {
    let ok = &answers.ok;
    let mut response = match &ok.body {
        Some(body) => body.clone().into_response(),
        None => ().into_response(),
    };
    // The profile's check lets no other code in.
    response.set_status(StatusCode::from_u16(ok.code).unwrap_or(StatusCode::OK));
    if let Some(content_type) = ok.content_type() {
        let content_type = HeaderValue::from_static(content_type);
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    response
}

async fn receive(
    state: &ApiState,
    webhooks: &ProviderWebhooks,
    request: &Request,
    body: &mut RequestBody,
) -> Result<(), Rejected> {
    let receiver = &webhooks.receiver;
    let method = request.method().as_str();
    if !receiver.methods.iter().any(|allowed| allowed.as_str() == method) {
        return Err(webhooks.rejected(Rejection::Method(method.chars().take(20).collect())));
    }
    let limit = state.max_body.max(MAX_BATCH_BODY);
    let bytes = body::read_at_most(request, body, limit).await.map_err(unreadable)?;
    let headers: Vec<(&str, &[u8])> =
        request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let url = webhooks.url(request.uri().query());
    let incoming = Incoming { method, url: &url, headers: Headers(&headers), body: &bytes };
    let keys = webhooks.keys();
    let events = receiver.verify(&incoming, &keys, crate::http::now());
    let events = events.map_err(|rejection| webhooks.rejected(rejection))?;
    events::receive(state, webhooks, request, events).await.map_err(|problem| Rejected {
        reason: None,
        result: WebhookResult::of_refusal(problem.status),
        problem: Box::new(problem),
    })
}

impl ProviderWebhooks {
    fn rejected(&self, rejection: Rejection) -> Rejected {
        let code = rejection.code(self.receiver.answers.refused_code);
        // The profile's check lets no other code in.
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::UNAUTHORIZED);
        let name = self.name();
        let mut problem = Problem::new(status, format!("{name}: {rejection}"));
        let is_unproved = rejection.is_about_sender();
        if is_unproved {
            problem = problem.of_type(ProblemType::InvalidSignature);
        }
        let result = match is_unproved {
            true => WebhookResult::BadSignature,
            false => WebhookResult::of_refusal(code),
        };
        Rejected { reason: Some(reason(&rejection)), result, problem: Box::new(problem) }
    }
}

/// Why a body could not be read, before it was looked at.
fn unreadable(problem: Problem) -> Rejected {
    let reason = match StatusCode::from_u16(problem.status) {
        Ok(StatusCode::PAYLOAD_TOO_LARGE) => WebhookRejection::TooLarge,
        Ok(StatusCode::UNSUPPORTED_MEDIA_TYPE) => WebhookRejection::ContentCoding,
        _ => WebhookRejection::UnreadableBody,
    };
    let result = WebhookResult::of_refusal(problem.status);
    Rejected { reason: Some(reason), result, problem: Box::new(problem) }
}

/// The word under which operators find a rejection.
fn reason(rejection: &Rejection) -> WebhookRejection {
    let word = rejection.reason();
    // A test compares the words.
    word.parse().unwrap_or(WebhookRejection::BadFields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rejection_has_a_word_for_operators() {
        let text = || "x".to_owned();
        let unreadable = crate::domain::peer_answer::Unreadable::Empty;
        for rejection in [
            Rejection::Method(text()),
            Rejection::MissingHeader(text()),
            Rejection::RepeatedHeader(text()),
            Rejection::BadTimestamp { at: text(), expected: "x" },
            Rejection::TooOld(text()),
            Rejection::TooNew(text()),
            Rejection::TooManySignatures(text()),
            Rejection::NoMatch(text()),
            Rejection::WrongCredentials(text()),
            Rejection::UnknownKey(text()),
            Rejection::NotSigned(text()),
            Rejection::BadSignatureHeader("x", text()),
            Rejection::TooLarge(1),
            Rejection::Body(unreadable),
            Rejection::TooManyEvents,
        ] {
            assert_eq!(reason(&rejection).as_str(), rejection.reason());
        }
    }
}
