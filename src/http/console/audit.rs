//! What operators did, newest first.

use std::sync::Arc;

use askama::Template;
use poem::{Response, handler, web::Data};

use super::{
    fields::FormFields,
    format,
    layout::{self, Layout, Section},
    session::Session,
};
use crate::{
    http::ApiState,
    store::audit::{self, Filter, Recorded},
};

const PAGE: usize = 50;

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    layout: Layout,
    actions: Vec<Recorded>,
    /// Whether it is not the first page.
    older: bool,
    next: Option<String>,
}

/// The audit.
#[handler]
pub async fn list_actions(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
    Data(query): Data<&FormFields>,
) -> poem::Result<Response> {
    let before = query.parsed("before", "must be a number")?;
    let filter = Filter { before, ..Filter::default() };
    let list = audit::list(&state.pool, filter, PAGE as i64 + 1);
    let mut actions = state.fetch(list).await?;
    let more = actions.len() > PAGE;
    actions.truncate(PAGE);
    let last = actions.last().filter(|_| more);
    let next = last.map(|last| query.with("before", &last.id.to_string()));
    let layout = Layout::new(session, Section::Audit, "Audit");
    layout::page(&AuditPage { layout, actions, older: before.is_some(), next })
}
