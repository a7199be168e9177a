//! What is sent.

use super::{BY_ID, BY_PROVIDER_ID, ID, IN_LIST, content, inputs, profile, values, with};
use crate::{
    domain::Content,
    profiles::{Inputs, RenderError, Request, ThirdParty},
};

fn body(request: &Request) -> &str {
    std::str::from_utf8(&request.body).unwrap()
}

/// The create's body where the profile has this one.
fn rendered(body_: &str, content: &Content) -> Result<String, RenderError> {
    let from = "{ id = \"{id}\", amount = \"{amount:minor}\" }";
    let profile = profile(&with(BY_ID, from, &format!("{{ id = \"{{id}}\", {body_} }}")));
    let values = values(&[("key", "hidden")]);
    let request = profile.create_request(&inputs(content, &values))?;
    let text = body(&request).to_owned();
    Ok(text.replace(&format!("\"id\":\"{ID}\""), "").trim_start_matches("{,").to_owned())
}

#[test]
fn a_text_that_is_one_placeholder_keeps_its_type_and_fields_keep_their_order() {
    let content = content(&[("b", "2"), ("a", "\"x\"\n")]);
    let text = rendered(
        "z = \"{amount:minor}\", y = \"{amount:number}\", x = \"{amount:decimal}\", \
         w = \"{currency:lower} {amount:minor}\", v = \"{metadata}\", \
         u = [\"{metadata.b}\", 1, true], \
         t = \"{id:hex}\", s = \"{created_at}\", r = \"{var:region}/{secret:key}\", q = \"{{id}}\"",
        &content,
    );
    assert_eq!(
        text.unwrap(),
        concat!(
            r#""z":1250,"y":12.50,"x":"12.50","w":"eur 1250","v":{"a":"\"x\"\n","b":"2"},"#,
            r#""u":["2",1,true],"t":"6f1c2f0e7a524b7e9d6a2d2a0a4d9b11","#,
            r#""s":"2026-01-01T00:00:00Z","r":"eu/hidden","q":"{id}"}"#,
        )
    );
}

#[test]
fn an_absent_optional_value_leaves_its_field_out_and_a_required_one_sends_nothing() {
    let nothing = Content::default();
    let text = rendered(
        "a = \"{amount:minor?}\", b = \"no. {reference?}\", \
         c = [\"{currency?}\", 2, \"{metadata.x?}\"], \
         d = { e = \"{metadata?}\" }",
        &nothing,
    );
    assert_eq!(text.unwrap(), r#""c":[2],"d":{}}"#);
    for (field, error) in [
        ("{amount:minor}", "the transaction has no {amount:minor}, which this third party needs"),
        ("{metadata.x}", "the transaction has no {metadata.x}, which this third party needs"),
        ("{secret:other}", "{secret:other} is not set"),
    ] {
        let error_ = rendered(&format!("a = \"{field}\""), &nothing).unwrap_err();
        assert_eq!(error_.to_string(), error);
        assert_eq!(error_.is_configuration(), field.contains("secret"));
    }
    let gold = Content { amount: Some(1), currency: Some("XAU".to_owned()), ..nothing };
    assert!(matches!(rendered("a = \"{amount:decimal}\"", &gold), Err(RenderError::Amount(_))));
}

#[test]
fn no_value_leaves_its_path_segment_query_field_or_header() {
    let text = with(BY_PROVIDER_ID, "/payments/{provider_id}", "/a/{provider_id}/b");
    let profile = profile(&text);
    let (content, values) = (content(&[]), values(&[]));
    let lookup = |id: &str| {
        let inputs = Inputs { provider_id: Some(id), ..inputs(&content, &values) };
        profile.lookup_request(&inputs).map(|request| request.target())
    };
    for (id, path) in [
        ("po_1.2-3~x", "/a/po_1.2-3~x/b"),
        ("x/../y", "/a/x%2F..%2Fy/b"),
        ("x?y#z%2e &=", "/a/x%3Fy%23z%252e%20%26%3D/b"),
        ("é", "/a/%C3%A9/b"),
        ("...", "/a/.../b"),
    ] {
        assert_eq!(lookup(id).as_deref(), Ok(path));
    }
    for id in ["", ".", ".."] {
        assert!(matches!(lookup(id), Err(RenderError::Unsendable { .. })), "{id}");
    }
    let unknown = profile.lookup_request(&inputs(&content, &values));
    assert_eq!(unknown, Err(RenderError::NoProviderId));
}

#[test]
fn a_query_is_encoded_and_a_header_refuses_what_could_end_it() {
    let (content_, values) = (content(&[]), values(&[]));
    let request = profile(IN_LIST).lookup_request(&inputs(&content_, &values)).unwrap();
    assert_eq!(
        request.target(),
        format!("/payments?reference={}&since=2025-12-31T23%3A00%3A00Z&limit=10", ID.simple())
    );
    let header = "headers = { X-Note = \"{metadata.note?}\" }\nrepeat =";
    let profile = profile(&with(BY_ID, "repeat =", header));
    for (note, is_sent) in [
        ("plain text", true),
        ("a\r\nX-Evil: 1", false),
        ("a\nb", false),
        ("é", false),
        ("tab\t", false),
        (" edge", false),
    ] {
        let content = content(&[("note", note)]);
        let request = profile.create_request(&inputs(&content, &values));
        assert_eq!(request.is_ok(), is_sent, "{note:?}");
    }
    let request = profile.create_request(&inputs(&content_, &values)).unwrap();
    assert!(request.headers.is_empty());
}

/// A difference between the two clocks must not read as an absence.
#[test]
fn the_times_of_a_list_have_a_margin() {
    let (content, values) = (content(&[]), values(&[]));
    let since = |text: &str| {
        let request = profile(text).lookup_request(&inputs(&content, &values)).unwrap();
        let found = request.query.into_iter().find(|(name, _)| name == "since");
        found.map(|(_, value)| value)
    };
    for (written, in_list, elsewhere) in [
        ("{created_at}", "2025-12-31T23:00:00Z", "2026-01-01T00:00:00Z"),
        ("{now}", "2026-01-01T01:01:40Z", "2026-01-01T00:01:40Z"),
        ("{created_at:-2d}", "2025-12-30T00:00:00Z", "2025-12-30T00:00:00Z"),
        ("{now:+15m}", "2026-01-01T00:16:40Z", "2026-01-01T00:16:40Z"),
        ("{created_at:-0s}", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        (
            "{created_at}/{now?}",
            "2025-12-31T23:00:00Z/2026-01-01T01:01:40Z",
            "2026-01-01T00:00:00Z/2026-01-01T00:01:40Z",
        ),
    ] {
        let list = with(IN_LIST, "{created_at}", written);
        assert_eq!(since(&list).as_deref(), Some(in_list), "{written}");
        let by_id = format!("by = \"id\"\nquery = {{ since = \"{written}\" }}");
        let single = with(BY_ID, "by = \"id\"", &by_id);
        assert_eq!(since(&single).as_deref(), Some(elsewhere), "{written}");
    }
}

#[test]
fn a_form_is_encoded() {
    let text = with(BY_ID, "repeat =", "content = \"form\"\nrepeat =");
    let text =
        with(&text, "amount = \"{amount:minor}\"", "\"a[b]\" = \"{reference}\", c = 1, d = true");
    let content = content(&[]);
    let values = values(&[]);
    let request = profile(&text).create_request(&inputs(&content, &values)).unwrap();
    assert_eq!(body(&request), format!("id={ID}&a%5Bb%5D=Invoice+117&c=1&d=true"));
    assert_eq!(request.content_type(), Some("application/x-www-form-urlencoded"));
}

#[test]
fn the_same_transaction_gives_the_same_bytes() {
    for text in [BY_ID, BY_PROVIDER_ID, IN_LIST] {
        let profile = profile(text);
        let content = content(&[("b", "1"), ("a", "2")]);
        let values = values(&[]);
        let first = profile.create_request(&inputs(&content, &values)).unwrap();
        let later = Inputs {
            now: "2030-01-01T00:00:00Z".parse().unwrap(),
            provider_id: Some("x"),
            ..inputs(&content, &values)
        };
        assert_eq!(profile.create_request(&later).unwrap(), first);
    }
}
