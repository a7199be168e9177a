//! Signing in and out.
//!
//! The token is compared in constant time by its hash, as the API does. The right one is let in at
//! once, whatever else goes on; a wrong one is answered late, few at the same time, and leaves a
//! line in the log. That keeps mistakes and their noise down; what keeps guessers out is the length
//! of the token.

use std::{sync::Arc, time::Duration};

use askama::Template;
use poem::{
    Request, Response, handler,
    http::{StatusCode, Uri, header},
    web::Data,
};
use tokio::{sync::Semaphore, time};

use super::{
    Console,
    fields::FormFields,
    layout::{self, Layout},
    session::{COOKIE, LIFETIME, Session},
};
use crate::{
    http::{self, ApiState, middleware::auth},
    secrets::hash_token,
};

/// How long the answer to a wrong sign-in takes.
const PENALTY: Duration = Duration::from_millis(500);
/// How many wrong ones are answered at the same time, in one process.
const PLACES: usize = 4;
/// How long a wrong sign-in waits for its place.
const MAX_WAIT: Duration = Duration::from_secs(3);

/// The places in which wrong sign-ins are answered.
#[derive(Debug)]
pub struct SignInGate(Semaphore);

impl Default for SignInGate {
    fn default() -> Self {
        Self(Semaphore::new(PLACES))
    }
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    layout: Layout,
    /// Where to go afterwards.
    to: String,
    name: String,
    error: Option<&'static str>,
}

impl SignInPage {
    fn new(to: String, name: String, error: Option<&'static str>) -> Self {
        Self { layout: Layout::plain("Sign in"), to, name, error }
    }
}

/// The form.
#[handler]
pub fn show_form(Data(query): Data<&FormFields>) -> poem::Result<Response> {
    layout::page(&SignInPage::new(destination(query), String::new(), None))
}

/// Checks the token and gives a session out.
#[handler]
pub async fn sign_in(
    request: &Request,
    Data(console): Data<&Arc<Console>>,
    Data(form): Data<&FormFields>,
) -> poem::Result<Response> {
    let (to, name) = (destination(form), form.text("name"));
    if auth::operator_name(&name).is_none() {
        let page = SignInPage::new(to, String::new(), Some("A name has at most 100 characters."));
        return layout::page_with(StatusCode::UNPROCESSABLE_ENTITY, &page);
    }
    let given = hash_token(form.get("token").unwrap_or_default());
    let sessions = console.sessions.as_ref();
    let Some(session) = sessions.and_then(|sessions| sessions.begin(&given, &name, http::now()))
    else {
        let Ok(Ok(place)) = time::timeout(MAX_WAIT, console.gate.0.acquire()).await else {
            let page = SignInPage::new(to, name, Some("Too many wrong sign-ins. Try again."));
            let mut response = layout::page_with(StatusCode::TOO_MANY_REQUESTS, &page)?;
            response.headers_mut().insert(header::RETRY_AFTER, 1.into());
            return Ok(response);
        };
        let peer = request.remote_addr();
        tracing::warn!(%peer, "a sign-in to the console was refused: wrong token");
        time::sleep(PENALTY).await;
        drop(place);
        let page = SignInPage::new(to, name, Some("That is not the operator token."));
        return layout::page_with(StatusCode::UNAUTHORIZED, &page);
    };
    tracing::info!(operator = name, "signed in to the console");
    let secure = console.came_by_https(request);
    let cookie = cookie(&session, LIFETIME.num_seconds(), secure);
    Ok(with_cookie(layout::see_other(&to), &cookie))
}

/// Ends the session for every copy of its cookie, and removes that from the browser. Where the
/// database cannot remember it, nothing is ended, and the page says so.
#[handler]
pub async fn sign_out(
    request: &Request,
    Data(console): Data<&Arc<Console>>,
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
) -> poem::Result<Response> {
    let ended = state.operations.end_console_session(&session.id, session.expires_at);
    state.fetch(ended).await?;
    tracing::info!(operator = session.name, "signed out of the console");
    let cookie = cookie("", 0, console.came_by_https(request));
    Ok(with_cookie(layout::see_other("/console/sign-in"), &cookie))
}

impl Console {
    /// Whether the browser speaks https, perhaps to a proxy before this: its own `Origin` says so;
    /// without one, the public URL.
    fn came_by_https(&self, request: &Request) -> bool {
        match request.header(header::ORIGIN) {
            Some(origin) => origin.starts_with("https://"),
            None => self.public_is_https,
        }
    }
}

fn cookie(value: &str, max_age: i64, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{COOKIE}={value}; Path=/console; Max-Age={max_age}; HttpOnly; SameSite=Strict{secure}")
}

fn with_cookie(mut response: Response, cookie: &str) -> Response {
    match cookie.parse() {
        Ok(value) => {
            response.headers_mut().insert(header::SET_COOKIE, value);
            response
        }
        // A cookie is base64 and fixed words; were it ever unreadable, nobody is signed in by it.
        Err(_) => layout::see_other("/console/sign-in"),
    }
}

/// Where to go after the sign-in: a page of the console, never another site.
fn destination(fields: &FormFields) -> String {
    let is_page = |to: &&str| {
        let uri = to.parse::<Uri>().ok().filter(|uri| uri.authority().is_none());
        uri.is_some_and(|uri| {
            let path = uri.path();
            (path == "/console" || path.starts_with("/console/"))
                && !path.starts_with("/console/sign-")
                && !path.contains('\\')
                && !path.to_ascii_lowercase().contains("%2e")
                && path.split('/').all(|segment| segment != ".." && segment != ".")
        })
    };
    fields.get("to").filter(is_page).unwrap_or("/console").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_leads_to_pages_of_the_console_alone() {
        for (to, expected) in [
            ("/console/queues", "/console/queues"),
            ("/console/transactions?status=pending", "/console/transactions?status=pending"),
            ("/console", "/console"),
            ("//evil.example/console", "/console"),
            ("https://evil.example/console", "/console"),
            ("/consoles", "/console"),
            ("/console/../v1", "/console"),
            ("/console/sign-out", "/console"),
            ("javascript:alert(1)", "/console"),
            ("/console/\\evil", "/console"),
            ("", "/console"),
        ] {
            let fields = FormFields::parse(FormFields::default().with("to", to).as_bytes());
            assert_eq!(destination(&fields), expected, "{to}");
        }
    }
}
