//! Jobs: filtered by queue and state, and one that can be retried or cancelled.

use std::sync::Arc;

use askama::Template;
use poem::{
    Response, handler,
    web::{Data, Path},
};

use super::{
    evidence::{Attempt, attempts},
    fields::FormFields,
    format::{self, Chip},
    layout::{self, Layout, Section},
    page_error::PageError,
    session::Session,
};
use crate::{
    domain::{JobKind, JobState},
    http::{
        ApiState,
        operator::jobs::known,
        page::{self, Page},
    },
    store::{
        audit::Actor,
        jobs::job_list::{self, JobActionError, JobFilter, JobRow},
    },
};

const PAGE: u32 = 50;

#[derive(Template)]
#[template(path = "jobs.html")]
struct ListPage {
    layout: Layout,
    query: FormFields,
    rows: Vec<JobRow>,
    next: Option<String>,
}

impl ListPage {
    fn queues(&self) -> &'static [JobKind] {
        JobKind::ALL
    }

    fn states(&self) -> &'static [JobState] {
        JobState::ALL
    }

    fn is_filtered(&self) -> bool {
        ["queue", "state", "transaction", "cursor"]
            .iter()
            .any(|name| self.query.get(name).is_some())
    }
}

/// The list.
#[handler]
pub async fn list_jobs(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
    Data(query): Data<&FormFields>,
) -> poem::Result<Response> {
    let filter = JobFilter {
        queue: query.word("queue")?,
        state: query.word("state")?,
        transaction_id: query.uuid("transaction")?,
        cursor: query.cursor()?,
    };
    let list = job_list::list(&state.pool, &filter, page::rows(PAGE));
    let Page { items: rows, next_cursor } =
        Page::new(state.fetch(list).await?, PAGE, |row| job_list::cursor(row, filter.state));
    let next = next_cursor.map(|cursor| query.with("cursor", &cursor));
    let layout = Layout::new(session, Section::Jobs, "Jobs");
    layout::page(&ListPage { layout, query: query.clone(), rows, next })
}

#[derive(Template)]
#[template(path = "job.html")]
struct JobPage {
    layout: Layout,
    job: JobRow,
    attempts: Vec<Attempt>,
    note: String,
    error: Option<String>,
}

impl JobPage {
    fn can_retry(&self) -> bool {
        self.job.state != JobState::Running
    }

    fn can_cancel(&self) -> bool {
        matches!(self.job.state, JobState::Due | JobState::Scheduled)
    }

    /// Whether it has ended well: to run it again is allowed, but seldom meant.
    fn is_done(&self) -> bool {
        self.job.state == JobState::Done
    }
}

/// One job.
#[handler]
pub async fn show_job(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
    Data(query): Data<&FormFields>,
    Path(id): Path<String>,
) -> poem::Result<Response> {
    let mut page = read(state, session, known(&id)?).await?;
    page.layout = page.layout.with_done(query);
    layout::page(&page)
}

/// Where a reload leads after an action that was refused.
#[handler]
pub fn show_job_of_action(Path((id, _)): Path<(String, String)>) -> Response {
    layout::see_other(&path_of(&id, ""))
}

/// The page of a job; its id may hold anything.
fn path_of(id: &str, query: &str) -> String {
    let id: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
    format!("/console/jobs/{}{query}", id.replace('+', "%20"))
}

async fn read(state: &ApiState, session: &Session, id: &str) -> Result<JobPage, PageError> {
    let job = state.fetch(job_list::get(&state.pool, id)).await?.ok_or_else(not_found)?;
    Ok(JobPage {
        layout: Layout::new(session, Section::Jobs, format!("Job {}", job.queue)),
        attempts: attempts(&job.errors),
        job,
        note: String::new(),
        error: None,
    })
}

fn not_found() -> PageError {
    PageError::not_found("there is no job with this id; finished ones are pruned by age")
}

/// Retries or cancels a job.
#[handler]
pub async fn act_on_job(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
    Data(form): Data<&FormFields>,
    Path((id, action)): Path<(String, String)>,
) -> poem::Result<Response> {
    let id = known(&id)?;
    let retries = match action.as_str() {
        "retry" => true,
        "cancel" => false,
        _ => return Err(PageError::not_found("a job is retried or cancelled").into()),
    };
    let refused = match try_act(state, session, form, id, retries).await {
        Ok(()) => {
            let done = if retries { "retried" } else { "cancelled" };
            return Ok(layout::see_other(&path_of(id, &format!("?done={done}"))));
        }
        Err(refused) if refused.status.is_server_error() => return Err(refused.into()),
        Err(refused) => refused,
    };
    let mut page = read(state, session, id).await?;
    (page.note, page.error) = (form.text("note"), Some(refused.reason));
    layout::page_with(refused.status, &page)
}

async fn try_act(
    state: &ApiState,
    session: &Session,
    form: &FormFields,
    id: &str,
    retries: bool,
) -> Result<(), PageError> {
    let operator = session.operator();
    let actor = Actor { operator: &operator, note: form.note()? };
    let acting = async {
        let done = if retries {
            state.operations.retry_job(id, actor).await
        } else {
            state.operations.cancel_job(id, actor).await
        };
        // A refusal is an answer, not a failure of the database.
        match done {
            Err(JobActionError::Store(error)) => Err(error),
            answer => Ok(answer),
        }
    };
    match state.fetch(acting).await? {
        Ok(_) => Ok(()),
        Err(JobActionError::NotFound) => Err(not_found()),
        Err(refused) => Err(PageError::conflict(refused.to_string())),
    }
}
