//! Which profiles were tried against their third parties.
//!
//! A probe that passes is recorded with the hash of the profile's text, so that a profile is to be
//! probed again once it is changed. A third party on this machine is a simulation: it needs no probe,
//! and one of it shows nothing.

use crate::{
    config::Config,
    domain::ThirdPartyName,
    outbound::probe::is_this_machine,
    store::{Database, StoreError, passed_probes},
};

/// A third party whose profile has passed no probe since it was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unprobed {
    pub third_party: ThirdPartyName,
    pub profile: String,
}

/// Those of the configured third parties.
pub async fn unprobed(pool: &Database, config: &Config) -> Result<Vec<Unprobed>, StoreError> {
    let profiles: Vec<_> = config
        .all_third_parties()
        .filter(|(_, settings)| {
            settings.base_url.as_ref().is_some_and(|url| !is_this_machine(url.as_str()))
        })
        .filter_map(|(name, settings)| Some((name, settings.profile.clone()?.profile)))
        .collect();
    if profiles.is_empty() {
        return Ok(Vec::new());
    }
    let hashes: Vec<_> = profiles.iter().map(|(_, profile)| profile.hash()).collect();
    let passed = passed_probes::passed(pool, &hashes).await?;
    let unprobed = profiles
        .into_iter()
        .filter(|(_, profile)| !passed.iter().any(|hash| *hash == profile.hash()))
        .map(|(third_party, profile)| Unprobed { third_party, profile: profile.name().to_owned() });
    Ok(unprobed.collect())
}

/// Records that a probe of the profile with this hash and name passed; `is_live`: it created a
/// transaction.
pub async fn record(
    pool: &Database,
    profile_hash: &[u8; 32],
    profile: &str,
    is_live: bool,
) -> Result<(), StoreError> {
    passed_probes::record(pool, profile_hash, profile, is_live).await
}
