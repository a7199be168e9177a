//! The rules of Quartet without any input or output: statuses and their legal transitions, what a
//! transaction's content is, the four kinds of job, the schedules of polls and retries, the circuit
//! breaker's decisions, what a claim of due jobs looks at, who comes first among those
//! who wait, which third parties a client may use, which addresses clients may name, the
//! vocabularies of evidence and dead letters, how errors with their causes and text of others are
//! displayed, and the clocks that all of it goes by. Imports nothing else of ours.

pub mod call_rate;
pub mod causes;
pub mod circuit;
pub mod claim_plan;
pub mod clock;
pub mod dead_letter;
pub mod duration;
pub mod egress;
pub mod evidence;
pub mod fair_queue;
pub mod job;
pub mod last_answers;
pub mod maintenance;
pub mod peer_answer;
pub mod reconcile;
pub mod schedule;
pub mod third_party;
pub mod transaction;
pub mod visible;

pub use call_rate::CallRate;
pub use causes::{causes, innermost, with_causes};
pub use circuit::{CircuitCause, CircuitState};
pub use clock::{BootInstant, DatabaseClock};
pub use dead_letter::{DeadLetterKind, DeadLetterState, Replay};
pub use duration::parse_duration;
pub use egress::{EgressDenied, EgressPolicy};
pub use evidence::EvidenceKind;
pub use fair_queue::FairQueue;
pub use job::{JobKind, JobState, RunOutcome};
pub use last_answers::LastAnswers;
pub use maintenance::{Finding, MaintenanceTask};
pub use reconcile::{Judgement, Seen};
pub use schedule::{Backoff, PollSchedule, Retries};
pub use third_party::{ClientThirdParties, DEFAULT_THIRD_PARTY, Route, ThirdPartyName};
pub use transaction::{
    Content, Decision, NewTransaction, ReportedStatus, SettledBy, Status, Subject,
};
pub use visible::{visible, visible_line};

/// Declares an enum that is stored and sent as one of a few fixed words, with `as_str`, `ALL`,
/// `FromStr` and `Display`. The words are part of the wire contract and of the schema's CHECKs.
macro_rules! string_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl crate::domain::StringEnum for $name {
            const NAME: &'static str = stringify!($name);
            const ALL: &[Self] = &[$(Self::$variant),+];

            fn as_str(self) -> &'static str {
                Self::as_str(self)
            }

            fn index(self) -> usize {
                self as usize
            }
        }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &[Self] = <Self as crate::domain::StringEnum>::ALL;

            /// The word that stands for it on the wire and in the database.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::domain::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(crate::domain::UnknownWord { allowed: &[$($word),+] }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl sqlx::Type<sqlx::Postgres> for $name {
            fn type_info() -> sqlx::postgres::PgTypeInfo {
                <str as sqlx::Type<sqlx::Postgres>>::type_info()
            }

            fn compatible(info: &sqlx::postgres::PgTypeInfo) -> bool {
                <str as sqlx::Type<sqlx::Postgres>>::compatible(info)
            }
        }

        impl<'r> sqlx::Decode<'r, sqlx::Postgres> for $name {
            fn decode(
                value: sqlx::postgres::PgValueRef<'r>,
            ) -> Result<Self, sqlx::error::BoxDynError> {
                let word = <&str as sqlx::Decode<sqlx::Postgres>>::decode(value)?;
                Ok(word.parse()?)
            }
        }
    };
}
pub(crate) use string_enum;

/// An enumeration of fixed words, made by `string_enum!`.
pub trait StringEnum: Copy + Send + Sync + 'static + std::str::FromStr<Err = UnknownWord> {
    /// The name of the enumeration.
    const NAME: &'static str;
    /// Every value, in the order of declaration.
    const ALL: &[Self];

    /// The word that stands for it on the wire and in the database.
    fn as_str(self) -> &'static str;

    /// Position in [`StringEnum::ALL`].
    fn index(self) -> usize;
}

impl UnknownWord {
    /// None of this enumeration's words.
    pub fn of<T: StringEnum>() -> Self {
        let Err(unknown) = "".parse::<T>() else { return Self { allowed: &[] } };
        unknown
    }
}

/// A text that is none of an enumeration's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {}", .allowed.join(", "))]
pub struct UnknownWord {
    /// The words that are allowed.
    pub allowed: &'static [&'static str],
}
