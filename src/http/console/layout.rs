//! The frame of every page, and rendering a page as a response.

use askama::Template;
use poem::{
    Response,
    http::{StatusCode, header},
};

use super::{assets, fields::FormFields, page_error::PageError, session::Session};
use crate::{
    domain::visible,
    http::problem::{Cause, retry_after},
};

/// The parts of the console, in the order of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    Overview,
    Transactions,
    DeadLetters,
    Jobs,
    Queues,
    RejectedWebhooks,
    Audit,
}

impl Section {
    const ALL: [Self; 7] = [
        Self::Overview,
        Self::Transactions,
        Self::DeadLetters,
        Self::Jobs,
        Self::Queues,
        Self::RejectedWebhooks,
        Self::Audit,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Transactions => "Transactions",
            Self::DeadLetters => "Dead letters",
            Self::Jobs => "Jobs",
            Self::Queues => "Queues",
            Self::RejectedWebhooks => "Rejected webhooks",
            Self::Audit => "Audit",
        }
    }

    pub fn path(self) -> &'static str {
        match self {
            Self::Overview => "/console",
            Self::Transactions => "/console/transactions",
            Self::DeadLetters => "/console/dead-letters",
            Self::Jobs => "/console/jobs",
            Self::Queues => "/console/queues",
            Self::RejectedWebhooks => "/console/rejected-webhooks",
            Self::Audit => "/console/audit",
        }
    }
}

/// What `layout.html` shows around a page.
#[derive(Debug)]
pub struct Layout {
    pub title: String,
    pub section: Option<Section>,
    pub session: Option<Session>,
    /// What was just done, where a redirect says so.
    pub done: Option<&'static str>,
}

impl Layout {
    /// Around a page of a section.
    pub fn new(session: &Session, section: Section, title: impl Into<String>) -> Self {
        let (section, session) = (Some(section), Some(session.clone()));
        Self { title: title.into(), section, session, done: None }
    }

    /// Around a page outside all sections.
    pub fn plain(title: &str) -> Self {
        Self { title: title.to_owned(), section: None, session: None, done: None }
    }

    /// Around a refusal.
    pub fn for_refusal(session: Option<&Session>, status: StatusCode) -> Self {
        let title = if status == StatusCode::NOT_FOUND { "Not found" } else { "Not done" };
        Self { session: session.cloned(), ..Self::plain(title) }
    }

    /// Says what was done, if the query has one of our own codes: other text is not repeated.
    pub fn with_done(mut self, query: &FormFields) -> Self {
        self.done = query.get("done").and_then(done);
        self
    }

    pub fn sections(&self) -> impl Iterator<Item = Section> {
        Section::ALL.into_iter()
    }

    pub fn is_current(&self, section: &Section) -> bool {
        self.section == Some(*section)
    }

    pub fn csrf(&self) -> &str {
        self.session.as_ref().map_or("", |session| &session.csrf)
    }

    pub fn style(&self) -> String {
        assets::style_url()
    }

    pub fn script(&self) -> String {
        assets::script_url()
    }

    pub fn icon(&self) -> String {
        assets::icon_url()
    }
}

fn done(code: &str) -> Option<&'static str> {
    Some(match code {
        "replayed" => "Replayed: its job is due now, with fresh attempts.",
        "resolved" => "Resolved.",
        "discarded" => "Discarded.",
        "retried" => "The job is due now.",
        "cancelled" => "The job is cancelled. Its row stays, and a webhook still settles.",
        "paused" => "The queue is paused. Running jobs end; no process starts another.",
        "resumed" => "The queue is resumed.",
        _ => return None,
    })
}

/// A page with status 200.
pub fn page(template: &impl Template) -> poem::Result<Response> {
    page_with(StatusCode::OK, template)
}

/// A page with a status.
pub fn page_with(status: StatusCode, template: &impl Template) -> poem::Result<Response> {
    let html = template.render().map_err(PageError::failed)?;
    // askama escapes markup. What does not show, and may turn around how the rest shows, remains.
    let html = visible(&html).into_owned();
    Ok(Response::builder().status(status).content_type("text/html; charset=utf-8").body(html))
}

/// A redirect after an action, or to the sign-in.
pub fn see_other(to: &str) -> Response {
    Response::builder().status(StatusCode::SEE_OTHER).header(header::LOCATION, to).finish()
}

#[derive(Template)]
#[template(path = "refused.html")]
struct RefusedPage<'a> {
    layout: &'a Layout,
    refusal: &'a PageError,
}

/// The page that says why something was not done.
pub fn refused(layout: &Layout, refusal: &PageError) -> poem::Result<Response> {
    let mut response = page_with(refusal.status, &RefusedPage { layout, refusal })?;
    if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, retry_after());
    }
    if let Some(cause) = &refusal.cause {
        // Logged at the edge, like those of the API.
        response.set_data(Cause(cause.clone()));
    }
    Ok(response)
}
