//! Queues: their figures, pause and resume; the third party's circuit; the audit.

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
    schema::{ActionList, Circuit, Queue, QueueList},
};
use crate::{
    domain::{JobKind, ThirdPartyName},
    http::{
        ApiState,
        middleware::{auth::OperatorAuth, body::OptionalJson},
        page::{self, Page},
        problem::Problem,
    },
    store::{
        audit::{self, Actor},
        circuit, queues,
    },
};

/// The operations on queues.
pub struct QueuesApi;

answers! { list
    /// Answers of `GET /v1/operator/queues`.
    ListQueuesResponse {
        /// The queues.
        Queues(QueueList)
    }
}

answers! { act
    /// Answers of `POST /v1/operator/queues/{queue}/pause`.
    PauseQueueResponse {
        /// It is paused.
        Paused(Queue)
    }
}

answers! { act
    /// Answers of `POST /v1/operator/queues/{queue}/resume`.
    ResumeQueueResponse {
        /// It is not paused.
        Resumed(Queue)
    }
}

answers! { read
    /// Answers of `GET /v1/operator/circuit`.
    GetCircuitResponse {
        /// The circuit.
        Circuit(Circuit)
    }
}

answers! { list
    /// Answers of `GET /v1/operator/actions`.
    ListActionsResponse {
        /// A page of the audit.
        Page(ActionList)
    }
}

#[OpenApi(prefix_path = "/v1/operator", tag = "crate::http::Tag::Operator")]
impl QueuesApi {
    /// Read the queues' figures.
    #[oai(path = "/queues", method = "get", operation_id = "list_queues")]
    async fn list_queues(
        &self,
        _operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
    ) -> poem::Result<ListQueuesResponse> {
        let queues = state.read(None, queues::list(&state.pool)).await?;
        let items = queues.into_iter().map(Into::into).collect();
        Ok(ListQueuesResponse::Queues(Json(QueueList { items, next_cursor: None })))
    }

    /// Pause a queue for all processes: no job of it begins. What runs ends.
    #[oai(path = "/queues/:queue/pause", method = "post", operation_id = "pause_queue")]
    async fn pause_queue(
        &self,
        operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Its name.
        queue: Path<String>,
        body: OptionalJson<Note>,
    ) -> poem::Result<PauseQueueResponse> {
        let note = body.0.and_then(|body| body.note);
        let actor = Actor { operator: &operator.0, note: note.as_deref() };
        let pause = state.operations.pause_queue(parse(&queue.0)?, actor);
        Ok(PauseQueueResponse::Paused(Json(state.within_limit(pause).await?.into())))
    }

    /// Resume a queue for all processes.
    #[oai(path = "/queues/:queue/resume", method = "post", operation_id = "resume_queue")]
    async fn resume_queue(
        &self,
        operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Its name.
        queue: Path<String>,
        body: OptionalJson<Note>,
    ) -> poem::Result<ResumeQueueResponse> {
        let note = body.0.and_then(|body| body.note);
        let actor = Actor { operator: &operator.0, note: note.as_deref() };
        let resume = state.operations.resume_queue(parse(&queue.0)?, actor);
        Ok(ResumeQueueResponse::Resumed(Json(state.within_limit(resume).await?.into())))
    }

    /// Read the state of a third party's circuit breaker.
    #[oai(path = "/circuit", method = "get", operation_id = "get_circuit")]
    async fn get_circuit(
        &self,
        _operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// The third party's name; that of the one without a name where it is left out.
        third_party: Query<Option<String>>,
    ) -> poem::Result<GetCircuitResponse> {
        let third_party = third_party.0.map(ThirdPartyName::from).unwrap_or_default();
        if !state.third_parties.contains(&third_party) {
            let detail = "there is no such third party here: name one that is configured";
            return Err(Problem::not_found(detail).into());
        }
        let circuit = state.read(None, circuit::get(&state.pool, &third_party)).await?;
        Ok(GetCircuitResponse::Circuit(Json(circuit.into())))
    }

    /// Read the audit: what operators did, newest first.
    #[oai(path = "/actions", method = "get", operation_id = "list_operator_actions")]
    async fn list_operator_actions(
        &self,
        _operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Only what was about this transaction.
        transaction_id: Query<Option<Uuid>>,
        /// Only what was done to this dead letter.
        dead_letter_id: Query<Option<Uuid>>,
        /// Entries of a page.
        #[oai(
            default = "page::default_limit",
            validator(minimum(value = "1"), maximum(value = "200"))
        )]
        limit: Query<u32>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> poem::Result<ListActionsResponse> {
        let filter = audit::Filter {
            transaction_id: transaction_id.0,
            dead_letter_id: dead_letter_id.0,
            before: page::after(cursor.0.as_deref())?,
        };
        let list = audit::list(&state.pool, filter, page::rows(limit.0));
        let page = Page::new(state.read(None, list).await?, limit.0, |row| row.id);
        Ok(ListActionsResponse::Page(Json(page.into())))
    }
}

fn parse(queue: &str) -> Result<JobKind, Problem> {
    queue.parse().map_err(|unknown: crate::domain::UnknownWord| {
        Problem::not_found(format!("there is no such queue; it {unknown}"))
    })
}
