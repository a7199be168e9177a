//! `POST /v1/transactions` and the reading calls, black-box.

mod accept;
mod events;
mod get;
mod idempotency;
mod list;
mod malformed;
mod wrong_fields;
