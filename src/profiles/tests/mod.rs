//! Profiles as a whole: what the loader refuses, what is sent, what answers mean, and that no
//! accepted profile doubles or hides a payment.

mod answers;
mod credentials;
mod loader;
mod model;
mod requests;
mod shipped;
mod signing;
mod world;

use std::collections::BTreeMap;

use chrono::DateTime;
use uuid::Uuid;

use super::{Inputs, Profile, SecretText, Values};
use crate::domain::Content;

const ID: Uuid = Uuid::from_u128(0x6f1c_2f0e_7a52_4b7e_9d6a_2d2a_0a4d_9b11);

/// A third party that is looked up by our id.
const BY_ID: &str = r#"profile = 1
name = "by-id"
[create]
path = "/payments"
body = { id = "{id}", amount = "{amount:minor}" }
repeat = "refused"
answers = [
  { code = 201, means = "created", status = "/status" },
  { code = 409, at = "/code", is = "DUPLICATE", means = "exists" },
]
[lookup]
by = "id"
path = "/payments/{id}"
answers = [
  { code = 200, means = "found", status = "/status", reference = "/id", provider_id = "/theirs?" },
  { code = 404, at = "/code", is = "NOT_FOUND", means = "absent" },
]
[status]
pending = ["open"]
completed = ["done"]
declined = ["no"]
"#;

/// One that is looked up by its own id.
const BY_PROVIDER_ID: &str = r#"profile = 1
name = "by-provider-id"
[create]
path = "/payments"
headers = { Idempotency-Key = "{id}" }
body = { amount = "{amount:minor}" }
repeat = "same-answer"
repeat_within = "1h"
answers = [ { code = 201, means = "created", provider_id = "/theirs", status = "/status" } ]
[lookup]
by = "provider_id"
path = "/payments/{provider_id}"
answers = [ { code = 200, means = "found", status = "/status" } ]
[status]
completed = ["done"]
"#;

/// One that is looked up in a filtered list.
const IN_LIST: &str = r#"profile = 1
name = "in-list"
[create]
path = "/payments"
body = { reference = "{id:hex}" }
repeat = "refused"
answers = [ { code = 201, means = "created" } ]
[lookup]
by = "id"
path = "/payments"
query = { reference = "{id:hex}", since = "{created_at}", limit = 10 }
items = "/data"
where = "/reference"
settle_after = "30s"
answers = [ { code = 200, means = "found", status = "/status", provider_id = "/id" } ]
[status]
completed = ["done"]
declined = ["no"]
"#;

fn profile(text: &str) -> Profile {
    Profile::parse("test.toml", text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The profile with a part of its text replaced, which must be there.
fn with(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} is not in {text}");
    text.replacen(from, to, 1)
}

fn content(metadata: &[(&str, &str)]) -> Content {
    Content {
        amount: Some(1250),
        currency: Some("EUR".to_owned()),
        reference: Some("Invoice 117".to_owned()),
        metadata: Some(
            metadata.iter().map(|(key, text)| (key.to_string(), text.to_string())).collect(),
        ),
    }
}

fn values(secrets: &[(&str, &str)]) -> Values {
    let secrets = secrets
        .iter()
        .map(|(name, text)| (name.to_string(), SecretText::from(text.to_string())))
        .collect();
    Values { vars: BTreeMap::from([("region".to_owned(), "eu".to_owned())]), secrets }
}

fn inputs<'a>(content: &'a Content, values: &'a Values) -> Inputs<'a> {
    Inputs {
        id: ID,
        content,
        provider_id: None,
        created_at: DateTime::from_timestamp(1_767_225_600, 999_000_000).unwrap(),
        now: DateTime::from_timestamp(1_767_225_700, 0).unwrap(),
        webhook_url: "https://quartet.example/v1/webhooks/x",
        values,
    }
}
