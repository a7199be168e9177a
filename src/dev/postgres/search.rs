//! Finds PostgreSQL's binaries on this machine.
//!
//! The places are listed first ([`Search::from_environment`]) and looked at afterwards
//! ([`Search::find`]), so that a test can give its own list. Usable is what has `initdb`,
//! `postgres`, PostgreSQL's share directory, the extensions that apalis-postgres needs, and a
//! version that Quartet works on; each of the others is reported with the reason why it was passed
//! over. Of those that are usable the newest version that the tests run on is taken; or the one
//! that an existing data directory was made with, because no other one can read it.

use std::cmp::Reverse;
use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Account;

/// What the schema needs beyond the core server; packaged apart on Fedora, for one.
const EXTENSIONS: [&str; 2] = ["hstore", "pgcrypto"];
/// The major versions that the tests run on.
const TESTED: RangeInclusive<u32> = 14..=18;

/// A directory that may hold the binaries.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub dir: PathBuf,
    /// Where the path was found, for the reader of an error: `PATH`, `pg_config --bindir`, …
    pub origin: &'static str,
}

/// A candidate that was passed over, and why.
#[derive(Clone, Debug)]
pub struct Skipped {
    pub dir: PathBuf,
    pub origin: &'static str,
    pub reason: String,
}

/// Binaries that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Holds `initdb` and `postgres`; absolute, without symlinks.
    pub bin_dir: PathBuf,
    /// The major version.
    pub major: u32,
}

/// The places to look at, best first.
#[derive(Clone, Debug, Default)]
pub struct Search {
    pub candidates: Vec<Candidate>,
    /// `PG_BIN_DIR` is set: it is the only candidate, and there is no download in its stead.
    pub explicit: bool,
    /// The user that has to be able to run the binaries, if not the present one.
    pub account: Option<Account>,
    /// The major version that an existing data directory needs.
    pub major: Option<u32>,
}

impl Search {
    /// Lists `PG_BIN_DIR` alone if set; else `PATH`, `pg_config --bindir`, the folders that
    /// packages install to, and earlier downloads in `cache`.
    pub fn from_environment(account: Option<Account>, cache: Option<&Path>) -> Self {
        if let Some(dir) = env::var_os("PG_BIN_DIR").filter(|dir| !dir.is_empty()) {
            let candidates = vec![Candidate { dir: dir.into(), origin: "PG_BIN_DIR" }];
            return Self { candidates, explicit: true, account, major: None };
        }
        let mut candidates = Vec::new();
        let mut add = |origin, dirs: Vec<PathBuf>| {
            candidates.extend(dirs.into_iter().map(|dir| Candidate { dir, origin }));
        };
        add("PATH", path_dirs(&env::var_os("PATH").unwrap_or_default()));
        add(
            "pg_config --bindir",
            ask_pg_config("pg_config".as_ref(), "--bindir").into_iter().collect(),
        );
        for (origin, parent, prefix, suffix) in PACKAGE_DIRS {
            add(origin, versioned_dirs(Path::new(parent), prefix, Path::new(suffix)));
        }
        if let Some(cache) = cache {
            add("an earlier download", versioned_dirs(cache, "", Path::new("bin")));
        }
        Self { candidates, explicit: false, account, major: None }
    }

    /// The best usable candidate, or why there is none. Of one version the first is the best.
    pub fn find(&self) -> Result<Installation, Vec<Skipped>> {
        let (mut usable, mut skipped) = (Vec::new(), Vec::new());
        for Candidate { dir, origin } in &self.candidates {
            match Self::inspect(dir, self.account.as_ref()) {
                Ok(installation) => usable.push(installation),
                Err(reason) => skipped.push(Skipped { dir: dir.clone(), origin, reason }),
            }
        }
        let rank = |Installation { major, .. }: &Installation| {
            Reverse((self.major == Some(*major), TESTED.contains(major), *major))
        };
        usable.sort_by_key(rank);
        usable.into_iter().next().ok_or(skipped)
    }

    /// Whether `dir` holds usable binaries; the error says what is missing.
    pub fn inspect(dir: &Path, account: Option<&Account>) -> Result<Installation, String> {
        let postgres = dir.join("postgres");
        if !is_executable(&postgres) {
            return Err("has no program `postgres`".to_owned());
        }
        // PATH may hold a mere symlink to `postgres`, with `initdb` at its target only.
        let bin_dir = postgres
            .canonicalize()
            .ok()
            .and_then(|postgres| postgres.parent().map(Path::to_owned))
            .ok_or("cannot be read")?;
        if !is_executable(&bin_dir.join("initdb")) {
            return Err("has `postgres` but no program `initdb`".to_owned());
        }
        if let Some(account) = account
            && !account.can_enter(&bin_dir)
        {
            return Err(format!("cannot be entered by the user `{}`", account.name));
        }
        let share_dir = share_dirs(&bin_dir)
            .into_iter()
            .find(|share_dir| share_dir.join("postgres.bki").is_file())
            .ok_or("its share directory, with `postgres.bki`, was not found")?;
        for extension in EXTENSIONS {
            let control = share_dir.join(format!("extension/{extension}.control"));
            if !control.is_file() {
                return Err(format!("lacks the extension `{extension}`"));
            }
        }
        let major = major_version(&share_dir).ok_or("its version cannot be read")?;
        if major < *TESTED.start() {
            return Err(format!(
                "is PostgreSQL {major}; Quartet needs {} or newer",
                TESTED.start()
            ));
        }
        Ok(Installation { bin_dir, major })
    }
}

/// (origin, parent, start of the child's name, below it) of what packages install.
const PACKAGE_DIRS: [(&str, &str, &str, &str); 7] = [
    ("Debian's packages", "/usr/lib/postgresql", "", "bin"),
    ("PGDG's RPM packages", "/usr", "pgsql-", "bin"),
    ("Homebrew", "/opt/homebrew/opt", "postgresql", "bin"),
    ("Homebrew", "/usr/local/opt", "postgresql", "bin"),
    ("Homebrew on Linux", "/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    ("Postgres.app", "/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ("EDB's installer", "/Library/PostgreSQL", "", "bin"),
];

/// The text of [`Error::NotFound`](super::Error::NotFound).
pub(super) fn not_found_text(searched: &[Skipped], download: &str) -> String {
    let mut text = String::from(
        "no usable PostgreSQL was found, and the download of one failed.\n\
         Install it:\n\
         \x20 Debian, Ubuntu:  apt install postgresql\n\
         \x20 Fedora:          dnf install postgresql-server postgresql-contrib\n\
         \x20 macOS:           brew install postgresql@18\n\
         or set PG_BIN_DIR to the directory of its programs `initdb` and `postgres`,\n\
         or set DATABASE_URL and pass --use-database-url to write into a server that runs already.\n\
         Searched:\n",
    );
    if searched.is_empty() {
        text.push_str("  (nothing on PATH, and none of the folders that packages install to)\n");
    }
    for Skipped { dir, origin, reason } in searched {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {} ({origin}): {reason}", dir.display());
    }
    let _ = write!(text, "Download: {download}");
    text
}

/// The directories of PATH that have a `postgres` or an `initdb`: the rest would only fill the
/// error's list.
fn path_dirs(path: &OsStr) -> Vec<PathBuf> {
    env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .filter(|dir| ["postgres", "initdb"].iter().any(|it| dir.join(it).exists()))
        .collect()
}

/// `{parent}/{prefix}*/{suffix}`, as far as it exists, highest version first.
fn versioned_dirs(parent: &Path, prefix: &str, suffix: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let rest = name.strip_prefix(prefix)?;
            // A dot file is a download under way.
            let dir = entry.path().join(suffix);
            (!name.starts_with('.') && dir.is_dir()).then(|| (version_numbers(rest), dir))
        })
        .collect();
    found.sort_by(|(left, _), (right, _)| right.cmp(left));
    found.into_iter().map(|(_, dir)| dir).collect()
}

/// `@17` → `[17]`, `16.4.0` → `[16, 4, 0]`, so that 9.6 sorts below 15.
fn version_numbers(text: &str) -> Vec<u32> {
    text.split(|character: char| !character.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Where an installation keeps `postgres.bki` and the extensions: what its `pg_config` says, or
/// else the usual places relative to the binaries.
fn share_dirs(bin_dir: &Path) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> =
        ask_pg_config(bin_dir.join("pg_config").as_os_str(), "--sharedir").into_iter().collect();
    if let Some(prefix) = bin_dir.parent() {
        let share = prefix.join("share");
        // Homebrew: …/Cellar/postgresql@17/17.5/share/postgresql@17.
        if let Some(formula) = prefix.parent().and_then(Path::file_name) {
            dirs.push(share.join(formula));
        }
        // Debian: /usr/lib/postgresql/15/bin and /usr/share/postgresql/15.
        if let Some(version) = prefix.file_name() {
            dirs.push(Path::new("/usr/share/postgresql").join(version));
        }
        dirs.extend([share.join("postgresql"), share.join("pgsql"), share]);
    }
    dirs
}

/// What `postgres.bki` says in its first line, `# PostgreSQL 18`, which `initdb` checks, too.
fn major_version(share_dir: &Path) -> Option<u32> {
    let text = fs::read(share_dir.join("postgres.bki")).ok()?;
    let first = text.split(|byte| *byte == b'\n').next()?;
    let version = std::str::from_utf8(first).ok()?.strip_prefix("# PostgreSQL ")?;
    // Before version 10 the major version had two parts.
    version.trim().split('.').next()?.parse().ok()
}

fn ask_pg_config(program: &OsStr, question: &str) -> Option<PathBuf> {
    let output = Command::new(program).arg(question).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !answer.trim().is_empty()).then(|| answer.trim().into())
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// An installation with `programs` and `extensions` under `root`; returns its `bin`.
    fn install(root: &Path, programs: &[&str], extensions: &[&str]) -> PathBuf {
        install_version(root, "18", programs, extensions)
    }

    fn install_version(
        root: &Path,
        version: &str,
        programs: &[&str],
        extensions: &[&str],
    ) -> PathBuf {
        let (bin, share) = (root.join("bin"), root.join("share/postgresql"));
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir_all(share.join("extension")).unwrap();
        let bki = format!("# PostgreSQL {version}\ncreate pg_proc 1255 bootstrap\n");
        fs::write(share.join("postgres.bki"), bki).unwrap();
        for program in programs {
            fs::write(bin.join(program), "").unwrap();
            fs::set_permissions(bin.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        for extension in extensions {
            fs::write(share.join(format!("extension/{extension}.control")), "").unwrap();
        }
        bin.canonicalize().unwrap()
    }

    fn search(dirs: &[&Path]) -> Search {
        let candidates =
            dirs.iter().map(|dir| Candidate { dir: dir.to_path_buf(), origin: "a test" });
        Search { candidates: candidates.collect(), ..Search::default() }
    }

    #[test]
    fn unusable_candidates_are_skipped_with_their_reason() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let both = ["initdb", "postgres"];
        let absent = at("absent");
        let no_initdb = install(&at("no-initdb"), &["postgres"], &EXTENSIONS);
        let no_hstore = install(&at("no-hstore"), &both, &["pgcrypto"]);
        let no_share = install(&at("no-share"), &both, &EXTENSIONS);
        fs::remove_dir_all(at("no-share/share")).unwrap();
        let good = install(&at("good"), &both, &EXTENSIONS);

        let dirs: [&Path; 4] = [&absent, &no_initdb, &no_hstore, &no_share];
        let skipped = search(&dirs).find().unwrap_err();
        let reasons: Vec<&str> = skipped.iter().map(|it| it.reason.as_str()).collect();
        assert_eq!(
            reasons,
            [
                "has no program `postgres`",
                "has `postgres` but no program `initdb`",
                "lacks the extension `hstore`",
                "its share directory, with `postgres.bki`, was not found",
            ]
        );
        let found = search(&[&absent, &no_initdb, &good]).find().unwrap();
        assert_eq!(found.bin_dir, good);
    }

    #[test]
    fn the_newest_tested_version_is_taken_or_that_of_the_data() {
        let root = tempfile::tempdir().unwrap();
        let version = |name: &str| {
            install_version(&root.path().join(name), name, &["initdb", "postgres"], &EXTENSIONS)
        };
        let [old, v15, v18, newer] = ["13", "15", "18", "19"].map(version);
        let mut all = search(&[&old, &v15, &newer, &v18]);
        assert_eq!(all.find().unwrap(), Installation { bin_dir: v18, major: 18 });
        all.major = Some(15);
        assert_eq!(all.find().unwrap().bin_dir, v15);
        // One that the tests do not run on may work; one that is too old does not.
        assert_eq!(search(&[&old, &newer]).find().unwrap().bin_dir, newer);
        let skipped = search(&[&old]).find().unwrap_err();
        assert_eq!(skipped[0].reason, "is PostgreSQL 13; Quartet needs 14 or newer");
        let ancient = version("9.6");
        let reason = Search::inspect(&ancient, None).unwrap_err();
        assert_eq!(reason, "is PostgreSQL 9; Quartet needs 14 or newer");
    }

    #[test]
    fn a_symlink_to_postgres_leads_to_initdb() {
        let root = tempfile::tempdir().unwrap();
        let good = install(&root.path().join("good"), &["initdb", "postgres"], &EXTENSIONS);
        let linked = root.path().join("linked");
        fs::create_dir(&linked).unwrap();
        symlink(good.join("postgres"), linked.join("postgres")).unwrap();
        assert_eq!(search(&[&linked]).find().unwrap().bin_dir, good);
    }

    #[test]
    fn binaries_that_the_servers_user_cannot_reach_are_skipped() {
        let root = tempfile::tempdir().unwrap();
        let bin = install(root.path(), &["initdb", "postgres"], &EXTENSIONS);
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let account = Account { name: "stranger".to_owned(), uid: u32::MAX - 1, gid: u32::MAX - 1 };
        let reason = Search::inspect(&bin, Some(&account)).unwrap_err();
        assert_eq!(reason, "cannot be entered by the user `stranger`");
    }

    #[test]
    fn newer_versions_come_first() {
        let root = tempfile::tempdir().unwrap();
        for name in ["postgresql@9.6", "postgresql@17", "postgresql@15", "postgis"] {
            fs::create_dir_all(root.path().join(name).join("bin")).unwrap();
        }
        let dirs = versioned_dirs(root.path(), "postgresql", Path::new("bin"));
        let names: Vec<_> = dirs.iter().map(|dir| dir.strip_prefix(root.path()).unwrap()).collect();
        assert_eq!(
            names,
            [
                Path::new("postgresql@17/bin"),
                Path::new("postgresql@15/bin"),
                Path::new("postgresql@9.6/bin")
            ]
        );
    }

    #[test]
    fn the_error_names_packages_variables_places_and_the_downloads_cause() {
        let error = super::super::Error::NotFound {
            searched: vec![Skipped {
                dir: "/usr/lib/postgresql/15/bin".into(),
                origin: "Debian's packages",
                reason: "lacks the extension `hstore`".to_owned(),
            }],
            download: "connection refused".to_owned(),
        };
        let text = error.to_string();
        for part in [
            "apt install postgresql",
            "dnf install postgresql-server postgresql-contrib",
            "brew install postgresql@18",
            "PG_BIN_DIR",
            "DATABASE_URL",
            "/usr/lib/postgresql/15/bin (Debian's packages): lacks the extension `hstore`",
            "Download: connection refused",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }
}
