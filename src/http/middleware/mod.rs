//! What every request passes before its handler: limits on what is taken in, who asks, strict
//! headers and query parameters, and the log, metrics and trace of each answer.

pub mod admission;
pub mod auth;
pub mod body;
pub mod observe;
pub mod path_template;
pub mod rate_limit;
pub mod security_headers;
pub mod shares;
pub mod single_flight;
pub mod strict_headers;
pub mod strict_query;
