//! Why a call that a profile describes has no answer.

use super::tokens::TokenError;
use crate::{
    outbound::{
        sender::SendError,
        third_party_answers::{CreateError, LookupError, LookupErrorKind},
    },
    profiles::RenderError,
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
                Self::new(LookupErrorKind::Unauthorized, reason)
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
            CallError::Token(TokenError { reason, is_refused: true }) => {
                Self::Unauthorized { reason }
            }
            CallError::Token(TokenError { reason, .. }) => Self::Unreachable { reason },
            CallError::Render(why) if why.is_configuration() => {
                Self::Unauthorized { reason: why.to_string() }
            }
            CallError::Render(why) => Self::Rejected { reason: format!("was not sent: {why}") },
        }
    }
}
