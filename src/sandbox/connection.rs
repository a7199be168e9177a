//! TCP connections that a handler can break: the sandbox's `reset`.
//!
//! HTTP servers have no way to close a connection without an answer from inside a handler. So the
//! sandbox's acceptor keeps a flag for each open connection, found by its peer's address. A handler
//! that wants a reset raises the flag and returns any response: the first write then fails, hyper
//! drops the connection, and with a zero linger the peer sees RST instead of an answer.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use poem::{
    Addr,
    http::uri::Scheme,
    listener::Acceptor,
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

/// Pause after a failed accept (out of file descriptors, mostly), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The open connections, by their peers' addresses.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<HashMap<SocketAddr, Arc<AtomicBool>>>>);

impl Connections {
    /// Makes the next write to this peer fail, which closes the connection.
    pub(super) fn reset(&self, remote: &RemoteAddr) {
        if let RemoteAddr(Addr::SocketAddr(peer)) = remote
            && let Some(broken) = self.lock().get(peer)
        {
            broken.store(true, Ordering::Release);
        }
    }

    fn open(&self, stream: TcpStream, peer: SocketAddr) -> Connection {
        let broken = Arc::new(AtomicBool::new(false));
        self.lock().insert(peer, broken.clone());
        Connection { stream, peer, broken, connections: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<AtomicBool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts [`Connection`]s.
pub(super) struct BreakableAcceptor {
    listener: TcpListener,
    local: SocketAddr,
    connections: Connections,
}

impl BreakableAcceptor {
    pub(super) fn new(listener: TcpListener, local: SocketAddr, connections: Connections) -> Self {
        Self { listener, local, connections }
    }
}

impl Acceptor for BreakableAcceptor {
    type Io = Connection;

    fn local_addr(&self) -> Vec<LocalAddr> {
        vec![LocalAddr(self.local.into())]
    }

    async fn accept(&mut self) -> io::Result<(Self::Io, LocalAddr, RemoteAddr, Scheme)> {
        match self.listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are small: waiting for more to send would only delay them.
                stream.set_nodelay(true).ok();
                let connection = self.connections.open(stream, peer);
                Ok((
                    connection,
                    LocalAddr(self.local.into()),
                    RemoteAddr(peer.into()),
                    Scheme::HTTP,
                ))
            }
            Err(error) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                Err(error)
            }
        }
    }
}

/// A TCP stream whose writes fail once a handler asked for a reset.
pub(super) struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    broken: Arc<AtomicBool>,
    connections: Connections,
}

impl Connection {
    fn check(&self) -> io::Result<()> {
        match self.broken.load(Ordering::Acquire) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.broken.load(Ordering::Acquire) {
            self.stream.set_zero_linger().ok();
        }
        let mut open = self.connections.lock();
        // The address may already belong to a newer connection.
        if open.get(&self.peer).is_some_and(|broken| Arc::ptr_eq(broken, &self.broken)) {
            open.remove(&self.peer);
        }
    }
}
