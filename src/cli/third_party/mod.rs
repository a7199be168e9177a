//! `quartet third-party`: the profiles in the program, and what a profile does: offline, and against
//! the real third party ([`probe`]).

mod probe;

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use clap::Subcommand;

use super::CliError;
use crate::profiles::{Cases, Profile, SHIPPED, Shipped, WEBHOOK_SECRETS};

/// Longest file that is read.
const MAX_FILE: u64 = 1024 * 1024;

/// What to do with profiles.
#[derive(Debug, Subcommand)]
pub(super) enum ThirdPartyCommand {
    /// List the profiles that come with the program; none is endorsed by its provider
    List,
    /// Print a profile that comes with the program, to start your own from
    Show {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Print the requests that a profile makes, with secrets masked, and run its recorded cases
    Check {
        /// The name of a profile that comes with the program, or a file, FILE.toml, beside which
        /// FILE.cases.toml may hold more cases
        #[arg(value_name = "PROFILE-OR-FILE")]
        profile: String,
    },
    /// Try a profile against the third party at QUARTET_THIRD_PARTY__BASE_URL; without --live it
    /// looks up what is not there, and changes nothing
    Probe(Box<probe::ProbeArgs>),
}

pub(super) async fn run(file: Option<PathBuf>, command: ThirdPartyCommand) -> Result<(), CliError> {
    match command {
        ThirdPartyCommand::List => {
            for shipped in SHIPPED {
                println!("{}", shipped.name);
            }
            Ok(())
        }
        ThirdPartyCommand::Show { name } => {
            print!("{}", named(&name)?.text);
            Ok(())
        }
        ThirdPartyCommand::Check { profile } => {
            let (profile, cases) = load(&profile)?;
            check(&profile, &cases)
        }
        ThirdPartyCommand::Probe(args) => probe::run(file, *args).await,
    }
}

fn named(name: &str) -> Result<&'static Shipped, CliError> {
    Shipped::named(name).ok_or_else(|| {
        let names: Vec<&str> = SHIPPED.iter().map(|shipped| shipped.name).collect();
        CliError::Failed(format!(
            "there is no profile '{name}' in the program; there are {}. A file is given with its \
             ending, .toml",
            names.join(", ")
        ))
    })
}

/// The profile of this name, or in this file, with its cases.
fn load(argument: &str) -> Result<(Profile, Cases), CliError> {
    if !argument.ends_with(".toml") && !argument.contains('/') {
        let shipped = named(argument)?;
        let profile = shipped.profile()?;
        let cases = shipped.recorded_cases(&profile)?;
        return Ok((profile, cases));
    }
    let path = Path::new(argument);
    let text = read(path)?.ok_or_else(|| CliError::Failed(format!("there is no {argument}")))?;
    let profile = Profile::parse(argument, &text)?;
    let beside: PathBuf = path.with_extension("cases.toml");
    let beside_name = beside.display().to_string();
    let recorded = read(&beside)?;
    let beside = recorded.as_deref().map(|text| (beside_name.as_str(), text));
    let cases = Cases::of(&profile, beside)?;
    Ok((profile, cases))
}

/// The text of a file; `None`: there is none.
fn read(path: &Path) -> Result<Option<String>, CliError> {
    let unreadable = |why: &dyn std::fmt::Display| {
        CliError::Failed(format!("{} cannot be read: {why}", path.display()))
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(&error)),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|error| unreadable(&error))?;
    if text.len() as u64 > MAX_FILE {
        return Err(unreadable(&format!("it is longer than {MAX_FILE} bytes")));
    }
    Ok(Some(text))
}

fn check(profile: &Profile, cases: &Cases) -> Result<(), CliError> {
    let base_url = profile.base_url().unwrap_or("set by the deployment");
    println!("# {}; base URL: {base_url}", profile.name());
    let [create, lookup] = cases.show_requests(profile);
    let token = cases.show_token_request(profile);
    let requests = [("Token", token), ("Create", Some(create)), ("Lookup", Some(lookup))];
    for (name, request) in requests {
        let Some(request) = request else { continue };
        let request = request.map_err(|why| {
            CliError::Failed(format!("the {} cannot be made: {why}", name.to_lowercase()))
        })?;
        println!("\n## {name}\n\n{}", request.trim_end());
    }
    println!("");
    let names = profile.names();
    let metadata = profile.metadata_keys();
    let is_of_webhooks =
        |name: &String| profile.needs_webhook_secret() && WEBHOOK_SECRETS.contains(&name.as_str());
    let (of_webhooks, optional_secrets): (BTreeSet<String>, _) =
        names.optional_secrets.iter().cloned().partition(is_of_webhooks);
    for (what, names) in [
        ("Secrets that it needs", &names.secrets),
        ("Secrets that it may have", &optional_secrets),
        ("Secrets of its webhooks, the first required", &of_webhooks),
        ("Variables that it needs", &names.vars),
        ("Variables that it may have", &names.optional_vars),
        ("Metadata that it reads", &metadata),
    ] {
        if !names.is_empty() {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            println!("{what}: {}", names.join(", "));
        }
    }
    let checked = cases.run(profile);
    for difference in &checked.differences {
        println!("{difference}");
    }
    match (checked.cases, checked.differences.len()) {
        (0, _) => println!("There are no recorded cases."),
        (all, 0) => println!("{all} recorded cases: all as recorded."),
        (all, different) => {
            let failed = format!("{different} of {all} recorded cases differ");
            return Err(CliError::Failed(failed));
        }
    }
    Ok(())
}
