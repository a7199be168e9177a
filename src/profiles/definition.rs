//! A profile as it is written: the TOML of one file, read strictly.
//!
//! Reading gives each value its type; whether the values are safe together is [`super::safety`]'s.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, de};

use super::{
    body::{Body, Pairs},
    keywords::{keywords, not_allowed},
    period::Period,
    pointer::Pointer,
    recorded_case::{AnswerCase, RequestCase, SampleSection},
    request::{Content, Method},
    rule::{CreateMeans, LookupMeans, Rule},
    signing::SignSection,
    template::Template,
    webhook::WebhookProfile,
};

/// One file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// The version of the language.
    #[serde(rename = "profile", deserialize_with = "version")]
    _version: (),
    #[serde(deserialize_with = "profile_name")]
    pub(super) name: String,
    /// Where it is; the deployment's setting wins.
    #[serde(default, deserialize_with = "base_url")]
    pub(super) base_url: Option<String>,
    /// Headers of both calls.
    #[serde(default)]
    pub(super) headers: Pairs,
    /// Longest wait for the answer to a create.
    pub(super) timeout: Option<Period>,
    /// Longest wait for the answer to a lookup.
    pub(super) lookup_timeout: Option<Period>,
    /// Most calls.
    pub(super) rate: Option<Rate>,
    /// Digits behind the point, where they are not those of ISO 4217.
    #[serde(default)]
    pub(super) exponents: BTreeMap<String, u8>,
    #[serde(default)]
    pub(super) auth: AuthSection,
    /// How requests are signed.
    pub(super) sign: Option<SignSection>,
    pub(super) create: Create,
    pub(super) lookup: Lookup,
    pub(super) status: Statuses,
    pub(super) webhook: Option<WebhookProfile>,
    /// What the recorded cases are about.
    pub(super) sample: Option<SampleSection>,
    /// Answers and what they mean.
    #[serde(default)]
    pub(super) test: Vec<AnswerCase>,
    /// Requests as they must be sent.
    #[serde(default)]
    pub(super) request: Vec<RequestCase>,
}

keywords! {
    /// How calls are authenticated.
    #[derive(Default)]
    AuthKind {
        #[default]
        None = "none",
        Bearer = "bearer",
        Basic = "basic",
        Header = "header",
        Oauth2 = "oauth2",
    }
}

keywords! {
    /// Where a token request has the client's id and secret.
    ClientPlacement {
        /// In an `Authorization: Basic` header.
        Basic = "basic",
        /// In the form.
        Form = "form",
        /// In a JSON body.
        Json = "json",
    }
}

/// `[auth]`. What a kind does not use is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSection {
    pub(super) kind: AuthKind,
    pub(super) token: Option<Template>,
    pub(super) username: Option<Template>,
    pub(super) password: Option<Template>,
    pub(super) header: Option<String>,
    pub(super) value: Option<Template>,
    pub(super) token_url: Option<Template>,
    pub(super) client: Option<ClientPlacement>,
    pub(super) client_id: Option<Template>,
    pub(super) client_secret: Option<Template>,
    pub(super) scope: Option<String>,
    /// Headers of the token request.
    #[serde(default)]
    pub(super) headers: Pairs,
    /// How long before its end a token is renewed.
    pub(super) renew_early: Option<Period>,
    /// A client certificate, beside any kind.
    pub(super) tls: Option<ClientCertificate>,
}

/// A client certificate: PEM, by the names of its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificate {
    pub(super) certificate: Template,
    pub(super) key: Template,
}

keywords! {
    /// What the third party does with the same request again.
    Repeat {
        /// It is refused as a duplicate.
        Refused = "refused",
        /// It is answered as the first one was.
        SameAnswer = "same-answer",
        /// It makes a second transaction.
        NewTransaction = "new-transaction",
    }
}

/// `[create]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    #[serde(default = "post")]
    pub(super) method: Method,
    pub(super) path: Template,
    #[serde(default)]
    pub(super) query: Pairs,
    #[serde(default)]
    pub(super) headers: Pairs,
    #[serde(default = "json")]
    pub(super) content: Content,
    pub(super) body: Option<Body>,
    pub(super) repeat: Repeat,
    /// How long a repeat is known to be safe, from the first request.
    pub(super) repeat_within: Option<Period>,
    pub(super) answers: Vec<Rule<CreateMeans>>,
}

fn post() -> Method {
    Method::Post
}

fn json() -> Content {
    Content::Json
}

keywords! {
    /// By whose id a transaction is looked up.
    LookupBy {
        /// Ours.
        Id = "id",
        /// The third party's.
        ProviderId = "provider_id",
    }
}

/// `[lookup]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lookup {
    pub(super) by: LookupBy,
    #[serde(default = "get")]
    pub(super) method: Method,
    pub(super) path: Template,
    #[serde(default)]
    pub(super) query: Pairs,
    #[serde(default)]
    pub(super) headers: Pairs,
    /// Where the list is, if the answer is one.
    pub(super) items: Option<Pointer>,
    /// What makes an item of the list ours.
    #[serde(rename = "where")]
    pub(super) condition: Option<Where>,
    /// How long after a create no absence counts.
    pub(super) settle_after: Option<Period>,
    pub(super) answers: Vec<Rule<LookupMeans>>,
}

fn get() -> Method {
    Method::Get
}

/// The margin of the times in a list's query, where a profile writes none.
const TIME_MARGIN: Duration = Duration::from_secs(60 * 60);

impl Lookup {
    /// Gives the times in the query of a list a margin where they have none. The third party's
    /// clock may differ from ours, and a transaction that its filter leaves out reads as absent.
    pub(super) fn widen_times(&mut self) {
        if self.items.is_none() {
            return;
        }
        for (_, template) in &mut self.query.0 {
            template.widen_times(TIME_MARGIN);
        }
    }
}

/// Which item of a list is ours: `{ at = "/reference", is = "{id}" }`, or `"/reference"` for the
/// same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Where {
    pub(super) at: Pointer,
    pub(super) is: Template,
}

impl<'de> Deserialize<'de> for Where {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Pointer(String),
            Test(Test),
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Test {
            at: String,
            is: String,
        }
        let allowed =
            "must be { at = \"/reference\", is = \"{id}\" }, or \"/reference\" for the same";
        let (at, is) = match Written::deserialize(from) {
            Ok(Written::Pointer(at)) => (at, "{id}".to_owned()),
            Ok(Written::Test(Test { at, is })) => (at, is),
            Err(_) => return Err(de::Error::custom(allowed)),
        };
        let at = Pointer::parse(&at).map_err(de::Error::custom)?;
        let is = Template::parse(&is).map_err(de::Error::custom)?;
        Ok(Self { at, is })
    }
}

/// `[status]`: the third party's words. Compared without case, and with numbers, `true` and `false`
/// as they are written; another word means pending.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statuses {
    #[serde(default)]
    pub(super) pending: Vec<String>,
    pub(super) completed: Vec<String>,
    #[serde(default)]
    pub(super) declined: Vec<String>,
    /// Those of `completed` that may still be taken back.
    #[serde(default)]
    pub(super) reversible: Vec<String>,
}

/// Most calls in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At least one.
    pub calls: u32,
    pub per: Duration,
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            PerSecond(u32),
            Text(String),
        }
        let allowed = "must be a number of calls in a time, such as \"25/s\", \"60/m\" or \
                       \"1000/h\"; a number alone is for a second";
        let wrong = || de::Error::custom(allowed);
        let (calls, seconds) = match Written::deserialize(from).map_err(|_| wrong())? {
            Written::PerSecond(calls) => (calls, 1),
            Written::Text(text) => {
                let (calls, unit) = text.split_once('/').ok_or_else(wrong)?;
                let seconds = match unit.trim() {
                    "s" => 1,
                    "m" | "min" => 60,
                    "h" => 3600,
                    _ => return Err(wrong()),
                };
                (calls.trim().parse().map_err(|_| wrong())?, seconds)
            }
        };
        if calls == 0 {
            return Err(wrong());
        }
        Ok(Self { calls, per: Duration::from_secs(seconds) })
    }
}

fn version<'de, D: Deserializer<'de>>(from: D) -> Result<(), D::Error> {
    match i64::deserialize(from)? {
        1 => Ok(()),
        other => Err(de::Error::custom(not_allowed(&other.to_string(), &["1"]))),
    }
}

fn profile_name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if begins && name.len() <= 64 && name.bytes().all(is_plain) {
        return Ok(name);
    }
    let allowed = "at most 64 of a-z, 0-9 and -, a letter first: it becomes a part of URLs";
    Err(de::Error::custom(format!("'{name}' is not a name: {allowed}")))
}

fn base_url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    check_url(&text).map_err(de::Error::custom)?;
    Ok(Some(text.trim_end_matches('/').to_owned()))
}

/// An absolute URL that paths are appended to.
pub(super) fn check_url(text: &str) -> Result<(), String> {
    let url = url::Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    match url {
        Some(_) => Ok(()),
        None => Err(format!(
            "'{text}' is not allowed: an http:// or https:// URL without user, query or fragment"
        )),
    }
}
