//! Dead letters: list, read, replay, resolve, discard.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
    payload::Json,
};
use uuid::Uuid;

use super::{
    Note, answers, client_id, note,
    schema::{DeadLetter, DeadLetterList, DeadLetterStory},
};
use crate::{
    domain::{DeadLetterKind, DeadLetterState, Status},
    http::{
        ApiState,
        api_enum::ApiEnum,
        middleware::{
            auth::OperatorAuth,
            body::{self, FieldFault, Fields, FromFields, OptionalJson, StrictJson},
        },
        page::{self, Page},
        problem::Problem,
    },
    store::{
        Database, StoreError,
        audit::{self, Actor},
        dead_letter_actions::DeadLetterError,
        dead_letters::{self, Filter},
        evidence,
        transactions::Cursor,
    },
};

/// The operations on dead letters.
pub struct DeadLettersApi;

/// How a dead letter was resolved.
#[derive(Debug, Clone, Object)]
pub struct ResolveRequest {
    /// The final status that the transaction gets: `completed`, `declined` or `failed`. Only where
    /// the dead letter is about the transaction's status. The client is told.
    pub status: Option<ApiEnum<Status>>,
    /// Why, at most 1,000 characters.
    #[oai(validator(max_length = 1000, pattern = r"^[^\u0000]*[^\u0000\s][^\u0000]*$"))]
    pub note: String,
}

impl FromFields for ResolveRequest {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let status = fields.optional("status", |value| {
            let status = body::text(value).ok().and_then(|text| text.parse().ok());
            status
                .filter(|status: &Status| status.is_final())
                .map(ApiEnum)
                .ok_or_else(|| FieldFault::new("must be one of completed, declined, failed"))
        });
        let note = fields.required("note", |value| {
            let note = note(value)?;
            if note.trim().is_empty() {
                return Err(FieldFault::new("must say why, in 1 to 1000 characters"));
            }
            Ok(note)
        })?;
        Some(Self { status, note })
    }
}

answers! { list
    /// Answers of `GET /v1/operator/dead-letters`.
    ListDeadLettersResponse {
        /// A page of dead letters.
        Page(DeadLetterList)
    }
}

answers! { read
    /// Answers of `GET /v1/operator/dead-letters/{id}`.
    GetDeadLetterResponse {
        /// The dead letter with its whole story.
        Found(DeadLetterStory)
    }
}

answers! { act
    /// Answers of `POST /v1/operator/dead-letters/{id}/replay`.
    ReplayDeadLetterResponse {
        /// Replayed: its job is due with fresh attempts.
        Replayed(DeadLetter)
    }
}

answers! { act
    /// Answers of `POST /v1/operator/dead-letters/{id}/resolve`.
    ResolveDeadLetterResponse {
        /// Resolved.
        Resolved(DeadLetter)
    }
}

answers! { act
    /// Answers of `POST /v1/operator/dead-letters/{id}/discard`.
    DiscardDeadLetterResponse {
        /// Discarded.
        Discarded(DeadLetter)
    }
}

#[OpenApi(prefix_path = "/v1/operator", tag = "crate::http::Tag::Operator")]
impl DeadLettersApi {
    /// List dead letters, newest first.
    #[oai(path = "/dead-letters", method = "get", operation_id = "list_dead_letters")]
    #[allow(clippy::too_many_arguments)] // One for each query parameter of the contract.
    async fn list_dead_letters(
        &self,
        _operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Only those of this kind.
        kind: Query<Option<ApiEnum<DeadLetterKind>>>,
        /// Only those in this state.
        #[oai(name = "state")]
        in_state: Query<Option<ApiEnum<DeadLetterState>>>,
        /// Only those about this transaction.
        transaction_id: Query<Option<Uuid>>,
        /// Only those about transactions of the client of this name.
        client: Query<Option<String>>,
        /// Only those opened at this time or later (RFC 3339).
        opened_after: Query<Option<DateTime<Utc>>>,
        /// Only those opened before this time (RFC 3339).
        opened_before: Query<Option<DateTime<Utc>>>,
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
            client_id: client_id(&state, client.0.as_deref()).await?,
            opened_after: opened_after.0.map(page::storable),
            opened_before: opened_before.0.map(page::storable),
            cursor: page::after(cursor.0.as_deref())?,
        };
        let list = dead_letters::list(&state.pool, &filter, page::rows(limit.0));
        let page = Page::new(state.read(None, list).await?, limit.0, |row| Cursor {
            at: row.opened_at,
            id: row.id,
        });
        Ok(ListDeadLettersResponse::Page(Json(page.into())))
    }

    /// Read a dead letter with its whole story.
    #[oai(path = "/dead-letters/:id", method = "get", operation_id = "get_dead_letter")]
    async fn get_dead_letter(
        &self,
        _operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Its id.
        id: Path<Uuid>,
    ) -> poem::Result<GetDeadLetterResponse> {
        let story = state.read(None, story(&state.pool, id.0)).await?;
        let story = story.ok_or(DeadLetterError::NotFound).map_err(Problem::from)?;
        Ok(GetDeadLetterResponse::Found(Json(story)))
    }

    /// Replay a dead letter.
    ///
    /// Its job is due now, with fresh attempts; for an `unknown_transaction` the webhook's status
    /// is applied, if the transaction exists by now. A create that may have gone through is due
    /// at the end of its backoff.
    #[oai(path = "/dead-letters/:id/replay", method = "post", operation_id = "replay_dead_letter")]
    async fn replay_dead_letter(
        &self,
        operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Its id.
        id: Path<Uuid>,
        body: OptionalJson<Note>,
    ) -> poem::Result<ReplayDeadLetterResponse> {
        let note = body.0.and_then(|body| body.note);
        let actor = Actor { operator: &operator.0, note: note.as_deref() };
        let replay = state.operations.replay_dead_letter(id.0, actor);
        let letter = state.within_limit(replay).await?;
        Ok(ReplayDeadLetterResponse::Replayed(Json(letter.into())))
    }

    /// Resolve a dead letter, and set the transaction's status where that is in question.
    #[oai(
        path = "/dead-letters/:id/resolve",
        method = "post",
        operation_id = "resolve_dead_letter"
    )]
    async fn resolve_dead_letter(
        &self,
        operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Its id.
        id: Path<Uuid>,
        body: StrictJson<ResolveRequest>,
    ) -> poem::Result<ResolveDeadLetterResponse> {
        let actor = Actor { operator: &operator.0, note: Some(&body.0.note) };
        let status = body.0.status.map(|status| status.0);
        let resolve = state.operations.resolve_dead_letter(id.0, status, actor);
        let letter = state.within_limit(resolve).await?;
        Ok(ResolveDeadLetterResponse::Resolved(Json(letter.into())))
    }

    /// Discard a dead letter: nothing is done about it.
    #[oai(
        path = "/dead-letters/:id/discard",
        method = "post",
        operation_id = "discard_dead_letter"
    )]
    async fn discard_dead_letter(
        &self,
        operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Its id.
        id: Path<Uuid>,
        body: OptionalJson<Note>,
    ) -> poem::Result<DiscardDeadLetterResponse> {
        let note = body.0.and_then(|body| body.note);
        let actor = Actor { operator: &operator.0, note: note.as_deref() };
        let discard = state.operations.discard_dead_letter(id.0, actor);
        let letter = state.within_limit(discard).await?;
        Ok(DiscardDeadLetterResponse::Discarded(Json(letter.into())))
    }
}

/// A dead letter with the evidence about its transaction and what operators did to it.
pub async fn story(pool: &Database, id: Uuid) -> Result<Option<DeadLetterStory>, StoreError> {
    let Some(letter) = dead_letters::get(pool, id).await? else { return Ok(None) };
    let evidence = match letter.transaction_id {
        Some(transaction_id) => evidence::list(pool, transaction_id).await?,
        None => Vec::new(),
    };
    let about = audit::Filter { dead_letter_id: Some(id), ..audit::Filter::default() };
    let actions = audit::list(pool, about, i64::from(page::default_limit())).await?;
    Ok(Some(DeadLetterStory {
        letter: letter.into(),
        evidence: evidence.into_iter().map(Into::into).collect(),
        actions: actions.into_iter().map(Into::into).collect(),
    }))
}
