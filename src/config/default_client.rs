//! The client that is created or updated at start, for set-ups with a single one.

use url::Url;

use super::{
    credentials::{bearer_token, secret},
    settings::Settings,
    value::{Redacted, http_url, name},
};
use crate::{domain::ThirdPartyName, signature::Secret};

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
    /// Where its transactions go that name no third party, if that is set.
    pub third_party: Option<ThirdPartyName>,
    /// Those that they may name besides, if that is set.
    pub other_third_parties: Option<Vec<ThirdPartyName>>,
}

/// Stands for no third parties at all: an empty value counts as unset.
const NO_OTHERS: &str = "-";

/// Names of third parties, separated by commas.
fn third_parties(text: &str) -> Result<Vec<ThirdPartyName>, String> {
    if text.trim() == NO_OTHERS {
        return Ok(Vec::new());
    }
    text.split(',').map(|part| ThirdPartyName::parse(part.trim())).collect()
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
        let third_party = settings.optional(
            "QUARTET_DEFAULT_CLIENT__THIRD_PARTY",
            ThirdPartyName::parse,
            "Third party of that client's transactions that name none; unset: as registered, and a \
             new client gets the one without a name, `third-party`",
        );
        let other_third_parties = settings.optional(
            "QUARTET_DEFAULT_CLIENT__OTHER_THIRD_PARTIES",
            third_parties,
            "Third parties that this client's transactions may name besides, separated by commas, \
             or `-` for none; unset: as registered, and a new client gets none",
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
            third_party,
            other_third_parties,
        })
    }
}
