//! The migrations of this build, and what their text says.

use std::sync::LazyLock;

use sqlx::{
    SqlSafeStr, SqlStr,
    migrate::{Migration, Migrator},
};

const CREATE_TABLE: &str = "CREATE TABLE ";
const CONCURRENTLY: &str = " CONCURRENTLY IF NOT EXISTS ";

/// Ours.
pub(in crate::store) fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("./migrations");
    migrations.set_locking(false);
    migrations
}

/// The tables that migrations create in `public`, by name.
pub(in crate::store) fn tables() -> &'static [String] {
    static TABLES: LazyLock<Vec<String>> = LazyLock::new(|| {
        let migrations = migrations();
        let lines = migrations.iter().flat_map(|migration| migration.sql.as_str().lines());
        let created = lines.filter_map(|line| line.strip_prefix(CREATE_TABLE));
        let mut names: Vec<_> = created
            .filter_map(|rest| rest.trim_start_matches("IF NOT EXISTS ").split([' ', '(']).next())
            .map(|name| name.trim_start_matches("public.").to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    });
    &TABLES
}

/// A migration that is one `CREATE INDEX CONCURRENTLY IF NOT EXISTS`.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) struct IndexBuild {
    /// The index's name.
    pub(in crate::store) index: String,
    /// The table's, as it is written.
    pub(in crate::store) table: String,
    /// The statement that builds it under a lock that keeps writers out.
    plain: String,
}

impl IndexBuild {
    /// What `migration` builds; `None` where it does something else.
    pub(in crate::store) fn of(migration: &Migration) -> Option<Self> {
        let text = without_comments(migration.sql.as_str());
        let (create, rest) = text.split_once(CONCURRENTLY)?;
        let is_build = matches!(create, "CREATE INDEX" | "CREATE UNIQUE INDEX");
        let one_statement =
            rest.trim_end().strip_suffix(';').is_some_and(|rest| !rest.contains(';'));
        if !migration.no_tx || !is_build || !one_statement {
            return None;
        }
        let mut words = rest.split_whitespace();
        let index = words.next()?.to_owned();
        let (on, table) = (words.next()?, words.next()?);
        let table = table.split('(').next()?.to_owned();
        (on == "ON").then(|| Self { index, table, plain: format!("{create} IF NOT EXISTS {rest}") })
    }

    /// The migration as it can be applied to a table without rows: in a transaction, and without
    /// waiting for other sessions' snapshots. It is recorded as the same one.
    pub(in crate::store) fn at_once(&self, migration: &Migration) -> Migration {
        let sql: SqlStr = sqlx::AssertSqlSafe(self.plain.clone()).into_sql_str();
        Migration { sql, no_tx: false, ..migration.clone() }
    }
}

/// The text without comments of whole lines, its white space made one blank each.
fn without_comments(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("--"));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use sqlx::migrate::MigrationType;

    use super::*;

    fn migration(text: &'static str, no_tx: bool) -> Migration {
        Migration::new(1, "x".into(), MigrationType::Simple, text.into_sql_str(), no_tx)
    }

    #[test]
    fn the_tables_are_those_that_the_migrations_create() {
        for name in ["clients", "transactions", "failed_jobs", "maintenance_tasks"] {
            assert!(tables().iter().any(|table| table == name), "{name}: {:?}", tables());
        }
    }

    #[test]
    fn every_concurrent_build_of_ours_is_recognised() {
        let mut builds = 0;
        for migration in migrations().iter() {
            let text = without_comments(migration.sql.as_str());
            if text.contains("CREATE INDEX CONCURRENTLY") {
                assert!(IndexBuild::of(migration).is_some(), "{text}");
                builds += 1;
            }
        }
        assert!(builds > 5);
    }

    #[test]
    fn a_build_at_once_differs_in_its_statement_and_not_in_its_checksum() {
        let text = "-- no-transaction\n-- Why.\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS a_b\n \
                    ON apalis.jobs(b) WHERE c;\n";
        let migration = migration(text, true);
        let build = IndexBuild::of(&migration).unwrap();
        assert_eq!((build.index.as_str(), build.table.as_str()), ("a_b", "apalis.jobs"));
        let at_once = build.at_once(&migration);
        assert_eq!(
            at_once.sql.as_str(),
            "CREATE UNIQUE INDEX IF NOT EXISTS a_b ON apalis.jobs(b) WHERE c;"
        );
        assert_eq!(at_once.checksum, migration.checksum);
        assert!(!at_once.no_tx);
    }

    #[test]
    fn other_migrations_are_left_as_they_are() {
        let build = "CREATE INDEX CONCURRENTLY IF NOT EXISTS a ON b (c);";
        assert_eq!(IndexBuild::of(&migration(build, false)), None);
        let two = "CREATE INDEX CONCURRENTLY IF NOT EXISTS a ON b (c); DROP TABLE b;";
        assert_eq!(IndexBuild::of(&migration(two, true)), None);
        let drop = "DROP INDEX CONCURRENTLY IF EXISTS a;";
        assert_eq!(IndexBuild::of(&migration(drop, true)), None);
    }
}
