//! `quartet dead-letters`: what a machine must not decide, on the command line.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand};
use comfy_table::Table;
use indicatif::ProgressBar;
use uuid::Uuid;

use super::{
    CliError, connect,
    operator::{note, operations, operator, print_json, reason, table},
};
use crate::{
    config::Config,
    domain::{DeadLetterKind, DeadLetterState, Status},
    http::operator::{
        bulk_replay::BulkReplay,
        dead_letters::story,
        schema::{self, DeadLetterList},
    },
    jobs,
    operations::replay::{MAX_BULK, Preview, Selection},
    store::{
        self, Database,
        audit::Actor,
        clients, dead_letter_actions,
        dead_letters::{self, DeadLetter, Filter},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum DeadLettersCommand {
    /// List dead letters, newest first
    List(ListArgs),
    /// Show one with its job, its attempts, the evidence and what operators did
    Show {
        /// The dead letter's id
        id: Uuid,
        /// Print JSON on one line
        #[arg(long)]
        json: bool,
    },
    /// Replay one, or with --all many: the job is due now with fresh attempts
    Replay(ReplayArgs),
    /// Resolve one, and set the transaction's status where that is in question
    Resolve {
        /// The dead letter's id
        id: Uuid,
        /// The status that the transaction gets: completed, declined or failed
        #[arg(long)]
        status: Option<Status>,
        /// Why
        #[arg(long, value_parser = reason)]
        note: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Discard one: nothing is done about it
    Discard {
        /// The dead letter's id
        id: Uuid,
        /// Why
        #[arg(long, value_parser = note)]
        note: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only those of this kind
    #[arg(long)]
    kind: Option<DeadLetterKind>,
    /// Only those in this state
    #[arg(long)]
    state: Option<DeadLetterState>,
    /// Only those about this transaction
    #[arg(long)]
    transaction_id: Option<Uuid>,
    /// Only those about transactions of the client of this name
    #[arg(long)]
    client: Option<String>,
    /// Only those opened longer ago than this, such as 2h
    #[arg(long, value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Most entries
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// The dead letter's id
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    id: Option<Uuid>,
    /// Replay all open ones that match, oldest first
    #[arg(long)]
    all: bool,
    /// With --all: only those of this kind
    #[arg(long, requires = "all")]
    kind: Option<DeadLetterKind>,
    /// With --all: only those about transactions of the client of this name
    #[arg(long, requires = "all")]
    client: Option<String>,
    /// With --all: only those opened longer ago than this, such as 2h
    #[arg(long, requires = "all", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// With --all: at most so many
    #[arg(long, requires = "all", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_BULK)))]
    limit: u32,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// With --all: replay only if exactly so many match
    #[arg(long, requires = "all")]
    confirm: Option<u32>,
    /// Why
    #[arg(long, value_parser = note)]
    note: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, command: DeadLettersCommand) -> Result<(), CliError> {
    let operator = operator();
    match command {
        DeadLettersCommand::List(args) => list(&connect(config)?, args).await,
        DeadLettersCommand::Show { id, json } => {
            let letter = story(&connect(config)?, id).await?;
            let letter = letter.ok_or(dead_letter_actions::DeadLetterError::NotFound)?;
            if json {
                print_json(&letter);
            } else {
                let letter = poem_openapi::types::ToJSON::to_json(&letter);
                println!("{}", serde_json::to_string_pretty(&letter)?);
            }
            Ok(())
        }
        DeadLettersCommand::Replay(args) => replay(config, args, &operator).await,
        DeadLettersCommand::Resolve { id, status, note, json } => {
            if status == Some(Status::Pending) {
                let text = "--status is completed, declined or failed".to_owned();
                return Err(CliError::Failed(text));
            }
            let actor = Actor { operator: &operator, note: Some(&note) };
            let (pool, plan) = (connect(config)?, jobs::plan(config));
            let letter = dead_letter_actions::resolve(&pool, id, status, &plan, actor).await?;
            print_closed(letter, json);
            Ok(())
        }
        DeadLettersCommand::Discard { id, note, json } => {
            let actor = Actor { operator: &operator, note: note.as_deref() };
            let letter = dead_letter_actions::discard(&connect(config)?, id, actor).await?;
            print_closed(letter, json);
            Ok(())
        }
    }
}

async fn list(pool: &Database, args: ListArgs) -> Result<(), CliError> {
    let filter = Filter {
        kind: args.kind,
        state: args.state,
        transaction_id: args.transaction_id,
        client_id: client_id(pool, args.client.as_deref()).await?,
        opened_before: opened_before(pool, args.older_than).await?,
        ..Filter::default()
    };
    let letters = dead_letters::list(pool, &filter, args.limit.into()).await?;
    if args.json {
        let items = letters.into_iter().map(Into::into).collect();
        print_json(&DeadLetterList { items, next_cursor: None });
    } else {
        println!("{}", letters_table(&letters));
    }
    Ok(())
}

async fn replay(config: &Config, args: ReplayArgs, operator: &str) -> Result<(), CliError> {
    let operations = operations(config)?;
    let actor = Actor { operator, note: args.note.as_deref() };
    let selection = Selection {
        ids: args.id.map(|id| vec![id]),
        kind: args.kind,
        client_id: client_id(&operations.pool, args.client.as_deref()).await?,
        created_before: opened_before(&operations.pool, args.older_than).await?,
        limit: args.limit,
    };
    if args.dry_run {
        let previews = operations.preview(&selection).await?;
        if args.json {
            print_json(&BulkReplay::planned(previews));
        } else {
            println!("{}", previews_table(&previews));
            println!("{} match. Nothing was done.", previews.len());
        }
        return Ok(());
    }
    if let Some(id) = args.id {
        let (pool, plan) = (&operations.pool, &operations.plan);
        let letter = dead_letter_actions::replay(pool, id, plan, actor).await?;
        print_closed(letter, args.json);
        return Ok(());
    }
    let bar = ProgressBar::new_spinner();
    let each = |_: &_| bar.inc(1);
    let items = operations.replay_many(&selection, args.confirm, actor, each).await?;
    bar.finish_and_clear();
    let done = BulkReplay::done(items);
    if args.json {
        print_json(&done);
    } else {
        for item in &done.items {
            if let Some(reason) = &item.effect {
                println!("Refused {}: {reason}.", item.id);
            }
        }
        println!("{} of {} replayed.", done.replayed, done.matched);
    }
    Ok(())
}

async fn client_id(pool: &Database, name: Option<&str>) -> Result<Option<Uuid>, CliError> {
    let Some(name) = name else { return Ok(None) };
    let found = clients::find_by_name(pool, name).await?;
    let unknown = || CliError::Failed(format!("there is no client named {name}"));
    found.map(Some).ok_or_else(unknown)
}

/// That long ago by the database's clock; as early as times go where it is longer.
async fn opened_before(
    pool: &Database,
    age: Option<Duration>,
) -> Result<Option<DateTime<Utc>>, CliError> {
    let Some(age) = age else { return Ok(None) };
    let now = store::now(pool).await?;
    let at = TimeDelta::from_std(age).ok().and_then(|age| now.checked_sub_signed(age));
    Ok(Some(at.map_or(DateTime::UNIX_EPOCH, |at| at.max(DateTime::UNIX_EPOCH))))
}

fn print_closed(letter: DeadLetter, json: bool) {
    let (id, kind, state) = (letter.id, letter.kind, letter.state);
    if json {
        print_json(&schema::DeadLetter::from(letter));
    } else {
        println!("Dead letter {id} ({kind}) is {state}.");
    }
}

fn letters_table(letters: &[DeadLetter]) -> Table {
    let mut table = table(["id", "kind", "state", "transaction", "client", "opened", "reason"]);
    for letter in letters {
        table.add_row([
            letter.id.to_string(),
            letter.kind.to_string(),
            letter.state.to_string(),
            letter.transaction_id.map(|id| id.to_string()).unwrap_or_default(),
            letter.client.clone().unwrap_or_default(),
            letter.opened_at.to_rfc3339(),
            letter.reason.clone(),
        ]);
    }
    table
}

fn previews_table(previews: &[Preview]) -> Table {
    let mut table =
        table(["id", "kind", "transaction", "at third party", "call", "effect", "status then"]);
    for preview in previews {
        let letter = &preview.letter;
        let there = match preview.third_party_status {
            Some(status) => format!("{}, {status}", preview.at_third_party),
            None => preview.at_third_party.to_string(),
        };
        table.add_row([
            letter.id.to_string(),
            letter.kind.to_string(),
            letter.transaction_id.map(|id| id.to_string()).unwrap_or_default(),
            there,
            preview.call.clone().unwrap_or_default(),
            format!("{}: {}", preview.outcome, preview.effect),
            preview.resulting_status.map(|status| status.to_string()).unwrap_or_default(),
        ]);
    }
    table
}
