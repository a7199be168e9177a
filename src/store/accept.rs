//! Accepting: transactions, their four jobs each and the evidence, in one SQL statement.
//!
//! Posts that wait together are written together (see [`super::postgres::coalesce`]). A post whose
//! answer was lost and that is written again finds its id taken, and is answered as a repeat.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{
    StoreError,
    jobs::{JobPlan, JobRows, job_latency::JobLatency},
    postgres::{
        coalesce::{Batch, Locked},
        columns::Time,
    },
    transactions::Transaction,
};
use crate::domain::{NewTransaction, Status};

/// What a client posted.
#[derive(Debug)]
pub struct Post {
    pub new: NewTransaction,
    /// The hash of its content.
    pub content_hash: [u8; 32],
    /// The key that the client was known by; it must still be the client's.
    pub api_key_hash: [u8; 32],
    /// The trace that the jobs continue.
    pub traceparent: Option<String>,
}

/// Most posts of a batch while jobs are slow: the batch is short then, and so is the pause after
/// it, and more in one batch would cost little less.
const MAX_BATCH_WHILE_SLOW: usize = 64;

/// Writes posts. The answer is the transaction, or `None` where nothing was written: the id exists,
/// or the key is not valid any more.
#[derive(Debug)]
pub struct Accepts {
    pub plan: JobPlan,
    /// How long this process's own jobs take.
    pub latency: JobLatency,
}

impl Batch for Accepts {
    type Request = Post;
    type Answer = Option<Transaction>;

    const MAX_BATCH: usize = 128;
    // Foreign keys are then checked by index from the first row on, when the tables are empty.
    const SESSION: &'static [(&'static str, &'static str)] =
        &[("enable_seqscan", "off"), ("jit", "off")];

    fn most(&self) -> usize {
        if self.latency.is_slow(Instant::now()) { MAX_BATCH_WHILE_SLOW } else { Self::MAX_BATCH }
    }

    fn pause_after(&self, took: Duration) -> Duration {
        self.latency.pause_after(took, Instant::now())
    }

    async fn run(
        &self,
        conn: &mut PgConnection,
        posts: &[Post],
        _: Locked,
    ) -> Result<Vec<Option<Option<Transaction>>>, StoreError> {
        // By id, as every process does it: two batches that hold the same ids wait for each other
        // in one order. Of posts with the same id the first one counts.
        let mut order: Vec<usize> = (0..posts.len()).collect();
        order.sort_by_key(|index| (posts[*index].new.id, *index));
        order.dedup_by_key(|index| posts[*index].new.id);
        let accepted = insert(conn, order.iter().map(|index| &posts[*index]), &self.plan).await?;
        let mut accepted: HashMap<Uuid, Time> = accepted.into_iter().collect();
        let answer = |post: &Post| accepted.remove(&post.new.id).map(|at| accepted_at(post, at));
        Ok(posts.iter().map(answer).map(Some).collect())
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
        provider_id: None,
        unreadable: Vec::new(),
    }
}

/// Returns the ids that were written, and when.
async fn insert<'a>(
    conn: &mut PgConnection,
    posts: impl ExactSizeIterator<Item = &'a Post> + Clone,
    plan: &JobPlan,
) -> Result<Vec<(Uuid, Time)>, StoreError> {
    let news = posts.clone().map(|post| &post.new);
    let contents = news.clone().map(|new| &new.content);
    let mut jobs = JobRows::with_capacity(posts.len());
    for new in news.clone() {
        jobs.push(plan, new);
    }
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
    let traces: Vec<Option<&str>> =
        posts.clone().flat_map(|post| [post.traceparent.as_deref(); JobRows::EACH]).collect();
    let accepted = sqlx::query!(
        r#"
        WITH posted AS (
            SELECT *
            FROM unnest(
                $1::uuid[], $2::uuid[], $3::bytea[], $4::bigint[], $5::text[], $6::text[],
                $7::jsonb[], $8::bytea[]
            ) AS posted (
                id, client_id, content_hash, amount, currency, reference, metadata, api_key_hash
            )
        ), accepted AS (
            INSERT INTO transactions
                (id, client_id, content_hash, amount, currency, reference, metadata)
            SELECT
                posted.id, client_id, content_hash, amount, currency, reference, posted.metadata
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
                )
            )
            ON CONFLICT (id) DO NOTHING
            RETURNING id, client_id, created_at
        ), new_jobs AS (
            -- Reads from `accepted`: a repeated id inserts no jobs either. The column's own
            -- timestamptz keeps the milliseconds that apalis's push would round away.
            INSERT INTO apalis.jobs
                (id, job_type, job, max_attempts, run_at, idempotency_key, client_id, metadata)
            SELECT
                job.id, job.job_type, job.payload, job.max_attempts,
                now() + make_interval(secs => job.delay), accepted.id::text,
                accepted.client_id,
                CASE WHEN traceparent IS NOT NULL THEN hstore('traceparent', traceparent) END
            FROM unnest(
                $9::uuid[], $10::text[], $11::text[], $12::bytea[], $13::int[], $14::float8[],
                $15::text[]
            ) AS job (transaction_id, id, job_type, payload, max_attempts, delay, traceparent)
            JOIN accepted ON accepted.id = job.transaction_id
        ), evidence AS (
            INSERT INTO transaction_events (transaction_id, kind, source)
            SELECT id, 'accepted', 'api' FROM accepted
        )
        SELECT id, created_at AS "created_at: Time" FROM accepted
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
    )
    .fetch_all(conn)
    .await?;
    Ok(accepted.into_iter().map(|row| (row.id, row.created_at)).collect())
}
