//! Credentials: which headers a call has, how a token is asked for and what its answer says. Pure:
//! keeping a token, renewing it and reading secrets from the environment or files are not here.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use url::form_urlencoded;

use super::{
    definition::{AuthKind, AuthSection, ClientPlacement, check_url},
    error::{Faults, Key},
    pointer::Pointer,
    reading,
    request::{Content, Header, Method, Request, SET_BY_THE_PROGRAM, is_header_name, is_reserved},
    safety::requests::{headers, not_twice, without_transaction},
    template::{Source, Template},
    values::{RenderError, Renderer, SecretText},
};

/// How long before its end a token is renewed, where a profile does not say.
const RENEW_EARLY: Duration = Duration::from_secs(30);

/// The texts that a kind uses where the profile does not write them.
fn default_text(text: &str) -> Template {
    // The texts below have no braces without a partner.
    Template::parse(text).unwrap_or_else(|why| unreachable!("{why}"))
}

/// The credentials of one kind, with everything that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    None,
    /// `Authorization: Bearer …`.
    Bearer(Template),
    Basic {
        username: Template,
        password: Template,
    },
    Header {
        name: String,
        value: Template,
    },
    Oauth2(Oauth2),
}

/// Client credentials (RFC 6749 section 4.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Oauth2 {
    token_url: Template,
    client: ClientPlacement,
    client_id: Template,
    client_secret: Template,
    scope: Option<String>,
}

impl Credentials {
    pub(super) fn of(section: &AuthSection) -> Self {
        let or = |given: &Option<Template>, default: &str| {
            given.clone().unwrap_or_else(|| default_text(default))
        };
        match section.kind {
            AuthKind::None => Self::None,
            AuthKind::Bearer => Self::Bearer(or(&section.token, "{secret:token}")),
            AuthKind::Basic => Self::Basic {
                username: or(&section.username, "{secret:username}"),
                password: or(&section.password, "{secret:password}"),
            },
            AuthKind::Header => Self::Header {
                name: section.header.clone().unwrap_or_default(),
                value: or(&section.value, "{secret:key}"),
            },
            AuthKind::Oauth2 => Self::Oauth2(Oauth2 {
                token_url: or(&section.token_url, ""),
                client: section.client.unwrap_or(ClientPlacement::Basic),
                client_id: or(&section.client_id, "{secret:client_id}"),
                client_secret: or(&section.client_secret, "{secret:client_secret}"),
                scope: section.scope.clone(),
            }),
        }
    }

    /// The name of the header that it adds to calls.
    pub(super) fn header_name(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Bearer(_) | Self::Basic { .. } | Self::Oauth2(_) => Some("Authorization"),
            Self::Header { name, .. } => Some(name),
        }
    }

    pub(super) fn templates(&self) -> Vec<&Template> {
        match self {
            Self::None => vec![],
            Self::Bearer(token) => vec![token],
            Self::Basic { username, password } => vec![username, password],
            Self::Header { value, .. } => vec![value],
            Self::Oauth2(oauth2) => {
                vec![&oauth2.token_url, &oauth2.client_id, &oauth2.client_secret]
            }
        }
    }
}

/// Checks `[auth]`.
pub(super) fn check(section: &AuthSection, faults: &mut Faults<'_>) {
    let key = Key::of("auth");
    let kind = section.kind;
    let used: &[&str] = match kind {
        AuthKind::None => &[],
        AuthKind::Bearer => &["token"],
        AuthKind::Basic => &["username", "password"],
        AuthKind::Header => &["header", "value"],
        AuthKind::Oauth2 => &[
            "token_url",
            "client",
            "client_id",
            "client_secret",
            "scope",
            "headers",
            "renew_early",
        ],
    };
    for (name, is_given) in [
        ("token", section.token.is_some()),
        ("username", section.username.is_some()),
        ("password", section.password.is_some()),
        ("header", section.header.is_some()),
        ("value", section.value.is_some()),
        ("token_url", section.token_url.is_some()),
        ("client", section.client.is_some()),
        ("client_id", section.client_id.is_some()),
        ("client_secret", section.client_secret.is_some()),
        ("scope", section.scope.is_some()),
        ("headers", !section.headers.0.is_empty()),
        ("renew_early", section.renew_early.is_some()),
    ] {
        if is_given && !used.contains(&name) {
            faults.add(&key.then(name), format!("is not used with kind = \"{kind}\""));
        }
    }
    for (name, template) in [
        ("token", &section.token),
        ("username", &section.username),
        ("password", &section.password),
        ("value", &section.value),
        ("client_id", &section.client_id),
        ("client_secret", &section.client_secret),
    ] {
        let Some(template) = template else { continue };
        let is_setting = |source: &Source| matches!(source, Source::Var(_) | Source::Secret(_));
        if template.uses(|source| !is_setting(source)) {
            faults.add(&key.then(name), "only {secret:NAME} and {var:NAME} are allowed here");
        }
        // Basic may have its secret as user name and no password, or the reverse.
        let is_secret = matches!(name, "token" | "value" | "client_secret")
            || (name == "password" && !template.as_str().is_empty());
        if is_secret && !template.has_secret() {
            faults.add(
                &key.then(name),
                "must be {secret:NAME}: secrets come from the environment or files, never from a \
                 profile",
            );
        }
    }
    match Credentials::of(section) {
        Credentials::Basic { username, password }
            if !username.has_secret() && !password.has_secret() =>
        {
            faults.add(&key.then("password"), "neither it nor the user name is a secret");
        }
        Credentials::Header { name, .. } if !is_header_name(&name) => {
            faults.add(&key.then("header"), "must be a header's name, such as X-API-Key");
        }
        Credentials::Header { name, .. } if is_reserved(&name) => {
            faults.add(&key.then("header"), SET_BY_THE_PROGRAM);
        }
        Credentials::Oauth2(oauth2) => token_url(&oauth2.token_url, &key.then("token_url"), faults),
        _ => {}
    }
    headers(&section.headers, &key.then("headers"), faults);
    let is_basic = section.client.unwrap_or(ClientPlacement::Basic) == ClientPlacement::Basic;
    if kind == AuthKind::Oauth2 && is_basic {
        not_twice(&section.headers, "Authorization", &key.then("headers"), faults);
    }
    without_transaction(&section.headers, &key.then("headers"), faults);
    if let Some(tls) = &section.tls {
        for (name, template) in [("certificate", &tls.certificate), ("key", &tls.key)] {
            let source = template.only_placeholder().map(|placeholder| &placeholder.source);
            if !matches!(source, Some(Source::Secret(_))) {
                faults.add(&key.then("tls").then(name), "must be {secret:NAME}, the name of PEM");
            }
        }
    }
}

fn token_url(template: &Template, key: &Key, faults: &mut Faults<'_>) {
    let text = template.as_str();
    if template.uses(|source| !matches!(source, Source::Var(_))) {
        faults.add(key, "only {var:NAME} is allowed here: URLs are logged");
    } else if let Some(literal) = template.literal()
        && !literal.starts_with('/')
        && check_url(literal).is_err()
    {
        let allowed = "a path of the base URL, such as /token, or an http:// or https:// URL";
        faults.add(key, format!("'{text}' is not allowed: {allowed}"));
    }
}

/// A token, and how long it is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: SecretText,
    /// From when it was asked for; `None`: the answer does not say.
    pub lives: Option<Duration>,
}

/// Where a token is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// An absolute URL, or a path of the base URL.
    pub url: String,
    /// Its `path` and `query` are empty.
    pub request: Request,
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenError {
    pub reason: String,
    /// Whether our credentials were refused, as against an answer that is missing.
    pub is_refused: bool,
    /// How long the answer asks to wait.
    pub retry_after: Option<Duration>,
}

/// The errors that refuse our credentials (RFC 6749 sections 4.1.2.1 and 5.2). The others are about
/// the request or the server.
const REFUSALS: [&str; 5] =
    ["invalid_client", "unauthorized_client", "invalid_grant", "invalid_scope", "access_denied"];

/// Reads the answer to a token request (RFC 6749 section 5.1). The error never quotes it: it may
/// hold a token. How long it asks to wait is in its headers, which are not read here.
pub fn read_token(code: u16, body: Result<&str, &str>) -> Result<Token, TokenError> {
    if !(200..=299).contains(&code) {
        let reason = format!("the token request was answered {code}");
        let is_refused = matches!(code, 400 | 401 | 403);
        return Err(TokenError { reason, is_refused, retry_after: None });
    }
    let failed = |why: &dyn std::fmt::Display| TokenError {
        reason: format!("the token request was answered {code}, but {why}"),
        is_refused: false,
        retry_after: None,
    };
    let root = reading::root(body, false).map_err(|why| failed(&why))?;
    let field = |name: &str| {
        let pointer = Pointer::parse(name).map_err(|why| failed(&why))?;
        let node = root.at(&pointer).map_err(|why| failed(&why))?.filter(|node| !node.is_null());
        node.map(|node| node.written(&pointer)).transpose().map_err(|why| failed(&why))
    };
    let is_visible = |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    let Some(text) = field("/access_token")?.filter(is_visible) else {
        // Some answer a refusal with 200.
        let error = field("/error").ok().flatten();
        let refusal = REFUSALS.into_iter().find(|refusal| error.as_deref() == Some(*refusal));
        return Err(match refusal {
            Some(refusal) => {
                TokenError { is_refused: true, ..failed(&format_args!("it says `{refusal}`")) }
            }
            None => failed(&"the answer has no `access_token` that can be sent"),
        });
    };
    // Some write the number as a text. What is no number is as good as none.
    let seconds = field("/expires_in")?.and_then(|text| text.trim().parse::<u32>().ok());
    let lives = seconds.map(|seconds| Duration::from_secs(u64::from(seconds)));
    Ok(Token { text: text.into(), lives })
}

/// How long before its end a token is renewed.
pub(super) fn renew_early(section: &AuthSection) -> Duration {
    section.renew_early.map_or(RENEW_EARLY, |period| period.0)
}

impl Renderer<'_> {
    /// The headers that authenticate a call. `token`: that of OAuth2.
    pub(super) fn credentials(
        &self,
        credentials: &Credentials,
        token: Option<&SecretText>,
    ) -> Result<Vec<Header>, RenderError> {
        let secret = |name: &str, value: String| {
            vec![Header { name: name.to_owned(), value, is_secret: true }]
        };
        Ok(match credentials {
            Credentials::None => Vec::new(),
            Credentials::Bearer(token) => {
                let Some(token) = self.header("Authorization", token)? else { return Ok(vec![]) };
                secret("Authorization", format!("Bearer {}", token.value))
            }
            Credentials::Basic { username, password } => {
                secret("Authorization", self.basic(username, password)?)
            }
            Credentials::Header { name, value } => match self.header(name, value)? {
                Some(header) => secret(name, header.value),
                None => Vec::new(),
            },
            Credentials::Oauth2(_) => match token {
                Some(token) => secret("Authorization", format!("Bearer {}", token.expose())),
                None => return Err(RenderError::NotSet("the token".to_owned())),
            },
        })
    }

    fn basic(&self, username: &Template, password: &Template) -> Result<String, RenderError> {
        let [username, password] = [username, password].map(|template| self.text(template));
        let (username, password) = (username?.unwrap_or_default(), password?.unwrap_or_default());
        Ok(format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}"))))
    }

    /// The request for a token; `None` where none is needed.
    pub(super) fn token_request(
        &self,
        credentials: &Credentials,
        shared: Vec<Header>,
        own: Vec<Header>,
    ) -> Result<Option<TokenRequest>, RenderError> {
        let Credentials::Oauth2(oauth2) = credentials else { return Ok(None) };
        let url = self.text(&oauth2.token_url)?.unwrap_or_default();
        // The headers of all calls may hold secrets, which another host must not learn.
        let mut headers = if url.starts_with('/') { shared } else { Vec::new() };
        headers.retain(|header| !own.iter().any(|o| o.name.eq_ignore_ascii_case(&header.name)));
        headers.extend(own);
        let mut fields = vec![("grant_type", "client_credentials".to_owned())];
        if let Some(scope) = &oauth2.scope {
            fields.push(("scope", scope.clone()));
        }
        if oauth2.client == ClientPlacement::Basic {
            let value = self.basic(&oauth2.client_id, &oauth2.client_secret)?;
            headers.push(Header { name: "Authorization".to_owned(), value, is_secret: true });
        } else {
            fields.push(("client_id", self.text(&oauth2.client_id)?.unwrap_or_default()));
            fields.push(("client_secret", self.text(&oauth2.client_secret)?.unwrap_or_default()));
        }
        let (content, body) = match oauth2.client {
            ClientPlacement::Basic | ClientPlacement::Form => {
                let form =
                    form_urlencoded::Serializer::new(String::new()).extend_pairs(&fields).finish();
                (Content::Form, form.into_bytes())
            }
            ClientPlacement::Json => {
                let object: serde_json::Map<String, serde_json::Value> = fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value.into()))
                    .collect();
                (Content::Json, serde_json::Value::from(object).to_string().into_bytes())
            }
        };
        let request = Request {
            method: Method::Post,
            path: String::new(),
            query: Vec::new(),
            headers,
            content: Some(content),
            body,
        };
        Ok(Some(TokenRequest { url, request }))
    }
}
