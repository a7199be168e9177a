//! Tokens and other credentials.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    BOUND, Momo, Paystack, Stripe, WEBHOOK_SECRET, all_that_is_kept, app, assert_without_secrets,
    create_attempts,
    peer::{Asked, Peer, Reply, TOKEN_PATH},
    post, process, settings, wait_final,
};
use crate::support::{World, command::run, wait_until, world::set};

/// Tokens that are good for a time.
#[derive(Clone, Default)]
struct Bank(Arc<Mutex<Issued>>);

#[derive(Default)]
struct Issued {
    count: usize,
    good: Option<(String, Instant)>,
    refused_creates: usize,
    /// The code that a token which is not good is answered with; `None`: 401.
    refusal: Option<u16>,
}

impl Bank {
    fn issue(&self, life: Duration) -> Reply {
        let mut issued = self.0.lock().unwrap();
        issued.count += 1;
        let text = format!("tok_hush_{}", issued.count);
        issued.good = Some((text.clone(), Instant::now() + life));
        Momo::token(&text, u32::try_from(life.as_secs()).unwrap())
    }

    fn revoke(&self) {
        self.0.lock().unwrap().good = None;
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().count
    }

    /// `None`: the call has a token that is good.
    fn refuse(&self, asked: &Asked) -> Option<Reply> {
        let mut issued = self.0.lock().unwrap();
        let given = asked.header("authorization").unwrap_or_default().to_owned();
        let is_good = issued.good.as_ref().is_some_and(|(text, until)| {
            given == format!("Bearer {text}") && Instant::now() < *until
        });
        if is_good {
            return None;
        }
        issued.refused_creates += usize::from(asked.method == "POST");
        let code = issued.refusal.unwrap_or(401);
        Some(Reply::Answer(code, json!({ "error": format!("{given} is not good") })))
    }
}

async fn momo(bank: &Bank, life: Duration) -> Peer {
    let (bank, momo) = (bank.clone(), Momo::default());
    Peer::start(move |asked| {
        if asked.path == TOKEN_PATH {
            return bank.issue(life);
        }
        if let Some(refused) = bank.refuse(asked) {
            return refused;
        }
        match asked.method.as_str() {
            "POST" => momo.create(asked, "SUCCESSFUL"),
            _ => momo.look_up(asked),
        }
    })
    .await
}

#[tokio::test]
async fn a_token_that_was_taken_back_is_renewed_without_an_attempt() {
    for code in [401, 403] {
        let (world, bank) = (World::new().await, Bank::default());
        bank.0.lock().unwrap().refusal = Some(code);
        let peer = momo(&bank, Duration::from_secs(3_600)).await;
        let app = app(&world, &peer, "mtn-momo").spawn().await;
        for nth in 1..=3 {
            let id = Uuid::now_v7();
            post(&app.client(), id).await;
            assert_eq!(wait_final(&app.client(), id).await["status"], "completed");
            assert_eq!(create_attempts(&app.pool, id).await, 1);
            assert_eq!(bank.count(), nth);
            assert!(!all_that_is_kept(&app.pool, id).await.contains("hush"));
            bank.revoke();
        }
        let open = "SELECT count(*) FROM circuits WHERE trips > 0";
        assert_eq!(sqlx::query_scalar::<_, i64>(open).fetch_one(&app.pool).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_hundred_transactions_with_tokens_that_live_two_seconds() {
    let (world, bank) = (World::new().await, Bank::default());
    let peer = momo(&bank, Duration::from_secs(2)).await;
    let app = app(&world, &peer, "mtn-momo").spawn().await;
    let mut ids = Vec::new();
    // Spread over several lives of a token.
    while ids.len() < 100 || bank.count() < 3 {
        for _ in 0..10 {
            let id = Uuid::now_v7();
            post(&app.client(), id).await;
            ids.push(id);
        }
        let last = *ids.last().unwrap();
        assert_eq!(wait_final(&app.client(), last).await["status"], "completed");
    }
    for id in &ids {
        assert_eq!(wait_final(&app.client(), *id).await["status"], "completed");
        assert_eq!(create_attempts(&app.pool, *id).await, 1);
    }
    assert_eq!(peer.most_token_calls(), 1);
    // One whose token ended on its way was sent again.
    let refused = bank.0.lock().unwrap().refused_creates;
    assert_eq!(peer.asked("POST", Momo::CREATE).len(), ids.len() + refused);
}

#[tokio::test]
async fn refused_credentials_hold_the_queue_and_are_in_no_log() {
    let world = World::new().await;
    let bank = Bank::default();
    let good = Arc::new(Mutex::new(false));
    let (tokens, is_good, transfers) = (bank.clone(), good.clone(), Momo::default());
    let peer = Peer::start(move |asked| match asked.path.as_str() {
        TOKEN_PATH if !*is_good.lock().unwrap() => {
            // As some do, it repeats what it was given.
            let given: Value = asked.header("authorization").into();
            Reply::Answer(401, json!({ "error": "invalid_client", "given": given }))
        }
        TOKEN_PATH => tokens.issue(Duration::from_secs(3_600)),
        _ => match (tokens.refuse(asked), asked.method.as_str()) {
            (Some(refused), _) => refused,
            (None, "POST") => transfers.create(asked, "SUCCESSFUL"),
            (None, _) => transfers.look_up(asked),
        },
    })
    .await;
    let process = process(&world, &peer, "mtn-momo")
        .set("QUARTET_CIRCUIT__OPEN_FOR", "500ms")
        .set("QUARTET_CIRCUIT__MAX_OPEN_FOR", "1s")
        .spawn()
        .await;
    let id = Uuid::now_v7();
    post(&process.client(), id).await;
    let path = format!("/v1/operator/transactions/{id}/explain");
    wait_until("the credentials are named", BOUND, async || {
        process.operator().get(&path).await.text.contains("credentials_refused")
    })
    .await;
    assert_eq!(create_attempts(&world.pool, id).await, 0);
    *good.lock().unwrap() = true;
    assert_eq!(wait_final(&process.client(), id).await["status"], "completed");
    assert_eq!(create_attempts(&world.pool, id).await, 1);
    assert_without_secrets(&process);
    let kept = all_that_is_kept(&world.pool, id).await;
    assert!(!kept.contains("hush") && !kept.contains("YXBpX3VzZXJf"), "{kept}");
}

/// A refused token is no transaction's fault, although other creates were taken a moment ago and
/// this third party cannot be looked up by our id.
#[tokio::test]
async fn a_refused_token_holds_creates_although_others_were_taken() {
    let printed = run(&["third-party", "show", "stripe-payouts"], &[], "").await;
    let auth = format!("kind = \"oauth2\"\ntoken_url = \"{TOKEN_PATH}\"");
    let text = printed.expect().replace("kind = \"bearer\"", &auth);
    assert!(text.contains(&auth));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("payouts.toml");
    std::fs::write(&file, text).unwrap();

    let (world, bank, payouts) = (World::new().await, Bank::default(), Stripe::default());
    let good = Arc::new(Mutex::new(true));
    let (tokens, is_good) = (bank.clone(), good.clone());
    let peer = Peer::start(move |asked| match asked.path.as_str() {
        // As some do, it refuses with 200.
        TOKEN_PATH if !*is_good.lock().unwrap() => {
            Reply::Answer(200, json!({ "error": "invalid_client" }))
        }
        TOKEN_PATH => tokens.issue(Duration::from_secs(3_600)),
        _ => match (tokens.refuse(asked), asked.method.as_str()) {
            (Some(refused), _) => refused,
            (None, "POST") => payouts.create(asked),
            (None, _) => payouts.look_up(asked),
        },
    })
    .await;
    let app = world
        .app()
        .set("QUARTET_THIRD_PARTY__PROFILE", file.display())
        .set("QUARTET_THIRD_PARTY__BASE_URL", peer.url())
        .set("QUARTET_THIRD_PARTY__SECRETS__CLIENT_ID", "api_user_1")
        .set("QUARTET_THIRD_PARTY__SECRETS__CLIENT_SECRET", "api_hush_77")
        .set("QUARTET_THIRD_PARTY__SECRETS__WEBHOOK", WEBHOOK_SECRET)
        // Longer than the test: a create that waits for it does not end.
        .set("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "120s")
        .set("QUARTET_CIRCUIT__OPEN_FOR", "500ms")
        .set("QUARTET_CIRCUIT__MAX_OPEN_FOR", "1s")
        .spawn()
        .await;
    let taken = Uuid::now_v7();
    post(&app.client(), taken).await;
    assert_eq!(wait_final(&app.client(), taken).await["status"], "completed");

    *good.lock().unwrap() = false;
    bank.revoke();
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    let path = format!("/v1/operator/transactions/{id}/explain");
    wait_until("the credentials are named", BOUND, async || {
        app.operator().get(&path).await.text.contains("credentials_refused")
    })
    .await;
    assert_eq!(create_attempts(&app.pool, id).await, 0);
    *good.lock().unwrap() = true;
    assert_eq!(wait_final(&app.client(), id).await["status"], "completed");
    assert_eq!(create_attempts(&app.pool, id).await, 1);
}

#[tokio::test]
async fn a_secret_in_a_file_is_read_again_when_it_changes() {
    let world = World::new().await;
    let transfers = Paystack::default();
    let peer = Peer::start(move |asked| transfers.answer(asked)).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "sk_hush_old\n").unwrap();
    let app = world
        .app()
        .set("QUARTET_THIRD_PARTY__PROFILE", "paystack")
        .set("QUARTET_THIRD_PARTY__BASE_URL", peer.url())
        .set("QUARTET_THIRD_PARTY__SECRETS_DIRECTORY", directory.path().display())
        .set("QUARTET_THIRD_PARTY__SECRETS__WEBHOOK", WEBHOOK_SECRET)
        .spawn()
        .await;
    let id = Uuid::now_v7();
    post(&app.client(), id).await;
    assert_eq!(wait_final(&app.client(), id).await["status"], "completed");
    let with = |token: &str| {
        let header = format!("Bearer {token}");
        peer.asked("POST", Paystack::CREATE)
            .iter()
            .any(|a| a.header("authorization") == Some(&header))
    };
    assert!(with("sk_hush_old"));
    std::fs::write(&file, "sk_hush_the_new_one\n").unwrap();
    wait_until("the new secret is used", BOUND, async || {
        let id = Uuid::now_v7();
        post(&app.client(), id).await;
        wait_final(&app.client(), id).await;
        with("sk_hush_the_new_one")
    })
    .await;
}

#[tokio::test]
async fn the_doctor_looks_up_an_unknown_id_as_the_profile_says() {
    let (world, bank) = (World::new().await, Bank::default());
    let peer = momo(&bank, Duration::from_secs(3_600)).await;
    let mut all = world.settings();
    for (name, value) in settings(&peer, "mtn-momo") {
        set(&mut all, name, value);
    }
    let found = async |settings: &[(String, String)]| {
        let ended = run(&["doctor", "--json"], settings, "").await;
        assert!(!ended.stdout.contains("hush"), "{ended:?}");
        let report: Value = serde_json::from_str(&ended.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap().clone();
        findings.into_iter().find(|finding| finding["check"] == "third_party").unwrap()
    };
    let good = found(&all).await;
    assert_eq!(good["level"], "ok", "{good}");
    assert!(good["found"].as_str().unwrap().contains("as its profile says"), "{good}");
    // A wrong path is answered without the words that prove an absence.
    set(&mut all, "QUARTET_THIRD_PARTY__BASE_URL", format!("{}/wrong", peer.url()));
    let wrong = found(&all).await;
    assert_eq!(wrong["level"], "error", "{wrong}");
    assert!(peer.asked("POST", Momo::CREATE).is_empty());
}
