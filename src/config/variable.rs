//! How a setting's name in the file and its variable correspond.

/// Prefix of every variable but `DATABASE_URL`.
pub(super) const PREFIX: &str = "QUARTET_";
/// Variables of test runs, not of the program: never unknown.
pub(super) const TEST_PREFIX: &str = "QUARTET_TEST_";
/// Between the levels of a variable's name.
pub(super) const LEVEL: &str = "__";
/// `QUARTET_THIRD_PARTY__TIMEOUT` → `third_party.timeout`.
pub(super) fn key_of(variable: &str) -> String {
    let name = variable.strip_prefix(PREFIX).unwrap_or(variable);
    name.replace(LEVEL, ".").to_ascii_lowercase()
}

/// The variable that an unknown key of the file would have.
pub(super) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', LEVEL).to_ascii_uppercase())
}
