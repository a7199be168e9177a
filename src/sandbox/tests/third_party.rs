//! Creates and lookups, scripted and random.

use super::*;

#[tokio::test]
async fn scripted_steps_are_consumed_in_order_and_fall_back() {
    let sandbox = faultless().await;
    let (caller, third_party) = (Caller::new(&sandbox), sandbox.third_party());
    let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
    third_party.script_creates(vec![
        CreateStep::service_unavailable(7),
        CreateStep::rejected(422),
        CreateStep::created_final(Status::Declined),
    ]);
    third_party.script_creates_for(one, vec![CreateStep::gateway_timeout_lost()]);

    assert_eq!(caller.create(one).await.0, 504);
    let unavailable = caller.post(one, HOOK).send().await.unwrap();
    assert_eq!(unavailable.headers()["retry-after"], "7");
    assert_eq!(unavailable.status(), 503);
    assert_eq!(caller.create(other).await.0, 422);
    assert_eq!(third_party.status_of(one), None);
    let (code, body) = caller.create(one).await;
    assert_eq!((code, body["status"].as_str()), (201, Some("declined")));
    assert_eq!(body["amount"], 5);

    third_party.set_create_default(CreateStep::too_many_requests(1));
    assert_eq!(caller.create(other).await.0, 429);
    third_party.set_create_default(None);
    assert_eq!(caller.create(other).await.0, 201, "the profile decides again");
    assert_eq!((third_party.creates_of(one), third_party.creates_of(other)), (3, 3));

    third_party.script_lookups_for(one, vec![LookupStep::not_found()]);
    third_party.script_lookups(vec![LookupStep::status_code(503), LookupStep::normal()]);
    let codes = [caller.lookup(one).await.0, caller.lookup(one).await.0];
    assert_eq!(codes, [404, 503]);
    assert_eq!(caller.lookup(one).await.1["status"], "declined");
    let kinds: Vec<_> = third_party.calls_of(one).iter().map(|call| call.kind).collect();
    let (create, lookup) = (CallKind::Create, CallKind::Lookup);
    assert_eq!(kinds, [create, create, create, lookup, lookup, lookup]);
    let calls = third_party.calls_of(one);
    assert!(calls.windows(2).all(|pair| pair[0].answered.unwrap().0 <= pair[1].at));
    assert_eq!(calls[0].answered.unwrap().1, 504);
}

#[tokio::test]
async fn a_repeated_create_is_a_double_create_and_a_violation() {
    let sandbox = faultless().await;
    let (caller, third_party) = (Caller::new(&sandbox), sandbox.third_party());
    let id = Uuid::now_v7();
    assert_eq!(caller.create(id).await.0, 201);
    assert!(third_party.violations().is_empty() && third_party.double_creates().is_empty());
    assert_eq!(caller.create(id).await.0, 201);
    assert_eq!(third_party.double_creates(), [id]);
    assert_eq!(third_party.violations(), [id]);

    // A caller that was answered 'not here' may create; a later double is still counted as one.
    third_party.script_lookups(vec![LookupStep::not_found()]);
    assert_eq!(caller.lookup(id).await.0, 404);
    caller.create(id).await;
    assert_eq!((third_party.violations().len(), third_party.double_creates().len()), (1, 2));
    caller.create(id).await;
    assert_eq!((third_party.violations().len(), third_party.double_creates().len()), (2, 3));
    assert_eq!(sandbox.stats().third_party.double_creates, 3);
}

#[tokio::test]
async fn a_late_commit_over_a_stored_id_is_a_double_create() {
    let sandbox = faultless().await;
    let (caller, third_party) = (Caller::new(&sandbox), sandbox.third_party());
    let id = Uuid::now_v7();
    let late = Duration::from_millis(50);
    let timeout = CreateStep::gateway_timeout_stored_after(late, Status::Completed);
    third_party.script_creates(vec![timeout, CreateStep::created()]);
    assert_eq!(caller.create(id).await.0, 504);
    assert_eq!(caller.create(id).await.0, 201);
    until(|| third_party.double_creates() == [id]).await;
    assert_eq!(third_party.status_of(id), Some(Status::Completed));
    assert!(third_party.violations().is_empty(), "nothing was stored when the second one arrived");
}

#[tokio::test]
async fn an_idempotent_third_party_refuses_the_second_create() {
    let profile = Profile::faultless();
    let config = SandboxConfig { profile, idempotent: true, ..SandboxConfig::default() };
    let sandbox = Sandbox::start(config).await.unwrap();
    let caller = Caller::new(&sandbox);
    let id = Uuid::now_v7();
    assert_eq!(caller.create(id).await.0, 201);
    assert_eq!(caller.create(id).await.0, 409);
    let stats = sandbox.stats().third_party;
    assert_eq!((stats.double_creates, stats.conflicts, stats.creates_stored), (0, 1, 1));
}

#[tokio::test]
async fn a_timed_out_create_appears_later_and_settles_without_a_webhook() {
    let seconds = Duration::from_secs;
    let profile = Profile {
        timeout_rate: 1.0,
        timeout_latency: seconds(1),
        timeout_stored_rate: 1.0,
        timeout_stored_min: seconds(100),
        timeout_stored_max: seconds(120),
        webhook_rate: 0.0,
        ..Profile::faultless()
    };
    let sandbox = start(profile, 200.0).await;
    let (caller, third_party) = (Caller::new(&sandbox), sandbox.third_party());
    let id = Uuid::now_v7();
    assert_eq!(caller.create(id).await.0, 504);
    assert_eq!(caller.lookup(id).await.0, 404);
    until(|| third_party.status_of(id) == Some(Status::Completed)).await;
    let waited = third_party.calls_of(id)[0].at.elapsed();
    assert!(waited >= Duration::from_millis(500), "{waited:?}");
    assert_eq!(caller.lookup(id).await.1["status"], "completed");
    let stats = sandbox.stats().third_party;
    assert_eq!((stats.gateway_timeouts, stats.gateway_timeouts_stored), (1, 1));
    assert_eq!((stats.settled, stats.webhooks_lost, stats.webhooks_sent), (1, 1, 0));
}

#[tokio::test]
async fn a_caller_that_hangs_up_does_not_undo_the_create() {
    let latency = Duration::from_millis(300);
    let profile = Profile {
        create_latency_min: latency,
        create_latency_max: latency,
        ..Profile::faultless()
    };
    let sandbox = start(profile, 1.0).await;
    let (caller, third_party) = (Caller::new(&sandbox), sandbox.third_party());
    let id = Uuid::now_v7();
    let error = caller.post(id, HOOK).timeout(Duration::from_millis(50)).send().await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(third_party.status_of(id), None);
    until(|| third_party.status_of(id).is_some()).await;
}

#[tokio::test]
async fn reset_closes_the_connection_without_an_answer() {
    let sandbox = faultless().await;
    let (caller, third_party) = (Caller::new(&sandbox), sandbox.third_party());
    let id = Uuid::now_v7();
    // The first call opens a connection that the second one re-uses.
    assert_eq!(caller.lookup(id).await.0, 404);
    third_party
        .script_creates(vec![CreateStep::reset(None), CreateStep::reset(Some(Status::Pending))]);
    for _ in 0..2 {
        let error = answer(caller.post(id, HOOK)).await.unwrap_err();
        assert!(error.is_request() && !error.is_timeout() && error.status().is_none(), "{error:?}");
    }
    assert_eq!(third_party.creates_of(id), 2, "one call, one reset");
    assert_eq!(third_party.status_of(id), Some(Status::Pending));

    third_party.script_lookups(vec![LookupStep::reset()]);
    assert!(answer(caller.get(&format!("/transaction/{id}"))).await.is_err());
    assert_eq!(caller.lookup(id).await.0, 200, "others are served on");

    // On the wire: a reset, and not one byte before it.
    third_party.script_lookups(vec![LookupStep::reset()]);
    let mut stream = TcpStream::connect(sandbox.address()).await.unwrap();
    let request = format!("GET /transaction/{id} HTTP/1.1\r\nhost: sandbox\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(BOUND, stream.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(bytes.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seeded_run_ends_the_same_whatever_the_order() {
    let ids: Vec<Uuid> = (1..=60).map(Uuid::from_u128).collect();
    let run = async |ids: Vec<Uuid>| {
        let profile = Profile { webhook_rate: 0.0, ..Profile::default() };
        let sandbox = start(profile, 1000.0).await;
        let caller = Arc::new(Caller::new(&sandbox));
        let calls: Vec<_> = ids
            .iter()
            .map(|id| (caller.clone(), *id))
            .map(|(caller, id)| tokio::spawn(async move { caller.create(id).await.0 }))
            .collect();
        let mut codes = Vec::new();
        for (id, call) in ids.iter().zip(calls) {
            codes.push((*id, call.await.unwrap()));
        }
        codes.sort();
        codes
    };
    let forward = run(ids.clone()).await;
    let backward = run(ids.into_iter().rev().collect()).await;
    assert_eq!(forward, backward);
    assert!(forward.iter().any(|(_, code)| *code == 504));
}
