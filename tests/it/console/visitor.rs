//! A visitor of the console without a browser: keeps its cookie, follows nothing by itself.

use reqwest::{Method, RequestBuilder, header, redirect::Policy};

use crate::support::{TestApp, world::OPERATOR_TOKEN};

/// Somebody who asks for pages.
pub struct Visitor {
    http: reqwest::Client,
    base: String,
    /// `name=value`, as it is sent; none before the sign-in.
    pub cookie: Option<String>,
}

/// A page as it came.
pub struct Page {
    pub status: u16,
    pub headers: header::HeaderMap,
    pub html: String,
}

impl Page {
    /// A header's text, empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts a redirect and returns where to.
    #[track_caller]
    pub fn location(&self) -> &str {
        assert_eq!(self.status, 303, "{}", self.html);
        self.header("location")
    }

    /// Asserts a status and returns the page.
    #[track_caller]
    pub fn expect(&self, status: u16) -> &str {
        assert_eq!(self.status, status, "{}", self.html);
        &self.html
    }

    /// The token in the page's forms.
    #[track_caller]
    pub fn csrf(&self) -> String {
        let (_, rest) = self.html.split_once(r#"name="csrf" value=""#).expect("there is a form");
        rest.split_once('"').unwrap().0.to_owned()
    }
}

impl Visitor {
    /// Somebody who is not signed in.
    pub fn new(app: &TestApp) -> Self {
        Self::of(app.url())
    }

    /// Somebody who is not signed in at this server.
    pub fn of(url: &str) -> Self {
        // reqwest is built without a TLS provider; a second installation is refused, which is fine.
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = reqwest::Client::builder().redirect(Policy::none()).no_proxy().build().unwrap();
        Self { http, base: url.to_owned(), cookie: None }
    }

    /// The same with this cookie.
    pub fn with_cookie(self, cookie: impl Into<String>) -> Self {
        Self { cookie: Some(cookie.into()), ..self }
    }

    /// Somebody who has signed in as Ada.
    pub async fn signed_in(app: &TestApp) -> Self {
        let mut visitor = Self::new(app);
        let answer = visitor.sign_in(&[("token", OPERATOR_TOKEN), ("name", "Ada")]).await;
        assert_eq!(answer.location(), "/console");
        visitor
    }

    /// Sends the sign-in form, and keeps the cookie that comes.
    pub async fn sign_in(&mut self, fields: &[(&str, &str)]) -> Page {
        let answer = self.post_plain("/console/sign-in", fields).await;
        if let Some(cookie) = answer.headers.get(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            self.cookie = Some(cookie.split(';').next().unwrap().to_owned());
        }
        answer
    }

    /// A request with the cookie.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.cookie {
            Some(cookie) => request.header(header::COOKIE, cookie),
            None => request,
        }
    }

    pub async fn send(&self, request: RequestBuilder) -> Page {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Page { status, headers, html: answer.text().await.unwrap() }
    }

    pub async fn get(&self, path: &str) -> Page {
        self.send(self.request(Method::GET, path)).await
    }

    /// A form as a browser sends it, with nothing added.
    pub fn form(&self, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        let body = form.extend_pairs(fields).finish();
        let form = "application/x-www-form-urlencoded";
        self.request(Method::POST, path).header(header::CONTENT_TYPE, form).body(body)
    }

    pub async fn post_plain(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        self.send(self.form(path, fields)).await
    }

    /// A form with this session's token.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let csrf = self.get("/console/audit").await.csrf();
        let fields: Vec<_> = fields.iter().copied().chain([("csrf", csrf.as_str())]).collect();
        self.post_plain(path, &fields).await
    }
}
