//! What the operators' commands share: who acts, and with what.

use comfy_table::{ContentArrangement, Table};

use super::{CliError, connect};
use crate::{
    clients::ThirdPartyClient,
    config::Config,
    http::{auth, operator::MAX_NOTE},
    jobs,
    operations::Operations,
};

/// What operators' commands work with.
pub(super) fn operations(config: &Config) -> Result<Operations, CliError> {
    let webhook_url = config.webhook_url(config.http.listen);
    let third_party = match &config.third_party.base_url {
        Some(_) => Some(
            ThirdPartyClient::new(&config.third_party, &config.dns, webhook_url)
                .map_err(crate::app::AppError::from)?,
        ),
        None => None,
    };
    Ok(Operations {
        pool: connect(config)?,
        plan: jobs::plan(config),
        third_party,
        dead_after: config.worker.dead_after,
    })
}

/// Who acts on the command line: the operating system's name of the user, where there is one.
pub(super) fn operator() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let name = match user.filter(|user| !user.is_empty()) {
        Some(user) => format!("{user}, command line"),
        None => "command line".to_owned(),
    };
    auth::operator_name(&name).unwrap_or_else(|| "operator (command line)".to_owned())
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

/// A table for a terminal.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    table
}

/// Prints something of the API's as JSON, on one line.
pub(super) fn print_json(value: &impl poem_openapi::types::ToJSON) {
    println!("{}", value.to_json_string());
}
