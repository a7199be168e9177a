//! What a signature section comes to.

use std::time::Duration;

use super::{
    faults::Faults, interpreter::Proof, keys::KeyKind, profile::MessageAlgorithm,
    timestamp::DEFAULT_TOLERANCE,
};
use crate::domain::parse_duration;

/// The longest tolerance: some third parties repeat a webhook for days with its first timestamp.
const MAX_TOLERANCE: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// A signature section that is in order.
pub struct Built {
    pub proof: Proved,
    pub key_kind: KeyKind,
    /// The headers that are always signed; lower case.
    pub signed_headers: Vec<String>,
    /// Whether each webhook names more of them.
    pub names_headers: bool,
}

/// What proves a request, and which code checks it.
pub enum Proved {
    Interpreted(Proof),
    AdyenItems,
    MessageSignature { cover: Vec<String>, algorithms: Vec<MessageAlgorithm>, tolerance: Duration },
}

impl Built {
    pub(super) fn new(proof: Proved, key_kind: KeyKind) -> Self {
        Self { proof, key_kind, signed_headers: Vec::new(), names_headers: false }
    }
}

/// A duration such as `300s`.
pub(super) fn tolerance(key: &str, text: Option<&String>, faults: &mut Faults) -> Option<Duration> {
    let Some(text) = text else { return Some(DEFAULT_TOLERANCE) };
    let duration = parse_duration(text).ok();
    let duration = duration.filter(|duration| (Duration::ZERO..=MAX_TOLERANCE).contains(duration));
    faults.value(key, duration.ok_or("must be a duration such as `300s`, at most `31days`"))
}
