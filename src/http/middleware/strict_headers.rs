//! Refuses with 400 a request whose headers can be read in two ways, or that asks for more than any
//! request of ours needs.
//!
//! A proxy in front may go by the first of two `Authorization` or `Host` lines and this program by
//! the last one: then one checks what the other does not use. RFC 9112 (section 3.2) demands a 400
//! for HTTP/1.1 without `Host`, or with more than one. How a request is framed is checked before
//! this, by [`crate::http::server`].

use poem::{
    Endpoint, IntoResponse, Middleware, Request, Response, Result,
    http::{HeaderName, StatusCode, Version, header, uri::Authority},
};

use crate::http::problem::Problem;

/// Headers that have one value, and that something is decided by.
const SINGLE: [HeaderName; 4] =
    [header::AUTHORIZATION, header::HOST, header::CONTENT_TYPE, header::ORIGIN];
/// Most parameters of a query: a page of dead letters that are replayed together has far fewer.
const MAX_PARAMETERS: usize = 1_000;

/// The middleware.
pub struct StrictHeaders;

impl<E: Endpoint<Output = Response>> Middleware<E> for StrictHeaders {
    type Output = StrictHeadersEndpoint<E>;

    fn transform(&self, inner: E) -> Self::Output {
        StrictHeadersEndpoint(inner)
    }
}

/// An endpoint behind [`StrictHeaders`].
pub struct StrictHeadersEndpoint<E>(E);

impl<E: Endpoint<Output = Response>> Endpoint for StrictHeadersEndpoint<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        match fault(&request) {
            Some(detail) => {
                let mut response = Problem::new(StatusCode::BAD_REQUEST, detail).into_response();
                if request.version() != Version::HTTP_2 {
                    // The sender, or a proxy that lets this through, cannot be understood.
                    let close = header::HeaderValue::from_static("close");
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                Ok(response)
            }
            None => self.0.call(request).await,
        }
    }
}

fn fault(request: &Request) -> Option<String> {
    let headers = request.headers();
    let repeated = SINGLE.iter().find(|name| headers.get_all(*name).iter().nth(1).is_some());
    if let Some(name) = repeated {
        return Some(format!("the header `{name}` is there more than once"));
    }
    match headers.get(header::HOST) {
        None if request.version() == Version::HTTP_11 => {
            return Some("the header `Host` is missing".to_owned());
        }
        // It may be empty where the URI has no host.
        Some(host) if !host.is_empty() && !is_host(host.as_bytes()) => {
            return Some("the header `Host` is no host with an optional port".to_owned());
        }
        _ => {}
    }
    let query = request.uri().query().unwrap_or_default();
    let parameters = query.bytes().filter(|byte| *byte == b'&').count();
    (parameters >= MAX_PARAMETERS)
        .then(|| format!("the query has more than {MAX_PARAMETERS} parameters"))
}

fn is_host(text: &[u8]) -> bool {
    // An authority may have a user besides, a `Host` may not.
    Authority::try_from(text).is_ok() && !text.contains(&b'@')
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;

    use super::*;

    fn request(version: Version, hosts: &[&'static str]) -> Request {
        let mut request = Request::builder().version(version).finish();
        for host in hosts {
            request.headers_mut().append(header::HOST, HeaderValue::from_static(host));
        }
        request
    }

    #[test]
    fn a_request_of_http_1_1_has_one_host() {
        for host in ["a", "a.example:8080", "127.0.0.1", "[::1]:80", ""] {
            assert_eq!(fault(&request(Version::HTTP_11, &[host])), None, "{host}");
        }
        for hosts in [&[][..], &["a", "a"], &["a", "b"], &["user@a"], &["a b"], &["a/b"]] {
            assert!(fault(&request(Version::HTTP_11, hosts)).is_some(), "{hosts:?}");
        }
        // The authority is in the URI, or nobody asked for a host yet.
        assert_eq!(fault(&request(Version::HTTP_2, &[])), None);
        assert_eq!(fault(&request(Version::HTTP_10, &[])), None);
        assert!(fault(&request(Version::HTTP_2, &["a", "b"])).is_some());
    }

    #[test]
    fn what_decides_is_there_once() {
        for name in SINGLE {
            let mut request = request(Version::HTTP_11, &["a"]);
            while request.headers().get_all(&name).iter().count() < 2 {
                request.headers_mut().append(&name, HeaderValue::from_static("a"));
            }
            assert!(fault(&request).unwrap().contains(name.as_str()), "{name}");
        }
        let mut request = request(Version::HTTP_11, &["a"]);
        for _ in 0..2 {
            request.headers_mut().append(header::ACCEPT, HeaderValue::from_static("*/*"));
        }
        assert_eq!(fault(&request), None, "lists may have several lines");
    }
}
