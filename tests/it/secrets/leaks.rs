//! A whole run at the most verbose level of the log, with every secret in use, replaced, mistyped
//! and refused: none of them is in the database, the logs, the traces, the figures or an answer.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use futures_util::TryStreamExt;
use quartet::{
    config::Role,
    sandbox::{Reaction, SendWebhook},
    secrets::{MasterKeys, hash_token},
    signature::Secret,
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use url::Url;
use uuid::Uuid;

use super::encodings::{Hunted, found};
use crate::{
    console::visitor::Visitor,
    support::{
        World,
        collector::Collector,
        command::{Ended, run},
        process::Process,
        transaction, wait_for, wait_until,
        world::set,
    },
};

const BOUND: Duration = Duration::from_secs(30);
/// Finds its way into the log and the database: what is looked for there can be found.
const PLANTED: &str = "planted_L9ugAMrXkH0EEPdxKXSx";

/// Everything that was written anywhere, by place, and every secret that was used.
#[derive(Default)]
struct Run {
    log: String,
    metrics: String,
    answers: String,
    commands: String,
    hunted: Vec<Hunted>,
    settings: Vec<(String, String)>,
}

impl Run {
    fn hunt(&mut self, name: &str, secret: &str) {
        self.hunted.push(Hunted::text(name, secret));
    }

    /// Runs a command. What it prints to standard output is kept unless it `reveals` something.
    async fn command(&mut self, args: &[&str], reveals: bool) -> Ended {
        let ended = run(args, &self.settings, "").await;
        self.commands += &ended.stderr;
        if !reveals {
            self.commands += &ended.stdout;
        }
        ended
    }

    /// A command that shows a new secret in this field.
    async fn shown(&mut self, name: &str, args: &[&str], field: &str) -> String {
        let shown = self.command(args, true).await.expect_json();
        let secret = shown[field].as_str().unwrap().to_owned();
        self.hunt(name, &secret);
        secret
    }

    async fn get(&mut self, process: &Process, key: &str, path: &str) -> u16 {
        let answer = process.client().with_key(key).get(path).await;
        let _ = writeln!(self.answers, "{:?} {}", answer.headers, answer.text);
        answer.status
    }
}

/// The rows of every table and view that is not Postgres's own, by its name.
async fn dump(url: &str) -> BTreeMap<String, String> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let relations = "SELECT format('%I.%I', nspname, relname) FROM pg_class
        JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE relkind IN ('r', 'p', 'v', 'm')
            AND nspname NOT IN ('pg_catalog', 'information_schema')
        ORDER BY 1";
    let relations: Vec<String> =
        sqlx::query_scalar(relations).fetch_all(&mut connection).await.unwrap();
    for expected in ["apalis.jobs", "public.clients", "public.operator_actions", "operator.jobs"] {
        assert!(relations.iter().any(|name| name == expected), "{expected}: {relations:?}");
    }
    let mut dump = BTreeMap::new();
    for relation in relations {
        let copy = format!("COPY (SELECT * FROM {relation}) TO STDOUT");
        let rows = connection.copy_out_raw(&copy).await.unwrap();
        let rows: Vec<_> = rows.try_collect().await.unwrap();
        dump.insert(relation, String::from_utf8(rows.concat()).unwrap());
    }
    dump
}

async fn wait_ended(process: &Process, key: &str, id: Uuid) {
    wait_until("it has ended, at the client or in front of an operator", BOUND, async || {
        let client = process.client().with_key(key);
        let transaction = client.get_transaction(id).await;
        transaction.status == 200
            && transaction.body["status"] != "pending"
            && transaction.body["notified_version"] == transaction.body["version"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_anywhere_after_a_whole_run() {
    let (world, collector) = (World::new().await, Collector::start().await);
    let mut run = Run { settings: world.settings(), ..Run::default() };
    let tokens = ["operator", "another operator"].map(|name| {
        let token = MasterKeys::generate();
        run.hunt(&format!("token of {name}"), &token);
        // The console's sessions are derived from it.
        run.hunted.push(Hunted::bytes(format!("hash of the {name}'s token"), &hash_token(&token)));
        token
    });
    let masters = ["old master key", "new master key"].map(|name| {
        let key = MasterKeys::generate();
        run.hunt(name, &key);
        key
    });
    let webhooks = [world.sandbox.config().webhook_secret.clone(), Secret::generate()];
    for secret in &webhooks {
        run.hunt("webhook secret", &secret.reveal());
    }
    let default_key = MasterKeys::generate();
    run.hunt("API key of the default client", &default_key);
    run.hunt("secret of the default client", &world.sandbox.config().client_secret.reveal());
    let database: Url = world.database_url().parse().unwrap();
    run.hunt("the database's password", database.password().unwrap());
    for (variable, value) in [
        ("DATABASE_URL", database.to_string()),
        ("QUARTET_OPERATOR_TOKEN", tokens.join(",")),
        ("QUARTET_SECRETS__MASTER_KEY", masters[0].clone()),
        ("QUARTET_WEBHOOK__SECRETS", webhooks.each_ref().map(Secret::reveal).join(",")),
        ("QUARTET_DEFAULT_CLIENT__API_KEY", default_key.clone()),
        ("QUARTET_LOG", "trace".to_owned()),
        ("QUARTET_LOG_FORMAT", "json".to_owned()),
        ("QUARTET_TRACES__ENDPOINT", collector.endpoint()),
    ] {
        set(&mut run.settings, variable, value);
    }
    let start = async |run: &Run| -> Process {
        let mut process = world.process(Role::All);
        for (variable, value) in &run.settings {
            process = process.set(variable, value);
        }
        let mut process = process.launch();
        process.wait_ready().await;
        process
    };

    let mut process = start(&run).await;
    let shop = use_and_rotate(&mut run, &world, &process, &default_key).await;
    fail(&mut run, &world, &process, &default_key, &webhooks).await;
    visit(&mut run, &process, &tokens).await;
    run.metrics += &process.client().get("/metrics").await.text;
    assert!(process.terminate(BOUND).await.success());
    run.log += &process.output();

    // The master key is replaced, and the program goes on.
    let both = format!("{},{}", masters[1], masters[0]);
    set(&mut run.settings, "QUARTET_SECRETS__MASTER_KEY", both);
    let mut process = start(&run).await;
    let resealed = run.command(&["secrets", "reseal"], false).await;
    assert!(resealed.expect().contains("Sealed with the first key"), "{resealed:?}");
    run.command(&["secrets", "status", "--json"], false).await.expect();
    let id = process.client().with_key(&shop).accept().await;
    wait_ended(&process, &shop, id).await;
    let planted = [("x-request-id", PLANTED)];
    process.client().send(Method::GET, "/v1/transactions", &planted, "").await.expect(401);
    assert!(process.terminate(BOUND).await.success());
    run.log += &process.output();
    let stats = world.sandbox.stats();
    assert_eq!(stats.client.signature_failures, 0, "{stats:?}");

    let spans = collector.text();
    let rows: Vec<String> = dump(world.database_url()).await.into_values().collect();
    let rows = rows.join("\n");
    for (place, text) in [
        ("log", &run.log),
        ("spans", &spans),
        ("figures", &run.metrics),
        ("answers", &run.answers),
        ("commands' output", &run.commands),
        ("database", &rows),
    ] {
        assert!(text.len() > 500, "the {place} holds something: {text}");
        assert_eq!(found(text, &run.hunted), [""; 0], "in the {place}");
    }

    // All that proves nothing unless it can be found where it is.
    let planted = [Hunted::text("planted", PLANTED)];
    assert_ne!(found(&run.log, &planted), [""; 0]);
    let secret = world.sandbox.config().client_secret.reveal();
    for (relation, form, plant) in [
        ("public.clients", "plain", "UPDATE clients SET signing_secret = $1 WHERE name = 'shop'"),
        ("apalis.jobs", "hex", "UPDATE apalis.jobs SET job = convert_to($1, 'UTF8')"),
        (
            "public.transaction_events",
            "plain",
            "UPDATE transaction_events SET detail = jsonb_build_object('key', $1::text)",
        ),
        (
            "public.transactions",
            "base64",
            "UPDATE transactions SET reference = encode(convert_to($1, 'UTF8'), 'base64')",
        ),
    ] {
        let planted = sqlx::query(plant).bind(&secret).execute(&world.pool).await.unwrap();
        assert!(planted.rows_affected() > 0, "{plant}");
        let found = found(&dump(world.database_url()).await[relation], &run.hunted);
        let expected = format!("secret of the default client, {form},");
        assert!(found.iter().any(|found| found.starts_with(&expected)), "{plant}: {found:?}");
    }
}

/// A client is added, posts with each of its keys, and is told with each of its secrets.
async fn use_and_rotate(
    run: &mut Run,
    world: &World,
    process: &Process,
    default_key: &str,
) -> String {
    let url = world.sandbox.callback_url();
    // The sandbox's client verifies by this one.
    let secret = world.sandbox.config().client_secret.reveal();
    let add = ["clients", "add", "shop", "--callback-url", &url, "--signing-secret", &secret];
    let add = [&add[..], &["--json"]].concat();
    let first = run.shown("first key of the shop", &add, "api_key").await;
    let rotate = ["clients", "rotate-key", "shop", "--overlap", "24h", "--json"];
    let second = run.shown("second key of the shop", &rotate, "api_key").await;
    let rotate = ["clients", "rotate-secret", "shop", "--overlap", "24h", "--json"];
    run.shown("second secret of the shop", &rotate, "signing_secret").await;
    for key in [default_key, &first, &second] {
        let id = process.client().with_key(key).accept().await;
        wait_ended(process, key, id).await;
        assert_eq!(run.get(process, key, &format!("/v1/transactions/{id}")).await, 200);
        assert_eq!(run.get(process, key, &format!("/v1/transactions/{id}/events")).await, 200);
    }
    for args in [&["clients", "list"][..], &["clients", "list", "--json"], &["secrets", "status"]] {
        run.command(args, false).await.expect();
    }
    second
}

/// Everything that goes wrong: refused keys and signatures, dead letters, commands that fail.
async fn fail(run: &mut Run, world: &World, process: &Process, key: &str, webhooks: &[Secret]) {
    // What a person mistypes is nearly a secret.
    let mistyped = format!("x{}", MasterKeys::generate());
    run.hunt("mistyped key", &mistyped);
    for path in ["/v1/transactions", "/v1/operator/queues"] {
        assert_eq!(run.get(process, &mistyped, path).await, 401);
    }
    assert_eq!(run.get(process, key, "/v1/operator/queues").await, 403);
    let answer = process.client().with_key(key).post_raw("/v1/transactions", "{").await;
    run.answers += &answer.text;
    let id = Uuid::now_v7();
    // The client is gone: its notification is a dead letter, and replayed.
    world.sandbox.client().script_for(id, vec![Reaction::status_code(410); 20]);
    process.client().with_key(key).post_transaction(&transaction(id)).await.expect(202);
    let operator = run.settings.iter().find(|(name, _)| name == "QUARTET_OPERATOR_TOKEN");
    let token = operator.unwrap().1.split(',').next().unwrap().to_owned();
    let operator = process.client().with_key(&token);
    let letter = wait_for("a dead letter is open", BOUND, async || {
        operator.open_dead_letters(id).await.pop()
    })
    .await;
    let note = json!({ "note": "they are back" });
    let letter = letter["id"].as_str().unwrap();
    let replayed = operator.act_on_dead_letter(letter, "replay", &note).await;
    run.answers += &replayed.text;
    for path in ["/v1/operator/queues", "/v1/operator/jobs", "/v1/operator/dead-letters"] {
        assert_eq!(run.get(process, &token, path).await, 200);
    }
    let url = format!("{}/v1/webhooks/third-party", process.url());
    let third_party = world.sandbox.third_party();
    for (webhook, status) in [
        (SendWebhook::new(id, "completed").secret(webhooks[1].clone()), 200),
        (SendWebhook::new(id, "completed").bad_signature(), 401),
        (SendWebhook::new(Uuid::now_v7(), "completed").secret(webhooks[0].clone()), 200),
        (SendWebhook::new(id, "completed").timestamp_offset_seconds(-900), 401),
    ] {
        let (answered, body) = third_party.send_webhook(webhook.url(&url)).await.unwrap();
        assert_eq!(answered, status, "{body}");
        run.answers += &body.to_string();
    }
    let settings = run.settings.clone();
    let wrong = MasterKeys::generate().replace(['+', '/', '='], "x");
    run.hunt("wrong password of the database", &wrong);
    let mut database: Url = world.database_url().parse().unwrap();
    database.set_password(Some(&wrong)).unwrap();
    set(&mut run.settings, "DATABASE_URL", &database);
    run.command(&["clients", "list"], false).await.expect_failure();
    run.settings = settings.clone();
    // A parameter that nobody knows may be a password under a mistyped name.
    let mistyped = MasterKeys::generate().replace(['+', '/', '='], "x");
    run.hunt("a mistyped parameter of DATABASE_URL", &mistyped);
    let mut database: Url = world.database_url().parse().unwrap();
    database.query_pairs_mut().append_pair("pasword", &mistyped);
    set(&mut run.settings, "DATABASE_URL", &database);
    for args in [&["clients", "list"][..], &["serve"], &["migrate"], &["doctor"]] {
        run.command(args, false).await.expect_failure();
    }
    run.settings = settings.clone();
    for (variable, args) in [
        ("QUARTET_SECRETS__MASTER_KEY", &["secrets", "status"][..]),
        ("QUARTET_OPERATOR_TOKEN", &["clients", "list"]),
        ("QUARTET_WEBHOOK__SECRETS", &["serve"]),
    ] {
        let value = format!("{}*", MasterKeys::generate());
        run.hunt(&format!("unreadable {variable}"), value.trim_end_matches('*'));
        set(&mut run.settings, variable, format!("{value} {value}"));
        run.command(args, false).await.expect_failure();
        run.settings = settings.clone();
    }
    run.command(&["clients", "rotate-key", "nobody"], false).await.expect_failure();
}

/// Sessions of the console, their ends, and what is refused there.
async fn visit(run: &mut Run, process: &Process, tokens: &[String]) {
    for token in tokens {
        let mut visitor = Visitor::of(process.url());
        visitor.sign_in(&[("token", token), ("name", "Ada")]).await.location();
        let cookie = visitor.cookie.clone().unwrap();
        run.hunt("session of the console", cookie.split_once('=').unwrap().1);
        for path in ["", "/transactions", "/dead-letters", "/jobs", "/queues", "/audit"] {
            let page = visitor.get(&format!("/console{path}")).await;
            run.answers += page.expect(200);
        }
        visitor.post("/console/sign-out", &[]).await.location();
        let page = visitor.get("/console").await;
        run.answers += &page.html;
        assert!(page.location().starts_with("/console/sign-in"));
    }
    let mistyped = format!("x{}", MasterKeys::generate());
    run.hunt("mistyped token", &mistyped);
    let mut visitor = Visitor::of(process.url());
    let page = visitor.sign_in(&[("token", &mistyped)]).await;
    run.answers += page.expect(401);
    let refused: Value = process.client().get("/v1/operator/queues").await.body;
    run.answers += &refused.to_string();
}
