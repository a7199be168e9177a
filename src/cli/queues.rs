//! `quartet queues`: the queues' figures, pause and resume, on the command line.

use std::time::Duration;

use clap::Subcommand;

use super::{
    CliError,
    operator::{note, operations, operator, print_json},
    table::{Table, lines, time},
};
use crate::{
    config::Config,
    domain::JobKind,
    http::operator::schema::{Queue, QueueList},
    store::{
        audit::Actor,
        queues::{self, QueueStats},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum QueuesCommand {
    /// Show the queues; counts stop at 10,000
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Pause one for all processes: no job of it begins; what runs ends
    Pause {
        /// create_transaction, create_at_third_party, update_status or notify_client
        queue: JobKind,
        /// Why
        #[arg(long, value_parser = note)]
        note: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Resume one for all processes
    Resume {
        /// create_transaction, create_at_third_party, update_status or notify_client
        queue: JobKind,
        /// Why
        #[arg(long, value_parser = note)]
        note: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(config: &Config, command: QueuesCommand) -> Result<(), CliError> {
    let (operations, operator) = (operations(config).await?, operator(config));
    match command {
        QueuesCommand::List { json } => print(queues::list(&operations.pool).await?, json),
        QueuesCommand::Pause { queue, note, json } => {
            let actor = Actor { operator: &operator, note: note.as_deref() };
            print_one(operations.pause_queue(queue, actor).await?, json);
        }
        QueuesCommand::Resume { queue, note, json } => {
            let actor = Actor { operator: &operator, note: note.as_deref() };
            print_one(operations.resume_queue(queue, actor).await?, json);
        }
    }
    Ok(())
}

fn print_one(figures: QueueStats, json: bool) {
    if json {
        print_json(&Queue::from(figures));
    } else {
        print(vec![figures], json);
    }
}

fn print(figures: Vec<QueueStats>, json: bool) {
    if json {
        let items = figures.into_iter().map(Into::into).collect();
        return print_json(&QueueList { items, next_cursor: None });
    }
    let mut table = Table::new([
        "queue",
        "due",
        "scheduled",
        "running",
        "failed",
        "oldest due",
        "done/min",
        "paused",
    ])
    .unbroken(&[0]);
    for queue in figures {
        let oldest = queue
            .oldest_due_age
            .map(|age| humantime::format_duration(Duration::from_secs(age.as_secs())).to_string());
        let paused = queue.paused.map(|pause| {
            lines([
                format!("since {}", time(pause.at)),
                format!("by {}", pause.by),
                pause.note.unwrap_or_default(),
            ])
        });
        table.add_row([
            queue.queue.to_string(),
            queue.due.to_string(),
            queue.scheduled.to_string(),
            queue.running.to_string(),
            queue.failed.to_string(),
            oldest.unwrap_or_default(),
            queue.done_per_minute.to_string(),
            paused.unwrap_or_default(),
        ]);
    }
    println!("{table}");
}
