//! What answers mean beyond the recorded cases: lists, bodies that cannot be read, fields that are
//! missing.

use std::time::Duration;

use super::{BY_ID, BY_PROVIDER_ID, ID, IN_LIST, content, inputs, profile, values, with};
use crate::{
    domain::ReportedStatus,
    profiles::{
        Answer, CreateAnswer, CreateMeans, CreateStep, LookupAnswer, LookupMeans, Sent, ThirdParty,
    },
};

fn create(text: &str, code: u16, body: Result<&str, &str>) -> CreateAnswer {
    profile(text).read_create(ID, &Answer { code, body })
}

fn lookup(text: &str, code: u16, body: &str, since: Option<u64>) -> LookupAnswer {
    let (content, values) = (content(&[]), values(&[]));
    let answer = Answer { code, body: Ok(body) };
    let since = since.map(Duration::from_secs);
    profile(text).read_lookup(&inputs(&content, &values), &answer, since)
}

#[test]
fn what_decided_is_named() {
    let read = create(BY_ID, 409, Ok(r#"{"code":"DUPLICATE"}"#));
    let decided = "by-id: create.answers[2] (code 409, /code is \"DUPLICATE\")";
    assert_eq!(read.decided_by.to_string(), decided);
    let read = create(BY_ID, 418, Ok("{}"));
    assert_eq!(read.decided_by.to_string(), "by-id: no rule of create.answers (code 418)");
    assert_eq!(read.said, "answered 418: {}");
    let read = lookup(BY_ID, 200, &format!(r#"{{"id":"{ID}","status":"odd"}}"#), None);
    assert_eq!(read.decided_by.to_string(), "by-id: lookup.answers[1] (code 200)");
    let status = read.status.unwrap();
    assert_eq!((status.word.as_str(), status.meaning), ("odd", None));
    assert_eq!(status.reported(), ReportedStatus::Pending);
    assert!(read.strange.unwrap().starts_with("answered 200 with the unknown status `odd`: {"));
}

#[test]
fn the_code_alone_decides_where_no_rule_matches() {
    for (code, means) in [
        (200, CreateMeans::Ambiguous),
        (302, CreateMeans::Ambiguous),
        (400, CreateMeans::Refused),
        (401, CreateMeans::Blocked),
        (403, CreateMeans::Blocked),
        (407, CreateMeans::Blocked),
        (408, CreateMeans::Ambiguous),
        (421, CreateMeans::Later),
        (422, CreateMeans::Refused),
        (425, CreateMeans::Later),
        (429, CreateMeans::Later),
        (500, CreateMeans::Ambiguous),
        (503, CreateMeans::Later),
        (504, CreateMeans::Ambiguous),
    ] {
        assert_eq!(create(BY_ID, code, Ok("{}")).means, means, "{code}");
        assert_eq!(lookup(BY_ID, code, "", None).means, LookupMeans::NoAnswer, "{code}");
    }
    let lost: Vec<u16> = [200, 407, 421, 429, 503, 504]
        .into_iter()
        .filter(|code| create(BY_ID, *code, Ok("")).may_be_lost())
        .collect();
    assert_eq!(lost, [200, 503, 504]);
}

#[test]
fn a_create_that_is_still_running_may_go_through_and_is_no_outage() {
    let rule = "means = \"exists\" },\n{ code = 409, means = \"later\" },";
    let text = with(BY_ID, "means = \"exists\" },", rule);
    let running = create(&text, 409, Ok("{}"));
    assert_eq!(running.means, CreateMeans::Later);
    assert!(running.may_be_lost() && !running.is_outage());
    // However it is said.
    let rule = "{ code = [200, 422, 429], at = \"/code\", is = \"RUNNING\", means = \"later\" },";
    let text = with(&text, "{ code = 409, means = \"later\" },", rule);
    let lost = [200, 422, 429].map(|code| {
        let running = create(&text, code, Ok(r#"{"code":"RUNNING"}"#));
        assert_eq!(running.means, CreateMeans::Later);
        running.may_be_lost()
    });
    assert_eq!(lost, [true, true, false]);
}

#[test]
fn what_exists_and_cannot_be_looked_up_is_an_operators() {
    let exists = "means = \"created\", provider_id = \"/theirs\", status = \"/status\" }";
    let rule = "{ code = 409, at = \"/code\", is = 1083, means = \"exists\" }";
    for (field, body, means) in [
        ("", r#"{"code":1083}"#, CreateMeans::Unclear),
        (", provider_id = \"/theirs?\"", r#"{"code":1083}"#, CreateMeans::Unclear),
        (", provider_id = \"/theirs?\"", r#"{"code":1083,"theirs":"p_1"}"#, CreateMeans::Exists),
    ] {
        let rule = rule.replace(" }", &format!("{field} }}"));
        let text = with(BY_PROVIDER_ID, exists, &format!("{exists}, {rule}"));
        assert_eq!(create(&text, 409, Ok(body)).means, means, "{rule} {body}");
    }
}

#[test]
fn a_test_that_cannot_be_read_proves_nothing() {
    for body in [
        Ok(""),
        Ok("<html>"),
        Ok(r#"{"code":"DUPLICATE""#),
        Ok(r#"{"code":"DUPLICATE","code":"OTHER"}"#),
        Ok(r#"{"code":"\ud83d"}"#),
        Err("the answer broke off"),
    ] {
        let read = create(BY_ID, 409, body);
        assert_eq!(read.means, CreateMeans::Ambiguous, "{body:?}");
        assert!(read.strange.is_some());
        // No rule tests the body of this one.
        assert_eq!(create(BY_ID, 422, body).means, CreateMeans::Refused, "{body:?}");
        if let Ok(body) = body {
            assert_eq!(lookup(BY_ID, 404, body, None).means, LookupMeans::NoAnswer, "{body}");
            assert_ne!(lookup(BY_ID, 200, body, None).means, LookupMeans::Found, "{body}");
        }
    }
    // What is well-formed and says something else is another refusal.
    assert_eq!(create(BY_ID, 409, Ok(r#"{"code":"OTHER"}"#)).means, CreateMeans::Refused);
}

/// What an earlier rule says of an answer that cannot be read, no later one may decide.
#[test]
fn a_rule_behind_a_test_that_cannot_be_read_decides_nothing() {
    let created = "{ code = 201, means = \"created\", status = \"/status\" }";
    let rejected = "{ code = 201, at = \"/code\", is = \"REJECTED\", means = \"refused\" }";
    let text = with(BY_ID, created, &format!("{rejected}, {created}"));
    assert_eq!(create(&text, 201, Ok("{}")).means, CreateMeans::Created);
    let both = r#"{"code":"REJECTED","code":"ACCEPTED","status":"done"}"#;
    for body in [Ok(both), Ok("<html>"), Ok(""), Err("the answer broke off")] {
        let read = create(&text, 201, body);
        assert_eq!(read.means, CreateMeans::Ambiguous, "{body:?}");
        assert_eq!(read.status, None, "{body:?}");
    }
    let found = "{ code = 200, means = \"found\", status = \"/status\", reference = \"/id\", \
                 provider_id = \"/theirs?\" }";
    let absent = "{ code = 200, at = \"/code\", is = \"NONE\", means = \"absent\" }";
    let text = with(BY_ID, found, &format!("{absent}, {found}"));
    let twice = format!(r#"{{"code":"A","code":"NONE","id":"{ID}","status":"done"}}"#);
    assert_eq!(lookup(&text, 200, &twice, None).means, LookupMeans::NoAnswer);
}

#[test]
fn a_create_without_the_id_that_is_needed_is_not_known_to_exist() {
    let read = create(BY_PROVIDER_ID, 201, Ok(r#"{"theirs":"p_1","status":"done"}"#));
    assert_eq!((read.means, read.provider_id.as_deref()), (CreateMeans::Created, Some("p_1")));
    let number = create(BY_PROVIDER_ID, 201, Ok(r#"{"theirs":17}"#));
    assert_eq!(number.provider_id.as_deref(), Some("17"));
    let long = format!(r#"{{"theirs":"{}"}}"#, "x".repeat(256));
    for body in [
        r#"{"status":"done"}"#,
        r#"{"theirs":null}"#,
        r#"{"theirs":""}"#,
        r#"{"theirs":"a b"}"#,
        r#"{"theirs":"a\u0000b"}"#,
        r#"{"theirs":{"id":1}}"#,
        r#"{"theirs":true}"#,
        r#"{"theirs":"a","theirs":"b"}"#,
        "",
        &long,
    ] {
        let read = create(BY_PROVIDER_ID, 201, Ok(body));
        assert_eq!(read.means, CreateMeans::Ambiguous, "{body}");
        assert_eq!(read.provider_id, None, "{body}");
        assert!(read.strange.is_some(), "{body}");
    }
}

#[test]
fn an_answer_about_another_id_says_nothing_about_ours() {
    let with_id = |id: &str| format!(r#"{{"id":{id},"status":"done"}}"#);
    let ours = with_id(&format!("\"{}\"", ID.to_string().to_uppercase()));
    assert_eq!(lookup(BY_ID, 200, &ours, None).means, LookupMeans::Found);
    for other in ["\"7f1c2f0e-7a52-4b7e-9d6a-2d2a0a4d9b11\"", "\"x\"", "7", "null", "[]"] {
        let read = lookup(BY_ID, 200, &with_id(other), None);
        assert_eq!(read.means, LookupMeans::NotOurs, "{other}");
    }
    assert_eq!(lookup(BY_ID, 200, r#"{"status":"done"}"#, None).means, LookupMeans::NotOurs);
    let text = with(BY_ID, "reference = \"/id\"", "reference = \"/id?\"");
    assert_eq!(lookup(&text, 200, r#"{"status":"done"}"#, None).means, LookupMeans::Found);
}

/// A page that says nothing about the transaction must not end its create.
#[test]
fn a_lookup_that_has_neither_our_id_nor_a_status_has_no_answer() {
    let own = crate::profiles::Shipped::named("quartet").unwrap().text;
    for text in [own, BY_PROVIDER_ID] {
        for body in [
            "{}",
            r#"{"message":"maintenance"}"#,
            r#"{"status":null}"#,
            r#"{"status":{"message":"maintenance"}}"#,
        ] {
            let read = lookup(text, 200, body, None);
            assert_eq!(read.means, LookupMeans::NoAnswer, "{body}");
            assert!(read.strange.is_some(), "{body}");
        }
        for status in ["\"done\"", "\"odd\"", "1", "false"] {
            let body = format!(r#"{{"status":{status}}}"#);
            assert_eq!(lookup(text, 200, &body, None).means, LookupMeans::Found, "{body}");
        }
    }
    // Our id alone says that it is there.
    let ours = format!(r#"{{"id":"{ID}"}}"#);
    for text in [own, BY_ID] {
        let read = lookup(text, 200, &ours, None);
        assert_eq!((read.means, read.status), (LookupMeans::Found, None));
    }
    // A profile that says that the status may be missing is believed.
    let found = "means = \"found\", status = \"/status";
    let optional = with(BY_PROVIDER_ID, found, &format!("{found}?"));
    assert_eq!(lookup(&optional, 200, "{}", None).means, LookupMeans::Found);
    // An item of a list was compared with our id.
    let bare = list(&[format!(r#"{{"reference":"{ID}"}}"#)]);
    assert_eq!(lookup(IN_LIST, 200, &bare, None).means, LookupMeans::Found);
    // A create's code says that it exists.
    assert_eq!(create(own, 200, Ok("{}")).means, CreateMeans::Created);
}

#[test]
fn a_create_answered_about_another_id_proves_nothing_unless_its_code_does() {
    let other = r#"{"code":"X","id":"7f1c2f0e-7a52-4b7e-9d6a-2d2a0a4d9b11","status":"done"}"#;
    let twice = format!(r#"{{"code":"X","id":"{ID}","id":"{ID}","status":"done"}}"#);
    let created = "{ code = 201, means = \"created\", status = \"/status\" }";
    for (rule, means) in [
        ("code = 201, means = \"created\"", CreateMeans::Created),
        ("code = 201, at = \"/code\", is = \"X\", means = \"created\"", CreateMeans::Ambiguous),
    ] {
        let rule = format!("{{ {rule}, status = \"/status\", reference = \"/id\" }}");
        let text = with(BY_ID, created, &rule);
        for body in [other, &twice] {
            let read = create(&text, 201, Ok(body));
            assert_eq!((read.means, read.status), (means, None), "{rule} {body}");
            assert!(read.strange.is_some());
        }
        let ours = format!(r#"{{"code":"X","id":"{ID}","status":"done"}}"#);
        let read = create(&text, 201, Ok(&ours));
        assert_eq!(read.known_status(), Some(ReportedStatus::Completed), "{rule}");
    }
    let refused = "code = 409, at = \"/code\", is = \"DUPLICATE\", means = \"exists\"";
    let rule = "code = 409, at = \"/code\", is = \"X\", means = \"refused\", reference = \"/id\"";
    let text = with(BY_ID, refused, rule);
    for body in [other, &twice] {
        assert_eq!(create(&text, 409, Ok(body)).means, CreateMeans::Ambiguous, "{body}");
    }
}

fn item(id: &str, status: &str) -> String {
    format!(r#"{{"reference":"{id}","id":"p_{status}","status":"{status}"}}"#)
}

fn list(items: &[String]) -> String {
    format!(r#"{{"data":[{}]}}"#, items.join(","))
}

#[test]
fn an_item_of_a_list_is_ours_only_if_it_says_so() {
    let ours = item(&ID.simple().to_string(), "done");
    let other = item("7f1c2f0e7a524b7e9d6a2d2a0a4d9b11", "no");
    let read = lookup(IN_LIST, 200, &list(&[other.clone(), ours.clone()]), None);
    assert_eq!(read.means, LookupMeans::Found);
    assert_eq!(read.known_status(), Some(ReportedStatus::Completed));
    assert_eq!(read.provider_id.as_deref(), Some("p_done"));
    let two = list(&[ours.clone(), other.clone(), ours.clone()]);
    let read = lookup(IN_LIST, 200, &two, None);
    assert_eq!((read.means, read.status), (LookupMeans::Unclear, None));
    assert!(read.strange.unwrap().contains("with 2 transactions that have our id"));
    // A filter that was ignored may have ours on another page.
    let read = lookup(IN_LIST, 200, &list(&[other]), None);
    assert_eq!(read.means, LookupMeans::NotOurs);
    for body in ["{}", r#"{"data":{}}"#, r#"{"data":null}"#, "[]", "", r#"{"data":[}"#] {
        assert_eq!(lookup(IN_LIST, 200, body, None).means, LookupMeans::NoAnswer, "{body}");
    }
    assert_eq!(lookup(IN_LIST, 404, &list(&[]), None).means, LookupMeans::NoAnswer);
}

#[test]
fn an_empty_list_is_an_absence_once_it_has_settled() {
    let empty = list(&[]);
    for (since, means) in [
        (None, LookupMeans::Absent),
        (Some(29), LookupMeans::NoAnswer),
        (Some(30), LookupMeans::Absent),
    ] {
        assert_eq!(lookup(IN_LIST, 200, &empty, since).means, means, "{since:?}");
    }
    // The list may be the whole answer.
    let text = with(IN_LIST, "items = \"/data\"", "items = \"\"");
    assert_eq!(lookup(&text, 200, " [ ] ", None).means, LookupMeans::Absent);
    let ours = format!("[{}]", item(&ID.to_string(), "no"));
    let read = lookup(&text, 200, &ours, None);
    assert_eq!(
        (read.means, read.known_status()),
        (LookupMeans::Found, Some(ReportedStatus::Declined))
    );
    // A reference with a prefix is compared as it was sent.
    let prefixed = "where = { at = \"/reference\", is = \"Q-{id}\" }";
    let text = with(IN_LIST, "where = \"/reference\"", prefixed);
    let ours = list(&[item(&format!("Q-{ID}"), "done")]);
    assert_eq!(lookup(&text, 200, &ours, None).means, LookupMeans::Found);
    let other = list(&[item(&ID.to_string(), "done")]);
    assert_eq!(lookup(&text, 200, &other, None).means, LookupMeans::NotOurs);
}

#[test]
fn a_status_word_that_may_be_taken_back_is_marked() {
    let text = with(
        BY_ID,
        "completed = [\"done\"]",
        "completed = [\"done\", \"paid\"]\nreversible = [\"PAID\"]",
    );
    let read = |word: &str| {
        let body = format!(r#"{{"id":"{ID}","status":"{word}"}}"#);
        lookup(&text, 200, &body, None).status.unwrap()
    };
    assert!(read(" Paid ").is_reversible);
    assert_eq!(read("paid").meaning, Some(ReportedStatus::Completed));
    assert!(!read("done").is_reversible);
}

#[test]
fn a_status_may_be_a_number_or_a_truth_value_and_has_no_case_in_any_alphabet() {
    let text = with(
        BY_ID,
        "completed = [\"done\"]\ndeclined = [\"no\"]",
        "completed = [\"2\", \"true\", \"payé\"]\ndeclined = [\"-1\", \"false\", \"Отказ\"]",
    );
    let completed = Some(ReportedStatus::Completed);
    let declined = Some(ReportedStatus::Declined);
    for (status, meaning) in [
        ("2", completed),
        ("\"2\"", completed),
        ("true", completed),
        ("\"TRUE\"", completed),
        ("\"PAYÉ\"", completed),
        ("-1", declined),
        ("false", declined),
        ("\"ОТКАЗ\"", declined),
        ("2.0", None),
        ("3", None),
        ("null", None),
        ("payé", None),
        ("[2]", None),
        ("{\"code\":2}", None),
    ] {
        let read = lookup(&text, 200, &format!(r#"{{"id":"{ID}","status":{status}}}"#), None);
        assert_eq!((read.means, read.known_status()), (LookupMeans::Found, meaning), "{status}");
        assert_eq!(read.strange.is_some(), meaning.is_none(), "{status}");
        let read = create(&text, 201, Ok(&format!(r#"{{"status":{status}}}"#)));
        assert_eq!((read.means, read.known_status()), (CreateMeans::Created, meaning), "{status}");
    }
}

#[test]
fn what_is_not_used_may_be_anything() {
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let body = format!(
        "\u{feff}{{\"x\":NaN,\"x\":\"\\ud83d\",\"deep\":{deep},\"id\":\"{ID}\",\
         \"status\":\"done\"}}"
    );
    let read = lookup(BY_ID, 200, &body, None);
    assert_eq!(read.known_status(), Some(ReportedStatus::Completed));
    assert!(read.said.chars().count() < 300);
}

#[test]
fn an_absence_of_what_the_third_party_has_named_is_an_operators() {
    let known = Sent { has_provider_id: true, ..Sent::default() };
    for text in [BY_ID, BY_PROVIDER_ID, IN_LIST] {
        let next = profile(text).after_lookup(&known, LookupMeans::Absent);
        assert!(matches!(next, CreateStep::Operator(_)), "{next:?}: {text}");
    }
    let next = profile(BY_ID).after_lookup(&Sent::default(), LookupMeans::Absent);
    assert_eq!(next, CreateStep::Post);
}
