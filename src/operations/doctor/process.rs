//! What can be checked without any call: the configuration, the secrets in it, and this process.

use nix::sys::resource::{Resource, getrlimit};
use url::{Host, Url};

use super::{Finding, Request};
use crate::{
    config::Config,
    domain::{EgressDenied, EgressPolicy},
};

/// What 32 random characters need, at the least.
const MIN_DISTINCT_CHARS: usize = 8;
/// Parts of tokens that stand in examples.
const PLACEHOLDERS: [&str; 8] =
    ["change", "example", "placeholder", "your", "secret", "password", "token", "operator"];
/// Standard Webhooks asks for 24 to 64 bytes.
const MIN_SECRET_BYTES: usize = 24;
/// Files that a process has open besides its connections.
const OTHER_FILES: u64 = 64;

pub(super) fn check(config: &Config, request: &Request) -> Vec<Finding> {
    let mut findings = vec![environment(request)];
    if request.role.serves_api() {
        findings.extend([
            public_url(config),
            operator_token(request.operator_token.as_deref()),
            webhook_secrets(config),
        ]);
    }
    findings.push(open_files(config, request));
    findings
}

fn environment(request: &Request) -> Finding {
    let ignored = &request.ignored_variables;
    let role = request.role.as_str();
    let mut found = format!("all that --role {role} needs is set");
    if !ignored.is_empty() {
        found.push_str(&format!(
            "; {} variables of Kubernetes services are ignored, such as {}",
            ignored.len(),
            ignored[0]
        ));
    }
    Finding::ok("configuration", found)
}

/// Where the third party sends webhooks.
fn public_url(config: &Config) -> Finding {
    const CHECK: &str = "public_url";
    const REMEDY: &str = "set QUARTET_HTTP__PUBLIC_URL to the https:// URL under which the third \
                          party reaches the API";
    let Some(url) = &config.http.public_url else {
        let url = config.webhook_url(config.http.listen);
        let found = format!("not set: the third party is asked to send webhooks to {url}");
        return Finding::warning(CHECK, found, REMEDY);
    };
    let Ok(parsed) = Url::parse(url.as_str()) else {
        return Finding::error(CHECK, format!("{url} is no URL"), REMEDY);
    };
    // The same judgement as of callback URLs: nobody outside reaches a special address.
    if let Err(denied @ EgressDenied::Address { .. }) = EgressPolicy::default().check_url(&parsed) {
        let what = denied.to_string();
        let what = what.split(", which QUARTET_").next().unwrap_or_default();
        return Finding::warning(CHECK, format!("{url} {what}"), REMEDY);
    }
    let is_name = matches!(parsed.host(), Some(Host::Domain(name)) if !name.contains('.'));
    if is_name {
        let found = format!("{url} is no name of the public internet");
        return Finding::warning(CHECK, found, REMEDY);
    }
    if parsed.scheme() != "https" {
        return Finding::warning(CHECK, format!("{url} is not encrypted"), REMEDY);
    }
    if parsed.path() != "/" {
        let found = format!("{url} has a path, under which the console cannot be used");
        return Finding::warning(CHECK, found, REMEDY);
    }
    Finding::ok(CHECK, url.to_string())
}

fn operator_token(token: Option<&str>) -> Finding {
    const CHECK: &str = "operator_token";
    const REMEDY: &str = "set QUARTET_OPERATOR_TOKEN to 32 random characters: openssl rand -hex 32";
    let Some(text) = token else {
        return Finding::ok(CHECK, "not set: the operator API and the console are closed");
    };
    let tokens: Vec<&str> =
        text.split(',').map(str::trim).filter(|token| !token.is_empty()).collect();
    for (index, token) in tokens.iter().enumerate() {
        if let Some(weakness) = weakness(token) {
            return Finding::warning(CHECK, format!("entry {} {weakness}", index + 1), REMEDY);
        }
    }
    Finding::ok(CHECK, format!("{} set", tokens.len()))
}

/// What is doubtful about a token that the configuration takes.
fn weakness(token: &str) -> Option<String> {
    let mut distinct: Vec<char> = token.chars().collect();
    distinct.sort_unstable();
    distinct.dedup();
    let lower = token.to_ascii_lowercase();
    if distinct.len() < MIN_DISTINCT_CHARS {
        return Some(format!("has only {} different characters", distinct.len()));
    }
    let placeholder = PLACEHOLDERS.iter().find(|word| lower.contains(*word))?;
    Some(format!("looks like an example: it contains {placeholder:?}"))
}

fn webhook_secrets(config: &Config) -> Finding {
    const CHECK: &str = "webhook_secrets";
    let secrets = &config.webhook.secrets;
    let short = secrets.iter().position(|secret| secret.key_bytes() < MIN_SECRET_BYTES);
    if let Some(index) = short {
        let found = format!(
            "entry {} of QUARTET_WEBHOOK__SECRETS has {} bytes; Standard Webhooks asks for {} to 64",
            index + 1,
            secrets[index].key_bytes(),
            MIN_SECRET_BYTES
        );
        let remedy = "agree with the third party on a longer one: whsec_$(openssl rand -base64 32)";
        return Finding::warning(CHECK, found, remedy);
    }
    Finding::ok(CHECK, format!("{} set", secrets.len()))
}

/// Connections are open files.
fn open_files(config: &Config, request: &Request) -> Finding {
    const CHECK: &str = "open_files";
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Finding::ok(CHECK, "this system has no limit that can be read");
    };
    let mut needed = u64::from(config.database.max_connections) + OTHER_FILES;
    if request.role.serves_api() {
        // The server leaves half of the files to everything else.
        needed += 2 * u64::from(config.intake.max_connections);
    }
    if request.role.runs_jobs() {
        let in_flight = config.all_third_parties().map(|(_, called)| called.max_in_flight);
        let calls = in_flight.fold(config.worker.concurrency, u32::saturating_add);
        needed += u64::from(calls);
    }
    // The process raises its own soft limit.
    if hard >= needed {
        return Finding::ok(CHECK, format!("{hard} may be open, {needed} may be needed"));
    }
    let found = format!("{hard} may be open ({soft} at the start), {needed} may be needed");
    let remedy = format!(
        "ulimit -n {needed} (systemd: LimitNOFILE={needed}), or lower QUARTET_HTTP__MAX_CONNECTIONS \
         or QUARTET_WORKER__CONCURRENCY"
    );
    Finding::warning(CHECK, found, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::BaseUrl, operations::doctor::Level};

    #[test]
    fn weak_operator_tokens_are_named() {
        for (token, part) in [
            ("aaaaaaaaaaaaaaaabbbbbbbb", "only 2 different"),
            ("to-be-changed-0123456789", "\"change\""),
            ("dev-operator-0123456789", "\"operator\""),
        ] {
            let said = weakness(token).unwrap_or_default();
            assert!(said.contains(part), "{token}: {said}");
        }
        assert_eq!(weakness("f81d4fae7dec11d0a76500a0c91e6bf6"), None);
        let list = "f81d4fae7dec11d0a76500a0c91e6bf6, dev-operator-0123456789";
        assert!(operator_token(Some(list)).found.starts_with("entry 2 looks like an example"));
    }

    #[test]
    fn a_public_url_must_be_reachable_from_outside_and_encrypted() {
        let judge = |url: &str| {
            let mut config = Config::default();
            config.http.public_url = Some(BaseUrl::parse(url).unwrap());
            public_url(&config)
        };
        assert_eq!(judge("https://pay.example.com").level, Level::Ok);
        for (url, part) in [
            ("http://pay.example.com", "not encrypted"),
            ("https://localhost:8080", "127.0.0.1, a loopback address"),
            ("https://10.0.0.1", "a private address"),
            ("https://quartet", "no name of the public internet"),
        ] {
            let finding = judge(url);
            assert_eq!(finding.level, Level::Warning, "{url}");
            assert!(finding.found.contains(part), "{url}: {}", finding.found);
        }
        let unset = public_url(&Config::default());
        assert!(unset.found.contains("http://127.0.0.1:8080/v1/webhooks"), "{}", unset.found);
    }
}
