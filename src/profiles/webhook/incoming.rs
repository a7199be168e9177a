//! A request as it arrived.

use super::Rejection;

/// A request as it arrived. Nothing of it is decoded yet.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    pub method: &'a str,
    /// The URL that the third party called, with its query: the configured public URL, because
    /// behind a proxy the server sees another one than was signed.
    pub url: &'a str,
    pub headers: Headers<'a>,
    pub body: &'a [u8],
}

/// The headers, a line each.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a>(pub &'a [(&'a str, &'a [u8])]);

impl<'a> Headers<'a> {
    /// The lines of this header that are text, whatever the case of its name.
    pub fn lines(self, name: &str) -> impl Iterator<Item = &'a str> {
        self.raw(name).filter_map(text)
    }

    /// The value of a header that may stand once; `None` where it is missing, empty, or no text.
    pub fn only(self, name: &str) -> Result<Option<&'a str>, Rejection> {
        let mut lines = self.raw(name);
        let line = lines.next().and_then(text).filter(|line| !line.is_empty());
        if lines.next().is_some() {
            return Err(Rejection::RepeatedHeader(name.to_owned()));
        }
        Ok(line)
    }

    /// The value of a header that must stand once.
    pub fn required(self, name: &str) -> Result<&'a str, Rejection> {
        self.only(name)?.ok_or_else(|| Rejection::MissingHeader(name.to_owned()))
    }

    fn raw(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.0.iter().filter(move |(given, _)| given.eq_ignore_ascii_case(name));
        lines.map(|(_, value)| *value)
    }
}

/// A header's value as text: visible ASCII, which is all that signed headers hold.
fn text(value: &[u8]) -> Option<&str> {
    let is_text = value.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    std::str::from_utf8(value).ok().filter(|_| is_text)
}

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
pub struct UrlParts<'a> {
    pub scheme: &'a str,
    pub authority: &'a str,
    /// At least `/`.
    pub path: &'a str,
    pub query: Option<&'a str>,
}

impl<'a> UrlParts<'a> {
    pub fn of(url: &'a str) -> Self {
        let url = url.split('#').next().unwrap_or(url);
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (before, query) = match rest.split_once('?') {
            Some((before, query)) => (before, Some(query)),
            None => (rest, None),
        };
        let (authority, path) = before.split_at(before.find('/').unwrap_or(before.len()));
        Self { scheme, authority, path: if path.is_empty() { "/" } else { path }, query }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_have_no_case_and_values_stand_once() {
        let lines: [(&str, &[u8]); 5] =
            [("A", b"1"), ("b", b"2"), ("B", b""), ("C", b""), ("d", "é".as_bytes())];
        let headers = Headers(&lines);
        assert_eq!(headers.only("a"), Ok(Some("1")));
        assert_eq!(headers.only("b"), Err(Rejection::RepeatedHeader("b".to_owned())));
        assert_eq!(headers.lines("b").collect::<Vec<_>>(), ["2", ""]);
        for missing in ["c", "d", "e"] {
            assert_eq!(headers.only(missing), Ok(None));
            assert_eq!(headers.required(missing), Err(Rejection::MissingHeader(missing.into())));
        }
    }

    #[test]
    fn a_url_has_parts() {
        let parts = |scheme, authority, path, query| UrlParts { scheme, authority, path, query };
        for (url, expected) in [
            ("https://a.b:8/c/d?e=/f?#g", parts("https", "a.b:8", "/c/d", Some("e=/f?"))),
            ("http://a", parts("http", "a", "/", None)),
            ("http://a?b", parts("http", "a", "/", Some("b"))),
            ("/c?", parts("", "", "/c", Some(""))),
            ("", parts("", "", "/", None)),
        ] {
            assert_eq!(UrlParts::of(url), expected);
        }
    }
}
