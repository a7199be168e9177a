//! `DATABASE_URL`: which parameters are accepted.
//!
//! It has libpq's form, but sqlx reads it and ignores every parameter that it does not know: a
//! mistyped `sslmode` would leave the connection unprotected, and a second host would be looked up
//! as one name. Parameters that cannot be honoured are refused here, with what to do instead;
//! those that Quartet sets itself are accepted.

use std::net::IpAddr;

use url::Url;

use super::value::{Parsed, Redacted};

const EXAMPLE: &str = "must be a URL such as postgres://user:password@host:5432/database";
const ESCAPES: &str = "in a user or password write the characters @ : / ? # % as %40 %3A %2F %3F \
    %23 %25";
const ONE_HOST: &str = "names several hosts; Quartet connects to one host only: name the one that \
    leads to the primary, such as HAProxy, a virtual address or the provider's read-write name \
    (docs/high-availability.md)";

/// The parameters that are used, for the search of the one that was meant.
const USED: [&str; 15] = [
    "application_name",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "target_session_attrs",
    "user",
];
/// What libpq can and Quartet cannot.
const NOT_SUPPORTED: [&str; 16] = [
    "channel_binding",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "passfile",
    "replication",
    "require_auth",
    "requirepeer",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcrl",
    "sslcrldir",
    "sslnegotiation",
    "sslpassword",
];
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// A Postgres URL with parameters that have an effect.
pub(super) fn database_url(text: &str) -> Parsed<Redacted<String>> {
    let scheme = text.split_once("://").map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
    let Some((scheme, rest)) = scheme else { return Err(EXAMPLE.to_owned()) };
    if !["postgres", "postgresql"].contains(&scheme.as_str()) {
        return Err(EXAMPLE.to_owned());
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    if hosts.contains(',') {
        return Err(ONE_HOST.to_owned());
    }
    let escapes = || format!("{EXAMPLE}; {ESCAPES}");
    let url = Url::parse(text).map_err(|_| escapes())?;
    if url.fragment().is_some() {
        return Err(escapes());
    }
    // Behind a `?` that belongs to the password its rest would be taken for a name.
    let may_be_secret = url.query().is_some_and(|query| query.contains('@'));
    for (name, value) in url.query_pairs() {
        check(&name, &value).map_err(|error| match error {
            Refusal::Value(error) => error,
            Refusal::Name if may_be_secret => {
                format!("has a parameter that Quartet does not know; {ESCAPES}")
            }
            Refusal::Name => unknown(&name),
        })?;
    }
    Ok(Redacted::from(text.to_owned()))
}

/// What is wrong with a parameter.
enum Refusal {
    Name,
    Value(String),
}

fn check(name: &str, value: &str) -> Result<(), Refusal> {
    let refuse =
        |allowed: &str| Err(Refusal::Value(format!("has a parameter {name} that {allowed}")));
    let is_one_of = |allowed: &[&str]| allowed.contains(&value.to_ascii_lowercase().as_str());
    match name {
        "host" | "hostaddr" | "port" if value.contains(',') => {
            Err(Refusal::Value(ONE_HOST.to_owned()))
        }
        "hostaddr" if value.parse::<IpAddr>().is_err() => refuse("must be an IP address"),
        "port" if value.parse::<u16>().is_err() => refuse("must be a number up to 65535"),
        "sslmode" | "ssl-mode" if !is_one_of(&SSL_MODES) => {
            refuse(&format!("must be one of {}", SSL_MODES.join(", ")))
        }
        "statement-cache-capacity" if value.parse::<u32>().is_err() => {
            refuse("must be a whole number")
        }
        "host" | "hostaddr" | "port" | "dbname" | "user" | "password" | "options" => Ok(()),
        "application_name" | "statement-cache-capacity" => Ok(()),
        "sslmode" | "ssl-mode" | "sslrootcert" | "ssl-root-cert" | "ssl-ca" => Ok(()),
        "sslcert" | "ssl-cert" | "sslkey" | "ssl-key" => Ok(()),
        name if name.starts_with("options[") && name.ends_with(']') => Ok(()),
        // Quartet does so by itself: it writes on the primary alone.
        "target_session_attrs" if is_one_of(&["any", "read-write", "primary"]) => Ok(()),
        "target_session_attrs" => {
            refuse("cannot be kept: Quartet works on the primary; remove it, or write read-write")
        }
        // It has limits of its own, and tests its connections.
        "connect_timeout" | "tcp_user_timeout" | "client_encoding" => Ok(()),
        "fallback_application_name" => Ok(()),
        name if name == "keepalives" || name.starts_with("keepalives_") => Ok(()),
        // What asks for nothing special.
        "channel_binding" | "gssencmode" if is_one_of(&["disable", "prefer"]) => Ok(()),
        "sslnegotiation" if is_one_of(&["postgres"]) => Ok(()),
        "load_balance_hosts" if is_one_of(&["disable"]) => Ok(()),
        "ssl_min_protocol_version" if is_one_of(&["tlsv1", "tlsv1.1", "tlsv1.2"]) => Ok(()),
        "channel_binding" => refuse(
            "Quartet does not support: remove it; sslmode=verify-full makes sure of the server",
        ),
        "passfile" => refuse("Quartet does not support: set PGPASSFILE in the environment instead"),
        name if NOT_SUPPORTED.contains(&name) => refuse("Quartet does not support: remove it"),
        _ => Err(Refusal::Name),
    }
}

fn unknown(name: &str) -> String {
    let nearest = USED.iter().min_by_key(|used| strsim::damerau_levenshtein(name, used));
    let near = nearest.filter(|used| strsim::damerau_levenshtein(name, used) <= 2);
    match near {
        Some(near) => {
            format!("has a parameter {name} that Quartet does not know; did you mean {near}?")
        }
        None => format!("has a parameter {name} that Quartet does not know: remove it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        database_url(text).unwrap_err()
    }

    #[test]
    fn what_works_is_taken() {
        for query in [
            "",
            "?sslmode=verify-full&sslrootcert=system",
            "?host=/var/run/postgresql&user=me@server",
            "?target_session_attrs=read-write&connect_timeout=10&keepalives_idle=5",
            "?options=-csearch_path%3Dx&options[statement_timeout]=3s&application_name=x",
            "?channel_binding=prefer&gssencmode=disable&ssl_min_protocol_version=TLSv1.2",
            "?statement-cache-capacity=0&hostaddr=::1&port=6432&dbname=x&client_encoding=utf8",
        ] {
            let url = format!("postgres://u:p%40w,x@[::1]:5432/db{query}");
            assert!(database_url(&url).is_ok(), "{url}");
        }
        assert!(database_url("postgresql:///db").is_ok());
        assert!(database_url("POSTGRES://host").is_ok());
    }

    #[test]
    fn several_hosts_are_refused_whichever_way_they_are_written() {
        for url in [
            "postgres://u:p@one:5432,two:5432/db",
            "postgres://one,two/db",
            "postgres:///db?host=one,two",
            "postgres:///db?host=one&port=5432,5433",
            "postgres:///db?hostaddr=10.0.0.1,10.0.0.2",
        ] {
            let said = refused(url);
            assert!(said.contains("one host only"), "{url}: {said}");
        }
    }

    #[test]
    fn a_parameter_that_has_no_effect_is_named_with_what_to_do() {
        for (query, expected) in [
            ("sslmod=verify-full", "did you mean sslmode?"),
            ("sslmode=verify_full", "must be one of disable"),
            ("target_session_attrs=standby", "works on the primary"),
            ("channel_binding=require", "sslmode=verify-full"),
            ("sslcrl=x.pem", "does not support: remove it"),
            ("passfile=x", "PGPASSFILE"),
            ("pgbouncer=true", "a parameter pgbouncer that Quartet does not know: remove it"),
            ("port=port", "up to 65535"),
        ] {
            let said = refused(&format!("postgres://u:p@host/db?{query}"));
            assert!(said.contains(expected), "{query}: {said}");
            let value = query.split_once('=').unwrap().1;
            assert!(value.len() < 5 || !said.contains(value) || query.contains("sslmod"), "{said}");
        }
    }

    #[test]
    fn characters_of_a_password_are_to_be_escaped_and_are_not_repeated() {
        for url in [
            "postgres://user:s3cret/word@host/db",
            "postgres://user:12?s3cret=word@host/db",
            "postgres://user:12#s3cret@host/db",
            "postgres://user:s3cret?word=1@host/db",
        ] {
            let said = refused(url);
            assert!(said.contains("%40") && !said.contains("s3cret"), "{url}: {said}");
        }
        for url in ["mysql://localhost", "host=localhost dbname=x", "postgres:db"] {
            assert!(refused(url).starts_with("must be a URL such as postgres://"), "{url}");
        }
    }
}
