//! Serves a [`Provider`](super::Provider) over HTTP, with the faults that are drawn for each call.
//!
//! As with the third party of Quartet's own contract, what a create leads to runs in tasks of the
//! sandbox and not in the request: a caller that hangs up does not undo it.

use std::{sync::Arc, time::Duration};

use poem::{
    Body, Request, Response, handler,
    http::Method,
    web::{Data, RemoteAddr},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    LookupBy, Repeat, Running,
    asked::Asked,
    books::{Order, Stored},
    json, webhooks,
};
use crate::sandbox::{
    MAX_BODY, Shared, Status,
    profile::{CreateAnswer, Settlement},
    script::{self, Reaction},
};

/// How long an OAuth2 token lives.
const TOKEN_LIVES: Duration = Duration::from_secs(3_600);

/// Any call but those of the simulated client.
#[handler]
pub(in crate::sandbox) async fn serve_provider(
    request: &Request,
    remote: &RemoteAddr,
    body: Body,
    Data(shared): Data<&Arc<Shared>>,
) -> Response {
    let reaction = match (&shared.provider, body.into_bytes_limit(MAX_BODY).await) {
        (Some(running), Ok(body)) => {
            route(shared, running, &Asked::new(request, body.to_vec())).await
        }
        _ => Reaction::status_code(413),
    };
    shared.respond(reaction, remote, |_| Value::Null, |_| {}).await
}

async fn route(shared: &Arc<Shared>, running: &Running, asked: &Asked) -> Reaction {
    let Running { provider, credentials, .. } = running;
    if let Some(refused) = (provider.check)(asked, credentials) {
        return refused;
    }
    let is_post = asked.method == Method::POST;
    let authorization = asked.header("authorization");
    if is_post && provider.token_path == Some(&asked.path) {
        if !credentials.is_client(authorization) {
            return unauthorized(shared, running);
        }
        let lives = shared.scaled(TOKEN_LIVES).max(Duration::from_secs(1));
        let token = credentials.issue(lives);
        return json(
            200,
            json!({
                "access_token": token, "token_type": "access_token", "expires_in": lives.as_secs(),
            }),
        );
    }
    let id = asked.path.strip_prefix(provider.lookup_path).unwrap_or_default();
    let is_lookup = asked.method == Method::GET && !id.is_empty() && !id.contains('/');
    let is_create = is_post && asked.path == provider.create_path;
    if !is_lookup && !is_create {
        return (provider.no_route)();
    }
    let token = authorization.and_then(|header| header.strip_prefix("Bearer "));
    let is_good = |token: &str| credentials.is_good(token, provider.token_path.is_some());
    if !token.is_some_and(is_good) {
        return unauthorized(shared, running);
    }
    if is_lookup {
        return look_up(shared, running, id).await;
    }
    let refused = || json(400, json!({ "message": "the body cannot be read" }));
    let order = asked.object(provider.content).ok_or_else(refused);
    match order.and_then(|body| (provider.order)(asked, &body)) {
        Ok(order) => create(shared, running, order).await,
        Err(refusal) => {
            shared.ledger().stats.creates_malformed += 1;
            refusal
        }
    }
}

fn unauthorized(shared: &Shared, running: &Running) -> Reaction {
    shared.ledger().stats.unauthorized += 1;
    (running.provider.unauthorized)()
}

async fn look_up(shared: &Shared, running: &Running, id: &str) -> Reaction {
    let provider = running.provider;
    let nth = running.books().enter_lookup(id);
    shared.ledger().stats.lookups += 1;
    let config = &shared.config;
    let fate = config.profile.lookup_fate(config.seed, drawn_by(id), nth);
    tokio::time::sleep(shared.scaled(fate.latency)).await;
    if fate.fails {
        shared.ledger().stats.lookups_failed += 1;
        return Reaction::status_code(500);
    }
    let books = running.books();
    match books.find(id) {
        Some(payment) => {
            shared.ledger().stats.lookups_found += 1;
            (provider.found)(payment, provider.word(payment.status))
        }
        None => {
            shared.ledger().stats.lookups_not_found += 1;
            (provider.absent)(id)
        }
    }
}

async fn create(shared: &Arc<Shared>, running: &Running, order: Order) -> Reaction {
    let provider = running.provider;
    let nth = running.books().enter_create(&order);
    note_create(shared, running, &order);
    if let Repeat::SameAnswer { running: Some(answer), .. } = &provider.repeat
        && running.books().is_running(&order)
    {
        return answer();
    }
    let config = &shared.config;
    let fate = config.profile.create_fate(config.seed, drawn_by(&order.reference), nth);
    let settlement = fate.settlement;
    let task = shared.clone();
    match fate.answer {
        CreateAnswer::Created { after, final_in_answer } => {
            let status = if final_in_answer { settlement.status } else { Status::Pending };
            running.books().start(&order);
            let stored = shared.spawn(async move {
                tokio::time::sleep(task.scaled(after)).await;
                store(&task, order, status, settlement).0
            });
            match stored.await {
                Ok(Some(reaction)) => reaction,
                // The sandbox is stopping.
                Ok(None) | Err(_) => Reaction::Reset,
            }
        }
        CreateAnswer::TimedOut { after, stored_after } => {
            if let Some(stored_after) = stored_after {
                running.books().start(&order);
                shared.spawn(async move {
                    tokio::time::sleep(task.scaled(stored_after)).await;
                    if store(&task, order, Status::Pending, settlement).1 {
                        task.ledger().stats.gateway_timeouts_stored += 1;
                    }
                });
            }
            shared.ledger().stats.gateway_timeouts += 1;
            script::gateway_timeout().delay(shared.scaled(after))
        }
    }
}

fn note_create(shared: &Shared, running: &Running, order: &Order) {
    let is_found = running.provider.lookup_by == LookupBy::Key
        && order.key.as_ref().is_some_and(|key| running.books().find(key).is_some());
    let mut ledger = shared.ledger();
    ledger.stats.creates_received += 1;
    if is_found {
        ledger.stats.violations += 1;
        ledger.violations.push(drawn_by(&order.reference));
    }
}

/// Stores a payment and sees to its end. Returns the answer, and whether it is new.
fn store(
    shared: &Arc<Shared>,
    order: Order,
    status: Status,
    settlement: Settlement,
) -> (Reaction, bool) {
    let Some(running) = &shared.provider else { return (Reaction::Reset, false) };
    let reference = drawn_by(&order.reference);
    let stored =
        running.books().store(running.provider, order, status, |delay| shared.scaled(delay));
    match stored {
        (Stored::New(payment), is_doubled) => {
            let mut ledger = shared.ledger();
            ledger.stats.creates_stored += 1;
            if is_doubled {
                ledger.stats.double_creates += 1;
                ledger.double_creates.push(reference);
            }
            let answer = payment.answer.clone();
            let task = shared.clone();
            shared.spawn(async move { webhooks::settle(&task, payment.id, settlement).await });
            (answer, true)
        }
        (Stored::Before { payment, is_same_body }, _) => {
            shared.ledger().stats.conflicts += 1;
            let answer = match &running.provider.repeat {
                Repeat::Refused(refused) => refused(&payment),
                Repeat::SameAnswer { other_body: Some(answer), .. } if !is_same_body => answer(),
                Repeat::SameAnswer { .. } => payment.answer,
            };
            (answer, false)
        }
    }
}

/// What the fate of a payment is drawn by: its id, or the hash of another text.
fn drawn_by(text: &str) -> Uuid {
    text.parse().unwrap_or_else(|_| {
        let hash: [u8; 32] = Sha256::digest(text).into();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        Uuid::from_bytes(bytes)
    })
}
