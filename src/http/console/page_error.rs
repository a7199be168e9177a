//! Errors of the console, as pages with their status.

use poem::{error::ResponseError, http::StatusCode};

use crate::{
    http::{ApiState, problem::Problem},
    store::StoreError,
};

/// A reason for a person, with the HTTP status that goes with it.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct PageError {
    pub status: StatusCode,
    pub reason: String,
    /// For the log alone.
    pub cause: Option<Box<str>>,
}

impl PageError {
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), cause: None }
    }

    /// 500, opaque. The cause goes to the log.
    pub fn failed(cause: impl ToString) -> Self {
        let reason = "the page failed; the cause is in the log";
        let cause = Some(cause.to_string().into());
        Self { cause, ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, reason) }
    }

    /// 404.
    pub fn not_found(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, reason)
    }

    /// 422: a field is wrong.
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, reason)
    }

    /// 409: what is there does not allow it.
    pub fn conflict(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, reason)
    }

    /// 403: the request may come from another site.
    pub fn forged() -> Self {
        let reason = "this form was not sent from a page of this session; open the page again";
        Self::new(StatusCode::FORBIDDEN, reason)
    }
}

impl ResponseError for PageError {
    fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<Problem> for PageError {
    fn from(problem: Problem) -> Self {
        let status = StatusCode::from_u16(problem.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, reason: problem.detail, cause: problem.cause }
    }
}

impl From<StoreError> for PageError {
    fn from(error: StoreError) -> Self {
        Problem::from(error).into()
    }
}

impl ApiState {
    /// Waits for the database as requests of the API do; why not is for a page.
    pub(super) async fn fetch<T>(
        &self,
        query: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, PageError> {
        Ok(self.read(None, query).await?)
    }
}
