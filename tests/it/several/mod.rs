//! Several third parties at once: the sandbox without a name, one that a profile describes, and
//! one that speaks Quartet's own contract.

mod budget;
mod clients;
mod deadlines;
mod isolation;
mod missing;
mod reconcile;
mod webhooks;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    profiled::peer::{Asked, Peer, Reply},
    support::{
        TestApp, World, app::AppBuilder, client, command::run, wait_for, wait_until, world::set,
    },
};

const BOUND: Duration = Duration::from_secs(30);
/// What verifies the webhooks of `acme`.
const ACME_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// What signs those of `momo`, whose profile is Paystack's.
const PAY_SECRET: &str = "sk_hush_abcdefgh";

/// A third party of Quartet's own contract: transactions by id, with their status.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<HashMap<String, String>>>);

impl Ledger {
    fn answer(&self, asked: &Asked) -> Reply {
        let mut known = self.0.lock().unwrap();
        if asked.method == "POST" {
            let id = asked.json()["id"].as_str().unwrap().to_owned();
            known.entry(id.clone()).or_insert_with(|| "pending".to_owned());
            return Reply::Answer(202, json!({ "id": id, "status": known[&id] }));
        }
        let id = asked.path.rsplit('/').next().unwrap();
        match known.get(id) {
            Some(status) => Reply::Answer(200, json!({ "id": id, "status": status })),
            None => Reply::Answer(404, json!({})),
        }
    }

    fn set(&self, id: Uuid, status: &str) {
        self.0.lock().unwrap().insert(id.to_string(), status.to_owned());
    }

    fn has(&self, id: Uuid) -> bool {
        self.0.lock().unwrap().contains_key(&id.to_string())
    }
}

/// The world with two more third parties, `acme` and `pay`.
struct Several {
    world: World,
    acme: (Peer, Ledger),
    pay: Peer,
    directory: TempDir,
}

impl Several {
    async fn new() -> Self {
        let ledger = Ledger::default();
        let answering = ledger.clone();
        let acme = Peer::start(move |asked| answering.answer(asked)).await;
        // Takes transfers under its own ids, and says that they are pending.
        let transfers = Mutex::new(HashSet::new());
        let pay = Peer::start(move |asked| {
            let mut transfers = transfers.lock().unwrap();
            let id = match asked.method.as_str() {
                "POST" => asked.json()["reference"].as_str().unwrap().to_owned(),
                _ => asked.path.rsplit('/').next().unwrap().to_owned(),
            };
            if asked.method == "POST" {
                transfers.insert(id.clone());
            } else if !transfers.contains(&id) {
                let absent = json!({ "status": false, "code": "transfer_not_found" });
                return Reply::Answer(404, absent);
            }
            let code = format!("TRF_{id}");
            let data = json!({ "transfer_code": code, "reference": id, "status": "pending" });
            Reply::Answer(200, json!({ "status": true, "data": data }))
        })
        .await;
        let several = Self {
            world: World::new().await,
            acme: (acme, ledger),
            pay,
            directory: tempfile::tempdir().unwrap(),
        };
        several.write("acme.toml", &several.acme_settings(""));
        several.write(
            "pay.toml",
            &format!(
                "profile = 'paystack'\nbase_url = '{}'\nsecrets_directory = 'pay'\n\
                 timeout = '1s'\nlookup_timeout = '500ms'\ncreate_backoff = '300ms'\n",
                several.pay.url()
            ),
        );
        several.write("pay/token", "sk_hush_token");
        several.write("pay/webhook", PAY_SECRET);
        several
    }

    /// The file of `acme` with these further settings.
    fn acme_settings(&self, more: &str) -> String {
        format!(
            "base_url = '{}'\ntimeout = '1s'\nlookup_timeout = '500ms'\n\
             create_backoff = '200ms'\nsecrets_directory = 'acme'\n{more}",
            self.acme.0.url()
        )
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        self.write("acme/webhook", ACME_SECRET);
        vec![
            ("QUARTET_THIRD_PARTIES__DIRECTORY", self.directory.path().display().to_string()),
            ("QUARTET_DEFAULT_CLIENT__OTHER_THIRD_PARTIES", "acme,pay".to_owned()),
        ]
    }

    /// These settings and those of the third parties.
    fn with(&self, mut settings: Vec<(String, String)>) -> Vec<(String, String)> {
        for (name, value) in self.settings() {
            set(&mut settings, name, value);
        }
        settings
    }

    fn app(&self) -> AppBuilder {
        let settings = self.settings().into_iter();
        settings.fold(self.world.app(), |app, (name, value)| app.set(name, value))
    }
}

/// A post that names this third party.
fn to(third_party: &str, id: Uuid) -> Value {
    let mut post = client::transaction(id);
    post["third_party"] = third_party.into();
    post["metadata"] = json!({ "recipient": "RCP_1" });
    post
}

/// Posts it and returns its id.
async fn post(app: &TestApp, third_party: &str) -> Uuid {
    let id = Uuid::now_v7();
    app.client().post_transaction(&to(third_party, id)).await.expect(202);
    id
}

async fn wait_status(app: &TestApp, id: Uuid, status: &str) -> Value {
    wait_for(&format!("{id} is {status}"), BOUND, async || {
        let transaction = app.client().get_transaction(id).await.expect(200).clone();
        (transaction["status"] == status).then_some(transaction)
    })
    .await
}

#[tokio::test]
async fn each_transaction_reaches_its_own_third_party_alone() {
    let several = Several::new().await;
    let app = several.app().spawn().await;
    let acme = post(&app, "acme").await;
    let pay = post(&app, "pay").await;
    let unnamed = app.client().accept().await;
    let own = post(&app, "third-party").await;

    let (peer, ledger) = &several.acme;
    wait_for("it is created at acme", BOUND, async || ledger.has(acme).then_some(())).await;
    ledger.set(acme, "declined");
    wait_status(&app, acme, "declined").await;
    for id in [unnamed, own] {
        let ended = wait_status(&app, id, "completed").await;
        assert_eq!(ended["third_party"], "third-party");
        assert!(ended.get("provider_id").is_none(), "{ended}");
    }
    let shown = wait_for("its id there is known", BOUND, async || {
        let shown = app.client().get_transaction(pay).await.expect(200).clone();
        shown.get("provider_id").is_some().then_some(shown)
    })
    .await;
    assert_eq!(shown["third_party"], "pay");
    assert_eq!(shown["provider_id"], format!("TRF_{pay}"));

    // What each was asked for is its own.
    let created = |peer: &Peer, path: &str| -> Vec<Value> {
        let of = |asked: &Asked| match asked.json() {
            body if body["id"].is_string() => body["id"].clone(),
            body => body["reference"].clone(),
        };
        peer.asked("POST", path).iter().map(of).collect()
    };
    assert_eq!(created(peer, "/transaction"), [json!(acme)]);
    assert_eq!(created(&several.pay, "/transfer"), [json!(pay)]);
    let asked = peer.asked("POST", "/transaction");
    let webhook_url = format!("{}/v1/webhooks/acme", app.url());
    assert_eq!(asked[0].json()["webhookUrl"], webhook_url);
    let stats = app.sandbox.stats();
    assert_eq!(stats.third_party.creates_received, 2);

    // Operators see it, and can list by it.
    let listed = async |query: &str| -> Vec<String> {
        let list = app.operator().get(&format!("/v1/operator/transactions?{query}")).await;
        let items = list.expect(200)["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed("third_party=acme").await, [acme.to_string()]);
    assert_eq!(listed("third_party=pay&client=default").await, [pay.to_string()]);
    assert_eq!(listed("third_party=third-party").await.len(), 2);
    assert_eq!(listed("third_party=none").await.len(), 0);
    let explained = app.operator().get(&format!("/v1/operator/transactions/{pay}/explain")).await;
    assert_eq!(explained.expect(200)["transaction"]["provider_id"], format!("TRF_{pay}"));
    let view = "SELECT third_party || ' ' || provider_id FROM operator.transactions WHERE id = $1";
    let view: String = sqlx::query_scalar(view).bind(pay).fetch_one(&app.pool).await.unwrap();
    assert_eq!(view, format!("pay TRF_{pay}"));
}

#[tokio::test]
async fn each_third_party_has_its_own_retries() {
    let several = Several::new().await;
    // Every create is refused with 504, and never found.
    let failing = Peer::start(|asked| match asked.method.as_str() {
        "POST" => Reply::Answer(504, json!({})),
        _ => Reply::Answer(404, json!({})),
    })
    .await;
    several.write(
        "acme.toml",
        &format!(
            "base_url = '{}'\ncreate_retries = 1\ncreate_backoff = '100ms'\n\
             secrets_directory = 'acme'",
            failing.url()
        ),
    );
    let app = several.app().spawn().await;
    let id = post(&app, "acme").await;
    let failed = wait_status(&app, id, "failed").await;
    assert_eq!(failed["settled_by"], "creation_failure");
    assert_eq!(failing.asked("POST", "/transaction").len(), 2);
    let attempts = "SELECT max_attempts FROM apalis.jobs
        WHERE job_type = 'create_at_third_party' AND idempotency_key = $1::uuid::text";
    let attempts = async |id: Uuid| -> i32 {
        sqlx::query_scalar(attempts).bind(id).fetch_one(&app.pool).await.unwrap()
    };
    assert_eq!(attempts(id).await, 3);
    assert_eq!(attempts(app.client().accept().await).await, 5);
}

#[tokio::test]
async fn reconciliation_asks_each_about_its_own() {
    let several = Several::new().await;
    // Polls have ended long ago, and webhooks are lost.
    let app = several.app().set("QUARTET_POLL__DEADLINE", "300ms").spawn().await;
    let (acme, pay) = (post(&app, "acme").await, post(&app, "pay").await);
    wait_for("both are at their deadline", BOUND, async || {
        let mut open = app.operator().open_dead_letters(acme).await;
        open.extend(app.operator().open_dead_letters(pay).await);
        (open.len() == 2).then_some(())
    })
    .await;
    several.acme.1.set(acme, "completed");
    let settings = several.with(app.settings());
    let args = ["reconcile", "--since", "1h", "--json"];
    wait_until("a sweep has looked at both", BOUND, async || {
        // The periodic one may hold the lease.
        run(&args, &settings, "").await.success
    })
    .await;
    let settled = wait_status(&app, acme, "completed").await;
    assert_eq!(settled["settled_by"], "poll");
    let other = app.client().get_transaction(pay).await.expect(200).clone();
    assert_eq!(other["status"], "pending");
    assert!(several.acme.0.asked("GET", &format!("/transaction/{pay}")).is_empty());
}
