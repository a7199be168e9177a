//! `quartet circuit`: whether a third party is called, on the command line.

use clap::Args;

use super::{CliError, connect, operator::print_json, table};
use crate::{
    config::Config,
    domain::{CircuitState, DEFAULT_THIRD_PARTY, ThirdPartyName},
    http::operator::schema,
    store::circuit::{self, Circuit},
};

#[derive(Debug, Args)]
pub(super) struct CircuitArgs {
    /// Name of the third party
    #[arg(long, value_name = "NAME", default_value = DEFAULT_THIRD_PARTY,
        value_parser = ThirdPartyName::parse)]
    third_party: ThirdPartyName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: CircuitArgs) -> Result<(), CliError> {
    let circuit = circuit::get(&connect(config).await?, &args.third_party).await?;
    if args.json {
        print_json(&schema::Circuit::from(circuit));
    } else {
        print(&circuit);
    }
    Ok(())
}

fn print(circuit: &Circuit) {
    let time = |at: Option<chrono::DateTime<chrono::Utc>>| at.map(table::time).unwrap_or_default();
    let reason = circuit.reason.as_deref().unwrap_or("none");
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
