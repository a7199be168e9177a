//! The third party and the clients: whether they can be reached, and may be called.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream};
use url::Url;

use super::{Finding, bounded};
use crate::{
    config::{self, Config, Role},
    outbound::{
        ThirdPartyClient,
        probe::{self, Answer, CallbackProblem},
        third_party::Lookup,
    },
    store::clients::Client,
};

/// How long a client's host may take to be resolved and connected to.
const CALLBACK_LIMIT: Duration = Duration::from_secs(3);
/// Hosts that are tried, and how many of them at once.
const MAX_HOSTS: usize = 200;
const AT_ONCE: usize = 100;
/// Hosts that are named, of those with a problem.
const MAX_NAMED: usize = 10;

const THIRD_PARTY: &str = "third_party";
const CALLBACKS: &str = "callbacks";

/// A lookup of an id that does not exist, as the job that creates transactions begins with.
pub(super) async fn check_third_parties(config: &Config, role: Role) -> Vec<Finding> {
    let all: Vec<_> = config.all_third_parties().collect();
    let is_only = all.len() == 1;
    let checks = all.iter().map(async |(name, settings)| {
        let mut findings = check_third_party(config, settings, role).await;
        if !is_only {
            findings
                .iter_mut()
                .for_each(|finding| finding.found.insert_str(0, &format!("{name}: ")));
        }
        findings
    });
    join_all(checks).await.concat()
}

async fn check_third_party(
    config: &Config,
    third_party: &config::ThirdParty,
    role: Role,
) -> Vec<Finding> {
    let Some(url) = &third_party.base_url else {
        if role.runs_jobs() {
            // The configuration would not have loaded.
            return Vec::new();
        }
        let found = "not set, so that operators' previews and `reconcile` have nobody to ask";
        return vec![Finding::ok(THIRD_PARTY, found)];
    };
    if third_party.profile.is_some() {
        return bounded(THIRD_PARTY, async {
            vec![look_up_by_profile(config, third_party, url.as_str()).await]
        })
        .await;
    }
    bounded(THIRD_PARTY, async {
        let finding = match probe::look_up_nothing(third_party).await {
            Err(error) => Finding::error(THIRD_PARTY, error.to_string(), "reinstall Quartet"),
            Ok(Err(reason)) => Finding::error(
                THIRD_PARTY,
                format!("{url} cannot be reached: {reason}"),
                "open the way to it (egress, proxy, firewall), or correct \
                 QUARTET_THIRD_PARTY__BASE_URL",
            ),
            Ok(Ok(answer)) => judge(url.as_str(), &answer),
        };
        vec![finding]
    })
    .await
}

async fn look_up_by_profile(
    config: &Config,
    third_party: &config::ThirdParty,
    url: &str,
) -> Finding {
    let client = ThirdPartyClient::new(third_party, &config.dns, String::new());
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            let remedy = "correct the profile's client certificate";
            return Finding::error(THIRD_PARTY, error.to_string(), remedy);
        }
    };
    if !client.can_look_up_nothing() {
        let found = format!("{url} was not asked: it is looked up by its own ids alone");
        return Finding::ok(THIRD_PARTY, found);
    }
    match client.look_up_nothing().await {
        Ok(Lookup::Absent) => Finding::ok(
            THIRD_PARTY,
            format!("{url} answered that an unknown id is not there, as its profile says"),
        ),
        Ok(Lookup::Found(_) | Lookup::Unclear { .. }) => Finding::error(
            THIRD_PARTY,
            format!("{url} found an id that does not exist"),
            "correct the profile's rules for lookups: a transaction counts as created where its \
             lookup finds it, so that none would be created",
        ),
        Err(error) if error.is_unauthorized() => Finding::error(
            THIRD_PARTY,
            format!("{url} refused our credentials: {}", error.reason),
            "correct the profile's secrets, or have this machine's address allowed there",
        ),
        Err(error) if error.is_outage() => Finding::error(
            THIRD_PARTY,
            format!("{url} gave no answer: {}", error.reason),
            "open the way to it (egress, proxy, firewall), or correct \
             QUARTET_THIRD_PARTY__BASE_URL",
        ),
        Err(error) => Finding::error(
            THIRD_PARTY,
            format!("{url}: {}", error.reason),
            "correct QUARTET_THIRD_PARTY__BASE_URL, or the profile's rules for lookups: nothing is \
             created without a rule that says `absent`",
        ),
    }
}

fn judge(url: &str, answer: &Answer) -> Finding {
    let Answer { status, location, description } = answer;
    let found = format!("{url} {description}");
    match status {
        404 | 405 | 501 => Finding::ok(
            THIRD_PARTY,
            format!("{url} answered {status} to the lookup of an unknown id, as it should"),
        ),
        200..=299 => Finding::error(
            THIRD_PARTY,
            format!("{url} answered {status} to the lookup of an id that does not exist"),
            "correct QUARTET_THIRD_PARTY__BASE_URL and __LOOKUP_PATH: a transaction counts as \
             created where its lookup finds it, so that none would be created",
        ),
        401 | 403 => Finding::error(
            THIRD_PARTY,
            format!("{found}: it does not accept who calls"),
            "correct the credentials, or have this machine's address allowed there",
        ),
        300..=399 => Finding::error(
            THIRD_PARTY,
            match location {
                Some(location) => format!("{url} redirects to {location}"),
                None => found,
            },
            "set QUARTET_THIRD_PARTY__BASE_URL to where it leads: redirects are not followed",
        ),
        429 | 500..=599 => Finding::warning(
            THIRD_PARTY,
            found,
            "wait, and run it again: nothing is created while lookups get no answer",
        ),
        _ => Finding::error(
            THIRD_PARTY,
            found,
            "correct QUARTET_THIRD_PARTY__BASE_URL and __LOOKUP_PATH: only 404, 405 and 501 say that \
             an id is not there, and nothing is created without that",
        ),
    }
}

/// Whether the hosts that clients are notified at can be called. `registered` is `None` where the
/// database could not be asked.
pub(super) async fn check_callbacks(
    config: &Config,
    registered: Option<Vec<Client>>,
) -> Vec<Finding> {
    let mut clients: BTreeMap<Url, BTreeSet<String>> = BTreeMap::new();
    let default = config.default_client.as_ref();
    let mut add = |name: &str, url: &Url| {
        // One path of a host is as good as another.
        let mut host = url.clone();
        host.set_path("");
        host.set_query(None);
        clients.entry(host).or_default().insert(name.to_owned());
    };
    if let Some(default) = default {
        add(&default.name, &default.callback_url);
    }
    for client in registered.iter().flatten() {
        // What the configuration says of the default client is what will be in the registry.
        let is_default = default.is_some_and(|default| default.name == client.name);
        if client.disabled_at.is_none()
            && !is_default
            && let Ok(url) = Url::parse(&client.callback_url)
        {
            add(&client.name, &url);
        }
    }
    if clients.is_empty() {
        let found = match registered {
            Some(_) => "no client is registered",
            None => "not looked at: the clients are in the database",
        };
        return vec![Finding::ok(CALLBACKS, found)];
    }
    bounded(CALLBACKS, try_hosts(config, clients)).await
}

async fn try_hosts(config: &Config, clients: BTreeMap<Url, BTreeSet<String>>) -> Vec<Finding> {
    let policy = &config.notify.egress;
    let all = clients.len();
    let tried = stream::iter(clients.into_iter().take(MAX_HOSTS))
        .map(|(host, names)| async move {
            let result = probe::connect_to_callback(&host, policy, CALLBACK_LIMIT).await;
            (host, names, result.err())
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    let good = tried.iter().filter(|(.., problem)| problem.is_none()).count();
    let mut findings = Vec::new();
    if good > 0 || all > MAX_HOSTS {
        let rest = all.saturating_sub(MAX_HOSTS);
        let mut found = format!("{good} of {all} hosts can be connected to");
        if rest > 0 {
            found.push_str(&format!("; {rest} were not tried"));
        }
        findings.push(Finding::ok(CALLBACKS, found));
    }
    let wrong = tried
        .into_iter()
        .filter_map(|(host, names, problem)| problem.map(|problem| (host, names, problem)));
    let mut wrong: Vec<Finding> =
        wrong.map(|(host, names, problem)| of_problem(&host, &names, &problem)).collect();
    wrong.sort_by(|left, right| left.found.cmp(&right.found));
    let more = wrong.len().saturating_sub(MAX_NAMED);
    wrong.truncate(MAX_NAMED);
    findings.extend(wrong);
    if more > 0 {
        let found = format!("{more} more hosts cannot be called");
        findings.push(Finding::warning(CALLBACKS, found, "mend those above, and run it again"));
    }
    findings
}

fn of_problem(host: &Url, names: &BTreeSet<String>, problem: &CallbackProblem) -> Finding {
    let mut clients: Vec<&str> = names.iter().map(String::as_str).take(3).collect();
    if names.len() > clients.len() {
        clients.push("…");
    }
    let host = host.as_str().trim_end_matches('/');
    let found = format!("{host} ({}) {problem}", clients.join(", "));
    let remedy = match problem {
        CallbackProblem::Denied(_) => {
            "have the client register another URL, or set QUARTET_NOTIFY__ALLOWED_NETWORKS or \
             QUARTET_NOTIFY__ALLOWED_PORTS"
        }
        CallbackProblem::Name(_) | CallbackProblem::NoAddress => {
            "have the client mend the name, or open the way to a name server (port 53)"
        }
        CallbackProblem::Connect(_) | CallbackProblem::Silent(_) => {
            "open the way to it (egress rule, network policy), or ask the client"
        }
    };
    Finding::warning(CALLBACKS, found, remedy)
}
