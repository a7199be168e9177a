//! `quartet dead-letters`: what a machine must not decide, on the command line.

use clap::Subcommand;
use comfy_table::Table;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{CliError, connect};
use crate::{
    config::Config,
    domain::{DeadLetterKind, DeadLetterState},
    store::dead_letters::{self, DeadLetter, Filter},
};

/// Who closes a dead letter from the command line.
const OPERATOR: &str = "operator (command line)";

#[derive(Debug, Subcommand)]
pub(super) enum DeadLettersCommand {
    /// List dead letters, newest first
    List {
        /// Only those of this kind
        #[arg(long)]
        kind: Option<DeadLetterKind>,
        /// Only those in this state
        #[arg(long)]
        state: Option<DeadLetterState>,
        /// Only those about this transaction
        #[arg(long)]
        transaction_id: Option<Uuid>,
        /// Most entries
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one with its job and its attempts
    Show {
        /// The dead letter's id
        id: Uuid,
        /// Print JSON on one line
        #[arg(long)]
        json: bool,
    },
    /// Replay one: its job is due now with fresh attempts
    Replay {
        /// The dead letter's id
        id: Uuid,
        /// Why
        #[arg(long)]
        note: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(config: &Config, command: DeadLettersCommand) -> Result<(), CliError> {
    let pool = connect(config)?;
    match command {
        DeadLettersCommand::List { kind, state, transaction_id, limit, json } => {
            let filter = Filter { kind, state, transaction_id, cursor: None };
            let letters = dead_letters::list(&pool, &filter, limit.into()).await?;
            if json {
                let letters: Vec<_> = letters.iter().map(to_json).collect();
                println!("{}", serde_json::to_string_pretty(&letters)?);
            } else {
                println!("{}", table(&letters));
            }
        }
        DeadLettersCommand::Show { id, json } => {
            let letter = dead_letters::get(&pool, id).await?.ok_or_else(|| {
                CliError::Failed("there is no dead letter with this id".to_owned())
            })?;
            let letter = to_json(&letter);
            if json {
                println!("{letter}");
            } else {
                println!("{}", serde_json::to_string_pretty(&letter)?);
            }
        }
        DeadLettersCommand::Replay { id, note, json } => {
            let letter = dead_letters::replay(&pool, id, OPERATOR, note.as_deref()).await?;
            if json {
                println!("{}", to_json(&letter));
            } else {
                println!("Replayed {} ({}).", letter.id, letter.kind);
            }
        }
    }
    Ok(())
}

fn table(letters: &[DeadLetter]) -> Table {
    let mut table = Table::new();
    table.set_header(["id", "kind", "state", "transaction", "opened", "reason"]);
    for letter in letters {
        table.add_row([
            letter.id.to_string(),
            letter.kind.to_string(),
            letter.state.to_string(),
            letter.transaction_id.map(|id| id.to_string()).unwrap_or_default(),
            letter.opened_at.to_rfc3339(),
            letter.reason.clone(),
        ]);
    }
    table
}

fn to_json(letter: &DeadLetter) -> Value {
    json!({
        "id": letter.id,
        "kind": letter.kind.as_str(),
        "state": letter.state.as_str(),
        "transaction_id": letter.transaction_id,
        "job_id": letter.job_id,
        "queue": letter.queue,
        "job": letter.job,
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "opened_at": letter.opened_at,
        "closed_at": letter.closed_at,
        "closed_by": letter.closed_by,
        "note": letter.note,
    })
}
