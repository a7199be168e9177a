//! Whether the profiles were tried against their third parties.

use super::{Finding, failed};
use crate::{config::Config, operations::probes, store::Database};

pub(super) const PROFILES: &str = "profiles";

/// A finding for each third party whose profile was not; one for all where each was.
pub(super) async fn check(pool: &Database, config: &Config) -> Vec<Finding> {
    if config.all_third_parties().all(|(_, settings)| settings.profile.is_none()) {
        return Vec::new();
    }
    let unprobed = match probes::unprobed(pool, config).await {
        Ok(unprobed) => unprobed,
        Err(error) => return vec![failed(PROFILES, &error)],
    };
    if unprobed.is_empty() {
        let found = "each has passed a probe since it was changed, or its third party is on this \
                     machine";
        return vec![Finding::ok(PROFILES, found)];
    }
    let finding = |unprobed: &probes::Unprobed| {
        let probes::Unprobed { third_party, profile } = unprobed;
        Finding::warning(
            PROFILES,
            format!(
                "nothing shows that {third_party} answers as its profile {profile} says: no probe \
                 has passed with it, or none since it was changed"
            ),
            "run `quartet third-party probe` with the profile's name or file, with DATABASE_URL, and \
             with this third party's settings as QUARTET_THIRD_PARTY__…",
        )
    };
    unprobed.iter().map(finding).collect()
}
