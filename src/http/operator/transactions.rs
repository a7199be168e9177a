//! All clients' transactions, and why one waits.

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
    answers, client_id,
    schema::{Circuit, DeadLetter, Job, OperatorTransactionList},
};
use crate::{
    domain::{JobKind, Status, ThirdPartyName},
    http::{
        ApiState,
        api::transaction_schema::{Event, Transaction},
        api_enum::ApiEnum,
        middleware::auth::OperatorAuth,
        page::{self, Page},
        problem::{FieldProblem, Problem},
    },
    operations::explain::{self, CauseKind, Snapshot, WaitsFor},
    store::{
        transaction_list,
        transactions::{Cursor, Filter},
    },
};

/// The operators' operations on transactions.
pub struct OperatorTransactionsApi;

/// What a transaction waits for.
#[derive(Debug, Object)]
pub struct Explanation {
    /// The transaction.
    pub transaction: Transaction,
    /// Whom it waits for.
    pub waits_for: ApiEnum<WaitsFor>,
    /// One sentence.
    pub summary: String,
    /// What happens next by itself; null where nothing does.
    pub next_action: Option<NextAction>,
    /// What holds it up.
    pub cause: Cause,
    /// Its jobs, in the order of its life; none where they were pruned.
    pub jobs: Vec<Job>,
    /// Its dead letters, newest first.
    pub dead_letters: Vec<DeadLetter>,
    /// The evidence, oldest first.
    pub evidence: Vec<Event>,
    /// The circuit breaker of its third party.
    pub circuit: Circuit,
}

/// What happens next.
#[derive(Debug, Object)]
pub struct NextAction {
    /// The job that does it.
    pub queue: ApiEnum<JobKind>,
    /// What it does.
    pub action: String,
    /// When, at the earliest.
    pub at: DateTime<Utc>,
}

/// What holds a transaction up.
#[derive(Debug, Object)]
pub struct Cause {
    /// What kind of thing it is.
    pub kind: ApiEnum<CauseKind>,
    /// One sentence.
    pub detail: String,
}

impl Explanation {
    /// From what was read and what it means.
    pub fn new(
        snapshot: Snapshot,
        explanation: explain::Explanation,
        dead_after: std::time::Duration,
    ) -> Self {
        Self {
            transaction: snapshot.transaction.into(),
            waits_for: ApiEnum(explanation.waits_for),
            summary: explanation.summary,
            next_action: explanation.next_action.map(|next| NextAction {
                queue: ApiEnum(next.queue),
                action: next.action.to_owned(),
                at: next.at,
            }),
            cause: Cause {
                kind: ApiEnum(explanation.cause.kind),
                detail: explanation.cause.detail,
            },
            jobs: snapshot.jobs.into_iter().map(|job| Job::new(job, dead_after)).collect(),
            dead_letters: snapshot.dead_letters.into_iter().map(Into::into).collect(),
            evidence: snapshot.evidence.into_iter().map(Into::into).collect(),
            circuit: snapshot.circuit.into(),
        }
    }
}

answers! { list
    /// Answers of `GET /v1/operator/transactions`.
    ListOperatorTransactionsResponse {
        /// A page of transactions.
        Page(OperatorTransactionList)
    }
}

answers! { read
    /// Answers of `GET /v1/operator/transactions/{id}/explain`.
    ExplainTransactionResponse {
        /// What it waits for.
        Explained(Explanation)
    }
}

#[OpenApi(prefix_path = "/v1/operator", tag = "crate::http::Tag::Operator")]
impl OperatorTransactionsApi {
    /// List the transactions of all clients, newest first.
    #[oai(path = "/transactions", method = "get", operation_id = "list_operator_transactions")]
    #[allow(clippy::too_many_arguments)] // One for each query parameter of the contract.
    async fn list_operator_transactions(
        &self,
        _operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Only those with this status.
        status: Query<Option<ApiEnum<Status>>>,
        /// Only those of the client of this name.
        client: Query<Option<String>>,
        /// Only those of the third party of this name.
        #[oai(validator(min_length = 1, max_length = 64, pattern = "^[a-z0-9]+(-[a-z0-9]+)*$"))]
        third_party: Query<Option<String>>,
        /// Only those accepted at this time or later (RFC 3339).
        created_after: Query<Option<DateTime<Utc>>>,
        /// Only those accepted before this time (RFC 3339).
        created_before: Query<Option<DateTime<Utc>>>,
        /// Entries of a page.
        #[oai(
            default = "page::default_limit",
            validator(minimum(value = "1"), maximum(value = "200"))
        )]
        limit: Query<u32>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> poem::Result<ListOperatorTransactionsResponse> {
        let client_id = client_id(&state, client.0.as_deref()).await?;
        let invalid =
            |rule: String| Problem::invalid(vec![FieldProblem::parameter("third_party", rule)]);
        let third_party = third_party.0.map(|name| ThirdPartyName::parse(&name).map_err(invalid));
        let filter = Filter {
            status: status.0.map(|status| status.0),
            created_after: created_after.0.map(page::storable),
            created_before: created_before.0.map(page::storable),
            third_party: third_party.transpose()?,
            cursor: page::after(cursor.0.as_deref())?,
        };
        let rows = page::rows(limit.0);
        let list = transaction_list::list(&state.pool, client_id, &filter, rows);
        let page = Page::new(state.read(None, list).await?, limit.0, |row| Cursor {
            at: row.created_at,
            id: row.id,
        });
        Ok(ListOperatorTransactionsResponse::Page(Json(page.into())))
    }

    /// Explain what a transaction waits for: what is next, when, and what holds it up.
    #[oai(path = "/transactions/:id/explain", method = "get", operation_id = "explain_transaction")]
    async fn explain_transaction(
        &self,
        _operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Its id.
        id: Path<Uuid>,
    ) -> poem::Result<ExplainTransactionResponse> {
        let explained = state.read(None, state.operations.explain(id.0)).await?;
        let (snapshot, explanation) =
            explained.ok_or_else(|| Problem::not_found("there is no transaction with this id"))?;
        let dead_after = state.operations.dead_after;
        let explanation = Explanation::new(snapshot, explanation, dead_after);
        Ok(ExplainTransactionResponse::Explained(Json(explanation)))
    }
}
