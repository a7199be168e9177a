//! `quartet circuit`: whether the third parties are called, on the command line.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use clap::Args;
use poem_openapi::types::ToJSON;
use serde_json::Value;

use super::{CliError, connect, operator::print_json, table};
use crate::{
    config::Config,
    domain::{CircuitState, ThirdPartyName},
    http::operator::schema,
    store::circuit::{self, Circuit, Circuits},
};

/// Characters of a reason in the list; with `--third-party` all of them are printed.
const MAX_REASON: usize = 60;

#[derive(Debug, Args)]
pub(super) struct CircuitArgs {
    /// Only that of the third party of this name; third-party is the one without a name
    #[arg(long, value_name = "NAME", value_parser = ThirdPartyName::parse)]
    third_party: Option<ThirdPartyName>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: CircuitArgs) -> Result<(), CliError> {
    let circuits = circuit::get_all(&connect(config).await?).await?;
    let configured = config.all_third_parties().map(|(name, _)| name);
    // A process may be configured otherwise than this command: what has opened is known as well.
    let known: BTreeSet<ThirdPartyName> = configured.chain(circuits.opened()).collect();
    match args.third_party {
        Some(name) if !known.contains(&name) => {
            return Err(CliError::Failed(format!("there is no third party named {name}")));
        }
        Some(name) if args.json => print_json(&schema::Circuit::from(circuits.of(&name))),
        Some(name) => print(&circuits.of(&name)),
        None => {
            let listed = open_first(known, &circuits);
            if args.json {
                println!("{}", Value::from_iter(listed.into_iter().map(named_json)));
            } else {
                listed.iter().for_each(|(name, circuit)| println!("{}", line(name, circuit)));
            }
        }
    }
    Ok(())
}

/// The open ones, then the half-open ones, then the closed ones; each by name.
fn open_first(
    names: BTreeSet<ThirdPartyName>,
    circuits: &Circuits,
) -> Vec<(ThirdPartyName, Circuit)> {
    let mut listed: Vec<_> = names
        .into_iter()
        .map(|name| {
            let circuit = circuits.of(&name);
            (name, circuit)
        })
        .collect();
    listed.sort_by_key(|(_, circuit)| match circuit.state {
        CircuitState::Open => 0,
        CircuitState::HalfOpen => 1,
        CircuitState::Closed => 2,
    });
    listed
}

/// The API's circuit, with the third party's name.
fn named_json((name, circuit): (ThirdPartyName, Circuit)) -> Value {
    let mut json = schema::Circuit::from(circuit).to_json().unwrap_or_default();
    json["third_party"] = name.as_str().into();
    json
}

fn line(name: &ThirdPartyName, circuit: &Circuit) -> String {
    let reason = table::shortened(reason(circuit), MAX_REASON);
    match circuit.state {
        CircuitState::Closed => {
            format!("{name}: closed, has opened {} times; last reason: {reason}", circuit.trips)
        }
        CircuitState::Open => {
            format!("{name}: open, no call is made until {}: {reason}", time(circuit.open_until))
        }
        CircuitState::HalfOpen => {
            let since = time(circuit.opened_at);
            format!("{name}: half_open, one call at a time is tried, since {since}: {reason}")
        }
    }
}

fn print(circuit: &Circuit) {
    let reason = reason(circuit);
    match circuit.state {
        CircuitState::Closed => {
            println!("closed: the third party is called.");
            println!("It has opened {} times; last reason: {reason}.", circuit.trips);
            return;
        }
        CircuitState::Open => {
            println!("open: no call is made until {}.", time(circuit.open_until));
        }
        CircuitState::HalfOpen => println!("half_open: one call at a time is tried."),
    }
    println!("Since {}: {reason}.", time(circuit.opened_at));
}

fn reason(circuit: &Circuit) -> &str {
    circuit.reason.as_deref().unwrap_or("none")
}

fn time(at: Option<DateTime<Utc>>) -> String {
    at.map(table::time).unwrap_or_default()
}
