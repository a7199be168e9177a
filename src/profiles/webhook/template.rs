//! What a sender signs: a text with placeholders, filled with the parts of a request.

use std::{borrow::Cow, collections::BTreeMap};

use ring::digest;

use super::{
    Rejection,
    incoming::{Incoming, UrlParts},
    source::header_name,
};

const PLACEHOLDERS: &str = "`{body}`, `{body:sha256}`, `{timestamp}`, `{url}`, `{method}`, \
                            `{path}`, `{query}`, `{signed_headers}`, `{header:name}`, `{var:name}`";
/// Most headers that a webhook may name as signed.
const MAX_SIGNED_HEADERS: usize = 32;

/// One part of what is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Text(String),
    Body,
    /// SHA-256 of the body in lower-case hex.
    BodySha256,
    /// CRC-32 of the body in decimal: no profile can write it, because it proves nothing.
    BodyCrc32,
    /// As it was written by the sender.
    Timestamp,
    Url,
    Method,
    Path,
    Query,
    /// The names that the webhook lists, and the values of these headers.
    SignedHeaders,
    /// The name in lower case.
    Header(String),
    Var(String),
}

impl Part {
    /// Whether the sender of a request chooses the text, and its length.
    fn is_free(&self) -> bool {
        !matches!(self, Self::Text(_) | Self::BodySha256 | Self::BodyCrc32 | Self::Var(_))
    }
}

/// The parts in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub Vec<Part>);

impl Template {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            if open > 0 {
                parts.push(Part::Text(rest[..open].to_owned()));
            }
            let inner = rest[open..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
            let Some((name, after)) = inner else {
                return Err("must have a placeholder in each pair of braces".to_owned());
            };
            let part = placeholder(name).ok_or_else(|| {
                format!("has the unknown placeholder `{{{name}}}`; allowed are {PLACEHOLDERS}")
            })?;
            parts.push(part);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// Puts in the values of the variables; names one that there is none of.
    pub fn with_vars(self, vars: &BTreeMap<String, String>) -> Result<Self, String> {
        let parts = self.0.into_iter().map(|part| match part {
            Part::Var(name) => vars.get(&name).cloned().map(Part::Text).ok_or(name),
            part => Ok(part),
        });
        parts.collect::<Result<_, _>>().map(Self)
    }

    pub fn contains(&self, part: &Part) -> bool {
        self.0.contains(part)
    }

    /// The headers that are named in it.
    pub fn headers(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Header(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Whether two parts stand side by side with nothing fixed between them, so that somebody could
    /// move the end of the first into the second and what is signed would stay the same.
    ///
    /// A timestamp has its bounds: with a digit more or less it is outside each tolerance. So has
    /// JSON: cut or continued, it is none, or none with the same keys.
    pub fn has_ambiguous_pair(&self, is_json: bool) -> bool {
        self.0.windows(2).any(|pair| {
            let is_safe = match pair {
                [Part::Timestamp, _] | [_, Part::Timestamp] => true,
                [Part::Body, _] | [_, Part::Body] => is_json,
                [Part::Method, Part::Path | Part::Url] => true,
                _ => false,
            };
            pair[0].is_free() && pair[1].is_free() && !is_safe
        })
    }

    /// What is signed, in pieces.
    pub fn fill<'a>(&'a self, with: &Filling<'a>) -> Result<Vec<Cow<'a, [u8]>>, Rejection> {
        let mut pieces = Vec::with_capacity(self.0.len());
        let Incoming { method, url, headers, body } = *with.incoming;
        for part in &self.0 {
            pieces.push(match part {
                Part::Text(text) => text.as_bytes().into(),
                Part::Body => body.into(),
                Part::BodySha256 => {
                    hex::encode(digest::digest(&digest::SHA256, body)).into_bytes().into()
                }
                Part::BodyCrc32 => crc32fast::hash(body).to_string().into_bytes().into(),
                Part::Timestamp => with.timestamp.unwrap_or_default().as_bytes().into(),
                Part::Url => url.as_bytes().into(),
                Part::Method => method.as_bytes().into(),
                Part::Path => UrlParts::of(url).path.as_bytes().into(),
                Part::Query => UrlParts::of(url).query.unwrap_or_default().as_bytes().into(),
                Part::SignedHeaders => {
                    let names = with.names.unwrap_or_default();
                    let mut text = names.to_owned();
                    for name in listed(names).take(MAX_SIGNED_HEADERS) {
                        text.push('.');
                        text.push_str(headers.required(name)?);
                    }
                    text.into_bytes().into()
                }
                Part::Header(name) => headers.required(name)?.as_bytes().into(),
                Part::Var(_) => b"".into(),
            });
        }
        Ok(pieces)
    }

    /// The headers that a filled template covers, in lower case.
    pub fn covered(&self, names: Option<&str>) -> Vec<String> {
        let listed = listed(names.unwrap_or_default()).take(MAX_SIGNED_HEADERS);
        let listed = listed.map(str::to_ascii_lowercase);
        self.headers().map(str::to_owned).chain(listed).collect()
    }
}

/// What fills a template.
#[derive(Debug)]
pub struct Filling<'a> {
    pub incoming: &'a Incoming<'a>,
    pub timestamp: Option<&'a str>,
    /// The headers that the webhook names as signed.
    pub names: Option<&'a str>,
}

fn listed(names: &str) -> impl Iterator<Item = &str> {
    names.split(' ').filter(|name| !name.is_empty())
}

fn placeholder(name: &str) -> Option<Part> {
    Some(match name {
        "body" => Part::Body,
        "body:sha256" => Part::BodySha256,
        "timestamp" => Part::Timestamp,
        "url" => Part::Url,
        "method" => Part::Method,
        "path" => Part::Path,
        "query" => Part::Query,
        "signed_headers" => Part::SignedHeaders,
        _ => match name.split_once(':')? {
            ("header", header) => Part::Header(header_name(header)?),
            ("var", var) if !var.is_empty() => Part::Var(var.to_owned()),
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::{super::incoming::Headers, *};

    #[test]
    fn templates_are_read() {
        let template = Template::parse("{header:X-Id}.{timestamp}.{body}").unwrap();
        let dot = || Part::Text(".".to_owned());
        let id = Part::Header("x-id".to_owned());
        assert_eq!(template.0, [id, dot(), Part::Timestamp, dot(), Part::Body]);
        for text in ["{", "}", "{body", "body}", "{{body}}", "{}", "{Body}", "{header:}", "{crc32}"]
        {
            assert!(Template::parse(text).is_err(), "{text}");
        }
        let said = Template::parse("{bdy}").unwrap_err();
        assert!(said.contains("`{bdy}`") && said.contains("`{body}`"), "{said}");
    }

    #[test]
    fn parts_that_a_sender_chooses_need_a_text_between_them() {
        let is_ambiguous =
            |text: &str, is_json| Template::parse(text).unwrap().has_ambiguous_pair(is_json);
        for (text, with_json, with_form) in [
            ("{timestamp}.{header:a}.{body}", false, false),
            ("{timestamp}{body}", false, false),
            ("{header:a}{timestamp}{body}", false, false),
            ("{timestamp}{method}{path}", false, false),
            ("{var:a}{body}", false, false),
            ("{url}{body}", false, true),
            ("{header:a}{body}", false, true),
            ("{header:a}{header:b}.{body}", true, true),
            ("{path}{query}.{body}", true, true),
            ("{signed_headers}{header:a}.{body}", true, true),
        ] {
            let found = (is_ambiguous(text, true), is_ambiguous(text, false));
            assert_eq!(found, (with_json, with_form), "{text}");
        }
    }

    #[test]
    fn a_filled_template_is_what_was_signed() {
        let lines: [(&str, &[u8]); 2] = [("A", b"1"), ("b", b"2")];
        let incoming = Incoming {
            method: "POST",
            url: "https://x.y/p?q=1",
            headers: Headers(&lines),
            body: b"body",
        };
        let filled = |text: &str, names| {
            let filling = Filling { incoming: &incoming, timestamp: Some("7"), names };
            let vars = BTreeMap::from([("v".to_owned(), "var".to_owned())]);
            let template = Template::parse(text).unwrap().with_vars(&vars).unwrap();
            template.fill(&filling).map(|pieces| String::from_utf8(pieces.concat()).unwrap())
        };
        let text = "{method} {url} {path} {query} {header:a} {var:v} {timestamp}:{body}";
        let expected = "POST https://x.y/p?q=1 /p q=1 1 var 7:body";
        assert_eq!(filled(text, None).unwrap(), expected);
        assert_eq!(filled("{signed_headers}.", Some("B a")).unwrap(), "B a.2.1.");
        let missing = Err(Rejection::MissingHeader("c".to_owned()));
        assert_eq!(filled("{signed_headers}", Some("a c")), missing);
        assert_eq!(filled("{header:c}", None), missing);
    }
}
