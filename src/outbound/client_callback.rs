//! Notifies a client by a signed `PUT` to its callback URL, if that leads to an allowed address.
//!
//! The URL is judged before each call, and each address of its name before the connection is
//! opened. A refusal is like no answer: it says something about the URL, or about DNS at this
//! moment, and nothing about the transaction. Nothing was sent, and the call is tried again, until
//! the name resolves to where it should, the operator allows the network, or the attempts are used
//! up and an operator decides.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, SecondsFormat, Utc};
use hyper::body::Bytes;
use reqwest::{StatusCode, header::CONTENT_TYPE};
use serde::Serialize;
use tracing::Instrument;
use url::Url;
use uuid::Uuid;

use super::{
    LeaseGuard, SetupError, answer, call_span, lease_guard, name_limit,
    names::Names,
    own_addresses::OwnAddresses,
    resolver::{self, EgressGuard, GuardedResolver, Lookup},
    retry_after,
    reuse::Trust,
    sender::{IDLE_TIMEOUT, SendError, Sender},
    traced,
};
use crate::{
    config,
    domain::{DatabaseClock, EgressDenied, Status},
    signature::{self, Secret},
    telemetry::{
        Metrics,
        labels::{CalledPeer, NotifyResult},
    },
};

/// Calls clients. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CallbackClient {
    sender: Sender,
    guard: EgressGuard,
    metrics: Option<Arc<Metrics>>,
    clock: DatabaseClock,
}

/// What a client is notified of.
#[derive(Debug, Clone, Copy)]
pub struct Notification {
    pub id: Uuid,
    pub status: Status,
    pub version: i32,
    /// When the transaction took this status.
    pub occurred_at: DateTime<Utc>,
}

/// Why a notification was not acknowledged with 2xx.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// 410: the client wants no more.
    #[error("the client is gone: {reason}")]
    Gone { reason: String },
    /// Another answer: again later.
    #[error("the client {reason}")]
    Refused { reason: String, retry_after: Option<Duration> },
    /// It found no place on a connection: again soon.
    #[error("not sent: {reason}")]
    NotSent { reason: String },
    /// No answer: again later.
    #[error("the client gave no answer: {reason}")]
    Unreachable { reason: String },
    /// The callback URL leads where none may: not called; again later.
    #[error("the callback URL {0}")]
    Blocked(#[from] EgressDenied),
    /// Another worker may have notified the client of something newer: not sent.
    #[error("the worker's lease was lost before it was sent")]
    Stale,
}

impl NotifyError {
    /// Whether the callback host seems to be down: it gave no answer. Every answer shows that it
    /// is there, and a call that was not made shows nothing.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether the host answered.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Refused { .. })
    }
}

#[derive(Serialize)]
struct Body {
    id: Uuid,
    status: &'static str,
    version: i32,
    occurred_at: String,
}

impl CallbackClient {
    /// A client whose calls take at most the time of `config` and go where it lets them.
    pub fn new(config: &config::Notify, dns: &config::Dns) -> Result<Self, SetupError> {
        let names = Names::new(dns, name_limit(config.timeout));
        let guard = EgressGuard::new(config.egress.clone(), OwnAddresses::default());
        Self::with_lookup(config.timeout, guard, resolver::lookup_in(names))
    }

    fn with_lookup(
        timeout: Duration,
        guard: EgressGuard,
        lookup: Lookup,
    ) -> Result<Self, SetupError> {
        let resolver = Arc::new(GuardedResolver::new(guard.clone(), lookup));
        let (peer, trust) = (CalledPeer::Client, Trust::default());
        let sender = Sender::new(peer, timeout, IDLE_TIMEOUT, trust, |http| {
            // Each call has a connection of its own: over HTTP/2 those of one client that hang would
            // hold up those of all others whose callbacks lead to the same host.
            http.no_proxy().http1_only().dns_resolver(resolver.clone())
        })?;
        Ok(Self { sender, guard, metrics: None, clock: DatabaseClock::default() })
    }

    /// The same, going by this clock.
    pub fn with_clock(self, clock: DatabaseClock) -> Self {
        Self { clock, ..self }
    }

    /// The same, counting its calls in `metrics`.
    pub fn with_metrics(mut self, metrics: Arc<Metrics>) -> Self {
        self.sender = self.sender.with_metrics(metrics.clone());
        self.metrics = Some(metrics);
        self
    }

    /// `PUT {url}`, signed with each of `secrets`; `webhook-id` is `{id}_{version}`. Not sent once
    /// `fence` says no.
    pub async fn notify(
        &self,
        url: &str,
        secrets: &[Secret],
        notification: &Notification,
        fence: LeaseGuard,
    ) -> Result<(), NotifyError> {
        let span = call_span!("notify_client", "PUT", notification.id);
        let began = Instant::now();
        let notified = self.put(url, secrets, notification, fence).instrument(span.clone()).await;
        let result = match &notified {
            Ok(()) => NotifyResult::Delivered,
            Err(NotifyError::Gone { .. }) => NotifyResult::Gone,
            Err(NotifyError::Refused { .. }) => NotifyResult::Refused,
            Err(NotifyError::NotSent { .. }) => NotifyResult::NotSent,
            Err(NotifyError::Unreachable { .. }) => NotifyResult::Unreachable,
            Err(NotifyError::Blocked(refusal)) => {
                tracing::warn!(transaction_id = %notification.id, %refusal, "a callback was blocked");
                NotifyResult::Blocked
            }
            Err(NotifyError::Stale) => NotifyResult::Stale,
        };
        span.record("outcome", result.as_str());
        if let Some(metrics) = &self.metrics {
            metrics.notification(result, began.elapsed());
        }
        notified
    }

    async fn put(
        &self,
        url: &str,
        secrets: &[Secret],
        notification: &Notification,
        fence: LeaseGuard,
    ) -> Result<(), NotifyError> {
        let url = Url::parse(url).map_err(|_| EgressDenied::Url)?;
        self.guard.check_url(&url)?;
        let body = Body {
            id: notification.id,
            status: notification.status.as_str(),
            version: notification.version,
            occurred_at: notification.occurred_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        };
        // Serialised once: these bytes are signed, and these bytes are sent.
        let body = serde_json::to_vec(&body)
            .map_err(|error| NotifyError::Unreachable { reason: error.to_string() })?;
        let webhook_id = format!("{}_{}", notification.id, notification.version);
        let timestamp = self.clock.now().timestamp();
        let signature = signature::sign_with_each(secrets, &webhook_id, timestamp, &body);
        let body = Bytes::from(body);
        // By its `webhook-id` the client knows one that it gets twice.
        let sent = self.sender.send(|http, progress| {
            let request = http
                .put(url.clone())
                .header(CONTENT_TYPE, "application/json")
                .header(signature::ID_HEADER, &webhook_id)
                .header(signature::TIMESTAMP_HEADER, timestamp)
                .header(signature::SIGNATURE_HEADER, &signature);
            traced(request.body(lease_guard::body(body.clone(), fence.clone(), progress)))
        });
        let response = sent.await.map_err(|error| match &error {
            SendError::Stale => NotifyError::Stale,
            SendError::Queued => NotifyError::NotSent { reason: error.reason() },
            _ => match error.source_error().and_then(resolver::refusal_in) {
                Some(refusal) => NotifyError::Blocked(refusal),
                None => NotifyError::Unreachable { reason: error.reason() },
            },
        })?;
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::GONE => Err(NotifyError::Gone { reason: answer::describe(response).await }),
            _ => {
                let retry_after = retry_after(&response, &self.clock);
                Err(NotifyError::Refused { reason: answer::describe(response).await, retry_after })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, SocketAddr},
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;
    use crate::domain::EgressPolicy;

    /// Calls `http://rebinding.example:PORT/` with a resolver that gives `answers` in turn, and the
    /// last one for ever after; returns how often it was asked.
    async fn call(
        policy: EgressPolicy,
        answers: Vec<Vec<IpAddr>>,
        port: u16,
    ) -> (Result<(), NotifyError>, usize) {
        call_from(OwnAddresses::fixed([]), policy, answers, port).await
    }

    /// The same from a machine with these addresses.
    async fn call_from(
        own: OwnAddresses,
        policy: EgressPolicy,
        answers: Vec<Vec<IpAddr>>,
        port: u16,
    ) -> (Result<(), NotifyError>, usize) {
        let url = format!("http://rebinding.example:{port}/");
        call_url(&url, Duration::from_millis(300), own, policy, answers).await
    }

    /// The same to any URL of that host.
    async fn call_url(
        url: &str,
        timeout: Duration,
        own: OwnAddresses,
        policy: EgressPolicy,
        answers: Vec<Vec<IpAddr>>,
    ) -> (Result<(), NotifyError>, usize) {
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, answers) = (asked.clone(), Arc::new(answers));
        let lookup: Lookup = Arc::new(move |name| {
            assert_eq!(name, "rebinding.example");
            let turn = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
            let addresses = answers[turn].iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
            Box::pin(std::future::ready(Ok(addresses)))
        });
        let guard = EgressGuard::new(policy, own);
        let client = CallbackClient::with_lookup(timeout, guard, lookup).unwrap();
        let notification = Notification {
            id: Uuid::nil(),
            status: Status::Pending,
            version: 1,
            occurred_at: Utc::now(),
        };
        let held = Arc::new(|| true);
        let notified = client.notify(url, &[Secret::generate()], &notification, held).await;
        (notified, asked.load(Ordering::SeqCst))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Only 127.0.0.2 is allowed. Two servers at the same port: that address's and 127.0.0.1's.
    async fn servers() -> (EgressPolicy, TcpListener, TcpListener) {
        let allowed = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = allowed.local_addr().unwrap().port();
        let inside = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let allowed_networks = vec!["127.0.0.2/32".parse().unwrap()];
        (EgressPolicy { allowed_networks, ..EgressPolicy::default() }, allowed, inside)
    }

    async fn assert_not_called(server: &TcpListener) {
        let called = tokio::time::timeout(Duration::from_millis(50), server.accept()).await;
        assert!(called.is_err(), "a connection arrived");
    }

    #[tokio::test]
    async fn what_was_judged_is_what_is_called() {
        let (policy, allowed, inside) = servers().await;
        let port = allowed.local_addr().unwrap().port();
        // The second answer would lead inside.
        let answers = vec![vec![ip("127.0.0.2")], vec![ip("127.0.0.1")]];
        let (called, (_, asked)) = tokio::join!(
            async {
                let (mut stream, _) = allowed.accept().await.unwrap();
                let mut begin = [0; 4];
                stream.read_exact(&mut begin).await.unwrap();
                begin
            },
            call(policy, answers, port)
        );
        assert_eq!(&called, b"PUT ");
        assert_eq!(asked, 1, "one look-up for judging and connecting");
        assert_not_called(&inside).await;
    }

    #[tokio::test]
    async fn one_address_inside_blocks_the_call() {
        let (policy, allowed, inside) = servers().await;
        let port = allowed.local_addr().unwrap().port();
        for answer in [
            vec![ip("127.0.0.1")],
            vec![ip("127.0.0.2"), ip("127.0.0.1")],
            vec![ip("::ffff:127.0.0.1")],
            vec![ip("127.0.0.2"), ip("fe80::1")],
        ] {
            let (notified, _) = call(policy.clone(), vec![answer.clone()], port).await;
            let Err(NotifyError::Blocked(EgressDenied::Address { .. })) = notified else {
                panic!("{answer:?}: {notified:?}");
            };
        }
        assert_not_called(&allowed).await;
        assert_not_called(&inside).await;
    }

    /// Public to everybody else: what is bound there for this machine alone is not.
    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_blocks_the_call() {
        let own = OwnAddresses::fixed([ip("8.8.4.4"), ip("2606:4700::1111")]);
        for answer in ["8.8.4.4", "::ffff:8.8.4.4", "2606:4700::1111"] {
            let answers = vec![vec![ip(answer)]];
            let (notified, _) =
                call_from(own.clone(), EgressPolicy::default(), answers, 8080).await;
            let Err(NotifyError::Blocked(denied)) = notified else {
                panic!("{answer}: {notified:?}")
            };
            assert!(denied.to_string().contains("an address of this machine"), "{denied}");
        }
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_no_answer() {
        let (notified, _) = call(EgressPolicy::default(), vec![vec![]], 80).await;
        assert!(matches!(notified, Err(NotifyError::Unreachable { .. })), "{notified:?}");
    }

    #[tokio::test]
    async fn no_callback_shares_a_connection_by_http2() {
        let (policy, allowed, _inside) = servers().await;
        let port = allowed.local_addr().unwrap().port();
        let url = format!("https://rebinding.example:{port}/");
        let (called, hello) = tokio::join!(
            call_url(
                &url,
                // Its connection is closed long before.
                Duration::from_secs(30),
                OwnAddresses::fixed([]),
                policy,
                vec![vec![ip("127.0.0.2")]],
            ),
            async {
                let (mut stream, _) = allowed.accept().await.unwrap();
                let mut hello = vec![0; 1_024];
                let read = stream.read(&mut hello).await.unwrap();
                hello.truncate(read);
                hello
            }
        );
        assert!(matches!(called.0, Err(NotifyError::Unreachable { .. })), "{:?}", called.0);
        // The protocols that its TLS handshake offers (RFC 7301).
        let offers = |protocol: &[u8]| hello.windows(protocol.len()).any(|part| part == protocol);
        assert!(offers(b"\x08http/1.1"), "{hello:?}");
        assert!(!offers(b"\x02h2"), "HTTP/2 has one connection for all");
    }
}
