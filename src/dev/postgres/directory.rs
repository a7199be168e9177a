//! The directory of one server, and who owns it.
//!
//! ```text
//! owner.lock     locked for as long as the owner lives; the kernel unlocks it when it is killed
//! password       the superuser's, readable by the owner only
//! postgres.log   what the server writes
//! data/          PostgreSQL's own data directory
//! ```
//!
//! A temporary directory whose lock is free was left behind by a killed process: the next start
//! removes it. One without a lock file may be about to get one, so it must be a minute old
//! first. An owner that loses the race against a sweep notices and takes another directory.

use std::fs::{self, File, Metadata, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Account;

const LOCK_FILE: &str = "owner.lock";
const PREFIX: &str = "quartet-postgres-";
/// How long a directory may be without a lock file before it counts as left behind.
const UNLOCKED_GRACE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub enum DirectoryError {
    InUse(PathBuf),
    Closed { path: PathBuf, account: String },
    Io { path: PathBuf, source: io::Error },
}

/// A directory that this process, and no other, uses.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    temporary: bool,
    /// Held for its lock.
    _lock: File,
}

impl Directory {
    /// A named directory, created if absent, which stays.
    pub fn named(path: &Path, account: Option<&Account>) -> Result<Self, DirectoryError> {
        let at_path = |source| DirectoryError::Io { path: path.to_owned(), source };
        create_dir_all(path, mode(account)).map_err(at_path)?;
        // Absolute, because the server's working directory is another one than ours.
        let path = path.canonicalize().map_err(at_path)?;
        if let Some(account) = account
            && !account.can_enter(&path)
        {
            return Err(DirectoryError::Closed { path, account: account.name.clone() });
        }
        match lock(&path).map_err(at_path)? {
            Some(lock) => Ok(Self { path, temporary: false, _lock: lock }),
            None => Err(DirectoryError::InUse(path)),
        }
    }

    /// A new directory that is removed with this value. Those left behind are removed now.
    pub fn temporary(account: Option<&Account>) -> Result<Self, DirectoryError> {
        Self::temporary_in(&temporary_base(account), PREFIX, mode(account))
    }

    /// As [`temporary`](Self::temporary), for names that start with `prefix` in `base`.
    pub fn temporary_in(base: &Path, prefix: &str, mode: u32) -> Result<Self, DirectoryError> {
        let at_base = |source| DirectoryError::Io { path: base.to_owned(), source };
        sweep(base, prefix);
        loop {
            let path = tempfile::Builder::new()
                .prefix(prefix)
                .permissions(Permissions::from_mode(mode))
                .tempdir_in(base)
                .map_err(at_base)?
                .keep();
            // Past the umask, which could keep the server's user out.
            fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(at_base)?;
            if let Some(lock) = lock(&path).map_err(at_base)? {
                return Ok(Self { path, temporary: true, _lock: lock });
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_temporary(&self) -> bool {
        self.temporary
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            // Not lost: the next start's sweep finds it.
            tracing::debug!(path = %self.path.display(), %error, "could not remove a temporary directory");
        }
    }
}

/// As `fs::create_dir_all`, but those it creates have exactly `mode`, whatever the umask is: it
/// could keep the server's user out.
pub fn create_dir_all(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| *parent != Path::new("")) {
        create_dir_all(parent, mode)?;
    }
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        // Another process was faster.
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// The server's user must pass through a root process's directory; nobody else has to.
fn mode(account: Option<&Account>) -> u32 {
    if account.is_some() { 0o711 } else { 0o700 }
}

/// `TMPDIR` unless the server's user cannot enter it, as with a root process's private one.
fn temporary_base(account: Option<&Account>) -> PathBuf {
    let preferred = std::env::temp_dir();
    let Some(account) = account else {
        return preferred;
    };
    [preferred.clone(), "/tmp".into(), "/var/tmp".into()]
        .into_iter()
        .filter_map(|base| base.canonicalize().ok())
        .find(|base| account.can_enter(base))
        .unwrap_or(preferred)
}

/// `None` when another process has the lock, or has swept the directory before we had it.
fn lock(dir: &Path) -> io::Result<Option<File>> {
    let path = dir.join(LOCK_FILE);
    let opened = File::options().create(true).truncate(false).write(true).open(&path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let ours = file.metadata()?.ino();
    let present = fs::metadata(&path).is_ok_and(|metadata| metadata.ino() == ours);
    Ok(present.then_some(file))
}

/// Removes what killed processes of this user left in `base`. A failure only means that a
/// later sweep has to do it.
fn sweep(base: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        // Not followed if a symlink, and so not a directory then.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let ours = metadata.is_dir() && metadata.uid() == nix::unistd::geteuid().as_raw();
        if !ours || !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        // The lock is held over the removal, so that two sweeps do not meet in it.
        let lock = File::options().write(true).open(entry.path().join(LOCK_FILE));
        let left_behind = match &lock {
            Ok(file) => file.try_lock().is_ok(),
            Err(error) => error.kind() == io::ErrorKind::NotFound && is_old(&metadata),
        };
        if left_behind {
            let removed = fs::remove_dir_all(entry.path());
            tracing::debug!(path = %entry.path().display(), ?removed, "swept a directory that was left behind");
        }
    }
}

fn is_old(metadata: &Metadata) -> bool {
    metadata
        .modified()
        .is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > UNLOCKED_GRACE))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_named_directory_has_one_owner() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b");
        let first = Directory::named(&path, None).unwrap();
        assert!(matches!(Directory::named(&path, None), Err(DirectoryError::InUse(_))));
        drop(first);
        Directory::named(&path, None).unwrap();
        assert!(path.is_dir());
    }

    #[test]
    fn a_sweep_removes_only_what_was_left_behind() {
        let base = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let path = base.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let age = |path: &Path| {
            let past = SystemTime::now() - UNLOCKED_GRACE * 2;
            File::open(path).unwrap().set_modified(past).unwrap();
        };
        let killed = dir("q-killed");
        fs::write(killed.join(LOCK_FILE), "").unwrap();
        let unlocked_old = dir("q-old");
        age(&unlocked_old);
        let unlocked_new = dir("q-new");
        let foreign = dir("other");
        age(&foreign);
        let live = Directory::temporary_in(base.path(), "q-", 0o700).unwrap();

        sweep(base.path(), "q-");

        assert!(!killed.exists() && !unlocked_old.exists());
        assert!(unlocked_new.exists() && foreign.exists() && live.path().exists());
        let path = live.path().to_owned();
        drop(live);
        assert!(!path.exists());
    }
}
