//! What every query stands on: the pool and its sessions, the schema's migrations, the writer of
//! batches, and what is asked of a server before it is used.

pub mod batch;
pub mod clock;
pub mod coalesce;
pub mod columns;
pub(in crate::store) mod congestion;
pub(in crate::store) mod connect_options;
pub(in crate::store) mod database;
pub(in crate::store) mod dedicated_session;
pub mod diagnosis;
pub(in crate::store) mod error_cause;
pub(in crate::store) mod line;
pub(in crate::store) mod migrate;
pub(in crate::store) mod migration_files;
pub mod requirements;
pub(in crate::store) mod session;
