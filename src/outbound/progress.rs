//! How far a request has come: whether it still waits for its turn, on a connection that is being
//! opened or behind other requests, or has started to be sent.
//!
//! Time in that queue is ours and not the peer's, so the peer's time begins when the request
//! starts. A request that waits for too long is withdrawn. Starting and withdrawing exclude each
//! other, also where they happen at the same moment on two threads: what was withdrawn is never
//! sent later, so that it may safely be sent again.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::Notify;

const WAITING: u8 = 0;
const STARTED: u8 = 1;
const WITHDRAWN: u8 = 2;
const STALE: u8 = 3;

/// How far one request has come. Clones are of the same request.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    stage: AtomicU8,
    started: Notify,
}

impl Progress {
    /// The request is about to be sent; `false` where it was withdrawn and must not be.
    pub fn start(&self) -> bool {
        let is_started = self.leave_queue(STARTED);
        if is_started {
            self.0.started.notify_one();
        }
        is_started
    }

    /// The request is not to be sent any more; `false` where it has started.
    pub fn withdraw(&self) -> bool {
        self.leave_queue(WITHDRAWN)
    }

    /// The request must not be sent, because its worker's lease is not held any more.
    pub fn forbid(&self) {
        self.leave_queue(STALE);
    }

    /// Whether it was forbidden.
    pub fn is_forbidden(&self) -> bool {
        self.0.stage.load(Ordering::SeqCst) == STALE
    }

    /// Returns once the request has started. One caller may wait.
    pub async fn started(&self) {
        while self.0.stage.load(Ordering::SeqCst) != STARTED {
            self.0.started.notified().await;
        }
    }

    /// Whether the request is in `stage` now, to which it may go from the queue alone.
    fn leave_queue(&self, stage: u8) -> bool {
        let before =
            self.0.stage.compare_exchange(WAITING, stage, Ordering::SeqCst, Ordering::SeqCst);
        before.is_ok() || before == Err(stage)
    }
}

/// The body of a request that has none, which starts its progress.
struct NoBody(Progress);

impl Body for NoBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

/// Hyper drops it when the connection writes the request's head; over HTTP/2, where the request is
/// the only one that waits for a stream, when it has one.
impl Drop for NoBody {
    fn drop(&mut self) {
        self.0.start();
    }
}

/// No body, for a request whose progress is followed.
pub(super) fn no_body(progress: Progress) -> reqwest::Body {
    reqwest::Body::wrap(NoBody(progress))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn what_was_withdrawn_never_starts_and_what_started_is_not_withdrawn() {
        let withdrawn = Progress::default();
        assert!(withdrawn.withdraw() && withdrawn.withdraw());
        assert!(!withdrawn.start());
        assert_eq!(withdrawn.started().now_or_never(), None);

        let started = Progress::default();
        assert_eq!(started.started().now_or_never(), None);
        assert!(started.start() && started.start());
        assert!(!started.withdraw());
        assert_eq!(started.started().now_or_never(), Some(()));
    }
}
