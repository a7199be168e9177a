//! Reading a peer's answer: bounded, decoded, as text.
//!
//! A gateway in front of a peer may compress although nobody asked for it. What is coded is decoded
//! here; at most [`MAX_ANSWER`] bytes are read and at most as many come out, so that a bomb costs
//! no more than any long answer. How the text is read then is [`crate::domain::peer_answer`]'s
//! matter.

use std::{
    collections::HashMap,
    io::Read,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use reqwest::{
    Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, LOCATION},
};

use super::MAX_ANSWER;
use crate::domain::peer_answer::{self, MAX_EXCERPT_CHARS, excerpt};

/// Codings that are stacked on each other.
const MAX_CODINGS: usize = 3;
/// How long the body of an answer may take whose code says enough: it is for an operator's eyes.
const DESCRIBED_WITHIN: Duration = Duration::from_secs(2);
/// Zstandard decodes into a window of this size at most (RFC 8878 section 3.1.1.1.2).
const MAX_ZSTD_WINDOW: u64 = 8 * 1024 * 1024;
const BROTLI_BUFFER: usize = 4096;

/// Why there is no body to read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// The connection broke: the answer is lost.
    #[error("the answer broke off")]
    BrokeOff,
    #[error("the answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
    #[error("the answer's coding {0} cannot be decoded")]
    Coding(String),
}

/// The body as text.
pub(super) async fn text(mut response: Response) -> Result<String, BodyError> {
    let header = |name| {
        let values = response.headers().get_all(name).iter();
        values.filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",")
    };
    let (codings, content_type) = (header(CONTENT_ENCODING), header(CONTENT_TYPE));
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| BodyError::BrokeOff)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(BodyError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    let body = decode(body, &codings)?;
    Ok(peer_answer::text(&body, peer_answer::charset(&content_type)).into_owned())
}

/// Undoes the codings of a `Content-Encoding`, the last one first.
fn decode(mut body: Vec<u8>, codings: &str) -> Result<Vec<u8>, BodyError> {
    let codings: Vec<String> = codings
        .split(',')
        .map(|coding| coding.trim().to_ascii_lowercase())
        .filter(|coding| !coding.is_empty() && coding != "identity")
        .collect();
    if codings.len() > MAX_CODINGS {
        return Err(BodyError::Coding(excerpt(&codings.join(", "), 60)));
    }
    for coding in codings.iter().rev() {
        // A wrong header: a proxy left it behind, or it names a charset.
        if is_plain_json(&body) {
            return Ok(body);
        }
        let failed = || BodyError::Coding(excerpt(coding, 60));
        let decoded = match coding.as_str() {
            // The same of what is no JSON: a gateway's page.
            "gzip" | "x-gzip" if !body.starts_with(&[0x1f, 0x8b]) => continue,
            "gzip" | "x-gzip" => bounded(MultiGzDecoder::new(&body[..])),
            // By the standard with zlib's frame; some send it without.
            "deflate" => match bounded(ZlibDecoder::new(&body[..])) {
                Ok(decoded) => Ok(decoded),
                Err(Some(error)) => Err(Some(error)),
                Err(None) => bounded(DeflateDecoder::new(&body[..])),
            },
            "br" => bounded(brotli_decompressor::Decompressor::new(&body[..], BROTLI_BUFFER)),
            "zstd" => bounded(
                ruzstd::decoding::StreamingDecoder::new_with_max_window_size(
                    &body[..],
                    MAX_ZSTD_WINDOW,
                )
                .map_err(|_| failed())?,
            ),
            _ => return Err(failed()),
        };
        body = decoded.map_err(|error| error.unwrap_or_else(failed))?;
    }
    Ok(body)
}

/// Whether the bytes are JSON as it stands, whatever coding is named for them. The second character
/// tells apart what is compressed, which may begin with a brace as well.
fn is_plain_json(body: &[u8]) -> bool {
    let text = peer_answer::text(body, None);
    let mut characters = text.chars().filter(|character| !character.is_whitespace());
    matches!(characters.next(), Some('{' | '['))
        && characters.next().is_none_or(|character| character.is_ascii())
}

/// All that comes out, up to the bound. `Err(None)`: it cannot be decoded.
fn bounded(decoder: impl Read) -> Result<Vec<u8>, Option<BodyError>> {
    let mut decoded = Vec::new();
    decoder.take(MAX_ANSWER as u64 + 1).read_to_end(&mut decoded).map_err(|_| None)?;
    if decoded.len() > MAX_ANSWER { Err(Some(BodyError::TooLong)) } else { Ok(decoded) }
}

/// `answered 400: {"error":…}`, for an operator's eyes. A redirect names its target.
pub(super) async fn describe(response: Response) -> String {
    let status = response.status();
    let location = response.headers().get(LOCATION).filter(|_| status.is_redirection());
    let location = location.map(|target| {
        let target = String::from_utf8_lossy(target.as_bytes());
        format!(" with the Location {}", excerpt(&target, MAX_EXCERPT_CHARS))
    });
    let what = match tokio::time::timeout(DESCRIBED_WITHIN, text(response)).await {
        Ok(Ok(text)) => excerpt(&text, MAX_EXCERPT_CHARS),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "its body does not come".to_owned(),
    };
    let location = location.unwrap_or_default();
    describe_text(status, &location, &what)
}

fn describe_text(status: StatusCode, location: &str, what: &str) -> String {
    let colon = if what.is_empty() { "" } else { ": " };
    format!("answered {}{location}{colon}{what}", status.as_u16())
}

/// How often the same cause is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Most causes that are counted as different ones; more than that a peer makes up.
const MAX_LOGGED: usize = 64;

/// Whether a cause is to be logged now: once a minute.
pub(super) fn is_news(cause: &str) -> bool {
    static LOGGED: LazyLock<Mutex<HashMap<String, Instant>>> = LazyLock::new(Mutex::default);
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    logged.retain(|_, at| at.elapsed() < LOG_INTERVAL);
    if logged.contains_key(cause) || logged.len() >= MAX_LOGGED {
        return false;
    }
    logged.insert(cause.to_owned(), Instant::now());
    true
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };

    use super::*;

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_coding_is_decoded_and_stacked_ones_too() {
        let body = br#"{"status":"completed"}"#;
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(body).unwrap();
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::fast());
        raw.write_all(body).unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(
            &body[..],
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        // One uncompressed meta-block (RFC 7932 section 9.2): the length less one is 21.
        let brotli = [&[0x8f, 0x0a, 0x80][..], body, &[0x03]].concat();
        for (coded, coding) in [
            (body.to_vec(), ""),
            (body.to_vec(), "identity"),
            (body.to_vec(), "gzip"),
            (gzip(body), "gzip"),
            (gzip(&gzip(body)), "gzip, X-GZip"),
            (zlib.finish().unwrap(), "deflate"),
            (raw.finish().unwrap(), "deflate"),
            (zstd, "zstd"),
            (brotli, "br"),
        ] {
            let decoded = decode(coded, coding);
            assert_eq!(decoded.as_deref().ok(), Some(&body[..]), "{coding}: {decoded:?}");
        }
    }

    #[test]
    fn json_that_is_not_coded_is_read_whatever_coding_is_named() {
        let utf16 = "\u{feff}{\"a\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for body in [
            br#"{"status":"completed"}"#.to_vec(),
            "\u{feff}\r\n {}".as_bytes().to_vec(),
            b"[ ]".to_vec(),
            utf16,
        ] {
            for coding in ["UTF-8", "none", "br", "zstd", "deflate", "gzip", "compress"] {
                let decoded = decode(body.clone(), coding);
                assert_eq!(decoded.as_deref().ok(), Some(&body[..]), "{coding}: {decoded:?}");
            }
            // A proxy may undo one of several.
            for codings in ["br, gzip", "utf-8, gzip"] {
                let decoded = decode(gzip(&body), codings);
                assert_eq!(decoded.as_deref().ok(), Some(&body[..]), "{codings}: {decoded:?}");
            }
        }
        for coding in ["UTF-8", "none", "br"] {
            let decoded = decode(b"<html>".to_vec(), coding);
            assert!(matches!(decoded, Err(BodyError::Coding(_))), "{coding}: {decoded:?}");
        }
    }

    /// Raw deflate of a byte-order mark and an object begins with a brace.
    #[test]
    fn what_is_compressed_is_not_taken_for_json() {
        let coded = b"\x7b\xbf\x7b\x7f\xb5\x52\xa2\x92\x95\x61\x2d\x00".to_vec();
        assert_eq!(coded[0], b'{');
        let decoded = decode(coded, "deflate");
        assert_eq!(decoded.as_deref().ok(), Some("\u{feff}{\"a\":1}".as_bytes()), "{decoded:?}");
    }

    #[test]
    fn what_cannot_be_decoded_is_no_body_and_a_bomb_ends_at_the_bound() {
        let cut = gzip(b"{\"status\":\"completed\"}");
        let cut = cut[..cut.len() / 2].to_vec();
        assert!(matches!(decode(cut, "gzip"), Err(BodyError::Coding(_))));
        for coding in ["br", "zstd", "deflate", "compress", "gzip,gzip,gzip,gzip"] {
            let decoded = decode(b"no such thing".to_vec(), coding);
            assert!(matches!(decoded, Err(BodyError::Coding(_))), "{coding}: {decoded:?}");
        }
        let bomb = gzip(&vec![b' '; 50 * 1024 * 1024]);
        assert!(bomb.len() < MAX_ANSWER, "{}", bomb.len());
        assert!(matches!(decode(bomb.clone(), "gzip"), Err(BodyError::TooLong)));
        assert!(matches!(decode(gzip(&bomb), "gzip, gzip"), Err(BodyError::TooLong)));
    }
}
