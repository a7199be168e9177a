//! What the third party sends, seen from a receiver.

use super::*;

/// One webhook as it arrived.
struct Received {
    headers: [Option<String>; 3],
    body: Vec<u8>,
}

impl Received {
    fn is_valid(&self, secret: &Secret) -> bool {
        let [id, timestamp, signature] = self.headers.each_ref().map(Option::as_deref);
        let headers = SignedHeaders { id, timestamp, signature };
        let (secrets, now) = (std::slice::from_ref(secret), Utc::now().timestamp());
        verify(secrets, headers, &self.body, now, Duration::from_secs(300)).is_ok()
    }

    fn status(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        body["status"].as_str().unwrap().to_owned()
    }
}

/// A receiver of webhooks that answers 200, after `failures` times 500.
async fn receiver(failures: usize) -> (String, mpsc::UnboundedReceiver<Received>) {
    let (sender, received) = mpsc::unbounded_channel();
    let left = Arc::new(std::sync::atomic::AtomicUsize::new(failures));
    let hook = poem::endpoint::make(move |mut request: Request| {
        let (sender, left) = (sender.clone(), left.clone());
        async move {
            let headers = [ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER]
                .map(|name| request.header(name).map(str::to_owned));
            let body = request.take_body().into_vec().await.unwrap();
            sender.send(Received { headers, body }).ok();
            let order = std::sync::atomic::Ordering::SeqCst;
            let fails = left.fetch_update(order, order, |left| left.checked_sub(1)).is_ok();
            let code = if fails { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
            Json(json!({ "outcome": "settled" })).with_status(code).into_response()
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TcpAcceptor::from_tokio(listener).unwrap();
    tokio::spawn(Server::new_with_acceptor(acceptor).run(served(hook)));
    (format!("http://{address}/hook"), received)
}

fn served(hook: impl Endpoint + 'static) -> impl IntoEndpoint<Endpoint = impl Endpoint + 'static> {
    Route::new().at("/hook", hook.map_to_response())
}

async fn next(received: &mut mpsc::UnboundedReceiver<Received>) -> Received {
    tokio::time::timeout(BOUND, received.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn profile_webhooks_are_signed_duplicated_and_out_of_order_as_configured() {
    let (url, mut received) = receiver(0).await;
    let profile = Profile {
        webhook_duplicate_rate: 1.0,
        webhook_out_of_order_rate: 1.0,
        ..Profile::faultless()
    };
    let sandbox = start(profile, 1000.0).await;
    let caller = Caller::new(&sandbox);
    answer(caller.post(Uuid::now_v7(), &url)).await.unwrap();
    let first = next(&mut received).await;
    let second = next(&mut received).await;
    let third = next(&mut received).await;
    let statuses = [&first, &second, &third].map(Received::status);
    assert_eq!(statuses, ["completed", "completed", "pending"]);
    assert_eq!(first.headers[0], second.headers[0]);
    assert_ne!(first.headers[0], third.headers[0]);
    let secret = &sandbox.config().webhook_secret;
    assert!([&first, &second, &third].iter().all(|webhook| webhook.is_valid(secret)));
    until(|| sandbox.stats().third_party.webhooks_sent == 3).await;
}

#[tokio::test]
async fn webhooks_are_repeated_only_when_configured() {
    let (url, mut received) = receiver(1).await;
    let config = SandboxConfig {
        profile: Profile { webhook_bad_signature_rate: 1.0, ..Profile::faultless() },
        webhook_retries: 2,
        speed: 100.0,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.unwrap();
    answer(Caller::new(&sandbox).post(Uuid::now_v7(), &url)).await.unwrap();
    let (first, second) = (next(&mut received).await, next(&mut received).await);
    assert_eq!(first.headers[0], second.headers[0]);
    assert!(!first.is_valid(&sandbox.config().webhook_secret));
    until(|| sandbox.stats().third_party.webhooks_sent == 2).await;
    assert_eq!(sandbox.stats().third_party.webhooks_failed, 1);
}

#[tokio::test]
async fn tests_can_send_any_webhook() {
    let (url, mut received) = receiver(0).await;
    let sandbox = faultless().await;
    let third_party = sandbox.third_party();
    let id = Uuid::now_v7();
    let secret = &sandbox.config().webhook_secret;
    let good = || SendWebhook::new(id, Status::Completed).url(&url);
    let unknown = third_party.send_webhook(SendWebhook::new(id, "completed")).await;
    assert!(matches!(unknown, Err(SandboxError::WebhookUrl)));

    let answered = third_party.send_webhook(good().webhook_id("evt_1")).await.unwrap();
    assert_eq!(answered, (200, json!({ "outcome": "settled" })));
    let webhook = next(&mut received).await;
    assert!(webhook.is_valid(secret) && webhook.headers[0].as_deref() == Some("evt_1"));

    let bad = [
        good().bad_signature(),
        good().tampered(),
        good().timestamp_offset_seconds(-301),
        good().without_header(SIGNATURE_HEADER),
    ];
    for webhook in bad {
        third_party.send_webhook(webhook).await.unwrap();
        assert!(!next(&mut received).await.is_valid(secret));
    }
    let extra = json!({ "id": id, "status": "completed", "fee": 3 });
    third_party.send_webhook(good().json(&extra)).await.unwrap();
    let webhook = next(&mut received).await;
    assert!(webhook.is_valid(secret) && webhook.body == extra.to_string().into_bytes());
}

#[tokio::test]
async fn a_skewed_clock_signs_with_its_own_time() {
    let (url, mut received) = receiver(0).await;
    let sandbox = faultless().await;
    let (third_party, id) = (sandbox.third_party(), Uuid::now_v7());
    let secret = &sandbox.config().webhook_secret;
    for (seconds, is_valid) in [(200, true), (-400, false), (400, false), (0, true)] {
        third_party.set_clock_skew_seconds(seconds);
        third_party.send_webhook(SendWebhook::new(id, "completed").url(&url)).await.unwrap();
        assert_eq!(next(&mut received).await.is_valid(secret), is_valid, "{seconds} s");
    }
}

#[tokio::test]
async fn what_is_still_to_come_is_counted() {
    let (url, mut received) = receiver(0).await;
    let latency = Duration::from_millis(200);
    let profile = Profile {
        webhook_latency_min: latency,
        webhook_latency_max: latency,
        ..Profile::faultless()
    };
    let sandbox = start(profile, 1.0).await;
    answer(Caller::new(&sandbox).post(Uuid::now_v7(), &url)).await.unwrap();
    assert_eq!(sandbox.third_party().under_way(), 1);
    next(&mut received).await;
    until(|| sandbox.third_party().under_way() == 0).await;
}
