//! Discards the rest of a request's body that was answered before it was read.
//!
//! A request may be answered before its body was read: it was refused, or its body is too long. A
//! connection that is closed then is reset while the caller still sends, and many callers see only
//! the broken connection, not the answer. So the rest is read and thrown away before the answer
//! goes out, as far as that costs little; the connection can then be used again, too.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use poem::http::{Version, header};

/// Most bytes that are thrown away for one answer.
const MAX_DRAINED: usize = 1024 * 1024;
/// How long that may take.
const MAX_DRAIN_TIME: Duration = Duration::from_secs(1);

type Inner = BoxBody<Bytes, std::io::Error>;

/// The body of a request, of which the server keeps hold.
#[derive(Clone)]
pub(super) struct UnreadBody(Arc<Mutex<State>>);

struct State {
    body: Inner,
    is_read: bool,
}

impl UnreadBody {
    /// Keeps hold of the body of `request`; `None` where nothing can be left over that matters.
    pub(super) fn of(request: &mut poem::Request) -> Option<Self> {
        // A stream of HTTP/2 is ended by itself. Reading would ask for a body that is held back.
        if request.version() == Version::HTTP_2 || request.header(header::EXPECT).is_some() {
            return None;
        }
        let body = Inner::from(request.take_body());
        if body.is_end_stream() {
            return None;
        }
        let unread = Self(Arc::new(Mutex::new(State { body, is_read: false })));
        request.set_body(poem::Body::from(unread.clone().boxed()));
        Some(unread)
    }

    /// Throws away what was not read.
    pub(super) async fn drain(mut self) {
        let rest = async {
            let mut discarded = 0;
            while let Some(Ok(frame)) = self.frame().await {
                discarded += frame.data_ref().map_or(0, Bytes::len);
                if discarded > MAX_DRAINED {
                    break;
                }
            }
        };
        // The connection is closed behind the answer if there is still more.
        let _ = tokio::time::timeout(MAX_DRAIN_TIME, rest).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A body that panicked is not read again by anybody who cares.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body for UnreadBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let mut state = self.state();
        if state.is_read {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut state.body).poll_frame(cx);
        state.is_read = matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        let state = self.state();
        state.is_read || state.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.state().body.size_hint()
    }
}
