//! Simulated peers: a third party and a client on one listener, for the demo, `quartet sandbox`
//! and the tests.
//!
//! They speak HTTP and share no types with the relay, so they cannot agree with it by accident.
//! Two kinds of behaviour: the [`Profile`] draws faults and latencies from a seed, the scripts of
//! [`ThirdParty`] and [`Client`] say exactly what the next calls do.
//!
//! - the third party: `POST /transaction`, `GET /transaction/{id}`, and webhooks to each
//!   `webhookUrl`; or the interface of another one (`providers`)
//! - the client: `PUT /callback`, `PUT /callback/{anything}`
//! - both: `GET /stats`, `GET /healthz`
//!
//! All state is in memory: stopping or dropping a [`Sandbox`] ends its tasks and forgets
//! everything, webhooks that were still to come included. No lock is held across an await.

mod client;
mod config;
mod connection;
mod error;
mod ledger;
mod profile;
mod providers;
mod script;
mod third_party;
mod webhook;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicI64},
    time::Duration,
};

use poem::{
    EndpointExt, IntoEndpoint, Response, Route, Server, get, handler,
    http::StatusCode,
    post, put,
    web::{Data, Json, RemoteAddr},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::{client::Inbox, connection::Connections, ledger::Ledger};
pub use self::{
    client::{Client, ClientStats, Delivery},
    config::{SandboxArgs, SandboxConfig},
    error::SandboxError,
    ledger::{Call, CallKind, ThirdPartyStats},
    profile::Profile,
    providers::Interface,
    script::{Answer, Body, CreateStep, LookupStep, Reaction, Store},
    third_party::ThirdParty,
    webhook::SendWebhook,
};

/// The largest request body that is read.
const MAX_BODY: usize = 1024 * 1024;

/// A status as the third party knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Pending,
    Completed,
    Declined,
}

impl Status {
    pub fn is_final(self) -> bool {
        self != Self::Pending
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Declined => "declined",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What both peers counted: the body of `GET /stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SandboxStats {
    pub third_party: ThirdPartyStats,
    pub client: ClientStats,
}

/// The running peers. Dropping it stops them without waiting; [`stop`](Self::stop) waits.
pub struct Sandbox {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: JoinHandle<()>,
    _stop_on_drop: DropGuard,
}

impl Sandbox {
    /// Binds and serves on tasks of the current tokio runtime.
    pub async fn start(config: SandboxConfig) -> Result<Self, SandboxError> {
        config.validate()?;
        let listen = config.listen;
        let failed = |source| SandboxError::Listen { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;

        let shared = Arc::new(Shared {
            provider: providers::Running::new(&config),
            config,
            http: webhook::http_client()?,
            webhook_slots: Semaphore::new(webhook::MAX_IN_FLIGHT),
            connections: Connections::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            third_party_skew_seconds: AtomicI64::new(0),
            client_skew_seconds: AtomicI64::new(0),
            ledger: Mutex::default(),
            inbox: Mutex::default(),
        });
        let acceptor =
            connection::BreakableAcceptor::new(listener, address, shared.connections.clone());
        let app = routes(shared.clone());
        let stopping = shared.stopping.clone();
        let server = tokio::spawn(async move {
            let server = Server::new_with_acceptor(acceptor).name("sandbox");
            // Zero: calls that are under way, hanging ones among them, are cut off.
            let signal = stopping.cancelled_owned();
            let served = server.run_with_graceful_shutdown(app, signal, Some(Duration::ZERO)).await;
            if let Err(error) = served {
                tracing::error!(%error, "the sandbox stopped serving");
            }
        });
        let stop_on_drop = shared.stopping.clone().drop_guard();
        Ok(Self { shared, address, server, _stop_on_drop: stop_on_drop })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`: the third party's base URL.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The client's callback URL.
    pub fn callback_url(&self) -> String {
        format!("{}/callback", self.base_url())
    }

    /// What it runs with, secrets included.
    pub fn config(&self) -> &SandboxConfig {
        &self.shared.config
    }

    /// What a caller of the third party must present, as the profile for it calls the values:
    /// `SECRETS__TOKEN`.
    pub fn provider_values(&self) -> Vec<(&'static str, String)> {
        match &self.shared.provider {
            Some(provider) => provider.values(),
            None => vec![("SECRETS__WEBHOOK", self.config().webhook_secret.reveal())],
        }
    }

    /// Sends webhooks there that no create names an address for, as an entry in the third party's
    /// dashboard does.
    pub fn set_webhook_url(&self, url: String) {
        if let Some(provider) = &self.shared.provider {
            provider.set_webhook_url(url);
        }
    }

    pub fn third_party(&self) -> ThirdParty {
        ThirdParty(self.shared.clone())
    }

    pub fn client(&self) -> Client {
        Client(self.shared.clone())
    }

    pub fn stats(&self) -> SandboxStats {
        self.shared.stats()
    }

    /// Stops serving, cuts off open calls, drops what was still to come, and waits for the tasks.
    pub async fn stop(self) {
        self.shared.stopping.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        if let Err(error) = self.server.await {
            tracing::error!(%error, "the sandbox's server task failed");
        }
    }
}

fn routes(shared: Arc<Shared>) -> impl IntoEndpoint<Endpoint = impl poem::Endpoint + 'static> {
    let third_party = match &shared.provider {
        Some(_) => Route::new().at("/*path", providers::serve_provider),
        None => Route::new()
            .at("/transaction", post(third_party::create_transaction))
            .at("/transaction/:id", get(third_party::lookup_transaction)),
    };
    third_party
        .at("/callback", put(client::receive_callback))
        .at("/callback/*path", put(client::receive_callback))
        .at("/stats", get(show_stats))
        .at("/healthz", get(show_health))
        .data(shared)
}

#[handler]
fn show_stats(Data(shared): Data<&Arc<Shared>>) -> Json<SandboxStats> {
    Json(shared.stats())
}

#[handler]
fn show_health() -> Json<Value> {
    Json(serde_json::json!({ "status": "ok" }))
}

/// What handlers, tasks and handles have in common.
struct Shared {
    /// `None`: the third party speaks Quartet's own contract.
    provider: Option<providers::Running>,
    config: SandboxConfig,
    http: reqwest::Client,
    webhook_slots: Semaphore,
    connections: Connections,
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// How far the peers' clocks are ahead.
    third_party_skew_seconds: AtomicI64,
    client_skew_seconds: AtomicI64,
    ledger: Mutex<Ledger>,
    inbox: Mutex<Inbox>,
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stats(&self) -> SandboxStats {
        SandboxStats { third_party: self.ledger().stats, client: self.inbox().stats }
    }

    /// A delay of the profile at the configured speed.
    fn scaled(&self, delay: Duration) -> Duration {
        Duration::try_from_secs_f64(delay.as_secs_f64() / self.config.speed)
            .unwrap_or(Duration::MAX)
    }

    /// Runs a task until it ends (`Some`) or the sandbox stops (`None`).
    fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        self.tasks.spawn(self.stopping.clone().run_until_cancelled_owned(task))
    }

    /// Carries out a reaction. `transaction` makes the body of [`Body::Transaction`]; `note` is
    /// called with the status code when an answer leaves.
    async fn respond(
        &self,
        reaction: Reaction,
        remote: &RemoteAddr,
        transaction: impl FnOnce(Status) -> Value,
        note: impl FnOnce(u16),
    ) -> Response {
        let answer = match reaction {
            Reaction::Answer(answer) => answer,
            Reaction::Hang => std::future::pending().await,
            Reaction::Reset => {
                self.connections.reset(remote);
                return Response::default();
            }
        };
        tokio::time::sleep(answer.delay).await;
        let code =
            StatusCode::from_u16(answer.status_code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::builder().status(code);
        for (name, value) in answer.headers {
            response = response.header(name, value);
        }
        let json = "application/json";
        let response = match answer.body {
            Body::Empty => response.finish(),
            Body::Json(value) => response.content_type(json).body(value.to_string()),
            Body::Text(text) => response.content_type("text/html").body(text),
            Body::Transaction(status) => {
                response.content_type(json).body(transaction(status).to_string())
            }
        };
        note(code.as_u16());
        response
    }
}
