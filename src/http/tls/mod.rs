//! HTTPS: the listener's certificate, and a handshake for each connection.
//!
//! [`Certificate`] reads the two PEM files, and looks at them again every `HTTP__TLS_RELOAD`: what
//! is renewed on disk is used for the next connections, without a restart, and those that are open
//! go on. A pair that cannot be used, such as a new certificate beside the old key, is logged and
//! looked at again; until then the present one stays.
//!
//! [`TlsAcceptor`] stands over any other acceptor. A handshake is a matter of its own connection,
//! and bounded in time, so that a peer that does not go on with it holds nobody up. TLS 1.2 and
//! 1.3, HTTP/2 and HTTP/1.1.

mod handshake;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use poem::{
    http::uri::Scheme,
    listener::Acceptor,
    web::{LocalAddr, RemoteAddr},
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use self::handshake::Connection;
use crate::config::Tls;

/// Why there is no certificate to serve with.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{variable}: {} cannot be read", path.display())]
    Read { variable: &'static str, path: PathBuf, source: io::Error },
    #[error("{variable}: {} is no PEM file with a {expected}", path.display())]
    Pem { variable: &'static str, path: PathBuf, expected: &'static str, source: pem::Error },
    #[error(
        "QUARTET_HTTP__TLS_KEY does not belong to QUARTET_HTTP__TLS_CERTIFICATE, or is of no known kind"
    )]
    Pair(#[source] rustls::Error),
    #[error("TLS could not be set up")]
    Setup(#[source] rustls::Error),
}

/// The files' bytes, which are compared to see whether they changed.
#[derive(PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// The certificate that connections get now. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Certificate {
    settings: Tls,
    present: Arc<Present>,
}

/// What the handshakes share with the reloading.
#[derive(Debug)]
struct Present(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Present {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Nothing that is done under the lock can panic half-way through a change.
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Certificate {
    /// Reads both files.
    pub fn load(settings: &Tls) -> Result<Self, TlsError> {
        let key = Arc::new(read(settings)?.parse(settings)?);
        Ok(Self { settings: settings.clone(), present: Arc::new(Present(RwLock::new(key))) })
    }

    /// An acceptor that serves with it over `inner`.
    pub fn acceptor<A: Acceptor>(&self, inner: A) -> Result<TlsAcceptor<A>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(self.present.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor { inner, tls: Arc::new(config).into() })
    }

    /// Looks at the files again and again, for as long as it is polled.
    pub async fn reload(self) {
        // What was seen last, so that a broken pair is logged once.
        let mut seen = read(&self.settings).ok();
        loop {
            tokio::time::sleep(self.settings.reload).await;
            let files = match read(&self.settings) {
                Ok(files) => files,
                Err(error) => {
                    // Logged once as well, until the files can be read.
                    if seen.take().is_some() {
                        refused(&error);
                    }
                    continue;
                }
            };
            if seen.as_ref() == Some(&files) {
                continue;
            }
            match files.parse(&self.settings) {
                Ok(key) => {
                    let mut present =
                        self.present.0.write().unwrap_or_else(PoisonError::into_inner);
                    *present = Arc::new(key);
                    tracing::info!("the TLS certificate was renewed");
                }
                Err(error) => refused(&error),
            }
            seen = Some(files);
        }
    }
}

fn refused(error: &TlsError) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(error, "the TLS certificate on disk cannot be used; the present one stays");
}

fn read(settings: &Tls) -> Result<Files, TlsError> {
    let read = |variable, path: &Path| {
        let bytes = std::fs::read(path).map_err(|source| TlsError::Read {
            variable,
            path: path.to_owned(),
            source,
        })?;
        // After the byte-order mark of an editor the first line would not be seen.
        Ok(bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes).to_vec())
    };
    Ok(Files {
        certificate: read("QUARTET_HTTP__TLS_CERTIFICATE", &settings.certificate)?,
        key: read("QUARTET_HTTP__TLS_KEY", &settings.key)?,
    })
}

impl Files {
    fn parse(&self, settings: &Tls) -> Result<CertifiedKey, TlsError> {
        let wrong_certificate = |source| TlsError::Pem {
            variable: "QUARTET_HTTP__TLS_CERTIFICATE",
            path: settings.certificate.clone(),
            expected: "certificate",
            source,
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .map_err(wrong_certificate)?;
        if chain.is_empty() {
            return Err(wrong_certificate(pem::Error::NoItemsFound));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|source| TlsError::Pem {
            variable: "QUARTET_HTTP__TLS_KEY",
            path: settings.key.clone(),
            expected: "private key",
            source,
        })?;
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(TlsError::Pair)
    }
}

/// Accepts connections that begin with a handshake.
pub struct TlsAcceptor<A> {
    inner: A,
    tls: tokio_rustls::TlsAcceptor,
}

impl<A: Acceptor> Acceptor for TlsAcceptor<A> {
    type Io = Connection<A::Io>;

    fn local_addr(&self) -> Vec<LocalAddr> {
        self.inner.local_addr()
    }

    async fn accept(&mut self) -> io::Result<(Self::Io, LocalAddr, RemoteAddr, Scheme)> {
        let (io, local, remote, _) = self.inner.accept().await?;
        Ok((Connection::new(&self.tls, io), local, remote, Scheme::HTTPS))
    }
}
