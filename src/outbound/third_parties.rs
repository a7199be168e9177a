//! The clients of all third parties, by name.

use std::{collections::BTreeMap, sync::Arc};

use super::{SetupError, ThirdPartyClient};
use crate::{config::Config, domain::ThirdPartyName};

/// A client for each third party whose base URL is known. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ThirdPartyClients(Arc<BTreeMap<ThirdPartyName, ThirdPartyClient>>);

impl ThirdPartyClients {
    /// Those of the configuration, each as `prepare` completes it. A third party sends its webhooks
    /// to the URL that `webhook_url` says.
    pub fn new(
        config: &Config,
        webhook_url: impl Fn(&ThirdPartyName) -> String,
        prepare: impl Fn(&ThirdPartyName, ThirdPartyClient) -> ThirdPartyClient,
    ) -> Result<Self, SetupError> {
        let known = config.all_third_parties().filter(|(_, settings)| settings.base_url.is_some());
        let clients = known.map(|(name, settings)| {
            let client = ThirdPartyClient::new(settings, &config.dns, webhook_url(&name))?;
            let client = prepare(&name, client);
            Ok((name, client))
        });
        Ok(Self(Arc::new(clients.collect::<Result<_, _>>()?)))
    }

    /// The client of this third party; `None` where that is not configured.
    pub fn get(&self, name: &ThirdPartyName) -> Option<&ThirdPartyClient> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ThirdPartyName, &ThirdPartyClient)> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
