//! Where a value stands in a request.

use crate::profiles::{pointer::Pointer, request::is_header_name};

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
    pub fn parse(text: &str) -> Result<Self, String> {
        const ALLOWED: &str = "must be `/pointer`, `body:/pointer` or `header:name`";
        if let Some(name) = text.strip_prefix("header:") {
            return header_name(name).map(Self::Header).ok_or_else(|| ALLOWED.to_owned());
        }
        if let Some(pointer) = text.strip_prefix("body:") {
            return Pointer::parse(pointer).map(Self::Body);
        }
        if !text.starts_with('/') {
            return Err(ALLOWED.to_owned());
        }
        Pointer::parse(text).map(Self::Event)
    }
}

/// The name of a header in lower case; `None` where it can be none (RFC 9110, section 5.6.2).
pub fn header_name(name: &str) -> Option<String> {
    is_header_name(name).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_and_headers_are_read() {
        for (text, expected) in [
            ("/a/0/b", Source::Event(Pointer::of(&["a", "0", "b"]))),
            ("/a~1b~0/", Source::Event(Pointer::of(&["a/b~", ""]))),
            ("body:/a", Source::Body(Pointer::of(&["a"]))),
            ("body:", Source::Body(Pointer::of(&[] as &[&str]))),
            ("header:X-Id", Source::Header("x-id".to_owned())),
        ] {
            assert_eq!(Source::parse(text), Ok(expected), "{text}");
        }
        for text in ["", "a", "/a~", "/a~2", "header:", "header:a b", "body:a", &"/a".repeat(17)] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
    }
}
