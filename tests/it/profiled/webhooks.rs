//! Webhooks of third parties with a profile: what is proved settles, and nothing else does.

use std::collections::HashMap;

use chrono::Utc;
use quartet::config::Role;
use reqwest::Method;
use ring::hmac;
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use uuid::Uuid;

use super::{
    BOUND, Momo, TOKEN, WEBHOOK_SECRET, all_that_is_kept, app,
    peer::{Asked, Peer, Reply},
    post, provider_id, wait_final,
};
use crate::support::{Answer, TestApp, World, client::Client, command::run, wait_until};

/// HMAC in hex.
pub fn mac(algorithm: hmac::Algorithm, secret: &str, signed: &str) -> String {
    hex::encode(hmac::sign(&hmac::Key::new(algorithm, secret.as_bytes()), signed.as_bytes()))
}

/// Polls once after 200 ms, and then not for a minute.
pub(super) const ONE_POLL: [(&str, &str); 3] = [
    ("QUARTET_POLL__SECOND", "60s"),
    ("QUARTET_POLL__MAX_DELAY", "60s"),
    ("QUARTET_POLL__DEADLINE", "10m"),
];

/// How many webhooks were rejected, by reason.
pub(super) async fn rejected(operator: &Client) -> HashMap<String, (i64, String)> {
    let list = operator.get("/v1/operator/rejected-webhooks?limit=200").await;
    let items = list.expect(200)["items"].as_array().unwrap().clone();
    let by_reason = items.iter().map(|item| {
        let text = |name: &str| item[name].as_str().unwrap().to_owned();
        (text("reason"), (item["count"].as_i64().unwrap(), text("last_detail")))
    });
    by_reason.collect()
}

async fn deliveries(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM webhook_deliveries").fetch_one(pool).await.unwrap()
}

/// A Paystack that takes transfers, and says that they are pending.
pub(super) async fn paystack() -> Peer {
    Peer::start(|asked| {
        let id = match asked.method.as_str() {
            "POST" => asked.json()["reference"].as_str().unwrap().to_owned(),
            _ => asked.path.rsplit('/').next().unwrap().to_owned(),
        };
        let code = format!("TRF_{id}");
        let data = json!({ "transfer_code": code, "reference": id, "status": "pending" });
        Reply::Answer(200, json!({ "status": true, "data": data }))
    })
    .await
}

pub(super) fn transfer(id: Uuid, status: &str) -> Value {
    json!({
        "event": if status == "success" { "transfer.success" } else { "transfer.reversed" },
        "data": { "reference": id, "status": status, "amount": 1250, "currency": "EUR" },
    })
}

async fn send_paystack(app: &TestApp, body: &str, signature: &str) -> Answer {
    let headers = [("content-type", "application/json"), ("x-paystack-signature", signature)];
    app.anonymous().send(Method::POST, "/v1/webhooks/paystack", &headers, body.to_owned()).await
}

pub(super) async fn paystack_signed(app: &TestApp, body: &Value) -> Answer {
    let body = body.to_string();
    send_paystack(app, &body, &mac(hmac::HMAC_SHA512, WEBHOOK_SECRET, &body)).await
}

#[tokio::test]
async fn a_signed_webhook_settles_once_and_a_flipped_byte_is_refused() {
    let (world, peer) = (World::new().await, paystack().await);
    let app = app(&world, &peer, "paystack").spawn().await;
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    let body = transfer(id, "success").to_string();
    let signature = mac(hmac::HMAC_SHA512, WEBHOOK_SECRET, &body);

    for flipped in [body.replace("1250", "1251"), body.replace("success", "failure")] {
        send_paystack(&app, &flipped, &signature).await.expect_problem(401);
    }
    send_paystack(&app, &body, "").await.expect_problem(401);
    send_paystack(&app, &body, &signature.replace(['0', '1'], "2")).await.expect_problem(401);
    assert_eq!(app.client().get_transaction(id).await.expect(200)["status"], "pending");
    wait_until("they are listed", BOUND, async || {
        let rejected = rejected(&app.operator()).await;
        let counts =
            ["wrong_signature", "missing_header"].map(|reason| match rejected.get(reason) {
                Some((count, detail)) if detail.starts_with("paystack: ") => *count,
                _ => 0,
            });
        counts == [3, 1]
    })
    .await;
    assert_eq!(deliveries(&app.pool).await, 0);

    for _ in 0..3 {
        send_paystack(&app, &body, &signature).await.expect(200);
    }
    let settled = wait_final(&app.client(), id).await;
    assert_eq!(
        (&settled["status"], &settled["settled_by"]),
        (&json!("completed"), &json!("webhook"))
    );
    assert_eq!(deliveries(&app.pool).await, 1);
    let kinds = app.client().event_kinds(id).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "webhook").count(), 1, "{kinds:?}");
    let kept = all_that_is_kept(&app.pool, id).await;
    assert!(kept.contains(r#"paystack: webhook (/data/status is \"success\")"#), "{kept}");

    // It is taken back: an operator decides.
    paystack_signed(&app, &transfer(id, "reversed")).await.expect(200);
    let letters = app.operator().open_dead_letters(id).await;
    assert_eq!(letters[0]["kind"], "status_conflict", "{letters:?}");
    assert_eq!(app.client().get_transaction(id).await.expect(200)["status"], "completed");
}

#[tokio::test]
async fn an_event_of_another_amount_settles_nothing_and_is_an_operators() {
    let (world, peer) = (World::new().await, paystack().await);
    let app = app(&world, &peer, "paystack").spawn().await;
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    for (field, value) in [("amount", json!(1251)), ("currency", json!("USD"))] {
        let mut body = transfer(id, "success");
        body["data"][field] = value;
        for _ in 0..2 {
            paystack_signed(&app, &body).await.expect(200);
        }
    }
    let letters = app.operator().open_dead_letters(id).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["kind"], "status_conflict");
    let reason = letters[0]["reason"].as_str().unwrap();
    assert!(reason.contains("/data/amount is \"1251\"") && reason.contains("1250"), "{reason}");
    let kept = all_that_is_kept(&app.pool, id).await;
    assert!(kept.contains("/data/currency is"), "{kept}");
    assert_eq!(deliveries(&app.pool).await, 2);
    assert_eq!(app.client().get_transaction(id).await.expect(200)["status"], "pending");

    // What is about the transaction as it was posted still settles it.
    paystack_signed(&app, &transfer(id, "success")).await.expect(200);
    assert_eq!(wait_final(&app.client(), id).await["status"], "completed");
}

/// Which kind of event it is, the profile cannot tell: it may be the final word.
#[tokio::test]
async fn an_event_whose_kind_stands_twice_is_listed() {
    let (world, peer) = (World::new().await, paystack().await);
    let app = app(&world, &peer, "paystack").role(Role::Api).spawn().await;
    let id = app.client().accept().await;
    let body = transfer(id, "success").to_string();
    let twice = body.replacen('{', r#"{"event":"transfer.success","#, 1);
    let signature = mac(hmac::HMAC_SHA512, WEBHOOK_SECRET, &twice);
    send_paystack(&app, &twice, &signature).await.expect(200);
    assert_eq!(deliveries(&app.pool).await, 0);
    wait_until("it is listed", BOUND, async || {
        let rejected = rejected(&app.operator()).await;
        rejected.get("bad_fields").is_some_and(|(_, detail)| detail.contains("`/event` stands"))
    })
    .await;
}

#[tokio::test]
async fn a_webhook_reaches_its_own_third_party_alone() {
    let (world, peer) = (World::new().await, paystack().await);
    let app = app(&world, &peer, "paystack").role(Role::Api).spawn().await;
    let id = app.client().accept().await;
    let body = transfer(id, "success").to_string();
    let signature = mac(hmac::HMAC_SHA512, WEBHOOK_SECRET, &body);
    let send = async |method: Method, path: &str| {
        let headers = [("x-paystack-signature", signature.as_str())];
        app.anonymous().send(method, path, &headers, body.clone()).await
    };
    for path in ["/v1/webhooks/stripe-payouts", "/v1/webhooks/paystack/x", "/v1/webhooks/"] {
        send(Method::POST, path).await.expect_problem(404);
    }
    send(Method::POST, "/v1/webhooks/third-party").await.expect_problem(401);
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let refused = send(method, "/v1/webhooks/paystack").await;
        refused.expect_problem(405);
        assert_eq!(refused.header("allow"), "POST");
    }
    assert_eq!(send(Method::HEAD, "/v1/webhooks/paystack").await.status, 405);
    let long = format!("{body}{}", " ".repeat(300_000));
    send_paystack(&app, &long, &signature).await.expect_problem(413);
    assert_eq!(deliveries(&app.pool).await, 0);
    // Not one of those that the profile uses.
    let mut other = transfer(id, "success");
    other["event"] = json!("charge.success");
    paystack_signed(&app, &other).await.expect(200);
    assert_eq!(deliveries(&app.pool).await, 0);

    // It was never posted here.
    let unknown = Uuid::now_v7();
    paystack_signed(&app, &transfer(unknown, "success")).await.expect(200);
    let letters = app.operator().open_dead_letters(unknown).await;
    assert_eq!(letters[0]["kind"], "unknown_transaction", "{letters:?}");
    assert!(letters[0]["reason"].as_str().unwrap().contains("paystack: webhook"), "{letters:?}");
}

/// A payout as Stripe reports it, signed at this time.
async fn send_payout(app: &TestApp, id: Uuid, secret: &str, seconds_ago: i64) -> Answer {
    let object = json!({
        "id": format!("po_{id}"), "object": "payout", "amount": 1250, "currency": "eur",
        "status": "paid", "metadata": { "quartet_id": id },
    });
    let body =
        json!({ "id": format!("evt_{id}"), "type": "payout.paid", "data": { "object": object } });
    let (body, time) = (body.to_string(), Utc::now().timestamp() - seconds_ago);
    let signature = mac(hmac::HMAC_SHA256, secret, &format!("{time}.{body}"));
    let header = format!("t={time},v1={signature}");
    let headers = [("content-type", "application/json"), ("stripe-signature", header.as_str())];
    app.anonymous().send(Method::POST, "/v1/webhooks/stripe-payouts", &headers, body).await
}

#[tokio::test]
async fn keys_are_several_and_are_read_again_when_their_files_change() {
    let world = World::new().await;
    let peer = Peer::start(|_: &Asked| Reply::Answer(429, json!({}))).await;
    let files = TempDir::new().unwrap();
    let write = |name: &str, text: &str| std::fs::write(files.path().join(name), text).unwrap();
    write("token", TOKEN);
    write("webhook", "whsec_hush_one\n");
    let app = world
        .app()
        .role(Role::Api)
        .set("QUARTET_THIRD_PARTY__PROFILE", "stripe-payouts")
        .set("QUARTET_THIRD_PARTY__BASE_URL", peer.url())
        .set("QUARTET_THIRD_PARTY__SECRETS_DIRECTORY", files.path().display())
        .spawn()
        .await;
    let status = async |secret: &str| {
        let id = Uuid::now_v7();
        post(&app.client(), id).await;
        let answer = send_payout(&app, id, secret, 0).await.status;
        let transaction = app.client().get_transaction(id).await.expect(200).clone();
        let expected = if answer == 200 { "completed" } else { "pending" };
        assert_eq!(transaction["status"], expected);
        // What is known to exist is never created again.
        let theirs = (answer == 200).then(|| format!("po_{id}"));
        assert_eq!(transaction["provider_id"].as_str(), theirs.as_deref());
        answer
    };
    assert_eq!([status("whsec_hush_one").await, status("whsec_hush_two").await], [200, 401]);
    // While it is changed, both are good.
    write("webhook_next", "whsec_hush_two\n");
    wait_until("the new key is good", BOUND, async || status("whsec_hush_two").await == 200).await;
    assert_eq!(status("whsec_hush_one").await, 200);
    write("webhook", "whsec_hush_three\n");
    wait_until("the old key is not", BOUND, async || status("whsec_hush_one").await == 401).await;
    assert_eq!([status("whsec_hush_two").await, status("whsec_hush_three").await], [200, 200]);

    let id = app.client().accept().await;
    send_payout(&app, id, "whsec_hush_two", 400).await.expect_problem(401);
    wait_until("it is listed", BOUND, async || {
        rejected(&app.operator()).await.contains_key("too_old")
    })
    .await;
}

/// The shipped profile `gocardless-outbound` with events that settle.
pub(super) async fn settling_gocardless() -> (TempDir, String) {
    let printed = run(&["third-party", "show", "gocardless-outbound"], &[], "").await;
    let settling = "trust = \"settle\"\nstatus = \"/details/status\"";
    let text = printed.expect().replace("trust = \"hint\"", settling);
    assert!(text.contains(settling));
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("gocardless.toml");
    std::fs::write(&file, text).unwrap();
    let name = file.to_str().unwrap().to_owned();
    (directory, name)
}

/// An event of GoCardless about its own id.
pub(super) fn gocardless_event(nth: u32, provider_id: &str, status: &str) -> Value {
    json!({
        "id": format!("EV{nth}"), "resource_type": "outbound_payments", "action": status,
        "links": { "outbound_payment": provider_id }, "details": { "status": status },
    })
}

pub(super) async fn send_gocardless(client: &Client, events: &[Value], secret: &str) -> Answer {
    let body = json!({ "events": events }).to_string();
    let signature = mac(hmac::HMAC_SHA256, secret, &body);
    let headers = [("content-type", "application/json"), ("webhook-signature", signature.as_str())];
    client.send(Method::POST, "/v1/webhooks/gocardless-outbound", &headers, body).await
}

/// The answer of GoCardless about a payment with our id.
pub(super) fn gocardless_payment(code: u16, id: &str, status: &str) -> Reply {
    let payment = json!({
        "id": format!("OB_{id}"), "status": status, "metadata": { "quartet_id": id },
    });
    Reply::Answer(code, json!({ "outbound_payments": payment }))
}

/// Our id in a create, or in a lookup by theirs.
pub(super) fn gocardless_id(asked: &Asked) -> String {
    let key = asked.header("idempotency-key").map(str::to_owned);
    key.unwrap_or_else(|| asked.path.rsplit("OB_").next().unwrap().to_owned())
}

#[tokio::test]
async fn events_of_one_body_are_dealt_with_each_by_itself() {
    let world = World::new().await;
    let peer = Peer::start(|asked| {
        let code = if asked.method == "POST" { 201 } else { 200 };
        gocardless_payment(code, &gocardless_id(asked), "pending")
    })
    .await;
    let (_directory, profile) = settling_gocardless().await;
    let app = app(&world, &peer, &profile).spawn().await;
    let ids = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
    for id in ids {
        post(&app.client(), id).await;
    }
    wait_until("their ids are known", BOUND, async || {
        let known = "SELECT count(*) FROM transactions WHERE provider_id IS NOT NULL";
        sqlx::query_scalar::<_, i64>(known).fetch_one(&app.pool).await.unwrap() == 3
    })
    .await;
    let theirs = ids.map(|id| format!("OB_{id}"));
    let mut unusable = gocardless_event(2, &theirs[2], "executed");
    unusable["links"] = json!({});
    let mut of_another_kind = gocardless_event(3, &theirs[2], "executed");
    of_another_kind["resource_type"] = json!("mandates");
    let events = [
        unusable,
        gocardless_event(1, &theirs[0], "executed"),
        of_another_kind,
        gocardless_event(4, &theirs[1], "failed"),
        // A word that is not known is no end.
        gocardless_event(5, &theirs[2], "on_hold"),
    ];
    send_gocardless(&app.anonymous(), &events, "whsec_hush_wrong").await.expect_problem(498);
    assert_eq!(deliveries(&app.pool).await, 0);
    for _ in 0..2 {
        send_gocardless(&app.anonymous(), &events, WEBHOOK_SECRET).await.expect(200);
    }
    assert_eq!(wait_final(&app.client(), ids[0]).await["status"], "completed");
    assert_eq!(wait_final(&app.client(), ids[1]).await["status"], "declined");
    assert_eq!(app.client().get_transaction(ids[2]).await.expect(200)["status"], "pending");
    assert_eq!(deliveries(&app.pool).await, 3);
    let kept = all_that_is_kept(&app.pool, ids[2]).await;
    assert!(kept.contains("on_hold"), "{kept}");
    wait_until("what cannot be used is listed", BOUND, async || {
        let rejected = rejected(&app.operator()).await;
        let unusable = rejected.get("bad_fields");
        unusable.is_some_and(|(count, detail)| *count == 2 && detail.contains("outbound_payment"))
    })
    .await;
}

/// The shipped profile `mtn-momo` that also asks for `HEAD` and a body of its own.
#[tokio::test]
async fn head_is_answered_and_the_body_that_is_asked_for() {
    let (world, momo) = (World::new().await, Momo::default());
    let peer = Peer::start(move |asked| momo.look_up(asked)).await;
    let printed = run(&["third-party", "show", "mtn-momo"], &[], "").await;
    let methods =
        "methods = [\"POST\", \"PUT\", \"HEAD\"]\nok_body = \"[accepted]\"\nok_code = 202";
    let text = printed.expect().replace("methods = [\"POST\", \"PUT\"]", methods);
    assert!(text.contains(methods));
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("momo.toml");
    std::fs::write(&file, text).unwrap();
    let settings = super::settings(&peer, "mtn-momo").into_iter();
    let app = settings.fold(world.app(), |app, (name, value)| app.set(name, value));
    let app = app.set("QUARTET_THIRD_PARTY__PROFILE", file.display()).role(Role::Api).spawn().await;
    let head = app.anonymous().send(Method::HEAD, "/v1/webhooks/mtn-momo", &[], "").await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    for method in [Method::POST, Method::PUT] {
        let body = json!({ "externalId": Uuid::now_v7(), "status": "SUCCESSFUL" }).to_string();
        let answer = app.anonymous().send(method, "/v1/webhooks/mtn-momo", &[], body).await;
        assert_eq!((answer.status, answer.text.as_str()), (202, "[accepted]"));
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    }
    let answer = app.anonymous().send(Method::GET, "/v1/webhooks/mtn-momo", &[], "").await;
    answer.expect_problem(405);
    assert_eq!(answer.header("allow"), "POST, PUT, HEAD");
    // Nothing was proved, so nothing is kept of what is not known.
    let open = app.operator().list_dead_letters("state=open").await;
    assert_eq!(open.expect(200)["items"], json!([]));
}

/// The shipped profile `paystack` whose events name the third party's id as well.
pub(super) async fn paystack_of_both_ids() -> (TempDir, String) {
    let printed = run(&["third-party", "show", "paystack"], &[], "").await;
    let both = "id = \"/data/reference\"\nprovider_id = \"/data/transfer_code\"";
    let text = printed.expect().replace("id = \"/data/reference\"", both);
    assert!(text.contains(both));
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("paystack.toml");
    std::fs::write(&file, text).unwrap();
    let name = file.to_str().unwrap().to_owned();
    (directory, name)
}

/// Two ids there for one of ours, or one for two of ours: there may be two payments.
#[tokio::test]
async fn an_event_with_another_id_of_the_third_party_is_an_operators() {
    let (world, peer) = (World::new().await, paystack().await);
    let (_directory, profile) = paystack_of_both_ids().await;
    let app = app(&world, &peer, &profile).role(Role::Api).spawn().await;
    let [first, second] = [app.client().accept().await, app.client().accept().await];
    let send = async |id: Uuid, status: &str, theirs: &str| {
        let mut body = transfer(id, status);
        body["data"]["transfer_code"] = json!(theirs);
        paystack_signed(&app, &body).await.expect(200);
        app.client().get_transaction(id).await.expect(200)["status"].as_str().unwrap().to_owned()
    };
    // The first one that is named is the transaction's, whatever its event says.
    assert_eq!(send(first, "received", "TRF_1").await, "pending");
    assert_eq!(provider_id(&app.pool, first).await.as_deref(), Some("TRF_1"));
    for (id, theirs, why) in [(first, "TRF_2", "before"), (second, "TRF_1", "another transaction")]
    {
        assert_eq!(send(id, "success", theirs).await, "pending");
        let letters = app.operator().open_dead_letters(id).await;
        assert_eq!((letters.len(), &letters[0]["kind"]), (1, &json!("status_conflict")));
        let reason = letters[0]["reason"].as_str().unwrap();
        assert!(reason.contains(theirs) && reason.contains(why), "{reason}");
    }
    assert_eq!(send(first, "success", "TRF_1").await, "completed");
    assert_eq!(send(second, "success", "TRF_3").await, "completed");
    assert_eq!(provider_id(&app.pool, second).await.as_deref(), Some("TRF_3"));
}

#[tokio::test]
async fn a_webhook_of_which_an_event_cannot_be_stored_is_not_taken() {
    let (world, peer) = (World::new().await, paystack().await);
    let app = app(&world, &peer, "paystack").role(Role::Api).spawn().await;
    let id = app.client().accept().await;
    let rename = async |from: &str, to: &str| {
        let rename = sqlx::AssertSqlSafe(format!("ALTER TABLE {from} RENAME TO {to}"));
        sqlx::query(rename).execute(&app.pool).await.unwrap();
    };
    rename("webhook_deliveries", "elsewhere").await;
    let refused = paystack_signed(&app, &transfer(id, "success")).await;
    assert!(refused.status >= 500, "{}", refused.text);
    assert_eq!(app.client().get_transaction(id).await.expect(200)["status"], "pending");
    rename("elsewhere", "webhook_deliveries").await;
    // As the third party sends it again.
    paystack_signed(&app, &transfer(id, "success")).await.expect(200);
    assert_eq!(app.client().get_transaction(id).await.expect(200)["status"], "completed");
}
