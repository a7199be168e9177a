//! Prints dead letters: as a list, before a replay, and one with all that is known about it.

use super::{
    page::{Entry, Page, attempts_table, details, evidence_table},
    table::{Table, lines, shortened, time},
};
use crate::{
    domain::DeadLetterState,
    http::operator::schema::{Action, DeadLetterStory},
    operations::replay::Preview,
    store::dead_letters::DeadLetter,
};

/// Characters of a reason in a list; `quartet dead-letters show` prints all of them.
const MAX_REASON: usize = 120;

pub(super) fn letters_table(letters: &[DeadLetter]) -> Table<4> {
    let header = ["id, transaction", "kind, state", "opened, client", "reason"];
    let mut table = Table::new(header).unbroken(&[0, 1]);
    for letter in letters {
        table.add_row([
            ids(letter),
            lines([letter.kind.to_string(), letter.state.to_string()]),
            lines([time(letter.opened_at.at()), letter.client.clone().unwrap_or_default()]),
            shortened(&letter.reason, MAX_REASON),
        ]);
    }
    table
}

pub(super) fn previews_table(previews: &[Preview]) -> Table<3> {
    let header = ["id, transaction", "kind, at third party", "effect, status then, call"];
    let mut table = Table::new(header).unbroken(&[0, 1]);
    for preview in previews {
        let there = match preview.third_party_status {
            Some(status) => format!("{}, {status}", preview.at_third_party),
            None => preview.at_third_party.to_string(),
        };
        let status = preview.resulting_status.map(|status| format!("then {status}"));
        table.add_row([
            ids(&preview.letter),
            lines([preview.letter.kind.to_string(), there]),
            lines([
                format!("{}: {}", preview.outcome, preview.effect),
                status.unwrap_or_default(),
                preview.call.clone().unwrap_or_default(),
            ]),
        ]);
    }
    table
}

/// A dead letter's id and, below it, its transaction's.
fn ids(letter: &DeadLetter) -> String {
    let transaction = letter.transaction_id.map(|id| id.to_string());
    lines([letter.id.to_string(), transaction.unwrap_or_default()])
}

/// One with its whole story, and what may be done about it.
pub(super) fn story_page(story: &DeadLetterStory) -> Page {
    let letter = &story.letter;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut page = Page::new(14);
    page.line(&format!("Dead letter {}: {}, {}", letter.id, letter.kind.0, letter.state.0));
    page.field("Reason", &letter.reason);
    page.field("Transaction", &letter.transaction_id.map(|id| id.to_string()).unwrap_or_default());
    page.field("Client", &text(&letter.client));
    page.field("Queue", &text(&letter.queue));
    page.field("Job", &text(&letter.job_id));
    page.field("Opened", &time(letter.opened_at));
    page.field("Closed", &letter.closed_at.map(time).unwrap_or_default());
    page.field("Closed by", &text(&letter.closed_by));
    page.field("Note", &text(&letter.note));
    page.field("Detail", &details(&letter.detail.0));
    let attempts = match letter.job_id {
        Some(_) => "Attempts that failed",
        None => "What the third party said last",
    };
    page.table(attempts, &attempts_table(&letter.attempts.0));
    let evidence = story.evidence.iter().map(|event| Entry {
        at: event.at,
        kind: event.kind.0.to_string(),
        source: &event.source,
        detail: &event.detail.0,
    });
    page.table("Evidence about its transaction", &evidence_table(evidence));
    page.table("What operators did", &actions_table(&story.actions));
    if letter.state.0 == DeadLetterState::Open {
        let id = letter.id;
        page.line("");
        page.field("To decide", &format!("quartet dead-letters replay|resolve|discard {id}"));
    }
    page
}

fn actions_table(actions: &[Action]) -> Table<3> {
    let mut table = Table::new(["at", "action, who", "note"]).unbroken(&[0]);
    for action in actions {
        table.add_row([
            time(action.at),
            lines([action.action.0.to_string(), action.operator.clone()]),
            action.note.clone().unwrap_or_default(),
        ]);
    }
    table
}
