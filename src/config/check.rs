//! What must hold between settings, and which of them a role cannot do without.

use std::borrow::Cow;

use super::{Config, Role, ThirdPartyProfile, value::duration_text};
use crate::domain::{EgressDenied, ThirdPartyName};

/// A setting at fault, named with what is allowed.
pub(super) struct Broken {
    pub(super) variable: Cow<'static, str>,
    /// The setting it is compared with.
    pub(super) other: Option<&'static str>,
    /// The present value, unless it is a secret.
    pub(super) value: Option<String>,
    pub(super) allowed: String,
}

/// The deadlines of third parties that end before the first poll.
fn poll_deadlines(config: &Config) -> Vec<Broken> {
    const FIRST: &str = "QUARTET_POLL__FIRST";
    let longer = format!("longer than {FIRST} ({})", duration_text(config.poll.first));
    let broken = config.all_third_parties().filter_map(|(name, third_party)| {
        let deadline = third_party.poll_deadline.filter(|own| *own <= config.poll.first)?;
        let deadline = duration_text(deadline);
        let (variable, value, allowed) = match &config.third_parties.directory {
            Some(directory) if !name.is_default() => (
                "QUARTET_THIRD_PARTIES__DIRECTORY",
                directory.display().to_string(),
                format!(
                    "must hold {name}.toml with a `poll_deadline` ({deadline}) that is {longer}"
                ),
            ),
            _ => ("QUARTET_THIRD_PARTY__POLL_DEADLINE", deadline, format!("must be {longer}")),
        };
        let variable = Cow::Borrowed(variable);
        Some(Broken { variable, other: Some(FIRST), value: Some(value), allowed })
    });
    broken.collect()
}

/// Every relation between settings that does not hold.
pub(super) fn relations(config: &Config) -> Vec<Broken> {
    let Config { webhook, circuit, poll, notify, worker, retention, .. } = config;
    let mut broken = Vec::new();
    let mut require = |holds: bool, variable, value, other, rule: &str, limit| {
        if !holds {
            broken.push(Broken {
                variable: Cow::Borrowed(variable),
                other: Some(other),
                value: Some(duration_text(value)),
                allowed: format!("must be {rule} {other} ({})", duration_text(limit)),
            });
        }
    };
    require(
        circuit.max_open_for >= circuit.open_for,
        "QUARTET_CIRCUIT__MAX_OPEN_FOR",
        circuit.max_open_for,
        "QUARTET_CIRCUIT__OPEN_FOR",
        "at least",
        circuit.open_for,
    );
    require(
        poll.max_delay >= poll.second,
        "QUARTET_POLL__MAX_DELAY",
        poll.max_delay,
        "QUARTET_POLL__SECOND",
        "at least",
        poll.second,
    );
    require(
        poll.deadline > poll.first,
        "QUARTET_POLL__DEADLINE",
        poll.deadline,
        "QUARTET_POLL__FIRST",
        "longer than",
        poll.first,
    );
    require(
        notify.max_delay >= notify.base,
        "QUARTET_NOTIFY__MAX_DELAY",
        notify.max_delay,
        "QUARTET_NOTIFY__BASE",
        "at least",
        notify.base,
    );
    require(
        worker.dead_after >= worker.heartbeat.saturating_mul(2),
        "QUARTET_WORKER__DEAD_AFTER",
        worker.dead_after,
        "QUARTET_WORKER__HEARTBEAT",
        "at least twice",
        worker.heartbeat,
    );
    require(
        retention.evidence >= retention.jobs,
        "QUARTET_RETENTION__EVIDENCE",
        retention.evidence,
        "QUARTET_RETENTION__JOBS",
        "at least",
        retention.jobs,
    );
    // A signature that is still good must not be taken twice: one that is dated as far ahead as is
    // allowed is good for twice the tolerance.
    require(
        retention.webhooks >= webhook.tolerance.saturating_mul(2),
        "QUARTET_RETENTION__WEBHOOKS",
        retention.webhooks,
        "QUARTET_WEBHOOK__TOLERANCE",
        "at least twice",
        webhook.tolerance,
    );
    broken.extend(poll_deadlines(config));
    if let Some(client) = &config.default_client
        && config.operator_tokens.contains(&client.api_key_hash)
    {
        broken.push(Broken {
            variable: Cow::Borrowed("QUARTET_DEFAULT_CLIENT__API_KEY"),
            other: Some("QUARTET_OPERATOR_TOKEN"),
            value: None,
            allowed: "must differ from QUARTET_OPERATOR_TOKEN: a key belongs to one of the two"
                .to_owned(),
        });
    }
    if let Some(client) = &config.default_client
        && let Err(refusal) = notify.egress.check_url(&client.callback_url)
    {
        broken.push(Broken {
            variable: Cow::Borrowed("QUARTET_DEFAULT_CLIENT__CALLBACK_URL"),
            other: Some(match refusal {
                EgressDenied::Port { .. } => "QUARTET_NOTIFY__ALLOWED_PORTS",
                _ => "QUARTET_NOTIFY__ALLOWED_NETWORKS",
            }),
            value: Some(client.callback_url.to_string()),
            allowed: refusal.to_string(),
        });
    }
    if let Some(profile) = &config.third_party.profile
        && let Some(name) =
            config.third_parties.named.keys().find(|name| *name.as_str() == *profile.profile.name())
    {
        broken.push(Broken {
            variable: Cow::Borrowed("QUARTET_THIRD_PARTY__PROFILE"),
            other: Some("QUARTET_THIRD_PARTIES__DIRECTORY"),
            value: Some(name.to_string()),
            allowed: format!(
                "must not have the name of the file {name}.toml in QUARTET_THIRD_PARTIES__DIRECTORY: \
                 the webhooks of both would have the same path"
            ),
        });
    }
    broken
}

/// The default client must be said to use a named third party: no default is derived from what
/// happens to be configured, so that a variable that one process lacks re-routes nothing.
fn default_client_without_third_party(config: &Config) -> Option<Broken> {
    let client = config.default_client.as_ref()?;
    let is_unsaid = client.third_party.is_none() && !config.has_unnamed_third_party();
    (is_unsaid && !config.third_parties.named.is_empty()).then(|| Broken {
        variable: Cow::Borrowed(DEFAULT),
        other: None,
        value: None,
        allowed: "must name the third party of the default client, or \
                  QUARTET_THIRD_PARTY__BASE_URL must be set: QUARTET_THIRD_PARTIES__DIRECTORY is \
                  set, and there is no third party without a name"
            .to_owned(),
    })
}

/// What the default client is said to use must be there.
fn default_client_third_parties(config: &Config) -> Vec<Broken> {
    let Some(client) = &config.default_client else { return Vec::new() };
    let known: Vec<ThirdPartyName> = config.all_third_parties().map(|(name, _)| name).collect();
    let names: Vec<&str> = known.iter().map(ThirdPartyName::as_str).collect();
    let mut broken = Vec::new();
    let mut require = |name: &ThirdPartyName, variable| {
        if !known.contains(name) {
            broken.push(Broken {
                variable: Cow::Borrowed(variable),
                other: None,
                value: Some(name.to_string()),
                allowed: format!("must name third parties that there are: {}", names.join(", ")),
            });
        }
    };
    client.third_party.iter().for_each(|name| require(name, DEFAULT));
    client.other_third_parties.iter().flatten().for_each(|name| require(name, OTHERS));
    broken
}

const DEFAULT: &str = "QUARTET_DEFAULT_CLIENT__THIRD_PARTY";
const OTHERS: &str = "QUARTET_DEFAULT_CLIENT__OTHER_THIRD_PARTIES";

/// Every setting that `role` needs and that is not there.
pub(super) fn missing(config: &Config, role: Role) -> Vec<Broken> {
    let (mut broken, mut unknown) = (Vec::new(), Vec::new());
    let mut require = |present: bool, variable: &str, allowed: &str| {
        if !present {
            let variable = Cow::Owned(variable.to_owned());
            broken.push(Broken { variable, other: None, value: None, allowed: allowed.to_owned() });
        }
    };
    require(
        config.database.url.is_some(),
        "DATABASE_URL",
        "must be a URL such as postgres://user:password@host:5432/database",
    );
    if role.serves_api() {
        require(
            // Webhooks of a profile's third party have keys of their own.
            !config.webhook.secrets.is_empty()
                || config.third_party.profile.is_some()
                || !config.has_unnamed_third_party(),
            "QUARTET_WEBHOOK__SECRETS",
            "must hold at least one secret `whsec_…`, to verify the third party's webhooks",
        );
        let profile = config.third_party.profile.as_ref();
        if let Some(variable) = profile.and_then(ThirdPartyProfile::missing_webhook_secret) {
            require(
                false,
                &variable,
                "must be the key that verifies the third party's webhooks, or that must be the \
                 file `webhook` in QUARTET_THIRD_PARTY__SECRETS_DIRECTORY",
            );
        }
    }
    if role.serves_api() {
        unknown = default_client_third_parties(config);
        for (name, named) in &config.third_parties.named {
            if let Some(variable) = named.missing_webhook_secret(name) {
                require(
                    false,
                    &variable,
                    &format!(
                        "must be what verifies the webhooks of {name}, or that must be the file \
                         `webhook` in its `secrets_directory`"
                    ),
                );
            }
        }
    }
    require(
        config.all_third_parties().next().is_some(),
        "QUARTET_THIRD_PARTY__BASE_URL",
        "must be set, or a file NAME.toml must be in QUARTET_THIRD_PARTIES__DIRECTORY: there is no \
         third party",
    );
    if role.runs_jobs() {
        require(
            config.third_party.base_url.is_some() || !config.has_unnamed_third_party(),
            "QUARTET_THIRD_PARTY__BASE_URL",
            "must be the third party's absolute http:// or https:// URL",
        );
    }
    broken.extend(unknown);
    broken.extend(default_client_without_third_party(config));
    broken
}
