//! Quartet's HTTP API: all routes, and what requests work with.
//!
//! No request waits for a third party or a client: it writes to the database, gives a hint to the
//! workers of this process, and answers. Every call of the database is bounded in time, so that a
//! database that is away is answered with 503 within two seconds.

pub mod auth;
pub mod body;
pub mod health;
pub mod operator;
pub mod page;
pub mod problem;
pub mod strict_query;
pub mod transaction_schema;
pub mod transactions;
pub mod webhooks;
pub mod words;

use std::{
    any::Any,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use poem::{
    Endpoint, EndpointExt, IntoEndpoint, IntoResponse, Request, Response, Route,
    endpoint::make_sync, http::StatusCode, middleware::CatchPanic,
};
use poem_openapi::{LicenseObject, OpenApiService, Tags};
use sqlx::PgPool;

use self::{problem::Problem, strict_query::StrictQuery};
use crate::{
    config::{self, Config, Role},
    store::{StoreError, jobs::JobPlan, wakeups::Wakeups},
};

/// How long one request may wait for the database in all.
const DATABASE_LIMIT: Duration = Duration::from_millis(1_800);

/// What requests work with.
#[derive(Debug)]
pub struct ApiState {
    pub pool: PgPool,
    pub plan: JobPlan,
    pub wakeups: Wakeups,
    pub webhook: config::Webhook,
    /// SHA-256 of the operator token, where one is configured.
    pub operator_token_hash: Option<[u8; 32]>,
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// Whether the start is over: the schema is up to date and the default client registered.
    pub started: AtomicBool,
}

impl ApiState {
    /// State from the configuration.
    pub fn new(config: &Config, pool: PgPool, plan: JobPlan, wakeups: Wakeups) -> Self {
        let token = config.operator_token.as_ref();
        Self {
            pool,
            plan,
            wakeups,
            webhook: config.webhook.clone(),
            operator_token_hash: token.map(|token| auth::hash_api_key(token.expose())),
            max_body: config.http.max_body,
            started: AtomicBool::new(false),
        }
    }

    /// The state that [`routes`] put into every request.
    fn of(request: &Request) -> &Self {
        // `routes` wraps every endpoint with `.data(state)`: it is always there.
        request.data::<Arc<Self>>().expect("routes() adds the state to every request")
    }

    /// Waits for the database, but not longer than a client should.
    async fn within_limit<T>(
        &self,
        query: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Problem> {
        match tokio::time::timeout(DATABASE_LIMIT, query).await {
            Ok(result) => result.map_err(Problem::from),
            Err(_) => {
                tracing::warn!("the database took too long");
                Err(Problem::unavailable())
            }
        }
    }
}

#[derive(Tags)]
enum Tag {
    /// For clients: post transactions and see how they end.
    Transactions,
    /// For the third party.
    Webhooks,
    /// For operators: what a machine must not decide.
    Operator,
    /// For load balancers and orchestrators.
    Health,
}

/// The description of the API, as served, printed and committed.
const DESCRIPTION: &str = "\
A durable transaction relay: post a transaction and get an answer at once; Quartet creates it at \
the third party, finds out how it ended, and tells you by a signed `PUT` to your callback URL.\n\n\
Errors are `application/problem+json` (RFC 9457); `errors[]` names each field at fault. Times are \
RFC 3339 in UTC. Unknown fields in a request are an error. Bodies are at most 64 KiB unless \
configured otherwise. Callbacks and webhooks are signed as \
[Standard Webhooks](https://www.standardwebhooks.com/).";

type Api = (
    transactions::TransactionsApi,
    webhooks::WebhooksApi,
    operator::OperatorApi,
    health::HealthApi,
);

fn service() -> OpenApiService<Api, ()> {
    let api = (
        transactions::TransactionsApi,
        webhooks::WebhooksApi,
        operator::OperatorApi,
        health::HealthApi,
    );
    OpenApiService::new(api, "Quartet", env!("CARGO_PKG_VERSION"))
        .description(DESCRIPTION)
        .license(LicenseObject::new("Apache-2.0"))
}

/// The OpenAPI document, with a final line break.
pub fn openapi() -> String {
    // As generators of clients expect it: the charset is no part of JSON's media type.
    let mut spec = service().spec().replace("application/json; charset=utf-8", "application/json");
    spec.push('\n');
    spec
}

/// All routes that a process of `role` serves: a worker has the health checks alone.
pub fn routes(role: Role, state: Arc<ApiState>) -> impl Endpoint<Output = Response> + use<> {
    let (route, spec) = if role.serves_api() {
        let service = service();
        let spec = openapi();
        let served = spec.clone();
        let route = Route::new()
            .nest("/docs", service.swagger_ui())
            .at(
                "/openapi.json",
                poem::get(make_sync(move |_| {
                    served.clone().with_content_type("application/json").into_response()
                })),
            )
            .nest("/", service);
        (route, spec)
    } else {
        let health = OpenApiService::new(health::HealthApi, "Quartet", env!("CARGO_PKG_VERSION"));
        let spec = health.spec();
        (Route::new().nest("/", health), spec)
    };
    route
        .with(StrictQuery::new(&spec))
        .data(state)
        .catch_all_error(|error| async move {
            if error.is_from_response() {
                error.into_response()
            } else {
                Problem::from_poem(error).into_response()
            }
        })
        .with(CatchPanic::new().with_handler(panicked))
        .into_endpoint()
        .map_to_response()
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    // The panic hook has logged it.
    let detail = "the request failed; the cause is in the log";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response()
}
