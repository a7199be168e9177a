//! How the third party's webhooks are verified.

use std::time::Duration;

use super::super::{credentials::secrets, settings::Settings, value::seconds};
use crate::signature::Secret;

/// `QUARTET_WEBHOOK__…`: how the third party's webhooks are verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    /// Signing secrets, each accepted. `sign-webhook` signs with the first one.
    pub secrets: Vec<Secret>,
    /// Maximum difference between a webhook's timestamp and now, in both directions.
    pub tolerance: Duration,
}

impl Webhook {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        Self {
            secrets: settings
                .secret(
                    "QUARTET_WEBHOOK__SECRETS",
                    secrets,
                    "Signing secrets of the third party's webhooks, `whsec_…`, separated by \
                     commas; each is accepted. Required by the API",
                )
                .unwrap_or_default(),
            tolerance: settings.read(
                "QUARTET_WEBHOOK__TOLERANCE",
                "300s",
                seconds,
                "Maximum difference between a webhook's timestamp and the current time, in both \
                 directions",
            ),
        }
    }
}
