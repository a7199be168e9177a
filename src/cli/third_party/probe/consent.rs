//! Whether a transaction may be created: nothing that may move money is done by mistake.

use std::io::{IsTerminal, stdin};

use url::Url;

use super::{super::CliError, ProbeArgs};
use crate::{config::Config, outbound::probe::is_this_machine};

/// Words in the names of hosts on which no money is moved.
const SANDBOX_WORDS: [&str; 5] = ["sandbox", "test", "testing", "staging", "localhost"];
/// What the keys of some providers begin with that move no money.
const TEST_KEYS: [&str; 4] = ["sk_test_", "rk_test_", "test_", "sandbox_"];

/// Asks, unless that was said on the command line.
pub(super) fn ask(args: &ProbeArgs, config: &Config, base_url: &str) -> Result<(), CliError> {
    let host = host(base_url);
    if !is_sandbox(base_url) && !has_test_key(config) && !args.i_know_this_moves_money {
        return Err(CliError::Failed(format!(
            "{host} does not say that it is a sandbox: a transaction there may move money. Add \
             --i-know-this-moves-money if it may"
        )));
    }
    if args.yes {
        return Ok(());
    }
    if !stdin().is_terminal() {
        let text = "a transaction is created: confirm it with --yes";
        return Err(CliError::Failed(text.to_owned()));
    }
    eprintln!(
        "This creates a transaction of {} (minor units) at {host}, and sends it again. Type the \
         host's name to go on:",
        args.amount
    );
    let mut line = String::new();
    stdin().read_line(&mut line)?;
    match line.trim() == host {
        true => Ok(()),
        false => Err(CliError::Failed("nothing was created".to_owned())),
    }
}

/// Whether the host's name says that no money is moved there.
fn is_sandbox(base_url: &str) -> bool {
    let host = host(base_url).to_ascii_lowercase();
    is_this_machine(base_url) || host.split(['.', '-']).any(|word| SANDBOX_WORDS.contains(&word))
}

fn has_test_key(config: &Config) -> bool {
    let values = config.third_party.profile.as_ref().map(|profile| profile.values.get());
    values.is_some_and(|values| {
        let token = values.secrets.get("token");
        token.is_some_and(|token| TEST_KEYS.iter().any(|start| token.expose().starts_with(start)))
    })
}

fn host(base_url: &str) -> String {
    let url = Url::parse(base_url).ok();
    url.as_ref().and_then(Url::host_str).unwrap_or(base_url).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_says_so_in_its_name() {
        for url in [
            "http://127.0.0.1:9090",
            "http://[::1]:9090",
            "http://localhost/x",
            "https://sandbox.momodeveloper.mtn.com",
            "https://api.sandbox.pawapay.io",
            "https://api-sandbox.gocardless.com",
        ] {
            assert!(is_sandbox(url), "{url}");
        }
        for url in ["https://api.stripe.com", "https://latest.bank.example", "https://10.0.0.1"] {
            assert!(!is_sandbox(url), "{url}");
        }
    }
}
