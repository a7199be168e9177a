//! The random behaviour of the simulated peers: rates, latencies and the fates drawn from them.
//!
//! Pure: nothing here sleeps, locks or speaks HTTP. A fate depends only on the seed, the
//! transaction's id and the ordinal of the call for that id; never on the order in which calls of
//! different transactions arrive. So a run can be repeated with the same seed although its
//! concurrency differs, and two processes with one seed agree about an id.
//!
//! The defaults are those of DESIGN section 2, "Real third parties". All durations are at speed 1.

use std::time::Duration;

use clap::{Args, FromArgMatches};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use super::{Status, error::SandboxError};

/// Rates (0 to 1) and latencies. Each field is a command line flag of the same name.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct Profile {
    /// Shortest time a create takes
    #[arg(long, default_value = "200ms", value_parser = humantime::parse_duration)]
    pub create_latency_min: Duration,
    /// Longest time a create takes
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub create_latency_max: Duration,
    /// Share of creates answered with 504
    #[arg(long, default_value_t = 0.1)]
    pub timeout_rate: f64,
    /// Time after which such a create is answered with 504
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub timeout_latency: Duration,
    /// Share of the creates answered with 504 that go through later
    #[arg(long, default_value_t = 0.5)]
    pub timeout_stored_rate: f64,
    /// Earliest time, from the request's arrival, at which a timed-out create goes through
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub timeout_stored_min: Duration,
    /// Latest time, from the request's arrival, at which a timed-out create goes through
    #[arg(long, default_value = "120s", value_parser = humantime::parse_duration)]
    pub timeout_stored_max: Duration,
    /// Share of transactions that end as declined; the others complete
    #[arg(long, default_value_t = 0.15)]
    pub declined_rate: f64,
    /// Share of creates whose answer carries the final status
    #[arg(long, default_value_t = 0.0)]
    pub final_in_answer_rate: f64,
    /// Share of transactions whose webhook is sent
    #[arg(long, default_value_t = 0.8)]
    pub webhook_rate: f64,
    /// Shortest time from the commit to the final status and its webhook
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub webhook_latency_min: Duration,
    /// Longest time from the commit to the final status and its webhook
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub webhook_latency_max: Duration,
    /// Share of webhooks that are sent twice, under the same `webhook-id`
    #[arg(long, default_value_t = 0.0)]
    pub webhook_duplicate_rate: f64,
    /// Share of webhooks signed with a wrong secret
    #[arg(long, default_value_t = 0.0)]
    pub webhook_bad_signature_rate: f64,
    /// Share of webhooks that come long after the status became final
    #[arg(long, default_value_t = 0.0)]
    pub webhook_late_rate: f64,
    /// How much later a late webhook comes
    #[arg(long, default_value = "120s", value_parser = humantime::parse_duration)]
    pub webhook_late_by: Duration,
    /// Share of webhooks that are followed by one that says `pending`
    #[arg(long, default_value_t = 0.0)]
    pub webhook_out_of_order_rate: f64,
    /// Shortest time a lookup takes
    #[arg(long, default_value = "5ms", value_parser = humantime::parse_duration)]
    pub lookup_latency_min: Duration,
    /// Longest time a lookup takes
    #[arg(long, default_value = "50ms", value_parser = humantime::parse_duration)]
    pub lookup_latency_max: Duration,
    /// Share of lookups answered with 500
    #[arg(long, default_value_t = 0.0)]
    pub lookup_error_rate: f64,
    /// Shortest time the client takes to answer a callback
    #[arg(long, default_value = "5ms", value_parser = humantime::parse_duration)]
    pub client_latency_min: Duration,
    /// Longest time the client takes to answer a callback
    #[arg(long, default_value = "20ms", value_parser = humantime::parse_duration)]
    pub client_latency_max: Duration,
    /// Share of callbacks the client answers with 500
    #[arg(long, default_value_t = 0.0)]
    pub client_failure_rate: f64,
}

impl Default for Profile {
    /// What the flags default to, so that the figures are written once.
    fn default() -> Self {
        let command = Self::augment_args(clap::Command::new("profile"));
        let parsed = command
            .try_get_matches_from(["profile"])
            .and_then(|matches| Self::from_arg_matches(&matches));
        // No flag is required and each default parses: the test `defaults_are_the_designs` fails
        // first if that changes.
        parsed.expect("the flags' defaults parse")
    }
}

impl Profile {
    /// No faults and no waiting: each create is stored at once, completes, and its webhook is sent
    /// immediately. For tests and benchmarks that are not about faults.
    pub fn faultless() -> Self {
        let zero = Duration::ZERO;
        Self {
            create_latency_min: zero,
            create_latency_max: zero,
            timeout_rate: 0.0,
            declined_rate: 0.0,
            webhook_rate: 1.0,
            webhook_latency_min: zero,
            webhook_latency_max: zero,
            lookup_latency_min: zero,
            lookup_latency_max: zero,
            client_latency_min: zero,
            client_latency_max: zero,
            ..Self::default()
        }
    }

    /// Refuses rates outside 0 to 1 and ranges that end before they start.
    pub fn validate(&self) -> Result<(), SandboxError> {
        let rates = [
            ("timeout-rate", self.timeout_rate),
            ("timeout-stored-rate", self.timeout_stored_rate),
            ("declined-rate", self.declined_rate),
            ("final-in-answer-rate", self.final_in_answer_rate),
            ("webhook-rate", self.webhook_rate),
            ("webhook-duplicate-rate", self.webhook_duplicate_rate),
            ("webhook-bad-signature-rate", self.webhook_bad_signature_rate),
            ("webhook-late-rate", self.webhook_late_rate),
            ("webhook-out-of-order-rate", self.webhook_out_of_order_rate),
            ("lookup-error-rate", self.lookup_error_rate),
            ("client-failure-rate", self.client_failure_rate),
        ];
        if let Some((name, _)) = rates.iter().find(|(_, rate)| !(0.0..=1.0).contains(rate)) {
            return Err(SandboxError::Rate { name });
        }
        let ranges = [
            ("create-latency", self.create_latency_min, self.create_latency_max),
            ("timeout-stored", self.timeout_stored_min, self.timeout_stored_max),
            ("webhook-latency", self.webhook_latency_min, self.webhook_latency_max),
            ("lookup-latency", self.lookup_latency_min, self.lookup_latency_max),
            ("client-latency", self.client_latency_min, self.client_latency_max),
        ];
        match ranges.iter().find(|(_, min, max)| min > max) {
            Some((name, ..)) => Err(SandboxError::Range { name }),
            None => Ok(()),
        }
    }

    /// What becomes of the `nth` create (from 1) of `id`.
    pub fn create_fate(&self, seed: u64, id: Uuid, nth: u32) -> CreateFate {
        let mut rng = rng(seed, id, Draw::Create, nth);
        // Every figure is drawn whether it is needed or not, so that changing one rate leaves the
        // other properties of a transaction as they were.
        let latency = between(&mut rng, self.create_latency_min, self.create_latency_max);
        let timed_out = chance(&mut rng, self.timeout_rate);
        let stored = chance(&mut rng, self.timeout_stored_rate);
        let stored_after = between(&mut rng, self.timeout_stored_min, self.timeout_stored_max);
        let declined = chance(&mut rng, self.declined_rate);
        let final_in_answer = chance(&mut rng, self.final_in_answer_rate);
        let after = between(&mut rng, self.webhook_latency_min, self.webhook_latency_max);
        let sent = chance(&mut rng, self.webhook_rate);
        let duplicate = chance(&mut rng, self.webhook_duplicate_rate);
        let bad_signature = chance(&mut rng, self.webhook_bad_signature_rate);
        let late = chance(&mut rng, self.webhook_late_rate);
        let out_of_order = chance(&mut rng, self.webhook_out_of_order_rate);

        CreateFate {
            answer: match timed_out {
                true => CreateAnswer::TimedOut {
                    after: self.timeout_latency,
                    stored_after: stored.then_some(stored_after),
                },
                false => CreateAnswer::Created { after: latency, final_in_answer },
            },
            settlement: Settlement {
                status: if declined { Status::Declined } else { Status::Completed },
                after,
                webhook: sent.then_some(WebhookFate {
                    late_by: if late { self.webhook_late_by } else { Duration::ZERO },
                    duplicate,
                    bad_signature,
                    out_of_order,
                }),
            },
        }
    }

    /// What becomes of the `nth` lookup (from 1) of `id`.
    pub fn lookup_fate(&self, seed: u64, id: Uuid, nth: u32) -> CallFate {
        let mut rng = rng(seed, id, Draw::Lookup, nth);
        CallFate {
            latency: between(&mut rng, self.lookup_latency_min, self.lookup_latency_max),
            fails: chance(&mut rng, self.lookup_error_rate),
        }
    }

    /// What becomes of the `nth` callback (from 1) about `id`.
    pub fn callback_fate(&self, seed: u64, id: Uuid, nth: u32) -> CallFate {
        let mut rng = rng(seed, id, Draw::Callback, nth);
        CallFate {
            latency: between(&mut rng, self.client_latency_min, self.client_latency_max),
            fails: chance(&mut rng, self.client_failure_rate),
        }
    }
}

/// The fate of one create: how it is answered, and how the transaction ends if it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateFate {
    pub answer: CreateAnswer,
    pub settlement: Settlement,
}

/// How a create is answered; times count from the request's arrival.
#[derive(Clone, Debug, PartialEq)]
pub enum CreateAnswer {
    /// Stored and answered after this time.
    Created { after: Duration, final_in_answer: bool },
    /// Answered with 504; stored at `stored_after`, or never.
    TimedOut { after: Duration, stored_after: Option<Duration> },
}

/// How a stored transaction ends; `after` counts from the commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    pub status: Status,
    pub after: Duration,
    /// `None`: the webhook is lost, and only a lookup shows the end.
    pub webhook: Option<WebhookFate>,
}

/// What is wrong with a webhook that is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookFate {
    pub late_by: Duration,
    pub duplicate: bool,
    pub bad_signature: bool,
    pub out_of_order: bool,
}

/// The fate of a lookup or of a callback.
#[derive(Clone, Debug, PartialEq)]
pub struct CallFate {
    pub latency: Duration,
    pub fails: bool,
}

/// Keeps the draws of the different calls about one id apart.
#[derive(Clone, Copy)]
enum Draw {
    Create = 1,
    Lookup = 2,
    Callback = 3,
}

fn rng(seed: u64, id: Uuid, draw: Draw, nth: u32) -> StdRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..24].copy_from_slice(id.as_bytes());
    bytes[24..28].copy_from_slice(&(draw as u32).to_le_bytes());
    bytes[28..].copy_from_slice(&nth.to_le_bytes());
    StdRng::from_seed(bytes)
}

// Both take exactly one number from the generator whatever their bounds are: `random_bool` and
// `random_range` do not, and a changed rate would shift every draw after it.

fn chance(rng: &mut StdRng, rate: f64) -> bool {
    rng.random::<f64>() < rate
}

fn between(rng: &mut StdRng, min: Duration, max: Duration) -> Duration {
    min + max.saturating_sub(min).mul_f64(rng.random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_designs() {
        let profile = Profile::default();
        assert_eq!(profile.create_latency_min, Duration::from_millis(200));
        assert_eq!(profile.create_latency_max, Duration::from_secs(10));
        assert_eq!(profile.timeout_latency, Duration::from_secs(30));
        assert_eq!((profile.timeout_rate, profile.timeout_stored_rate), (0.1, 0.5));
        assert_eq!((profile.webhook_rate, profile.declined_rate), (0.8, 0.15));
        assert!(profile.validate().is_ok());
        assert!(Profile::faultless().validate().is_ok());
    }

    #[test]
    fn impossible_profiles_are_refused() {
        let rate = Profile { webhook_rate: 1.1, ..Profile::default() };
        assert!(matches!(rate.validate(), Err(SandboxError::Rate { name: "webhook-rate" })));
        let nan = Profile { timeout_rate: f64::NAN, ..Profile::default() };
        assert!(nan.validate().is_err());
        let range = Profile { create_latency_max: Duration::ZERO, ..Profile::default() };
        assert!(matches!(range.validate(), Err(SandboxError::Range { name: "create-latency" })));
    }

    #[test]
    fn a_fate_depends_on_seed_id_and_ordinal_only() {
        let profile = Profile::default();
        let ids: Vec<Uuid> = (1..200).map(Uuid::from_u128).collect();
        let draw = |seed, nth, id: &Uuid| profile.create_fate(seed, *id, nth);
        let forward: Vec<_> = ids.iter().map(|id| draw(7, 1, id)).collect();
        let mut backward: Vec<_> = ids.iter().rev().map(|id| draw(7, 1, id)).collect();
        backward.reverse();
        assert_eq!(forward, backward);
        assert_ne!(forward, ids.iter().map(|id| draw(8, 1, id)).collect::<Vec<_>>());
        assert_ne!(forward, ids.iter().map(|id| draw(7, 2, id)).collect::<Vec<_>>());
    }

    #[test]
    fn one_rate_leaves_the_rest_of_a_fate_alone() {
        let never = Profile { timeout_rate: 0.0, ..Profile::default() };
        let always =
            Profile { timeout_rate: 1.0, create_latency_max: never.create_latency_min, ..never };
        for id in (0..100).map(Uuid::from_u128) {
            let settlement = |profile: &Profile| profile.create_fate(1, id, 1).settlement;
            assert_eq!(settlement(&never), settlement(&always));
        }
    }

    #[test]
    fn rates_and_ranges_hold_over_many_draws() {
        let profile = Profile::default();
        let fates: Vec<_> =
            (0..10_000).map(|n| profile.create_fate(3, Uuid::from_u128(n), 1)).collect();
        let share =
            |matches: &dyn Fn(&CreateFate) -> bool| fates.iter().filter(|f| matches(f)).count();

        let timed_out = share(&|f| matches!(f.answer, CreateAnswer::TimedOut { .. }));
        let stored_late = share(&|f| {
            matches!(f.answer, CreateAnswer::TimedOut { stored_after: Some(after), .. }
                if (30..=120).contains(&after.as_secs()))
        });
        let declined = share(&|f| f.settlement.status == Status::Declined);
        let sent = share(&|f| f.settlement.webhook.is_some());
        assert!((850..1150).contains(&timed_out), "{timed_out}");
        assert!((400..600).contains(&stored_late), "{stored_late}");
        assert!((1350..1650).contains(&declined), "{declined}");
        assert!((7800..8200).contains(&sent), "{sent}");

        for fate in &fates {
            if let CreateAnswer::Created { after, .. } = fate.answer {
                assert!((200..=10_000).contains(&after.as_millis()));
            }
            assert!((10..=30).contains(&fate.settlement.after.as_secs()));
        }
        let above_half = share(
            &|f| matches!(f.answer, CreateAnswer::Created { after, .. } if after.as_millis() > 5100),
        );
        assert!((4200..4800).contains(&above_half), "{above_half}");
    }
}
