//! Jobs: list, read, retry, cancel.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
    payload::Json,
};
use uuid::Uuid;

use super::{
    Note, answers,
    schema::{Job, JobList},
};
use crate::{
    domain::{JobKind, JobState},
    http::{
        ApiState,
        api_enum::ApiEnum,
        middleware::{auth::OperatorAuth, body::OptionalJson},
        page::{self, Page},
        problem::Problem,
    },
    store::{
        audit::Actor,
        jobs::job_list::{self, JobActionError, JobFilter},
    },
};

/// The operations on jobs.
pub struct JobsApi;

answers! { list
    /// Answers of `GET /v1/operator/jobs`.
    ListJobsResponse {
        /// A page of jobs.
        Page(JobList)
    }
}

answers! { read
    /// Answers of `GET /v1/operator/jobs/{id}`.
    GetJobResponse {
        /// The job.
        Found(Job)
    }
}

answers! { act
    /// Answers of `POST /v1/operator/jobs/{id}/retry`.
    RetryJobResponse {
        /// It is due.
        Retried(Job)
    }
}

answers! { act
    /// Answers of `POST /v1/operator/jobs/{id}/cancel`.
    CancelJobResponse {
        /// It is cancelled.
        Cancelled(Job)
    }
}

#[OpenApi(prefix_path = "/v1/operator", tag = "crate::http::Tag::Operator")]
impl JobsApi {
    /// List jobs: waiting by due time, running by start time, others newest first.
    #[oai(path = "/jobs", method = "get", operation_id = "list_jobs")]
    #[allow(clippy::too_many_arguments)] // One for each query parameter of the contract.
    async fn list_jobs(
        &self,
        _operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Only those of this queue.
        queue: Query<Option<ApiEnum<JobKind>>>,
        /// Only those in this state.
        #[oai(name = "state")]
        in_state: Query<Option<ApiEnum<JobState>>>,
        /// Only those of this transaction.
        transaction_id: Query<Option<Uuid>>,
        /// Entries of a page.
        #[oai(
            default = "page::default_limit",
            validator(minimum(value = "1"), maximum(value = "200"))
        )]
        limit: Query<u32>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> poem::Result<ListJobsResponse> {
        let filter = JobFilter {
            queue: queue.0.map(|queue| queue.0),
            state: in_state.0.map(|state| state.0),
            transaction_id: transaction_id.0,
            cursor: page::after(cursor.0.as_deref())?,
        };
        let list = job_list::list(&state.pool, &filter, page::rows(limit.0));
        let page = Page::new(state.read(None, list).await?, limit.0, |row| {
            job_list::cursor(row, filter.state)
        });
        Ok(ListJobsResponse::Page(Json(page.map(|row| job(&state, row)).into())))
    }

    /// Read a job.
    #[oai(path = "/jobs/:id", method = "get", operation_id = "get_job")]
    async fn get_job(
        &self,
        _operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Its id.
        id: Path<String>,
    ) -> poem::Result<GetJobResponse> {
        let row = state.read(None, job_list::get(&state.pool, known(&id.0)?)).await?;
        let row = row.ok_or(JobActionError::NotFound).map_err(Problem::from)?;
        Ok(GetJobResponse::Found(Json(job(&state, row))))
    }

    /// Make a job due now.
    ///
    /// One that waits keeps its attempts; one that has ended gets fresh ones, and its open dead
    /// letter is closed as replayed. A create that may have gone through is due at the end of
    /// its backoff. A running job is refused, and a create that is done.
    #[oai(path = "/jobs/:id/retry", method = "post", operation_id = "retry_job")]
    async fn retry_job(
        &self,
        operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Its id.
        id: Path<String>,
        body: OptionalJson<Note>,
    ) -> poem::Result<RetryJobResponse> {
        let note = body.0.and_then(|body| body.note);
        let actor = Actor { operator: &operator.0, note: note.as_deref() };
        let retry = state.operations.retry_job(known(&id.0)?, actor);
        let row = state.within_limit(retry).await?;
        Ok(RetryJobResponse::Retried(Json(job(&state, row))))
    }

    /// End a job that waits. A webhook still settles the transaction.
    #[oai(path = "/jobs/:id/cancel", method = "post", operation_id = "cancel_job")]
    async fn cancel_job(
        &self,
        operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Its id.
        id: Path<String>,
        body: OptionalJson<Note>,
    ) -> poem::Result<CancelJobResponse> {
        let note = body.0.and_then(|body| body.note);
        let actor = Actor { operator: &operator.0, note: note.as_deref() };
        let cancel = state.operations.cancel_job(known(&id.0)?, actor);
        let row = state.within_limit(cancel).await?;
        Ok(CancelJobResponse::Cancelled(Json(job(&state, row))))
    }
}

/// An id that a job may have: Postgres has no NUL in a text.
pub fn known(id: &str) -> Result<&str, Problem> {
    if id.contains('\0') { Err(JobActionError::NotFound.into()) } else { Ok(id) }
}

fn job(state: &ApiState, row: job_list::JobRow) -> Job {
    Job::new(row, state.operations.dead_after)
}
