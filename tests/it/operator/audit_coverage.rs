//! Nothing that an operator does is missing in the audit: every operation, every command.

use std::collections::BTreeSet;

use quartet::{
    config::Role,
    sandbox::{SendWebhook, Status},
    signature::Secret,
    store::audit::OperatorAction,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{audit, job, post_as};
use crate::support::{TestApp, command, spawn_api, transaction, world::add_client};

/// Every operation that changes something, and what the audit calls it.
const OPERATIONS: [(&str, &str); 8] = [
    ("pause_queue", "pause_queue"),
    ("resume_queue", "resume_queue"),
    ("cancel_job", "cancel_job"),
    ("retry_job", "retry_job"),
    ("replay_dead_letter", "replay"),
    ("resolve_dead_letter", "resolve"),
    ("discard_dead_letter", "discard"),
    ("replay_dead_letters", "replay"),
];

/// A dead letter about an id that is not here; and the id.
async fn unknown(app: &TestApp) -> (String, Uuid) {
    let id = Uuid::now_v7();
    app.send_webhook(SendWebhook::new(id, "completed")).await;
    let letter = app.operator().open_dead_letters(id).await.remove(0);
    (letter["id"].as_str().unwrap().to_owned(), id)
}

/// One whose replay does something.
async fn replayable(app: &TestApp) -> String {
    let (letter, id) = unknown(app).await;
    app.client().post_transaction(&transaction(id)).await.expect(202);
    letter
}

/// The newest entry, without its detail.
async fn newest(app: &TestApp) -> Value {
    audit(app).await.swap_remove(0)
}

async fn newest_in_full(app: &TestApp) -> Value {
    let answer = app.operator().get("/v1/operator/actions?limit=1").await;
    answer.expect(200)["items"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_is_audited() {
    let app = spawn_api().await;
    let document = app.anonymous().get("/openapi.json").await;
    let paths = document.expect(200)["paths"].as_object().unwrap();
    let changing = paths.iter().filter(|(path, _)| path.starts_with("/v1/operator/"));
    let changing = changing.flat_map(|(_, methods)| methods.as_object().unwrap());
    let changing: BTreeSet<&str> = changing
        .filter(|(method, _)| *method != "get")
        .map(|(_, operation)| operation["operationId"].as_str().unwrap())
        .collect();
    assert_eq!(changing, OPERATIONS.iter().map(|(operation, _)| *operation).collect());

    let of = app.client().accept().await;
    let job = job(&app, of, "update_status").await;
    let job = format!("jobs/{}", job["id"].as_str().unwrap());
    let letter = |(letter, _): (String, Uuid)| format!("dead-letters/{letter}");
    for (operation, audited) in OPERATIONS {
        let (path, body) = match operation {
            "pause_queue" => ("queues/notify_client/pause".to_owned(), json!({})),
            "resume_queue" => ("queues/notify_client/resume".to_owned(), json!({})),
            "cancel_job" => (format!("{job}/cancel"), json!({})),
            "retry_job" => (format!("{job}/retry"), json!({})),
            "replay_dead_letter" => {
                (format!("dead-letters/{}/replay", replayable(&app).await), json!({}))
            }
            "resolve_dead_letter" => {
                (format!("{}/resolve", letter(unknown(&app).await)), json!({ "note": "x" }))
            }
            "discard_dead_letter" => {
                (format!("{}/discard", letter(unknown(&app).await)), json!({}))
            }
            _ => {
                replayable(&app).await;
                let body = json!({ "kind": "unknown_transaction", "confirm": 1 });
                ("dead-letters/replay".to_owned(), body)
            }
        };
        let before = audit(&app).await.len();
        post_as(&app, "Ada", &format!("/v1/operator/{path}"), &body).await.expect(200);
        assert_eq!(audit(&app).await.len(), before + 1, "{operation}");
        let newest = newest(&app).await;
        assert_eq!(newest["operator"], "operator (Ada)", "{operation}");
        assert_eq!(newest["action"], audited, "{operation}");
    }
}

/// Whatever there is a word for, the client registry and the secrets included; and none of their
/// secrets is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_that_changes_something_is_audited() {
    let app = spawn_api().await;
    let mut settings = app.settings();
    // Says nothing about who acts.
    settings.push(("USER".to_owned(), "ada".to_owned()));
    let of = app.client().accept().await;
    let job = job(&app, of, "update_status").await;
    let job = job["id"].as_str().unwrap();
    let (replayed, resolved, discarded) =
        (replayable(&app).await, unknown(&app).await.0, unknown(&app).await.0);
    let url = "https://shop.example/";
    let mut seen = BTreeSet::new();
    let mut printed = String::new();
    for (args, audited) in [
        (vec!["queues", "pause", "notify_client"], "pause_queue"),
        (vec!["queues", "resume", "notify_client"], "resume_queue"),
        (vec!["jobs", "cancel", job], "cancel_job"),
        (vec!["jobs", "retry", job], "retry_job"),
        (vec!["dead-letters", "replay", &replayed], "replay"),
        (vec!["dead-letters", "resolve", &resolved, "--note", "x"], "resolve"),
        (vec!["dead-letters", "discard", &discarded], "discard"),
        (vec!["clients", "add", "shop", "--callback-url", url, "--json"], "add_client"),
        (vec!["clients", "rotate-key", "shop", "--json"], "rotate_client_key"),
        (vec!["clients", "rotate-key", "shop", "--overlap", "1h", "--json"], "rotate_client_key"),
        (vec!["clients", "rotate-secret", "shop", "--json"], "rotate_client_secret"),
        (vec!["clients", "disable", "shop"], "disable_client"),
        (vec!["secrets", "reseal"], "reseal_secrets"),
        (vec!["reconcile", "--since", "1h"], "reconcile"),
    ] {
        let before = audit(&app).await.len();
        printed += command::run(&args, &settings, "").await.expect();
        assert_eq!(audit(&app).await.len(), before + 1, "{args:?}");
        let newest = newest(&app).await;
        assert_eq!(newest["operator"], command::operator(None), "{args:?}");
        assert_eq!(newest["action"], audited, "{args:?}");
        seen.insert(audited);
    }
    // What changes nothing, or was refused, is not there.
    let before = audit(&app).await.len();
    for args in [
        vec!["clients", "disable", "shop"],
        vec!["clients", "list"],
        vec!["secrets", "status"],
        vec!["reconcile", "--since", "1h", "--dry-run"],
    ] {
        command::run(&args, &settings, "").await.expect();
    }
    for args in [
        vec!["clients", "disable", "nobody"],
        vec!["clients", "rotate-key", "nobody"],
        vec!["clients", "add", "shop", "--callback-url", url],
    ] {
        command::run(&args, &settings, "").await.expect_failure();
    }
    assert_eq!(audit(&app).await.len(), before);

    // The configuration, where it changes a client that is there.
    let other = app.sibling().set("QUARTET_DEFAULT_CLIENT__API_KEY", "qk_test_another_0123");
    other.spawn().await;
    let newest = newest(&app).await;
    assert_eq!(newest["operator"], "configuration");
    seen.insert(newest["action"].as_str().unwrap());
    let all: BTreeSet<&str> = OperatorAction::ALL.iter().map(|action| action.as_str()).collect();
    assert_eq!(seen, all, "each word has its command");

    // About which client; and nothing that was printed once.
    let answer = app.operator().get("/v1/operator/actions?limit=200").await;
    let details: Vec<String> = answer.expect(200)["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["action"].as_str().unwrap().contains("client"))
        .map(|item| item["detail"].to_string())
        .collect();
    assert_eq!(details.len(), 6, "{details:?}");
    assert_eq!(details.iter().filter(|detail| detail.contains(r#""client":"shop""#)).count(), 5);
    let secrets = printed
        .split(['"', ' ', '\n'])
        .filter(|word| word.starts_with("qk_") || word.starts_with("whsec_"));
    let secrets: Vec<&str> = secrets.collect();
    assert_eq!(secrets.len(), 5, "{printed}");
    assert!(secrets.iter().all(|secret| !answer.text.contains(secret)), "{}", answer.text);
}

/// Clients, and those keys and secrets that retire: everything that commands change there.
async fn registry(app: &TestApp) -> Vec<String> {
    let rows = "SELECT clients::text FROM clients
        UNION ALL SELECT k::text FROM client_retiring_keys AS k
        UNION ALL SELECT s::text FROM client_retiring_secrets AS s ORDER BY 1";
    sqlx::query_scalar(rows).fetch_all(&app.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_cannot_be_audited_changes_nothing() {
    let app = spawn_api().await;
    // What `reconcile` has to do.
    let stuck = app.stuck().await;
    app.sandbox.third_party().store(stuck, Status::Completed);
    add_client(&app.pool, "shop").await;
    // What `reseal` has to do.
    let plain = "UPDATE clients SET signing_secret = 'whsec_c2hvcA==' WHERE name = 'shop'";
    sqlx::query(plain).execute(&app.pool).await.unwrap();
    let broken = "ALTER TABLE operator_actions ADD CONSTRAINT broken CHECK (false)";
    sqlx::query(broken).execute(&app.pool).await.unwrap();
    let before = registry(&app).await;
    for args in [
        &["clients", "add", "other", "--callback-url", "https://shop.example/"][..],
        &["clients", "rotate-key", "shop", "--overlap", "1h"],
        &["clients", "rotate-secret", "default", "--overlap", "1h"],
        &["clients", "disable", "shop"],
        &["secrets", "reseal"],
        &["reconcile", "--since", "2h"],
    ] {
        let ended = command::run(args, &app.settings(), "").await;
        assert!(
            ended.expect_failure().contains("the database refuses this"),
            "{args:?}: {ended:?}"
        );
        assert_eq!(registry(&app).await, before, "{args:?}");
    }
    assert_eq!(app.sandbox.third_party().lookups_of(stuck), 0);

    let mended = "ALTER TABLE operator_actions DROP CONSTRAINT broken";
    sqlx::query(mended).execute(&app.pool).await.unwrap();
    for (args, detail) in [
        (&["secrets", "reseal"][..], json!({ "resealed": 1 })),
        (&["secrets", "reseal"], json!({ "resealed": 0 })),
        (&["clients", "disable", "shop"], json!({ "client": "shop" })),
    ] {
        command::run(args, &app.settings(), "").await.expect();
        assert_eq!(newest_in_full(&app).await["detail"], detail, "{args:?}");
    }
    // Nobody waits for the lease of the one that failed.
    command::run(&["reconcile", "--since", "2h"], &app.settings(), "").await.expect();
    let settled = app.client().get_transaction(stuck).await;
    assert_eq!(settled.expect(200)["status"], "completed");
}

/// At a start, for a client that is there; the secret is compared opened, as each sealing differs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_configuration_changes_of_its_client_is_audited() {
    let app = spawn_api().await;
    assert_eq!(audit(&app).await, Vec::<Value>::new());
    app.sibling().role(Role::Api).spawn().await;
    assert_eq!(audit(&app).await, Vec::<Value>::new());

    command::run(&["clients", "disable", "default"], &app.settings(), "").await.expect();
    app.sibling().role(Role::Api).spawn().await;
    assert_eq!(newest(&app).await["action"], "disable_client");
    let secret = Secret::generate().reveal();
    for (variable, value, changed) in [
        ("API_KEY", "qk_another_0123456789", json!(["api_key", "enabled"])),
        ("SIGNING_SECRET", &secret, json!(["api_key", "signing_secret"])),
        ("CALLBACK_URL", "http://127.0.0.1:9009/", json!(["callback_url", "signing_secret"])),
    ] {
        let variable = format!("QUARTET_DEFAULT_CLIENT__{variable}");
        app.sibling().role(Role::Api).set(&variable, value).spawn().await;
        let newest = newest_in_full(&app).await;
        assert_eq!(newest["operator"], "configuration", "{newest}");
        assert_eq!(newest["action"], "configure_client", "{newest}");
        assert_eq!(newest["detail"]["client"], "default", "{newest}");
        assert_eq!(newest["detail"]["changed"], changed, "{newest}");
        assert!(!newest.to_string().contains(value) || variable.ends_with("URL"), "{newest}");
    }
}
