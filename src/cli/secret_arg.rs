//! A signing secret on the command line.

use std::ffi::OsStr;

use clap::{Arg, Command, Error, builder::TypedValueParser, error::ErrorKind};

use crate::signature::Secret;

/// Reads `whsec_…`. Other than clap's own parsers it does not repeat what it cannot read, which may
/// be most of a secret.
#[derive(Debug, Clone, Copy)]
pub(super) struct SecretArg;

impl TypedValueParser for SecretArg {
    type Value = Secret;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Secret, Error> {
        let text = value.to_string_lossy();
        text.parse().map_err(|error| {
            let arg = arg.map(ToString::to_string).unwrap_or_default();
            let message = format!("invalid value for '{arg}': {error}\n");
            Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        })
    }
}
