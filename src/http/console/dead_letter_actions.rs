//! Replaying, resolving and discarding dead letters, one or many.
//!
//! First a page says what would be done, for a replay by asking the third party; then the form on
//! it does it, if the number of dead letters is confirmed. What was done leads to a page that can
//! be loaded again without doing it again; what was refused is answered 409, with each reason.

use std::{error::Error, sync::Arc};

use askama::Template;
use poem::{Response, handler, http::StatusCode, web::Data};
use uuid::Uuid;

use super::{
    dead_letters::not_found,
    fields::FormFields,
    format::{self, Chip},
    layout::{self, Layout, Section},
    page_error::PageError,
    session::Session,
};
use crate::{
    domain::{DeadLetterState, Status},
    http::ApiState,
    operations::replay::{BulkError, ItemOutcome, Preview, Selection},
    store::{
        audit::Actor,
        dead_letter_actions::DeadLetterError,
        dead_letters::{self, DeadLetter},
    },
};

/// Most dead letters of one form; a page of the list has no more.
const MAX_SELECTED: usize = 200;

/// What an operator does about dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Replay,
    Resolve,
    Discard,
}

impl Action {
    fn of(fields: &FormFields) -> Result<Self, PageError> {
        match fields.get("action") {
            Some("replay") => Ok(Self::Replay),
            Some("resolve") => Ok(Self::Resolve),
            Some("discard") => Ok(Self::Discard),
            _ => Err(PageError::invalid("action must be one of replay, resolve, discard")),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Resolve => "resolve",
            Self::Discard => "discard",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Replay => "Replay",
            Self::Resolve => "Resolve",
            Self::Discard => "Discard",
        }
    }

    /// The state of what it was done to.
    fn done(self) -> DeadLetterState {
        match self {
            Self::Replay => DeadLetterState::Replayed,
            Self::Resolve => DeadLetterState::Resolved,
            Self::Discard => DeadLetterState::Discarded,
        }
    }
}

/// A dead letter on the page that asks for confirmation.
struct Item {
    letter: DeadLetter,
    /// What a replay would do.
    preview: Option<Preview>,
}

impl Item {
    fn is_refused(&self) -> bool {
        let refused = |preview: &Preview| preview.outcome == ItemOutcome::Refused;
        self.preview.as_ref().is_some_and(refused)
    }
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct ConfirmPage {
    layout: Layout,
    action: Action,
    items: Vec<Item>,
    note: String,
    error: Option<String>,
}

impl ConfirmPage {
    fn count(&self) -> usize {
        self.items.len()
    }

    fn refused(&self) -> usize {
        self.items.iter().filter(|item| item.is_refused()).count()
    }

    /// The statuses that may be set, where each of them allows it.
    fn statuses(&self) -> Vec<Status> {
        let allowed = |item: &Item| item.letter.kind.allows_status(item.letter.queue.as_deref());
        if self.action != Action::Resolve || !self.items.iter().all(allowed) {
            return Vec::new();
        }
        Status::ALL.iter().copied().filter(|status| status.is_final()).collect()
    }
}

/// What would be done, to be confirmed.
#[handler]
pub async fn confirm_action(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
    Data(query): Data<&FormFields>,
) -> poem::Result<Response> {
    let page = confirmation(state, session, query, None).await?;
    layout::page(&page)
}

async fn confirmation(
    state: &ApiState,
    session: &Session,
    fields: &FormFields,
    error: Option<String>,
) -> Result<ConfirmPage, PageError> {
    let action = Action::of(fields)?;
    let ids = selected(fields)?;
    let items = match action {
        Action::Replay => {
            let selection = Selection { ids: Some(ids), ..Selection::default() };
            // Bounded by itself: it waits for the third party, not for the database alone.
            let previews = state.operations.preview(&selection).await?;
            let item =
                |preview: Preview| Item { letter: preview.letter.clone(), preview: Some(preview) };
            previews.items.into_iter().map(item).collect()
        }
        Action::Resolve | Action::Discard => {
            let letters = read(state, &ids).await?;
            letters.into_iter().map(|letter| Item { letter, preview: None }).collect::<Vec<_>>()
        }
    };
    if items.is_empty() {
        return Err(not_found());
    }
    let title = match items.len() {
        1 => format!("{} a dead letter", action.title()),
        count => format!("{} {count} dead letters", action.title()),
    };
    let layout = Layout::new(session, Section::DeadLetters, title);
    Ok(ConfirmPage { layout, action, items, note: fields.text("note"), error })
}

/// The dead letters that a form names: those ticked, or without script all that it listed.
fn selected(fields: &FormFields) -> Result<Vec<Uuid>, PageError> {
    let ids = if fields.get("all").is_some() { "listed" } else { "id" };
    let ids = fields.uuids(ids)?;
    match ids.len() {
        0 => Err(PageError::invalid("select at least one dead letter")),
        count if count > MAX_SELECTED => {
            Err(PageError::invalid(format!("select at most {MAX_SELECTED} dead letters at once")))
        }
        _ => Ok(ids),
    }
}

async fn read(state: &ApiState, ids: &[Uuid]) -> Result<Vec<DeadLetter>, PageError> {
    let read = async {
        let mut letters = Vec::with_capacity(ids.len());
        for id in ids {
            letters.extend(dead_letters::get(&state.pool, *id).await?);
        }
        Ok(letters)
    };
    state.fetch(read).await
}

/// What became of one dead letter.
struct Outcome {
    letter: DeadLetter,
    refused: Option<String>,
}

#[derive(Template)]
#[template(path = "result.html")]
struct ResultPage {
    layout: Layout,
    action: Action,
    outcomes: Vec<Outcome>,
}

impl ResultPage {
    fn new(session: &Session, action: Action, outcomes: Vec<Outcome>) -> Self {
        let layout = Layout::new(session, Section::DeadLetters, "What was done");
        Self { layout, action, outcomes }
    }

    fn refused(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.refused.is_some()).count()
    }

    fn done(&self) -> usize {
        self.outcomes.len() - self.refused()
    }
}

/// Does it.
#[handler]
pub async fn act(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
    Data(form): Data<&FormFields>,
) -> poem::Result<Response> {
    let (action, ids) = (Action::of(form)?, selected(form)?);
    let checked = check(action, form, ids.len());
    let (note, status) = match checked {
        Ok(checked) => checked,
        Err(refusal) => {
            let page = confirmation(state, session, form, Some(refusal.reason)).await?;
            return layout::page_with(refusal.status, &page);
        }
    };
    let operator = session.operator();
    let actor = Actor { operator: &operator, note };
    let outcomes = match action {
        Action::Replay => replay(state, &ids, actor).await?,
        Action::Resolve | Action::Discard => close(state, &ids, action, status, actor).await?,
    };
    let page = ResultPage::new(session, action, outcomes);
    match page.outcomes.as_slice() {
        [] => Err(not_found().into()),
        _ if page.refused() > 0 => layout::page_with(StatusCode::CONFLICT, &page),
        [one] => {
            let (id, done) = (one.letter.id, action.done());
            Ok(layout::see_other(&format!("/console/dead-letters/{id}?done={done}")))
        }
        many => {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("action", action.as_str());
            for outcome in many {
                query.append_pair("id", &outcome.letter.id.to_string());
            }
            Ok(layout::see_other(&format!("/console/dead-letters/result?{}", query.finish())))
        }
    }
}

/// The note and the status of a form that may be carried out.
fn check(
    action: Action,
    form: &FormFields,
    selected: usize,
) -> Result<(Option<&str>, Option<Status>), PageError> {
    let note = form.note()?;
    if action == Action::Resolve && note.is_none() {
        return Err(PageError::invalid("say in the note why this is resolved"));
    }
    let confirmed = form.parsed::<usize>("count", "must be a number")?;
    if selected > 1 && confirmed != Some(selected) {
        let reason = format!("type {selected} to confirm this number; nothing was done");
        return Err(PageError::invalid(reason));
    }
    let status = form.word::<Status>("status")?;
    if status.is_some_and(|status| !status.is_final()) {
        return Err(PageError::invalid("status must be a final one"));
    }
    Ok((note, status))
}

async fn replay(
    state: &ApiState,
    ids: &[Uuid],
    actor: Actor<'_>,
) -> Result<Vec<Outcome>, PageError> {
    let selection = Selection { ids: Some(ids.to_vec()), ..Selection::default() };
    let replayed = state.operations.replay_many(&selection, None, actor, |_| {}).await;
    match replayed {
        Ok(replayed) => Ok(replayed
            .items
            .into_iter()
            .map(|item| Outcome { letter: item.letter, refused: item.reason })
            .collect()),
        Err(BulkError::Store(error)) => Err(error.into()),
        Err(interrupted) => {
            let cause = interrupted.source().map(|cause| cause.to_string().into());
            let status = StatusCode::SERVICE_UNAVAILABLE;
            Err(PageError { cause, ..PageError::new(status, interrupted.to_string()) })
        }
    }
}

async fn close(
    state: &ApiState,
    ids: &[Uuid],
    action: Action,
    status: Option<Status>,
    actor: Actor<'_>,
) -> Result<Vec<Outcome>, PageError> {
    let mut outcomes = Vec::with_capacity(ids.len());
    for id in ids {
        let closing = async {
            let closed = match action {
                Action::Resolve => state.operations.resolve_dead_letter(*id, status, actor).await,
                _ => state.operations.discard_dead_letter(*id, actor).await,
            };
            match closed {
                Ok(letter) => Ok(Some(Outcome { letter, refused: None })),
                Err(DeadLetterError::Store(error)) => Err(error),
                Err(refused) => {
                    let letter = dead_letters::get(&state.pool, *id).await?;
                    let refused = Some(refused.to_string());
                    Ok(letter.map(|letter| Outcome { letter, refused }))
                }
            }
        };
        match state.fetch(closing).await {
            Ok(outcome) => outcomes.extend(outcome),
            Err(mut failed) => {
                let done = outcomes.iter().filter(|outcome| outcome.refused.is_none()).count();
                if done > 0 {
                    failed.reason = format!(
                        "interrupted: {done} of {} dead letters were {}, the others are as they were",
                        ids.len(),
                        action.done()
                    );
                }
                return Err(failed);
            }
        }
    }
    Ok(outcomes)
}

/// What was done about many, as it stands now.
#[handler]
pub async fn show_result(
    Data(state): Data<&Arc<ApiState>>,
    Data(session): Data<&Session>,
    Data(query): Data<&FormFields>,
) -> poem::Result<Response> {
    let action = Action::of(query)?;
    let letters = read(state, &selected(query)?).await?;
    // By what is there, whatever the address says.
    let outcome = |letter: DeadLetter| Outcome {
        refused: (letter.state != action.done()).then(|| format!("it is {}", letter.state)),
        letter,
    };
    let outcomes = letters.into_iter().map(outcome).collect();
    layout::page(&ResultPage::new(session, action, outcomes))
}
