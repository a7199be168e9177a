//! What placeholders stand for: a transaction, and what the deployment has set.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use chrono::{DateTime, SecondsFormat, Utc};
use uuid::Uuid;

use super::{
    amount::{self, AmountError, Exponents},
    period::Shift,
    template::{Part, Placeholder, Source, Template},
};
use crate::domain::Content;

/// A secret, which `Debug` never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// The text itself; do not log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What a deployment has set for a profile: its variables and secrets, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    pub vars: BTreeMap<String, String>,
    pub secrets: BTreeMap<String, SecretText>,
}

/// The names of the variables and secrets that a profile uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Without these the profile does not work.
    pub vars: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
    /// These may be left out.
    pub optional_vars: BTreeSet<String>,
    pub optional_secrets: BTreeSet<String>,
}

impl Names {
    pub(super) fn collect<'a>(templates: impl IntoIterator<Item = &'a Template>) -> Self {
        let mut names = Self::default();
        for placeholder in templates.into_iter().flat_map(Template::placeholders) {
            let (set, name) = match (&placeholder.source, placeholder.is_optional) {
                (Source::Var(name), false) => (&mut names.vars, name),
                (Source::Var(name), true) => (&mut names.optional_vars, name),
                (Source::Secret(name), false) => (&mut names.secrets, name),
                (Source::Secret(name), true) => (&mut names.optional_secrets, name),
                _ => continue,
            };
            set.insert(name.clone());
        }
        names.optional_vars.retain(|name| !names.vars.contains(name));
        names.optional_secrets.retain(|name| !names.secrets.contains(name));
        names
    }

    /// Values that name themselves, such as `<secret token>`, to show a request without any secret.
    pub fn masks(&self) -> Values {
        let named = |kind: &str, name: &String| (name.clone(), format!("<{kind} {name}>"));
        let vars = self.vars.union(&self.optional_vars).map(|name| named("var", name));
        let secrets = self.secrets.union(&self.optional_secrets).map(|name| named("secret", name));
        Values {
            vars: vars.collect(),
            secrets: secrets.map(|(name, text)| (name, SecretText(text))).collect(),
        }
    }
}

/// A transaction, and what else a request is made of.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub id: Uuid,
    pub content: &'a Content,
    /// The third party's id, once it is known.
    pub provider_id: Option<&'a str>,
    /// When the transaction was accepted.
    pub created_at: DateTime<Utc>,
    pub now: DateTime<Utc>,
    /// Where the third party's webhooks go.
    pub webhook_url: &'a str,
    pub values: &'a Values,
}

/// Why a request cannot be made. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The transaction lacks what the third party needs: it can never be sent.
    #[error("the transaction has no {0}, which this third party needs")]
    Missing(String),
    #[error("the third party's id is not known yet")]
    NoProviderId,
    /// The deployment has not set it.
    #[error("{0} is not set")]
    NotSet(String),
    #[error(transparent)]
    Amount(#[from] AmountError),
    #[error("{place} cannot be sent: {why}")]
    Unsendable { place: String, why: &'static str },
    /// What the deployment has set for it cannot be sent.
    #[error("{place} cannot be sent as it is set: {why}")]
    Misconfigured { place: String, why: &'static str },
}

impl RenderError {
    /// Whether the deployment is at fault, and not the transaction.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::NotSet(_) | Self::Misconfigured { .. })
    }
}

/// What a placeholder stands for in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Text(String),
    /// A JSON number, as it is written.
    Number(String),
    Object(&'a BTreeMap<String, String>),
}

/// What a whole text is in one transaction. `None`: leave the field out.
pub(super) type Rendered<T> = Result<Option<T>, RenderError>;

pub(super) struct Renderer<'a> {
    pub(super) inputs: Inputs<'a>,
    pub(super) exponents: &'a Exponents,
}

impl<'a> Renderer<'a> {
    /// The value of a text: where that is one placeholder, of its type.
    pub(super) fn value(&self, template: &Template) -> Rendered<Value<'a>> {
        if let Some(placeholder) = template.only_placeholder() {
            return self.placeholder(placeholder);
        }
        Ok(self.text(template)?.map(Value::Text))
    }

    /// The text, with each placeholder's value as `encode` writes it.
    pub(super) fn text_with(
        &self,
        template: &Template,
        encode: impl Fn(String) -> Result<String, RenderError>,
    ) -> Rendered<String> {
        let mut text = String::new();
        for part in template.parts() {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Placeholder(placeholder) => match self.placeholder(placeholder)? {
                    None => return Ok(None),
                    Some(Value::Text(value) | Value::Number(value)) => {
                        text.push_str(&encode(value)?);
                    }
                    Some(Value::Object(_)) => {
                        let place = placeholder.source.to_string();
                        let why = "an object does not fit into a text";
                        return Err(RenderError::Unsendable { place, why });
                    }
                },
            }
        }
        Ok(Some(text))
    }

    pub(super) fn text(&self, template: &Template) -> Rendered<String> {
        self.text_with(template, Ok)
    }

    fn placeholder(&self, placeholder: &Placeholder) -> Rendered<Value<'a>> {
        let value = self.source(&placeholder.source)?;
        if value.is_some() || placeholder.is_optional {
            return Ok(value);
        }
        let name = placeholder.source.to_string();
        Err(match &placeholder.source {
            Source::ProviderId => RenderError::NoProviderId,
            Source::Var(_) | Source::Secret(_) => RenderError::NotSet(name),
            _ => RenderError::Missing(name),
        })
    }

    fn source(&self, source: &Source) -> Rendered<Value<'a>> {
        let Inputs { id, content, provider_id, created_at, now, webhook_url, values } = self.inputs;
        let currency = content.currency.as_deref();
        let time = |at: DateTime<Utc>, shift: Option<Shift>| {
            let at = shift.map_or(at, |shift| shift.apply(at));
            at.to_rfc3339_opts(SecondsFormat::Secs, true)
        };
        let money = || content.amount.zip(currency);
        let text = match source {
            Source::Id => Some(id.to_string()),
            Source::IdHex => Some(id.simple().to_string()),
            Source::AmountMinor => {
                let amount = content.amount.map(|n| amount::minor(n, currency, self.exponents));
                return Ok(amount.transpose()?.map(|minor| Value::Number(minor.to_string())));
            }
            Source::AmountNumber => {
                let amount = money().map(|(n, code)| amount::decimal(n, code, self.exponents));
                return Ok(amount.transpose()?.map(Value::Number));
            }
            Source::Metadata => return Ok(content.metadata.as_ref().map(Value::Object)),
            Source::AmountDecimal => {
                money().map(|(n, code)| amount::decimal(n, code, self.exponents)).transpose()?
            }
            Source::Currency => currency.map(str::to_owned),
            Source::CurrencyLower => currency.map(str::to_ascii_lowercase),
            Source::Reference => content.reference.clone(),
            Source::MetadataEntry(key) => {
                content.metadata.as_ref().and_then(|metadata| metadata.get(key)).cloned()
            }
            Source::WebhookUrl => Some(webhook_url.to_owned()),
            Source::ProviderId => provider_id.map(str::to_owned),
            Source::CreatedAt(shift) => Some(time(created_at, *shift)),
            Source::Now(shift) => Some(time(now, *shift)),
            Source::Var(name) => values.vars.get(name).cloned(),
            Source::Secret(name) => values.secrets.get(name).map(|text| text.0.clone()),
        };
        Ok(text.map(Value::Text))
    }
}
