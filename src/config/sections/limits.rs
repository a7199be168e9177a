//! How fast one client may call.

use super::super::{settings::Settings, value::count};

/// `QUARTET_LIMITS__…`: how fast one client may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Requests per second of one client, in each process, or zero for no limit.
    pub rate: u32,
    /// Requests that it may send at once after a pause.
    pub burst: Option<u32>,
}

impl Limits {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            rate: settings.read(
                "QUARTET_LIMITS__RATE",
                "0",
                count(0, 1_000_000),
                "Requests per second that one client may send to each process; 0 means no limit. \
                 Excess requests are answered 429",
            ),
            burst: settings.optional(
                "QUARTET_LIMITS__BURST",
                count(1, 1_000_000),
                "Requests that a client may send at once after a pause. Unset, it equals \
                 `QUARTET_LIMITS__RATE`",
            ),
        }
    }
}
