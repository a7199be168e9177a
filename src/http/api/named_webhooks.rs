//! The webhooks of third parties that have a path of their own, `/v1/webhooks/{name}`: as a profile
//! says, or by Quartet's own contract with their own secrets.

use std::{net::SocketAddr, sync::Arc};

use poem::{Endpoint, IntoResponse, Request, Response, Result, Route, web::Json};
use poem_openapi::types::ToJSON;

use super::{
    provider_webhooks::{ProviderWebhooks, ReceiveProviderWebhook},
    webhooks::{self, Sender, SignedWebhook, WebhookReceipt},
};
use crate::{
    config::{Config, LiveSecrets},
    domain::ThirdPartyName,
    http::{ApiState, route_list::PROVIDER_WEBHOOKS},
    telemetry::labels::WebhookResult,
};

/// How the webhooks of one third party are received.
#[derive(Debug)]
pub enum NamedWebhooks {
    ByProfile(Arc<ProviderWebhooks>),
    ByOwnContract { third_party: ThirdPartyName, secrets: Arc<LiveSecrets> },
}

impl NamedWebhooks {
    /// Those of all third parties that have any, which are sent to a process that listens at
    /// `address`.
    pub fn of(config: &Config, address: SocketAddr) -> Vec<Self> {
        let all = config.all_third_parties().filter_map(|(name, settings)| {
            if let Some(profile) = &settings.profile {
                let url = config.webhook_url_of(&name, address);
                let webhooks = ProviderWebhooks::new(name, profile, url)?;
                return Some(Self::ByProfile(Arc::new(webhooks)));
            }
            let secrets = config.third_parties.named.get(&name)?.webhook_secrets.clone()?;
            Some(Self::ByOwnContract { third_party: name, secrets })
        });
        all.collect()
    }

    /// The third party that sends them.
    pub(in crate::http) fn third_party(&self) -> &ThirdPartyName {
        match self {
            Self::ByProfile(webhooks) => webhooks.third_party(),
            Self::ByOwnContract { third_party, .. } => third_party,
        }
    }

    /// The path that they are sent to.
    pub(in crate::http) fn path(&self) -> String {
        match self {
            Self::ByProfile(webhooks) => webhooks.path(),
            Self::ByOwnContract { third_party, .. } => {
                PROVIDER_WEBHOOKS.replace("{name}", third_party)
            }
        }
    }

    /// The same routes and this one.
    pub(in crate::http) fn add_to(&self, route: Route) -> Route {
        let path = self.path();
        match self {
            Self::ByProfile(webhooks) => route.at(path, ReceiveProviderWebhook(webhooks.clone())),
            Self::ByOwnContract { third_party, secrets } => {
                let receive =
                    ReceiveNamed { third_party: third_party.clone(), secrets: secrets.clone() };
                route.at(path, poem::post(receive))
            }
        }
    }

    /// Those that a profile describes.
    pub(in crate::http) fn by_profile(&self) -> Option<&ProviderWebhooks> {
        match self {
            Self::ByProfile(webhooks) => Some(webhooks),
            Self::ByOwnContract { .. } => None,
        }
    }
}

/// Receives webhooks of a third party that speaks Quartet's own contract.
struct ReceiveNamed {
    third_party: ThirdPartyName,
    secrets: Arc<LiveSecrets>,
}

impl Endpoint for ReceiveNamed {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let (request, mut body) = request.split();
        let state = ApiState::of(&request);
        let secrets = self.secrets.get();
        let sender = Sender { name: self.third_party.clone(), secrets: &secrets };
        let received = async {
            let webhook = SignedWebhook::from_sender(sender, &request, &mut body).await?;
            Ok(webhooks::receive(state, webhook).await?)
        };
        let receipt: Result<WebhookReceipt> = received.await;
        // What was received is counted by what it did.
        let receipt = receipt.inspect_err(|error| {
            state.metrics.webhook(WebhookResult::of_refusal(error.status().as_u16()));
        })?;
        Ok(Json(receipt.to_json()).into_response())
    }
}
