//! The settings by section. The call that reads a setting states its default and its meaning;
//! `docs/configuration.md` is made from these calls, and no doc comment repeats a default.

mod access;
mod dns;
mod intake;
mod peers;
mod profile;
mod telemetry;
mod upkeep;

pub use access::{Database, Http, Pooler, Secrets, Tls};
pub(super) use access::{read_operator_name, read_operator_tokens};
pub use dns::Dns;
pub use intake::{Intake, Limits};
pub use peers::{Circuit, Notify, Poll, ThirdParty, Webhook};
pub use profile::{LiveValues, ThirdPartyProfile};
pub use telemetry::{Log, Traces};
pub use upkeep::{Reconcile, Retention, Worker};
