//! What reconciliation found, and how the periodic tasks stand.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{Object, OpenApi, param::Query, payload::Json, types::Any};
use serde_json::Value;
use uuid::Uuid;

use super::answers;
use crate::{
    domain::{Finding, MaintenanceTask},
    http::{
        ApiState,
        api_enum::ApiEnum,
        middleware::auth::OperatorAuth,
        page::{self, Page, list_object},
    },
    store::{
        maintenance::{self, TaskState},
        reconcile::{self, FindingRow},
        transactions::Cursor,
    },
};

/// The operations on maintenance.
pub struct MaintenanceApi;

/// How a transaction here differs from what the third party shows.
#[derive(Debug, Object)]
#[oai(rename = "ReconciliationFinding")]
pub struct FindingEntry {
    /// The transaction.
    pub transaction_id: Uuid,
    /// `missing_there`, `missing_here`, `status_differs`, `late` (still pending there past the
    /// deadline) or `unanswered`.
    pub finding: ApiEnum<Finding>,
    /// Both statuses, or why there was no answer.
    pub detail: Any<Value>,
    /// When it was first found.
    pub first_found_at: DateTime<Utc>,
    /// When the third party was last asked.
    pub last_checked_at: DateTime<Utc>,
    /// How often it was asked.
    pub checks: i32,
    /// When it is asked again.
    pub next_check_at: DateTime<Utc>,
}

impl From<FindingRow> for FindingEntry {
    fn from(row: FindingRow) -> Self {
        Self {
            transaction_id: row.transaction_id,
            finding: ApiEnum(row.finding),
            detail: Any(row.detail),
            first_found_at: row.first_found_at.at(),
            last_checked_at: row.last_checked_at,
            checks: row.checks,
            next_check_at: row.next_check_at,
        }
    }
}

list_object! {
    /// A page of findings.
    #[oai(rename = "ReconciliationFindingList")]
    FindingList {
        /// Open ones, newest first.
        items: FindingEntry
    }
}

/// A periodic task, which runs in one process at a time.
#[derive(Debug, Object)]
#[oai(rename = "MaintenanceTask")]
pub struct Task {
    /// Its name.
    pub name: ApiEnum<MaintenanceTask>,
    /// Who runs it now.
    pub held_by: Option<String>,
    /// Until when, unless the lease is renewed.
    pub held_until: Option<DateTime<Utc>>,
    /// When it is due next.
    pub due_at: DateTime<Utc>,
    /// When it last began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it last ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// What its last run did.
    pub last_result: Option<Any<Value>>,
    /// Why its last run failed; null where it did not.
    pub last_error: Option<String>,
}

impl From<TaskState> for Task {
    fn from(task: TaskState) -> Self {
        Self {
            name: ApiEnum(task.name),
            held_by: task.held_by,
            held_until: task.held_until,
            due_at: task.due_at,
            started_at: task.started_at,
            finished_at: task.finished_at,
            last_result: task.last_result.map(Any),
            last_error: task.last_error,
        }
    }
}

/// The periodic tasks.
#[derive(Debug, Object)]
#[oai(rename = "MaintenanceTaskList")]
pub struct TaskList {
    /// By name.
    pub items: Vec<Task>,
    /// Always null: there are two.
    pub next_cursor: Option<String>,
}

answers! { list
    /// Answers of `GET /v1/operator/reconciliation`.
    ListFindingsResponse {
        /// A page of findings.
        Page(FindingList)
    }
}

answers! { list
    /// Answers of `GET /v1/operator/maintenance`.
    ListTasksResponse {
        /// The tasks.
        Tasks(TaskList)
    }
}

#[OpenApi(prefix_path = "/v1/operator", tag = "crate::http::Tag::Operator")]
impl MaintenanceApi {
    /// List how transactions here differ from what the third party shows, newest first.
    #[oai(path = "/reconciliation", method = "get", operation_id = "list_reconciliation_findings")]
    async fn list_reconciliation_findings(
        &self,
        _operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
        /// Entries of a page.
        #[oai(
            default = "page::default_limit",
            validator(minimum(value = "1"), maximum(value = "200"))
        )]
        limit: Query<u32>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> poem::Result<ListFindingsResponse> {
        let cursor = page::after(cursor.0.as_deref())?;
        let list = reconcile::findings(&state.pool, cursor, page::rows(limit.0));
        let page = Page::new(state.read(None, list).await?, limit.0, |row| Cursor {
            at: row.first_found_at,
            id: row.transaction_id,
        });
        Ok(ListFindingsResponse::Page(Json(page.into())))
    }

    /// Read how the periodic tasks stand: reconciliation and retention.
    #[oai(path = "/maintenance", method = "get", operation_id = "list_maintenance_tasks")]
    async fn list_maintenance_tasks(
        &self,
        _operator: OperatorAuth,
        state: Data<&Arc<ApiState>>,
    ) -> poem::Result<ListTasksResponse> {
        let tasks = state.read(None, maintenance::list(&state.pool)).await?;
        let items = tasks.into_iter().map(Into::into).collect();
        Ok(ListTasksResponse::Tasks(Json(TaskList { items, next_cursor: None })))
    }
}
