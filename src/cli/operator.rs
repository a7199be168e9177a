//! What the operators' commands share: who acts, and with what.

use nix::unistd::{User, getuid};

use super::{
    CliError, connect,
    table::{Table, shortened},
};
use crate::{
    config::Config, http::operator::MAX_NOTE, jobs, operations::Operations,
    outbound::ThirdPartyClients,
};

/// What operators' commands work with that ask the third party nothing.
pub(super) async fn operations(config: &Config) -> Result<Operations, CliError> {
    Ok(Operations {
        pool: connect(config).await?,
        plan: jobs::plan(config),
        third_parties: ThirdPartyClients::default(),
        dead_after: config.worker.dead_after,
        announcer: None,
    })
}

/// What operators' commands work with that may ask the third party.
pub(super) async fn operations_with_third_party(config: &Config) -> Result<Operations, CliError> {
    let operations = operations(config).await?;
    let third_parties = ThirdPartyClients::new(
        config,
        |name| config.webhook_url_of(name, config.http.listen),
        |name, client| client.with_leases(jobs::call_leases(&operations.pool, name)),
    );
    let third_parties = third_parties.map_err(crate::app::AppError::from)?;
    Ok(Operations { third_parties, ..operations })
}

/// Characters of an account's name: those of a directory service may be long.
const MAX_ACCOUNT: usize = 40;

/// Who acts on the command line: the system's account, which the environment cannot change, and
/// before it the name that the operator goes by, where one was given.
pub(super) fn operator(config: &Config) -> String {
    let account = account();
    match &config.operator_name {
        Some(name) => format!("operator ({name}; {account}, command line)"),
        None => format!("operator ({account}, command line)"),
    }
}

/// The account that this process runs as.
fn account() -> String {
    let uid = getuid();
    match User::from_uid(uid) {
        Ok(Some(user)) => format!("{}, uid {uid}", shortened(&user.name, MAX_ACCOUNT)),
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}

/// Reads a note, with the limit that the API has.
pub(super) fn note(text: &str) -> Result<String, String> {
    if text.chars().count() > MAX_NOTE {
        return Err(format!("must be at most {MAX_NOTE} characters"));
    }
    Ok(text.to_owned())
}

/// Reads a note that must say something.
pub(super) fn reason(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("must say why".to_owned());
    }
    note(text)
}

/// Prints something of the API's as JSON, on one line.
pub(super) fn print_json(value: &impl poem_openapi::types::ToJSON) {
    println!("{}", value.to_json_string());
}

/// Prints a page of a list, and on stderr where the next one starts.
pub(super) fn print_page<const N: usize>(table: &Table<N>, limit: u32, next_cursor: Option<&str>) {
    println!("{table}");
    if let Some(cursor) = next_cursor {
        eprintln!("The first {limit} are listed; there are more (--limit, or --cursor {cursor})");
    }
}
