//! Signing secrets in the database: sealed, carried over from the release that did not, and sealed
//! anew when the master key is replaced.

use std::time::Duration;

use quartet::{config::Role, secrets::MasterKeys, signature::Secret};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{
    TestApp, World,
    command::{Ended, run},
    jobs::{BOUND, quiet_app},
    wait_for,
    world::{MASTER_KEY, add_client, set},
};

const MASTER: &str = "QUARTET_SECRETS__MASTER_KEY";

/// Runs a command of the binary in this world, with these master keys.
async fn quartet(world: &World, master_key: &str, args: &[&str]) -> Ended {
    let mut settings = world.settings();
    set(&mut settings, MASTER, master_key);
    run(args, &settings, "").await
}

async fn stored(pool: &PgPool, client: &str) -> String {
    let query = "SELECT signing_secret FROM clients WHERE name = $1";
    sqlx::query_scalar(query).bind(client).fetch_one(pool).await.unwrap()
}

async fn store(pool: &PgPool, client: &str, secret: &str) {
    let update = "UPDATE clients SET signing_secret = $2 WHERE name = $1";
    let done = sqlx::query(update).bind(client).bind(secret).execute(pool).await.unwrap();
    assert_eq!(done.rows_affected(), 1);
}

/// A client as the release before stored it: with its secret in plain.
async fn add_plain_client(app: &TestApp, name: &str) -> String {
    let key = add_client(&app.pool, name).await;
    store(&app.pool, name, &app.sandbox.config().client_secret.reveal()).await;
    key
}

async fn wait_notified(app: &TestApp, key: &str, id: Uuid) {
    wait_for("the client is told", BOUND, async || {
        let transaction = app.anonymous().with_key(key).get_transaction(id).await;
        (transaction.expect(200)["notified_version"] == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_secrets_of_the_release_before_work_and_are_sealed_at_the_next_start() {
    let mut app = quiet_app().await.spawn().await;
    let key = add_plain_client(&app, "of-old").await;
    let plain = stored(&app.pool, "of-old").await;
    assert!(plain.starts_with("whsec_"));
    // Until then it is used as it is.
    let client = app.anonymous().with_key(&key);
    let id = client.accept().await;
    wait_notified(&app, &key, id).await;

    app.stop().await;
    app.start().await;
    let sealed = stored(&app.pool, "of-old").await;
    let id = sealed.strip_prefix("sealed:v1:").and_then(|rest| rest.split_once(':')).unwrap().0;
    let keys: MasterKeys = MASTER_KEY.parse().unwrap();
    assert_eq!(keys.ids().collect::<Vec<_>>(), [id]);
    assert_eq!(keys.open("of-old", &sealed).unwrap().reveal(), plain);
    assert!(!sealed.contains(&plain["whsec_".len()..]));
    let id = client.accept().await;
    wait_notified(&app, &key, id).await;
    assert_eq!(app.sandbox.stats().client.signature_failures, 0);

    // A plain one does not retire as it is.
    store(&app.pool, "of-old", &plain).await;
    let rotate = ["clients", "rotate-secret", "of-old", "--overlap", "1h"];
    quartet(&app, MASTER_KEY, &rotate).await.expect();
    let retiring = "SELECT signing_secret FROM client_retiring_secrets";
    let retiring: String = sqlx::query_scalar(retiring).fetch_one(&app.pool).await.unwrap();
    assert_eq!(keys.open("of-old", &retiring).unwrap().reveal(), plain);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_master_key_secrets_stay_plain_and_sign() {
    let mut app = quiet_app().await.set(MASTER, "").spawn().await;
    let mut settings = app.settings();
    set(&mut settings, MASTER, "");
    let url = app.sandbox.callback_url();
    let secret = app.sandbox.config().client_secret.reveal();
    let add = ["clients", "add", "shop", "--callback-url", &url, "--signing-secret", &secret];
    let ended = run(&[&add[..], &["--json"]].concat(), &settings, "").await;
    assert!(ended.stderr.contains("is stored in plain"), "{}", ended.stderr);
    let key = ended.expect_json()["api_key"].as_str().unwrap().to_owned();
    assert_eq!(stored(&app.pool, "shop").await, secret);
    let id = app.anonymous().with_key(&key).accept().await;
    wait_notified(&app, &key, id).await;
    assert_eq!(app.sandbox.stats().client.signature_failures, 0);
    run(&["secrets", "status"], &settings, "").await.expect_failure();
    let rotate = ["clients", "rotate-secret", "shop"];
    let ended = run(&[&rotate[..], &["--overlap", "1h"]].concat(), &settings, "").await;
    assert!(ended.expect_failure().contains(MASTER), "{}", ended.stderr);
    run(&rotate, &settings, "").await.expect();
    assert!(stored(&app.pool, "shop").await.starts_with("whsec_"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_key_is_rotated_process_by_process() {
    let world = World::new().await;
    let new = MasterKeys::generate();
    let with = async |keys: &str| -> TestApp {
        world.app().role(Role::Api).set(MASTER, keys).spawn().await
    };
    let (mut before, secret) = (with(MASTER_KEY).await, Secret::generate());
    let add = ["clients", "add", "shop", "--callback-url", "http://127.0.0.1:9009/", "--json"];
    let revealed = secret.reveal();
    let add = [&add[..], &["--signing-secret", &revealed]].concat();
    quartet(&world, MASTER_KEY, &add).await.expect_json();
    let rotate = ["clients", "rotate-secret", "shop", "--overlap", "24h"];
    quartet(&world, MASTER_KEY, &rotate).await.expect();
    before.stop().await;

    // 1. The new key opens in all processes, 2. then it seals.
    let old_first = format!("{MASTER_KEY},{new}");
    let new_first = format!("{new},{MASTER_KEY}");
    with(&old_first).await.stop().await;
    with(&new_first).await.stop().await;
    let status = quartet(&world, &new_first, &["secrets", "status", "--json"]).await.expect_json();
    // The start has sealed the default client's anew, which the configuration holds.
    assert_eq!((&status["current"], &status["older"]), (&json!(1), &json!(2)), "{status}");
    // 3. What is left is sealed anew; several at once do no harm.
    let reseal = || quartet(&world, &new_first, &["secrets", "reseal", "--json"]);
    let (one, other) = tokio::join!(reseal(), reseal());
    let [one, other] = [one, other].map(|ended| ended.expect_json());
    for resealed in [&one, &other] {
        assert_eq!(
            (&resealed["current"], &resealed["older"]),
            (&json!(3), &json!(0)),
            "{resealed}"
        );
    }
    let sealed = |value: &Value| value["resealed"].as_u64().unwrap();
    assert_eq!(sealed(&one) + sealed(&other), 2);
    let again = reseal().await.expect_json();
    assert_eq!(again["resealed"], 0, "{again}");
    // 4. The old key is taken out.
    with(&new).await.stop().await;
    let status = quartet(&world, &new, &["secrets", "status", "--json"]).await.expect_json();
    assert_eq!((&status["current"], &status["unreadable"]), (&json!(3), &json!([])), "{status}");
    let keys: MasterKeys = new.parse().unwrap();
    let query = "SELECT signing_secret FROM client_retiring_secrets";
    let retiring: String = sqlx::query_scalar(query).fetch_one(&world.pool).await.unwrap();
    assert_eq!(keys.open("shop", &retiring), Ok(secret));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_master_key_is_refused_before_it_does_harm() {
    let world = World::new().await;
    let mut app = world.app().role(Role::Api).spawn().await;
    add_client(&app.pool, "shop").await;
    app.stop().await;
    let wrong = MasterKeys::generate();
    let before = stored(&world.pool, "shop").await;
    for args in [
        &["serve"][..],
        &["clients", "add", "other", "--callback-url", "http://127.0.0.1:9009/"],
        &["clients", "rotate-secret", "shop"],
        &["secrets", "reseal"],
    ] {
        let mut settings = world.settings();
        set(&mut settings, MASTER, &wrong);
        set(&mut settings, "QUARTET_HTTP__LISTEN", "127.0.0.1:0");
        let ended = run(args, &settings, "").await;
        let text = ended.expect_failure();
        assert!(text.contains("QUARTET_SECRETS__MASTER_KEY opens none"), "{args:?}: {text}");
    }
    let status = quartet(&world, &wrong, &["secrets", "status"]).await;
    assert!(status.expect_failure().contains("not all signing secrets"), "{status:?}");
    assert!(status.stdout.contains("shop: it is sealed with another master key"), "{status:?}");
    assert_eq!(stored(&world.pool, "shop").await, before);
    let names = "SELECT name FROM clients ORDER BY name";
    let names: Vec<String> = sqlx::query_scalar(names).fetch_all(&world.pool).await.unwrap();
    assert_eq!(names, ["default", "shop"]);

    // A new key as the first one, before anything was sealed with it: the processes may lack it.
    store(&world.pool, "default", &before).await;
    let both = format!("{wrong},{MASTER_KEY}");
    let add = ["clients", "add", "other", "--callback-url", "http://127.0.0.1:9009/"];
    let ended = quartet(&world, &both, &add).await;
    assert!(ended.expect_failure().contains("quartet secrets reseal"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_master_key_the_commands_that_need_one_name_the_variable() {
    let world = World::new().await;
    world.app().role(Role::Api).spawn().await.stop().await;
    for args in [&["secrets", "status"][..], &["secrets", "reseal"]] {
        let ended = quartet(&world, "", args).await;
        assert!(ended.expect_failure().contains(MASTER), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains("quartet secrets generate-key"), "{args:?}: {ended:?}");
    }
    for args in [&["clients", "list"][..], &["clients", "rotate-key", "default"]] {
        quartet(&world, "", args).await.expect();
    }
    let one = quartet(&world, "", &["secrets", "generate-key"]).await.expect().to_owned();
    let other = quartet(&world, "", &["secrets", "generate-key"]).await.expect().to_owned();
    assert!(one != other && one.trim().parse::<MasterKeys>().is_ok(), "{one}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_was_moved_to_another_client_does_not_sign() {
    let app = quiet_app().await.set("QUARTET_NOTIFY__MAX_ATTEMPTS", 3).spawn().await;
    let key = add_client(&app.pool, "shop").await;
    let (good, foreign) = (stored(&app.pool, "shop").await, stored(&app.pool, "default").await);
    store(&app.pool, "shop", &foreign).await;
    let client = app.anonymous().with_key(&key);
    let id = client.accept().await;
    let letter = app.wait_dead_letter(id).await;
    assert_eq!(letter["kind"], "exhausted", "{letter}");
    let error = letter["attempts"][0]["error"].as_str().unwrap();
    assert!(error.contains("changed, or sealed for another client"), "{error}");
    assert_eq!(app.sandbox.client().deliveries_of(id).len(), 0);
    // Nothing is lost: with the right one in its place the replay tells the client.
    store(&app.pool, "shop", &good).await;
    app.replay(&letter).await;
    wait_notified(&app, &key, id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_secret_that_cannot_be_opened_stops_no_process() {
    let world = World::new().await;
    let mut app = world.app().role(Role::Api).spawn().await;
    add_client(&app.pool, "shop").await;
    add_client(&app.pool, "lost").await;
    let other: MasterKeys = MasterKeys::generate().parse().unwrap();
    store(&app.pool, "lost", &other.seal("lost", &Secret::generate())).await;
    app.stop().await;
    let mut process = world.process(Role::All).spawn().await;
    let output = process.output();
    let line = output.lines().find(|line| line.contains("a signing secret cannot be opened"));
    assert!(line.is_some_and(|line| line.contains("lost")), "{output}");
    assert!(process.terminate(Duration::from_secs(20)).await.success());
}
