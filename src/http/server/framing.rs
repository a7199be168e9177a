//! Where each request of HTTP/1 ends, checked on the bytes as they come.
//!
//! hyper is lenient: it takes a line that ends in LF alone, drops `Content-Length` beside
//! `Transfer-Encoding`, and takes `Transfer-Encoding: gzip, chunked`. A proxy in front may read
//! such a request differently. Then what one of them takes for a body the other takes for another
//! request (request smuggling; RFC 9112 section 11.2). hyper has no option to be strict, and its
//! requests do not show all of this any more. So a small reader follows the bytes: through each
//! head line by line, and over each body by its length or chunk by chunk. It reads nothing that
//! hyper does not read too, and keeps a line of at most [`MAX_LINE`] bytes.
//!
//! What comes from the first fault on is not handed on. hyper gets [`REFUSED`] instead, which is no
//! head, chunk or trailer: it answers 400 and closes the connection, after it has answered the
//! requests before. In a chunked body, whose request hyper has handed on already, reading the body
//! fails, which is answered with 400 too.

/// Ends every line and every head, and is part of none: NUL is allowed nowhere. hyper looks at a
/// head that arrived in parts only when it has an end.
pub(super) const REFUSED: &[u8] = b"\0\r\n\r\n";

/// Most bytes that are kept of a line; a longer one is not one of those that frame a request.
const MAX_LINE: usize = 128;
/// How HTTP/2 begins (RFC 9113 section 3.4), which frames itself.
const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Follows the requests of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    reading: Reading,
    /// The present line without its end, or the beginning of a long one.
    line: Vec<u8>,
    /// Whether the present line is longer than what is kept of it.
    is_cut: bool,
    /// Whether the byte before was CR.
    after_cr: bool,
    framed_by: FramedBy,
    is_first_line: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Between requests, or at the first line.
    RequestLine,
    Headers,
    /// Bytes of a body, or of a chunk with its end, that are still expected.
    Body(u64),
    ChunkSize,
    Chunk(u64),
    /// The line end behind a chunk.
    ChunkEnd,
    Trailers,
    /// HTTP/2: nothing more to do.
    Anything,
    /// Nothing is taken any more.
    Refused,
}

/// What the present head says about its body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum FramedBy {
    #[default]
    Nothing,
    Length(u64),
    Chunks,
}

/// The request can be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fault;

impl Framing {
    /// Of a connection that was just opened.
    pub(super) fn new() -> Self {
        Self {
            reading: Reading::RequestLine,
            line: Vec::new(),
            is_cut: false,
            after_cr: false,
            framed_by: FramedBy::Nothing,
            is_first_line: true,
        }
    }

    /// Follows the next bytes; how many of them may be handed on, where there is a fault.
    pub(super) fn check(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            at += match self.reading {
                Reading::Anything => return None,
                Reading::Refused => return Some(at),
                Reading::Body(left) => self.skip(left, bytes.len() - at, Reading::Body),
                Reading::Chunk(left) => self.skip(left, bytes.len() - at, Reading::Chunk),
                _ => self.read(&bytes[at..]).unwrap_or_else(|Fault| {
                    self.reading = Reading::Refused;
                    0
                }),
            };
        }
        None
    }

    /// Goes over `left` bytes, of which `there` are there.
    fn skip(&mut self, left: u64, there: usize, rest: fn(u64) -> Reading) -> usize {
        let skipped = left.min(there as u64);
        self.reading = match left - skipped {
            0 if matches!(self.reading, Reading::Chunk(_)) => Reading::ChunkEnd,
            0 => Reading::RequestLine,
            left => rest(left),
        };
        // Not more than a length.
        skipped as usize
    }

    /// Reads up to the end of a line, or all there is; how much that was.
    fn read(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        for (index, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if !self.after_cr => return Err(Fault),
                b'\n' => {
                    self.after_cr = false;
                    self.end_line()?;
                    return Ok(index + 1);
                }
                _ if self.after_cr => return Err(Fault),
                b'\r' => self.after_cr = true,
                _ if self.line.len() < MAX_LINE => self.line.push(*byte),
                _ => self.is_cut = true,
            }
        }
        Ok(bytes.len())
    }

    fn end_line(&mut self) -> Result<(), Fault> {
        self.reading = match self.reading {
            // Empty lines before a request are allowed (RFC 9112 section 2.2).
            Reading::RequestLine if self.line.is_empty() => Reading::RequestLine,
            Reading::RequestLine => {
                let is_http_2 = self.is_first_line && self.line == HTTP_2[..HTTP_2.len() - 2];
                self.is_first_line = false;
                self.framed_by = FramedBy::Nothing;
                if is_http_2 { Reading::Anything } else { Reading::Headers }
            }
            Reading::Headers if self.line.is_empty() => match self.framed_by {
                FramedBy::Nothing | FramedBy::Length(0) => Reading::RequestLine,
                FramedBy::Length(length) => Reading::Body(length),
                FramedBy::Chunks => Reading::ChunkSize,
            },
            Reading::Headers => {
                self.read_header()?;
                Reading::Headers
            }
            Reading::ChunkSize => match self.chunk_size()? {
                0 => Reading::Trailers,
                size => Reading::Chunk(size),
            },
            Reading::ChunkEnd if self.line.is_empty() => Reading::ChunkSize,
            Reading::ChunkEnd => return Err(Fault),
            Reading::Trailers if self.line.is_empty() => Reading::RequestLine,
            Reading::Trailers => Reading::Trailers,
            other => other,
        };
        self.line.clear();
        self.is_cut = false;
        Ok(())
    }

    /// Notes what a header says about the body. Whatever could be one of the two headers that do,
    /// in another way of writing, is a fault.
    fn read_header(&mut self) -> Result<(), Fault> {
        let Some(colon) = self.line.iter().position(|byte| *byte == b':') else {
            // A name that is so long is another one; a line without a name is for hyper to refuse.
            return Ok(());
        };
        let (name, value) = (&self.line[..colon], self.line[colon + 1..].trim_ascii());
        let framed_by = match name.trim_ascii() {
            trimmed if trimmed.eq_ignore_ascii_case(b"content-length") => {
                FramedBy::Length(decimal(value).ok_or(Fault)?)
            }
            trimmed if trimmed.eq_ignore_ascii_case(b"transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault);
                }
                FramedBy::Chunks
            }
            _ => return Ok(()),
        };
        // There is one such header, in plain writing.
        if self.is_cut || name != name.trim_ascii() || self.framed_by != FramedBy::Nothing {
            return Err(Fault);
        }
        self.framed_by = framed_by;
        Ok(())
    }

    /// The size in the present line; extensions are for nobody here, and allowed.
    fn chunk_size(&self) -> Result<u64, Fault> {
        let end = self.line.iter().position(|byte| matches!(byte, b';' | b' ' | b'\t'));
        let digits = &self.line[..end.unwrap_or(self.line.len())];
        let is_number = (1..=15).contains(&digits.len())
            && digits.iter().all(u8::is_ascii_hexdigit)
            && !(self.is_cut && end.is_none());
        let digits = std::str::from_utf8(digits).ok().filter(|_| is_number).ok_or(Fault)?;
        u64::from_str_radix(digits, 16).map_err(|_| Fault)
    }
}

/// Digits alone.
fn decimal(text: &[u8]) -> Option<u64> {
    let is_number = (1..=18).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether there is a fault in `text`, which comes in pieces of this size.
    fn is_refused(text: &str, piece: usize) -> bool {
        let mut framing = Framing::new();
        text.as_bytes().chunks(piece.max(1)).any(|piece| framing.check(piece).is_some())
    }

    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    #[test]
    fn requests_follow_each_other_whatever_frames_them() {
        let length = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\na\nb\n\n";
        let chunks = "POST / HTTP/1.1\r\nHost: a\r\nTRANSFER-ENCODING: Chunked\r\n\r\n\
                      5\r\na\nb\n\n\r\nA;x=y\r\n0123456789\r\n0\r\nx: y\r\n\r\n";
        let empty = "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n";
        let all = [GET, length, "\r\n", chunks, empty, chunks, length, GET].concat();
        // Nothing of a body is taken for a head, and nothing of a head for a body.
        for piece in [1, 2, 3, 7, 64, all.len()] {
            assert!(!is_refused(&all, piece), "{piece}");
            assert!(is_refused(&format!("{all}GET / HTTP/1.1\n"), piece), "{piece}");
        }
    }

    #[test]
    fn a_head_that_can_be_read_in_two_ways_is_refused() {
        let long = "chunked".to_owned() + &" ".repeat(200) + ", gzip";
        let long = format!("Transfer-Encoding: {long}");
        for lines in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding:",
            "Transfer-Encoding : chunked",
            " Transfer-Encoding: chunked",
            "Transfer-Encoding: \u{b}chunked",
            long.as_str(),
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: 0x5",
            "Content-Length: ",
            "Content-Length: 99999999999999999999",
            "Content-Length : 5",
            "a: b\n",
            "a: b\nc: d",
            "a: b\rc: d",
            "a: b\r\r",
        ] {
            let text = format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\n");
            for piece in [1, 5, text.len()] {
                assert!(is_refused(&text, piece), "{lines:?}");
            }
        }
        for first in ["GET / HTTP/1.1\nhost: a\r\n\r\n", "\nGET / HTTP/1.1\r\n", "\r\n\n"] {
            assert!(is_refused(first, 1), "{first:?}");
        }
    }

    #[test]
    fn chunks_that_can_be_read_in_two_ways_are_refused() {
        for chunks in [
            "5\nabcde\r\n",
            "5\r\nabcdefg\r\n",
            "x\r\n",
            "\r\n",
            "-1\r\n",
            "+5\r\n",
            "5\r\nabcde\n0\r\n\r\n",
            "0x5\r\n",
            "fffffffffffffffff\r\n",
            "0\r\n\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            for piece in [1, 5, text.len()] {
                assert!(is_refused(&text, piece), "{chunks:?}");
            }
        }
    }

    #[test]
    fn http_2_frames_itself_and_only_at_the_beginning() {
        assert!(!is_refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n\n", 3));
        assert!(is_refused(&format!("{GET}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n\n"), 3));
    }

    proptest! {
        /// It is the same in whatever pieces the bytes come, and never panics.
        #[test]
        fn pieces_do_not_matter(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just("\r\n".to_owned()), Just("\n".to_owned()), Just(GET.to_owned()),
                    Just("content-length: 3\r\n".to_owned()),
                    Just("transfer-encoding: chunked\r\n".to_owned()),
                    Just("0\r\n\r\n".to_owned()), "[a-f0-9 :;\r\n]{0,6}",
                ],
                0..12,
            ),
            piece in 1usize..20,
        ) {
            let text = parts.concat();
            prop_assert_eq!(is_refused(&text, piece), is_refused(&text, text.len()));
        }
    }
}
