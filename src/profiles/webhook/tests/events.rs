//! What webhooks say.

use base64::engine::general_purpose::STANDARD;

use super::{support::*, *};

const OURS: &str = "6f1c2f0e-7a52-4b7e-9d6a-2d2a0a4d9b11";

const STRIPE: &str = r#"
    signature = {
        scheme = "hmac", hash = "sha256", encoding = "hex", header = "stripe-signature",
        format = "pairs", signature_key = "v1", timestamp = { from = "pair:t" },
        signed = "{timestamp}.{body}",
    }
    trust = "settle"
    event_id = "/id"
    only = { at = "/data/object/object", is = ["payout"] }
    id = "/data/object/metadata/quartet_id"
    status = "/data/object/status"
"#;
const PAYSTACK: &str = r#"
    signature = {
        scheme = "hmac", hash = "sha512", encoding = "hex", header = "x-paystack-signature",
        signed = "{body}",
    }
    trust = "settle"
    only = { at = "/event", is = ["transfer.success", "transfer.failed", "transfer.reversed"] }
    id = "/data/reference"
    status = "/data/status"
"#;
const GOCARDLESS: &str = r#"
    signature = {
        scheme = "hmac", hash = "sha256", encoding = "hex", header = "webhook-signature",
        signed = "{body}",
    }
    trust = "hint"
    items = "/events"
    only = { at = "/resource_type", is = ["outbound_payments"] }
    provider_id = "/links/outbound_payment"
    event_id = "/id"
    refused_code = 498
"#;
const PAWAPAY: &str = r#"
    signature = {
        adapter = "rfc9421", cover = ["@method", "@path", "content-digest", "signature-date"],
    }
    trust = "settle"
    id = "/payoutId"
    status = "/status"
"#;
const MTN: &str = r#"
    methods = ["POST", "PUT"]
    signature = { scheme = "none" }
    trust = "hint"
    id = "/externalId"
"#;
const MOLLIE: &str = r#"
    content = "form"
    signature = { scheme = "none" }
    trust = "hint"
    provider_id = "/id"
"#;
const MANGOPAY: &str = r#"
    methods = ["GET", "HEAD"]
    content = "query"
    signature = { scheme = "none" }
    provider_id = "/RessourceId"
    status = "/EventType"
"#;
const ADYEN_ITEMS: &str = r#"
    signature = { adapter = "adyen-items" }
    trust = "settle"
    ok_body = "[accepted]"
"#;
const ADYEN_TRANSFERS: &str = r#"
    signature = {
        scheme = "hmac", hash = "sha256", encoding = "base64", header = "hmacsignature",
        signed = "{body}", secret_encoding = "hex",
    }
    trust = "settle"
    event_id = ["/data/id", "/data/sequenceNumber"]
    id = "/data/reference"
    provider_id = "/data/id"
    status = "/data/status"
    order = "/data/sequenceNumber"
"#;
const WISE: &str = r#"
    signature = {
        scheme = "rsa-pkcs1-sha256", encoding = "base64", header = "x-signature-sha256",
        signed = "{body}",
    }
    ignore = { at = "header:x-test-notification", is = true }
    provider_id = "/data/resource/id"
    status = "/data/current_state"
    order = "/data/occurred_at"
"#;

/// The events of a vector by this section.
fn events(section: &str, id: &str) -> Vec<Event> {
    let (receiver, vector) = (receiver(section), vector(id));
    vector.verify(&receiver, &vector.keys(&receiver)).unwrap()
}

fn event(event_id: Option<&str>, about: About, status: Option<&str>) -> Event {
    let event_id = event_id.map(str::to_owned);
    let report = Ok(Report { about, status: status.map(str::to_owned) });
    Event { dedupe_key: event_id.clone(), event_id, order: None, claims: Vec::new(), report }
}

fn ours() -> About {
    About::Id(OURS.parse().unwrap())
}

fn theirs(id: &str) -> About {
    About::ProviderId(id.to_owned())
}

/// The events of a body that nothing signs.
fn hints(section: &str, body: &str) -> Result<Vec<Event>, Rejection> {
    receiver(section).verify(&post(&[], body.as_bytes()), &Keys::default(), time(0))
}

#[test]
fn providers_webhooks_become_events() {
    let paid = event(Some("evt_1QuartetTest0001"), ours(), Some("paid"));
    assert_eq!(events(STRIPE, "stripe/valid"), [paid]);
    assert_eq!(
        events(GOCARDLESS, "gocardless/valid"),
        [event(Some("EV0001"), theirs("OUT01TEST"), None)]
    );
    let (id, provider_id) = (OURS.parse().unwrap(), "3JNC3O5ZVFLLGV4B".to_owned());
    let booked = event(Some("3JNC3O5ZVFLLGV4B:3"), About::Both { id, provider_id }, Some("booked"));
    let booked = Event { order: Some(Order::Number(3)), ..booked };
    assert_eq!(events(ADYEN_TRANSFERS, "adyen-header/valid"), [booked]);
    let sent_at = Some(Order::Time(time(1_767_225_600)));
    let sent = event(None, theirs("111"), Some("outgoing_payment_sent"));
    assert_eq!(events(WISE, "wise/valid"), [Event { order: sent_at, ..sent }]);
    assert_eq!(events(WISE, "wise/test_notification"), []);
}

#[test]
fn an_event_without_an_id_is_known_by_its_bytes() {
    let first = events(PAYSTACK, "paystack/valid").remove(0);
    assert_eq!(first.report, Ok(Report { about: ours(), status: Some("success".to_owned()) }));
    let key = first.dedupe_key.clone().unwrap();
    assert!(key.starts_with("sha256:") && key.len() == 71, "{key}");
    assert_eq!(events(PAYSTACK, "paystack/a_year_later").remove(0).dedupe_key, Some(key));
    let payout = events(PAWAPAY, "rfc9421/valid").remove(0);
    assert_eq!(payout.report, Ok(Report { about: ours(), status: Some("COMPLETED".to_owned()) }));
    assert_ne!(payout.dedupe_key, first.dedupe_key);
}

#[test]
fn an_id_that_is_not_signed_is_no_key_by_itself() {
    let section = "signature = { scheme = 'hmac', hash = 'sha256', encoding = 'hex', \
                   header = 'x-hub-signature-256', prefix = 'sha256=', signed = '{body}' }\n\
                   trust = 'settle'\nevent_id = 'header:x-github-delivery'\n\
                   id = '/data/reference'\nstatus = '/data/status'";
    let vector = vector("github/valid");
    let with = |delivery: &str| {
        let receiver = receiver(section);
        let mut lines = vector.lines();
        lines.push(("X-GitHub-Delivery", delivery.as_bytes()));
        let incoming = post(&lines, vector.body.as_bytes());
        let keys = vector.keys(&receiver);
        receiver.verify(&incoming, &keys, time(vector.now)).unwrap().remove(0)
    };
    let (first, second) = (with("d-1"), with("d-2"));
    assert_eq!(first.event_id.as_deref(), Some("d-1"));
    assert!(first.dedupe_key.as_ref().unwrap().starts_with("sha256:"));
    assert_ne!(first.dedupe_key, second.dedupe_key);
    assert_eq!(first, with("d-1"));

    // Hook0 lists the headers that are signed, and this one among them.
    let mut profile = profile("hook0");
    profile.trust = Trust::Settle;
    profile.status = OneOrMany(vec!["header:x-event-type".to_owned()]);
    profile.event_id = OneOrMany(vec!["header:x-event-id".to_owned()]);
    let receiver = profile.receiver(&Vars::new()).unwrap();
    let hook0 = super::support::vector("hook0/valid");
    let event = hook0.verify(&receiver, &hook0.keys(&receiver)).unwrap().remove(0);
    assert_eq!(event.dedupe_key.as_deref(), Some("9b1a8c2e-2f2a-4c1e-8d2c-3d3a1e7c9b10"));
    let status = Some("payments.transfers.completed".to_owned());
    assert_eq!(event.report, Ok(Report { about: ours(), status }));
    // A header that this webhook does not list settles nothing.
    profile.status = OneOrMany(vec!["header:x-status".to_owned()]);
    let receiver = profile.receiver(&Vars::new()).unwrap();
    let event = hook0.verify(&receiver, &hook0.keys(&receiver)).unwrap().remove(0);
    assert_eq!(event.report, Err(EventProblem::NotSigned("x-status".to_owned())));
}

#[test]
fn events_of_one_body_have_keys_of_their_own() {
    let section = GOCARDLESS.replace("'/id'", "").replace("\"/id\"", "\"body:/meta/webhook_id\"");
    let section = section.replace("\"outbound_payments\"", "\"outbound_payments\", \"payments\"");
    let section =
        section.replace("provider_id = \"/links/outbound_payment\"", "provider_id = \"/id\"");
    let events = events(&section, "gocardless/valid");
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| event.event_id.as_deref() == Some("WB0001")));
    assert_ne!(events[0].dedupe_key, events[1].dedupe_key);
    assert!(events.iter().all(|event| event.dedupe_key.is_some()));
}

#[test]
fn adyen_items_are_events() {
    let keyed = |psp: &str, reference: &str, success: bool| {
        let key = format!("{psp}:PAYOUT_THIRDPARTY:{success}");
        let status = format!("PAYOUT_THIRDPARTY:{success}");
        let about = About::Both { id: reference.parse().unwrap(), provider_id: psp.to_owned() };
        event(Some(&key), about, Some(&status))
    };
    assert_eq!(
        events(ADYEN_ITEMS, "adyen-items/two_items_valid"),
        [
            keyed("7914073381342284", OURS, true),
            keyed("7914073381342285", "7a1c2f0e-7a52-4b7e-9d6a-2d2a0a4d9b12", false),
        ]
    );
    let only = format!("{ADYEN_ITEMS}only = {{ at = '/success', is = false }}");
    assert_eq!(events(&only, "adyen-items/two_items_valid").len(), 1);
}

/// A body with one item, signed.
fn adyen_body(account: &str, reference: &str) -> String {
    let key = hex::decode(&vector("adyen-items/valid").secrets[0]).unwrap();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let signed = format!("P1::{account}:{reference}:1:EUR:AUTHORISATION:true");
    let tag = ring::hmac::sign(&key, signed.as_bytes());
    let signature = base64::Engine::encode(&STANDARD, tag);
    format!(
        r#"{{"notificationItems":[{{"NotificationRequestItem":{{"pspReference":"P1",
        "merchantAccountCode":"{account}","merchantReference":"{reference}",
        "amount":{{"value":1,"currency":"EUR"}},"eventCode":"AUTHORISATION","success":true,
        "additionalData":{{"hmacSignature":"{signature}"}}}}}}]}}"#
    )
}

#[test]
fn a_separator_in_an_item_of_adyen_leaves_open_which_field_is_which() {
    let receiver = receiver(ADYEN_ITEMS);
    let keys = vector("adyen-items/valid").keys(&receiver);
    let read = |body: &str| {
        receiver.verify(&post(&[], body.as_bytes()), &keys, time(0)).unwrap().remove(0)
    };
    let whole = adyen_body("Shop", OURS);
    assert!(read(&whole).report.is_ok());
    // Somebody else's reference that ends with an id of ours: moved to the next field, it would be
    // ours, and the signed text is the same.
    let signed = adyen_body("Shop", &format!("theirs:{OURS}"));
    let moved = signed.replace("Shop", "Shop:theirs").replace(&format!("theirs:{OURS}"), OURS);
    for body in [signed, moved] {
        let event = read(&body);
        assert_eq!((event.report, event.dedupe_key), (Err(EventProblem::AmbiguousFields), None));
    }
}

#[test]
fn hints_have_no_dedupe_key_where_they_are_the_same_each_time() {
    let hint = event(None, theirs("tr_1"), None);
    assert_eq!(hints(MOLLIE, "id=tr_1&x=%zz"), Ok(vec![hint]));
    let hint = event(None, ours(), None);
    let body = format!(r#"{{"externalId":"{OURS}","status":"SUCCESSFUL"}}"#);
    assert_eq!(hints(MTN, &body), Ok(vec![hint]));
    // Anybody can send it, so it must not use up the id of an event.
    let section = format!("{MTN}event_id = '/eventId'");
    let body = format!(r#"{{"externalId":"{OURS}","eventId":"e-1"}}"#);
    let hint = hints(&section, &body).unwrap().remove(0);
    assert_eq!((hint.event_id.as_deref(), hint.dedupe_key), (Some("e-1"), None));
}

#[test]
fn a_query_has_fields_too() {
    let receiver = receiver(MANGOPAY);
    let get = |method, url| Incoming { method, url, headers: Headers(&[]), body: b"" };
    let url = format!("{URL}?EventType=PAYOUT_NORMAL_SUCCEEDED&RessourceId=8%3A2&Date=1");
    let verify = |method, url| receiver.verify(&get(method, url), &Keys::default(), time(0));
    let hint = event(None, theirs("8:2"), Some("PAYOUT_NORMAL_SUCCEEDED"));
    assert_eq!(verify("GET", &url), Ok(vec![hint]));
    let missing = Err(EventProblem::Missing("/RessourceId".to_owned()));
    assert_eq!(verify("GET", URL).unwrap().remove(0).report, missing);
    assert_eq!(verify("POST", &url), Err(Rejection::Method("POST".to_owned())));
    assert_eq!(verify("HEAD", &url), Err(Rejection::Method("HEAD".to_owned())));
    assert!(receiver.answers.head);
}

#[test]
fn answers_are_what_the_third_party_wants() {
    let answers = receiver(GOCARDLESS).answers;
    assert_eq!((answers.ok.code, answers.refused_code, answers.head), (200, 498, false));
    assert_eq!(answers.ok.content_type(), None);
    assert_eq!(Rejection::NoMatch("x".to_owned()).code(answers.refused_code), 498);
    assert_eq!(Rejection::RepeatedHeader("x".to_owned()).code(answers.refused_code), 400);
    let answers = receiver(ADYEN_ITEMS).answers;
    assert_eq!(answers.ok.body.as_deref(), Some("[accepted]"));
    assert_eq!(answers.ok.content_type(), Some("text/plain; charset=utf-8"));
    let json = format!("{MTN}ok_body = '{{\"ok\":true}}'\nok_code = 202");
    let answers = receiver(&json).answers;
    assert_eq!((answers.ok.code, answers.ok.content_type()), (202, Some("application/json")));
}
