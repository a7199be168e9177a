//! A connection's options, read of a URL and, for what that does not say, of libpq's variables.
//!
//! sqlx reads both. Here is what it reads otherwise than libpq: `sslrootcert=system`, a root
//! certificate under `sslmode=require`, variables that it cannot read and passes over, and files
//! whose absence it finds out at each connection.

use std::{env, fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::RootCertStore;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use super::diagnosis::without_number;

/// In place of a file: the certificates that the system trusts.
const SYSTEM: &str = "system";

/// Reads `url`. Nothing is connected to; what can never work is an error of configuration.
pub(in crate::store) fn read(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    let options: PgConnectOptions = url.parse()?;
    // The driver has just read it.
    let url: Url = url.parse().map_err(|error| sqlx::Error::Configuration(Box::new(error)))?;
    let given = |names: &[&str], variable: &str| {
        let mut pairs = url.query_pairs().filter(|(name, _)| names.contains(&name.as_ref()));
        let last = pairs.by_ref().last().map(|(_, value)| value.into_owned());
        last.or_else(|| env::var(variable).ok())
    };
    if options.get_host().contains(',') {
        return Err(wrong("PGHOST names several hosts; Quartet connects to one host only"));
    }
    if env::var("PGPORT").is_ok_and(|port| port.parse::<u16>().is_err()) && url.port().is_none() {
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
        _ => options,
    };
    let certificate = given(&["sslcert", "ssl-cert"], "PGSSLCERT");
    let key = given(&["sslkey", "ssl-key"], "PGSSLKEY");
    if certificate.is_some() != key.is_some() {
        return Err(wrong("sslcert and sslkey must be given together"));
    }
    for (name, file) in [("sslcert", certificate), ("sslkey", key)] {
        if let Some(file) = file {
            check_file(name, &file)?;
        }
    }
    Ok(options)
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
    match fs::File::open(Path::new(file)) {
        Ok(_) => Ok(()),
        Err(error) => {
            let why = without_number(&error.to_string());
            Err(wrong(format!("the file {file} of {name} cannot be read: {why}")))
        }
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
