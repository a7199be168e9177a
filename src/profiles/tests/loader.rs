//! What the loader refuses, and how it says so.

use super::{BY_ID, BY_PROVIDER_ID, IN_LIST, profile, with};
use crate::profiles::Profile;

fn refused(text: &str) -> String {
    match Profile::parse("test.toml", text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_profiles_of_these_tests_are_accepted() {
    for text in [BY_ID, BY_PROVIDER_ID, IN_LIST] {
        profile(text);
    }
}

#[test]
fn an_error_names_the_file_the_key_the_line_and_what_is_allowed() {
    let repeat = with(BY_ID, "\"refused\"", "\"sometimes\"");
    assert_eq!(
        refused(&repeat),
        "test.toml: create.repeat (line 6): 'sometimes' is not allowed: refused, same-answer or \
         new-transaction"
    );
    let unknown = with(BY_ID, "repeat =", "repeats = 1\nrepeat =");
    assert_eq!(
        refused(&unknown),
        "test.toml: create (line 6): 'repeats' is not allowed: method, path, query, headers, \
         content, body, repeat, repeat_within or answers"
    );
    let missing = with(BY_ID, "repeat = \"refused\"\n", "");
    let error = refused(&missing);
    assert!(error.starts_with("test.toml: create (line 3): 'repeat' is missing"), "{error}");
    let error = refused(&with(BY_ID, "name = \"by-id\"\n", ""));
    assert!(error.ends_with("'name' is missing"), "{error}");
    let placeholder = with(BY_ID, "{amount:minor}", "{amount}");
    let error = refused(&placeholder);
    assert!(error.contains("create.body.amount (line 5): '{amount}' is not"), "{error}");
    assert!(error.contains("{amount:decimal}"), "{error}");
    let error = refused(&with(BY_ID, "code = 409", "code = \"9xx\""));
    assert!(error.contains("create.answers[2].code (line 9): '9xx' must be"), "{error}");
    let error = refused(&with(BY_ID, "\"/code\", is = \"NOT_FOUND\"", "\"code\", is = \"X\""));
    assert!(error.contains("lookup.answers[2].at (line 16): 'code' is not a JSON"), "{error}");
    let error = refused("profile = 1\nname = ");
    assert!(error.starts_with("test.toml: line 2: "), "{error}");
}

#[test]
fn everything_that_is_unsafe_is_named_at_once() {
    let text = with(BY_ID, "declined = [\"no\"]", "declined = [\"DONE\", \"Open\"]");
    let error = refused(&with(&text, "path = \"/payments\"", "path = \"payments\""));
    assert_eq!(error.lines().count(), 3, "{error}");
    for part in ["create.path (line 4)", "status.declined[1] (line 21)", "status.declined[2]"] {
        assert!(error.contains(part), "{error}");
    }
}

/// What is changed in a profile, and a part of the error that it then gives.
type Unsafe = (&'static str, &'static str, &'static str, &'static str);

#[test]
fn what_would_lose_or_double_money_is_refused_with_the_reason() {
    let created = "{ code = 201, means = \"created\", status = \"/status\" }";
    let absent = "{ code = 404, at = \"/code\", is = \"NOT_FOUND\", means = \"absent\" }";
    let created_line = "  { code = 201, means = \"created\", status = \"/status\" },\n";
    let absent_line = "  { code = 404, at = \"/code\", is = \"NOT_FOUND\", means = \"absent\" },\n";
    let refusal = "{ code = 409, at = \"/code\", is = \"DUPLICATE\", means = \"exists\" }";
    let new = "repeat = \"new-transaction\"";
    let cases: &[Unsafe] = &[
        // The rules for absence.
        (BY_ID, absent_line, "\n", "only a proof of absence allows it"),
        (BY_ID, absent, "{ code = 404, means = \"absent\" }", "a second payment would follow"),
        (
            BY_ID,
            absent,
            "{ code = 404, at = \"/error\", means = \"absent\" }",
            "a value in the body",
        ),
        (BY_ID, absent, "{ code = 404, at = \"/ok\", is = false, means = \"absent\" }", "a value"),
        (
            BY_ID,
            absent,
            "{ code = 404, at = \"/ok\", is = [false, \"NOT_FOUND\"], means = \"absent\" }",
            "a value",
        ),
        (BY_ID, absent, "{ code = 200, any_body = true, means = \"absent\" }", "its body must"),
        (
            BY_ID,
            absent,
            "{ code = [404, 403], at = \"/a\", is = 1, means = \"absent\" }",
            "403 cannot mean absent",
        ),
        (
            BY_ID,
            absent,
            "{ code = \"5xx\", at = \"/a\", is = 1, means = \"absent\" }",
            "500 cannot",
        ),
        (
            BY_ID,
            absent,
            "{ code = 404, at = \"/a\", is = 1, any_body = true, means = \"absent\" }",
            "contradict",
        ),
        (BY_ID, "means = \"found\"", "any_body = true, means = \"found\"", "only used with absent"),
        (BY_ID, "code = 200, means = \"found\"", "code = \"4xx\", means = \"found\"", "only a 2xx"),
        (BY_ID, ", status = \"/status\", reference", ", reference", "where the status is"),
        (BY_ID, "means = \"found\"", "means = \"not ours\"", "compared with our id"),
        // What a create's answer may mean.
        (BY_ID, created_line, "\n", "no rule means created"),
        (BY_ID, created, "{ code = \"5xx\", means = \"created\" }", "only a 2xx can mean created"),
        (BY_ID, refusal, "{ code = 500, means = \"exists\" }", "says nothing for certain"),
        (BY_ID, refusal, "{ code = \"4xx\", means = \"exists\" }", "nothing would ever be sent"),
        (BY_ID, refusal, "{ code = [401, 409], means = \"exists\" }", "about who asks and when"),
        (
            BY_ID,
            refusal,
            "{ code = [409, 429], at = \"/code\", means = \"exists\" }",
            "about who asks and when",
        ),
        (BY_ID, refusal, "{ code = [409, 422], means = \"exists\" }", ""),
        (BY_ID, refusal, "{ code = \"5xx\", means = \"blocked\" }", "it may have gone through"),
        (BY_ID, refusal, "{ code = [401, 504], means = \"blocked\" }", "it may have gone through"),
        (BY_ID, refusal, "{ code = \"4xx\", means = \"blocked\" }", "other than 408 and 409"),
        (BY_ID, refusal, "{ code = [400, 401, 402], means = \"blocked\" }", ""),
        (
            BY_ID,
            refusal,
            "{ code = 500, at = \"/code\", is = \"NO_KEY\", means = \"blocked\" }",
            "",
        ),
        (BY_ID, refusal, "{ code = 502, means = \"refused\" }", "would hide a payment"),
        (BY_ID, created, "{ code = 200, means = \"refused\" }", "it may have gone through"),
        (BY_ID, refusal, "{ code = 403, means = \"refused\" }", "concern our credentials"),
        (BY_ID, refusal, "{ code = 429, means = \"refused\" }", "says 'not now'"),
        (
            BY_ID,
            refusal,
            "{ code = 201, at = \"/a\", is = 1, means = \"exists\" }",
            "never decides",
        ),
        (
            BY_ID,
            "at = \"/code\", is = \"DUPLICATE\"",
            "is = \"DUPLICATE\"",
            "at (line 9): is missing",
        ),
        // What is sent.
        (BY_ID, "id = \"{id}\"", "id = \"{reference}\"", "our id is not sent"),
        (BY_ID, "id = \"{id}\"", "id = \"{metadata.shop?}-{id}\"", "not always"),
        (BY_ID, "id = \"{id}\"", "id = \"{id?}\"", "not always"),
        (BY_ID, "id = \"{id}\"", "id = \"{id}\", of = \"{metadata.shop?}-{id}\"", ""),
        (
            BY_PROVIDER_ID,
            "Idempotency-Key = \"{id}\"",
            "Idempotency-Key = \"{reference?}{id:hex}\"",
            "not always",
        ),
        (
            BY_PROVIDER_ID,
            "Idempotency-Key = \"{id}\"",
            "Idempotency-Key = \"{secret:shop}-{id}\"",
            "create.headers.Idempotency-Key (line 5): our id and a secret",
        ),
        (
            IN_LIST,
            "query = { reference = \"{id:hex}\"",
            "query = { reference = \"{metadata.shop?}{id:hex}\"",
            "asks for no id, or not always",
        ),
        (
            BY_ID,
            "id = \"{id}\"",
            "id = \"{provider_id}\", x = \"{id}\"",
            "only known from the answer",
        ),
        (BY_ID, "id = \"{id}\"", "id = \"{id}\", at = \"{now}\"", "the same bytes"),
        (BY_ID, "id = \"{id}\"", "id = \"{id}\", at = \"{now:+1h}\"", "the same bytes"),
        (IN_LIST, "{created_at}", "{created_at:1h}", "such as -1h"),
        (BY_ID, "/payments/{id}", "/payments/{reference}", "asks for no id"),
        (BY_ID, "/payments/{id}", "/payments/{provider_id}", "not known before a create"),
        (BY_ID, "/payments/{id}", "/payments/{id?}", "`?` is not allowed in a path"),
        (BY_ID, "/payments/{id}", "/payments/../{id}", "they lead elsewhere"),
        (BY_ID, "/payments/{id}", "/payments/%2e/{id}", "they lead elsewhere"),
        (BY_ID, "/payments/{id}", "/payments/{id}?x=1", "is not allowed in a path"),
        (BY_ID, "/payments/{id}", "/{metadata}/{id}", "is an object"),
        (BY_ID, "/payments/{id}", "/{secret:key}/{id}", "servers and proxies log it"),
        (
            BY_ID,
            "by = \"id\"",
            "by = \"id\"\nquery = { key = \"{secret:key}\" }",
            "lookup.query.key (line 13): a secret is not allowed in a query",
        ),
        (BY_ID, "repeat =", "method = \"GET\"\nrepeat =", "'GET' is not allowed"),
        (BY_ID, "repeat =", "headers = { Host = \"x\" }\nrepeat =", "set by the program"),
        (BY_ID, "repeat =", "headers = { Authorization = \"x\" }\nrepeat =", "set by [auth]"),
        (BY_ID, "repeat =", "headers = { \"a b\" = \"x\" }\nrepeat =", "not a header's name"),
        (BY_ID, "repeat =", "headers = { A = \"x\", a = \"y\" }\nrepeat =", "more than once"),
        (BY_ID, "[create]", "headers = { X = \"{id}\" }\n[create]", "belong to [create]"),
        (BY_ID, "amount = \"{amount:minor}\"", "amount = \"a {metadata}\"", "must stand alone"),
        (BY_ID, "amount = \"{amount:minor}\"", "amount = 1.5", "floating point"),
        (BY_ID, "amount = \"{amount:minor}\"", "at = 2026-01-01", "between quotes"),
        (BY_ID, "repeat =", "content = \"form\"\nrepeat =", ""),
        (BY_ID, "[create]", "exponents = { XYZ = 2 }\n[create]", "not a currency"),
        (BY_ID, "[create]", "exponents = { EUR = 9 }\n[create]", "0 to 6 digits"),
        // Third parties that are looked up by their own id.
        (BY_PROVIDER_ID, ", provider_id = \"/theirs\"", "", "could never be looked up"),
        (BY_PROVIDER_ID, "\"/theirs\"", "\"/theirs?\"", "could never be looked up"),
        (BY_PROVIDER_ID, "repeat = \"same-answer\"", new, "cannot be made safe"),
        (
            BY_PROVIDER_ID,
            "repeat = \"same-answer\"",
            "repeat = \"refused\"",
            "no rule means exists",
        ),
        (
            BY_PROVIDER_ID,
            "status = \"/status\" } ]\n[status]",
            "status = \"/status\" }, { code = 404, at = \"/a\", is = 1, means = \"absent\" } ]\n\
             [status]",
            "never a licence to create",
        ),
        (BY_PROVIDER_ID, "/{provider_id}", "/{id}", "asks for no id"),
        (
            BY_ID,
            "repeat = \"refused\"",
            &[new, "\nrepeat_within = \"1h\""].concat().leak()[..],
            "no repeat is safe",
        ),
        (BY_PROVIDER_ID, "repeat_within = \"1h\"", "repeat_within = \"20M\"", "its unit"),
        // Lists.
        (IN_LIST, "where = \"/reference\"\n", "", "a filter that the third party ignores"),
        (IN_LIST, "items = \"/data\"\n", "", "only used with `items`"),
        (IN_LIST, "\"/reference\"", "{ at = \"/reference\", is = \"x\" }", "must contain {id}"),
        (IN_LIST, "\"/reference\"", "[1]", "must be { at ="),
        // Statuses.
        (BY_ID, "[\"done\"]", "[]", "nothing would ever be completed"),
        (BY_ID, "[\"no\"]", "[\"no\", \" \"]", "is empty"),
        (BY_ID, "[\"no\"]", "[\"no\", \"Done\"]", "has one meaning"),
        (
            BY_ID,
            "[\"done\"]\ndeclined = [\"no\"]",
            "[\"payé\"]\ndeclined = [\"PAYÉ\"]",
            "has one meaning",
        ),
        (BY_ID, "[\"no\"]", "[\"no\"]\nreversible = [\"no\"]", "is not in `completed`"),
        // The rest of the language.
        (BY_ID, "profile = 1", "profile = 2", "'2' is not allowed: 1"),
        (BY_ID, "\"by-id\"", "\"By id\"", "a letter first"),
        (BY_ID, "[create]", "base_url = \"https://a@b/\"\n[create]", "without user"),
        (BY_ID, "[create]", "timeout = 5\n[create]", "a duration with its unit"),
        (BY_ID, "[create]", "rate = \"0/s\"\n[create]", "a number of calls in a time"),
    ];
    for (base, from, to, why) in cases {
        let text = with(base, from, to);
        if why.is_empty() {
            profile(&text);
            continue;
        }
        let error = refused(&text);
        assert!(error.contains(why), "{from} -> {to}\n{error}");
        assert!(error.starts_with("test.toml: "), "{error}");
    }
}

#[test]
fn a_form_has_no_tables_and_credentials_are_of_their_kind() {
    let form = with(BY_ID, "repeat =", "content = \"form\"\nrepeat =");
    let nested = with(&form, "id = \"{id}\"", "id = \"{id}\", m = { a = \"b\" }");
    assert!(refused(&nested).contains("create.body.m (line 5): a form has no lists"));
    for (auth, why) in [
        ("kind = \"digest\"", "none, bearer, basic, header or oauth2"),
        ("kind = \"bearer\"\nusername = \"x\"", "is not used with kind = \"bearer\""),
        ("kind = \"bearer\"\ntoken = \"abc\"", "never from a profile"),
        ("kind = \"bearer\"\ntoken = \"{id}\"", "only {secret:NAME} and {var:NAME}"),
        ("kind = \"basic\"\nusername = \"x\"\npassword = \"\"", "neither it nor the user name"),
        ("kind = \"header\"", "must be a header's name"),
        ("kind = \"header\"\nheader = \"Host\"", "auth.header (line 24): is set by the program"),
        (
            "kind = \"oauth2\"\ntoken_url = \"/t\"\nheaders = { Authorization = \"{secret:x}\" }",
            "auth.headers.Authorization (line 25): is set by [auth] too",
        ),
        ("kind = \"oauth2\"\ntoken_url = \"token\"", "a path of the base URL"),
        ("kind = \"oauth2\"\ntoken_url = \"/t/{secret:x}\"", "URLs are logged"),
        (
            "kind = \"none\"\ntls = { certificate = \"-----BEGIN\", key = \"{secret:key}\" }",
            "must be {secret:NAME}",
        ),
    ] {
        let error = refused(&format!("{BY_ID}[auth]\n{auth}\n"));
        assert!(error.contains(why), "{auth}: {error}");
    }
}

#[test]
fn a_secret_in_a_body_that_is_kept_is_refused() {
    let secret = "amount = \"{amount:minor}\", pin = \"{secret:pin}\"";
    let plain = "amount = \"{amount:minor}\"";
    let error = refused(&with(BY_PROVIDER_ID, plain, secret));
    assert!(error.contains("create.body") && error.contains("send it in a header"), "{error}");
    profile(&with(BY_ID, plain, secret));
}

/// Both would be sent, and most servers take that for a wrong request.
#[test]
fn a_header_that_the_credentials_set_stands_nowhere_else() {
    let all = with(BY_ID, "[create]", "headers = { x-api-key = \"{secret:key}\" }\n[create]");
    let create = with(BY_ID, "repeat =", "headers = { X-API-KEY = \"{var:key}\" }\nrepeat =");
    let lookup = with(BY_ID, "by = ", "headers = { x-api-key = \"{var:key}\" }\nby = ");
    let sign = "[sign]\nhash = \"sha256\"\nencoding = \"hex\"\nsigned = \"{target}{body}\"\n\
                headers = { x-api-key = \"{signature}\" }\n";
    let sign = format!("{BY_ID}{sign}");
    let auth = "[auth]\nkind = \"header\"\nheader = \"X-Api-Key\"\n";
    for text in [&all, &create, &lookup, &sign] {
        profile(text);
        let error = refused(&format!("{text}{auth}"));
        assert!(error.contains("write it in one place"), "{error}");
    }
    let token = with(&all, "x-api-key", "Authorization");
    profile(&token);
    for kind in ["bearer", "basic", "oauth2\"\ntoken_url = \"/t"] {
        let error = refused(&format!("{token}[auth]\nkind = \"{kind}\"\n"));
        assert!(error.contains("headers.Authorization (line 3): is set by [auth] too"), "{error}");
    }
    let host = sign.replace("x-api-key", "Host");
    assert!(refused(&host).contains("sign.headers.Host"), "{host}");
}
