//! What clients, the third party and load balancers call, and the documents about it.

pub mod docs;
pub mod guides;
pub mod health;
mod inline_hashes;
pub mod metrics;
pub mod named_webhooks;
pub(in crate::http) mod openapi;
pub(in crate::http) mod pace;
pub mod provider_webhooks;
pub mod rejected_webhooks;
pub mod transaction_schema;
pub mod transactions;
pub mod webhooks;
