//! The operators' side of the API: dead letters, jobs, queues, and why a transaction waits.
//!
//! Every action answers with what it changed; one that is refused (404, 409) or fails (503)
//! changed nothing, and an action that took place is in the audit.

pub mod bulk_replay;
pub mod dead_letters;
pub mod jobs;
pub mod maintenance;
pub mod queues;
pub mod rejected_webhooks;
pub mod schema;
pub mod transactions;

use poem::http::StatusCode;
use poem_openapi::Object;
use uuid::Uuid;

use super::{
    ApiState,
    answers::answers,
    middleware::body::{self, FieldFault, Fields, FromFields},
    problem::{FieldProblem, Problem},
};
use crate::store::{clients, dead_letter_actions::DeadLetterError, jobs::job_list::JobActionError};

/// Most characters of an operator's note.
pub const MAX_NOTE: usize = 1_000;

/// What an operator says about an action.
#[derive(Debug, Clone, Default, Object)]
#[oai(rename = "OperatorNote")]
pub struct Note {
    /// Why, at most 1,000 characters.
    #[oai(validator(max_length = 1000, pattern = r"^[^\u0000]*$"))]
    pub note: Option<String>,
}

impl FromFields for Note {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self { note: fields.optional("note", note) })
    }
}

/// Reads an operator's note.
fn note(value: serde_json::Value) -> Result<String, FieldFault> {
    let note = body::text(value)?;
    if note.chars().count() > MAX_NOTE {
        return Err(FieldFault::new(format!("must be at most {MAX_NOTE} characters")));
    }
    Ok(note)
}

/// The id of the client that a filter names.
async fn client_id(state: &ApiState, name: Option<&str>) -> Result<Option<Uuid>, Problem> {
    let Some(name) = name else { return Ok(None) };
    // Postgres has no NUL in a text, and so no client has it in its name.
    let found = match name.contains('\0') {
        true => None,
        false => state.within_limit(clients::find_by_name(&state.operations.pool, name)).await?,
    };
    let unknown = || FieldProblem::parameter("client", "there is no client of this name");
    found.map(Some).ok_or_else(|| Problem::invalid(vec![unknown()]))
}

impl From<DeadLetterError> for Problem {
    fn from(error: DeadLetterError) -> Self {
        match error {
            DeadLetterError::NotFound => Self::not_found(error.to_string()),
            DeadLetterError::Store(error) => error.into(),
            refused => Self::new(StatusCode::CONFLICT, refused.to_string()),
        }
    }
}

impl From<JobActionError> for Problem {
    fn from(error: JobActionError) -> Self {
        match error {
            JobActionError::NotFound => Self::not_found(error.to_string()),
            JobActionError::Store(error) => error.into(),
            refused => Self::new(StatusCode::CONFLICT, refused.to_string()),
        }
    }
}
