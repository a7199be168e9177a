//! Third parties with interfaces of their own, as their documentation says.

use std::collections::HashMap;

use super::*;

/// How one is asked.
struct Case {
    name: &'static str,
    create: &'static str,
    lookup: &'static str,
    /// The header with the caller's key; none: it is in the body.
    key_header: &'static str,
    /// Of the create, with `KEY`, `ID` and `AMOUNT`.
    body: &'static str,
    /// The codes of a create, of the same again, and of another amount under the same key.
    codes: [u16; 3],
    /// Where a create's answer has the id that lookups need; empty: it is the caller's key.
    own_id: &'static str,
    /// A payment that was found, and its first and last words.
    status: &'static str,
    words: [&'static str; 2],
    /// The answer to a lookup of what is not there.
    absent: (u16, &'static str, Value),
    /// Whether another body under a key is answered as the first one was.
    ignores_other_body: bool,
}

fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "stripe-payouts",
            create: "/v1/payouts",
            lookup: "/v1/payouts/",
            key_header: "Idempotency-Key",
            body: "amount=AMOUNT&currency=eur&metadata[quartet_id]=ID",
            codes: [200, 200, 400],
            own_id: "/id",
            status: "/status",
            words: ["pending", "paid"],
            absent: (404, "/error/code", "resource_missing".into()),
            ignores_other_body: false,
        },
        Case {
            name: "mollie",
            create: "/v2/payments",
            lookup: "/v2/payments/",
            key_header: "Idempotency-Key",
            body: r#"{"amount":{"currency":"EUR","value":"AMOUNT.00"},"description":"x",
                "redirectUrl":"https://shop.example","metadata":{"quartet_id":"ID"}}"#,
            codes: [201, 201, 201],
            own_id: "/id",
            status: "/status",
            words: ["open", "paid"],
            absent: (404, "/title", "Not Found".into()),
            ignores_other_body: true,
        },
        Case {
            name: "gocardless-outbound",
            create: "/outbound_payments",
            lookup: "/outbound_payments/",
            key_header: "Idempotency-Key",
            body: r#"{"outbound_payments":{"amount":AMOUNT,"scheme":"faster_payments",
                "metadata":{"quartet_id":"ID"},"links":{"recipient_bank_account":"BA1"}}}"#,
            codes: [201, 409, 409],
            own_id: "/outbound_payments/id",
            status: "/outbound_payments/status",
            words: ["verifying", "executed"],
            absent: (404, "/error/type", "invalid_api_usage".into()),
            ignores_other_body: false,
        },
        Case {
            name: "mtn-momo",
            create: "/disbursement/v1_0/transfer",
            lookup: "/disbursement/v1_0/transfer/",
            key_header: "X-Reference-Id",
            body: r#"{"amount":"AMOUNT","currency":"EUR","externalId":"ID",
                "payee":{"partyIdType":"MSISDN","partyId":"46733123454"}}"#,
            codes: [202, 409, 409],
            own_id: "",
            status: "/status",
            words: ["PENDING", "SUCCESSFUL"],
            absent: (404, "/code", "RESOURCE_NOT_FOUND".into()),
            ignores_other_body: false,
        },
        Case {
            name: "pawapay",
            create: "/v2/payouts",
            lookup: "/v2/payouts/",
            key_header: "",
            body: r#"{"payoutId":"KEY","amount":"AMOUNT","currency":"ZMW","recipient":
                {"accountDetails":{"phoneNumber":"260763456789","provider":"MTN_MOMO_ZMB"}}}"#,
            codes: [200, 200, 200],
            own_id: "",
            status: "/data/status",
            words: ["PROCESSING", "COMPLETED"],
            absent: (200, "/status", "NOT_FOUND".into()),
            ignores_other_body: false,
        },
        Case {
            name: "paystack",
            create: "/transfer",
            lookup: "/transfer/verify/",
            key_header: "",
            body: r#"{"source":"balance","amount":AMOUNT,"currency":"NGN","recipient":"RCP_1",
                "reference":"KEY"}"#,
            codes: [200, 400, 400],
            own_id: "",
            status: "/data/status",
            words: ["pending", "success"],
            absent: (404, "/code", "transfer_not_found".into()),
            ignores_other_body: false,
        },
    ]
}

/// A caller of one of them.
struct Asker {
    sandbox: Sandbox,
    caller: Caller,
    case: Case,
    values: HashMap<&'static str, String>,
    token: String,
}

impl Asker {
    async fn new(case: Case, profile: Profile, speed: f64) -> Self {
        let interface = case.name.parse().unwrap();
        let config = SandboxConfig { interface, profile, speed, ..SandboxConfig::default() };
        let sandbox = Sandbox::start(config).await.unwrap();
        let (caller, values) = (Caller::new(&sandbox), sandbox.provider_values());
        let values: HashMap<_, _> = values.into_iter().collect();
        let mut asker = Self { sandbox, caller, case, values, token: String::new() };
        asker.token = match asker.values.get("SECRETS__TOKEN") {
            Some(token) => token.clone(),
            None => {
                let client = ["SECRETS__CLIENT_ID", "SECRETS__CLIENT_SECRET"];
                let [id, secret] = client.map(|name| asker.values[name].clone());
                let request = asker.request("POST", "/disbursement/token/");
                let (code, body) = answer(request.basic_auth(id, Some(secret))).await.unwrap();
                assert_eq!((code, body["token_type"].as_str()), (200, Some("access_token")));
                body["access_token"].as_str().unwrap().to_owned()
            }
        };
        asker
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.sandbox.base_url());
        let request = self.caller.http.request(method.parse().unwrap(), url);
        match self.case.name {
            "gocardless-outbound" => request.header("GoCardless-Version", "2015-07-06"),
            "mtn-momo" => request
                .header("Ocp-Apim-Subscription-Key", &self.values["SECRETS__SUBSCRIPTION_KEY"])
                .header("X-Target-Environment", "sandbox"),
            _ => request,
        }
    }

    async fn create(&self, key: Uuid, id: Uuid, amount: u32) -> (u16, Value) {
        let body = self.case.body.replace("KEY", &key.to_string());
        let body = body.replace("ID", &id.to_string()).replace("AMOUNT", &amount.to_string());
        // The replacement also meets a name.
        let body = body.replace(&format!("payout{id}"), "payoutId");
        let mut request =
            self.request("POST", self.case.create).bearer_auth(&self.token).body(body);
        if !self.case.key_header.is_empty() {
            request = request.header(self.case.key_header, key.to_string());
        }
        answer(request).await.unwrap()
    }

    async fn lookup(&self, id: &str) -> (u16, Value) {
        let request = self.request("GET", &format!("{}{id}", self.case.lookup));
        answer(request.bearer_auth(&self.token)).await.unwrap()
    }

    fn word(&self, found: &Value) -> String {
        let word = found.pointer(self.case.status);
        word.unwrap_or_else(|| panic!("{}: {found}", self.case.name)).as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn each_answers_as_it_documents() {
    for case in cases() {
        let name = case.name;
        let wait = Duration::from_millis(200);
        let profile = Profile {
            webhook_latency_min: wait,
            webhook_latency_max: wait,
            webhook_rate: 0.0,
            ..Profile::faultless()
        };
        let asker = Asker::new(case, profile, 1.0).await;
        let case = &asker.case;
        let (id, unknown) = (Uuid::new_v4(), Uuid::new_v4().to_string());
        let (code, pointer, value) = &case.absent;
        let absent = asker.lookup(&unknown).await;
        assert_eq!((absent.0, absent.1.pointer(pointer)), (*code, Some(value)), "{name}");

        let first = asker.create(id, id, 12).await;
        let again = asker.create(id, id, 12).await;
        let other = asker.create(id, id, 13).await;
        assert_eq!(
            [first.0, again.0, other.0],
            case.codes,
            "{name}: {first:?} {again:?} {other:?}"
        );
        if first.0 == again.0 && name != "pawapay" {
            assert_eq!(first.1, again.1, "{name}");
        }
        assert_eq!(first == other, case.ignores_other_body, "{name}");
        let looked_up = match case.own_id {
            "" => id.to_string(),
            pointer => first.1.pointer(pointer).unwrap().as_str().unwrap().to_owned(),
        };
        let found = asker.lookup(&looked_up).await;
        assert_eq!((found.0, asker.word(&found.1).as_str()), (200, case.words[0]), "{name}");
        until(|| asker.sandbox.stats().third_party.settled == 1).await;
        let found = asker.lookup(&looked_up).await;
        assert_eq!(asker.word(&found.1), case.words[1], "{name}");

        let stats = asker.sandbox.stats().third_party;
        assert_eq!((stats.creates_received, stats.creates_stored), (3, 1), "{name}");
        assert_eq!((stats.double_creates, stats.conflicts), (0, 2), "{name}");
    }
}

#[tokio::test]
async fn a_wrong_key_and_a_wrong_path_are_no_absence() {
    for case in cases() {
        let asker = Asker::new(case, Profile::faultless(), 1.0).await;
        let (case, id) = (&asker.case, Uuid::new_v4());
        let path = format!("{}{id}", case.lookup);
        let wrong_path = asker.request("GET", &format!("/nowhere{path}")).bearer_auth(&asker.token);
        let (code, body) = answer(wrong_path).await.unwrap();
        assert_eq!(code, 404, "{}", case.name);
        if case.own_id.is_empty() {
            let (_, pointer, value) = &case.absent;
            assert_ne!(body.pointer(pointer), Some(value), "{}", case.name);
        }
        for request in [asker.request("GET", &path), asker.request("POST", case.create)] {
            let wrong_key = request.bearer_auth("sk_wrong");
            assert_eq!(answer(wrong_key).await.unwrap().0, 401, "{}", case.name);
        }
        assert_eq!(asker.sandbox.stats().third_party.unauthorized, 2, "{}", case.name);
        // A body that says nothing is refused, and makes no payment.
        let key = id.to_string();
        let mut empty = asker.request("POST", case.create).bearer_auth(&asker.token).body("{}");
        if !case.key_header.is_empty() {
            empty = empty.header(case.key_header, key);
        }
        let (code, body) = answer(empty).await.unwrap();
        assert!((400..500).contains(&code), "{}: {code} {body}", case.name);
        let stats = asker.sandbox.stats().third_party;
        assert_eq!((stats.creates_malformed, stats.creates_stored), (1, 0), "{}", case.name);
    }
}

/// Two keys for one payment are two payments, where the third party goes by the key alone.
#[tokio::test]
async fn money_that_leaves_twice_is_counted() {
    for case in cases() {
        let has_key_of_its_own = !case.key_header.is_empty();
        let asker = Asker::new(case, Profile::faultless(), 1.0).await;
        let id = Uuid::new_v4();
        for _ in 0..3 {
            asker.create(Uuid::new_v4(), id, 12).await;
        }
        let stats = asker.sandbox.stats().third_party;
        let doubled = if has_key_of_its_own { 2 } else { 0 };
        let name = asker.case.name;
        assert_eq!((stats.creates_stored, stats.double_creates), (3, doubled), "{name}");
    }
}

/// At this speed Mollie's hour is a few milliseconds.
#[tokio::test]
async fn a_key_protects_for_as_long_as_it_lives() {
    let case = cases().into_iter().find(|case| case.name == "mollie").unwrap();
    let asker = Asker::new(case, Profile::faultless(), 1_000_000.0).await;
    let id = Uuid::new_v4();
    let (_, first) = asker.create(id, id, 12).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let (code, second) = asker.create(id, id, 12).await;
    assert_eq!(code, 201);
    assert_ne!(first["id"], second["id"]);
    assert_eq!(asker.sandbox.stats().third_party.double_creates, 1);
}

/// Stripe alone says that the first request is still running.
#[tokio::test]
async fn a_create_that_timed_out_is_stored_later_and_once() {
    for case in cases() {
        let seconds = Duration::from_secs;
        let profile = Profile {
            timeout_rate: 1.0,
            timeout_latency: seconds(1),
            timeout_stored_rate: 1.0,
            timeout_stored_min: seconds(100),
            timeout_stored_max: seconds(100),
            webhook_rate: 0.0,
            ..Profile::faultless()
        };
        let asker = Asker::new(case, profile, 200.0).await;
        let (name, id) = (asker.case.name, Uuid::new_v4());
        let first = asker.create(id, id, 12).await;
        assert_eq!(first.0, 504, "{name}");
        let during = asker.create(id, id, 12).await;
        assert_eq!(during.0, if name == "stripe-payouts" { 409 } else { 504 }, "{name}");
        until(|| asker.sandbox.stats().third_party.gateway_timeouts_stored == 1).await;
        let stats = asker.sandbox.stats().third_party;
        assert_eq!((stats.creates_stored, stats.double_creates), (1, 0), "{name}");
    }
}
