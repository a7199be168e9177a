//! The clients' side: post a transaction, see how it stands.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use poem::{http::StatusCode, web::Data};
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Path, Query},
    payload::Json,
};
use tokio::time::Instant;
use tracing::{Span, field::display};
use uuid::Uuid;

use super::transaction_schema::{CreateTransaction, EventList, Transaction, TransactionList};
use crate::{
    domain::{ClientThirdParties, Content, JobKind, NewTransaction, Route, Status, ThirdPartyName},
    http::{
        ApiState,
        answers::answers,
        api_enum::ApiEnum,
        middleware::{
            auth::{Caller, ClientAuth, PosterAuth},
            body::StrictJson,
        },
        page::{self, Page},
        problem::{FieldProblem, Problem, ProblemJson, ProblemType},
    },
    store::{
        accept::{Accepted, Post},
        evidence,
        transactions::{self, Cursor, Filter},
    },
    telemetry::traces,
};

/// How often a waiting request looks, at first and at most.
const WAIT_POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));
/// While a request waits, its key is looked at this often.
const KEY_CHECK: Duration = Duration::from_millis(500);
/// A repeated id whose first post is being rolled back is tried this often.
const ACCEPT_TRIES: usize = 3;
/// Most bytes of metadata in a page of a list, unless its first transaction has more.
const MAX_PAGE_BYTES: usize = 1024 * 1024;

/// The clients' operations.
pub struct TransactionsApi;

/// Answers of `POST /v1/transactions`.
#[derive(ApiResponse)]
pub enum CreateTransactionResponse {
    /// Accepted, and stored durably.
    #[oai(status = 202)]
    Accepted(
        Json<Transaction>,
        /// Where to read it.
        #[oai(header = "Location")]
        String,
    ),
    /// This id was posted before with the same content; nothing was done.
    #[oai(status = 200)]
    Replayed(
        Json<Transaction>,
        /// Where to read it.
        #[oai(header = "Location")]
        String,
        /// Always `true`.
        #[oai(header = "Idempotent-Replayed")]
        bool,
    ),
    /// The body is no JSON object.
    #[oai(status = 400)]
    BadRequest(ProblemJson),
    /// No or a wrong API key.
    #[oai(status = 401)]
    Unauthorized(ProblemJson),
    /// The body did not come in time.
    #[oai(status = 408)]
    TimedOut(ProblemJson),
    /// This id was posted before with other content, or by another client.
    #[oai(status = 409)]
    Conflict(ProblemJson),
    /// The body is too long.
    #[oai(status = 413)]
    TooLarge(ProblemJson),
    /// The body is not declared as JSON, or is compressed.
    #[oai(status = 415)]
    UnsupportedMediaType(ProblemJson),
    /// A field is wrong, missing or unknown.
    #[oai(status = 422)]
    Invalid(ProblemJson),
    /// You send more requests than you may: wait for `Retry-After` seconds. Nothing was done.
    #[oai(status = 429)]
    TooManyRequests(ProblemJson),
    /// There is too much to do, the database is away, or the third party is not configured in this
    /// process: send the same request again after `Retry-After` seconds.
    #[oai(status = 503)]
    Unavailable(ProblemJson),
}

answers! { client_read
    /// Answers of `GET /v1/transactions/{id}`.
    GetTransactionResponse {
        /// The transaction.
        Found(Transaction)
    }
}

answers! { client_list
    /// Answers of `GET /v1/transactions`.
    ListTransactionsResponse {
        /// A page of your transactions.
        Page(TransactionList)
    }
}

answers! { client_read
    /// Answers of `GET /v1/transactions/{id}/events`.
    ListEventsResponse {
        /// The evidence.
        Events(EventList)
    }
}

#[OpenApi(
    prefix_path = "/v1/transactions",
    tag = "crate::http::Tag::Transactions",
    response_header(
        name = "RateLimit-Policy",
        ty = "Option<String>",
        description = "Where your requests are limited: `\"client\";q=100;w=10` is 100 at once, and \
                       as many in every 10 seconds after that \
                       (draft-ietf-httpapi-ratelimit-headers-11)."
    ),
    response_header(
        name = "RateLimit",
        ty = "Option<String>",
        description = "Where your requests are limited: `\"client\";r=7;t=1` is 7 left, and more in \
                       1 second."
    )
)]
impl TransactionsApi {
    /// Post a transaction.
    ///
    /// Answered as soon as it is stored durably. Quartet then creates it at the third party and
    /// sends each status to your callback URL: `pending` first, unless the end is known by then.
    /// Without an answer, send exactly the same post again: it is never carried out twice.
    #[oai(path = "/", method = "post", operation_id = "create_transaction")]
    async fn create_transaction(
        &self,
        client: PosterAuth,
        state: Data<&Arc<ApiState>>,
        body: StrictJson<CreateTransaction>,
    ) -> poem::Result<CreateTransactionResponse> {
        let CreateTransaction { id, third_party, amount, currency, reference, metadata } = body.0;
        let posted = Posted {
            client_id: client.0.id,
            content: Content { amount, currency, reference, metadata },
            third_party,
        };
        let location = format!("/v1/transactions/{id}");
        let span = Span::current();
        span.record("transaction_id", display(id));
        let traceparent = traces::traceparent(&span);

        let mut route = posted.route(&state, &client.0.third_parties).ok();
        for _ in 0..ACCEPT_TRIES {
            if let Some(route) = route.take() {
                let content = posted.content.clone();
                let new = NewTransaction { id, client_id: client.0.id, content, route };
                let post = Post {
                    content_hash: new.content_hash(),
                    new,
                    api_key_hash: client.0.api_key_hash,
                    traceparent: traceparent.clone(),
                };
                if let Some(accepted) = state.within_limit(state.accepts.submit(post)).await? {
                    announce(&state, &accepted);
                    let accepted = Json(accepted.transaction.into());
                    return Ok(CreateTransactionResponse::Accepted(accepted, location));
                }
            }
            let Some(third_parties) = client.0.refreshed(&state).await? else {
                return Ok(CreateTransactionResponse::Unauthorized(ProblemJson(
                    Problem::unauthorized(),
                )));
            };
            let existing =
                state.read(client.0.reader(), transactions::get(&state.pool, id)).await?;
            match existing {
                Some(existing) if posted.is_repeat_of(&existing) => {
                    let existing = Json(existing.into());
                    return Ok(CreateTransactionResponse::Replayed(existing, location, true));
                }
                Some(_) => {
                    let detail =
                        "this id was posted before with other content or by another client";
                    let problem =
                        Problem::new(StatusCode::CONFLICT, detail).of_type(ProblemType::IdConflict);
                    return Ok(CreateTransactionResponse::Conflict(ProblemJson(problem)));
                }
                // The post that held the id was rolled back after it had blocked this one; or what
                // the client may use was not known here as it is now.
                None => {}
            }
            match posted.route(&state, &third_parties) {
                Ok(found) => route = Some(found),
                Err(NoRoute::NotAllowed) => {
                    let problem = ProblemJson(not_allowed(&third_parties));
                    return Ok(CreateTransactionResponse::Invalid(problem));
                }
                Err(NoRoute::NotConfigured(name)) => return Err(not_configured(&name).into()),
            }
        }
        Err(Problem::unavailable().because("the id was held by posts that were rolled back").into())
    }

    /// Read a transaction.
    ///
    /// With `wait_seconds` the answer comes as soon as the status is final, or after that time.
    #[oai(path = "/:id", method = "get", operation_id = "get_transaction")]
    async fn get_transaction(
        &self,
        client: ClientAuth,
        state: Data<&Arc<ApiState>>,
        /// The id you posted.
        id: Path<Uuid>,
        /// How long to wait for a final status, in seconds.
        #[oai(default, validator(minimum(value = "0"), maximum(value = "30")))]
        wait_seconds: Query<u32>,
    ) -> poem::Result<GetTransactionResponse> {
        let deadline = Instant::now() + Duration::from_secs(wait_seconds.0.into());
        let (mut wait, longest) = WAIT_POLL;
        let (mut key_checked_at, mut has_waited) = (Instant::now(), false);
        loop {
            let transaction = own_transaction(&state, &client.0, id.0).await?;
            let is_over = transaction.status.is_final() || Instant::now() >= deadline;
            // The key may be withdrawn, or its client disabled, while the request waits.
            if has_waited && (is_over || key_checked_at.elapsed() >= KEY_CHECK) {
                if !client.0.is_still_known(&state).await? {
                    let problem = ProblemJson(Problem::unauthorized());
                    return Ok(GetTransactionResponse::Unauthorized(problem));
                }
                key_checked_at = Instant::now();
            }
            if is_over {
                return Ok(GetTransactionResponse::Found(Json(transaction.into())));
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + wait)).await;
            wait = (wait * 2).min(longest);
            has_waited = true;
            state.renew_limit();
        }
    }

    /// List your transactions, newest first.
    #[oai(path = "/", method = "get", operation_id = "list_transactions")]
    #[allow(clippy::too_many_arguments)] // One for each query parameter of the contract.
    async fn list_transactions(
        &self,
        client: ClientAuth,
        state: Data<&Arc<ApiState>>,
        /// Only those with this status.
        status: Query<Option<ApiEnum<Status>>>,
        /// Only those accepted at this time or later (RFC 3339).
        created_after: Query<Option<DateTime<Utc>>>,
        /// Only those accepted before this time (RFC 3339).
        created_before: Query<Option<DateTime<Utc>>>,
        /// Entries of a page.
        #[oai(
            default = "page::default_limit",
            validator(minimum(value = "1"), maximum(value = "200"))
        )]
        limit: Query<u32>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> poem::Result<ListTransactionsResponse> {
        let filter = Filter {
            status: status.0.map(|status| status.0),
            created_after: created_after.0.map(page::storable),
            created_before: created_before.0.map(page::storable),
            third_party: None,
            cursor: page::after(cursor.0.as_deref())?,
        };
        let list = transactions::list(&state.pool, client.0.id, &filter, page::rows(limit.0));
        let rows = state.read(client.0.reader(), list).await?;
        let limit = page::limit_within(&rows, limit.0, MAX_PAGE_BYTES, metadata_bytes);
        let page = Page::new(rows, limit, |row| Cursor { at: row.created_at, id: row.id });
        Ok(ListTransactionsResponse::Page(Json(page.into())))
    }

    /// Read the evidence about a transaction: everything observed or decided, oldest first.
    #[oai(path = "/:id/events", method = "get", operation_id = "list_transaction_events")]
    async fn list_transaction_events(
        &self,
        client: ClientAuth,
        state: Data<&Arc<ApiState>>,
        /// The id you posted.
        id: Path<Uuid>,
    ) -> poem::Result<ListEventsResponse> {
        own_transaction(&state, &client.0, id.0).await?;
        let events = state.read(client.0.reader(), evidence::list(&state.pool, id.0)).await?;
        let items = events.into_iter().map(Into::into).collect();
        Ok(ListEventsResponse::Events(Json(EventList { items })))
    }
}

/// The size of what a client may have posted much of.
fn metadata_bytes(row: &transactions::Transaction) -> usize {
    let pairs = row.metadata.iter().flat_map(|metadata| &metadata.0);
    pairs.map(|(name, value)| name.len() + value.len()).sum()
}

/// What a client posted, besides the id.
struct Posted {
    client_id: Uuid,
    content: Content,
    third_party: Option<String>,
}

impl Posted {
    /// Where it goes.
    fn route(&self, state: &ApiState, own: &ClientThirdParties) -> Result<Route, NoRoute> {
        let route = own.route(self.third_party.as_deref()).ok_or(NoRoute::NotAllowed)?;
        match state.third_parties.contains(&route.third_party) {
            true => Ok(route),
            false => Err(NoRoute::NotConfigured(route.third_party)),
        }
    }

    /// Whether it says the same as the post of a transaction. To leave the third party out is the
    /// same as to name the client's default, as that was then.
    fn is_repeat_of(&self, existing: &transactions::Transaction) -> bool {
        let is_hash = |hash: [u8; 32]| existing.content_hash == hash;
        let content = &self.content;
        existing.client_id == self.client_id
            && match &self.third_party {
                None => is_hash(content.hash()),
                Some(name) => {
                    let chosen = Some(&existing.third_party);
                    *existing.third_party == **name
                        && (is_hash(content.hash()) || is_hash(content.hash_at(chosen)))
                }
            }
    }
}

/// Why a post goes nowhere.
enum NoRoute {
    /// Its client may not use the third party.
    NotAllowed,
    /// Its client may, and this process does not know it: another one may, or will.
    NotConfigured(ThirdPartyName),
}

fn not_allowed(own: &ClientThirdParties) -> Problem {
    let names: Vec<&str> = own.all().map(ThirdPartyName::as_str).collect();
    let detail = format!("must be one that you may use: {}", names.join(", "));
    Problem::invalid(vec![FieldProblem::at("/third_party".to_owned(), detail)])
}

fn not_configured(name: &ThirdPartyName) -> Problem {
    let detail = format!(
        "the third party {name} is not configured in the process that answers; nothing was done, \
         send the same request again"
    );
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        .of_type(ProblemType::ThirdPartyNotConfigured)
        .because(format!("the third party {name} is not configured here: set {}", name.setting()))
}

/// Announces those of its jobs that wait for a worker.
fn announce(state: &ApiState, accepted: &Accepted) {
    for kind in JobKind::ALL.iter().filter(|kind| accepted.waits(**kind)) {
        let delay = state.plan.terms(*kind).delay;
        let run_at = accepted.transaction.created_at.at() + delay;
        state.announcer.announce(kind.as_str(), run_at, delay);
    }
}

/// The client's transaction; another client's looks like none.
async fn own_transaction(
    state: &ApiState,
    client: &Caller,
    id: Uuid,
) -> Result<transactions::Transaction, Problem> {
    Span::current().record("transaction_id", display(id));
    let transaction = state.read(client.reader(), transactions::get(&state.pool, id)).await?;
    transaction
        .filter(|transaction| transaction.client_id == client.id)
        .ok_or_else(|| Problem::not_found("you have no transaction with this id"))
}
