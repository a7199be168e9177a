//! DESIGN section 5, checked on a database at rest.
//!
//! One function for all tests, whatever faults they make: [`check`] returns every violation,
//! [`assert_held`] panics with them.

use std::time::Duration;

use quartet::sandbox::Sandbox;
use sqlx::PgPool;
use uuid::Uuid;

use super::invariant_queries;

/// What the caller knows.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    /// The ids whose post was answered 2xx.
    pub accepted: &'a [Uuid],
    /// Whether the third party may have stored an id over itself: where its lookups were made to
    /// hide what it has.
    pub allows_double_creates: bool,
    /// The workers' settings.
    pub dead_after: Duration,
    pub heartbeat: Duration,
}

impl<'a> Expected<'a> {
    /// With the settings that tests have by default.
    pub fn new(accepted: &'a [Uuid]) -> Self {
        Self {
            accepted,
            allows_double_creates: false,
            dead_after: Duration::from_millis(600),
            heartbeat: Duration::from_millis(200),
        }
    }
}

/// Panics with every violation.
pub async fn assert_held(pool: &PgPool, sandbox: &Sandbox, expected: &Expected<'_>) {
    let violations = check(pool, sandbox, expected).await;
    assert!(violations.is_empty(), "violated:\n  {}", violations.join("\n  "));
}

/// Every violation, as a sentence that begins with the invariant's number.
pub async fn check(pool: &PgPool, sandbox: &Sandbox, expected: &Expected<'_>) -> Vec<String> {
    let lease = expected.dead_after + expected.heartbeat;
    let mut violations = invariant_queries::check_rows(pool, lease).await.unwrap();
    violations.extend(check_told(pool, sandbox).await);
    violations.extend(check_third_party(sandbox, expected));
    let accepted = invariant_queries::check_accepted(pool, expected.accepted).await;
    violations.extend(accepted.unwrap());
    violations
}

/// Invariant 3: the client has the last version, and never heard an older one after it.
async fn check_told(pool: &PgPool, sandbox: &Sandbox) -> Vec<String> {
    let heard = sandbox.client().last_versions();
    let mut violations = invariant_queries::check_told(pool, &heard).await.unwrap();
    let regressions = sandbox.client().regressions().into_iter();
    violations.extend(regressions.map(|id| format!("3: {id} went down to an older version")));
    violations
}

/// Invariant 4: what the third party shows is not created again.
pub fn check_third_party(sandbox: &Sandbox, expected: &Expected<'_>) -> Vec<String> {
    let third_party = sandbox.third_party();
    let created = third_party.violations().into_iter();
    let mut violations: Vec<String> =
        created.map(|id| format!("4: {id} was created although a lookup shows it")).collect();
    if !expected.allows_double_creates {
        let doubled = third_party.double_creates().into_iter();
        violations.extend(doubled.map(|id| format!("4: {id} was stored over itself")));
    }
    violations
}
