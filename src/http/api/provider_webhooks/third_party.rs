//! The third party whose webhooks are received: its profile, and its keys as they are now.

use std::sync::{Arc, Mutex, PoisonError};

use super::hint_pace::HintPace;
use crate::{
    config::{LiveValues, ThirdPartyProfile},
    domain::ThirdPartyName,
    http::route_list::PROVIDER_WEBHOOKS,
    profiles::{
        Inputs, Profile, Values, WEBHOOK_SECRETS,
        webhook::{Claim, Keys, Receiver},
    },
    store::webhooks::Comparison,
};

/// Receives the webhooks of one third party.
#[derive(Debug)]
pub struct ProviderWebhooks {
    /// The third party whose transactions they are about.
    pub(super) third_party: ThirdPartyName,
    /// What its webhooks are known by: the last part of their path.
    name: String,
    pub(super) profile: Arc<Profile>,
    pub(super) receiver: Receiver,
    pub(super) hint_pace: HintPace,
    values: Arc<LiveValues>,
    /// Where it sends them, without a query.
    url: String,
    /// The values that were read last, and the keys among them.
    keys: Mutex<Option<(Arc<Values>, Arc<Keys>)>>,
}

impl ProviderWebhooks {
    /// `None` where the profile has no webhooks. They are sent to `url`.
    pub fn new(
        third_party: ThirdPartyName,
        called: &ThirdPartyProfile,
        url: String,
    ) -> Option<Self> {
        let ThirdPartyProfile { profile, values } = called;
        let receiver = profile.webhook()?.receiver(&values.get().vars);
        let receiver = receiver.inspect_err(|faults| {
            // The configuration was refused for the same.
            tracing::error!(?faults, "webhooks cannot be received");
        });
        let name = match third_party.is_default() {
            true => profile.name().to_owned(),
            false => third_party.to_string(),
        };
        Some(Self {
            third_party,
            name,
            profile: profile.clone(),
            receiver: receiver.ok()?,
            hint_pace: HintPace::default(),
            values: values.clone(),
            url,
            keys: Mutex::default(),
        })
    }

    /// The third party's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The third party that sends them.
    pub fn third_party(&self) -> &ThirdPartyName {
        &self.third_party
    }

    /// The path of its webhooks.
    pub fn path(&self) -> String {
        PROVIDER_WEBHOOKS.replace("{name}", self.name())
    }

    /// The URL that it has called: a proxy may have changed the one that arrived.
    pub(super) fn url(&self, query: Option<&str>) -> String {
        match query {
            Some(query) => format!("{}?{query}", self.url),
            None => self.url.clone(),
        }
    }

    /// For `Allow`.
    pub(super) fn allowed_methods(&self) -> String {
        let methods = self.receiver.methods.iter().map(|method| method.as_str());
        let head = self.receiver.answers.head.then_some("HEAD");
        methods.chain(head).collect::<Vec<_>>().join(", ")
    }

    /// The keys as they are now. Where a new one cannot be read, they stay as they were.
    pub(super) fn keys(&self) -> Arc<Keys> {
        let values = self.values.get();
        let mut present = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &*present {
            Some((seen, keys)) if Arc::ptr_eq(seen, &values) => return keys.clone(),
            before => before.as_ref().map(|(_, keys)| keys.clone()),
        };
        let keys = match self.read_keys(&values) {
            Ok(keys) => Arc::new(keys),
            Err(why) => {
                tracing::warn!(why, "the keys of webhooks stay as they were");
                before.unwrap_or_default()
            }
        };
        *present = Some((values, keys.clone()));
        keys
    }

    fn read_keys(&self, values: &Values) -> Result<Keys, String> {
        let mut keys = Keys::default();
        if !self.receiver.needs_key() {
            return Ok(keys);
        }
        for name in WEBHOOK_SECRETS {
            if let Some(secret) = values.secrets.get(name) {
                let key = self.receiver.read_key(secret.expose());
                keys.add(None, key.map_err(|why| format!("the secret `{name}` {why}"))?);
            }
        }
        Ok(keys)
    }

    /// Compares an event with a transaction as the client posted it, and as the third party named
    /// it before.
    pub(super) fn comparison(&self, provider_id: Option<String>, claims: Vec<Claim>) -> Comparison {
        let (profile, url) = (self.profile.clone(), self.url.clone());
        Comparison::new(move |transaction| {
            let content = transaction.content();
            let inputs = Inputs {
                id: transaction.id,
                content: &content,
                provider_id: transaction.provider_id.as_deref(),
                created_at: transaction.created_at.at(),
                now: crate::http::now(),
                webhook_url: &url,
                // Nothing that is compared has a secret or a variable in it.
                values: &Values::default(),
            };
            profile.contradiction(&inputs, provider_id.as_deref(), &claims)
        })
    }
}
