//! The third party that creates transactions.

use std::time::Duration;

use super::{
    super::{
        settings::Settings,
        value::{BaseUrl, count, lookup_path, path, positive_duration},
    },
    ThirdPartyProfile,
};
use crate::{domain::CallRate, profiles::Rate};

/// `QUARTET_THIRD_PARTY__…`: the third party that creates transactions.
#[derive(Debug, Clone, PartialEq)]
pub struct ThirdParty {
    /// Where it is.
    pub base_url: Option<BaseUrl>,
    /// Path that a transaction is posted to.
    pub create_path: String,
    /// Path of one transaction, with `{id}` once.
    pub lookup_path: String,
    /// Time limit for the answer to a create.
    pub timeout: Duration,
    /// Time limit for the answer to a lookup.
    pub lookup_timeout: Duration,
    /// Retries after the first attempt.
    pub create_retries: u32,
    /// Wait after an ambiguous or failed attempt.
    pub create_backoff: Duration,
    /// How long after its answer a create that was not confirmed may still be stored.
    pub late_storing: Duration,
    /// Time from acceptance after which polling stops, where it is not that of all others.
    pub poll_deadline: Option<Duration>,
    /// Maximum number of concurrent creates, and of polls, in one process.
    pub max_in_flight: u32,
    /// Maximum number of calls in a time, of all processes together.
    pub max_calls: Option<CallRate>,
    /// How it is called, where that is not Quartet's own contract.
    pub profile: Option<ThirdPartyProfile>,
}

/// What a profile says itself.
const NOT_WITH_PROFILE: [&str; 2] =
    ["QUARTET_THIRD_PARTY__CREATE_PATH", "QUARTET_THIRD_PARTY__LOOKUP_PATH"];

impl ThirdParty {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        let mut third_party = Self::read_without(settings);
        let profile = ThirdPartyProfile::read(settings);
        if let Some(ThirdPartyProfile { profile, .. }) = &profile {
            for variable in NOT_WITH_PROFILE {
                if settings.is_given(variable) {
                    settings.refuse(variable, "is not used with QUARTET_THIRD_PARTY__PROFILE");
                }
            }
            let own = |variable, of_profile: Option<Duration>, setting: &mut Duration| {
                if let Some(own) = of_profile.filter(|_| !settings.is_given(variable)) {
                    *setting = own;
                }
            };
            own("QUARTET_THIRD_PARTY__TIMEOUT", profile.timeout(), &mut third_party.timeout);
            own(
                "QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT",
                profile.lookup_timeout(),
                &mut third_party.lookup_timeout,
            );
            let rate = profile.rate().map(|Rate { calls, per }| CallRate { calls, per });
            third_party.max_calls = third_party.max_calls.or(rate);
            let base_url = profile.base_url().and_then(|url| BaseUrl::parse(url).ok());
            third_party.base_url = third_party.base_url.or(base_url);
        }
        third_party.profile = profile;
        third_party
    }

    fn read_without(settings: &mut Settings) -> Self {
        Self {
            base_url: settings.optional(
                "QUARTET_THIRD_PARTY__BASE_URL",
                BaseUrl::parse,
                "Base URL of the third party, `http://` or `https://`; required by workers",
            ),
            create_path: settings.read(
                "QUARTET_THIRD_PARTY__CREATE_PATH",
                "/transaction",
                path,
                "Path to which Quartet posts a transaction",
            ),
            lookup_path: settings.read(
                "QUARTET_THIRD_PARTY__LOOKUP_PATH",
                "/transaction/{id}",
                lookup_path,
                "Path at which Quartet looks up a transaction; contains `{id}` exactly once",
            ),
            timeout: settings.read(
                "QUARTET_THIRD_PARTY__TIMEOUT",
                "35s",
                positive_duration,
                "Time limit for the answer to a create",
            ),
            lookup_timeout: settings.read(
                "QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT",
                "5s",
                positive_duration,
                "Time limit for the answer to a lookup",
            ),
            create_retries: settings.read(
                "QUARTET_THIRD_PARTY__CREATE_RETRIES",
                "3",
                count(0, 1_000),
                "Retries of a create after the first attempt. Written into the job when the \
                 transaction is accepted: set it alike on all processes",
            ),
            create_backoff: settings.read(
                "QUARTET_THIRD_PARTY__CREATE_BACKOFF",
                "120s",
                positive_duration,
                "Wait before the next attempt after an ambiguous or failed create",
            ),
            late_storing: settings.read(
                "QUARTET_THIRD_PARTY__LATE_STORING",
                "120s",
                positive_duration,
                "How long after its answer the third party may still store a create that it did not \
                 confirm, `CREATE_BACKOFF` where that is longer; reconciliation compares what ended \
                 until then",
            ),
            poll_deadline: settings.optional(
                "QUARTET_THIRD_PARTY__POLL_DEADLINE",
                positive_duration,
                "Time from acceptance after which polling stops and a dead letter is opened; \
                 longer than `QUARTET_POLL__FIRST`. Unset, `QUARTET_POLL__DEADLINE` holds",
            ),
            max_in_flight: settings.read(
                "QUARTET_THIRD_PARTY__MAX_IN_FLIGHT",
                "1000",
                count(1, 1_000_000),
                "Maximum number of concurrent creates, and of concurrent polls, in one process",
            ),
            max_calls: settings
                .optional(
                    "QUARTET_THIRD_PARTY__MAX_CALLS_PER_SECOND",
                    count(1, 100_000),
                    "Maximum number of calls to the third party within any second, of all processes \
                     together. Unset, the profile's `rate` holds, if it has one",
                )
                .map(CallRate::per_second),
            profile: None,
        }
    }

    /// The URL that a transaction is posted to; none without a base URL.
    pub fn create_url(&self) -> Option<String> {
        self.base_url.as_ref().map(|base| base.join(&self.create_path))
    }

    /// The URL of the transaction `id`; none without a base URL.
    pub fn lookup_url(&self, id: &str) -> Option<String> {
        self.base_url.as_ref().map(|base| base.join(&self.lookup_path.replace("{id}", id)))
    }
}
