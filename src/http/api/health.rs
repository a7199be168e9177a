//! Health checks for load balancers and orchestrators.

use std::sync::{Arc, atomic::Ordering};

use futures_util::FutureExt;
use poem::web::Data;
use poem_openapi::{ApiResponse, Object, OpenApi, payload::Json};

use crate::{
    domain::{ThirdPartyName, clock::is_notable},
    http::{
        ApiState,
        problem::{Problem, ProblemJson},
    },
    store::{self, circuit},
};

/// `None` stands for the only one.
fn credentials_refused(third_party: Option<&ThirdPartyName>) -> String {
    let name = third_party.map(|name| format!(" {name}")).unwrap_or_default();
    format!(
        "the third party{name} refuses our credentials (401 or 403); its queues are held until it \
         takes them"
    )
}

fn not_configured(third_party: &ThirdPartyName) -> String {
    format!(
        "transactions wait because their third party {third_party} is not configured in this process"
    )
}

/// Health checks.
pub struct HealthApi;

/// The process works.
#[derive(Debug, Object)]
#[oai(example)]
pub struct Health {
    /// Always `ok`.
    pub status: String,
    /// What does not keep the process from its work, and should be mended: its clock differs from
    /// the database's by more than 5 s, a third party refuses our credentials, or transactions wait
    /// for one that is not configured.
    #[oai(skip_serializing_if_is_none)]
    pub detail: Option<String>,
}

impl Health {
    fn ok(detail: Option<String>) -> Self {
        Self { status: "ok".to_owned(), detail }
    }
}

impl poem_openapi::types::Example for Health {
    fn example() -> Self {
        Self::ok(None)
    }
}

/// Answers of `GET /health/live`.
#[derive(ApiResponse)]
pub enum LiveResponse {
    /// The process is up.
    #[oai(status = 200)]
    Live(Json<Health>),
}

/// Answers of `GET /health/ready`.
#[derive(ApiResponse)]
pub enum ReadyResponse {
    /// The process can do its work.
    #[oai(status = 200)]
    Ready(Json<Health>),
    /// The database is away, or its schema is not up to date.
    #[oai(status = 503)]
    NotReady(ProblemJson),
}

/// Whether the process can do its work.
#[derive(Debug, Clone)]
pub(in crate::http) enum Readiness {
    Ready {
        /// The third parties that refuse our credentials.
        credentials_refused: Vec<ThirdPartyName>,
    },
    /// The start is not over.
    Starting,
    /// The database is away, for this reason.
    Away(Arc<str>),
}

async fn readiness(state: Arc<ApiState>) -> Readiness {
    match state.within_limit(store::ping(&state.pool)).await {
        Ok(()) if state.started.load(Ordering::Acquire) => {
            let circuits = state.within_limit(circuit::get_all(&state.pool)).await;
            let circuits = circuits.unwrap_or_default();
            let refuses = |name: &&ThirdPartyName| circuits.of(name).refuses_credentials();
            let refused = state.third_parties.iter().filter(refuses).cloned();
            Readiness::Ready { credentials_refused: refused.collect() }
        }
        Ok(()) => Readiness::Starting,
        Err(problem) => Readiness::Away(problem.cause.unwrap_or_default().into()),
    }
}

#[OpenApi(tag = "crate::http::Tag::Health")]
impl HealthApi {
    /// Whether the process is up.
    #[oai(path = "/health/live", method = "get", operation_id = "check_live")]
    async fn check_live(&self) -> LiveResponse {
        LiveResponse::Live(Json(Health::ok(None)))
    }

    /// Whether the process can do its work: the database answers and its schema is up to date.
    #[oai(path = "/health/ready", method = "get", operation_id = "check_ready")]
    async fn check_ready(&self, state: Data<&Arc<ApiState>>) -> ReadyResponse {
        let not_ready = |cause: &str| {
            ReadyResponse::NotReady(ProblemJson(Problem::unavailable().because(cause)))
        };
        // It needs no key: any number of checks at the same time cost what one costs.
        let check = state.readiness.run(|| readiness(Arc::clone(&state)));
        match state.within_limit(check.map(Ok::<_, Problem>)).await {
            Ok(Some(Readiness::Ready { credentials_refused })) => {
                let skew = state.clock.skew().filter(|skew| is_notable(*skew));
                let is_only = state.third_parties.len() == 1;
                let refused = credentials_refused
                    .iter()
                    .map(|name| self::credentials_refused((!is_only).then_some(name)));
                let missing = (state.missing_third_parties.0)();
                let details = skew.map(store::postgres::clock::describe).into_iter().chain(refused);
                let details: Vec<String> =
                    details.chain(missing.iter().map(not_configured)).collect();
                let detail = (!details.is_empty()).then(|| details.join("; "));
                ReadyResponse::Ready(Json(Health::ok(detail)))
            }
            Ok(Some(Readiness::Starting)) => not_ready("the start is not over"),
            Ok(Some(Readiness::Away(cause))) => not_ready(&cause),
            Ok(None) => not_ready("the check panicked"),
            Err(problem) => ReadyResponse::NotReady(ProblemJson(problem)),
        }
    }
}
