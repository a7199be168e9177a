//! Each kind of key and secret is replaced while the old one is still good, and ends when it
//! should.

use quartet::{
    config::Role,
    sandbox::{CreateStep, Profile, Reaction, Sandbox, SandboxConfig, SendWebhook},
    signature::Secret,
};
use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    TestApp, World,
    command::{Ended, run},
    jobs::{BOUND, quiet_app},
    spawn_api, transaction, wait_until,
    world::API_KEY,
};

/// Runs a command of `quartet clients` about this app's database.
async fn clients(app: &TestApp, args: &[&str]) -> Ended {
    run(&[&["clients"], args].concat(), &app.settings(), "").await
}

async fn rotate_key(app: &TestApp, overlap: &str) -> String {
    let args = ["rotate-key", "default", "--overlap", overlap, "--json"];
    let rotated = clients(app, &args).await.expect_json();
    rotated["api_key"].as_str().unwrap().to_owned()
}

/// The statuses of a post, of the same post again and of reading it, with this key.
async fn statuses(app: &TestApp, key: &str, known: Uuid) -> [u16; 3] {
    let client = app.anonymous().with_key(key);
    [
        client.post_transaction(&transaction(Uuid::now_v7())).await.status,
        client.post_transaction(&transaction(known)).await.status,
        client.get_transaction(known).await.status,
    ]
}

async fn execute(app: &TestApp, statement: &'static str) {
    let done = sqlx::query(statement).execute(&app.pool).await.unwrap();
    assert!(done.rows_affected() > 0, "{statement}");
}

const GOOD: [u16; 3] = [202, 200, 200];
const REFUSED: [u16; 3] = [401; 3];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_api_keys_are_accepted_until_their_overlap_ends() {
    let app = spawn_api().await;
    let known = app.client().accept().await;
    // The process knows the first key by now.
    let second = rotate_key(&app, "2h").await;
    let third = rotate_key(&app, "1h").await;
    for key in [API_KEY, &second, &third] {
        assert_eq!(statuses(&app, key, known).await, GOOD);
    }
    let listed = clients(&app, &["list", "--json"]).await.expect_json();
    assert!(listed[0]["old_key_until"].is_string(), "{listed}");

    // Each has an end of its own.
    execute(
        &app,
        "UPDATE client_retiring_keys SET valid_until = now() - interval '1 s'
        WHERE valid_until < now() + interval '90 min'",
    )
    .await;
    assert_eq!(statuses(&app, API_KEY, known).await, GOOD);
    assert_eq!(statuses(&app, &second, known).await, REFUSED);
    execute(&app, "UPDATE client_retiring_keys SET valid_until = now() - interval '1 s'").await;
    assert_eq!(statuses(&app, API_KEY, known).await, REFUSED);
    assert_eq!(statuses(&app, &third, known).await, GOOD);
    let listed = clients(&app, &["list", "--json"]).await.expect_json();
    assert_eq!(listed[0]["old_key_until"], Value::Null, "{listed}");

    // What has ended is removed by the next rotation.
    let fourth = rotate_key(&app, "1h").await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM client_retiring_keys")
        .fetch_one(&app.pool)
        .await
        .unwrap();
    assert_eq!(rows, 1);
    assert_eq!(statuses(&app, &third, known).await, GOOD);
    assert_eq!(statuses(&app, &fourth, known).await, GOOD);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_without_an_overlap_ends_every_older_key() {
    let app = spawn_api().await;
    let known = app.client().accept().await;
    let second = rotate_key(&app, "24h").await;
    assert_eq!(statuses(&app, API_KEY, known).await, GOOD);
    let third = rotate_key(&app, "0s").await;
    for key in [API_KEY, &second] {
        assert_eq!(statuses(&app, key, known).await, REFUSED);
    }
    assert_eq!(statuses(&app, &third, known).await, GOOD);
    // A key that was in use before may come back, as that of the default client does at each start.
    rotate_key(&app, "24h").await;
    execute(
        &app,
        "UPDATE clients SET api_key_hash = (SELECT api_key_hash FROM client_retiring_keys)",
    )
    .await;
    rotate_key(&app, "24h").await;
    assert_eq!(statuses(&app, &third, known).await, GOOD);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_clients_old_keys_are_refused_too() {
    let app = spawn_api().await;
    let known = app.client().accept().await;
    let second = rotate_key(&app, "24h").await;
    assert_eq!(statuses(&app, API_KEY, known).await, GOOD);
    clients(&app, &["disable", "default"]).await.expect();
    for key in [API_KEY, &second] {
        assert_eq!(statuses(&app, key, known).await, REFUSED);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_post_is_refused_while_keys_are_rotated() {
    let app = spawn_api().await;
    let posts = async {
        let mut accepted = Vec::new();
        while accepted.len() < 200 {
            accepted.push(app.client().accept().await);
        }
        accepted
    };
    let rotations = async {
        for _ in 0..3 {
            rotate_key(&app, "24h").await;
        }
    };
    let (accepted, ()) = futures_util::join!(posts, rotations);
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM transactions").fetch_one(&app.pool).await.unwrap();
    assert_eq!(usize::try_from(rows).unwrap(), accepted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_are_signed_with_both_secrets_during_the_overlap() {
    let app = quiet_app().await.spawn().await;
    let new = Secret::generate();
    // The same client after it has taken the new secret.
    let profile = Profile::faultless();
    let changed = SandboxConfig { client_secret: new.clone(), profile, ..SandboxConfig::default() };
    let changed = Sandbox::start(changed).await.unwrap();
    changed.client().set_default(Reaction::status_code(204));
    let urls = [app.sandbox.callback_url(), changed.callback_url()];
    let tell = async |url: &str| -> Uuid {
        sqlx::query("UPDATE clients SET callback_url = $1")
            .bind(url)
            .execute(&app.pool)
            .await
            .unwrap();
        app.client().accept().await
    };

    let args = ["rotate-secret", "default", "--overlap", "24h", "--json", "--signing-secret"];
    let revealed = new.reveal();
    let args = [&args[..], &[&revealed]].concat();
    let rotated = clients(&app, &args).await.expect_json();
    assert_eq!(rotated["signing_secret"], new.reveal());
    assert!(rotated["old_secret_until"].is_string(), "{rotated}");
    for url in &urls {
        let id = tell(url).await;
        app.wait_notified(id, 1).await;
    }
    assert_eq!(app.sandbox.stats().client.signature_failures, 0);
    assert_eq!(changed.stats().client.signature_failures, 0);

    // The old one ends; who still has it refuses.
    let end = "UPDATE client_retiring_secrets SET valid_until = now() - interval '1 s'";
    execute(&app, end).await;
    let id = tell(&urls[0]).await;
    wait_until("the old secret does not match", BOUND, async || {
        app.sandbox.stats().client.signature_failures > 0
    })
    .await;
    assert_eq!(app.client().get_transaction(id).await.expect(200)["notified_version"], 0);
    let id = tell(&urls[1]).await;
    app.wait_notified(id, 1).await;
    assert_eq!(changed.stats().client.signature_failures, 0);

    // Without an overlap it is replaced at once.
    let rotated = clients(&app, &["rotate-secret", "default", "--json"]).await.expect_json();
    assert_eq!(rotated["old_secret_until"], Value::Null, "{rotated}");
    tell(&urls[1]).await;
    wait_until("the secret before does not match", BOUND, async || {
        changed.stats().client.signature_failures > 0
    })
    .await;
    changed.stop().await;
}

/// The procedure of docs/secrets.md, step by step: processes are replaced one by one, and the third
/// party changes in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_third_partys_secret_is_rotated_without_a_refused_webhook() {
    let world = World::new().await;
    world.sandbox.third_party().set_create_default(CreateStep::created());
    let old = world.sandbox.config().webhook_secret.clone();
    let new = Secret::generate();
    let both = format!("{},{}", old.reveal(), new.reveal());
    let process = async |secrets: &str| -> TestApp {
        world.app().role(Role::Api).set("QUARTET_WEBHOOK__SECRETS", secrets).spawn().await
    };
    let sent = async |app: &TestApp, secret: &Secret| -> u16 {
        let id = app.client().accept().await;
        app.send_webhook(SendWebhook::new(id, "completed").secret(secret.clone())).await.0
    };
    let before = process(&old.reveal()).await;
    assert_eq!((sent(&before, &old).await, sent(&before, &new).await), (200, 401));
    // 1. Both secrets in all processes; the third party goes on with the old one meanwhile.
    let during = process(&both).await;
    assert_eq!((sent(&before, &old).await, sent(&during, &old).await), (200, 200));
    // 2. The third party changes at any time.
    assert_eq!((sent(&during, &old).await, sent(&during, &new).await), (200, 200));
    // 3. The old one is taken out.
    let after = process(&new.reveal()).await;
    assert_eq!((sent(&during, &new).await, sent(&after, &new).await), (200, 200));
    assert_eq!(sent(&after, &old).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_operator_tokens_are_accepted_at_once() {
    let world = World::new().await;
    let [old, new] = ["operator_token_old_1", "operator_token_new_2"];
    let process = async |tokens: &str| -> TestApp {
        world.app().role(Role::Api).set("QUARTET_OPERATOR_TOKEN", tokens).spawn().await
    };
    let status = async |app: &TestApp, token: &str| -> u16 {
        app.anonymous().with_key(token).list_dead_letters("").await.status
    };
    let both = process(&format!("{old},{new}")).await;
    for token in [old, new] {
        assert_eq!(status(&both, token).await, 200);
    }
    for wrong in ["operator_token_old_2", &format!("{old},{new}"), ""] {
        assert_eq!(status(&both, wrong).await, 401, "{wrong}");
    }
    let after = process(new).await;
    assert_eq!((status(&after, new).await, status(&after, old).await), (200, 401));
}
