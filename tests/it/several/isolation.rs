//! One that hangs, is down or refuses our credentials does not slow the others.

use std::{sync::Arc, time::Duration};

use quartet::config::Role;
use serde_json::json;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{ACME_SECRET, BOUND, Several, post, to, wait_status};
use crate::{
    profiled::peer::{Peer, Reply},
    support::{TestApp, command::run, wait_for, wait_until, world::add_client},
};

/// How long from accept to the end at the third party without a name, of the slowest of ten.
async fn slowest(app: &TestApp) -> f64 {
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(app.client().accept().await);
    }
    for id in &ids {
        wait_status(app, *id, "completed").await;
    }
    let query = "SELECT max(extract(epoch FROM settled_at - created_at))::float8
        FROM transactions WHERE id = ANY ($1)";
    sqlx::query_scalar(query).bind(&ids).fetch_one(&app.pool).await.unwrap()
}

async fn circuit(app: &TestApp, third_party: &str) -> String {
    let path = format!("/v1/operator/circuit?third_party={third_party}");
    app.operator().get(&path).await.expect(200)["state"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn one_that_hangs_takes_no_more_than_its_share() {
    let several = Several::new().await;
    let hanging = Peer::start(|_| Reply::Silence).await;
    several.write(
        "acme.toml",
        &format!(
            "base_url = '{}'\ntimeout = '20s'\nlookup_timeout = '20s'\n\
             create_backoff = '1s'\nsecrets_directory = 'acme'\n",
            hanging.url()
        ),
    );
    // Far fewer slots than transactions of the one that hangs; and its circuit never opens.
    let app = several.app().set("QUARTET_WORKER__CONCURRENCY", "12").spawn().await;
    let alone = slowest(&app).await;
    for _ in 0..60 {
        post(&app, "acme").await;
    }
    wait_until("it hangs in as many calls as it may", BOUND, async || {
        hanging.asked("GET", "/").len() >= 6
    })
    .await;
    for _ in 0..3 {
        let beside = slowest(&app).await;
        assert!(beside < 5.0, "{beside} s beside one that hangs for 20 s, {alone} s alone");
    }
    // Six creates, and six polls, of twelve slots for each.
    let asked = hanging.asked("GET", "/").len();
    assert!(asked <= 12, "{asked} calls hang at the same time");
    let used = "SELECT count(*) FROM apalis.jobs
        JOIN transactions ON transactions.id::text = idempotency_key
        WHERE job_type = 'create_at_third_party' AND third_party = 'acme' AND attempts > 0";
    let used: i64 = sqlx::query_scalar(used).fetch_one(&app.pool).await.unwrap();
    assert_eq!(used, 0, "a wait for a place costs no attempt");
}

#[tokio::test]
async fn one_that_is_down_opens_its_own_circuit() {
    let several = Several::new().await;
    let down = Peer::start(|_| Reply::Answer(500, json!({}))).await;
    let settings = several.acme_settings("create_retries = 100\n");
    several.write("acme.toml", &settings.replace(&several.acme.0.url(), &down.url()));
    let app = several
        .app()
        .set("QUARTET_CIRCUIT__MIN_CALLS", "5")
        .set("QUARTET_CIRCUIT__OPEN_FOR", "1m")
        .spawn()
        .await;
    let ids: Vec<Uuid> = {
        let mut ids = Vec::new();
        for _ in 0..10 {
            ids.push(post(&app, "acme").await);
        }
        ids
    };
    wait_until("its circuit is open", BOUND, async || circuit(&app, "acme").await == "open").await;
    assert_eq!(circuit(&app, "third-party").await, "closed");
    assert_eq!(circuit(&app, "pay").await, "closed");
    app.operator().get("/v1/operator/circuit?third_party=nobody").await.expect_problem(404);
    let path = format!("/v1/operator/transactions/{}/explain", ids[9]);
    wait_for("it says so", BOUND, async || {
        let explained = app.operator().get(&path).await.expect(200).clone();
        let is_open = explained["cause"]["kind"] == "circuit_open";
        (is_open && explained["circuit"]["state"] == "open").then_some(())
    })
    .await;
    let pay = post(&app, "pay").await;
    wait_until("the others are called", BOUND, async || {
        app.client().get_transaction(pay).await.expect(200).get("provider_id").is_some()
    })
    .await;
    assert!(slowest(&app).await < 5.0);
    let metrics = app.anonymous().get("/metrics").await.text;
    for line in [
        r#"quartet_circuit_state{state="open",third_party="acme"} 1"#,
        r#"quartet_circuit_state{state="closed",third_party="pay"} 1"#,
        r#"quartet_circuit_state{state="closed",third_party="third-party"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

/// Every circuit that there is, and no other: where the name is wrong, nothing is closed.
#[tokio::test]
async fn the_circuit_of_a_third_party_that_there_is_not_is_no_closed_one() {
    let several = Several::new().await;
    several.write("acme/webhook", ACME_SECRET);
    let opened = "INSERT INTO circuits (name, opened_at, open_until, open_for, reason, trips)
        VALUES ('pay', now(), now() + interval '1 hour', 3600, 'it answered 500', 1),
            ('gone', now(), now() - interval '1 hour', 60, 'no answer', 2)";
    sqlx::query(opened).execute(&several.world.pool).await.unwrap();
    let directory = several.directory.path().display().to_string();
    let settings = [
        ("DATABASE_URL".to_owned(), several.world.database_url().to_owned()),
        ("QUARTET_THIRD_PARTIES__DIRECTORY".to_owned(), directory),
    ];
    let circuit = async |args: &[&str]| run(&[&["circuit"], args].concat(), &settings, "").await;
    let listed = circuit(&[]).await;
    let lines: Vec<&str> = listed.expect().lines().collect();
    assert_eq!(lines.len(), 3, "{listed:?}");
    for (line, start) in lines.iter().zip(["pay: open", "gone: half_open", "acme: closed"]) {
        assert!(line.starts_with(start), "{listed:?}");
    }
    assert!(lines[0].contains("it answered 500"), "{listed:?}");
    let listed = circuit(&["--json"]).await.expect_json();
    let names = listed.as_array().unwrap().iter().map(|circuit| &circuit["third_party"]);
    assert_eq!(names.collect::<Vec<_>>(), ["pay", "gone", "acme"]);
    for (name, start) in [("pay", "open"), ("gone", "half_open"), ("acme", "closed")] {
        let one = circuit(&["--third-party", name]).await;
        assert!(one.expect().starts_with(start), "{one:?}");
    }
    let app = several
        .app()
        .role(Role::Api)
        .set("QUARTET_THIRD_PARTY__BASE_URL", "")
        .set("QUARTET_WEBHOOK__SECRETS", "")
        .set("QUARTET_DEFAULT_CLIENT__THIRD_PARTY", "acme")
        .spawn()
        .await;
    for name in ["acne", "third-party"] {
        let wrong = circuit(&["--third-party", name]).await;
        let said = wrong.expect_failure();
        assert!(said.contains(&format!("there is no third party named {name}")), "{said}");
        let path = format!("/v1/operator/circuit?third_party={name}");
        app.operator().get(&path).await.expect_problem(404);
    }
    app.operator().get("/v1/operator/circuit").await.expect_problem(404);
}

#[tokio::test]
async fn one_that_refuses_our_credentials_is_held_alone() {
    let several = Several::new().await;
    let refusing = Peer::start(|_| Reply::Answer(401, json!({}))).await;
    let settings = several.acme_settings("");
    several.write("acme.toml", &settings.replace(&several.acme.0.url(), &refusing.url()));
    let app = several.app().set("QUARTET_CIRCUIT__OPEN_FOR", "1m").spawn().await;
    let id = Uuid::now_v7();
    app.client().post_transaction(&to("acme", id)).await.expect(202);
    wait_until("readiness names it", BOUND, async || {
        let ready = app.anonymous().get("/health/ready").await;
        let detail = ready.expect(200)["detail"].as_str().unwrap_or_default().to_owned();
        detail.contains("the third party acme refuses our credentials")
    })
    .await;
    assert_eq!(circuit(&app, "third-party").await, "closed");
    assert!(slowest(&app).await < 5.0);
    let metrics = app.anonymous().get("/metrics").await.text;
    assert!(metrics.contains(r#"quartet_third_party_credentials_refused{third_party="acme"} 1"#));
    let unnamed = r#"quartet_third_party_credentials_refused{third_party="third-party"} 0"#;
    assert!(metrics.contains(unnamed), "{metrics}");
}

#[tokio::test]
async fn the_backlog_of_one_client_does_not_delay_another_at_the_same_third_party() {
    const BACKLOG: usize = 200;

    let several = Several::new().await;
    // However many calls wait, it answers ten a second.
    let answers = Arc::new(Semaphore::new(0));
    let answered = answers.clone();
    let slow = Peer::start(move |asked| match asked.method.as_str() {
        "POST" => {
            let status = json!({ "id": asked.json()["id"], "status": "completed" });
            Reply::Held(answered.clone(), 202, status)
        }
        _ => Reply::Answer(404, json!({})),
    })
    .await;
    several.write(
        "acme.toml",
        &format!(
            "base_url = '{}'\ntimeout = '30s'\ncreate_backoff = '30s'\n\
             secrets_directory = 'acme'\n",
            slow.url()
        ),
    );
    let app = several.app().set("QUARTET_WORKER__CONCURRENCY", "8");
    let app = app.set("QUARTET_POLL__FIRST", "10m").set("QUARTET_POLL__DEADLINE", "1h");
    let app = app.spawn().await;
    let key = add_client(&app.pool, "other").await;
    let allow = "UPDATE clients SET other_third_parties = '{acme}' WHERE name = 'other'";
    sqlx::query(allow).execute(&app.pool).await.unwrap();
    let other = app.anonymous().with_key(&key);
    for _ in 0..BACKLOG {
        post(&app, "acme").await;
    }
    let pace = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tick.tick().await;
            answers.add_permits(1);
        }
    });
    for _ in 0..5 {
        let id = Uuid::now_v7();
        other.post_transaction(&to("acme", id)).await.expect(202);
        wait_until("the other client's is created", BOUND, async || {
            let created = slow.asked("POST", "/transaction");
            created.iter().any(|asked| asked.json()["id"] == id.to_string())
        })
        .await;
    }
    let created = slow.asked("POST", "/transaction").len();
    assert!(created < BACKLOG * 3 / 4, "after {created} of the backlog");
    pace.abort();
}
