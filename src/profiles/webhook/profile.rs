//! The `[webhook]` section of a profile, as it is written.

use std::{collections::BTreeSet, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, IntoDeserializer, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    keys::SecretEncoding,
    signature_header::Encoding,
    template::{Part, Template},
    timestamp::TimeUnit,
};

/// How a third party reports: who may call, what proves it, and where the events are.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookProfile {
    /// The methods of its calls; `POST` if nothing is said. `HEAD` is answered without being read.
    #[serde(default = "post")]
    pub methods: Vec<Method>,
    /// Where the fields of an event are read; `json` if nothing is said.
    #[serde(default)]
    pub content: Content,
    pub signature: SignatureSection,
    /// What a webhook may do; `hint` if nothing is said.
    #[serde(default)]
    pub trust: Trust,
    /// JSON pointer to a list of events in one body.
    pub items: Option<String>,
    /// An event is used only where all of these hold.
    #[serde(default)]
    pub only: OneOrMany<ConditionSection>,
    /// An event is passed over where one of these holds.
    #[serde(default)]
    pub ignore: OneOrMany<ConditionSection>,
    /// Where Quartet's id of the transaction stands.
    pub id: Option<String>,
    /// Where the third party's id of the transaction stands.
    pub provider_id: Option<String>,
    /// Where the status word stands; several are joined by `:`.
    #[serde(default)]
    pub status: OneOrMany<String>,
    /// Where the id of the event stands; several are joined by `:`.
    #[serde(default)]
    pub event_id: OneOrMany<String>,
    /// What an event must not contradict, such as the amount.
    #[serde(default)]
    pub same: OneOrMany<SameSection>,
    /// Where a number or a time stands that grows from event to event of a transaction.
    pub order: Option<String>,
    /// The body that the third party expects as the answer to a webhook that is taken.
    pub ok_body: Option<String>,
    /// The status code of that answer; 200 if nothing is said.
    pub ok_code: Option<u16>,
    /// The status code of the answer to a wrong signature; 401 if nothing is said.
    pub refused_code: Option<u16>,
}

impl WebhookProfile {
    /// Quartet's own contract.
    pub fn standard() -> Self {
        // A test reads it.
        toml::from_str(include_str!("standard.toml")).expect("the shipped section is in order")
    }

    /// Whether there must be a key: without one, every request is refused.
    pub fn needs_key(&self) -> bool {
        self.signature.scheme != Some(Scheme::None)
    }

    /// The names of the variables that it uses.
    pub fn vars(&self) -> BTreeSet<String> {
        let texts = [&self.signature.signed, &self.signature.webhook_id];
        let templates = texts.into_iter().flatten().filter_map(|text| Template::parse(text).ok());
        let parts = templates.flat_map(|template| template.0);
        parts
            .filter_map(|part| match part {
                Part::Var(name) => Some(name),
                _ => None,
            })
            .collect()
    }
}

fn post() -> Vec<Method> {
    vec![Method::Post]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    Post,
    Put,
    Get,
    Head,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Get => "GET",
            Self::Head => "HEAD",
        }
    }
}

/// What holds the fields of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    #[default]
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// The query of a `GET`.
    Query,
}

/// What a webhook may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Make a poll due.
    #[default]
    Hint,
    /// Settle a transaction.
    Settle,
}

/// `signature = { … }`: what proves who sent a webhook. Which keys are allowed depends on `scheme`
/// or `adapter`, of which there is one.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureSection {
    pub scheme: Option<Scheme>,
    pub adapter: Option<Adapter>,
    pub hash: Option<Hash>,
    pub encoding: Option<Encoding>,
    pub header: Option<String>,
    pub format: Option<Format>,
    /// What stands before the signature in its header.
    pub prefix: Option<String>,
    /// Whether `prefix` may be left out.
    pub prefix_optional: Option<bool>,
    pub pair_separator: Option<String>,
    /// The name under which signatures stand; others are skipped.
    pub signature_key: Option<String>,
    /// The pair that lists the headers that are signed.
    pub names_key: Option<String>,
    /// The header that names the key.
    pub key_id_header: Option<String>,
    pub timestamp: Option<TimestampSection>,
    /// What is signed: a text with placeholders.
    pub signed: Option<String>,
    pub secret_encoding: Option<SecretEncoding>,
    pub secret_prefix: Option<String>,
    /// `paypal`: the id that PayPal gave this webhook.
    pub webhook_id: Option<String>,
    /// `rfc9421`: the components that must be signed.
    pub cover: Option<Vec<String>>,
    /// `rfc9421`: the algorithms that are accepted.
    pub algorithms: Option<Vec<MessageAlgorithm>>,
    /// `paypal` and `rfc9421`: how far the time of sending may be off.
    pub tolerance: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    Hmac,
    Ed25519,
    RsaPkcs1Sha256,
    EcdsaP256Sha256,
    Token,
    Basic,
    None,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hmac => "hmac",
            Self::Ed25519 => "ed25519",
            Self::RsaPkcs1Sha256 => "rsa-pkcs1-sha256",
            Self::EcdsaP256Sha256 => "ecdsa-p256-sha256",
            Self::Token => "token",
            Self::Basic => "basic",
            Self::None => "none",
        }
    }
}

/// Built-in code for what the other keys cannot say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Adapter {
    AdyenItems,
    Paypal,
    Rfc9421,
}

impl Adapter {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AdyenItems => "adyen-items",
            Self::Paypal => "paypal",
            Self::Rfc9421 => "rfc9421",
        }
    }
}

/// The hash of an HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hash {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

/// The form of the header that holds the signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    #[default]
    Plain,
    List,
    Pairs,
    VersionedList,
}

/// Algorithms of HTTP message signatures (RFC 9421, section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum MessageAlgorithm {
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    #[serde(rename = "ed25519")]
    Ed25519,
    #[serde(rename = "rsa-v1_5-sha256")]
    RsaV15Sha256,
    #[serde(rename = "rsa-pss-sha512")]
    RsaPssSha512,
    #[serde(rename = "ecdsa-p256-sha256")]
    EcdsaP256Sha256,
    #[serde(rename = "ecdsa-p384-sha384")]
    EcdsaP384Sha384,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimestampSection {
    /// `header:NAME` or `pair:KEY`.
    pub from: String,
    #[serde(default)]
    pub unit: TimeUnit,
    /// `300s` if nothing is said.
    pub tolerance: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConditionSection {
    pub at: String,
    pub is: OneOrMany<Scalar>,
}

/// `{ at = "/data/amount", is = "{amount:minor}" }`: a value of an event, and what it is of the
/// transaction.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SameSection {
    pub at: String,
    pub is: String,
}

/// A text, a whole number or a boolean, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar(pub String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;

        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a whole number or a boolean")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
        }

        deserializer.deserialize_any(ScalarVisitor)
    }
}

/// One value, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrManyVisitor<T>(PhantomData<T>);

        impl<T> OneOrManyVisitor<T> {
            fn one<'de, E: de::Error>(
                value: impl IntoDeserializer<'de, E>,
            ) -> Result<OneOrMany<T>, E>
            where
                T: Deserialize<'de>,
            {
                Ok(OneOrMany(vec![T::deserialize(value.into_deserializer())?]))
            }
        }

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one value or a list of them")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
                Self::one(value)
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
                Self::one(value)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
                Self::one(value)
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
                Self::one(value)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let value = T::deserialize(MapAccessDeserializer::new(map))?;
                Ok(OneOrMany(vec![value]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(OneOrMany(values))
            }
        }

        deserializer.deserialize_any(OneOrManyVisitor(PhantomData))
    }
}
