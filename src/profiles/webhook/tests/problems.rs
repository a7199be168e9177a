//! What is wrong with an event, or with a body, and what of it is used.

use super::{support::*, *};

const OURS: &str = "6f1c2f0e-7a52-4b7e-9d6a-2d2a0a4d9b11";

fn ours() -> About {
    About::Id(OURS.parse().unwrap())
}

/// The events of a body that nothing signs.
fn hints(section: &str, body: &str) -> Result<Vec<Event>, Rejection> {
    receiver(section).verify(&post(&[], body.as_bytes()), &Keys::default(), time(0))
}

/// What the events of the body say.
fn reports(section: &str, body: &str) -> Vec<Result<Report, EventProblem>> {
    hints(section, body).unwrap().into_iter().map(|event| event.report).collect()
}

fn github_events(section: &str) -> Vec<Event> {
    let (receiver, vector) = (receiver(section), vector("github/valid"));
    vector.verify(&receiver, &vector.keys(&receiver)).unwrap()
}

#[test]
fn what_is_wrong_with_one_event_is_its_own_problem() {
    let section =
        "signature = { scheme = 'none' }\nitems = '/e'\nid = '/id'\nstatus = ['/s', '/t']";
    let long = "x".repeat(300);
    let body = format!(
        r#"{{"e":[
            {{"id":"{OURS}","s":"a","t":true,"x":NaN}},
            {{"s":"a","t":true}},
            {{"id":null}},
            {{"id":"order-7\u202e"}},
            {{"id":7}},
            {{"id":{{}}}},
            {{"id":"{OURS}","id":"{OURS}"}},
            {{"id":"{OURS}"}},
            {{"id":"{OURS}","s":"{long}","t":1}},
            {{"id":"{OURS}","s":"a\nb","t":1}},
            {{"id":"{OURS}","s":"\ud83d","t":1}},
            7,
            {{"id" 1}}
        ]}}"#
    );
    let missing = || Err(EventProblem::Missing("/id".to_owned()));
    let field = |at: &str, fault| Err(EventProblem::Field { at: at.to_owned(), fault });
    let not_ours = |excerpt: &str| {
        Err(EventProblem::NotOurs { at: "/id".to_owned(), excerpt: excerpt.to_owned() })
    };
    let says =
        |status: Option<&str>| Ok(Report { about: ours(), status: status.map(str::to_owned) });
    assert_eq!(
        reports(section, &body),
        [
            says(Some("a:true")),
            missing(),
            missing(),
            not_ours(r"order-7\u{202e}"),
            not_ours("7"),
            field("/id", FieldFault::Compound),
            field("/id", FieldFault::Repeated),
            says(None),
            Err(EventProblem::TooLong { at: "/s".to_owned(), max: 200 }),
            Err(EventProblem::ControlCharacters("/s".to_owned())),
            field("/s", FieldFault::Unreadable),
            missing(),
            field("/id", FieldFault::Unreadable),
        ]
    );
}

#[test]
fn what_settles_must_be_whole() {
    let settle = |more: &str| {
        let section = format!(
            "signature = {{ scheme = 'hmac', hash = 'sha256', encoding = 'hex', \
             header = 'x-hub-signature-256', prefix = 'sha256=', signed = '{{body}}' }}\n\
             trust = 'settle'\n{more}"
        );
        github_events(&section).remove(0)
    };
    let event = settle("id = '/data/reference'\nstatus = '/data/state'");
    assert_eq!(event.report, Err(EventProblem::Missing("/data/state".to_owned())));
    let event = settle("id = '/data/reference'\nstatus = '/data/status'\nevent_id = '/x'");
    assert_eq!(event.report, Err(EventProblem::Missing("/x".to_owned())));
    assert_eq!(event.dedupe_key, None);
    // An id that is absent leaves the third party's; one that is not ours does not.
    let event = settle("id = '/x'\nprovider_id = '/data/id'\nstatus = '/data/status'");
    let report = Report {
        about: About::ProviderId("trf_0001".to_owned()),
        status: Some("completed".to_owned()),
    };
    assert_eq!(event.report, Ok(report));
    let event = settle("id = '/type'\nprovider_id = '/data/id'\nstatus = '/data/status'");
    assert!(matches!(event.report, Err(EventProblem::NotOurs { .. })), "{event:?}");
}

#[test]
fn what_is_wrong_with_the_body_refuses_it() {
    let section = "signature = { scheme = 'none' }\nitems = '/e'\nid = '/id'";
    let reason = |body: &str| hints(section, body).unwrap_err().reason();
    for (body, expected) in [
        ("", "bad_json"),
        ("<xml/>", "bad_json"),
        ("{\"e\":[", "bad_json"),
        ("{\"e\":[]} {}", "bad_json"),
        ("{}", "bad_fields"),
        ("{\"e\":{}}", "bad_fields"),
        ("[]", "bad_fields"),
    ] {
        assert_eq!(reason(body), expected, "{body}");
    }
    let many = |count: usize| format!("{{\"e\":[{}]}}", vec!["1"; count].join(","));
    assert_eq!(hints(section, &many(MAX_EVENTS)).unwrap().len(), MAX_EVENTS);
    assert_eq!(hints(section, &many(MAX_EVENTS + 1)), Err(Rejection::TooManyEvents));
    let large = " ".repeat(MAX_BODY + 1);
    assert_eq!(hints(section, &large), Err(Rejection::TooLarge(MAX_BODY)));
    assert_eq!(hints(section, "{\"e\":[]}"), Ok(vec![]));
    let root = "signature = { scheme = 'none' }\nitems = ''\nid = '/id'";
    assert_eq!(hints(root, &format!(r#"[{{"id":"{OURS}"}}]"#)).unwrap().len(), 1);
    let deep = format!("{{\"x\":{}{},\"e\":[]}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(hints(section, &deep), Ok(vec![]));
}

#[test]
fn conditions_choose_events() {
    let section = |more: &str| {
        format!("signature = {{ scheme = 'none' }}\nitems = ''\nprovider_id = '/p'\n{more}")
    };
    let body = r#"[{"p":"1","k":"a","n":7,"t":true},{"p":"2","k":"b","n":null},{"p":"3"}]"#;
    let chosen = |more: &str| -> Vec<String> {
        let reports = reports(&section(more), body).into_iter().map(|report| {
            let About::ProviderId(id) = report.unwrap().about else { panic!("no id of theirs") };
            id
        });
        reports.collect()
    };
    assert_eq!(chosen(""), ["1", "2", "3"]);
    assert_eq!(chosen("only = { at = '/k', is = 'a' }"), ["1"]);
    assert_eq!(chosen("only = { at = '/k', is = ['a', 'b'] }"), ["1", "2"]);
    assert_eq!(chosen("only = { at = '/n', is = 7 }"), ["1"]);
    assert_eq!(chosen("only = [{ at = '/k', is = 'a' }, { at = '/t', is = false }]"), [""; 0]);
    assert_eq!(chosen("ignore = [{ at = '/k', is = 'a' }, { at = '/p', is = '3' }]"), ["2"]);
}

#[test]
fn an_event_whose_conditions_cannot_be_read_is_not_passed_over() {
    let reports = |more: &str, event: &str| {
        let section = format!("signature = {{ scheme = 'none' }}\nid = '/id'\n{more}");
        reports(&section, &format!(r#"{{"id":"{OURS}",{event}}}"#))
    };
    let says = Ok(Report { about: ours(), status: None });
    let field = |at: &str, fault| Err(EventProblem::Field { at: at.to_owned(), fault });
    let only = "only = [{ at = '/k', is = 'a' }, { at = '/l', is = 'b' }]";
    let ignore = "ignore = [{ at = '/k', is = 'x' }, { at = '/l', is = 'y' }]";
    for both in [only, ignore] {
        let repeated = field("/k", FieldFault::Repeated);
        assert_eq!(reports(both, r#""k":"a","l":"b""#), std::slice::from_ref(&says));
        assert_eq!(reports(both, r#""k":"a","k":"a","l":"b""#), [repeated]);
        let unreadable = field("/l", FieldFault::Unreadable);
        assert_eq!(reports(both, r#""k":"a","l":"\ud83d""#), [unreadable]);
        assert_eq!(reports(both, r#""k":{},"l":"b""#), [field("/k", FieldFault::Compound)]);
        // The other condition passes it over, whatever this one says.
        assert_eq!(reports(both, r#""k":"a","k":"a","l":"y""#), []);
    }
    let section = "signature = { scheme = 'none' }\nid = '/id'\n\
                   only = { at = 'header:x-kind', is = 'a' }";
    let lines: [(&str, &[u8]); 2] = [("X-Kind", b"a"), ("x-kind", b"a")];
    let body = format!(r#"{{"id":"{OURS}"}}"#);
    let incoming = post(&lines, body.as_bytes());
    let events = receiver(section).verify(&incoming, &Keys::default(), time(0)).unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].report, Err(EventProblem::RepeatedHeader("x-kind".to_owned())));
}

#[test]
fn what_an_event_claims_is_kept_and_must_be_readable() {
    let section = "signature = { scheme = 'none' }\nid = '/id'\n\
                   same = [{ at = '/amount', is = '{amount:minor}' },\
                           { at = '/currency', is = '{currency}' }]";
    let claims = |more: &str| {
        let event = hints(section, &format!(r#"{{"id":"{OURS}"{more}}}"#)).unwrap().remove(0);
        event.report.map(|_| {
            let claims = event.claims.into_iter();
            claims.map(|claim| (claim.at, claim.found, claim.is.as_str().to_owned())).collect()
        })
    };
    let claim = |at: &str, found: &str, is: &str| (at.to_owned(), found.to_owned(), is.to_owned());
    assert_eq!(claims(""), Ok(vec![]));
    assert_eq!(claims(r#","amount":null,"currency":"""#), Ok(vec![]));
    let amount = claim("/amount", "1250", "{amount:minor}");
    assert_eq!(claims(r#","amount":1250"#), Ok(vec![amount.clone()]));
    let currency = claim("/currency", "EUR", "{currency}");
    assert_eq!(claims(r#","amount":"1250","currency":"EUR""#), Ok(vec![amount, currency]));
    for unusable in [
        r#","amount":{"value":1250}"#,
        r#","amount":1,"amount":2"#,
        r#","currency":"E\u0000R""#,
        &format!(r#","currency":"{}""#, "x".repeat(300)),
    ] {
        assert!(claims(unusable).is_err(), "{unusable}");
    }
}
