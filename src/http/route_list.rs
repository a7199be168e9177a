//! Every route, once: its method and path, its name, who may call it, and the limit that its
//! requests count against.
//!
//! Admission, the metrics' and the log's names of operations, traces, and the connections that are
//! answered beyond the limit all read this list. A test compares it with the OpenAPI document, so a
//! new operation has a line here before it can be merged.

use super::middleware::path_template::PathTemplate;
use crate::config::Role;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Anyone,
    /// By a client's API key.
    Client,
    /// By a webhook's signature.
    ThirdParty,
    /// By an operator's token, or signed in at the console.
    Operator,
}

/// What requests are counted apart by, so that none of these takes the others' places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Posts,
    /// Reads that wait for a final status are counted apart from the others.
    Reads,
    Webhooks,
    Operators,
    /// Always let in: documents.
    Unlimited,
    /// Always let in, and answered when no connection is left for others: health and metrics.
    Vital,
}

/// One route.
#[derive(Debug)]
pub struct RouteInfo {
    /// `None` takes every method, and every path below.
    pub method: Option<&'static str>,
    /// As the OpenAPI document writes it.
    pub path: &'static str,
    /// The operation, as the OpenAPI document, metrics and logs name it.
    pub operation: &'static str,
    pub caller: Caller,
    pub limit: Limit,
}

use Caller::{Anyone, Client, Operator, ThirdParty};
use Limit::{Operators, Posts, Reads, Unlimited, Vital, Webhooks};

/// The webhooks of third parties with a profile, which says what is sent and answered: the OpenAPI
/// document cannot.
pub const PROVIDER_WEBHOOKS: &str = "/v1/webhooks/{name}";

/// All routes.
pub const ROUTES: &[RouteInfo] = &[
    route("POST", "/v1/transactions", "create_transaction", Client, Posts),
    route("GET", "/v1/transactions", "list_transactions", Client, Reads),
    route("GET", "/v1/transactions/{id}", "get_transaction", Client, Reads),
    route("GET", "/v1/transactions/{id}/events", "list_transaction_events", Client, Reads),
    route("POST", "/v1/webhooks/third-party", "receive_third_party_webhook", ThirdParty, Webhooks),
    // As the profile of the third party says, and so not in the OpenAPI document.
    route("POST", PROVIDER_WEBHOOKS, "receive_provider_webhook", ThirdParty, Webhooks),
    route("PUT", PROVIDER_WEBHOOKS, "receive_provider_webhook", ThirdParty, Webhooks),
    route("GET", PROVIDER_WEBHOOKS, "receive_provider_webhook", ThirdParty, Webhooks),
    operator("GET", "/v1/operator/queues", "list_queues"),
    operator("POST", "/v1/operator/queues/{queue}/pause", "pause_queue"),
    operator("POST", "/v1/operator/queues/{queue}/resume", "resume_queue"),
    operator("GET", "/v1/operator/circuit", "get_circuit"),
    operator("GET", "/v1/operator/actions", "list_operator_actions"),
    operator("GET", "/v1/operator/jobs", "list_jobs"),
    operator("GET", "/v1/operator/jobs/{id}", "get_job"),
    operator("POST", "/v1/operator/jobs/{id}/retry", "retry_job"),
    operator("POST", "/v1/operator/jobs/{id}/cancel", "cancel_job"),
    operator("GET", "/v1/operator/dead-letters", "list_dead_letters"),
    operator("GET", "/v1/operator/dead-letters/{id}", "get_dead_letter"),
    operator("POST", "/v1/operator/dead-letters/{id}/replay", "replay_dead_letter"),
    operator("POST", "/v1/operator/dead-letters/{id}/resolve", "resolve_dead_letter"),
    operator("POST", "/v1/operator/dead-letters/{id}/discard", "discard_dead_letter"),
    operator("POST", "/v1/operator/dead-letters/replay", "replay_dead_letters"),
    operator("GET", "/v1/operator/transactions", "list_operator_transactions"),
    operator("GET", "/v1/operator/transactions/{id}/explain", "explain_transaction"),
    operator("GET", "/v1/operator/reconciliation", "list_reconciliation_findings"),
    operator("GET", "/v1/operator/maintenance", "list_maintenance_tasks"),
    operator("GET", "/v1/operator/rejected-webhooks", "list_rejected_webhooks"),
    route("GET", "/health/live", "check_live", Anyone, Vital),
    route("GET", "/health/ready", "check_ready", Anyone, Vital),
    pages("/metrics", "scrape_metrics", Anyone, Vital),
    pages("/console", "console", Operator, Operators),
    pages("/docs", "docs", Anyone, Unlimited),
    pages("/openapi.json", "openapi", Anyone, Unlimited),
];

/// What a request is that no route takes: it is answered with 404.
pub const UNKNOWN: &RouteInfo = &pages("", "unknown", Anyone, Unlimited);

const fn route(
    method: &'static str,
    path: &'static str,
    operation: &'static str,
    caller: Caller,
    limit: Limit,
) -> RouteInfo {
    RouteInfo { method: Some(method), path, operation, caller, limit }
}

const fn operator(method: &'static str, path: &'static str, operation: &'static str) -> RouteInfo {
    route(method, path, operation, Operator, Operators)
}

const fn pages(
    path: &'static str,
    operation: &'static str,
    caller: Caller,
    limit: Limit,
) -> RouteInfo {
    RouteInfo { method: None, path, operation, caller, limit }
}

/// Whether a connection beyond the limit is answered at `path`.
pub fn is_vital(path: &str) -> bool {
    let mut vital = ROUTES.iter().filter(|route| route.limit == Vital);
    vital.any(|route| PathTemplate::new(route.path).begins(path))
}

impl RouteInfo {
    /// Whether a process of `role` serves it.
    pub fn is_served_by(&self, role: Role) -> bool {
        role.serves_api() || self.limit == Vital
    }

    /// Whether its requests make traces: what clients, the third party and operators call does.
    pub fn is_traced(&self) -> bool {
        self.method.is_some() && self.caller != Anyone
    }
}
