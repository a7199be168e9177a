//! Accepting: transactions, their four jobs each and the evidence, in one SQL statement.
//!
//! A process that runs `create_transaction` jobs writes that job as done: it would do nothing else
//! than what this statement does. While its queue is paused, and in a process without workers, it
//! waits like any other job. Its `create_at_third_party` job is leased to this process's own worker
//! by the same statement, where there is a slot for it ([`super::direct_leases`]).
//!
//! Posts that wait together are written together (see [`super::postgres::coalesce`]). A post whose
//! answer was lost and that is written again finds its id taken, and is answered as a repeat.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{
    StoreError,
    direct_leases::{DirectLeases, HandOver, Reservation},
    jobs::{ClaimedJob, JobPlan, JobRows, Lease, job_latency::JobLatency},
    postgres::{
        batch::{Batch, Locked},
        columns::Time,
    },
    transactions::Transaction,
};
use crate::{
    domain::{JobKind, LastAnswers, NewTransaction, RunOutcome, Status},
    telemetry::{Metrics, traces},
};

/// What a client posted.
#[derive(Debug)]
pub struct Post {
    pub new: NewTransaction,
    /// The hash of its content.
    pub content_hash: [u8; 32],
    /// The key that the client was known by; it must still be the client's, which must still have
    /// the third party as its default or among the others.
    pub api_key_hash: [u8; 32],
    /// The trace that the jobs continue.
    pub traceparent: Option<String>,
}

/// Most posts of a batch while jobs are slow: the batch is short then, and so is the pause after
/// it, and more in one batch would cost little less.
const MAX_BATCH_WHILE_SLOW: usize = 64;

/// A post that was written.
#[derive(Debug)]
pub struct Accepted {
    pub transaction: Transaction,
    /// Whether its `create_transaction` job was written as done.
    pub is_created: bool,
    /// Whether its `create_at_third_party` job is leased to a worker of this process.
    pub is_leased: bool,
}

impl Accepted {
    /// Whether its job of this kind waits for a worker.
    pub fn waits(&self, kind: JobKind) -> bool {
        match kind {
            JobKind::CreateTransaction => !self.is_created,
            JobKind::CreateAtThirdParty => !self.is_leased,
            JobKind::UpdateStatus | JobKind::NotifyClient => true,
        }
    }
}

/// Writes posts. The answer is `None` where nothing was written: the id exists, the key is not
/// valid any more, or the client may not use the third party any more.
#[derive(Debug)]
pub struct Accepts {
    pub plan: JobPlan,
    /// Whether this process runs `create_transaction` jobs, and so completes them.
    pub completes_creation: bool,
    /// This process's workers.
    pub direct_leases: DirectLeases,
    /// How long this process's own jobs take.
    pub latency: JobLatency,
    pub metrics: Arc<Metrics>,
}

impl Accepts {
    /// Records the run of a `create_transaction` job that the statement has made, as a worker
    /// records its own.
    fn record_creation(&self, post: &Post) {
        let (queue, run, attempt) = (JobKind::CreateTransaction.as_str(), RunOutcome::Done, 1);
        self.metrics.claimed(queue, Duration::ZERO);
        self.metrics.run_ended(queue, run, attempt, Duration::ZERO);
        if traces::is_on() {
            let span = tracing::error_span!(parent: None, "job",
                otel.name = "job create_transaction", otel.kind = "consumer", queue,
                transaction_id = display(post.new.id), attempt, outcome = run.as_str());
            traces::follow(&span, post.traceparent.as_deref());
        }
    }
}

impl Batch for Accepts {
    type Request = Post;
    type Owner = Uuid;
    type Answer = Option<Accepted>;
    type AfterCommit = HandOver;

    const MAX_BATCH: usize = 128;
    // Foreign keys are then checked by index from the first row on, when the tables are empty.
    const SESSION: &'static [(&'static str, &'static str)] =
        &[("enable_seqscan", "off"), ("jit", "off")];

    fn owner(post: &Post) -> Uuid {
        post.new.client_id
    }

    fn most(&self) -> usize {
        if self.latency.is_slow(Instant::now()) { MAX_BATCH_WHILE_SLOW } else { Self::MAX_BATCH }
    }

    fn pause_after(&self, posts: usize, took: Duration) -> Duration {
        self.latency.pause_after(posts, took, Instant::now())
    }

    /// Also where the client has given up, and where its request has run into its limit.
    fn committed(&self, posts: &[Post], accepted: &[Option<Option<Accepted>>]) {
        for (post, accepted) in posts.iter().zip(accepted) {
            if accepted.iter().flatten().any(|accepted| accepted.is_created) {
                self.record_creation(post);
            }
        }
    }

    async fn run(
        &self,
        conn: &mut PgConnection,
        posts: &[Post],
        _: Locked,
        after: &mut HandOver,
    ) -> Result<Vec<Option<Option<Accepted>>>, StoreError> {
        // By id, as every process does it: two batches that hold the same ids wait for each other
        // in one order. Of posts with the same id the first one counts.
        let mut order: Vec<usize> = (0..posts.len()).collect();
        order.sort_by_key(|index| (posts[*index].new.id, *index));
        order.dedup_by_key(|index| posts[*index].new.id);
        let ordered = order.iter().map(|index| &posts[*index]);
        let jobs = ordered.clone().map(|post| (post.new.id, post.new.client_id));
        after.reserve(self.direct_leases.reserve(JobKind::CreateAtThirdParty, jobs));
        let mut rows = JobRows::with_capacity(posts.len());
        ordered.clone().for_each(|post| rows.push(&self.plan, &post.new));
        let reservation = after.reservation();
        let mut inserted =
            insert(conn, ordered, &rows, reservation.as_deref(), self.completes_creation).await?;
        let mut accepted = HashMap::with_capacity(inserted.len());
        let mut reservation = reservation;
        for (nth, index) in order.iter().enumerate() {
            let post = &posts[*index];
            let Some(row) = inserted.remove(&post.new.id) else { continue };
            let transaction = accepted_at(post, row.created_at);
            if row.is_leased
                && let Some(reservation) = &mut reservation
            {
                let nth = nth * JobRows::EACH + JobKind::CreateAtThirdParty.index();
                reservation.leased(leased(post, &rows, nth, reservation.worker(), &transaction));
            }
            let Inserted { is_created, is_leased, .. } = row;
            accepted.insert(post.new.id, Accepted { transaction, is_created, is_leased });
        }
        Ok(posts.iter().map(|post| Some(accepted.remove(&post.new.id))).collect())
    }
}

/// The transaction as it was just written.
fn accepted_at(post: &Post, created_at: Time) -> Transaction {
    let new = &post.new;
    let content = new.content.clone();
    Transaction {
        id: new.id,
        client_id: new.client_id,
        content_hash: post.content_hash.to_vec(),
        amount: content.amount,
        currency: content.currency,
        reference: content.reference,
        metadata: content.metadata.map(Json),
        status: Status::Pending,
        version: 1,
        notified_version: 0,
        settled_at: None,
        settled_by: None,
        created_at,
        updated_at: created_at.at(),
        third_party: new.route.third_party.clone(),
        provider_id: None,
        unreadable: Vec::new(),
    }
}

/// The job of `post` in this row, which was leased to `worker` when it was written.
fn leased(
    post: &Post,
    rows: &JobRows,
    row: usize,
    worker: &str,
    transaction: &Transaction,
) -> ClaimedJob {
    let at = transaction.created_at.at();
    ClaimedJob {
        lease: Lease { job_id: rows.ids[row].clone(), worker: worker.to_owned(), locked_at: at },
        payload: rows.payloads[row].clone(),
        attempts: 0,
        max_attempts: rows.max_attempts[row],
        idempotency_key: Some(post.new.id.to_string()),
        client_id: post.new.client_id,
        run_at: Some(at),
        polls: 0,
        waits: 0,
        probes: 0,
        answers: LastAnswers::default(),
        poll_since: None,
        traceparent: post.traceparent.clone(),
        late: Duration::ZERO,
        transaction: Some(transaction.clone()),
        callback: None,
    }
}

/// What was written of a post.
struct Inserted {
    /// The time of the SQL transaction.
    created_at: Time,
    is_created: bool,
    is_leased: bool,
}

/// Returns what was written, by id.
async fn insert<'a>(
    conn: &mut PgConnection,
    posts: impl ExactSizeIterator<Item = &'a Post> + Clone,
    jobs: &JobRows,
    reservation: Option<&Reservation>,
    completes_creation: bool,
) -> Result<HashMap<Uuid, Inserted>, StoreError> {
    let news = posts.clone().map(|post| &post.new);
    let contents = news.clone().map(|new| &new.content);
    let ids: Vec<Uuid> = news.clone().map(|new| new.id).collect();
    let client_ids: Vec<Uuid> = news.clone().map(|new| new.client_id).collect();
    let hashes: Vec<&[u8]> = posts.clone().map(|post| &post.content_hash[..]).collect();
    let amounts: Vec<Option<i64>> = contents.clone().map(|content| content.amount).collect();
    let currencies: Vec<Option<&str>> =
        contents.clone().map(|content| content.currency.as_deref()).collect();
    let references: Vec<Option<&str>> =
        contents.clone().map(|content| content.reference.as_deref()).collect();
    let metadata: Vec<Option<Json<_>>> =
        contents.clone().map(|content| content.metadata.as_ref().map(Json)).collect();
    let keys: Vec<&[u8]> = posts.clone().map(|post| &post.api_key_hash[..]).collect();
    let routes = news.clone().map(|new| &new.route);
    let third_parties: Vec<&str> = routes.clone().map(|route| route.third_party.as_str()).collect();
    let chosen: Vec<bool> = routes.map(|route| route.is_chosen).collect();
    let traces: Vec<Option<&str>> =
        posts.clone().flat_map(|post| [post.traceparent.as_deref(); JobRows::EACH]).collect();
    let worker = reservation.map(Reservation::worker);
    let leased: Vec<Uuid> = match reservation {
        Some(reservation) => {
            news.clone().map(|new| new.id).filter(|id| reservation.has(*id)).collect()
        }
        None => Vec::new(),
    };
    let accepted = sqlx::query!(
        r#"
        WITH posted AS (
            SELECT *
            FROM unnest(
                $1::uuid[], $2::uuid[], $3::bytea[], $4::bigint[], $5::text[], $6::text[],
                $7::jsonb[], $8::bytea[], $19::text[], $20::bool[]
            ) AS posted (
                id, client_id, content_hash, amount, currency, reference, metadata, api_key_hash,
                third_party, is_chosen
            )
        ), accepted AS (
            INSERT INTO transactions
                (id, client_id, content_hash, amount, currency, reference, metadata, third_party)
            SELECT
                posted.id, client_id, content_hash, amount, currency, reference, posted.metadata,
                posted.third_party
            FROM posted
            WHERE EXISTS (
                SELECT FROM clients
                WHERE clients.id = client_id AND disabled_at IS NULL AND (
                    clients.api_key_hash = posted.api_key_hash
                    -- Looked up only where it is not the present one.
                    OR EXISTS (
                        SELECT FROM client_retiring_keys AS retiring
                        WHERE retiring.api_key_hash = posted.api_key_hash
                            AND retiring.client_id = clients.id AND retiring.valid_until > now()
                    )
                ) AND CASE
                    WHEN is_chosen THEN clients.third_party <> posted.third_party
                        AND posted.third_party = ANY (clients.other_third_parties)
                    ELSE clients.third_party = posted.third_party
                END
            )
            ON CONFLICT (id) DO NOTHING
            RETURNING id, client_id, created_at
        ), creation AS (
            SELECT $16 AND NOT EXISTS (
                SELECT FROM queue_pauses WHERE queue = 'create_transaction'
            ) AS is_done
        ), worker AS (
            -- Its row stays until this is committed; then a job names it.
            SELECT id FROM apalis.workers
            WHERE id = $17 AND dead_at IS NULL AND NOT EXISTS (
                SELECT FROM queue_pauses WHERE queue = 'create_at_third_party'
            )
            FOR KEY SHARE
        ), new_jobs AS (
            -- Reads from `accepted`: a repeated id inserts no jobs either. The column's own
            -- timestamptz keeps the milliseconds that apalis's push would round away.
            INSERT INTO apalis.jobs (
                id, job_type, job, status, attempts, max_attempts, run_at, lock_by, lock_at, done_at,
                last_result, idempotency_key, client_id, metadata
            )
            SELECT
                job.id, job.job_type, job.payload,
                CASE
                    WHEN is_done THEN 'Done'
                    WHEN worker IS NOT NULL THEN 'Running'
                    ELSE 'Pending'
                END,
                CASE WHEN is_done THEN 1 ELSE 0 END, job.max_attempts,
                now() + make_interval(secs => job.delay),
                worker, CASE WHEN worker IS NOT NULL THEN now() END,
                CASE WHEN is_done THEN clock_timestamp() END,
                CASE WHEN is_done THEN '{"Ok": null}'::jsonb END,
                accepted.id::text, accepted.client_id,
                CASE WHEN traceparent IS NOT NULL THEN hstore('traceparent', traceparent) END
            FROM (
                SELECT *,
                    job_type = 'create_transaction' AND (SELECT is_done FROM creation) AS is_done,
                    CASE
                        WHEN job_type = 'create_at_third_party'
                            AND transaction_id = ANY ($18::uuid[])
                        THEN (SELECT id FROM worker)
                    END AS worker
                FROM unnest(
                    $9::uuid[], $10::text[], $11::text[], $12::bytea[], $13::int[],
                    $14::float8[], $15::text[]
                ) AS job (transaction_id, id, job_type, payload, max_attempts, delay, traceparent)
            ) AS job
            JOIN accepted ON accepted.id = job.transaction_id
        ), evidence AS (
            INSERT INTO transaction_events (transaction_id, kind, source)
            SELECT id, 'accepted', 'api' FROM accepted
        )
        SELECT
            id, created_at AS "created_at: Time", (SELECT is_done FROM creation) AS "is_created!",
            id = ANY ($18) AND EXISTS (SELECT FROM worker) AS "is_leased!"
        FROM accepted
        "#,
        &ids,
        &client_ids,
        &hashes as _,
        &amounts as _,
        &currencies as _,
        &references as _,
        &metadata as _,
        &keys as _,
        &jobs.transaction_ids,
        &jobs.ids,
        &jobs.kinds as _,
        &jobs.payloads,
        &jobs.max_attempts,
        &jobs.delays,
        &traces as _,
        completes_creation,
        worker,
        &leased,
        &third_parties as _,
        &chosen,
    )
    .fetch_all(conn)
    .await?;
    let inserted = accepted.into_iter().map(|row| {
        let (created_at, is_created, is_leased) = (row.created_at, row.is_created, row.is_leased);
        (row.id, Inserted { created_at, is_created, is_leased })
    });
    Ok(inserted.collect())
}
