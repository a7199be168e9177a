//! Dead letters: filtered, and one with its whole story. What is done about them is in
//! [`super::dead_letter_actions`].

use std::{collections::HashMap, sync::Arc};

use askama::Template;
use chrono::{DateTime, TimeDelta, Utc};
use poem::{
    Response, handler,
    web::{Data, Path},
};
use uuid::Uuid;

use super::{
    evidence::{Attempt, Step, attempts, timeline},
    fields::FormFields,
    format::{self, Chip},
    layout::{self, Layout, Section},
    page_error::PageError,
    session::Session,
};
use crate::{
    domain::{DeadLetterKind, DeadLetterState, Replay},
    http::{
        self, ApiState,
        page::{self, Page},
    },
    store::{
        StoreError,
        audit::{self, Recorded},
        clients::{self, Client},
        dead_letters::{self, DeadLetter, Filter},
        evidence,
        transaction_list::TransactionRow,
        transaction_search,
        transactions::{self, Cursor},
    },
};

const PAGE: u32 = 50;
/// Maximum number of audit entries on a dead letter's page.
const MAX_ACTIONS: i64 = 20;

/// Ages to filter by: the parameter's word, what the page says, and the age in minutes.
const AGES: [(&str, &str, i64); 4] = [
    ("15m", "more than 15 min", 15),
    ("1h", "more than 1 h", 60),
    ("1d", "more than 1 d", 24 * 60),
    ("7d", "more than 7 d", 7 * 24 * 60),
];

#[derive(Template)]
#[template(path = "dead_letters.html")]
struct ListPage {
    layout: Layout,
    query: FormFields,
    /// `None`: all states.
    state: Option<DeadLetterState>,
    clients: Vec<Client>,
    rows: Vec<DeadLetter>,
    /// What they are about, by its id.
    transactions: HashMap<Uuid, TransactionRow>,
    /// How many open ones match on all pages together.
    matching: Option<usize>,
    next: Option<String>,
}

impl ListPage {
    fn kinds(&self) -> &'static [DeadLetterKind] {
        DeadLetterKind::ALL
    }

    fn states(&self) -> &'static [DeadLetterState] {
        DeadLetterState::ALL
    }

    fn ages(&self) -> [(&'static str, &'static str, i64); 4] {
        AGES
    }

    fn is_filtered(&self) -> bool {
        let names = ["kind", "transaction", "client", "age", "cursor"];
        names.iter().any(|name| self.query.get(name).is_some())
    }

    fn is_state(&self, state: &DeadLetterState) -> bool {
        self.state == Some(*state)
    }

    fn shows_open(&self) -> bool {
        self.state == Some(DeadLetterState::Open)
    }

    fn has_open(&self) -> bool {
        self.rows.iter().any(is_open)
    }

    fn transaction_of(&self, letter: &DeadLetter) -> Option<&TransactionRow> {
        self.transactions.get(&letter.transaction_id?)
    }

    /// How many match, where they are not all on this page.
    fn beyond_page(&self) -> Option<&usize> {
        self.matching.as_ref().filter(|matching| **matching > self.rows.len())
    }
}

fn is_open(letter: &DeadLetter) -> bool {
    letter.state == DeadLetterState::Open
}

/// The list; open ones unless a filter says otherwise.
#[handler]
pub async fn list_dead_letters(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
    Data(query): Data<&FormFields>,
) -> poem::Result<Response> {
    let in_state = match query.get("state") {
        None => Some(DeadLetterState::Open),
        Some("any") => None,
        Some(_) => query.word("state")?,
    };
    let filter = Filter {
        kind: query.word("kind")?,
        state: in_state,
        transaction_id: query.uuid("transaction")?,
        client_id: query.uuid("client")?,
        opened_before: opened_before(query, http::now())?,
        cursor: query.cursor()?,
        ..Filter::default()
    };
    let read = async {
        let clients = clients::list(&state.pool).await?;
        let rows = dead_letters::list(&state.pool, &filter, page::rows(PAGE)).await?;
        let are_counted = in_state == Some(DeadLetterState::Open);
        let matching = match are_counted && filter.transaction_id.is_none() {
            true => Some(dead_letters::open_ids(&state.pool, &filter, 1).await?.0),
            false => None,
        };
        let transactions = transactions_of(state, &rows).await?;
        Ok((clients, rows, matching, transactions))
    };
    let (clients, rows, matching, transactions) = state.fetch(read).await?;
    let Page { items: rows, next_cursor } =
        Page::new(rows, PAGE, |row| Cursor { at: row.opened_at, id: row.id });
    let next = next_cursor.map(|cursor| query.with("cursor", &cursor));
    let layout = Layout::new(session, Section::DeadLetters, "Dead letters").with_done(query);
    let query = query.clone();
    layout::page(&ListPage {
        layout,
        query,
        state: in_state,
        clients,
        rows,
        transactions,
        matching,
        next,
    })
}

/// The transactions that these are about, as far as they exist.
async fn transactions_of(
    state: &ApiState,
    letters: &[DeadLetter],
) -> Result<HashMap<Uuid, TransactionRow>, StoreError> {
    let ids: Vec<Uuid> = letters.iter().filter_map(|letter| letter.transaction_id).collect();
    let all = transactions::Filter::default();
    let rows = transaction_search::rows(&state.pool, &ids, None, &all, page::rows(PAGE)).await?;
    Ok(rows.into_iter().map(|row| (row.id, row)).collect())
}

fn opened_before(
    query: &FormFields,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, PageError> {
    let Some(given) = query.get("age") else { return Ok(None) };
    let age = AGES.iter().find(|(word, ..)| *word == given);
    let (_, _, minutes) = age.ok_or_else(|| {
        let words: Vec<&str> = AGES.iter().map(|(word, ..)| *word).collect();
        PageError::invalid(format!("age must be one of {}", words.join(", ")))
    })?;
    Ok(Some(now - TimeDelta::minutes(*minutes)))
}

#[derive(Template)]
#[template(path = "dead_letter.html")]
struct LetterPage {
    layout: Layout,
    letter: DeadLetter,
    transaction: Option<TransactionRow>,
    attempts: Vec<Attempt>,
    timeline: Vec<Step>,
    actions: Vec<Recorded>,
}

/// What was reported in contradiction to a transaction's status.
struct Reported<'a> {
    status: &'a str,
    by: &'a str,
}

impl LetterPage {
    fn is_open(&self) -> bool {
        is_open(&self.letter)
    }

    fn meaning(&self) -> &'static str {
        self.letter.kind.meaning()
    }

    fn advice(&self) -> &'static str {
        self.letter.kind.advice(self.letter.queue.as_deref())
    }

    fn can_be_replayed(&self) -> bool {
        self.letter.kind.replay() != Replay::Nothing
    }

    fn reported(&self) -> Option<Reported<'_>> {
        let detail = &self.letter.detail;
        let (status, by) = (detail["reported"].as_str()?, detail["reported_by"].as_str()?);
        Some(Reported { status, by })
    }

    /// The job row as it was, and what else is known, as JSON.
    fn job(&self) -> Option<String> {
        self.letter.job.as_ref().map(format::pretty)
    }

    fn details(&self) -> Vec<(String, String)> {
        let pairs = self.letter.detail.as_object().into_iter().flatten();
        // The two sides of a contradiction have places of their own.
        let has_sides = self.reported().is_some();
        let is_side = |name: &str| ["status", "reported", "reported_by"].contains(&name);
        let pairs = pairs.filter(|(name, _)| !(has_sides && is_side(name.as_str())));
        pairs.map(|(name, value)| (name.replace('_', " "), format::plain(value))).collect()
    }
}

/// One dead letter with its whole story.
#[handler]
pub async fn show_dead_letter(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
    Data(query): Data<&FormFields>,
    Path(id): Path<Uuid>,
) -> poem::Result<Response> {
    let pool = &state.pool;
    let read = async {
        let Some(letter) = dead_letters::get(pool, id).await? else { return Ok(None) };
        let evidence = match letter.transaction_id {
            Some(transaction_id) => evidence::list(pool, transaction_id).await?,
            None => Vec::new(),
        };
        let of_it = audit::Filter { dead_letter_id: Some(id), ..audit::Filter::default() };
        let actions = audit::list(pool, of_it, MAX_ACTIONS).await?;
        let about = transactions_of(state, std::slice::from_ref(&letter)).await?;
        Ok(Some((letter, about.into_values().next(), evidence, actions)))
    };
    let found = state.fetch(read).await?;
    let (letter, transaction, evidence, actions) = found.ok_or_else(not_found)?;
    layout::page(&LetterPage {
        layout: Layout::new(session, Section::DeadLetters, format!("Dead letter: {}", letter.kind))
            .with_done(query),
        attempts: attempts(&letter.attempts),
        timeline: timeline(evidence),
        letter,
        transaction,
        actions,
    })
}

pub fn not_found() -> PageError {
    PageError::not_found("there is no dead letter with this id; closed ones are pruned by age")
}
