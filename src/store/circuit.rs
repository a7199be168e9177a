//! The circuit breakers' state that all processes share, table `circuits`, a row for each third
//! party; all times are by the database's clock.
//!
//! Each change names the state that it begins from, so that of several processes that want the
//! same change one makes it: a trip names the number of trips before it, and a probe's result the
//! probe. A late change does nothing. A probe whose process never reports back is available
//! to another one after `probe_until`.
//!
//! A time that is further ahead than any change sets it was written before the database's clock was
//! set back. It counts as past.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::{
    StoreError,
    jobs::claims::seconds,
    postgres::columns::{MaybeTime, Time},
};
use crate::domain::{CircuitCause, CircuitState, ThirdPartyName};

/// No probe of another process lasts longer: what ends later was not set by the clock of now.
const MAX_PROBE: Duration = Duration::from_secs(10 * 60);

/// A third party's circuit, as last read.
#[derive(Debug, Clone, PartialEq)]
pub struct Circuit {
    pub state: CircuitState,
    /// When it opened; `None` while it is closed.
    pub opened_at: Option<DateTime<Utc>>,
    /// From then on a probe may be made; `None` while it is closed.
    pub open_until: Option<DateTime<Utc>>,
    /// Length of the present opening; `None` while it is closed.
    pub open_for: Option<Duration>,
    /// What kind of reason that is.
    pub cause: CircuitCause,
    /// Why it is open, or last was.
    pub reason: Option<String>,
    /// How often it has opened.
    pub trips: i32,
    /// The probe under way, live or lost.
    pub probe: Option<Probe>,
    /// When it last opened, closed or was probed.
    pub changed_at: DateTime<Utc>,
    /// How long until it half-opens; zero where it is not open.
    pub open_left: Duration,
    /// How long until the probe under way counts as lost; zero without a live one.
    pub probe_left: Duration,
}

/// A probe under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// The process and a ULID.
    pub by: String,
    /// From then on it counts as lost.
    pub until: DateTime<Utc>,
}

impl Default for Circuit {
    /// One that has never opened.
    fn default() -> Self {
        Self {
            state: CircuitState::Closed,
            opened_at: None,
            open_until: None,
            open_for: None,
            cause: CircuitCause::Outage,
            reason: None,
            trips: 0,
            probe: None,
            changed_at: DateTime::UNIX_EPOCH,
            open_left: Duration::ZERO,
            probe_left: Duration::ZERO,
        }
    }
}

/// The circuits of all third parties; one that has never opened may be missing.
#[derive(Debug, Clone, Default)]
pub struct Circuits(HashMap<String, Circuit>);

impl Circuits {
    /// The circuit of this third party.
    pub fn of(&self, third_party: &ThirdPartyName) -> Circuit {
        self.0.get(row_of(third_party)).cloned().unwrap_or_default()
    }

    /// The third parties whose circuit has ever opened. A row alone says nothing: the schema has
    /// one for the third party without a name, whether there is such a third party or not.
    pub fn opened(&self) -> impl Iterator<Item = ThirdPartyName> {
        let opened = self.0.iter().filter(|(_, circuit)| circuit.trips > 0);
        opened.map(|(row, _)| match row.as_str() {
            DEFAULT_ROW => ThirdPartyName::default(),
            name => name.to_owned().into(),
        })
    }
}

/// The row of the third party without a name, as it was when there was one third party. No name
/// has a `_`.
const DEFAULT_ROW: &str = "third_party";

/// The name of the row.
fn row_of(third_party: &ThirdPartyName) -> &str {
    if third_party.is_default() { DEFAULT_ROW } else { third_party }
}

/// The circuit of one third party.
pub async fn get(
    executor: impl PgExecutor<'_>,
    third_party: &ThirdPartyName,
) -> Result<Circuit, StoreError> {
    Ok(get_all(executor).await?.of(third_party))
}

/// All circuits: there are few of them.
pub async fn get_all(executor: impl PgExecutor<'_>) -> Result<Circuits, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT
            name,
            opened_at AS "opened_at!: MaybeTime", open_until AS "open_until!: MaybeTime", open_for,
            reason, cause AS "cause: CircuitCause", trips, probe_by, probe_until AS "probe_until!: MaybeTime",
            changed_at AS "changed_at: Time",
            -- Epochs rather than a difference of times, which an infinite one has not.
            extract(epoch FROM open_until)::float8
                - extract(epoch FROM clock_timestamp())::float8 AS open_ahead,
            extract(epoch FROM probe_until)::float8
                - extract(epoch FROM clock_timestamp())::float8 AS probe_ahead
        FROM circuits
        "#
    )
    .fetch_all(executor)
    .await?;
    let circuits = rows.into_iter().map(|row| {
        let opened_at: Option<DateTime<Utc>> = row.opened_at.into();
        let open_left = time_left(row.open_ahead, row.open_for.unwrap_or_default());
        let circuit = Circuit {
            state: match opened_at {
                None => CircuitState::Closed,
                Some(_) if open_left.is_zero() => CircuitState::HalfOpen,
                Some(_) => CircuitState::Open,
            },
            opened_at,
            open_until: row.open_until.into(),
            open_for: row.open_for.map(seconds),
            cause: row.cause,
            reason: row.reason,
            trips: row.trips,
            probe: row.probe_by.zip(row.probe_until.into()).map(|(by, until)| Probe { by, until }),
            changed_at: row.changed_at.at(),
            open_left,
            probe_left: time_left(row.probe_ahead, MAX_PROBE.as_secs_f64()),
        };
        (row.name, circuit)
    });
    Ok(Circuits(circuits.collect()))
}

impl Circuit {
    /// Whether the third party is not called because it refuses our credentials.
    pub fn refuses_credentials(&self) -> bool {
        self.state != CircuitState::Closed && self.cause != CircuitCause::Outage
    }
}

/// The time left until a moment that is `ahead` seconds from now. One that is further ahead than
/// `longest` was not set by this clock, and one that never comes is past.
fn time_left(ahead: Option<f64>, longest: f64) -> Duration {
    ahead.filter(|ahead| *ahead <= longest).map(seconds).unwrap_or_default()
}

/// Opens the circuit after its first `trips` openings; `false` where another process has done so.
pub async fn trip(
    executor: impl PgExecutor<'_>,
    third_party: &ThirdPartyName,
    trips: i32,
    open_for: Duration,
    cause: CircuitCause,
    reason: &str,
) -> Result<bool, StoreError> {
    let tripped = sqlx::query!(
        r#"
        INSERT INTO circuits (name, opened_at, open_until, open_for, reason, cause, trips)
        VALUES (
            $5, clock_timestamp(), clock_timestamp() + make_interval(secs => $2), $2, $3, $4,
            LEAST($1::int, 2147483646) + 1
        )
        ON CONFLICT (name) DO UPDATE
        SET opened_at = excluded.opened_at, open_until = excluded.open_until,
            open_for = excluded.open_for, reason = excluded.reason, cause = excluded.cause,
            trips = excluded.trips, changed_at = clock_timestamp()
        -- The count too: calls of before an opening that has come and gone say nothing any more.
        WHERE circuits.opened_at IS NULL AND circuits.trips = $1
        "#,
        trips,
        open_for.as_secs_f64(),
        reason,
        cause.as_str(),
        row_of(third_party),
    )
    .execute(executor)
    .await?;
    Ok(tripped.rows_affected() > 0)
}

/// Takes the probe as `probe`, which must be new, for at most `longest`, and returns the length of
/// the opening before it; `None` where the circuit is not half-open or another probe is live.
pub async fn take_probe(
    executor: impl PgExecutor<'_>,
    third_party: &ThirdPartyName,
    probe: &str,
    longest: Duration,
) -> Result<Option<Duration>, StoreError> {
    let taken = sqlx::query_scalar!(
        r#"
        UPDATE circuits
        SET probe_by = $1, probe_until = clock_timestamp() + make_interval(secs => $2),
            changed_at = clock_timestamp()
        -- Of two at once the second waits for the row's lock, and then sees the first one's probe.
        WHERE name = $3
            -- As `get_all` reads it: what is too far ahead is past.
            AND (
                open_until <= clock_timestamp() OR NOT isfinite(open_until)
                OR extract(epoch FROM open_until)::float8
                    - extract(epoch FROM clock_timestamp())::float8 > open_for
            )
            AND (
                probe_until IS NULL OR probe_until <= clock_timestamp()
                OR probe_until > clock_timestamp() + make_interval(secs => $4)
            )
        RETURNING open_for AS "open_for!"
        "#,
        probe,
        longest.as_secs_f64(),
        row_of(third_party),
        longest.max(MAX_PROBE).as_secs_f64(),
    )
    .fetch_optional(executor)
    .await?;
    Ok(taken.map(seconds))
}

/// Closes the circuit, because `probe` was answered; `false` if that probe is out of date.
pub async fn close(
    executor: impl PgExecutor<'_>,
    third_party: &ThirdPartyName,
    probe: &str,
) -> Result<bool, StoreError> {
    let closed = sqlx::query!(
        r#"
        UPDATE circuits
        SET opened_at = NULL, open_until = NULL, open_for = NULL,
            probe_by = NULL, probe_until = NULL, changed_at = clock_timestamp()
        WHERE name = $2 AND probe_by = $1
        "#,
        probe,
        row_of(third_party),
    )
    .execute(executor)
    .await?;
    Ok(closed.rows_affected() > 0)
}

/// Opens the circuit again for `open_for`, because `probe` failed; `false` if that probe is out
/// of date.
pub async fn reopen(
    executor: impl PgExecutor<'_>,
    third_party: &ThirdPartyName,
    probe: &str,
    open_for: Duration,
    cause: CircuitCause,
    reason: &str,
) -> Result<bool, StoreError> {
    let reopened = sqlx::query!(
        r#"
        UPDATE circuits
        SET open_until = clock_timestamp() + make_interval(secs => $2), open_for = $2,
            reason = $3, cause = $4, probe_by = NULL, probe_until = NULL, changed_at = clock_timestamp()
        WHERE name = $5 AND probe_by = $1
        "#,
        probe,
        open_for.as_secs_f64(),
        reason,
        cause.as_str(),
        row_of(third_party),
    )
    .execute(executor)
    .await?;
    Ok(reopened.rows_affected() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_opened_is_known_and_the_row_of_the_schema_is_not() {
        let row = |name: &str, trips| (name.to_owned(), Circuit { trips, ..Circuit::default() });
        let opened = |rows: [(String, Circuit); 2]| {
            let mut names: Vec<_> = Circuits(rows.into()).opened().collect();
            names.sort();
            names
        };
        let acme = ThirdPartyName::from("acme".to_owned());
        assert_eq!(opened([row("third_party", 0), row("acme", 1)]), std::slice::from_ref(&acme));
        let both = [acme, ThirdPartyName::default()];
        assert_eq!(opened([row("third_party", 2), row("acme", 1)]), both);
    }

    #[test]
    fn an_end_that_lies_too_far_ahead_is_past() {
        assert_eq!(time_left(Some(14.5), 15.0), Duration::from_millis(14_500));
        for (ahead, longest) in [
            (Some(6.0 * 3600.0), 15.0),
            (Some(f64::INFINITY), 15.0),
            (Some(f64::INFINITY), f64::NAN),
            (Some(f64::NEG_INFINITY), 15.0),
            (Some(-1.0), 15.0),
            (None, 15.0),
        ] {
            assert_eq!(time_left(ahead, longest), Duration::ZERO, "{ahead:?} {longest}");
        }
    }
}
