//! Swagger UI at `/docs`, under a policy that lets it run and nothing else.
//!
//! poem-openapi makes one page with the program, its style and the OpenAPI document inline. The
//! policy names each inline script by its hash, computed from the page when it is built: another
//! script does not run, wherever it comes from. It calls this origin alone ("try it out").

use hyper::body::Bytes;
use poem::{
    Endpoint, EndpointExt, IntoResponse, Response, Route, endpoint::make_sync, get, http::header,
};

use super::{guides, inline_hashes::hashes, pace::Pace};

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
