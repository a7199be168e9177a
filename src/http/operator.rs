//! The operators' side: dead letters.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use poem::{http::StatusCode, web::Data};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
    types::Any,
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    ApiState,
    auth::OperatorAuth,
    body::{self, FieldFault, Fields, FromFields, OptionalJson},
    page,
    problem::{Problem, ProblemJson},
    words::Word,
};
use crate::{
    domain::{DeadLetterKind, DeadLetterState, JobKind},
    store::{
        dead_letters::{self, Filter, ReplayError},
        transactions::Cursor,
    },
};

/// Most characters of an operator's note.
const MAX_NOTE: usize = 1_000;

/// The operators' operations.
pub struct OperatorApi;

/// What a machine must not decide.
#[derive(Debug, Clone, Object)]
pub struct DeadLetter {
    /// Its id.
    pub id: Uuid,
    /// Why it is here.
    pub kind: Word<DeadLetterKind>,
    /// `open`, then `replayed`, `resolved` or `discarded`.
    pub state: Word<DeadLetterState>,
    /// The transaction, where known.
    pub transaction_id: Option<Uuid>,
    /// The job it came from; null for one that a webhook or a conflict opened.
    pub job_id: Option<String>,
    /// That job's queue.
    pub queue: Option<String>,
    /// That job's row as it was.
    pub job: Option<Any<Value>>,
    /// One sentence.
    pub reason: String,
    /// The reported statuses, where it is about one.
    pub detail: Any<Value>,
    /// The attempts' errors: `[{attempt, at, error}]`, oldest first.
    pub attempts: Any<Value>,
    /// When it was opened.
    pub opened_at: DateTime<Utc>,
    /// When it was closed.
    pub closed_at: Option<DateTime<Utc>>,
    /// Who closed it.
    pub closed_by: Option<String>,
    /// Why it was closed.
    pub note: Option<String>,
}

impl From<dead_letters::DeadLetter> for DeadLetter {
    fn from(row: dead_letters::DeadLetter) -> Self {
        Self {
            id: row.id,
            kind: Word(row.kind),
            state: Word(row.state),
            transaction_id: row.transaction_id,
            job_id: row.job_id,
            queue: row.queue,
            job: row.job.map(Any),
            reason: row.reason,
            detail: Any(row.detail),
            attempts: Any(row.attempts),
            opened_at: row.opened_at,
            closed_at: row.closed_at,
            closed_by: row.closed_by,
            note: row.note,
        }
    }
}

/// A page of dead letters.
#[derive(Debug, Object)]
pub struct DeadLetterList {
    /// Newest first.
    pub items: Vec<DeadLetter>,
    /// Pass it as `cursor` for the next page; null on the last one.
    pub next_cursor: Option<String>,
}

/// What an operator says about an action.
#[derive(Debug, Clone, Default, Object)]
pub struct ReplayRequest {
    /// Why, at most 1,000 characters.
    #[oai(validator(max_length = 1000))]
    pub note: Option<String>,
}

impl FromFields for ReplayRequest {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let note = fields.optional("note", |value| {
            let note = body::text(value)?;
            if note.chars().count() > MAX_NOTE {
                return Err(FieldFault::new(format!("must be at most {MAX_NOTE} characters")));
            }
            Ok(note)
        });
        Some(Self { note })
    }
}

/// Answers of `GET /v1/operator/dead-letters`.
#[derive(ApiResponse)]
pub enum ListDeadLettersResponse {
    /// A page of dead letters.
    #[oai(status = 200)]
    Page(Json<DeadLetterList>),
    /// No or a wrong token.
    #[oai(status = 401)]
    Unauthorized(ProblemJson),
    /// A client's key.
    #[oai(status = 403)]
    Forbidden(ProblemJson),
    /// A parameter is wrong.
    #[oai(status = 422)]
    Invalid(ProblemJson),
    /// The database is away.
    #[oai(status = 503)]
    Unavailable(ProblemJson),
}

/// Answers of `GET /v1/operator/dead-letters/{id}`.
#[derive(ApiResponse)]
pub enum GetDeadLetterResponse {
    /// The dead letter.
    #[oai(status = 200)]
    Found(Json<DeadLetter>),
    /// No or a wrong token.
    #[oai(status = 401)]
    Unauthorized(ProblemJson),
    /// A client's key.
    #[oai(status = 403)]
    Forbidden(ProblemJson),
    /// There is none with this id.
    #[oai(status = 404)]
    NotFound(ProblemJson),
    /// A parameter is wrong.
    #[oai(status = 422)]
    Invalid(ProblemJson),
    /// The database is away.
    #[oai(status = 503)]
    Unavailable(ProblemJson),
}

/// Answers of `POST /v1/operator/dead-letters/{id}/replay`.
#[derive(ApiResponse)]
pub enum ReplayDeadLetterResponse {
    /// Replayed: its job is due now with fresh attempts.
    #[oai(status = 200)]
    Replayed(Json<DeadLetter>),
    /// The body is no JSON object.
    #[oai(status = 400)]
    BadRequest(ProblemJson),
    /// No or a wrong token.
    #[oai(status = 401)]
    Unauthorized(ProblemJson),
    /// A client's key.
    #[oai(status = 403)]
    Forbidden(ProblemJson),
    /// There is none with this id.
    #[oai(status = 404)]
    NotFound(ProblemJson),
    /// It is closed, or there is nothing to replay; nothing was done.
    #[oai(status = 409)]
    Conflict(ProblemJson),
    /// The body is too long.
    #[oai(status = 413)]
    TooLarge(ProblemJson),
    /// The body is not declared as JSON.
    #[oai(status = 415)]
    UnsupportedMediaType(ProblemJson),
    /// A field or parameter is wrong or unknown.
    #[oai(status = 422)]
    Invalid(ProblemJson),
    /// The database is away; nothing was done, or all of it.
    #[oai(status = 503)]
    Unavailable(ProblemJson),
}

#[OpenApi(prefix_path = "/v1/operator", tag = "super::Tag::Operator")]
impl OperatorApi {
    /// List dead letters, newest first.
    #[oai(path = "/dead-letters", method = "get", operation_id = "list_dead_letters")]
    #[allow(clippy::too_many_arguments)] // One for each query parameter of the contract.
    async fn list_dead_letters(
        &self,
        _operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Only those of this kind.
        kind: Query<Option<Word<DeadLetterKind>>>,
        /// Only those in this state.
        #[oai(name = "state")]
        in_state: Query<Option<Word<DeadLetterState>>>,
        /// Only those about this transaction.
        transaction_id: Query<Option<Uuid>>,
        /// Entries of a page.
        #[oai(
            default = "page::default_limit",
            validator(minimum(value = "1"), maximum(value = "200"))
        )]
        limit: Query<u32>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> poem::Result<ListDeadLettersResponse> {
        let filter = Filter {
            kind: kind.0.map(|kind| kind.0),
            state: in_state.0.map(|state| state.0),
            transaction_id: transaction_id.0,
            cursor: cursor.0.as_deref().map(page::decode).transpose()?,
        };
        let list = dead_letters::list(&state.pool, &filter, i64::from(limit.0) + 1);
        let mut rows = state.within_limit(list).await?;
        let next_cursor =
            page::cut(&mut rows, limit.0, |row| Cursor { at: row.opened_at, id: row.id });
        let items = rows.into_iter().map(Into::into).collect();
        Ok(ListDeadLettersResponse::Page(Json(DeadLetterList { items, next_cursor })))
    }

    /// Read a dead letter.
    #[oai(path = "/dead-letters/:id", method = "get", operation_id = "get_dead_letter")]
    async fn get_dead_letter(
        &self,
        _operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Its id.
        id: Path<Uuid>,
    ) -> poem::Result<GetDeadLetterResponse> {
        let letter = state.within_limit(dead_letters::get(&state.pool, id.0)).await?;
        let letter = letter.ok_or_else(no_dead_letter)?;
        Ok(GetDeadLetterResponse::Found(Json(letter.into())))
    }

    /// Replay a dead letter.
    ///
    /// Its job is due now, with fresh attempts; for an `unknown_transaction` the webhook's status
    /// is applied, if the transaction exists by now.
    #[oai(path = "/dead-letters/:id/replay", method = "post", operation_id = "replay_dead_letter")]
    async fn replay_dead_letter(
        &self,
        operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Its id.
        id: Path<Uuid>,
        body: OptionalJson<ReplayRequest>,
    ) -> poem::Result<ReplayDeadLetterResponse> {
        let note = body.0.and_then(|body| body.note);
        let replay = dead_letters::replay(&state.pool, id.0, operator.0, note.as_deref());
        // A refusal is an answer, not a failure of the database.
        let replayed = state.within_limit(async {
            match replay.await {
                Err(ReplayError::Store(error)) => Err(error),
                answer => Ok(answer),
            }
        });
        let letter = match replayed.await? {
            Ok(letter) => letter,
            Err(ReplayError::NotFound) => return Err(no_dead_letter().into()),
            Err(refused) => {
                let problem = Problem::new(StatusCode::CONFLICT, refused.to_string());
                return Ok(ReplayDeadLetterResponse::Conflict(ProblemJson(problem)));
            }
        };
        for kind in JobKind::ALL {
            state.wakeups.hint(kind.as_str(), Duration::ZERO);
        }
        Ok(ReplayDeadLetterResponse::Replayed(Json(letter.into())))
    }
}

fn no_dead_letter() -> Problem {
    Problem::not_found("there is no dead letter with this id")
}
