//! Which webhooks were rejected, and why.

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
    http::{
        ApiState,
        page::{self, Page},
    },
    store::rejected_webhooks::{self, RejectedWebhooks},
};

const PAGE: u32 = 50;

#[derive(Template)]
#[template(path = "rejected_webhooks.html")]
struct RejectedWebhooksPage {
    layout: Layout,
    rows: Vec<RejectedWebhooks>,
    /// Whether it is not the first page.
    older: bool,
    next: Option<String>,
}

/// The rejected webhooks.
#[handler]
pub async fn list_rejected_webhooks(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
    Data(query): Data<&FormFields>,
) -> poem::Result<Response> {
    let after = query.cursor()?;
    let older = after.is_some();
    let list = rejected_webhooks::list(&state.pool, after, page::rows(PAGE));
    let Page { items: rows, next_cursor } =
        Page::new(state.fetch(list).await?, PAGE, RejectedWebhooks::cursor);
    let next = next_cursor.map(|cursor| query.with("cursor", &cursor));
    let layout = Layout::new(session, Section::RejectedWebhooks, "Rejected webhooks");
    layout::page(&RejectedWebhooksPage { layout, rows, older, next })
}
