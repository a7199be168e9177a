//! Who operates.

use super::super::{
    credentials::operator_tokens,
    settings::Settings,
    value::{Redacted, name},
};

/// Reads `QUARTET_OPERATOR_TOKEN`: the hash of each token.
pub(in crate::config) fn read_operator_tokens(settings: &mut Settings) -> Vec<Redacted<[u8; 32]>> {
    let tokens = settings.secret(
        "QUARTET_OPERATOR_TOKEN",
        operator_tokens,
        "Bearer token of the operator API; use 32 random characters or more. Tokens shorter than \
         16 characters, with quotes, or copied from an example are refused. Separate several with \
         commas; each is accepted. Unset, the operator API is closed",
    );
    tokens.unwrap_or_default()
}

/// `QUARTET_OPERATOR_NAME`.
pub(in crate::config) fn read_operator_name(settings: &mut Settings) -> Option<String> {
    settings.optional(
        "QUARTET_OPERATOR_NAME",
        name,
        "Name of the operator on the command line, for the audit, which also records the operating \
         system's account. `--operator` overrides it",
    )
}
