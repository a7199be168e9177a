//! What one check found.

use crate::store::postgres::requirements;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Quartet works, but something that is promised or usual does not hold.
    Warning,
    /// Quartet does not start, or does not do its work.
    Error,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A stable name in snake case.
    pub check: &'static str,
    pub level: Level,
    /// One line, without a full stop.
    pub found: String,
    /// The statement or setting that mends it; `None` where nothing has to be mended.
    pub remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), remedy: None }
    }

    pub(super) fn warning(
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { check, level: Level::Warning, found: found.into(), remedy }
    }

    pub(super) fn error(
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { check, level: Level::Error, found: found.into(), remedy }
    }
}

impl From<requirements::Finding> for Finding {
    fn from(finding: requirements::Finding) -> Self {
        let level = match finding.level {
            requirements::Level::Ok => Level::Ok,
            requirements::Level::Warning => Level::Warning,
            requirements::Level::Error => Level::Error,
        };
        Self { check: finding.check, level, found: finding.found, remedy: finding.remedy }
    }
}
