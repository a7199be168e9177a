//! Where a value stands in a request.

/// Most steps of a JSON pointer.
const MAX_POINTER_DEPTH: usize = 16;

/// A JSON pointer (RFC 6901): the names and positions from the outermost value inwards. Empty, it
/// is the whole value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(pub Vec<String>);

impl Pointer {
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let steps = text.strip_prefix('/').ok_or("must be a JSON pointer such as `/data/id`")?;
        let steps: Option<Vec<_>> = steps.split('/').map(unescaped).collect();
        let steps = steps.ok_or("must write `~` as `~0` and `/` as `~1` in a JSON pointer")?;
        if steps.len() > MAX_POINTER_DEPTH {
            return Err("must be a JSON pointer of at most 16 steps");
        }
        Ok(Self(steps))
    }
}

fn unescaped(step: &str) -> Option<String> {
    let mut parts = step.split('~');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (escaped, rest) = match part.as_bytes().first()? {
            b'0' => ('~', &part[1..]),
            b'1' => ('/', &part[1..]),
            _ => return None,
        };
        plain.push(escaped);
        plain.push_str(rest);
    }
    Some(plain)
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `header:NAME`; the name in lower case.
    Header(String),
    /// `/pointer`, in the event: in one of `items`, or in the body where there are none.
    Event(Pointer),
    /// `body:/pointer`, in the whole body.
    Body(Pointer),
}

impl Source {
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const ALLOWED: &str = "must be `/pointer`, `body:/pointer` or `header:name`";
        if let Some(name) = text.strip_prefix("header:") {
            return header_name(name).map(Self::Header).ok_or(ALLOWED);
        }
        if let Some(pointer) = text.strip_prefix("body:") {
            return Pointer::parse(pointer).map(Self::Body);
        }
        if text.starts_with('/') { Pointer::parse(text).map(Self::Event) } else { Err(ALLOWED) }
    }
}

/// The name of a header in lower case; `None` where it can be none (RFC 9110, section 5.6.2).
pub fn header_name(name: &str) -> Option<String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_name = !name.is_empty() && name.bytes().all(is_token);
    is_name.then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(steps: &[&str]) -> Pointer {
        Pointer(steps.iter().map(|step| (*step).to_owned()).collect())
    }

    #[test]
    fn pointers_and_headers_are_read() {
        for (text, expected) in [
            ("/a/0/b", Source::Event(pointer(&["a", "0", "b"]))),
            ("/a~1b~0/", Source::Event(pointer(&["a/b~", ""]))),
            ("body:/a", Source::Body(pointer(&["a"]))),
            ("body:", Source::Body(pointer(&[]))),
            ("header:X-Id", Source::Header("x-id".to_owned())),
        ] {
            assert_eq!(Source::parse(text), Ok(expected), "{text}");
        }
        for text in ["", "a", "/a~", "/a~2", "header:", "header:a b", "body:a", &"/a".repeat(17)] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
    }
}
