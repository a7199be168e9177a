//! The one error type of the API: RFC 9457 `application/problem+json`.
//!
//! Everything that goes wrong in a request ends here: what operations raise themselves, and what
//! poem raises before an operation runs (unknown path, wrong method, unreadable parameter, panic).
//! A 500 is opaque; its cause goes with the answer to the edge, where
//! [`crate::http::middleware::observe`] logs it once.

use poem::{
    IntoResponse, Response,
    error::{MethodNotAllowedError, NotFoundError},
    http::{HeaderValue, StatusCode, header},
};
use poem_openapi::{
    Object,
    error::{AuthorizationError, ParseParamError, ParsePathError},
    payload::Payload,
    registry::{MetaSchemaRef, Registry},
    types::{ToJSON, Type},
};

use crate::{domain::with_causes, store::StoreError};

/// Most faults that one answer names: it must not be much longer than its request.
pub const MAX_ERRORS: usize = 50;

/// `Retry-After` of a 503: 1, 2 or 3 seconds at random, so that not all callers come back at once.
pub fn retry_after() -> HeaderValue {
    HeaderValue::from(rand::random_range(1..=3_u16))
}

/// The page that explains problems and dead letters, as it is served.
pub const ERRORS_PAGE: &str = "/docs/errors";

/// What kind of problem it is: each is a heading of docs/errors.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemType {
    BadRequest,
    Unauthorized,
    InvalidSignature,
    Forbidden,
    NotFound,
    UnknownPath,
    MethodNotAllowed,
    BodyTimeout,
    IdConflict,
    Conflict,
    BodyTooLarge,
    UnsupportedMediaType,
    InvalidFields,
    RateLimited,
    InternalError,
    Overloaded,
    DatabaseUnavailable,
    ThirdPartyNotConfigured,
}

impl ProblemType {
    /// Every one of them.
    pub const ALL: [Self; 18] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::InvalidSignature,
        Self::Forbidden,
        Self::NotFound,
        Self::UnknownPath,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::IdConflict,
        Self::Conflict,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidFields,
        Self::RateLimited,
        Self::InternalError,
        Self::Overloaded,
        Self::DatabaseUnavailable,
        Self::ThirdPartyNotConfigured,
    ];

    /// The heading.
    pub const fn anchor(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::Unauthorized => "unauthorized",
            Self::InvalidSignature => "invalid-signature",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not-found",
            Self::UnknownPath => "unknown-path",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::BodyTimeout => "body-timeout",
            Self::IdConflict => "id-conflict",
            Self::Conflict => "conflict",
            Self::BodyTooLarge => "body-too-large",
            Self::UnsupportedMediaType => "unsupported-media-type",
            Self::InvalidFields => "invalid-fields",
            Self::RateLimited => "rate-limited",
            Self::InternalError => "internal-error",
            Self::Overloaded => "overloaded",
            Self::DatabaseUnavailable => "database-unavailable",
            Self::ThirdPartyNotConfigured => "third-party-not-configured",
        }
    }

    /// What `type` says: a reference to the server that answers (RFC 9457 section 3.1.1).
    pub fn uri(self) -> String {
        format!("{ERRORS_PAGE}#{}", self.anchor())
    }

    /// What a status means where nothing more is known; `None` for one that says all by itself.
    pub fn of(status: StatusCode) -> Option<Self> {
        Some(match status {
            StatusCode::BAD_REQUEST => Self::BadRequest,
            StatusCode::UNAUTHORIZED => Self::Unauthorized,
            StatusCode::FORBIDDEN => Self::Forbidden,
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::REQUEST_TIMEOUT => Self::BodyTimeout,
            StatusCode::CONFLICT => Self::Conflict,
            StatusCode::PAYLOAD_TOO_LARGE => Self::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            StatusCode::UNPROCESSABLE_ENTITY => Self::InvalidFields,
            StatusCode::TOO_MANY_REQUESTS => Self::RateLimited,
            StatusCode::SERVICE_UNAVAILABLE => Self::Overloaded,
            status if status.is_server_error() => Self::InternalError,
            _ => return None,
        })
    }
}

/// An error answer, RFC 9457.
#[derive(Debug, Clone, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct Problem {
    /// What kind of problem it is, such as `/docs/errors#id-conflict`: the page of this server that
    /// says what to do.
    #[oai(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong and what is allowed, for a person.
    pub detail: String,
    /// Where fields or parameters are at fault, one entry each.
    pub errors: Option<Vec<FieldProblem>>,
    /// What is logged about it; never sent.
    #[oai(skip)]
    pub cause: Option<Box<str>>,
}

/// Why a request failed, beside the answer that does not say it.
#[derive(Debug, Clone)]
pub struct Cause(pub Box<str>);

/// What is wrong with one field or parameter.
#[derive(Debug, Clone, PartialEq, Eq, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct FieldProblem {
    /// JSON pointer into the body (RFC 6901), such as `/amount`.
    pub pointer: Option<String>,
    /// Name of the query or path parameter, or of the header.
    pub parameter: Option<String>,
    /// What is wrong and what is allowed.
    pub detail: String,
}

impl FieldProblem {
    /// A problem with the body at `pointer`.
    pub fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), parameter: None, detail: detail.into() }
    }

    /// A problem with a parameter or header.
    pub fn parameter(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: None, parameter: Some(name.into()), detail: detail.into() }
    }
}

impl Problem {
    /// A problem of this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: ProblemType::of(status)
                .map_or_else(|| "about:blank".to_owned(), ProblemType::uri),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: None,
            cause: None,
        }
    }

    /// The same, of a type that says more than the status.
    pub fn of_type(mut self, kind: ProblemType) -> Self {
        self.kind = kind.uri();
        self
    }

    /// The same, with a cause for the log.
    pub fn because(mut self, cause: impl Into<Box<str>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 422, naming each field at fault, up to [`MAX_ERRORS`].
    pub fn invalid(mut errors: Vec<FieldProblem>) -> Self {
        errors.truncate(MAX_ERRORS);
        let named: Vec<String> = errors
            .iter()
            .map(|error| {
                let name = error.pointer.as_ref().or(error.parameter.as_ref());
                format!("{}: {}", name.map_or("", |name| name.as_str()), error.detail)
            })
            .collect();
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, named.join("; "));
        problem.errors = Some(errors);
        problem
    }

    /// 401, without saying more than what is expected.
    pub fn unauthorized() -> Self {
        let detail = "send `Authorization: Bearer <key>` with a valid key";
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// 503: the database is away, nothing is lost.
    pub fn unavailable() -> Self {
        let detail = "the database is away; nothing was lost, send the same request again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).of_type(ProblemType::DatabaseUnavailable)
    }

    /// 500, opaque. The cause goes to the log.
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed; the cause is in the log")
            .because(with_causes(cause))
    }

    /// What poem raised outside an operation.
    pub fn from_poem(error: poem::Error) -> Self {
        if error.is::<AuthorizationError>() {
            return Self::unauthorized();
        }
        if let Some(error) = error.downcast_ref::<ParseParamError>() {
            return Self::invalid(vec![FieldProblem::parameter(
                error.name,
                explain(&error.reason),
            )]);
        }
        if let Some(error) = error.downcast_ref::<ParsePathError>() {
            // poem-openapi numbers path parameters; every path of ours has one, the id.
            return Self::invalid(vec![FieldProblem::parameter("id", explain(&error.reason))]);
        }
        if error.is::<NotFoundError>() {
            let detail = "there is nothing at this path; /openapi.json lists all paths";
            return Self::not_found(detail).of_type(ProblemType::UnknownPath);
        }
        if error.is::<MethodNotAllowedError>() {
            let detail = "this path does not take this method; /openapi.json lists all paths";
            return Self::new(StatusCode::METHOD_NOT_ALLOWED, detail);
        }
        match error.status() {
            status if status.is_server_error() => {
                Self::new(status, "the request failed; the cause is in the log")
                    .because(error.to_string())
            }
            status => Self::new(status, error.to_string()),
        }
    }
}

/// What poem-openapi says about a parameter, in words that say what is allowed. It names the
/// schema's type, as in `failed to parse "string_uuid": …`.
fn explain(reason: &str) -> String {
    const TYPES: [(&str, &str); 3] = [
        ("string_uuid", "must be a uuid"),
        ("string_date-time", "must be a time such as 2026-11-23T10:00:00Z"),
        ("uint32", "must be a whole number that is not negative"),
    ];
    if let Some((_, explained)) = TYPES.iter().find(|(name, _)| reason.contains(name)) {
        return (*explained).to_owned();
    }
    if let Some(rule) = reason.strip_prefix("verification failed. ") {
        let limit = |name| rule.strip_prefix(name).and_then(|rest: &str| rest.split(',').next());
        return match (limit("maximum("), limit("minimum(")) {
            (Some(maximum), _) => format!("must be at most {maximum}"),
            (_, Some(minimum)) => format!("must be at least {minimum}"),
            _ => rule.to_owned(),
        };
    }
    let inner = reason.split_once("\": ").map_or(reason, |(_, inner)| inner);
    inner.split(" (occurred while parsing").next().unwrap_or(inner).to_owned()
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let response = Response::builder().status(status).content_type(ProblemJson::CONTENT_TYPE);
        let response = match self.cause.take() {
            Some(cause) => response.extension(Cause(cause)),
            None => response,
        };
        let response = match status {
            StatusCode::UNAUTHORIZED => response.header(header::WWW_AUTHENTICATE, "Bearer"),
            StatusCode::SERVICE_UNAVAILABLE => response.header(header::RETRY_AFTER, retry_after()),
            // The unread rest of the body must not be read as the next request (RFC 9110 section
            // 15.5.9).
            StatusCode::REQUEST_TIMEOUT => response.header(header::CONNECTION, "close"),
            _ => response,
        };
        response.body(self.to_json_string())
    }
}

impl From<Problem> for poem::Error {
    fn from(problem: Problem) -> Self {
        let cause = problem.cause.clone();
        let mut error = Self::from_response(problem.into_response());
        if let Some(cause) = cause {
            // An error's extensions take the place of its response's.
            error.set_data(Cause(cause));
        }
        error
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(cause) => Self::unavailable()
                .because(format!("the database is unavailable: {}", with_causes(&cause))),
            StoreError::Query(cause) => Self::internal(&cause),
        }
    }
}

/// A [`Problem`] as the payload of a documented answer.
#[derive(Debug, Clone)]
pub struct ProblemJson(pub Problem);

impl ProblemJson {
    /// RFC 9457 section 3.
    pub const MEDIA_TYPE: &str = "application/problem+json";
}

impl Payload for ProblemJson {
    const CONTENT_TYPE: &'static str = Self::MEDIA_TYPE;

    fn schema_ref() -> MetaSchemaRef {
        Problem::schema_ref()
    }

    fn register(registry: &mut Registry) {
        Problem::register(registry);
    }
}

impl IntoResponse for ProblemJson {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}
