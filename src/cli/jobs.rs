//! `quartet jobs`: the job rows, on the command line.

use clap::Subcommand;
use uuid::Uuid;

use super::{
    CliError, args,
    operator::{note, operations, operator, print_json, print_page},
    page::{Page, attempts_table},
    table::{self, Table, lines, shortened},
};
use crate::{
    config::Config,
    domain::{JobKind, JobState},
    http::{
        operator::schema::{Job, JobList},
        page as pages,
    },
    store::{
        audit::Actor,
        jobs::job_list::{self, JobActionError, JobCursor, JobFilter, JobRow},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// List jobs: waiting by due time, running by start time, others newest first
    List {
        /// Only those of this queue
        #[arg(long)]
        queue: Option<JobKind>,
        /// Only those in this state: due, scheduled, running, done, failed, cancelled
        #[arg(long)]
        state: Option<JobState>,
        /// Only those of this transaction
        #[arg(long, value_name = "ID", value_parser = args::transaction_id)]
        transaction_id: Option<Uuid>,
        /// Most entries
        #[arg(long, default_value_t = pages::default_limit(),
            value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Start after an earlier page: at its next_cursor, which --json prints
        #[arg(long, value_parser = args::cursor::<JobCursor>)]
        cursor: Option<JobCursor>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one with its errors
    Show {
        /// The job's id
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make one due now
    Retry {
        /// The job's id
        id: String,
        /// Why
        #[arg(long, value_parser = note)]
        note: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End one that waits
    Cancel {
        /// The job's id
        id: String,
        /// Why
        #[arg(long, value_parser = note)]
        note: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(config: &Config, command: JobsCommand) -> Result<(), CliError> {
    let (operations, operator) = (operations(config).await?, operator(config));
    let job = |row: JobRow| Job::new(row, operations.dead_after);
    match command {
        JobsCommand::List { queue, state, transaction_id, limit, cursor, json } => {
            let filter = JobFilter { queue, state, transaction_id, cursor };
            let rows = job_list::list(&operations.pool, &filter, pages::rows(limit)).await?;
            let cursor = |row: &JobRow| job_list::cursor(row, state);
            let pages::Page { items, next_cursor } = pages::Page::new(rows, limit, cursor);
            if json {
                let items = items.into_iter().map(job).collect();
                print_json(&JobList { items, next_cursor });
            } else {
                print_page(&jobs_table(items), limit, next_cursor.as_deref());
            }
        }
        JobsCommand::Show { id, json } => {
            let row = job_list::get(&operations.pool, &id).await?;
            let row = row.ok_or(JobActionError::NotFound)?;
            let job = job(row);
            if json {
                print_json(&job);
            } else {
                println!("{}", page(&job));
            }
        }
        JobsCommand::Retry { id, note, json } => {
            let actor = Actor { operator: &operator, note: note.as_deref() };
            let row = operations.retry_job(&id, actor).await?;
            print_acted(job(row), json);
        }
        JobsCommand::Cancel { id, note, json } => {
            let actor = Actor { operator: &operator, note: note.as_deref() };
            let row = operations.cancel_job(&id, actor).await?;
            print_acted(job(row), json);
        }
    }
    Ok(())
}

fn print_acted(job: Job, json: bool) {
    if json {
        print_json(&job);
    } else {
        let at = table::time(job.run_at);
        println!("Job {} ({}) is {}; run at {at}.", job.id, job.queue.0, job.state.0);
    }
}

/// Characters of a last error in the list; `quartet jobs show` prints all of them.
const MAX_ERROR: usize = 120;

fn jobs_table(rows: Vec<JobRow>) -> Table<4> {
    let header = ["id, transaction", "queue, state", "run at, attempts", "last error"];
    let mut table = Table::new(header).unbroken(&[0, 1, 2]);
    for row in rows {
        let transaction = row.transaction_id.map(|id| id.to_string()).unwrap_or_default();
        let attempts = format!("{} of {}", row.attempts, row.max_attempts);
        table.add_row([
            lines([row.id, transaction]),
            lines([row.queue.to_string(), row.state.to_string()]),
            lines([table::time(row.run_at.at()), attempts]),
            shortened(row.last_error.as_deref().unwrap_or_default(), MAX_ERROR),
        ]);
    }
    table
}

fn page(job: &Job) -> Page {
    let mut page = Page::new(14);
    page.line(&format!("Job {} of {}, {}", job.id, job.queue.0, job.state.0));
    let transaction = job.transaction_id.map(|id| id.to_string());
    page.field("Transaction", &transaction.unwrap_or_default());
    page.field("Attempts", &format!("{} of {}", job.attempts, job.max_attempts));
    page.field("Run at", &table::time(job.run_at));
    page.field("Done at", &job.done_at.map(table::time).unwrap_or_default());
    page.field("Polls", &job.polls.map(|polls| polls.to_string()).unwrap_or_default());
    if let Some(lease) = &job.lease {
        let since = lease.since.map(|at| format!(" since {}", table::time(at)));
        let until = lease.until.map(|at| format!(", until {}", table::time(at)));
        let [since, until] = [since, until].map(Option::unwrap_or_default);
        page.field("Worker", &format!("{}{since}{until}", lease.worker));
    }
    page.field("Last error", job.last_error.as_deref().unwrap_or_default());
    page.table("Attempts that failed", &attempts_table(&job.errors.0));
    page
}
