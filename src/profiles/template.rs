//! Texts with placeholders, such as `/v2/payouts/{id}`. Read when a profile is loaded: a
//! placeholder that does not exist is an error then, and never a text that is sent.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de};

use super::period::Shift;

/// What may stand between braces, for errors and documentation.
const ALLOWED: &str = "{id}, {id:hex}, {amount:minor}, {amount:decimal}, {amount:number}, \
    {currency}, {currency:lower}, {reference}, {metadata}, {metadata.NAME}, {webhook_url}, \
    {provider_id}, {created_at}, {now}, the last two also with a margin such as \
    {created_at:-1h} or {now:+15m}, {var:NAME} or {secret:NAME}, each with a `?` before the \
    brace to leave the field out where there is nothing; a brace itself is written twice";

/// Longest name of a variable or a secret.
const MAX_NAME: usize = 64;

/// A text with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    Placeholder(Placeholder),
}

/// What is put in, and whether its absence leaves the whole field out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placeholder {
    pub(super) source: Source,
    pub(super) is_optional: bool,
}

/// What a placeholder stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// Our id, with hyphens.
    Id,
    /// Our id, 32 hexadecimal digits.
    IdHex,
    /// In minor units, a number.
    AmountMinor,
    /// In major units, a text such as `12.50`.
    AmountDecimal,
    /// In major units, a JSON number such as `12.50`.
    AmountNumber,
    Currency,
    CurrencyLower,
    Reference,
    /// The whole object.
    Metadata,
    MetadataEntry(String),
    WebhookUrl,
    /// The third party's id.
    ProviderId,
    /// When the transaction was accepted, with a margin; RFC 3339 in UTC to the second.
    CreatedAt(Option<Shift>),
    /// With a margin; RFC 3339 in UTC to the second.
    Now(Option<Shift>),
    /// From the deployment's settings.
    Var(String),
    /// From the deployment's secrets.
    Secret(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id => f.write_str("{id}"),
            Self::IdHex => f.write_str("{id:hex}"),
            Self::AmountMinor => f.write_str("{amount:minor}"),
            Self::AmountDecimal => f.write_str("{amount:decimal}"),
            Self::AmountNumber => f.write_str("{amount:number}"),
            Self::Currency => f.write_str("{currency}"),
            Self::CurrencyLower => f.write_str("{currency:lower}"),
            Self::Reference => f.write_str("{reference}"),
            Self::Metadata => f.write_str("{metadata}"),
            Self::MetadataEntry(name) => write!(f, "{{metadata.{name}}}"),
            Self::WebhookUrl => f.write_str("{webhook_url}"),
            Self::ProviderId => f.write_str("{provider_id}"),
            Self::CreatedAt(None) => f.write_str("{created_at}"),
            Self::CreatedAt(Some(shift)) => write!(f, "{{created_at:{shift}}}"),
            Self::Now(None) => f.write_str("{now}"),
            Self::Now(Some(shift)) => write!(f, "{{now:{shift}}}"),
            Self::Var(name) => write!(f, "{{var:{name}}}"),
            Self::Secret(name) => write!(f, "{{secret:{name}}}"),
        }
    }
}

impl Template {
    /// Reads a text with placeholders. The error says what is allowed.
    pub fn parse(source: &str) -> Result<Self, String> {
        let placeholder = |inner: &str| placeholder(inner).map(Part::Placeholder);
        let parts = split(source, ALLOWED, Part::Text, placeholder)?;
        Ok(Self { source: source.to_owned(), parts })
    }

    /// As it is written in the profile.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The placeholder that the whole text is.
    pub(super) fn only_placeholder(&self) -> Option<&Placeholder> {
        match &self.parts[..] {
            [Part::Placeholder(placeholder)] => Some(placeholder),
            _ => None,
        }
    }

    /// The text, where it has no placeholder.
    pub(super) fn literal(&self) -> Option<&str> {
        match &self.parts[..] {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    pub(super) fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Placeholder(placeholder) => Some(placeholder),
        })
    }

    pub(super) fn uses(&self, source: impl Fn(&Source) -> bool) -> bool {
        self.placeholders().any(|placeholder| source(&placeholder.source))
    }

    pub(super) fn has_secret(&self) -> bool {
        self.uses(|source| matches!(source, Source::Secret(_)))
    }

    pub(super) fn has_our_id(&self) -> bool {
        self.uses(|source| matches!(source, Source::Id | Source::IdHex))
    }

    /// Whether it has our id and is sent whatever the transaction is like.
    pub(super) fn always_has_our_id(&self) -> bool {
        self.has_our_id() && !self.placeholders().any(|placeholder| placeholder.is_optional)
    }

    /// Gives this margin to the times that are written without one: before the transaction was
    /// accepted, and after now.
    pub(super) fn widen_times(&mut self, margin: Duration) {
        for part in &mut self.parts {
            let Part::Placeholder(placeholder) = part else { continue };
            match &mut placeholder.source {
                Source::CreatedAt(shift @ None) => *shift = Some(Shift::back(margin)),
                Source::Now(shift @ None) => *shift = Some(Shift::ahead(margin)),
                _ => {}
            }
        }
    }
}

/// The parts of a text: what stands between braces, and what outside of them. A brace that is
/// written twice is one that stands for itself.
pub(super) fn split<P>(
    source: &str,
    allowed: &str,
    text_part: impl Fn(String) -> P,
    placeholder: impl Fn(&str) -> Result<P, String>,
) -> Result<Vec<P>, String> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = source;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let from = &rest[at..];
        if from.starts_with("{{") || from.starts_with("}}") {
            text.push_str(&from[..1]);
            rest = &from[2..];
            continue;
        }
        let inner = from.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let Some((inner, after)) = inner else {
            return Err(format!("'{source}' has a brace without its partner: write {allowed}"));
        };
        if !text.is_empty() {
            parts.push(text_part(std::mem::take(&mut text)));
        }
        parts.push(placeholder(inner)?);
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(text_part(text));
    }
    Ok(parts)
}

/// What stands between two braces.
fn placeholder(inner: &str) -> Result<Placeholder, String> {
    let (name, is_optional) = match inner.strip_suffix('?') {
        Some(name) => (name, true),
        None => (inner, false),
    };
    let unknown = || format!("'{{{inner}}}' is not a placeholder: {ALLOWED}");
    let source = match name {
        "id" => Source::Id,
        "id:hex" => Source::IdHex,
        "amount:minor" => Source::AmountMinor,
        "amount:decimal" => Source::AmountDecimal,
        "amount:number" => Source::AmountNumber,
        "currency" => Source::Currency,
        "currency:lower" => Source::CurrencyLower,
        "reference" => Source::Reference,
        "metadata" => Source::Metadata,
        "webhook_url" => Source::WebhookUrl,
        "provider_id" => Source::ProviderId,
        "created_at" => Source::CreatedAt(None),
        "now" => Source::Now(None),
        _ => match (name.strip_prefix("metadata."), name.split_once(':')) {
            (Some(key), _) if !key.is_empty() => Source::MetadataEntry(key.to_owned()),
            (_, Some(("var", name))) => Source::Var(setting_name(name)?),
            (_, Some(("secret", name))) => Source::Secret(setting_name(name)?),
            (_, Some(("created_at", shift))) => Source::CreatedAt(Some(Shift::parse(shift)?)),
            (_, Some(("now", shift))) => Source::Now(Some(Shift::parse(shift)?)),
            _ => return Err(unknown()),
        },
    };
    Ok(Placeholder { source, is_optional })
}

/// A name that can be a part of an environment variable's and of a file's name.
fn setting_name(name: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if begins && name.len() <= MAX_NAME && name.bytes().all(is_plain) {
        return Ok(name.to_owned());
    }
    Err(format!("'{name}' is not a name: at most {MAX_NAME} of a-z, 0-9 and _, a letter first"))
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> Vec<(String, bool)> {
        let template = Template::parse(text).unwrap();
        let of = |found: &Placeholder| (found.source.to_string(), found.is_optional);
        template.placeholders().map(of).collect()
    }

    #[test]
    fn every_placeholder_is_read_and_written_alike() {
        for name in [
            "id",
            "id:hex",
            "amount:minor",
            "amount:decimal",
            "amount:number",
            "currency",
            "currency:lower",
            "reference",
            "metadata",
            "metadata.a b.c",
            "webhook_url",
            "provider_id",
            "created_at",
            "created_at:-1h",
            "now",
            "now:+15m",
            "var:x_1",
            "secret:key",
        ] {
            let text = format!("{{{name}}}");
            assert_eq!(sources(&text), [(text.clone(), false)]);
            assert_eq!(sources(&format!("a{{{name}?}}b")), [(text, true)]);
        }
    }

    #[test]
    fn what_is_no_placeholder_is_refused_with_those_that_are() {
        for text in ["{foo}", "{}", "{Id}", "{id", "id}", "{metadata.}", "{secret:}", "{var:A}"] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains("{id:hex}") || error.contains("a-z, 0-9"), "{text}: {error}");
        }
        for text in ["{created_at:}", "{created_at:1h}", "{now:-1}", "{now:soon}"] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains("such as -1h"), "{text}: {error}");
        }
        assert_eq!(Template::parse("{{id}}").unwrap().literal(), Some("{id}"));
        assert_eq!(Template::parse("").unwrap().literal(), Some(""));
    }
}
