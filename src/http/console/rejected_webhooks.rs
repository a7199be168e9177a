//! Which webhooks were rejected, and why.

use std::sync::Arc;

use askama::Template;
use poem::{Response, handler, web::Data};

use super::{
    fields::Fields,
    layout::{self, Layout, Section},
    session::Session,
    shown,
};
use crate::{
    http::{ApiState, operator::rejected_webhooks::cursor, page},
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
    Data(query): Data<&Fields>,
) -> poem::Result<Response> {
    let after = query.get("cursor").map(page::decode_job).transpose()?;
    let older = after.is_some();
    let list = rejected_webhooks::list(&state.pool, after, i64::from(PAGE) + 1);
    let mut rows = state.fetch(list).await?;
    let next = page::cut_jobs(&mut rows, PAGE, cursor);
    let next = next.map(|next| query.with("cursor", &next));
    let layout = Layout::new(session, Section::RejectedWebhooks, "Rejected webhooks");
    layout::page(&RejectedWebhooksPage { layout, rows, older, next })
}
