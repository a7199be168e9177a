//! A request body that is sent only while its worker holds its lease.
//!
//! A worker that was frozen, or starved, may wake up with a request in hand whose job another
//! worker has done since: sent then, a client would hear an old status after a newer one, or the
//! third party a second create. Looking at the lease before the call is not enough: a name is
//! resolved and a connection is opened first, for which seconds may pass. So it is looked at when
//! the body is asked for, in the same step in which all of the request is given to the operating
//! system. Without its body a request counts for nothing.
//!
//! The same step starts the request's [`Progress`], so that it is known of each request whether any
//! of its body was given out.
//!
//! Over HTTP/2 a body is asked for as soon as its request is in the connection's queue, although it
//! may wait there until the peer takes another stream. The connection holds the first chunk until
//! then, and asks the body for the next one only after it has sent that. So the first chunk is one
//! byte and is given out without checking the lease; the check guards the rest. One byte is no
//! request: over HTTP/1 it is not even written without the rest.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::body::{Body, Bytes, Frame, SizeHint};

use super::progress::Progress;

/// Says whether a request may still be sent.
pub type LeaseGuard = Arc<dyn Fn() -> bool + Send + Sync>;

/// Why a request was not sent.
#[derive(Debug, thiserror::Error)]
#[error("not sent: the worker's lease is not held any more")]
struct Stale;

struct GuardedBody {
    first: Option<Bytes>,
    rest: Option<Bytes>,
    may_be_sent: LeaseGuard,
    progress: Progress,
}

impl Body for GuardedBody {
    type Data = Bytes;
    type Error = Stale;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Stale>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let frame = self.rest.take().map(|rest| {
            if !(self.may_be_sent)() {
                // Over HTTP/2 this error does not reach the caller.
                self.progress.forbid();
            }
            if self.progress.start() { Ok(Frame::data(rest)) } else { Err(Stale) }
        });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let left = [&self.first, &self.rest];
        SizeHint::with_exact(left.into_iter().flatten().map(|bytes| bytes.len() as u64).sum())
    }
}

/// `bytes`, of which no more than the first is sent once `may_be_sent` says no, or the request was
/// withdrawn.
pub(super) fn body(mut bytes: Bytes, may_be_sent: LeaseGuard, progress: Progress) -> reqwest::Body {
    let first = bytes.split_to(bytes.len().min(1));
    reqwest::Body::wrap(GuardedBody {
        first: Some(first),
        rest: Some(bytes),
        may_be_sent,
        progress,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::{super::http_client, *};

    /// Sends `body` to a server that answers 204; returns how the call ended, and what the server
    /// read of the connection that it was sent over.
    async fn call(
        may_be_sent: bool,
        progress: Progress,
    ) -> (reqwest::Result<reqwest::Response>, Vec<u8>) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", server.local_addr().unwrap());
        let fence: LeaseGuard = Arc::new(move || may_be_sent);
        let client = http_client(Duration::from_secs(5)).no_proxy().build().unwrap();
        let sent = body(Bytes::from_static(b"body"), fence, progress);
        let request = client.put(url).body(sent).send();
        let serve = async {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"body") && stream.read_buf(&mut read).await.unwrap() > 0 {}
            // The other side may have gone.
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            read
        };
        tokio::join!(request, serve)
    }

    #[tokio::test]
    async fn what_is_held_is_sent_with_its_length() {
        let (answer, read) = call(true, Progress::default()).await;
        assert_eq!(answer.unwrap().status(), 204);
        let read = String::from_utf8(read).unwrap().to_lowercase();
        assert!(read.contains("\r\ncontent-length: 4\r\n"), "{read}");
        assert!(read.ends_with("\r\n\r\nbody"), "{read}");
    }

    #[tokio::test]
    async fn what_is_stale_opens_a_connection_and_sends_nothing() {
        let progress = Progress::default();
        let (answer, read) = call(false, progress.clone()).await;
        assert!(answer.is_err() && progress.is_forbidden());
        assert_eq!(String::from_utf8(read).unwrap(), "");
    }
}
