//! `quartet dead-letters`: the cases that need a human decision, on the command line.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use uuid::Uuid;

use super::{
    CliError, args, connect,
    dead_letter_page::{letters_table, previews_table, story_page},
    operator::{
        note, operations, operations_with_third_party, operator, print_json, print_page, reason,
    },
};
use crate::{
    config::Config,
    domain::{DeadLetterKind, DeadLetterState, Status},
    http::{
        operator::{
            bulk_replay::BulkReplay,
            dead_letters::story,
            schema::{self, DeadLetterList},
        },
        page::{self, Page},
    },
    operations::replay::{BulkError, ItemOutcome, MAX_BULK, Preview, Selected, Selection},
    store::{
        self, Database,
        audit::Actor,
        clients,
        dead_letter_actions::DeadLetterError,
        dead_letters::{self, DeadLetter, Filter},
        transactions::Cursor,
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum DeadLettersCommand {
    /// List dead letters, newest first
    List(ListArgs),
    /// Show one with its job, its attempts, the evidence and what operators did
    Show {
        /// The dead letter's id
        #[arg(value_parser = args::dead_letter_id)]
        id: Uuid,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Replay one, or with --all many: the job is due now with fresh attempts
    Replay(ReplayArgs),
    /// Resolve one, and set the transaction's status where that is in question
    Resolve {
        /// The dead letter's id
        #[arg(value_parser = args::dead_letter_id)]
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
        #[arg(value_parser = args::dead_letter_id)]
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
    #[arg(long, value_name = "ID", value_parser = args::transaction_id)]
    transaction_id: Option<Uuid>,
    /// Only those about transactions of the client of this name
    #[arg(long)]
    client: Option<String>,
    /// Only those opened longer ago than this, such as 2h
    #[arg(long, value_name = "DURATION", value_parser = args::age)]
    older_than: Option<Duration>,
    /// Most entries
    #[arg(long, default_value_t = page::default_limit(),
        value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Start after an earlier page: at its next_cursor, which --json prints
    #[arg(long, value_parser = args::cursor::<Cursor>)]
    cursor: Option<Cursor>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// The dead letter's id
    #[arg(required_unless_present = "all", conflicts_with = "all",
        value_parser = args::dead_letter_id)]
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
    #[arg(long, value_name = "DURATION", requires = "all", value_parser = args::age)]
    older_than: Option<Duration>,
    /// With --all: most dead letters of one call, the oldest of those that match
    #[arg(long, requires = "all", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_BULK)))]
    limit: u32,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// With --all, which needs it: how many will be replayed, as --dry-run says; another number
    /// replays nothing
    #[arg(long, value_name = "COUNT", requires = "all", conflicts_with = "dry_run")]
    confirm: Option<u32>,
    /// Why
    #[arg(long, value_parser = note)]
    note: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, command: DeadLettersCommand) -> Result<(), CliError> {
    let operator = operator(config);
    match command {
        DeadLettersCommand::List(args) => list(&connect(config).await?, args).await,
        DeadLettersCommand::Show { id, json } => {
            let letter = story(&connect(config).await?, id).await?;
            let letter = letter.ok_or(DeadLetterError::NotFound)?;
            if json {
                print_json(&letter);
            } else {
                println!("{}", story_page(&letter));
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
            let operations = operations(config).await?;
            let letter = operations.resolve_dead_letter(id, status, actor).await?;
            print_closed(letter, json);
            Ok(())
        }
        DeadLettersCommand::Discard { id, note, json } => {
            let actor = Actor { operator: &operator, note: note.as_deref() };
            let letter = operations(config).await?.discard_dead_letter(id, actor).await?;
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
        cursor: args.cursor,
        ..Filter::default()
    };
    let rows = dead_letters::list(pool, &filter, page::rows(args.limit)).await?;
    let page = Page::new(rows, args.limit, |row| Cursor { at: row.opened_at, id: row.id });
    if args.json {
        print_json(&DeadLetterList::from(page));
    } else {
        print_page(&letters_table(&page.items), args.limit, page.next_cursor.as_deref());
    }
    Ok(())
}

async fn replay(config: &Config, args: ReplayArgs, operator: &str) -> Result<(), CliError> {
    let operations = operations_with_third_party(config).await?;
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
        if args.id.is_some() && previews.items.is_empty() {
            return Err(DeadLetterError::NotFound.into());
        }
        if args.json {
            print_json(&BulkReplay::planned(previews));
        } else {
            println!("{}", previews_table(&previews.items));
            println!("{}", planned(&previews, args.all));
        }
        return Ok(());
    }
    if let Some(id) = args.id {
        let letter = operations.replay_dead_letter(id, actor).await?;
        print_closed(letter, args.json);
        return Ok(());
    }
    let bar = ProgressBar::new_spinner();
    let each = |_: &_| bar.inc(1);
    let done = operations.replay_many(&selection, args.confirm, actor, each).await;
    bar.finish_and_clear();
    let done = done.map_err(|error| match error {
        BulkError::Unconfirmed(found) => CliError::Failed(format!(
            "{found}: nothing was replayed; look at them with --dry-run, then pass --confirm {}",
            found.selected
        )),
        BulkError::CountChanged { expected, found } => CliError::Failed(format!(
            "{found}, not {expected}: nothing was replayed; look at them with --dry-run, then \
             pass --confirm {}",
            found.selected
        )),
        error => error.into(),
    })?;
    let done = BulkReplay::done(done);
    if args.json {
        print_json(&done);
    } else {
        for item in &done.items {
            if let Some(reason) = &item.effect {
                println!("Refused {}: {reason}.", item.id);
            }
        }
        println!("{} of {} replayed.{}", done.replayed, done.matched, left(&done));
    }
    Ok(())
}

/// What a dry run found, and how to do it.
fn planned(previews: &Selected<Preview>, all: bool) -> String {
    let (matched, selected) = (previews.count.matched, previews.count.selected);
    let mut text = match matched > selected {
        true => format!(
            "{matched} match, the first {selected} would be replayed (--limit). Nothing was done."
        ),
        false => format!("{matched} match. Nothing was done."),
    };
    let is_refused = |preview: &&Preview| preview.outcome == ItemOutcome::Refused;
    match previews.items.iter().filter(is_refused).count() {
        0 => {}
        refused => text.push_str(&format!(" {refused} of them would be refused.")),
    }
    if all && selected > 0 {
        text.push_str(&format!(
            "\nTo replay them: the same command with --confirm {selected} in place of --dry-run."
        ));
    }
    text
}

/// What a replay of many did not get to.
fn left(done: &BulkReplay) -> String {
    match (done.matched as usize).saturating_sub(done.items.len()) {
        0 => String::new(),
        left => format!(" {left} more match and were left (--limit): run it again for them."),
    }
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
