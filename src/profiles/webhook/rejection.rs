//! Why a request is not taken for a webhook of the third party.

use crate::{domain::peer_answer::Unreadable, signature::MAX_SIGNATURES};

use super::extract::MAX_EVENTS;

/// Why a request is refused as a whole. What is wrong with one event of a webhook that is authentic
/// is that event's own [`super::EventProblem`]. No text holds a secret or a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the method {0} is not one of this third party's webhooks")]
    Method(String),
    #[error("the header `{0}` is missing")]
    MissingHeader(String),
    /// With two values, the sender and the receiver could mean different ones.
    #[error("the header `{0}` is there twice")]
    RepeatedHeader(String),
    #[error("the header `{header}` has no `{key}=`")]
    MissingPair { header: String, key: String },
    #[error("the header `{header}` has `{key}=` twice")]
    RepeatedPair { header: String, key: String },
    #[error("the timestamp in `{at}` must be {expected}")]
    BadTimestamp { at: String, expected: &'static str },
    #[error("the timestamp in `{0}` is older than the tolerance allows")]
    TooOld(String),
    #[error("the timestamp in `{0}` is further in the future than the tolerance allows")]
    TooNew(String),
    #[error("the header `{0}` has more than {MAX_SIGNATURES} signatures")]
    TooManySignatures(String),
    #[error("the header `{header}` has no signature of the form {expected}")]
    NoSignature { header: String, expected: String },
    #[error("no signature in `{0}` matches")]
    NoMatch(String),
    #[error("an item of the body has no signature")]
    UnsignedItem,
    #[error("the credentials in `{0}` are wrong")]
    WrongCredentials(String),
    /// The caller may fetch the key of this id and try again.
    #[error("no key has the id that the webhook names: {0}")]
    UnknownKey(String),
    #[error("`{0}` is not among what is signed")]
    NotSigned(String),
    #[error("`content-digest` is not the digest of the body")]
    Digest,
    #[error("the header `{0}` cannot be read: {1}")]
    BadSignatureHeader(&'static str, String),
    #[error("the body has more than {0} bytes")]
    TooLarge(usize),
    #[error("the body {0}")]
    Body(Unreadable),
    #[error("the body has no list at `{0}`")]
    NoItems(String),
    #[error("the body has more than {MAX_EVENTS} events")]
    TooManyEvents,
}

impl Rejection {
    /// The word under which operators find it among the rejected webhooks.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Method(_) => "method",
            Self::MissingHeader(_) | Self::MissingPair { .. } => "missing_header",
            Self::RepeatedHeader(_) | Self::RepeatedPair { .. } => "repeated_header",
            Self::BadTimestamp { .. } => "bad_timestamp",
            Self::TooOld(_) => "too_old",
            Self::TooNew(_) => "too_new",
            Self::TooManySignatures(_) => "too_many_signatures",
            Self::NoSignature { .. } | Self::NoMatch(_) | Self::UnsignedItem => "wrong_signature",
            Self::WrongCredentials(_) => "wrong_credentials",
            Self::UnknownKey(_) => "unknown_key",
            Self::NotSigned(_) | Self::Digest => "body_not_signed",
            Self::BadSignatureHeader(..) => "bad_signature_header",
            Self::TooLarge(_) => "too_large",
            Self::Body(_) => "bad_json",
            Self::NoItems(_) | Self::TooManyEvents => "bad_fields",
        }
    }

    /// Whether it is open who sent the request.
    pub fn is_about_sender(&self) -> bool {
        // No answer has this code.
        self.code(0) == 0
    }

    /// The status code of the answer. `refused_code` is the profile's, for all that leaves open who
    /// sent the request.
    pub fn code(&self, refused_code: u16) -> u16 {
        match self {
            Self::Method(_) => 405,
            Self::RepeatedHeader(_) | Self::RepeatedPair { .. } | Self::Body(_) => 400,
            Self::TooLarge(_) => 413,
            Self::NoItems(_) | Self::TooManyEvents => 422,
            _ => refused_code,
        }
    }
}
