//! The settings by section, a file for each prefix. The call that reads a setting states its default
//! and its meaning; `docs/configuration.md` is made from these calls, and no doc comment repeats a
//! default.

mod circuit;
mod database;
mod dns;
mod http;
mod limits;
mod log;
mod notify;
mod operator;
mod poll;
mod profile;
mod reconcile;
mod retention;
mod secrets;
mod third_parties;
mod third_party;
mod traces;
mod webhook;
mod worker;

pub use circuit::Circuit;
pub use database::{Database, Pooler};
pub use dns::Dns;
pub use http::{Http, Intake, Tls};
pub use limits::Limits;
pub use log::Log;
pub use notify::Notify;
pub(super) use operator::{read_operator_name, read_operator_tokens};
pub use poll::Poll;
pub use profile::{LiveValues, ThirdPartyProfile};
pub use reconcile::Reconcile;
pub use retention::Retention;
pub use secrets::Secrets;
pub use third_parties::{LiveSecrets, NamedThirdParty, ThirdParties};
pub use third_party::ThirdParty;
pub use traces::Traces;
pub use webhook::Webhook;
pub use worker::Worker;
