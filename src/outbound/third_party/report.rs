//! Reading an answer of 2xx by Quartet's own contract.

use reqwest::{Response, StatusCode};
use serde_json::{Value, from_str};
use uuid::Uuid;

use crate::{
    domain::peer_answer::{self, Field, MAX_EXCERPT_CHARS, Report, excerpt},
    outbound::{
        answer::{self, BodyError},
        third_party_answers::{LookupError, LookupErrorKind, StatusReport},
    },
};

/// What an answer of 2xx says about `id`. An error where it broke off, cannot be read or says
/// nothing about it.
pub(super) async fn read_report(
    id: Uuid,
    status: StatusCode,
    response: Response,
) -> Result<StatusReport, LookupError> {
    let code = status.as_u16();
    let text = answer::text(response).await.map_err(|error| {
        let kind = match error {
            BodyError::BrokeOff => LookupErrorKind::Outage,
            _ => LookupErrorKind::Unusable,
        };
        LookupError::new(kind, format!("answered {code}, but {error}"))
    })?;
    report(id, code, &text)
}

fn report(id: Uuid, code: u16, text: &str) -> Result<StatusReport, LookupError> {
    let unusable = |reason| Err(LookupError::new(LookupErrorKind::Unusable, reason));
    let body = excerpt(text, MAX_EXCERPT_CHARS);
    match peer_answer::report(id, text) {
        Ok(Report { status: Some(status), .. }) => {
            Ok(StatusReport { status: Some(status), ..StatusReport::default() })
        }
        Ok(_) if says_nothing(text) => {
            unusable(format!("answered {code} with neither our id nor a status: {body}"))
        }
        Ok(Report { unknown: Some(word), .. }) => Ok(StatusReport::unusable(format!(
            "answered {code} with the unknown status `{word}`: {body}"
        ))),
        Ok(_) => Ok(StatusReport::unusable(format!("answered {code} without a status: {body}"))),
        Err(why) => {
            let body = if body.is_empty() { body } else { format!(": {body}") };
            unusable(format!("answered {code}, but the answer {why}{body}"))
        }
    }
}

/// Whether an answer that can be read has neither an id nor a status word, such as
/// `{"message":"maintenance"}`: it may be about anything, so it does not say that the transaction
/// exists.
fn says_nothing(text: &str) -> bool {
    let Ok([id, status]) = peer_answer::fields(text, ["id", "status"]) else { return true };
    let is_word = match &status {
        Field::Text(_) => true,
        // As a profile reads it.
        Field::Other(raw) => matches!(from_str(raw), Ok(Value::Number(_) | Value::Bool(_))),
        Field::Missing | Field::Unreadable | Field::Repeated => false,
    };
    id == Field::Missing && !is_word
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ReportedStatus;

    const ID: Uuid = Uuid::from_u128(7);

    #[test]
    fn our_id_or_a_status_says_that_it_exists() {
        let ours = format!(r#"{{"id":"{ID}","status":"odd"}}"#);
        let bare = format!(r#"{{"id":"{ID}"}}"#);
        for (text, status, said) in [
            (r#"{"status":"completed"}"#, Some(ReportedStatus::Completed), None),
            (r#"{"status":"odd"}"#, None, Some("with the unknown status `odd`")),
            (r#"{"status":1}"#, None, Some("with the unknown status `1`")),
            (ours.as_str(), None, Some("with the unknown status `odd`")),
            (bare.as_str(), None, Some("without a status")),
        ] {
            let report = report(ID, 200, text).unwrap();
            assert_eq!(report.status, status, "{text}");
            match (&report.unusable, said) {
                (None, None) => {}
                (Some(unusable), Some(said)) => assert!(unusable.contains(said), "{unusable}"),
                (unusable, _) => panic!("{text}: {unusable:?}"),
            }
        }
    }

    #[test]
    fn an_answer_without_both_is_no_answer() {
        for text in [
            "{}",
            r#"{"message":"maintenance"}"#,
            r#"{"status":null}"#,
            r#"{"status":{"message":"maintenance"}}"#,
            r#"{"data":{"id":"00000000-0000-0000-0000-000000000007","status":"completed"}}"#,
        ] {
            let error = report(ID, 200, text).unwrap_err();
            assert_eq!((error.kind, error.retry_after), (LookupErrorKind::Unusable, None));
            assert!(error.reason.contains("neither our id nor a status"), "{}", error.reason);
        }
    }
}
