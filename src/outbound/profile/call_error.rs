//! Why a call of a third party with a profile has no answer, and what that means.

use crate::{
    outbound::{
        sender::SendError,
        third_party_answers::{CreateError, LookupError, LookupErrorKind},
    },
    profiles::{RenderError, TokenError},
};

/// Why there is no answer.
pub(super) enum CallError {
    Send(SendError),
    Token(TokenError),
    Render(RenderError),
}

impl From<CallError> for LookupError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Send(error) => error.into(),
            CallError::Token(TokenError { reason, is_refused: true, .. }) => {
                Self::new(LookupErrorKind::NoToken, reason)
            }
            CallError::Token(TokenError { reason, retry_after, .. }) => {
                Self { reason, retry_after, kind: LookupErrorKind::Outage }
            }
            CallError::Render(why) => unrendered(&why),
        }
    }
}

/// A lookup that cannot be made: for every transaction, where the deployment is at fault.
pub(super) fn unrendered(why: &RenderError) -> LookupError {
    let kind = match why.is_configuration() {
        true => LookupErrorKind::Unauthorized,
        false => LookupErrorKind::Unusable,
    };
    LookupError::new(kind, why.to_string())
}

/// Nothing was sent without a token.
impl From<CallError> for CreateError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Send(error) => error.into(),
            CallError::Token(TokenError { reason, is_refused: true, .. }) => {
                Self::NoToken { reason }
            }
            CallError::Token(TokenError { reason, retry_after: Some(wait), .. }) => {
                Self::Busy { reason, retry_after: Some(wait), may_be_lost: false, is_outage: true }
            }
            CallError::Token(TokenError { reason, .. }) => Self::Unreachable { reason },
            CallError::Render(why) if why.is_configuration() => {
                Self::Unauthorized { reason: why.to_string() }
            }
            CallError::Render(why) => Self::Rejected { reason: format!("was not sent: {why}") },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn token(is_refused: bool, retry_after: Option<Duration>) -> CallError {
        CallError::Token(TokenError { reason: "no".to_owned(), is_refused, retry_after })
    }

    #[test]
    fn a_refused_token_is_not_a_refusal_of_one_transaction() {
        for retry_after in [None, Some(Duration::from_secs(7))] {
            let refused = || token(true, retry_after);
            assert!(matches!(CreateError::from(refused()), CreateError::NoToken { .. }));
            assert_eq!(LookupError::from(refused()).kind, LookupErrorKind::NoToken);
        }
        let unanswered = || token(false, None);
        assert!(matches!(CreateError::from(unanswered()), CreateError::Unreachable { .. }));
        assert_eq!(LookupError::from(unanswered()).kind, LookupErrorKind::Outage);
    }

    #[test]
    fn a_token_that_is_to_be_asked_for_later_postpones_the_call() {
        let retry_after = Some(Duration::from_secs(7));
        let busy = CreateError::from(token(false, retry_after));
        assert!(busy.is_outage(), "{busy:?}");
        let (reason, may_be_lost, is_outage) = ("no".to_owned(), false, true);
        assert_eq!(busy, CreateError::Busy { reason, retry_after, may_be_lost, is_outage });
        let error = LookupError::from(token(false, retry_after));
        assert_eq!((error.kind, error.retry_after), (LookupErrorKind::Outage, retry_after));
    }
}
