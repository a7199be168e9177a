//! Answers of a third party, read by its profile: without our secrets, and with the rule that
//! decided.

use std::time::Duration;

use reqwest::Response;

use crate::{
    domain::DatabaseClock,
    outbound::{answer, retry_after, third_party_answers::StatusReport},
    profiles::{Answer, Header, Profile, Reading, SecretText, Values},
};

/// Shorter secrets are not looked for in answers: they would be found everywhere.
const MIN_REDACTED: usize = 6;
const REDACTED: &str = "[redacted]";

/// An answer, without our secrets.
pub(super) struct Answered {
    pub code: u16,
    pub body: Result<String, String>,
    pub retry_after: Option<Duration>,
}

impl Answered {
    pub fn as_answer(&self) -> Answer<'_> {
        Answer { code: self.code, body: self.body.as_deref().map_err(String::as_str) }
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
    Answered { code, body: body.map(|text| redacted(text, values, headers)), retry_after }
}

/// The text without what it repeats of our secrets.
fn redacted(mut text: String, values: &Values, headers: &[Header]) -> String {
    let secrets = values.secrets.values().map(SecretText::expose);
    let headers = headers.iter().filter(|header| header.is_secret);
    // Of `Bearer …` and the like, what follows.
    let headers = headers.filter_map(|header| header.value.rsplit(' ').next());
    for secret in secrets.chain(headers).filter(|secret| secret.len() >= MIN_REDACTED) {
        if text.contains(secret) {
            text = text.replace(secret, REDACTED);
        }
    }
    text
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
        let text = r#"{"error":"sk_hush_1, dXNlcjpwYXNz, public, 12"}"#.to_owned();
        let expected = r#"{"error":"[redacted], [redacted], public, 12"}"#;
        assert_eq!(redacted(text, &values, &headers), expected);
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
