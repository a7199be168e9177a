//! `quartet explain`: why a transaction waits, on the command line.

use clap::Args;
use uuid::Uuid;

use super::{
    CliError,
    operator::{operations, print_json, table},
};
use crate::{
    config::Config,
    http::operator::transactions::Explanation as ExplanationJson,
    operations::explain::{Explanation, Snapshot},
};

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The transaction's id
    id: Uuid,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: ExplainArgs) -> Result<(), CliError> {
    let operations = operations(config)?;
    let explained = operations.explain(args.id).await?;
    let (snapshot, explanation) = explained.ok_or_else(|| {
        CliError::Failed(format!("there is no transaction with the id {}", args.id))
    })?;
    if args.json {
        print_json(&ExplanationJson::new(snapshot, explanation, operations.dead_after));
    } else {
        print(&snapshot, &explanation);
    }
    Ok(())
}

fn print(snapshot: &Snapshot, explanation: &Explanation) {
    println!("{}", explanation.summary);
    println!("Waits for:  {}", explanation.waits_for);
    println!("Cause:      {} ({})", explanation.cause.detail, explanation.cause.kind);
    match &explanation.next_action {
        Some(next) => {
            println!("Next:       {} at {} ({})", next.action, next.at.to_rfc3339(), next.queue);
        }
        None => println!("Next:       nothing by itself"),
    }
    let mut jobs = table(["job", "state", "attempts", "run at", "worker", "last error"]);
    for job in &snapshot.jobs {
        jobs.add_row([
            job.queue.to_string(),
            job.state.to_string(),
            format!("{} of {}", job.attempts, job.max_attempts),
            job.run_at.to_rfc3339(),
            job.worker.clone().unwrap_or_default(),
            job.last_error.clone().unwrap_or_default(),
        ]);
    }
    println!("\n{jobs}");
    if !snapshot.dead_letters.is_empty() {
        let mut letters = table(["dead letter", "kind", "state", "opened", "reason"]);
        for letter in &snapshot.dead_letters {
            letters.add_row([
                letter.id.to_string(),
                letter.kind.to_string(),
                letter.state.to_string(),
                letter.opened_at.to_rfc3339(),
                letter.reason.clone(),
            ]);
        }
        println!("\n{letters}");
    }
    let mut evidence = table(["at", "what", "by", "detail"]);
    for event in &snapshot.evidence {
        evidence.add_row([
            event.at.to_rfc3339(),
            event.kind.to_string(),
            event.source.clone(),
            event.detail.to_string(),
        ]);
    }
    println!("\n{evidence}");
}
