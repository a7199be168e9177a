//! Creating at third parties of different kinds: by our id, and by theirs alone.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use super::{
    BOUND, Momo, Stripe, TOKEN, all_that_is_kept, app, assert_without_secrets, create_attempts,
    payout,
    peer::{Asked, Peer, Reply, TOKEN_PATH},
    post, process, provider_id, wait_dead_letter, wait_final,
};
use crate::support::{World, command::run, wait_until};

const PAYOUTS: &str = "/v1/payouts";

/// A number that grows with each call.
fn counter() -> (Arc<AtomicUsize>, impl Fn() -> usize + Send + Sync) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    (count, move || counted.fetch_add(1, Ordering::SeqCst))
}

/// The profile `stripe-payouts` with another `repeat_within`.
async fn stripe_with(repeat_within: &str) -> (TempDir, String) {
    let printed = run(&["third-party", "show", "stripe-payouts"], &[], "").await;
    let text = printed.expect().replace("23h", repeat_within);
    assert!(text.contains(repeat_within));
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("stripe.toml");
    std::fs::write(&file, text).unwrap();
    let name = file.to_str().unwrap().to_owned();
    (directory, name)
}

/// A peer of the profile `mtn-momo` that answers creates as `create` says.
async fn momo_peer(
    momo: &Momo,
    token: &'static str,
    create: impl Fn(&Momo, &Asked) -> Reply + Send + Sync + 'static,
) -> Peer {
    let answers = momo.clone();
    Peer::start(move |asked| match (asked.method.as_str(), asked.path.as_str()) {
        (_, TOKEN_PATH) => Momo::token(token, 3_600),
        ("POST", _) => create(&answers, asked),
        _ => answers.look_up(asked),
    })
    .await
}

#[tokio::test]
async fn by_our_id_in_a_header_and_a_token() {
    let (world, momo) = (World::new().await, Momo::default());
    let id = Uuid::now_v7();
    let peer = momo_peer(&momo, "tok_hush_1", |momo, asked| momo.create(asked, "PENDING")).await;
    let app = app(&world, &peer, "mtn-momo").spawn().await;
    post(&app.client(), id).await;
    wait_until("it is created", BOUND, async || !peer.asked("POST", Momo::CREATE).is_empty()).await;
    momo.set(id, "SUCCESSFUL");
    assert_eq!(wait_final(&app.client(), id).await["status"], "completed");

    let created = peer.asked("POST", Momo::CREATE);
    assert_eq!(created.len(), 1);
    let created = &created[0];
    assert_eq!(created.header("authorization"), Some("Bearer tok_hush_1"));
    assert_eq!(created.header("ocp-apim-subscription-key"), Some("sub_hush_42"));
    assert_eq!(created.header("x-target-environment"), Some("sandbox"));
    assert_eq!(created.header("x-reference-id"), Some(id.to_string().as_str()));
    assert_eq!(created.json()["amount"], "12.50");
    assert_eq!(created.json()["payee"]["partyId"], "46733123454");
    let token = &peer.asked("POST", TOKEN_PATH)[0];
    assert_eq!(token.header("authorization"), Some("Basic YXBpX3VzZXJfMTphcGlfaHVzaF83Nw=="));
    let kept = all_that_is_kept(&app.pool, id).await;
    assert!(kept.contains("mtn-momo: create.answers[1] (code 202)"), "{kept}");
    assert!(kept.contains("mtn-momo: lookup.answers[1]") && !kept.contains("hush"), "{kept}");
    assert_eq!(create_attempts(&app.pool, id).await, 1);
}

#[tokio::test]
async fn a_lost_answer_is_looked_up_by_our_id() {
    let (world, momo) = (World::new().await, Momo::default());
    let peer = momo_peer(&momo, "tok_1", |momo, asked| {
        momo.create(asked, "SUCCESSFUL");
        Reply::Answer(504, json!({}))
    })
    .await;
    let app = app(&world, &peer, "mtn-momo").spawn().await;
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    assert_eq!(wait_final(&app.client(), id).await["status"], "completed");
    assert_eq!(peer.asked("POST", Momo::CREATE).len(), 1);
    let kinds = app.client().event_kinds(id).await;
    assert!(kinds.contains(&"create_ambiguous".to_owned()), "{kinds:?}");
}

/// The refusal may be about the create that got no answer, in words that no rule knows.
#[tokio::test]
async fn a_refusal_after_a_lost_answer_is_looked_up() {
    let (world, momo) = (World::new().await, Momo::default());
    let (_, nth) = counter();
    let peer = momo_peer(&momo, "tok_1", move |momo, asked| {
        // It is stored only after the lookup that follows.
        if nth() == 0 {
            return Reply::Answer(504, json!({}));
        }
        momo.create(asked, "SUCCESSFUL");
        Reply::Answer(400, json!({ "code": "SEEN_BEFORE" }))
    })
    .await;
    let app = app(&world, &peer, "mtn-momo").spawn().await;
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    assert_eq!(wait_final(&app.client(), id).await["status"], "completed");
    assert_eq!(peer.asked("POST", Momo::CREATE).len(), 2);
}

#[tokio::test]
async fn a_word_that_is_not_known_is_kept_and_waited_out() {
    let (world, momo) = (World::new().await, Momo::default());
    let peer = momo_peer(&momo, "tok_1", |momo, asked| momo.create(asked, "ON_HOLD")).await;
    // So long between two polls that the row says what it waits for.
    let app = app(&world, &peer, "mtn-momo")
        .set("QUARTET_POLL__MAX_DELAY", "1500ms")
        .set("QUARTET_POLL__DEADLINE", "5m")
        .spawn()
        .await;
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    let path = format!("/v1/operator/transactions/{id}/explain");
    wait_until("it is explained", BOUND, async || {
        let explained = app.operator().get(&path).await;
        let text = &explained.text;
        text.contains("unknown status `ON_HOLD`") && text.contains("mtn-momo: lookup.answers[1]")
    })
    .await;
    momo.set(id, "FAILED");
    assert_eq!(wait_final(&app.client(), id).await["status"], "declined");
    assert!(all_that_is_kept(&app.pool, id).await.contains("ON_HOLD"));
}

#[tokio::test]
async fn without_a_lookup_by_our_id_a_lost_answer_is_repeated_byte_for_byte() {
    let (world, stripe) = (World::new().await, Stripe::default());
    let (answers, (_, next)) = (stripe.clone(), counter());
    let peer = Peer::start(move |asked| match asked.method.as_str() {
        "POST" => {
            let answer = answers.create(asked);
            if next() < 2 { Reply::Answer(504, json!({})) } else { answer }
        }
        _ => answers.look_up(asked),
    })
    .await;
    let app = app(&world, &peer, "stripe-payouts").spawn().await;
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    assert_eq!(wait_final(&app.client(), id).await["status"], "completed");
    let creates = peer.asked("POST", PAYOUTS);
    assert_eq!(creates.len(), 3);
    for create in &creates {
        assert_eq!(create.header("idempotency-key"), Some(id.to_string().as_str()));
        assert_eq!(create.header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
        assert_eq!(create.header("content-type"), Some("application/x-www-form-urlencoded"));
        assert_eq!(create.body, creates[0].body);
    }
    assert_eq!(stripe.count(), 1);
    assert_eq!(provider_id(&app.pool, id).await, Some(format!("po_{id}")));
    // It is looked up by their id alone.
    let lookups = peer.asked("GET", "/");
    let path = format!("{PAYOUTS}/po_{id}");
    assert!(!lookups.is_empty() && lookups.iter().all(|lookup| lookup.path == path));
    // The request was kept sealed, and only until the id was known.
    let kept: Option<String> =
        sqlx::query_scalar("SELECT request FROM sent_creates WHERE transaction_id = $1")
            .bind(id)
            .fetch_one(&app.pool)
            .await
            .unwrap();
    assert_eq!(kept, None);
}

#[tokio::test]
async fn a_create_that_is_too_old_to_be_repeated_is_an_operators_and_never_a_second_one() {
    let (world, stripe) = (World::new().await, Stripe::default());
    let answers = stripe.clone();
    let peer = Peer::start(move |asked| match asked.method.as_str() {
        "POST" => {
            answers.create(asked);
            Reply::Answer(504, json!({}))
        }
        _ => answers.look_up(asked),
    })
    .await;
    let (_directory, profile) = stripe_with("200ms").await;
    let app = app(&world, &peer, &profile).spawn().await;
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    let letter = wait_dead_letter(&app.operator(), id).await;
    assert_eq!(
        (&letter["kind"], &letter["queue"]),
        (&json!("exhausted"), &json!("create_at_third_party"))
    );
    assert!(letter["reason"].as_str().unwrap().contains("too old to be repeated"), "{letter}");
    assert_eq!(app.client().get_transaction(id).await.expect(200)["status"], "pending");

    // A replay comes to the same: what was sent is not forgotten.
    let letter_id = letter["id"].as_str().unwrap();
    app.operator().act_on_dead_letter(letter_id, "replay", &json!({})).await.expect(200);
    let again = wait_dead_letter(&app.operator(), id).await;
    assert_ne!(again["id"], letter["id"]);
    assert_eq!(peer.asked("POST", PAYOUTS).len(), 1);
    let resolve = json!({ "status": "completed", "note": "seen in the dashboard" });
    let letter_id = again["id"].as_str().unwrap();
    app.operator().act_on_dead_letter(letter_id, "resolve", &resolve).await.expect(200);
    assert_eq!(wait_final(&app.client(), id).await["status"], "completed");
}

#[tokio::test]
async fn a_create_that_was_certainly_not_taken_does_not_count_as_sent() {
    let (world, stripe) = (World::new().await, Stripe::default());
    let (answers, (_, next)) = (stripe.clone(), counter());
    let peer = Peer::start(move |asked| match (asked.method.as_str(), next()) {
        ("POST", 0) => Reply::Answer(429, json!({})),
        ("POST", _) => answers.create(asked),
        _ => answers.look_up(asked),
    })
    .await;
    // Shorter than the backoff.
    let (_directory, profile) = stripe_with("200ms").await;
    let app = app(&world, &peer, &profile).spawn().await;
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    assert_eq!(wait_final(&app.client(), id).await["status"], "completed");
    assert_eq!((peer.asked("POST", PAYOUTS).len(), stripe.count()), (2, 1));
}

#[tokio::test]
async fn a_refused_repeat_is_an_operators_and_a_refusal_of_the_first_is_final() {
    let (world, stripe) = (World::new().await, Stripe::default());
    let (answers, (_, next)) = (stripe.clone(), counter());
    let peer = Peer::start(move |asked| match (asked.method.as_str(), next()) {
        ("POST", 0) => {
            answers.create(asked);
            Reply::Answer(504, json!({}))
        }
        ("POST", _) => Reply::Answer(402, json!({ "error": { "code": "balance_insufficient" } })),
        _ => answers.look_up(asked),
    })
    .await;
    let app = app(&world, &peer, "stripe-payouts").spawn().await;
    let (lost, refused) = (Uuid::now_v7(), Uuid::now_v7());
    post(&app.client(), lost).await;
    let letter = wait_dead_letter(&app.operator(), lost).await;
    let reason = letter["reason"].as_str().unwrap();
    assert!(reason.contains("its repeat was refused"), "{letter}");
    assert!(reason.contains("balance_insufficient") && reason.contains("create.answers[4]"));
    assert_eq!(app.client().get_transaction(lost).await.expect(200)["status"], "pending");

    post(&app.client(), refused).await;
    assert_eq!(wait_final(&app.client(), refused).await["status"], "failed");
    assert_eq!(wait_dead_letter(&app.operator(), refused).await["kind"], "rejected");
}

#[tokio::test]
async fn a_transaction_without_what_the_third_party_needs_is_never_sent() {
    let (world, momo) = (World::new().await, Momo::default());
    let peer = Peer::start(move |asked| match asked.path.as_str() {
        TOKEN_PATH => Momo::token("tok_1", 3_600),
        _ => momo.look_up(asked),
    })
    .await;
    let app = app(&world, &peer, "mtn-momo").spawn().await;
    let id = Uuid::now_v7();
    let mut body = payout(id);
    body["metadata"] = json!({});
    app.client().post_transaction(&body).await.expect(202);
    assert_eq!(wait_final(&app.client(), id).await["status"], "failed");
    let letter = wait_dead_letter(&app.operator(), id).await;
    assert!(letter["reason"].as_str().unwrap().contains("metadata.msisdn"), "{letter}");
    assert!(peer.asked("POST", Momo::CREATE).is_empty());
}

#[tokio::test]
async fn a_crash_between_a_create_and_its_answer_repeats_it_byte_for_byte() {
    let (world, stripe) = (World::new().await, Stripe::default());
    let (answers, (_, next)) = (stripe.clone(), counter());
    let peer = Peer::start(move |asked| match asked.method.as_str() {
        "POST" => {
            let answer = answers.create(asked);
            if next() == 0 { Reply::Silence } else { answer }
        }
        _ => answers.look_up(asked),
    })
    .await;
    let process = process(&world, &peer, "stripe-payouts")
        .set("QUARTET_THIRD_PARTY__TIMEOUT", "60s")
        .set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "1s");
    let mut process = process.spawn().await;
    let id = Uuid::now_v7();
    post(&process.client(), id).await;
    wait_until("it was sent", BOUND, async || peer.asked("POST", PAYOUTS).len() == 1).await;
    process.kill_9();
    assert_without_secrets(&process);
    let process = process.restart().await;
    assert_eq!(wait_final(&process.client(), id).await["status"], "completed");
    let creates = peer.asked("POST", PAYOUTS);
    assert_eq!((creates.len(), stripe.count()), (2, 1));
    assert_eq!(creates[0].text(), creates[1].text());
    let keys = [0, 1].map(|nth: usize| creates[nth].header("idempotency-key").unwrap());
    assert_eq!(keys[0], keys[1]);
    assert_without_secrets(&process);
}

#[tokio::test]
async fn what_is_not_needed_any_more_of_a_create_is_removed() {
    let (world, stripe) = (World::new().await, Stripe::default());
    let answers = stripe.clone();
    let peer = Peer::start(move |asked| match asked.method.as_str() {
        "POST" => answers.create(asked),
        _ => answers.look_up(asked),
    })
    .await;
    let app = app(&world, &peer, "stripe-payouts")
        .set("QUARTET_RETENTION__INTERVAL", "50ms")
        .spawn()
        .await;
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    assert_eq!(wait_final(&app.client(), id).await["status"], "completed");
    app.make_task_due("retention").await;
    wait_until("nothing is noted any more", BOUND, async || {
        let count = "SELECT count(*) FROM sent_creates";
        sqlx::query_scalar::<_, i64>(count).fetch_one(&app.pool).await.unwrap() == 0
    })
    .await;
}
