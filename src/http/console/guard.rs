//! Checks before every page of the console: the session, the form's token, the headers.
//!
//! A page without a session leads to the sign-in, and from there back. A `POST` is refused unless
//! it comes from this site and carries the session's token; handlers get its fields, and the
//! session, as data of the request, so that none can forget the checks.

use std::{sync::Arc, time::Duration};

use poem::{
    Endpoint, IntoResponse, Request, Response,
    error::{MethodNotAllowedError, ReadBodyError},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, uri::Authority},
};

use super::{
    Console,
    fields::FormFields,
    layout::{self, Layout},
    page_error::PageError,
    session::{COOKIE, Session},
};
use crate::{
    http::{self, ApiState, middleware::body},
    store::console_sessions,
};

/// Largest form: a page of selected dead letters and a note are far below.
const MAX_FORM: usize = 64 * 1024;
/// Most cookies of our name that are looked at.
const MAX_COOKIES: usize = 4;
/// How long a form may take to arrive.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);
/// Nothing from elsewhere, nothing inline; forms and links stay here, and nobody frames a page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";

/// Answers a request with its page, or with a page that says why not.
pub async fn call<E: Endpoint>(pages: Arc<E>, mut request: Request) -> poem::Result<Response> {
    // The endpoint inside `routes()` always has it.
    let console = request.data::<Arc<Console>>().expect("routes() adds the console").clone();
    let (session, admitted) = match console.session(&request).await {
        Ok(session) => {
            let admitted = admit(&console, session.as_ref(), &mut request).await;
            (session, admitted)
        }
        Err(refusal) => (None, Err(refusal.into())),
    };
    let mut response = match admitted {
        Ok(None) => match pages.call(request).await {
            Ok(page) => page.into_response(),
            Err(error) => refused(session.as_ref(), error)?,
        },
        Ok(Some(elsewhere)) => elsewhere,
        Err(error) => refused(session.as_ref(), error)?,
    };
    harden(response.headers_mut());
    Ok(response)
}

impl Console {
    /// Who asks, where that matters: a session that was neither signed out nor has expired.
    async fn session(&self, request: &Request) -> Result<Option<Session>, PageError> {
        let path = request.uri().path();
        if path.starts_with("/assets/") || path == "/sign-in" {
            return Ok(None);
        }
        let lines = request.headers().get_all(header::COOKIE);
        let found = lines
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|cookie| cookie.trim().strip_prefix(COOKIE)?.strip_prefix('='))
            // Each costs an HMAC; a browser sends one.
            .take(MAX_COOKIES)
            .find_map(|value| self.sessions.as_ref()?.resume(value, http::now()));
        let Some(session) = found else { return Ok(None) };
        let state = ApiState::of(request);
        let ended = console_sessions::is_signed_out(&state.pool, &session.id);
        Ok((!state.fetch(ended).await?).then_some(session))
    }
}

/// Checks what a request needs and hands it on; or answers where to go instead.
async fn admit(
    console: &Console,
    session: Option<&Session>,
    request: &mut Request,
) -> poem::Result<Option<Response>> {
    let path = request.uri().path().to_owned();
    if path.starts_with("/assets/") {
        return Ok(None);
    }
    if console.sessions.is_none() {
        let reason = "the console is closed: this process has no operator token. Set \
            QUARTET_OPERATOR_TOKEN and start it again";
        return Err(PageError::new(StatusCode::FORBIDDEN, reason).into());
    }
    let posted = !matches!(*request.method(), Method::GET | Method::HEAD);
    if posted {
        check_site(request, console.public_origin.as_deref())?;
    }
    if posted && path != "/sign-in" && session.is_none() {
        let reason = "your session is over: sign in and do it again; nothing was done";
        return Err(PageError::new(StatusCode::UNAUTHORIZED, reason).into());
    }
    let query = request.uri().query().unwrap_or_default();
    let fields =
        if posted { read_form(request).await? } else { FormFields::parse(query.as_bytes()) };
    if path != "/sign-in" {
        match session {
            None => {
                let back = request.original_uri().path_and_query().map(ToString::to_string);
                let query = FormFields::default().with("to", &back.unwrap_or_default());
                return Ok(Some(layout::see_other(&format!("/console/sign-in?{query}"))));
            }
            Some(session) => {
                let token = fields.get("csrf").unwrap_or_default();
                if posted && !session.is_csrf_token(token) {
                    return Err(PageError::forged().into());
                }
                request.set_data(session.clone());
            }
        }
    }
    request.set_data(fields);
    Ok(None)
}

async fn read_form(request: &mut Request) -> Result<FormFields, PageError> {
    let form = "application/x-www-form-urlencoded";
    if !request.content_type().is_some_and(|given| given.starts_with(form)) {
        return Err(PageError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("send {form}")));
    }
    body::check_content_coding(request)?;
    let body = request.take_body().into_bytes_limit(MAX_FORM);
    match tokio::time::timeout(FORM_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(FormFields::parse(&body)),
        Ok(Err(ReadBodyError::PayloadTooLarge)) => {
            Err(PageError::new(StatusCode::PAYLOAD_TOO_LARGE, "the form is too long"))
        }
        Ok(Err(_)) | Err(_) => {
            Err(PageError::new(StatusCode::BAD_REQUEST, "the form did not arrive complete"))
        }
    }
}

/// Refuses a form that was not sent by a page of this site, as far as the browser says.
///
/// Our pages' `Referrer-Policy` lets browsers send the true `Origin` with our own forms; `null` is
/// somebody else's. Browsers send no `Sec-Fetch-Site` over plain http, and a proxy may have
/// replaced the `Host` that the browser knows: then the origin must be that of `HTTP__PUBLIC_URL`.
fn check_site(request: &Request, public_origin: Option<&str>) -> Result<(), PageError> {
    let headers = request.headers();
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(site) = text("sec-fetch-site") {
        let is_own = matches!(site, "same-origin" | "none");
        return if is_own { Ok(()) } else { Err(PageError::forged()) };
    }
    let Some(origin) = text("origin") else { return Ok(()) };
    if public_origin.is_some_and(|public| public.eq_ignore_ascii_case(origin)) {
        return Ok(());
    }
    // HTTP/2 has it in the URI.
    let authority = request.original_uri().authority().map(Authority::as_str);
    let host = text("host").or(authority).unwrap_or("?");
    let Some((scheme, origin_host)) = origin.split_once("://") else {
        return Err(PageError::forged());
    };
    // An origin leaves its scheme's own port out.
    let own_port = if scheme == "https" { ":443" } else { ":80" };
    let named = host.strip_suffix(own_port).unwrap_or(host);
    if named.eq_ignore_ascii_case(origin_host) {
        return Ok(());
    }
    let known = match public_origin {
        Some(public) => format!("QUARTET_HTTP__PUBLIC_URL, {public}"),
        None => "QUARTET_HTTP__PUBLIC_URL, which is not set".to_owned(),
    };
    let reason = format!(
        "this form was not sent from a page of this session: it comes from {origin}, and was sent \
         to the host {host}. If you opened this console at {origin}, a proxy replaced the host: let \
         it pass the header Host on, or set {known}, to that address; nothing was done"
    );
    Err(PageError::new(StatusCode::FORBIDDEN, reason))
}

fn refused(session: Option<&Session>, error: poem::Error) -> poem::Result<Response> {
    if error.is_from_response() {
        return Ok(error.into_response());
    }
    let refusal = match error.downcast::<PageError>() {
        Ok(refusal) => refusal,
        Err(error) if error.is::<MethodNotAllowedError>() => {
            PageError::new(StatusCode::METHOD_NOT_ALLOWED, "this page does not take this method")
        }
        Err(error) if error.status().is_server_error() => PageError::failed(error),
        // Another path, or an id in it that cannot be read.
        Err(_) => PageError::not_found("there is no such page"),
    };
    layout::refused(&Layout::for_refusal(session, refusal.status), &refusal)
}

/// What pages need beyond [`crate::http::middleware::security_headers`].
fn harden(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        // So that browsers send the true `Origin` with the forms.
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
