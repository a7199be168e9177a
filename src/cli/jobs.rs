//! `quartet jobs`: the job rows, on the command line.

use clap::Subcommand;
use uuid::Uuid;

use super::{
    CliError, connect,
    operator::{note, operator, print_json, table},
};
use crate::{
    config::Config,
    domain::{JobKind, JobState},
    http::operator::schema::{Job, JobList},
    jobs,
    store::{
        audit::Actor,
        job_list::{self, JobActionError, JobFilter, JobRow},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// List jobs: what waits by when it is due, what runs by when it began, all else newest first
    List {
        /// Only those of this queue
        #[arg(long)]
        queue: Option<JobKind>,
        /// Only those in this state: due, scheduled, running, done, failed, cancelled
        #[arg(long)]
        state: Option<JobState>,
        /// Only those of this transaction
        #[arg(long)]
        transaction_id: Option<Uuid>,
        /// Most entries
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one with its errors
    Show {
        /// The job's id
        id: String,
        /// Print JSON on one line
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
    let (pool, operator) = (connect(config)?, operator());
    let job = |row: JobRow| Job::new(row, config.worker.dead_after);
    match command {
        JobsCommand::List { queue, state, transaction_id, limit, json } => {
            let filter = JobFilter { queue, state, transaction_id, cursor: None };
            let rows = job_list::list(&pool, &filter, limit.into()).await?;
            if json {
                let items = rows.into_iter().map(job).collect();
                print_json(&JobList { items, next_cursor: None });
            } else {
                let mut table = table([
                    "id",
                    "queue",
                    "state",
                    "transaction",
                    "attempts",
                    "run at",
                    "last error",
                ]);
                for row in rows {
                    table.add_row([
                        row.id,
                        row.queue.to_string(),
                        row.state.to_string(),
                        row.transaction_id.map(|id| id.to_string()).unwrap_or_default(),
                        format!("{} of {}", row.attempts, row.max_attempts),
                        row.run_at.to_rfc3339(),
                        row.last_error.unwrap_or_default(),
                    ]);
                }
                println!("{table}");
            }
        }
        JobsCommand::Show { id, json } => {
            let row = job_list::get(&pool, &id).await?.ok_or(JobActionError::NotFound)?;
            let job = job(row);
            if json {
                print_json(&job);
            } else {
                let job = poem_openapi::types::ToJSON::to_json(&job);
                println!("{}", serde_json::to_string_pretty(&job)?);
            }
        }
        JobsCommand::Retry { id, note, json } => {
            let actor = Actor { operator: &operator, note: note.as_deref() };
            let row = job_list::retry(&pool, &id, &jobs::plan(config), actor).await?;
            print_acted(job(row), json);
        }
        JobsCommand::Cancel { id, note, json } => {
            let actor = Actor { operator: &operator, note: note.as_deref() };
            let row = job_list::cancel(&pool, &id, actor).await?;
            print_acted(job(row), json);
        }
    }
    Ok(())
}

fn print_acted(job: Job, json: bool) {
    if json {
        print_json(&job);
    } else {
        let at = job.run_at.to_rfc3339();
        println!("Job {} ({}) is {}; run at {at}.", job.id, job.queue.0, job.state.0);
    }
}
