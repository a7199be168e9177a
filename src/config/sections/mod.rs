//! The settings by section: each field's meaning, unit and default, and how it is read.

mod access;
mod dns;
mod intake;
mod peers;
mod telemetry;
mod upkeep;

pub use access::{Database, Http, Pooler, Secrets, Tls};
pub(super) use access::{read_operator_name, read_operator_tokens};
pub use dns::Dns;
pub use intake::{Intake, Limits};
pub use peers::{Circuit, Notify, Poll, ThirdParty, Webhook};
pub use telemetry::{Log, Traces};
pub use upkeep::{Reconcile, Retention, Worker};
