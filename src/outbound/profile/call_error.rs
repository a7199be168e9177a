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
            CallError::Token(TokenError { reason, is_refused: true }) => {
                Self::new(LookupErrorKind::NoToken, reason)
            }
            CallError::Token(TokenError { reason, .. }) => {
                Self::new(LookupErrorKind::Outage, reason)
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
            CallError::Token(TokenError { reason, is_refused: true }) => Self::NoToken { reason },
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
    use super::*;

    #[test]
    fn a_refused_token_is_not_a_refusal_of_one_transaction() {
        let token =
            |is_refused| CallError::Token(TokenError { reason: "no".to_owned(), is_refused });
        assert!(matches!(CreateError::from(token(true)), CreateError::NoToken { .. }));
        assert_eq!(LookupError::from(token(true)).kind, LookupErrorKind::NoToken);
        assert!(matches!(CreateError::from(token(false)), CreateError::Unreachable { .. }));
        assert_eq!(LookupError::from(token(false)).kind, LookupErrorKind::Outage);
    }
}
