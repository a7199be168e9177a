//! The application: one way to build it serves the binary and the tests alike.
//!
//! [`App::build`] binds the listener and prepares everything; [`App::run`] serves until its
//! token stops it. A database that is away at the start delays nothing but readiness: requests are
//! answered (503), and the rest of the start is tried until it succeeds.

mod error;
mod pools;
mod start;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt;
use poem::{
    Endpoint, Response,
    listener::{Acceptor, TcpAcceptor},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use self::{error::AppError, pools::target};
use self::{pools::Pools, start::start};
use crate::{
    config::{Config, Role},
    domain::DatabaseClock,
    http::{self, ApiState, RequestWriters, api::named_webhooks::NamedWebhooks, tls::Certificate},
    jobs::{
        self, CallbackHosts, JobContext, JobDefinition, MissingThirdParties, ThirdParties,
        supervisor,
    },
    maintenance::{minute_figures, run::MaintenanceContext, scheduler},
    operations::Operations,
    outbound::{CallbackClient, ThirdPartyClients},
    store::{
        self,
        accept::Accepts,
        direct_leases::DirectLeases,
        jobs::{claims::Claims, job_latency::JobLatency, outcomes::Outcomes},
        postgres::coalesce::Coalescer,
        transactions::Reads,
        wakeups::{Wakeups, announce::Announcer},
        webhooks::Webhooks,
    },
    telemetry::{Metrics, database_errors::DatabaseErrors},
};

/// A webhook may wait this many times as long for its writer as a post: it ends work.
const WEBHOOK_WAIT_FACTOR: u32 = 10;
/// Writers of accepted transactions.
const ACCEPT_WRITERS: u32 = 1;

/// A Quartet process, built and not yet running.
pub struct App {
    role: Role,
    address: SocketAddr,
    listener: TcpListener,
    certificate: Option<Certificate>,
    state: Arc<ApiState>,
    context: Arc<JobContext>,
    definitions: Vec<JobDefinition>,
    third_parties: ThirdPartyClients,
    budget_pool: store::Database,
}

impl App {
    /// Checks the configuration, binds the listener and prepares everything. Needs no database yet.
    pub async fn build(config: Config, role: Role) -> Result<Self, AppError> {
        config.validate_for(role)?;
        let database_errors = Arc::<DatabaseErrors>::default();
        let pools = Pools::new(role, &config, &database_errors)?;
        let certificate = config.http.tls.as_ref().map(Certificate::load).transpose()?;
        let address = config.http.listen;
        let listen_error = |source| AppError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;

        let definitions = if role.runs_jobs() { jobs::definitions(&config) } else { Vec::new() };
        let wakeups = Wakeups::new(definitions.iter().map(|definition| definition.queue));
        let announcer = Announcer::new(wakeups.clone());
        let has_several = config.all_third_parties().count() > 1;
        let metrics = Arc::new(Metrics::of_third_parties(
            has_several,
            role.as_str(),
            pools.named(),
            database_errors,
        )?);
        let clock = DatabaseClock::default();
        // There from the start, also where none is called.
        for (name, _) in config.all_third_parties() {
            metrics.third_party(&name);
        }
        let third_parties = ThirdPartyClients::new(
            &config,
            |name| config.webhook_url_of(name, address),
            |name, client| {
                let client = client.with_clock(clock.clone()).with_metrics(metrics.clone(), name);
                client.with_leases(jobs::call_leases(&pools.budgets, name))
            },
        )?;
        let missing = MissingThirdParties::default();
        let webhooks = match role.serves_api() {
            true => NamedWebhooks::of(&config, address),
            false => Vec::new(),
        };
        let plan = jobs::plan(&config);
        // Later than that a transaction costs more: it is polled, and its client notified of
        // `pending`.
        let soon = config.poll.first.min(config.notify.first);
        let latency = JobLatency::new(soon);
        let direct_leases = DirectLeases::default();
        let writers = RequestWriters {
            accepts: Coalescer::start(
                Accepts {
                    plan: plan.clone(),
                    completes_creation: role.runs_jobs(),
                    direct_leases: direct_leases.clone(),
                    latency: latency.clone(),
                    metrics: metrics.clone(),
                },
                ACCEPT_WRITERS,
                &pools.requests,
                Some(config.intake.max_queue_delay),
            ),
            webhooks: Coalescer::start(
                Webhooks { direct_leases: direct_leases.clone() },
                1,
                &pools.requests,
                Some(config.intake.max_queue_delay.saturating_mul(WEBHOOK_WAIT_FACTOR)),
            ),
        };
        let operations = Operations {
            pool: pools.requests,
            plan,
            third_parties: third_parties.clone(),
            dead_after: config.worker.dead_after,
            announcer: Some(announcer.clone()),
        };
        let state = ApiState::new(
            &config,
            operations,
            pools.scrapes,
            writers,
            announcer.clone(),
            clock.clone(),
            metrics.clone(),
        )
        .with_named_webhooks(webhooks)
        .with_missing_third_parties({
            let missing = missing.clone();
            Box::new(move || missing.lately())
        });
        let state = match role.runs_jobs() {
            true => {
                let called = third_parties.iter().map(|(name, _)| name.clone());
                state.with_called_third_parties(called.collect())
            }
            false => state,
        };
        let context = JobContext {
            third_parties: ThirdParties::new(&config, &third_parties, &pools.jobs, missing),
            claims: Coalescer::start(Claims { latency: latency.clone() }, 1, &pools.jobs, None),
            outcomes: Coalescer::start(
                Outcomes { latency: latency.clone(), direct_leases: direct_leases.clone() },
                1,
                &pools.jobs,
                None,
            ),
            latency,
            direct_leases,
            reads: Coalescer::start(Reads, 1, &pools.jobs, None),
            pool: pools.jobs,
            lease_pool: pools.leases,
            watch_pool: pools.watch,
            announcer,
            callbacks: CallbackClient::new(&config.notify, &config.dns)?
                .with_clock(clock.clone())
                .with_metrics(metrics.clone()),
            clock,
            callback_hosts: CallbackHosts::new(&config.notify, metrics.clone()),
            wakeups,
            metrics,
            stopping: CancellationToken::new(),
            config,
        };
        Ok(Self {
            role,
            address,
            listener,
            certificate,
            state: Arc::new(state),
            context: Arc::new(context),
            definitions,
            third_parties,
            budget_pool: pools.budgets,
        })
    }

    /// Where it listens; the real port where the configuration says 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how kinds of jobs are run, for a program that embeds the application.
    pub fn map_definitions(mut self, map: impl FnMut(JobDefinition) -> JobDefinition) -> Self {
        self.definitions = self.definitions.into_iter().map(map).collect();
        self
    }

    /// Serves until `stop`, then finishes what is under way within `WORKER__SHUTDOWN_GRACE`.
    pub async fn run(self, stop: CancellationToken) -> Result<(), AppError> {
        let grace = self.context.config.worker.shutdown_grace;
        let routes = http::routes(self.role, self.state.clone());
        let acceptor = TcpAcceptor::from_tokio(self.listener).map_err(AppError::Http)?;
        let mut server = JoinSet::new();
        let http_stop = stop.clone();
        match &self.certificate {
            Some(certificate) => {
                let acceptor = certificate.acceptor(acceptor)?;
                server.spawn(serve(acceptor, routes, self.state.clone(), http_stop, grace));
            }
            None => {
                server.spawn(serve(acceptor, routes, self.state.clone(), http_stop, grace));
            }
        }
        let _renewing = self
            .certificate
            .map(|certificate| AbortOnDropHandle::new(tokio::spawn(certificate.reload())));
        tracing::info!(address = %self.address, role = ?self.role, "listening");

        let figures_stop = CancellationToken::new();
        let figures = AbortOnDropHandle::new(tokio::spawn(minute_figures::run(
            self.state.pool.clone(),
            self.state.metrics.clone(),
            figures_stop.clone(),
        )));
        let rejected_stop = figures_stop.clone();
        let rejected_state = self.state.clone();
        let rejected = AbortOnDropHandle::new(tokio::spawn(async move {
            http::api::rejected_webhooks::run(&rejected_state, rejected_stop).await;
        }));
        let (waiting_state, waiting_context) = (self.state.clone(), self.context.clone());
        let waiting_stop = figures_stop.clone();
        let _waiting = AbortOnDropHandle::new(tokio::spawn(async move {
            let (state, config) = (waiting_state, &waiting_context.config);
            http::api::provider_webhooks::waiting::run(&state, config, waiting_stop).await;
        }));
        let (announcer, pool) = (self.state.announcer.clone(), self.state.pool.clone());
        let _announcing = AbortOnDropHandle::new(tokio::spawn(async move {
            announcer.run(&pool).await;
        }));
        let (clock, pool) = (self.state.clock.clone(), self.state.pool.clone());
        let (metrics, heartbeat) =
            (self.state.metrics.clone(), self.context.config.worker.heartbeat);
        let _following = AbortOnDropHandle::new(tokio::spawn(async move {
            store::postgres::clock::follow(&pool, &clock, heartbeat, &metrics).await;
        }));
        let stopping = self.context.stopping.clone();
        let work = async {
            let started = tokio::select! {
                started = start(&self.state, &self.context.config) => started.map(|()| true),
                () = stop.cancelled() => Ok(false),
            };
            if !started? {
                return Ok(());
            }
            self.state.started.store(true, Ordering::Release);
            let workers = supervisor::run(self.context.clone(), self.definitions);
            if self.role.runs_jobs() {
                let tasks = scheduler::run(MaintenanceContext {
                    pool: self.context.pool.clone(),
                    config: self.context.config.clone(),
                    third_parties: self.third_parties.clone(),
                    stopping: stopping.clone(),
                });
                tokio::try_join!(workers, tasks.map(Ok))?;
            } else {
                stop.cancelled().await;
            }
            Ok::<_, AppError>(())
        };
        tokio::pin!(work);
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                () = stop.cancelled(), if !stopping.is_cancelled() => stopping.cancel(),
                Some(ended) = server.join_next() => {
                    // Before the workers have ended: either it was stopped, or it failed.
                    if let Err(error) = ended {
                        break Err(AppError::HttpTask(error));
                    }
                }
            }
        };
        stop.cancel();
        while let Some(ended) = server.join_next().await {
            ended.map_err(AppError::HttpTask)?;
        }
        // Nothing is counted any more. A panic there was logged, and costs figures alone.
        figures_stop.cancel();
        let _ = tokio::join!(figures, rejected);
        let JobContext { pool, lease_pool, watch_pool, .. } = &*self.context;
        let scrape_pool = &self.state.scrape_pool;
        let budget_pool = &self.budget_pool;
        for pool in [&self.state.pool, scrape_pool, pool, lease_pool, watch_pool, budget_pool] {
            pool.close().await;
        }
        result
    }
}

/// Serves over `acceptor` until `stop`, and then for `grace` at most.
async fn serve(
    acceptor: impl Acceptor + 'static,
    routes: impl Endpoint<Output = Response> + 'static,
    state: Arc<ApiState>,
    stop: CancellationToken,
    grace: Duration,
) {
    let metrics = state.metrics.clone();
    http::server::serve(acceptor, routes, &state.intake, metrics, stop, grace).await;
}
