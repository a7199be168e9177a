//! The client of `QUARTET_DEFAULT_CLIENT__…` against what the registry says of it.

use quartet::config::Role;
use uuid::Uuid;

use super::BOUND;
use crate::support::{
    TestApp,
    command::run,
    spawn_api, transaction, wait_until,
    world::{API_KEY, add_client, set},
};

const NAME: &str = "QUARTET_DEFAULT_CLIENT__NAME";
const KEY: &str = "QUARTET_DEFAULT_CLIENT__API_KEY";
const SECRET: &str = "QUARTET_DEFAULT_CLIENT__SIGNING_SECRET";

/// The status of a post with this key.
async fn status(app: &TestApp, key: &str) -> u16 {
    let client = app.anonymous().with_key(key);
    client.post_transaction(&transaction(Uuid::now_v7())).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_client_stays_disabled_until_its_key_is_another() {
    let app = spawn_api().await;
    run(&["clients", "disable", "default"], &app.settings(), "").await.expect();
    let process = app.process(Role::Api).spawn().await;
    wait_until("the start warns", BOUND, async || {
        process.output().contains("QUARTET_DEFAULT_CLIENT__NAME stays disabled")
    })
    .await;
    assert_eq!(status(&app, API_KEY).await, 401);
    let other = "qk_another_0123456789";
    app.sibling().role(Role::Api).set(KEY, other).spawn().await;
    assert_eq!((status(&app, API_KEY).await, status(&app, other).await), (401, 202));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_client_ends_the_start_and_is_named() {
    let app = spawn_api().await;
    let shop = add_client(&app.pool, "shop").await;
    let refused = async |changed: [&str; 2]| {
        let mut settings = app.settings();
        set(&mut settings, "QUARTET_HTTP__LISTEN", "127.0.0.1:0");
        set(&mut settings, changed[0], changed[1]);
        run(&["serve"], &settings, "").await.expect_failure().to_owned()
    };
    // Renamed, and with the key of another one, even of one that is disabled.
    run(&["clients", "disable", "default"], &app.settings(), "").await.expect();
    for (changed, owner, client) in
        [([NAME, "shop-eu"], "default", "shop-eu"), ([KEY, shop.as_str()], "shop", "default")]
    {
        let said = refused(changed).await;
        let expected = format!(
            "{KEY} belongs to the client {owner} already: give {client} a key of its own, or keep \
             the name"
        );
        assert!(said.contains(&expected), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_warn_that_the_settings_are_to_be_changed_as_well() {
    let app = spawn_api().await;
    add_client(&app.pool, "shop").await;
    for (command, variable) in
        [("rotate-key", KEY), ("rotate-secret", SECRET), ("disable", "QUARTET_DEFAULT_CLIENT__…")]
    {
        let ended = run(&["clients", command, "default"], &app.settings(), "").await;
        ended.expect();
        assert!(ended.stderr.contains(variable), "{command}: {ended:?}");
        let ended = run(&["clients", command, "shop"], &app.settings(), "").await;
        ended.expect();
        assert!(!ended.stderr.contains("QUARTET_DEFAULT_CLIENT"), "{command}: {ended:?}");
    }
}
