//! The four queues, and pausing them.

use std::sync::Arc;

use askama::Template;
use poem::{
    Response, handler,
    web::{Data, Path},
};

use super::{
    fields::FormFields,
    format::{self, Chip},
    layout::{self, Layout, Section},
    page_error::PageError,
    session::Session,
};
use crate::{
    domain::JobKind,
    http::ApiState,
    store::{
        StoreError,
        audit::Actor,
        queues::{self, MAX_COUNT, QueueStats},
    },
};

/// A queue, as the page displays it.
#[derive(Debug)]
pub struct Queue {
    pub figures: QueueStats,
}

impl Queue {
    /// A count, or that there are more than are counted.
    pub fn count(&self, count: &i64) -> String {
        let more = if *count >= MAX_COUNT { "+" } else { "" };
        format!("{}{more}", format::number(count))
    }

    /// How long its oldest due job waits.
    pub fn oldest(&self) -> Option<String> {
        self.figures.oldest_due_age.map(format::format_duration)
    }

    /// What its job does.
    pub fn purpose(&self) -> &'static str {
        match self.figures.queue {
            JobKind::CreateTransaction => "writes the transaction if it is missing",
            JobKind::CreateAtThirdParty => "looks it up at the third party, or creates it there",
            JobKind::UpdateStatus => "polls the third party until it is final",
            JobKind::NotifyClient => "tells the client its status",
        }
    }
}

/// The four queues, in their order.
pub async fn read(state: &ApiState) -> Result<Vec<Queue>, StoreError> {
    let queues = queues::list(&state.pool).await?;
    Ok(queues.into_iter().map(|figures| Queue { figures }).collect())
}

#[derive(Template)]
#[template(path = "queues.html")]
struct QueuesPage {
    layout: Layout,
    queues: Vec<Queue>,
}

/// The queues.
#[handler]
pub async fn list_queues(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
    Data(query): Data<&FormFields>,
) -> poem::Result<Response> {
    let queues = state.fetch(read(state)).await?;
    let layout = Layout::new(session, Section::Queues, "Queues").with_done(query);
    layout::page(&QueuesPage { layout, queues })
}

#[derive(Template)]
#[template(path = "queue_confirm.html")]
struct ConfirmPage {
    layout: Layout,
    queue: Queue,
    /// Whether it is about a pause, or else its end.
    pauses: bool,
    note: String,
    error: Option<String>,
}

/// What pausing or resuming would do, to be confirmed.
#[handler]
pub async fn confirm_change(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
    Path((queue, change)): Path<(String, String)>,
) -> poem::Result<Response> {
    let (queue, pauses) = read_path(&queue, &change)?;
    layout::page(&confirmation(state, session, queue, pauses, None).await?)
}

fn read_path(queue: &str, change: &str) -> Result<(JobKind, bool), PageError> {
    let unknown = || PageError::not_found("there is no such page of a queue");
    let queue = queue.parse().map_err(|_| unknown())?;
    match change {
        "pause" => Ok((queue, true)),
        "resume" => Ok((queue, false)),
        _ => Err(unknown()),
    }
}

async fn confirmation(
    state: &ApiState,
    session: &Session,
    queue: JobKind,
    pauses: bool,
    error: Option<String>,
) -> Result<ConfirmPage, PageError> {
    let mut queues = state.fetch(read(state)).await?;
    let title = format!("{} {queue}", if pauses { "Pause" } else { "Resume" });
    let layout = Layout::new(session, Section::Queues, title);
    // The queues come in the order of their kinds.
    let queue = queues.swap_remove(queue.index());
    Ok(ConfirmPage { layout, queue, pauses, note: String::new(), error })
}

/// Pauses or resumes a queue.
#[handler]
pub async fn change_queue(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
    Data(form): Data<&FormFields>,
    Path((queue, change)): Path<(String, String)>,
) -> poem::Result<Response> {
    let (queue, pauses) = read_path(&queue, &change)?;
    let note = match form.note() {
        Ok(note) => note,
        Err(wrong) => {
            let mut page = confirmation(state, session, queue, pauses, Some(wrong.reason)).await?;
            page.note = form.text("note");
            return layout::page_with(wrong.status, &page);
        }
    };
    let operator = session.operator();
    let actor = Actor { operator: &operator, note };
    let changed = async {
        if pauses {
            state.operations.pause_queue(queue, actor).await
        } else {
            state.operations.resume_queue(queue, actor).await
        }
    };
    state.fetch(changed).await?;
    let done = if pauses { "paused" } else { "resumed" };
    Ok(layout::see_other(&format!("/console/queues?done={done}")))
}
