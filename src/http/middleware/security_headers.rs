//! Security headers of every answer: a browser may display it and do nothing else with it.
//!
//! The API's answers are JSON for programs; were a browser made to load one, it must not sniff
//! another type, run or frame it, hand its URL on, or keep it. Pages say themselves what they need
//! more than that, such as their own scripts: a header that an answer has already stays.

use poem::{
    Endpoint, Middleware, Request, Response, Result,
    http::{HeaderName, HeaderValue, header},
};

/// On every answer that does not say otherwise.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // Transactions are nobody's but the caller's; assets say themselves how long they are good.
    (header::CACHE_CONTROL, "no-store"),
];

/// Two years. For this host alone: what stands beside it is not ours to say.
const HSTS: &str = "max-age=63072000";

/// The middleware.
pub struct SecurityHeaders {
    /// Whether this process itself serves HTTPS: browsers shall then never use anything else.
    /// Behind a proxy that does, the proxy says it.
    pub serves_https: bool,
}

impl<E: Endpoint<Output = Response>> Middleware<E> for SecurityHeaders {
    type Output = Hardened<E>;

    fn transform(&self, inner: E) -> Self::Output {
        Hardened { serves_https: self.serves_https, inner }
    }
}

/// An endpoint behind [`SecurityHeaders`].
pub struct Hardened<E> {
    serves_https: bool,
    inner: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for Hardened<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let mut response = self.inner.call(request).await?;
        let headers = response.headers_mut();
        for (name, value) in HEADERS {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
        if self.serves_https {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HSTS));
        }
        Ok(response)
    }
}
