//! `quartet audit`: what operators did, on the command line.

use clap::Args;
use uuid::Uuid;

use super::{
    CliError, connect,
    operator::{print_json, table},
};
use crate::{
    config::Config,
    http::operator::schema::ActionList,
    store::audit::{self, Filter, Recorded},
};

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// Only what was about this transaction
    #[arg(long)]
    transaction_id: Option<Uuid>,
    /// Only what was done to this dead letter
    #[arg(long)]
    dead_letter_id: Option<Uuid>,
    /// Most entries
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: AuditArgs) -> Result<(), CliError> {
    let filter = Filter {
        transaction_id: args.transaction_id,
        dead_letter_id: args.dead_letter_id,
        before: None,
    };
    let actions = audit::list(&connect(config)?, filter, args.limit.into()).await?;
    if args.json {
        let items = actions.into_iter().map(Into::into).collect();
        print_json(&ActionList { items, next_cursor: None });
        return Ok(());
    }
    let mut table = table(["at", "who", "action", "about", "note", "detail"]);
    for action in actions {
        table.add_row([
            action.at.to_rfc3339(),
            action.operator.clone(),
            action.action.to_string(),
            about(&action),
            action.note.clone().unwrap_or_default(),
            action.detail.to_string(),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// What an action was about, a line each.
fn about(action: &Recorded) -> String {
    let parts = [
        action.queue.clone(),
        action.transaction_id.map(|id| format!("transaction {id}")),
        action.dead_letter_id.map(|id| format!("dead letter {id}")),
        action.job_id.as_ref().map(|id| format!("job {id}")),
        action.detail["client"].as_str().map(|client| format!("client {client}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
}
