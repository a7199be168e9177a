//! Third parties that speak an interface of their own, as profiles describe them.

mod certificates;
mod creates;
mod credentials;
mod hints;
pub mod peer;
mod probe;
mod replayed;
mod waiting;
pub mod webhooks;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use quartet::config::Role;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use self::peer::{Asked, Peer, Reply};
use crate::support::{
    World,
    app::AppBuilder,
    client::Client,
    process::{Process, ProcessBuilder},
};

const BOUND: Duration = Duration::from_secs(30);
const TOKEN: &str = "sk_test_hush_0123456789";
/// What signs webhooks.
const WEBHOOK_SECRET: &str = "whsec_hush_abcdefgh";

/// What a payout that this profile creates needs.
fn payout(id: Uuid) -> Value {
    json!({
        "id": id, "amount": 1250, "currency": "EUR", "reference": "Invoice 2026-117",
        "metadata": { "msisdn": "46733123454", "recipient": "RCP_1", "bank_account": "BA_1" },
    })
}

async fn post(client: &Client, id: Uuid) {
    client.post_transaction(&payout(id)).await.expect(202);
}

/// The settings of a third party with this profile.
fn settings(peer: &Peer, profile: &str) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("QUARTET_THIRD_PARTY__PROFILE", profile.to_owned()),
        ("QUARTET_THIRD_PARTY__BASE_URL", peer.url()),
    ];
    match profile {
        "mtn-momo" => settings.extend([
            ("QUARTET_THIRD_PARTY__SECRETS__SUBSCRIPTION_KEY", "sub_hush_42".to_owned()),
            ("QUARTET_THIRD_PARTY__SECRETS__CLIENT_ID", "api_user_1".to_owned()),
            ("QUARTET_THIRD_PARTY__SECRETS__CLIENT_SECRET", "api_hush_77".to_owned()),
            ("QUARTET_THIRD_PARTY__VARS__TARGET_ENVIRONMENT", "sandbox".to_owned()),
        ]),
        "mollie" => settings.extend([
            ("QUARTET_THIRD_PARTY__SECRETS__TOKEN", TOKEN.to_owned()),
            ("QUARTET_THIRD_PARTY__VARS__REDIRECT", "https://shop.example/back".to_owned()),
        ]),
        _ => settings.extend([
            ("QUARTET_THIRD_PARTY__SECRETS__TOKEN", TOKEN.to_owned()),
            ("QUARTET_THIRD_PARTY__SECRETS__WEBHOOK", WEBHOOK_SECRET.to_owned()),
        ]),
    }
    settings
}

fn app(world: &World, peer: &Peer, profile: &str) -> AppBuilder {
    let settings = settings(peer, profile);
    settings.into_iter().fold(world.app(), |app, (name, value)| app.set(name, value))
}

fn process(world: &World, peer: &Peer, profile: &str) -> ProcessBuilder {
    let settings = settings(peer, profile);
    let process = world.process(Role::All);
    settings.into_iter().fold(process, |process, (name, value)| process.set(name, value))
}

/// Waits until the client has heard a final status.
async fn wait_final(client: &Client, id: Uuid) -> Value {
    crate::support::wait_for(&format!("the end of {id}"), BOUND, async || {
        let transaction = client.get_transaction(id).await.expect(200).clone();
        let is_notified = transaction["notified_version"] == transaction["version"];
        (transaction["status"] != "pending" && is_notified).then_some(transaction)
    })
    .await
}

/// Waits for a dead letter about the transaction.
async fn wait_dead_letter(operator: &Client, id: Uuid) -> Value {
    crate::support::wait_for(&format!("a dead letter of {id}"), BOUND, async || {
        operator.open_dead_letters(id).await.into_iter().next()
    })
    .await
}

async fn provider_id(pool: &PgPool, id: Uuid) -> Option<String> {
    let query = "SELECT provider_id FROM transactions WHERE id = $1";
    sqlx::query_scalar(query).bind(id).fetch_one(pool).await.unwrap()
}

/// How many attempts of the create have ended.
async fn create_attempts(pool: &PgPool, id: Uuid) -> i32 {
    let query = "SELECT attempts FROM apalis.jobs
        WHERE job_type = 'create_at_third_party' AND idempotency_key = $1::uuid::text";
    sqlx::query_scalar(query).bind(id).fetch_one(pool).await.unwrap()
}

/// The whole of what is known of a transaction: its evidence and its dead letters.
async fn all_that_is_kept(pool: &PgPool, id: Uuid) -> String {
    let query = "SELECT
        COALESCE((SELECT string_agg(detail::text, ' ') FROM transaction_events
            WHERE transaction_id = $1), '')
        || COALESCE((SELECT string_agg(to_jsonb(failed_jobs)::text, ' ') FROM failed_jobs
            WHERE transaction_id = $1), '')
        || COALESCE((SELECT string_agg(to_jsonb(jobs)::text, ' ') FROM apalis.jobs
            WHERE idempotency_key = $1::uuid::text), '')";
    sqlx::query_scalar(query).bind(id).fetch_one(pool).await.unwrap()
}

/// The transfers of a Paystack.
#[derive(Clone, Default)]
struct Paystack(Arc<Mutex<HashSet<String>>>);

impl Paystack {
    const CREATE: &'static str = "/transfer";

    /// Whether it has this reference.
    fn has(&self, reference: &Value) -> bool {
        reference.as_str().is_some_and(|reference| self.0.lock().unwrap().contains(reference))
    }

    fn answer(&self, asked: &Asked) -> Reply {
        let mut transfers = self.0.lock().unwrap();
        if asked.method == "POST" {
            let reference = asked.json()["reference"].as_str().unwrap().to_owned();
            let data = json!({ "transfer_code": format!("TRF_{reference}"), "status": "pending" });
            transfers.insert(reference);
            return Reply::Answer(200, json!({ "status": true, "data": data }));
        }
        let id = asked.path.rsplit('/').next().unwrap();
        match transfers.contains(id) {
            true => {
                let data = json!({ "reference": id, "status": "success" });
                Reply::Answer(200, json!({ "status": true, "data": data }))
            }
            false => Reply::Answer(404, json!({ "status": false, "code": "transfer_not_found" })),
        }
    }
}

/// The payouts of a Stripe: one for each idempotency key, whatever is sent with it again.
#[derive(Clone, Default)]
struct Stripe(Arc<Mutex<HashMap<String, Vec<u8>>>>);

impl Stripe {
    /// Takes a create; the answer is lost where the caller does not give it.
    fn create(&self, asked: &Asked) -> Reply {
        let key = asked.header("idempotency-key").unwrap().to_owned();
        let mut payouts = self.0.lock().unwrap();
        let first = payouts.entry(key.clone()).or_insert_with(|| asked.body.clone());
        if *first != asked.body {
            let error = json!({ "error": { "type": "idempotency_error" } });
            return Reply::Answer(400, error);
        }
        Reply::Answer(200, Self::payout(&key, "pending"))
    }

    /// Shows a payout of its own id as paid.
    fn look_up(&self, asked: &Asked) -> Reply {
        let Some(key) = asked.path.strip_prefix("/v1/payouts/po_") else {
            return Reply::Answer(404, json!({ "error": { "type": "invalid_request_error" } }));
        };
        Reply::Answer(200, Self::payout(key, "paid"))
    }

    fn payout(key: &str, status: &str) -> Value {
        json!({
            "id": format!("po_{key}"), "object": "payout", "status": status,
            "metadata": { "quartet_id": key },
        })
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// The transfers of a MoMo, by our id.
#[derive(Clone, Default)]
struct Momo(Arc<Mutex<HashMap<String, String>>>);

impl Momo {
    const CREATE: &'static str = "/disbursement/v1_0/transfer";

    fn create(&self, asked: &Asked, status: &str) -> Reply {
        let id = asked.header("x-reference-id").unwrap().to_owned();
        match self.0.lock().unwrap().insert(id, status.to_owned()) {
            None => Reply::Answer(202, Value::Null),
            Some(_) => Reply::Answer(409, json!({ "code": "RESOURCE_ALREADY_EXIST" })),
        }
    }

    fn look_up(&self, asked: &Asked) -> Reply {
        let id = asked.path.rsplit('/').next().unwrap();
        match self.0.lock().unwrap().get(id) {
            Some(status) => Reply::Answer(200, json!({ "externalId": id, "status": status })),
            None => Reply::Answer(404, json!({ "code": "RESOURCE_NOT_FOUND" })),
        }
    }

    fn set(&self, id: Uuid, status: &str) {
        self.0.lock().unwrap().insert(id.to_string(), status.to_owned());
    }

    fn token(text: &str, seconds: u32) -> Reply {
        Reply::Answer(200, json!({ "access_token": text, "expires_in": seconds }))
    }
}

/// What a process wrote, to be searched for secrets.
fn assert_without_secrets(process: &Process) {
    let output = process.output();
    assert!(!output.contains("hush"), "{output}");
}
