//! The client that is created or updated at start, for set-ups with a single one.

use url::Url;

use super::{
    credentials::{bearer_token, secret},
    settings::Settings,
    value::{Redacted, http_url, name},
};
use crate::signature::Secret;

const NAME: &str = "QUARTET_DEFAULT_CLIENT__NAME";
const API_KEY: &str = "QUARTET_DEFAULT_CLIENT__API_KEY";
const CALLBACK_URL: &str = "QUARTET_DEFAULT_CLIENT__CALLBACK_URL";
const SIGNING_SECRET: &str = "QUARTET_DEFAULT_CLIENT__SIGNING_SECRET";

/// `QUARTET_DEFAULT_CLIENT__…`: a client to create or update at start. All four or none.
#[derive(Debug, Clone, PartialEq)]
pub struct DefaultClient {
    /// Its unique name.
    pub name: String,
    /// Hash of its bearer key.
    pub api_key_hash: Redacted<[u8; 32]>,
    /// Where it is notified, `http://` or `https://`.
    pub callback_url: Url,
    /// What its notifications are signed with.
    pub signing_secret: Secret,
}

impl DefaultClient {
    pub(super) fn read(settings: &mut Settings) -> Option<Self> {
        let name = settings.optional(
            NAME,
            name,
            "Name of a client that is created or updated at each start; set all four of these or \
             none",
        );
        let api_key = settings.secret(
            API_KEY,
            bearer_token,
            "API key of that client; use 32 random characters or more",
        );
        let callback_url = settings.optional(
            CALLBACK_URL,
            http_url,
            "Callback URL of that client, `http://` or `https://`",
        );
        let signing_secret = settings.secret(
            SIGNING_SECRET,
            secret,
            "Secret that signs that client's notifications, `whsec_…`",
        );
        let variables = [NAME, API_KEY, CALLBACK_URL, SIGNING_SECRET];
        let absent: Vec<_> =
            variables.into_iter().filter(|variable| !settings.is_given(variable)).collect();
        if absent.len() < variables.len() {
            for variable in absent {
                settings.refuse(variable, "must be set when another QUARTET_DEFAULT_CLIENT__… is");
            }
        }
        Some(Self {
            name: name?,
            api_key_hash: api_key?,
            callback_url: callback_url?,
            signing_secret: signing_secret?,
        })
    }
}
