//! Replaying many dead letters, and looking before.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::{http::StatusCode, web::Data};
use poem_openapi::{Object, OpenApi, payload::Json};
use serde_json::Value;
use uuid::Uuid;

use super::{answers, client_id, note};
use crate::{
    domain::{DeadLetterKind, DeadLetterState, ReportedStatus, Status},
    http::{
        ApiState,
        api_enum::ApiEnum,
        middleware::{
            auth::OperatorAuth,
            body::{self, FieldFault, Fields, FromFields, OptionalJson},
        },
        problem::{FieldProblem, Problem},
    },
    operations::replay::{
        AtThirdParty, BulkError, ItemOutcome, MAX_BULK, Preview, Replayed, Selected, Selection,
    },
    store::audit::Actor,
};

/// Dead letters of a bulk replay where no limit is given.
const DEFAULT_LIMIT: u32 = 100;

/// Bulk replay.
pub struct BulkReplayApi;

/// Which dead letters to replay: open ones, oldest first.
#[derive(Debug, Clone, Default, Object)]
pub struct BulkReplayRequest {
    /// These, at most 1,000; without it all that match the rest.
    #[oai(validator(min_items = 1, max_items = 1000))]
    pub ids: Option<Vec<Uuid>>,
    /// Only those of this kind.
    pub kind: Option<ApiEnum<DeadLetterKind>>,
    /// Only those about transactions of the client of this name.
    pub client: Option<String>,
    /// Only those opened before this time (RFC 3339).
    pub created_before: Option<DateTime<Utc>>,
    /// Most dead letters of this call, the oldest of those that match: 1 to 1,000, by default 100.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
    pub limit: Option<u32>,
    /// Say what would be done, and do nothing.
    pub dry_run: Option<bool>,
    /// How many will be replayed: the number of `items` of the dry run that was looked at.
    /// Required unless `dry_run` or `ids` is given; another number replays nothing.
    #[oai(validator(minimum(value = "0"), maximum(value = "1000")))]
    pub confirm: Option<u32>,
    /// Why, at most 1,000 characters.
    #[oai(validator(max_length = 1000, pattern = r"^[^\u0000]*$"))]
    pub note: Option<String>,
}

impl FromFields for BulkReplayRequest {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            ids: fields.optional("ids", ids),
            kind: fields.optional("kind", |value| {
                let kind = body::text(value)?.parse().map(ApiEnum);
                kind.map_err(|unknown: crate::domain::UnknownWord| {
                    FieldFault::new(unknown.to_string())
                })
            }),
            client: fields.optional("client", body::text),
            created_before: fields.optional("created_before", |value| {
                let time = body::text(value).ok().and_then(|text| text.parse().ok());
                time.ok_or_else(|| FieldFault::new("must be a time such as 2026-11-23T10:00:00Z"))
            }),
            limit: fields.optional("limit", |value| number(&value, 1, MAX_BULK)),
            dry_run: fields.optional("dry_run", |value| {
                value.as_bool().ok_or_else(|| FieldFault::new("must be true or false"))
            }),
            confirm: fields.optional("confirm", |value| number(&value, 0, MAX_BULK)),
            note: fields.optional("note", note),
        })
    }
}

fn ids(value: Value) -> Result<Vec<Uuid>, FieldFault> {
    let fault = || FieldFault::new(format!("must be an array of 1 to {MAX_BULK} uuids"));
    let Value::Array(entries) = value else { return Err(fault()) };
    if entries.is_empty() || entries.len() > MAX_BULK as usize {
        return Err(fault());
    }
    entries.into_iter().map(|entry| body::uuid(entry).map_err(|_| fault())).collect()
}

fn number(value: &Value, least: u32, most: u32) -> Result<u32, FieldFault> {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| FieldFault::new(format!("must be a whole number from {least} to {most}")))
}

/// What a bulk replay did, or would do.
#[derive(Debug, Object)]
pub struct BulkReplay {
    /// How many dead letters match, also beyond the limit.
    pub matched: u32,
    /// How many were replayed; 0 in a dry run.
    pub replayed: u32,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// One for each that was replayed or would be, up to the limit, oldest first.
    pub items: Vec<BulkReplayItem>,
}

/// One dead letter of a bulk replay.
#[derive(Debug, Object)]
pub struct BulkReplayItem {
    /// The dead letter's id.
    pub id: Uuid,
    /// Its kind.
    pub kind: ApiEnum<DeadLetterKind>,
    /// Its state now.
    pub state: ApiEnum<DeadLetterState>,
    /// The transaction, where known.
    pub transaction_id: Option<Uuid>,
    /// The job's queue, where it came from a job.
    pub queue: Option<String>,
    /// `planned` in a dry run, `replayed`, or `refused`.
    pub outcome: ApiEnum<ItemOutcome>,
    /// Dry run: what it would do. Refused: why.
    pub effect: Option<String>,
    /// Dry run: the calls that would be made.
    pub call: Option<String>,
    /// Dry run: whether the third party shows the transaction.
    pub at_third_party: Option<ApiEnum<AtThirdParty>>,
    /// Dry run: the status that the third party shows.
    pub third_party_status: Option<ApiEnum<ReportedStatus>>,
    /// Dry run: the transaction's status afterwards, as far as can be told now.
    pub resulting_status: Option<ApiEnum<Status>>,
}

impl From<Preview> for BulkReplayItem {
    fn from(preview: Preview) -> Self {
        Self {
            id: preview.letter.id,
            kind: ApiEnum(preview.letter.kind),
            state: ApiEnum(preview.letter.state),
            transaction_id: preview.letter.transaction_id,
            queue: preview.letter.queue,
            outcome: ApiEnum(preview.outcome),
            effect: Some(preview.effect),
            call: preview.call,
            at_third_party: Some(ApiEnum(preview.at_third_party)),
            third_party_status: preview.third_party_status.map(ApiEnum),
            resulting_status: preview.resulting_status.map(ApiEnum),
        }
    }
}

impl From<Replayed> for BulkReplayItem {
    fn from(replayed: Replayed) -> Self {
        Self {
            id: replayed.letter.id,
            kind: ApiEnum(replayed.letter.kind),
            state: ApiEnum(replayed.letter.state),
            transaction_id: replayed.letter.transaction_id,
            queue: replayed.letter.queue,
            outcome: ApiEnum(replayed.outcome),
            effect: replayed.reason,
            call: None,
            at_third_party: None,
            third_party_status: None,
            resulting_status: None,
        }
    }
}

impl BulkReplay {
    /// What would be done.
    pub fn planned(previews: Selected<Preview>) -> Self {
        Self {
            matched: number_of(previews.count.matched),
            replayed: 0,
            dry_run: true,
            items: previews.items.into_iter().map(Into::into).collect(),
        }
    }

    /// What was done.
    pub fn done(Selected { count, items }: Selected<Replayed>) -> Self {
        let replayed = items.iter().filter(|item| item.outcome == ItemOutcome::Replayed).count();
        Self {
            matched: number_of(count.matched),
            replayed: number_of(replayed),
            dry_run: false,
            items: items.into_iter().map(Into::into).collect(),
        }
    }
}

fn number_of(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl From<BulkError> for Problem {
    fn from(error: BulkError) -> Self {
        let detail = error.to_string();
        match error {
            BulkError::CountChanged { .. } => Self::new(StatusCode::CONFLICT, detail),
            BulkError::Unconfirmed(found) => Self::invalid(vec![FieldProblem::at(
                "/confirm",
                format!(
                    "is required, and would be {}: {found}; nothing was replayed",
                    found.selected
                ),
            )]),
            BulkError::Store(error) => error.into(),
            BulkError::Interrupted { source, .. } => {
                let mut problem = Self::from(source);
                if problem.status == StatusCode::SERVICE_UNAVAILABLE.as_u16() {
                    problem.detail = detail;
                }
                problem
            }
        }
    }
}

answers! { act
    /// Answers of `POST /v1/operator/dead-letters/replay`.
    ReplayDeadLettersResponse {
        /// What was done, or would be.
        Replayed(BulkReplay)
    }
}

#[OpenApi(prefix_path = "/v1/operator", tag = "crate::http::Tag::Operator")]
impl BulkReplayApi {
    /// Replay many dead letters, oldest first; or with `dry_run` see what that would do.
    ///
    /// Each is replayed by itself: one that cannot be is `refused` and stays open. A dry run asks
    /// the third party about each transaction, within 10 seconds in all. Without `ids` the number
    /// of those that will be replayed must be confirmed: without `confirm` the answer is 422, with
    /// another number 409, both with the right one, and nothing is replayed. When the database
    /// goes away half-way the answer is 503: those replayed until then are closed, the others
    /// open, and the same request, with the number that is left, goes on with them.
    #[oai(path = "/dead-letters/replay", method = "post", operation_id = "replay_dead_letters")]
    async fn replay_dead_letters(
        &self,
        operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        body: OptionalJson<BulkReplayRequest>,
    ) -> poem::Result<ReplayDeadLettersResponse> {
        let request = body.0.unwrap_or_default();
        let selection = Selection {
            ids: request.ids,
            kind: request.kind.map(|kind| kind.0),
            client_id: client_id(&state, request.client.as_deref()).await?,
            created_before: request.created_before.map(crate::http::page::storable),
            limit: request.limit.unwrap_or(DEFAULT_LIMIT),
        };
        let done = if request.dry_run.unwrap_or_default() {
            let previews = state.operations.preview(&selection).await;
            BulkReplay::planned(previews.map_err(Problem::from)?)
        } else {
            let actor = Actor { operator: &operator.0, note: request.note.as_deref() };
            let operations = &state.operations;
            let items = operations.replay_many(&selection, request.confirm, actor, |_| {}).await;
            BulkReplay::done(items.map_err(Problem::from)?)
        };
        Ok(ReplayDeadLettersResponse::Replayed(Json(done)))
    }
}
