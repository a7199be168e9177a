//! A connection whose TLS handshake goes on where it is read and written: in its own task, under
//! whatever bounds the server has for connections.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Longest handshake.
const LONGEST: Duration = Duration::from_secs(10);

/// A TLS connection.
pub enum Connection<Io> {
    Handshaking(BoxFuture<'static, io::Result<TlsStream<Io>>>),
    Open(Box<TlsStream<Io>>),
    /// The handshake failed, and its error was reported.
    Failed,
}

impl<Io: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection<Io> {
    /// Begins when it is first read or written.
    pub fn new(tls: &TlsAcceptor, io: Io) -> Self {
        let handshake = tls.accept(io);
        let bounded = async { tokio::time::timeout(LONGEST, handshake).await? };
        Self::Handshaking(bounded.boxed())
    }

    /// The stream, once the handshake is over.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<&mut TlsStream<Io>>> {
        if let Self::Handshaking(handshake) = self {
            match ready!(handshake.poll_unpin(context)) {
                Ok(stream) => *self = Self::Open(Box::new(stream)),
                Err(error) => {
                    // Scanners, plain HTTP, peers that do not trust the certificate: every day.
                    tracing::debug!(%error, "a TLS handshake failed");
                    *self = Self::Failed;
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(match self {
            Self::Open(stream) => Ok(stream),
            Self::Handshaking(_) | Self::Failed => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

impl<Io: AsyncRead + AsyncWrite + Send + Unpin + 'static> AsyncRead for Connection<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = ready!(self.poll_open(context))?;
        Pin::new(stream).poll_read(context, buffer)
    }
}

impl<Io: AsyncRead + AsyncWrite + Send + Unpin + 'static> AsyncWrite for Connection<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = ready!(self.poll_open(context))?;
        Pin::new(stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = ready!(self.poll_open(context))?;
        Pin::new(stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Open(stream) => Pin::new(stream).poll_shutdown(context),
            // There is nothing to say goodbye to: dropping it closes it.
            Self::Handshaking(_) | Self::Failed => Poll::Ready(Ok(())),
        }
    }
}
