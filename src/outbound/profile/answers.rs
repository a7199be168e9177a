//! Answers of a third party, read by its profile, with the rule that decided. What an answer means
//! is read from all of it; what people read of it is without our secrets.

use std::{borrow::Cow, time::Duration};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Response;
use serde_json::Value;

use crate::{
    domain::DatabaseClock,
    outbound::{answer, retry_after, third_party_answers::StatusReport},
    profiles::{Answer, Header, Profile, Reading, SecretText, Values},
};

/// Shorter secrets are not looked for in answers: they would be found everywhere.
const MIN_REDACTED: usize = 6;
const REDACTED: &str = "[redacted]";

/// An answer.
pub(super) struct Answered {
    pub code: u16,
    body: Result<String, String>,
    /// The body without our secrets, where it repeats any.
    redacted: Option<String>,
    pub retry_after: Option<Duration>,
}

impl Answered {
    /// Reads it: its texts are for people, and so without our secrets.
    pub fn read<M>(&self, read: impl Fn(&Answer<'_>) -> Reading<M>) -> Reading<M> {
        let code = self.code;
        let body = self.body.as_deref().map_err(String::as_str);
        let reading = read(&Answer { code, body });
        let Some(redacted) = &self.redacted else { return reading };
        let printed = read(&Answer { code, body: Ok(redacted) });
        Reading {
            // A word that is not known is printed; one that is known holds no secret.
            status: if reading.known_status().is_some() { reading.status } else { printed.status },
            reason: reading.reason.and(printed.reason),
            strange: reading.strange.map(|_| printed.strange.unwrap_or(printed.said.clone())),
            said: printed.said,
            ..reading
        }
    }
}

/// Reads an answer to a request with these headers.
pub(super) async fn read_answer(
    response: Response,
    values: &Values,
    headers: &[Header],
    clock: &DatabaseClock,
) -> Answered {
    let code = response.status().as_u16();
    let retry_after = retry_after(&response, clock);
    let body = answer::text(response).await.map_err(|error| error.to_string());
    let redacted = body.as_ref().ok().and_then(|text| redacted(text, values, headers));
    Answered { code, body, redacted, retry_after }
}

/// The text without what it repeats of our secrets, where it does.
fn redacted(text: &str, values: &Values, headers: &[Header]) -> Option<String> {
    let mut clean = Cow::Borrowed(text);
    let secrets = values.secrets.values().map(SecretText::expose);
    let headers = headers.iter().filter(|header| header.is_secret);
    // Of `Bearer …` and the like, what follows.
    let headers = headers.filter_map(|header| header.value.rsplit(' ').next());
    for secret in secrets.chain(headers).filter(|secret| secret.len() >= MIN_REDACTED) {
        for written in spellings(secret) {
            if clean.contains(&written) {
                clean = Cow::Owned(clean.replace(&written, REDACTED));
            }
        }
    }
    match clean {
        Cow::Borrowed(_) => None,
        Cow::Owned(clean) => Some(clean),
    }
}

/// A text as it stands in plain text, in JSON (some writers escape `/`), and in a form.
fn spellings(secret: &str) -> [String; 4] {
    let json = Value::from(secret).to_string();
    let json = json.trim_matches('"').to_owned();
    let slashes = json.replace('/', "\\/");
    let form = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
    [secret.to_owned(), json, slashes, form]
}

/// The answer and the rule that decided its meaning, for an operator.
pub(super) fn reason<M>(read: &Reading<M>) -> String {
    let said = read.strange.as_ref().unwrap_or(&read.said);
    let why = read.reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    format!("{said}{why}, read by {}", read.decided_by)
}

/// What the answer says of the transaction.
pub(super) fn report<M>(read: Reading<M>, profile: &Profile) -> StatusReport {
    StatusReport {
        status: read.known_status(),
        unusable: read.strange.as_ref().map(|_| reason(&read)),
        rule: Some(read.decided_by.to_string()),
        profile_hash: Some(hex::encode(profile.hash())),
        provider_id: read.provider_id,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::profiles::{Shipped, ThirdParty};

    #[test]
    fn an_answer_that_repeats_a_secret_is_without_it() {
        let mut values = Values::default();
        values.secrets.insert("token".to_owned(), "sk_hush_1".to_owned().into());
        values.secrets.insert("pin".to_owned(), "12".to_owned().into());
        let header = |value: &str, is_secret| Header {
            name: "x".to_owned(),
            value: value.to_owned(),
            is_secret,
        };
        let headers = [header("Basic dXNlcjpwYXNz", true), header("public", false)];
        let text = r#"{"error":"sk_hush_1, dXNlcjpwYXNz, public, 12"}"#;
        let expected = r#"{"error":"[redacted], [redacted], public, 12"}"#;
        assert_eq!(redacted(text, &values, &headers).as_deref(), Some(expected));
        assert_eq!(redacted("public", &values, &headers), None);
    }

    #[test]
    fn a_secret_is_found_however_it_is_written() {
        let mut values = Values::default();
        values.secrets.insert("key".to_owned(), "a/b+\"c\"=".to_owned().into());
        for written in [r#"a/b+"c"="#, r#"a/b+\"c\"="#, r#"a\/b+\"c\"="#, "a%2Fb%2B%22c%22%3D"] {
            let clean = redacted(&format!("<{written}>"), &values, &[]);
            assert_eq!(clean.as_deref(), Some("<[redacted]>"), "{written}");
        }
    }

    #[test]
    fn an_answer_means_the_same_where_its_words_are_a_secret() {
        let profile = Shipped::named("paystack").unwrap().profile().unwrap();
        let mut values = Values::default();
        values.secrets.insert("user".to_owned(), "transfer_code".to_owned().into());
        let body = r#"{"status":true,"data":{"transfer_code":"T1","status":"success"}}"#;
        let redacted = redacted(body, &values, &[]);
        assert!(redacted.is_some());
        let answered =
            Answered { code: 200, body: Ok(body.to_owned()), redacted, retry_after: None };
        let read = answered.read(|answer| profile.read_create(Uuid::nil(), answer));
        assert_eq!(read.provider_id.as_deref(), Some("T1"));
        assert!(!read.said.contains("transfer_code"), "{}", read.said);
    }

    #[test]
    fn a_report_names_its_rule() {
        let profile = Shipped::named("paystack").unwrap().profile().unwrap();
        let body = r#"{"status":true,"data":{"transfer_code":"T1","status":"odd"}}"#;
        let read = profile.read_create(Uuid::nil(), &Answer { code: 200, body: Ok(body) });
        let report = report(read, &profile);
        assert_eq!(report.provider_id.as_deref(), Some("T1"));
        assert_eq!(report.status, None);
        assert!(report.rule.as_ref().unwrap().starts_with("paystack: create.answers[1]"));
        assert!(report.unusable.unwrap().contains("unknown status `odd`"));
    }
}
