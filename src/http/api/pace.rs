//! How often a process sends its documents: they are long, and need no key.

use std::{num::NonZeroU32, sync::Arc};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use poem::{IntoResponse, Response, http::StatusCode};

use crate::http::problem::Problem;

/// How often a second the documents are sent, by one process: they are long, and need no key.
const MAX_RATE: NonZeroU32 = NonZeroU32::new(20).unwrap();

/// How often documents may still be sent.
#[derive(Debug, Clone)]
pub struct Pace(Arc<DefaultDirectRateLimiter>);

impl Default for Pace {
    fn default() -> Self {
        Self(Arc::new(RateLimiter::direct(Quota::per_second(MAX_RATE))))
    }
}

impl Pace {
    /// `document`, or 503 where there were too many in this second.
    pub(super) fn send(&self, document: impl FnOnce() -> Response) -> Response {
        if self.0.check().is_ok() {
            return document();
        }
        let detail = "too many read the documents at this moment; ask again";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response()
    }
}
