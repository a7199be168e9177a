//! What Quartet needs of a database and cannot give itself: checked by `quartet migrate`, at the
//! start of each process, and for a report.
//!
//! What a session can set for itself is set by `session` and not listed here,
//! except where it may fail to arrive. Each check answers with what it found and, where that is not
//! good, with the statement or setting that mends it. Nothing here writes.

mod rights;
mod server;
mod tables;

use std::fmt;

use sqlx::PgConnection;

use crate::store::{Database, StoreError, begin};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Quartet works, but something that is promised or usual does not hold.
    Warning,
    /// Quartet does not start, or `quartet migrate` does not begin.
    Error,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A stable name in snake case, such as `server_version`.
    pub check: &'static str,
    pub level: Level,
    /// What was found: one line, without a full stop.
    pub found: String,
    /// The statement or setting that mends it; `None` where nothing has to be mended.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), remedy: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { check, level: Level::Warning, found: found.into(), remedy }
    }

    fn error(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { check, level: Level::Error, found: found.into(), remedy }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.found)?;
        match &self.remedy {
            Some(remedy) => write!(f, ": {remedy}"),
            None => Ok(()),
        }
    }
}

/// What the role is about to do, on which the rights depend that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `quartet migrate`: creates and alters the schema.
    Migrate,
    /// `quartet serve` and the other commands: read and write the tables.
    Serve,
}

/// Why a database is refused: at least one finding is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet(Vec<Finding>);

impl Unmet {
    /// The errors.
    pub fn findings(&self) -> &[Finding] {
        &self.0
    }

    /// Whether it may pass by itself, as a standby is promoted and a full disk is given space.
    pub fn may_pass(&self) -> bool {
        self.0.iter().all(|finding| finding.check == server::READ_ONLY)
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, finding) in self.0.iter().enumerate() {
            if nth > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Unmet {}

/// Refuses a database with an error among the findings; answers with the warnings.
pub fn refuse(findings: Vec<Finding>) -> Result<Vec<Finding>, Unmet> {
    let (mut warnings, mut errors) = (Vec::new(), Vec::new());
    for finding in findings {
        match finding.level {
            Level::Ok => {}
            Level::Warning => warnings.push(finding),
            Level::Error => errors.push(finding),
        }
    }
    if errors.is_empty() { Ok(warnings) } else { Err(Unmet(errors)) }
}

/// Runs every check on a session of ours. Where the server's version is too old, that is the only
/// answer.
pub async fn check(conn: &mut PgConnection, purpose: Purpose) -> Result<Vec<Finding>, StoreError> {
    let facts = server::facts(conn).await?;
    let mut findings = server::check_version(&facts);
    if findings.iter().any(|finding| finding.level == Level::Error) {
        return Ok(findings);
    }
    findings.extend(server::check(conn, &facts, purpose).await?);
    if let Some(others) = tables::others(conn).await? {
        // Nothing else that is said of these tables would help.
        findings.push(others);
        return Ok(findings);
    }
    findings.extend(tables::check(conn).await?);
    findings.extend(rights::owners(conn).await?);
    findings.extend(match purpose {
        Purpose::Migrate => rights::check_migrate(conn, &facts).await?,
        Purpose::Serve => rights::check_serve(conn, &facts).await?,
    });
    Ok(findings)
}

/// The same on a connection of `database`, also through a pooler.
pub async fn check_database(
    database: &Database,
    purpose: Purpose,
) -> Result<Vec<Finding>, StoreError> {
    let mut tx = begin(database).await?;
    let findings = check(&mut tx, purpose).await?;
    let only_reads =
        |finding: &Finding| finding.check == server::READ_ONLY && finding.level == Level::Error;
    if findings.iter().any(only_reads) {
        // A session that only reads does not come back from this: a new one may write.
        let _ = tx.rollback().await;
    } else {
        tx.commit().await?;
    }
    Ok(findings)
}
