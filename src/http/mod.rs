//! Quartet's HTTP API: all routes, and what requests work with.
//!
//! No request waits for a third party or a client: it writes to the database, gives a hint to the
//! workers of this process, and answers. Every call of the database is bounded in time, so that a
//! database that is away is answered with 503 within two seconds.

mod answers;
pub mod api;
pub mod api_enum;
pub mod console;
pub mod middleware;
pub mod operator;
pub mod page;
pub mod problem;
mod read_turns;
pub mod route_list;
pub mod server;
pub mod tls;

use std::{
    any::Any,
    cell::Cell,
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use chrono::{DateTime, Utc};
use poem::{
    Endpoint, EndpointExt, IntoEndpoint, IntoResponse, Request, Response, Route, http::StatusCode,
    middleware::CatchPanic,
};
use poem_openapi::{LicenseObject, OpenApiService, Tags};
use tokio::time::Instant;

use self::{
    api::{
        health::Readiness, metrics::Scrape, named_webhooks::NamedWebhooks,
        rejected_webhooks::Rejections,
    },
    middleware::{
        admission::Admission,
        auth::{KnownKeys, OperatorTokens},
        observe::Observe,
        security_headers::SecurityHeaders,
        single_flight::SingleFlight,
        strict_headers::StrictHeaders,
        strict_query::StrictQuery,
    },
    problem::Problem,
    read_turns::{ReadTurns, Reader},
    route_list::PROVIDER_WEBHOOKS,
};
use crate::{
    config::{self, BaseUrl, Config, Role},
    domain::{DEFAULT_THIRD_PARTY, DatabaseClock, ThirdPartyName},
    operations::Operations,
    store::{
        Database, accept::Accepts, jobs::JobPlan, postgres::coalesce::Coalescer,
        wakeups::announce::Announcer, webhooks::Webhooks,
    },
    telemetry::Metrics,
};

/// How long one request may wait for the database in all.
const DATABASE_LIMIT: Duration = Duration::from_millis(1_800);

tokio::task_local! {
    /// Until when the present request waits for the database.
    static WAITS_UNTIL: Cell<Instant>;
    /// When the present request arrived, by the database's clock.
    static CAME_AT: DateTime<Utc>;
}

/// When the present request arrived, by the database's clock.
fn now() -> DateTime<Utc> {
    // Outside of a request there is no database to go by.
    CAME_AT.try_with(|at| *at).unwrap_or_else(|_| Utc::now())
}

/// What requests work with.
#[derive(Debug)]
pub struct ApiState {
    pub pool: Database,
    /// Who may read next.
    read_turns: ReadTurns,
    /// One connection, for scrapes of the metrics alone: they take none from requests.
    pub scrape_pool: Database,
    pub plan: JobPlan,
    pub operations: Operations,
    /// Where posts are written.
    pub accepts: Coalescer<Accepts>,
    /// Where webhooks are received.
    pub webhooks: Coalescer<Webhooks>,
    pub announcer: Announcer,
    pub clock: DatabaseClock,
    pub webhook: config::Webhook,
    /// The names of the third parties that there are.
    pub third_parties: Vec<ThirdPartyName>,
    /// Those of them, with a profile or a name, that send webhooks.
    pub named_webhooks: Vec<NamedWebhooks>,
    /// The third parties that jobs of this process call; `None` where it runs none.
    called_third_parties: Option<Vec<ThirdPartyName>>,
    /// The third parties that jobs of this process have lately missed.
    missing_third_parties: MissingThirdParties,
    /// The clients that were recently found by a key's hash. The statement that writes
    /// checks the key again.
    known_keys: KnownKeys,
    /// Without one the operator API is closed.
    pub operator_tokens: OperatorTokens,
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// How much is taken in at the same time, and for how long.
    pub intake: config::Intake,
    /// How fast a client may call.
    pub limits: config::Limits,
    pub metrics: Arc<Metrics>,
    /// The webhooks that were rejected and are not written yet.
    pub rejected_webhooks: Rejections,
    /// `/metrics`, for all that scrape at the same time.
    scrapes: SingleFlight<Scrape>,
    /// `/health/ready`, for all that ask at the same time.
    readiness: SingleFlight<Readiness>,
    /// Silence after which a worker counts as dead.
    pub dead_after: Duration,
    /// Whether browsers reach this process by https.
    pub public_is_https: bool,
    /// The public URL's origin, as browsers write it; `None` where no public URL is set.
    pub public_origin: Option<String>,
    /// Whether this process itself serves https.
    pub serves_https: bool,
    /// Whether the start is over: the schema is up to date and the default client registered.
    pub started: AtomicBool,
}

/// Says which third parties jobs of this process have lately missed.
struct MissingThirdParties(Box<dyn Fn() -> Vec<ThirdPartyName> + Send + Sync>);

impl fmt::Debug for MissingThirdParties {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("MissingThirdParties").field(&(self.0)()).finish()
    }
}

/// Where requests that come often are written.
#[derive(Debug)]
pub struct RequestWriters {
    pub accepts: Coalescer<Accepts>,
    pub webhooks: Coalescer<Webhooks>,
}

impl ApiState {
    /// State from the configuration.
    pub fn new(
        config: &Config,
        operations: Operations,
        scrape_pool: Database,
        writers: RequestWriters,
        announcer: Announcer,
        clock: DatabaseClock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let RequestWriters { accepts, webhooks } = writers;
        let tokens = config.operator_tokens.iter().map(|hash| *hash.expose());
        let public_url = config.http.public_url.as_ref();
        Self {
            read_turns: ReadTurns::new(operations.pool.most_connections()),
            pool: operations.pool.clone(),
            scrape_pool,
            plan: operations.plan.clone(),
            operations,
            accepts,
            webhooks,
            announcer,
            clock,
            known_keys: KnownKeys::default(),
            webhook: config.webhook.clone(),
            third_parties: config.all_third_parties().map(|(name, _)| name).collect(),
            named_webhooks: Vec::new(),
            called_third_parties: None,
            missing_third_parties: MissingThirdParties(Box::new(Vec::new)),
            operator_tokens: OperatorTokens::new(tokens),
            max_body: config.http.max_body,
            intake: config.intake.clone(),
            limits: config.limits.clone(),
            metrics,
            rejected_webhooks: Rejections::default(),
            scrapes: SingleFlight::default(),
            readiness: SingleFlight::default(),
            dead_after: config.worker.dead_after,
            public_is_https: match public_url {
                Some(url) => url.as_str().starts_with("https:"),
                None => config.http.tls.is_some(),
            },
            public_origin: public_url.map(BaseUrl::origin),
            serves_https: config.http.tls.is_some(),
            started: AtomicBool::new(false),
        }
    }

    /// The same, with third parties whose webhooks have a path of their own.
    pub fn with_named_webhooks(self, named_webhooks: Vec<NamedWebhooks>) -> Self {
        Self { named_webhooks, ..self }
    }

    /// The same in a process whose jobs call these third parties.
    pub fn with_called_third_parties(self, called: Vec<ThirdPartyName>) -> Self {
        Self { called_third_parties: Some(called), ..self }
    }

    /// The same, where this says which third parties jobs of this process have lately missed.
    pub fn with_missing_third_parties(
        self,
        missing: Box<dyn Fn() -> Vec<ThirdPartyName> + Send + Sync>,
    ) -> Self {
        Self { missing_third_parties: MissingThirdParties(missing), ..self }
    }

    /// The state that [`routes`] put into every request.
    fn of(request: &Request) -> &Self {
        // `routes` wraps every endpoint with `.data(state)`: it is always there.
        request.data::<Arc<Self>>().expect("routes() adds the state to every request")
    }

    /// The third party whose webhooks are sent to `path`; `None` where nobody's are.
    fn webhook_sender(&self, path: &str) -> Option<ThirdPartyName> {
        let named = self.named_webhooks.iter().find(|webhooks| webhooks.path() == path);
        if let Some(webhooks) = named {
            return Some(webhooks.third_party().clone());
        }
        let own = PROVIDER_WEBHOOKS.replace("{name}", DEFAULT_THIRD_PARTY);
        (path == own).then(ThirdPartyName::default)
    }

    /// Waits for the database within the request's limit, which includes its earlier waits.
    async fn within_limit<T, E: Into<Problem>>(
        &self,
        query: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Problem> {
        let until = WAITS_UNTIL.try_with(Cell::get);
        let until = until.unwrap_or_else(|_| Instant::now() + DATABASE_LIMIT);
        match tokio::time::timeout_at(until, query).await {
            Ok(result) => result.map_err(Into::into),
            Err(_) => Err(Problem::unavailable().because("the database took too long")),
        }
    }

    /// The same in the reader's turn.
    async fn read<T, E: Into<Problem>>(
        &self,
        reader: Reader,
        query: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Problem> {
        let in_turn = async {
            let _turn = self.read_turns.take(reader).await;
            query.await
        };
        self.within_limit(in_turn).await
    }

    /// Restarts the request's database limit, after a wait that its caller asked for
    /// (`wait_seconds`).
    fn renew_limit(&self) {
        // Outside of a request each call has the whole time.
        let _ = WAITS_UNTIL.try_with(|until| until.set(Instant::now() + DATABASE_LIMIT));
    }
}

#[derive(Tags)]
enum Tag {
    /// For clients: post transactions and see how they end.
    Transactions,
    /// For the third party.
    Webhooks,
    /// For operators: dead letters, jobs, queues, and why a transaction waits. The name in an
    /// `Operator-Name` header, at most 100 characters, goes into the audit.
    Operator,
    /// For load balancers and orchestrators.
    Health,
}

/// The description of the API, as served, printed and committed.
const DESCRIPTION: &str = "\
A durable transaction relay: post a transaction and get an answer at once; Quartet creates it at \
the third party, finds out how it ended, and tells you by a signed `PUT` to your callback URL.\n\n\
How to use it: [for clients](/docs/clients), with receivers of callbacks in five languages; \
[for third parties](/docs/third-party); [every error](/docs/errors) and what to do.\n\n\
Errors are `application/problem+json` (RFC 9457): `type` leads to the page of errors, `errors[]` \
names each field at fault. Times are RFC 3339 in UTC. Unknown fields in a request are an error. \
Bodies are at most 64 KiB unless configured otherwise.\n\n\
429: rate limit exceeded. 503: overloaded, or the database is down. Either is safe to retry after \
`Retry-After` seconds.\n\n\
Callbacks and webhooks are signed as [Standard Webhooks](https://www.standardwebhooks.com/).";

type Api = (
    api::transactions::TransactionsApi,
    api::webhooks::WebhooksApi,
    operator::queues::QueuesApi,
    operator::jobs::JobsApi,
    operator::dead_letters::DeadLettersApi,
    operator::bulk_replay::BulkReplayApi,
    operator::transactions::OperatorTransactionsApi,
    operator::maintenance::MaintenanceApi,
    operator::rejected_webhooks::RejectedWebhooksApi,
    api::health::HealthApi,
);

fn service() -> OpenApiService<Api, ()> {
    let api = (
        api::transactions::TransactionsApi,
        api::webhooks::WebhooksApi,
        operator::queues::QueuesApi,
        operator::jobs::JobsApi,
        operator::dead_letters::DeadLettersApi,
        operator::bulk_replay::BulkReplayApi,
        operator::transactions::OperatorTransactionsApi,
        operator::maintenance::MaintenanceApi,
        operator::rejected_webhooks::RejectedWebhooksApi,
        api::health::HealthApi,
    );
    OpenApiService::new(api, "Quartet", env!("CARGO_PKG_VERSION"))
        .description(DESCRIPTION)
        .license(LicenseObject::new("Apache-2.0"))
}

/// The OpenAPI document, with a final line break.
pub fn openapi() -> String {
    let mut spec = api::openapi::exact(&service().spec());
    spec.push('\n');
    spec
}

/// All routes that a process of `role` serves: a worker has the health checks and the metrics
/// alone.
pub fn routes(role: Role, state: Arc<ApiState>) -> impl Endpoint<Output = Response> + use<> {
    let (route, spec) = if role.serves_api() {
        let service = service();
        let spec = openapi();
        let pace = api::pace::Pace::default();
        let route = Route::new()
            .nest("/console", console::routes(&state))
            .nest("/docs", api::docs::routes(service.swagger_ui_html(), pace.clone()))
            .at("/openapi.json", api::docs::openapi(spec.clone(), pace));
        let named = state.named_webhooks.iter();
        let route = named.fold(route, |route, webhooks| webhooks.add_to(route));
        (route.nest("/", service), spec)
    } else {
        let health =
            OpenApiService::new(api::health::HealthApi, "Quartet", env!("CARGO_PKG_VERSION"));
        let spec = health.spec();
        (Route::new().nest("/", health), spec)
    };
    let observe = Observe::new(role, state.metrics.clone());
    let security_headers = SecurityHeaders { serves_https: state.serves_https };
    let admission = Admission::new(state.clone());
    let clock = state.clock.clone();
    route
        .at("/metrics", poem::get(api::metrics::scrape_metrics))
        .with(StrictQuery::new(&spec))
        .around(move |endpoint, request| {
            let came_at = clock.now();
            async move {
                let until = Cell::new(Instant::now() + DATABASE_LIMIT);
                let answer = WAITS_UNTIL.scope(until, endpoint.call(request));
                CAME_AT.scope(came_at, answer).await
            }
        })
        .data(state)
        .catch_all_error(|error| async move {
            if error.is_from_response() {
                error.into_response()
            } else {
                Problem::from_poem(error).into_response()
            }
        })
        .with(CatchPanic::new().with_handler(panicked))
        .map_to_response()
        .with(admission)
        .with(StrictHeaders)
        .with(observe)
        .with(security_headers)
        .into_endpoint()
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    let detail = "the request failed; the cause is in the log";
    let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail);
    problem.because("a panic, logged before this").into_response()
}
