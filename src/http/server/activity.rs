//! What a connection is doing, and whether it has done so for too long.
//!
//! Bytes that come while no request is under way begin a request's head; the head is complete when
//! the request is answered. So a head that trickles is distinguished from a connection that merely
//! waits, which may do so for longer. A silent new connection, or one that does not end its TLS
//! handshake, counts as a head that does not come. How the bytes are framed is checked on their way
//! ([`super::framing`]).

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::framing::{Framing, REFUSED};
use crate::telemetry::{Metrics, labels::RejectReason};

/// How long a connection may be without a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// From the first byte of a request, or from the connection, to the end of the head.
    pub(super) head: Duration,
    /// From the last answer to the next request's first byte.
    pub(super) idle: Duration,
}

impl Bounds {
    pub(super) fn at_most(self, most: Duration) -> Self {
        Self { head: self.head.min(most), idle: self.idle.min(most) }
    }
}

/// What has taken too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    Head,
    Idle,
}

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    doing: Doing,
    /// Bytes between requests are then no head: pings, settings.
    is_http2: bool,
}

#[derive(Debug, Clone, Copy)]
enum Doing {
    /// A head comes since then.
    Head(Instant),
    /// Nothing since then.
    Nothing(Instant),
    /// This number of requests is under way.
    Requests(u32),
}

impl Activity {
    /// Of a connection that was just opened.
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { doing: Doing::Head(Instant::now()), is_http2: false }))
    }

    /// A request is under way until what is returned is dropped.
    pub(super) fn begin(self: &Arc<Self>, is_http2: bool) -> UnderWay {
        let mut state = self.state();
        state.is_http2 = is_http2;
        state.doing = match state.doing {
            Doing::Requests(count) => Doing::Requests(count + 1),
            Doing::Head(_) | Doing::Nothing(_) => Doing::Requests(1),
        };
        UnderWay(self.clone())
    }

    /// Bytes have come.
    fn read(&self) {
        let mut state = self.state();
        if let (Doing::Nothing(_), false) = (state.doing, state.is_http2) {
            state.doing = Doing::Head(Instant::now());
        }
    }

    /// Ends when the connection has been without a request for too long.
    pub(super) async fn expired(&self, bounds: Bounds) -> Expired {
        loop {
            match self.look(bounds, Instant::now()) {
                Ok(next) => tokio::time::sleep_until(next).await,
                Err(expired) => return expired,
            }
        }
    }

    /// When to look again, unless it has been without a request for too long.
    fn look(&self, bounds: Bounds, now: Instant) -> Result<Instant, Expired> {
        let (until, expired) = match self.state().doing {
            Doing::Head(since) => (since + bounds.head, Expired::Head),
            Doing::Nothing(since) => (since + bounds.idle, Expired::Idle),
            // It is not over yet, so that this is no later than any end.
            Doing::Requests(_) => (now + bounds.head.min(bounds.idle), Expired::Idle),
        };
        if until <= now {
            return Err(expired);
        }
        // A head may begin meanwhile, and then ends sooner.
        Ok(until.min(now + bounds.head / 4))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if let Doing::Requests(count) = state.doing {
            state.doing = match count {
                0 | 1 => Doing::Nothing(Instant::now()),
                count => Doing::Requests(count - 1),
            };
        }
    }
}

/// A connection's bytes, of which [`Activity`] hears, and whose framing is checked.
#[derive(Debug)]
pub(super) struct Watched<Io> {
    io: Io,
    activity: Arc<Activity>,
    framing: Framing,
    metrics: Arc<Metrics>,
    /// What is handed on in place of a request that is refused: the rest of it.
    refused: Option<&'static [u8]>,
    /// What was thrown away behind one.
    discarded: usize,
}

/// Most bytes that are read behind a request that is refused, so that its sender sees the answer.
const MAX_DISCARDED: usize = 1024 * 1024;

impl<Io> Watched<Io> {
    pub(super) fn new(io: Io, activity: Arc<Activity>, metrics: Arc<Metrics>) -> Self {
        Self { io, activity, framing: Framing::new(), metrics, refused: None, discarded: 0 }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Watched<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if this.refused.is_none() {
            let read = Pin::new(&mut this.io).poll_read(context, buffer);
            let Some(bytes) = buffer.filled().get(before..).filter(|bytes| !bytes.is_empty())
            else {
                return read;
            };
            this.activity.read();
            let Some(good) = this.framing.check(bytes) else { return read };
            this.metrics.refused(RejectReason::Framing);
            this.refused = Some(REFUSED);
            buffer.set_filled(before + good);
        }
        // Behind it is the end.
        if let Some(rest) = &mut this.refused {
            let (now, later) = rest.split_at(rest.len().min(buffer.remaining()));
            buffer.put_slice(now);
            *rest = later;
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(Pin::new(&mut this.io).poll_shutdown(context))?;
        if this.refused.is_none() {
            return Poll::Ready(Ok(()));
        }
        // Closed with bytes unread, the connection is reset, and the answer may be lost. That it
        // takes too long is noticed by the watch.
        let mut space = [0; 4096];
        while this.discarded < MAX_DISCARDED {
            let mut buffer = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.io).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                break;
            }
            this.discarded += buffer.filled().len();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { head: Duration::from_secs(10), idle: Duration::from_secs(75) };

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// What it is found to be after so long, if looked at whenever that is asked for.
    fn expires(activity: &Activity, within: Duration) -> Option<Expired> {
        let began = Instant::now();
        let mut now = began;
        loop {
            match activity.look(BOUNDS, now) {
                Err(expired) => return Some(expired),
                Ok(_) if now >= began + within => return None,
                Ok(next) => {
                    assert!(next > now, "it would look for ever");
                    now = next.min(began + within);
                }
            }
        }
    }

    #[test]
    fn a_head_has_less_time_than_a_pause() {
        let activity = Arc::new(Activity::new());
        assert_eq!(expires(&activity, secs(9)), None);
        assert_eq!(expires(&activity, secs(10)), Some(Expired::Head), "a silent new connection");

        drop(activity.begin(false));
        assert_eq!(expires(&activity, secs(74)), None);
        assert_eq!(expires(&activity, secs(76)), Some(Expired::Idle), "no further request");

        activity.read();
        assert_eq!(expires(&activity, secs(9)), None);
        assert_eq!(expires(&activity, secs(11)), Some(Expired::Head), "a request that trickles");
    }

    #[test]
    fn a_head_that_trickles_is_counted_from_its_first_byte() {
        let activity = Activity::new();
        let began = Instant::now();
        assert!(activity.look(BOUNDS, began + secs(9)).is_ok());
        activity.read();
        assert_eq!(activity.look(BOUNDS, began + secs(10)), Err(Expired::Head));
    }

    #[test]
    fn requests_under_way_are_left_alone() {
        let activity = Arc::new(Activity::new());
        let (first, second) = (activity.begin(true), activity.begin(true));
        assert_eq!(expires(&activity, secs(300)), None);
        drop(first);
        activity.read();
        assert_eq!(expires(&activity, secs(300)), None, "the second one is under way");
        drop(second);
        activity.read();
        assert_eq!(expires(&activity, secs(74)), None, "pings of HTTP/2 are no head");
        assert_eq!(expires(&activity, secs(76)), Some(Expired::Idle));
    }
}
