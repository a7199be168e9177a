//! Which third parties a client may use, and what makes two posts the same.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Several, to};
use crate::support::{TestApp, client, command::run, world::add_client};

fn fault(problem: &Value) -> (&str, &str) {
    let error = &problem["errors"][0];
    (error["pointer"].as_str().unwrap(), error["detail"].as_str().unwrap())
}

/// Runs a command of the registry.
async fn clients(app: &TestApp, args: &[&str]) -> String {
    let settings = app.settings();
    run(&[&["clients"], args].concat(), &settings, "").await.expect().to_owned()
}

#[tokio::test]
async fn a_client_may_use_its_own_third_parties_alone() {
    let several = Several::new().await;
    let app = several.app().spawn().await;
    let other = app.anonymous().with_key(&add_client(&app.pool, "other").await);
    // It was there before there were several: it keeps the one that it has used.
    let id = other.accept().await;
    assert_eq!(other.get_transaction(id).await.expect(200)["third_party"], "third-party");
    for name in ["acme", "nobody", "third_party", ""] {
        let refused = other.post_transaction(&to(name, Uuid::now_v7())).await;
        let problem = refused.expect_problem(422);
        assert_eq!(
            fault(problem),
            ("/third_party", "must be one that you may use: third-party"),
            "{name}"
        );
    }
    let wrong = json!({ "id": Uuid::now_v7(), "third_party": 7 });
    assert_eq!(other.post_transaction(&wrong).await.faults(), ["/third_party"]);

    // What the registry says holds for the next post.
    let said = clients(&app, &["set-third-parties", "other", "--third-party", "acme"]).await;
    assert!(said.contains("Before, other might use third-party (default)."), "{said}");
    assert!(said.contains("Now other may use acme (default)."), "{said}");
    let id = other.accept().await;
    assert_eq!(other.get_transaction(id).await.expect(200)["third_party"], "acme");
    let refused = other.post_transaction(&to("third-party", Uuid::now_v7())).await;
    assert!(fault(refused.expect_problem(422)).1.ends_with(": acme"));
    // What is not given stays as it is.
    let args = ["set-third-parties", "other", "--allow", "pay", "--allow", "third-party"];
    let said = clients(&app, &args).await;
    assert!(said.contains("Before, other might use acme (default)."), "{said}");
    assert!(said.contains("Now other may use acme (default), pay, third-party."), "{said}");
    for (name, expected) in [("pay", "pay"), ("acme", "acme"), ("third-party", "third-party")] {
        let id = Uuid::now_v7();
        let posted = other.post_transaction(&to(name, id)).await;
        assert_eq!(posted.expect(202)["third_party"], expected);
    }
    assert_eq!(registered(&app, "other").await, json!(["acme", ["pay", "third-party"]]));
    clients(&app, &["set-third-parties", "other", "--third-party", "third-party"]).await;
    let expected = json!(["third-party", ["pay", "third-party"]]);
    assert_eq!(registered(&app, "other").await, expected);
    clients(&app, &["set-third-parties", "other", "--allow-none"]).await;
    assert_eq!(registered(&app, "other").await, json!(["third-party", []]));
    for args in [&[][..], &["--allow", "pay", "--allow-none"]] {
        let args = [&["clients", "set-third-parties", "other"], args].concat();
        run(&args, &app.settings(), "").await.expect_failure();
    }
    let args = ["add", "third", "--callback-url", "https://93.184.215.14/x", "--third-party"];
    let added = clients(&app, &[&args[..], &["pay", "--json"]].concat()).await;
    let added: Value = serde_json::from_str(&added).unwrap();
    let third = app.anonymous().with_key(added["api_key"].as_str().unwrap());
    let posted = third.post_transaction(&client::transaction(Uuid::now_v7())).await;
    assert_eq!(posted.expect(202)["third_party"], "pay");
    let actions = app.operator().get("/v1/operator/actions").await;
    let actions = actions.expect(200)["items"].to_string();
    assert!(actions.contains("configure_client") && actions.contains("other_third_parties"));
}

/// The default third party of a client, and the others, as the registry has them.
async fn registered(app: &TestApp, name: &str) -> Value {
    let listed: Value = serde_json::from_str(&clients(app, &["list", "--json"]).await).unwrap();
    let found = listed.as_array().unwrap().iter().find(|client| client["name"] == name);
    let found = found.unwrap();
    json!([found["third_party"], found["other_third_parties"]])
}

#[tokio::test]
async fn the_default_clients_third_parties_change_only_where_they_are_set() {
    const THIRD_PARTY: &str = "QUARTET_DEFAULT_CLIENT__THIRD_PARTY";
    const OTHERS: &str = "QUARTET_DEFAULT_CLIENT__OTHER_THIRD_PARTIES";
    let several = Several::new().await;
    let mut app = several.app().set(THIRD_PARTY, "acme").spawn().await;
    let expected = json!(["acme", ["acme", "pay"]]);
    assert_eq!(registered(&app, "default").await, expected);
    app.stop().await;
    // Neither a process that lacks the variables, nor one that lacks the directory as well.
    let mut app = several.app().set(OTHERS, "").spawn().await;
    assert_eq!(registered(&app, "default").await, expected);
    app.stop().await;
    let mut app = several.world.app().spawn().await;
    assert_eq!(registered(&app, "default").await, expected);
    app.stop().await;
    let mut app = several.app().set(OTHERS, "-").spawn().await;
    assert_eq!(registered(&app, "default").await, json!(["acme", []]));
    app.stop().await;
    let app = several.app().set(THIRD_PARTY, "third-party").spawn().await;
    assert_eq!(registered(&app, "default").await, json!(["third-party", ["acme", "pay"]]));
}

#[tokio::test]
async fn the_third_party_is_part_of_what_an_id_stands_for() {
    let several = Several::new().await;
    let app = several.app().spawn().await;
    let client = app.client();
    let plain = |id| client::transaction(id);
    let named = |name: &str, id| {
        let mut post = plain(id);
        post["third_party"] = name.into();
        post
    };

    let id = Uuid::now_v7();
    client.post_transaction(&plain(id)).await.expect(202);
    client.post_transaction(&plain(id)).await.expect(200);
    client.post_transaction(&named("third-party", id)).await.expect(200);
    client.post_transaction(&named("acme", id)).await.expect_problem(409);
    // A name that there is not is no conflict, nor is it accepted: the id is taken.
    client.post_transaction(&named("nobody", id)).await.expect_problem(409);

    let chosen = Uuid::now_v7();
    client.post_transaction(&named("acme", chosen)).await.expect(202);
    client.post_transaction(&named("acme", chosen)).await.expect(200);
    client.post_transaction(&plain(chosen)).await.expect_problem(409);
    client.post_transaction(&named("third-party", chosen)).await.expect_problem(409);
    let mut other = named("acme", chosen);
    other["amount"] = 1.into();
    client.post_transaction(&other).await.expect_problem(409);

    // A repeat stays one, whatever the client's default is by then.
    let args = ["set-third-parties", "default", "--third-party", "acme"];
    clients(&app, &args).await;
    for post in [plain(id), named("third-party", id), named("acme", chosen)] {
        let repeated = client.post_transaction(&post).await;
        repeated.expect(200);
        assert_eq!(repeated.header("idempotent-replayed"), "true");
    }
    client.post_transaction(&named("acme", id)).await.expect_problem(409);
    let id = Uuid::now_v7();
    assert_eq!(client.post_transaction(&plain(id)).await.expect(202)["third_party"], "acme");
    client.post_transaction(&named("acme", id)).await.expect(200);
}
