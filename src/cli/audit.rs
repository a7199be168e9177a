//! `quartet audit`: what operators did, on the command line.

use clap::Args;
use uuid::Uuid;

use super::{
    CliError, args, connect,
    operator::{print_json, print_page},
    page::details,
    table::{Table, lines, shortened, time},
};
use crate::{
    config::Config,
    http::{
        operator::schema::ActionList,
        page::{self, Page},
    },
    store::audit::{self, Filter, Recorded},
};

/// Characters of a note with its detail; `--json` prints all of them.
const MAX_DETAIL: usize = 400;

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// Only what was about this transaction
    #[arg(long, value_name = "ID", value_parser = args::transaction_id)]
    transaction_id: Option<Uuid>,
    /// Only what was done to this dead letter
    #[arg(long, value_name = "ID", value_parser = args::dead_letter_id)]
    dead_letter_id: Option<Uuid>,
    /// Most entries
    #[arg(long, default_value_t = page::default_limit(),
        value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Start after an earlier page: at its next_cursor, which --json prints
    #[arg(long, value_parser = args::cursor::<i64>)]
    cursor: Option<i64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: AuditArgs) -> Result<(), CliError> {
    let filter = Filter {
        transaction_id: args.transaction_id,
        dead_letter_id: args.dead_letter_id,
        before: args.cursor,
    };
    let rows = audit::list(&connect(config).await?, filter, page::rows(args.limit)).await?;
    let page = Page::new(rows, args.limit, |row| row.id);
    if args.json {
        print_json(&ActionList::from(page));
        return Ok(());
    }
    let mut table = Table::new(["at, who", "action, about", "note, detail"]).unbroken(&[1]);
    for action in page.items {
        let note = action.note.as_deref().unwrap_or_default();
        table.add_row([
            lines([time(action.at), action.operator.clone()]),
            lines([action.action.to_string(), about(&action)]),
            shortened(&lines([note.to_owned(), details(&action.detail)]), MAX_DETAIL),
        ]);
    }
    print_page(&table, args.limit, page.next_cursor.as_deref());
    Ok(())
}

/// What an action was about, a line each.
fn about(action: &Recorded) -> String {
    let parts = [
        action.queue.clone(),
        action.transaction_id.map(|id| format!("transaction {id}")),
        action.dead_letter_id.map(|id| format!("dead letter {id}")),
        action.job_id.as_ref().map(|id| format!("job {id}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
}
