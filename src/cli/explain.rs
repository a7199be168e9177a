//! `quartet explain`: why a transaction waits, on the command line.

use clap::Args;
use uuid::Uuid;

use super::{
    CliError, args,
    operator::{operations_with_third_party, print_json},
    page::{Entry, Page, evidence_table},
    table::{Table, lines, shortened, time},
};
use crate::{
    config::Config,
    http::operator::transactions::Explanation as ExplanationJson,
    operations::explain::{Explanation, Snapshot},
};

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The transaction's id
    #[arg(value_parser = args::transaction_id)]
    id: Uuid,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: ExplainArgs) -> Result<(), CliError> {
    let operations = operations_with_third_party(config).await?;
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

/// Characters of a job's last error; `quartet jobs show` prints all of them.
const MAX_ERROR: usize = 200;

fn print(snapshot: &Snapshot, explanation: &Explanation) {
    let mut page = Page::new(12);
    page.line(&explanation.summary);
    page.field("Waits for", explanation.waits_for.as_str());
    let cause = &explanation.cause;
    page.field("Cause", &format!("{} ({})", cause.detail, cause.kind));
    let next = match &explanation.next_action {
        Some(next) => format!("{} at {} ({})", next.action, time(next.at), next.queue),
        None => "nothing by itself".to_owned(),
    };
    page.field("Next", &next);
    let mut jobs = Table::new(["job", "state, attempts", "run at, worker", "last error"]);
    for job in &snapshot.jobs {
        jobs.add_row([
            job.queue.to_string(),
            lines([job.state.to_string(), format!("{} of {}", job.attempts, job.max_attempts)]),
            lines([time(job.run_at.at()), job.worker.clone().unwrap_or_default()]),
            shortened(job.last_error.as_deref().unwrap_or_default(), MAX_ERROR),
        ]);
    }
    page.table("Jobs", &jobs.unbroken(&[0, 1]));
    let mut letters = Table::new(["dead letter", "kind, state, opened", "reason"]);
    for letter in &snapshot.dead_letters {
        letters.add_row([
            letter.id.to_string(),
            lines([letter.kind.to_string(), letter.state.to_string(), time(letter.opened_at.at())]),
            letter.reason.clone(),
        ]);
    }
    page.table("Dead letters", &letters.unbroken(&[0, 1]));
    let evidence = snapshot.evidence.iter().map(|event| Entry {
        at: event.at,
        kind: event.kind.to_string(),
        source: &event.source,
        detail: &event.detail,
    });
    page.table("Evidence", &evidence_table(evidence));
    println!("{page}");
}
