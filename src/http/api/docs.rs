//! Swagger UI at `/docs`, under a policy that lets it run and nothing else.
//!
//! poem-openapi makes one page with the program, its style and the OpenAPI document inline. The
//! policy names each inline script by its hash, computed from the page when it is built: another
//! script does not run, wherever it comes from. It calls this origin alone ("try it out").

use std::{num::NonZeroU32, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hyper::body::Bytes;
use poem::{
    Endpoint, EndpointExt, IntoResponse, Response, Route,
    endpoint::make_sync,
    get,
    http::{StatusCode, header},
};
use sha2::{Digest, Sha256};

use super::guides;
use crate::http::problem::Problem;

/// How often a second the documents are sent, by one process: they are long, and need no key.
const MAX_RATE: NonZeroU32 = NonZeroU32::new(20).unwrap();

/// How often documents may still be sent.
#[derive(Debug, Clone)]
pub struct Pace(Arc<DefaultDirectRateLimiter>);

impl Default for Pace {
    fn default() -> Self {
        Self(Arc::new(RateLimiter::direct(Quota::per_second(MAX_RATE))))
    }
}

impl Pace {
    /// `document`, or 503 where there were too many in this second.
    pub(in crate::http) fn send(&self, document: impl FnOnce() -> Response) -> Response {
        if self.0.check().is_ok() {
            return document();
        }
        let detail = "too many read the documents at this moment; ask again";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response()
    }
}

/// The page, below `/docs`, and those for developers.
pub fn routes(html: String, pace: Pace) -> impl Endpoint {
    let policy = policy(&html);
    let html = Bytes::from(html);
    let served = pace.clone();
    let page = make_sync(move |_| {
        served.send(|| {
            Response::builder()
                .content_type("text/html; charset=utf-8")
                .header(header::CONTENT_SECURITY_POLICY, &policy)
                .body(html.clone())
        })
    });
    guides::ALL.iter().fold(Route::new().at("/", get(page)), |route, guide| {
        route.at(format!("/{}", guide.name), guide.route(pace.clone()))
    })
}

/// The OpenAPI document.
pub fn openapi(document: String, pace: Pace) -> impl Endpoint {
    let document = Bytes::from(document);
    get(make_sync(move |_| {
        pace.send(|| document.clone().with_content_type("application/json").into_response())
    }))
    .boxed()
}

fn policy(html: &str) -> String {
    let scripts = hashes(html, "script");
    // Its style sheet and its elements' own styles are inline, and its icons are data: URLs.
    format!(
        "default-src 'none'; script-src{scripts}; style-src 'unsafe-inline'; img-src 'self' data:; \
         connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
}

/// ` 'sha256-…'` for each inline element of this name.
pub(in crate::http) fn hashes(html: &str, element: &str) -> String {
    let (open, close) = (format!("<{element}"), format!("</{element}>"));
    let mut rest = html;
    // From each end to the next begin: a script's own text may speak of scripts.
    std::iter::from_fn(|| {
        let (_, from_open) = rest.split_once(&open)?;
        let (_, from_text) = from_open.split_once('>')?;
        let (text, after) = from_text.split_once(&close)?;
        rest = after;
        Some(format!(" 'sha256-{}'", STANDARD.encode(Sha256::digest(text))))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_inline_script_is_named_by_its_hash() {
        let html = r#"<style>a{}</style><script charset="UTF-8">alert('Hello, world.');</script>
            <p>text</p><script></script><script>"<script"</script>"#;
        // The first is the example of Content Security Policy Level 3.
        let hashes = hashes(html, "script");
        let hashes: Vec<&str> = hashes.split_whitespace().collect();
        let empty = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='";
        assert_eq!(hashes[..2], ["'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='", empty]);
        assert_eq!(hashes.len(), 3);
    }
}
