//! Requests as they are sent: rendered from a transaction, without any input or output.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::form_urlencoded;

use super::{
    body::{Body, Node, Pairs},
    keywords::keywords,
    template::{Source, Template},
    values::{RenderError, Rendered, Renderer, Value},
};

keywords! {
    /// The method of a request.
    Method {
        Get = "GET",
        Post = "POST",
        Put = "PUT",
        Patch = "PATCH",
    }
}

keywords! {
    /// How a body is written.
    Content {
        Json = "json",
        Form = "form",
    }
}

/// What stays as it is in a path segment: RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A header.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    pub name: String,
    pub value: String,
    /// Holds a secret: not to be logged, and marked as sensitive where it is sent.
    pub is_secret: bool,
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.is_secret { "[redacted]" } else { &self.value };
        write!(f, "{}: {value}", self.name)
    }
}

/// A request, without what the client adds: its host, its length, its credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    /// Begins with a slash; encoded.
    pub path: String,
    /// Not encoded.
    pub query: Vec<(String, String)>,
    pub headers: Vec<Header>,
    /// How `body` is written; `None`: there is none.
    pub content: Option<Content>,
    pub body: Vec<u8>,
}

impl Request {
    /// The path with the query, encoded: what is appended to the base URL.
    pub fn target(&self) -> String {
        if self.query.is_empty() {
            return self.path.clone();
        }
        let query =
            form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.query).finish();
        format!("{}?{query}", self.path)
    }

    pub fn content_type(&self) -> Option<&'static str> {
        self.content.map(|content| match content {
            Content::Json => "application/json",
            Content::Form => "application/x-www-form-urlencoded",
        })
    }
}

/// Bodies hold what clients sent, and may hold secrets.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("headers", &self.headers)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish_non_exhaustive()
    }
}

impl Renderer<'_> {
    /// The path, each value encoded so that it stays within its segment.
    pub(super) fn path(&self, template: &Template) -> Result<String, RenderError> {
        let encode = |value: String| {
            if value.is_empty() {
                let place = template.as_str().to_owned();
                let why = "a part of the path is empty, which would be another path";
                return Err(RenderError::Unsendable { place, why });
            }
            Ok(utf8_percent_encode(&value, SEGMENT).to_string())
        };
        let path = self.text_with(template, encode)?.unwrap_or_default();
        // An encoded dot is a dot to many servers, and a value may be one or two of them.
        if path.split('/').any(is_dots) {
            let why = "'.' or '..' as a part of the path leads elsewhere";
            return Err(RenderError::Unsendable { place: template.as_str().to_owned(), why });
        }
        Ok(path)
    }

    pub(super) fn query(&self, pairs: &Pairs) -> Result<Vec<(String, String)>, RenderError> {
        let pair = |(name, template): &(String, Template)| {
            Ok(self.text(template)?.map(|value| (name.clone(), value)))
        };
        pairs.0.iter().filter_map(|pair_| pair(pair_).transpose()).collect()
    }

    pub(super) fn header(&self, name: &str, template: &Template) -> Rendered<Header> {
        let Some(value) = self.text(template)? else { return Ok(None) };
        let is_plain = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        if !value.bytes().all(is_plain) || value.trim() != value {
            let why = "a header has visible ASCII characters only";
            let place = format!("the header {name}");
            // What the transaction has no part in is no fault of it.
            let is_set = |source: &Source| matches!(source, Source::Var(_) | Source::Secret(_));
            return Err(match template.uses(|source| !is_set(source)) {
                true => RenderError::Unsendable { place, why },
                false => RenderError::Misconfigured { place, why },
            });
        }
        Ok(Some(Header { name: name.to_owned(), value, is_secret: template.has_secret() }))
    }

    pub(super) fn headers(&self, pairs: &Pairs) -> Result<Vec<Header>, RenderError> {
        let header = |(name, template): &(String, Template)| self.header(name, template);
        pairs.0.iter().filter_map(|pair| header(pair).transpose()).collect()
    }

    pub(super) fn body(&self, body: &Body, content: Content) -> Result<Vec<u8>, RenderError> {
        match content {
            Content::Json => {
                let mut out = Vec::new();
                self.object(&body.0, &mut out)?;
                Ok(out)
            }
            Content::Form => {
                let mut form = form_urlencoded::Serializer::new(String::new());
                for (name, node) in &body.0 {
                    let value = match node {
                        Node::Text(template) => self.text(template)?,
                        Node::Number(number) => Some(number.to_string()),
                        Node::Truth(truth) => Some(truth.to_string()),
                        // Refused when the profile was loaded.
                        Node::Array(_) | Node::Table(_) => None,
                    };
                    if let Some(value) = value {
                        form.append_pair(name, &value);
                    }
                }
                Ok(form.finish().into_bytes())
            }
        }
    }

    fn object(&self, entries: &[(String, Node)], out: &mut Vec<u8>) -> Result<(), RenderError> {
        out.push(b'{');
        let begin = out.len();
        for (name, node) in entries {
            let before = out.len();
            if before > begin {
                out.push(b',');
            }
            write_text(name, out);
            out.push(b':');
            if !self.json(node, out)? {
                out.truncate(before);
            }
        }
        out.push(b'}');
        Ok(())
    }

    /// Writes a value; `false`: it is to be left out.
    fn json(&self, node: &Node, out: &mut Vec<u8>) -> Result<bool, RenderError> {
        match node {
            Node::Number(number) => out.extend(number.to_string().bytes()),
            Node::Truth(truth) => out.extend(truth.to_string().bytes()),
            Node::Table(entries) => self.object(entries, out)?,
            Node::Array(nodes) => {
                out.push(b'[');
                let begin = out.len();
                for node in nodes {
                    let before = out.len();
                    if before > begin {
                        out.push(b',');
                    }
                    if !self.json(node, out)? {
                        out.truncate(before);
                    }
                }
                out.push(b']');
            }
            Node::Text(template) => match self.value(template)? {
                None => return Ok(false),
                Some(Value::Text(text)) => write_text(&text, out),
                Some(Value::Number(number)) => out.extend(number.bytes()),
                Some(Value::Object(entries)) => {
                    out.push(b'{');
                    for (nth, (name, text)) in entries.iter().enumerate() {
                        if nth > 0 {
                            out.push(b',');
                        }
                        write_text(name, out);
                        out.push(b':');
                        write_text(text, out);
                    }
                    out.push(b'}');
                }
            },
        }
        Ok(true)
    }
}

/// Writes a JSON string as serde_json does.
fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend(serde_json::Value::from(text).to_string().bytes());
}

/// Whether a path segment means this or the upper directory, encoded or not.
pub(super) fn is_dots(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".."
}

/// Headers that the client sets, or that say where a message ends.
const RESERVED: [&str; 10] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "te",
    "traceparent",
    "transfer-encoding",
    "upgrade",
];

/// What is wrong with one of them in a profile.
pub(super) const SET_BY_THE_PROGRAM: &str = "is set by the program";

pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
}

/// Whether a text can be a header's name (RFC 9110, section 5.1).
pub(super) fn is_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token)
}
