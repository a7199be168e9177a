//! A connection's options, read from a URL and, where that is silent, from libpq's variables.
//!
//! sqlx reads both. Here is what it reads differently from libpq: `sslrootcert=system`, a root
//! certificate under `sslmode=require`, none under `sslmode=verify-ca`, the brackets around an
//! address of IPv6, variables that are empty or that it cannot read and passes over, and files
//! whose absence it finds out at each connection.

use std::{env, fs, io, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use nix::unistd::{Uid, User};
use rustls::RootCertStore;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use super::diagnosis::without_number;

/// In place of a file: the certificates that the system trusts.
const SYSTEM: &str = "system";
/// Where sqlx looks for a server's socket if no host is given, and what it takes if there is none.
const SOCKETS: [&str; 3] = ["/var/run/postgresql", "/private/tmp", "/tmp"];
const LOCALHOST: &str = "localhost";
/// How a certificate begins in the files that the driver reads.
const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Reads `url`. Nothing is connected to; what can never work is an error of configuration.
pub(in crate::store) fn read(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    let options = without_empty(without_brackets(url.parse()?));
    // The driver has just read it.
    let url: Url = url.parse().map_err(|error| sqlx::Error::Configuration(Box::new(error)))?;
    let in_url = |names: &[&str]| {
        let pairs = url.query_pairs().filter(|(name, _)| names.contains(&name.as_ref()));
        pairs.last().map(|(_, value)| value.into_owned())
    };
    let given = |names: &[&str], name: &str| in_url(names).or_else(|| variable(name));
    if options.get_host().contains(',') {
        return Err(wrong("PGHOST names several hosts; Quartet connects to one host only"));
    }
    let has_port = url.port().is_some() || in_url(&["port"]).is_some();
    if !has_port && variable("PGPORT").is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(wrong("PGPORT must be a number up to 65535"));
    }
    let mode = given(&["sslmode", "ssl-mode"], "PGSSLMODE");
    if let Some(mode) = &mode
        && mode.parse::<PgSslMode>().is_err()
    {
        return Err(wrong(
            "PGSSLMODE must be one of disable, allow, prefer, require, verify-ca, verify-full",
        ));
    }
    let root = given(&["sslrootcert", "ssl-root-cert", "ssl-ca"], "PGSSLROOTCERT");
    let options = match root.is_none() && is_empty("PGSSLROOTCERT") {
        // No further certificates, in place of a file without a name.
        true => options.ssl_root_cert_from_pem(Vec::new()),
        false => options,
    };
    let options = match (root.as_deref(), options.get_ssl_mode()) {
        (_, PgSslMode::Disable) => options,
        (Some(SYSTEM), PgSslMode::VerifyFull) => with_system_roots(options)?,
        (Some(SYSTEM), _) if mode.is_none() => {
            with_system_roots(options)?.ssl_mode(PgSslMode::VerifyFull)
        }
        (Some(SYSTEM), _) => {
            return Err(wrong("sslrootcert=system needs sslmode=verify-full"));
        }
        (Some(file), PgSslMode::VerifyCa | PgSslMode::VerifyFull) => {
            check_file("sslrootcert", file)?;
            options
        }
        (Some(file), PgSslMode::Require) => {
            check_file("sslrootcert", file)?;
            options.ssl_mode(PgSslMode::VerifyCa)
        }
        // The driver trusts the public authorities then, and anybody's certificate would pass.
        (None, PgSslMode::VerifyCa) => {
            return Err(wrong(
                "sslmode=verify-ca needs sslrootcert: name the file with the authority's \
                 certificate, or write sslmode=verify-full",
            ));
        }
        _ => options,
    };
    let certificate = given(&["sslcert", "ssl-cert"], "PGSSLCERT");
    let key = given(&["sslkey", "ssl-key"], "PGSSLKEY");
    if certificate.is_some() != key.is_some() {
        return Err(wrong("sslcert and sslkey must be given together"));
    }
    let has_empty = ["PGSSLCERT", "PGSSLKEY"].into_iter().any(is_empty);
    if certificate.is_none() && has_empty && !matches!(options.get_ssl_mode(), PgSslMode::Disable) {
        // The driver has taken a file without a name, which cannot be taken back from it.
        return Err(wrong("PGSSLCERT or PGSSLKEY is empty: remove both from the environment"));
    }
    for (name, file) in [("sslcert", certificate), ("sslkey", key)] {
        if let Some(file) = file {
            check_file(name, &file)?;
        }
    }
    Ok(options)
}

/// A variable of libpq's. An empty one counts as unset.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a variable is there and empty.
fn is_empty(name: &str) -> bool {
    env::var(name).is_ok_and(|value| value.is_empty())
}

/// Without the brackets that a URL has around an address of IPv6. The driver hands them on to the
/// resolver and to TLS, which know no such name.
fn without_brackets(options: PgConnectOptions) -> PgConnectOptions {
    let bare = options.get_host().strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare.map(str::to_owned) {
        Some(host) => options.host(&host),
        None => options,
    }
}

/// With what the driver takes where a variable is not there, in place of the empty value that it
/// has taken from one. An empty password is sent like none.
fn without_empty(mut options: PgConnectOptions) -> PgConnectOptions {
    if options.get_host().is_empty() {
        let host = variable("PGHOST").unwrap_or_else(|| default_host(options.get_port()));
        options = options.host(&host);
    }
    if options.get_username().is_empty() {
        let user = User::from_uid(Uid::effective()).ok().flatten();
        options = options.username(&user.map_or_else(|| "unknown".to_owned(), |user| user.name));
    }
    if options.get_database().is_some_and(str::is_empty) {
        let user = options.get_username().to_owned();
        options = options.database(&user);
    }
    options
}

fn default_host(port: u16) -> String {
    let socket = format!(".s.PGSQL.{port}");
    let folder = SOCKETS.into_iter().find(|folder| Path::new(folder).join(&socket).exists());
    folder.unwrap_or(LOCALHOST).to_owned()
}

fn wrong(error: impl Into<String>) -> sqlx::Error {
    sqlx::Error::Configuration(error.into().into())
}

/// A file that is missing now would be missed at each connection, and no operator would see it.
fn check_file(name: &str, file: &str) -> Result<(), sqlx::Error> {
    // The variables may hold the certificate itself.
    if file.trim_start().starts_with("-----BEGIN") {
        return Ok(());
    }
    let cannot = |error: io::Error| {
        let why = without_number(&error.to_string());
        wrong(format!("the file {file} of {name} cannot be read: {why}"))
    };
    let path = Path::new(file);
    let about = fs::metadata(path).map_err(cannot)?;
    if about.is_dir() {
        return Err(wrong(format!("{name} names the directory {file}, and must name a file")));
    }
    if !about.is_file() {
        // A pipe can be read only once, and that is for the driver to do.
        return Ok(());
    }
    let text = fs::read(path).map_err(cannot)?;
    let is_pem = text.windows(PEM.len()).any(|window| window == PEM);
    match is_pem || name == "sslkey" {
        true => Ok(()),
        false => Err(wrong(format!(
            "the file {file} of {name} has no certificate in PEM (a line \
             -----BEGIN CERTIFICATE-----)"
        ))),
    }
}

/// The system's certificates beside those that the driver brings along.
fn with_system_roots(options: PgConnectOptions) -> Result<PgConnectOptions, sqlx::Error> {
    let mut pem = String::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // One that cannot be used would be an error of every connection.
        if RootCertStore::empty().add(certificate.clone()).is_err() {
            continue;
        }
        let encoded = STANDARD.encode(&certificate);
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in encoded.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    if pem.is_empty() {
        return Err(wrong(
            "sslrootcert=system: this system has no trusted certificates; install ca-certificates, \
             or name a file with the authority's certificate",
        ));
    }
    Ok(options.ssl_root_cert_from_pem(pem.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv6_has_no_brackets_for_the_resolver() {
        for (url, host, port) in [
            ("postgres://u:p@[::1]:5433/db", "::1", 5433),
            ("postgres://[2001:db8::7]:5432/db?sslmode=disable", "2001:db8::7", 5432),
            ("postgres://u@db.example:6432/db?hostaddr=::1", "::1", 6432),
            ("postgres://u@10.0.0.7:5432/db", "10.0.0.7", 5432),
        ] {
            let options = read(url).unwrap();
            assert_eq!((options.get_host(), options.get_port()), (host, port), "{url}");
        }
    }

    #[test]
    fn what_an_empty_variable_has_left_is_replaced() {
        let empty = PgConnectOptions::new().host("").username("").database("");
        let options = without_empty(empty);
        assert_ne!(options.get_host(), "");
        assert_ne!(options.get_username(), "");
        assert_eq!(options.get_database(), Some(options.get_username()));
        let given = PgConnectOptions::new().host("db.example").username("u").database("db");
        let options = without_empty(given);
        assert_eq!((options.get_host(), options.get_username()), ("db.example", "u"));
        assert_eq!(options.get_database(), Some("db"));
    }
}
