//! Transactions: found by what an operator has of one, listed, and one with its whole story.

use std::sync::Arc;

use askama::Template;
use poem::{
    Response, handler,
    web::{Data, Path},
};
use uuid::Uuid;

use super::{
    evidence::{Step, timeline},
    fields::FormFields,
    format::{self, Chip},
    layout::{self, Layout, Section},
    page_error::PageError,
    session::Session,
};
use crate::{
    domain::{JobKind, JobState, Status, ThirdPartyName},
    http::{
        ApiState,
        page::{self, Page},
    },
    operations::explain::{Explanation, Snapshot, WaitsFor},
    store::{
        StoreError,
        clients::{self, Client},
        jobs::job_list::JobRow,
        transaction_list::{self, TransactionRow},
        transaction_search::{self, REFERENCES_SEARCHED},
        transactions::{Cursor, Filter, Transaction},
    },
};

const PAGE: u32 = 50;
/// The field of the search.
const SOUGHT: &str = "q";

#[derive(Template)]
#[template(path = "transactions.html")]
struct ListPage {
    layout: Layout,
    query: FormFields,
    clients: Vec<Client>,
    third_parties: Vec<ThirdPartyName>,
    rows: Vec<TransactionRow>,
    next: Option<String>,
}

impl ListPage {
    fn statuses(&self) -> &'static [Status] {
        Status::ALL
    }

    fn sought(&self) -> Option<&str> {
        self.query.get(SOUGHT)
    }

    fn is_filtered(&self) -> bool {
        ["status", "client", "third_party", "cursor"]
            .iter()
            .any(|name| self.query.get(name).is_some())
    }

    fn references_searched(&self) -> String {
        format::number(REFERENCES_SEARCHED)
    }

    /// Whether a search may have found more than the page has.
    fn is_cut(&self) -> bool {
        self.sought().is_some() && self.rows.len() >= PAGE as usize
    }
}

/// The list. A search for the id of a transaction that is there leads to it.
#[handler]
pub async fn list_transactions(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
    Data(query): Data<&FormFields>,
) -> poem::Result<Response> {
    let client = query.uuid("client")?;
    let invalid = |rule: String| PageError::invalid(format!("third_party {rule}"));
    let third_party = query.get("third_party").map(ThirdPartyName::parse);
    let filter = Filter {
        status: query.word("status")?,
        third_party: third_party.transpose().map_err(invalid)?,
        cursor: query.cursor()?,
        ..Filter::default()
    };
    let pool = &state.pool;
    let read = async {
        let clients = clients::list(pool).await?;
        let rows = match query.get(SOUGHT) {
            Some(sought) => search(state, sought, client, &filter).await?,
            None => transaction_list::list(pool, client, &filter, page::rows(PAGE)).await?,
        };
        Ok((clients, rows))
    };
    let (clients, rows) = state.fetch(read).await?;
    if let ([row], Some(Ok(id))) = (rows.as_slice(), query.get(SOUGHT).map(Uuid::try_parse))
        && row.id == id
    {
        return Ok(layout::see_other(&format!("/console/transactions/{id}")));
    }
    let Page { items: rows, next_cursor } =
        Page::new(rows, PAGE, |row| Cursor { at: row.created_at, id: row.id });
    let next = next_cursor.map(|cursor| query.with("cursor", &cursor));
    let layout = Layout::new(session, Section::Transactions, "Transactions");
    let third_parties = state.third_parties.clone();
    layout::page(&ListPage { layout, query: query.clone(), clients, third_parties, rows, next })
}

/// The transactions that a search finds, of those that the filters let pass. References are looked
/// at where no id was meant.
async fn search(
    state: &ApiState,
    sought: &str,
    client: Option<Uuid>,
    filter: &Filter,
) -> Result<Vec<TransactionRow>, StoreError> {
    // No text in the database has it.
    if sought.contains('\0') {
        return Ok(Vec::new());
    }
    let pool = &state.pool;
    let mut ids = transaction_search::by_id(pool, sought, &state.third_parties).await?;
    if ids.is_empty() {
        ids = transaction_search::by_reference(pool, sought, filter.status).await?;
    }
    transaction_search::rows(pool, &ids, client, filter, i64::from(PAGE)).await
}

#[derive(Template)]
#[template(path = "transaction.html")]
struct TransactionPage {
    layout: Layout,
    client: String,
    known: Snapshot,
    explanation: Explanation,
    timeline: Vec<Step>,
}

/// One transaction: what it waits for, its jobs, its dead letters and its evidence.
#[handler]
pub async fn show_transaction(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
    Path(id): Path<Uuid>,
) -> poem::Result<Response> {
    let read = async {
        let Some((known, explanation)) = state.operations.explain(id).await? else {
            return Ok(None);
        };
        let clients = clients::list(&state.pool).await?;
        Ok(Some((known, explanation, clients)))
    };
    let unknown = || {
        PageError::not_found(format!(
            "there is no transaction {id}: it was never accepted here. A webhook about it would \
             be a dead letter"
        ))
    };
    let (mut known, explanation, clients) = state.fetch(read).await?.ok_or_else(unknown)?;
    let client = clients.into_iter().find(|client| client.id == known.transaction.client_id);
    layout::page(&TransactionPage {
        layout: Layout::new(session, Section::Transactions, format!("Transaction {id}")),
        client: client.map(|client| client.name).unwrap_or_default(),
        timeline: timeline(std::mem::take(&mut known.evidence)),
        known,
        explanation,
    })
}

impl TransactionPage {
    fn transaction(&self) -> &Transaction {
        &self.known.transaction
    }

    fn is_notified(&self) -> bool {
        self.transaction().notified_version == self.transaction().version
    }

    fn amount(&self) -> Option<String> {
        let Transaction { amount, currency, .. } = self.transaction();
        Some(format::amount(amount.as_ref()?, currency.as_deref()?))
    }

    fn time_to_final(&self) -> Option<String> {
        let took = self.transaction().settled_at? - self.transaction().created_at.at();
        Some(format::format_duration(took.to_std().unwrap_or_default()))
    }

    /// What an operator may have done at once, with the job that does it.
    fn actions(&self) -> Vec<(&'static str, &JobRow)> {
        let is_pending = self.transaction().status == Status::Pending;
        let offer = |job: &JobRow| match job.queue {
            _ if job.state == JobState::Running => None,
            JobKind::UpdateStatus if is_pending => Some("Poll now"),
            JobKind::NotifyClient if !self.is_notified() => Some("Notify the client now"),
            JobKind::CreateTransaction
            | JobKind::CreateAtThirdParty
            | JobKind::UpdateStatus
            | JobKind::NotifyClient => None,
        };
        self.known.jobs.iter().filter_map(|job| Some((offer(job)?, job))).collect()
    }

    /// What it waits for, with the colour of how urgent that is.
    fn waits_for(&self) -> Chip {
        match self.explanation.waits_for {
            WaitsFor::Nothing => Chip::toned("ended", "good"),
            WaitsFor::ThirdParty => Chip::toned("waits for the third party", "busy"),
            WaitsFor::Client => Chip::toned("waits for the client", "busy"),
            WaitsFor::Operator => Chip::toned("waits for an operator", "bad"),
        }
    }
}
