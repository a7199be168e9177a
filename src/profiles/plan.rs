//! What a create does next: the rules that no profile can bend.
//!
//! Nothing is posted on anything but a proof of absence. Where the third party cannot be looked up
//! by our id, the first create needs none, and after one that may have gone through the same bytes
//! are posted again while that is known to be safe; after that it is an operator's.

use std::time::Duration;

use super::{
    definition::{Definition, LookupBy, Repeat},
    rule::{CreateMeans, LookupMeans},
};

/// How long a repeat is taken to be safe where a profile does not say: shorter than the shortest
/// life of an idempotency key that is known, which is half an hour.
const REPEAT_WITHIN: Duration = Duration::from_secs(20 * 60);

/// The creates of one transaction so far that may have gone through: those that were sent and not
/// refused for certain, and those of runs whose lease was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// How long ago the first one was; `None`: there is none.
    pub since_first: Option<Duration>,
    /// How long ago the last one was.
    pub since_last: Option<Duration>,
    /// The third party's id is known.
    pub has_provider_id: bool,
}

/// What a create does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateStep {
    /// Look it up first.
    LookUp,
    /// Post it, rendered from the transaction.
    Post,
    /// Post the bytes of the first one again, with the same headers.
    Repeat,
    /// It exists.
    Done,
    /// It was refused for good.
    Refused,
    /// Try again after the backoff, from the first step.
    Wait,
    /// Our credentials were refused: hold the queue, without using an attempt.
    Hold,
    /// A machine must not decide.
    Operator(&'static str),
}

impl Definition {
    /// How long a repeat is taken to be safe.
    pub(super) fn repeat_within(&self) -> Duration {
        self.create.repeat_within.map_or(REPEAT_WITHIN, |period| period.0)
    }

    /// How a try begins.
    pub(super) fn begin(&self, sent: &Sent) -> CreateStep {
        if self.lookup.by == LookupBy::Id || sent.has_provider_id {
            return CreateStep::LookUp;
        }
        let within = self.repeat_within();
        match sent.since_first {
            None => CreateStep::Post,
            // Refused when the profile was loaded; and no repeat of it is safe.
            Some(_) if self.create.repeat == Repeat::NewTransaction => {
                CreateStep::Operator("it may exist, and a second create would double it")
            }
            Some(since) if since < within => CreateStep::Repeat,
            Some(_) => CreateStep::Operator(
                "it may exist, cannot be looked up by our id, and is too old to be repeated",
            ),
        }
    }

    /// How it goes on after a lookup.
    pub(super) fn after_lookup(&self, sent: &Sent, means: LookupMeans) -> CreateStep {
        match means {
            LookupMeans::Found => CreateStep::Done,
            LookupMeans::Absent
                if sent.has_provider_id || self.lookup.by == LookupBy::ProviderId =>
            {
                CreateStep::Operator("the third party has given an id, and does not find it")
            }
            // The first one may still land, and nothing there would keep the two apart. An absence
            // that is read after `settle_after` says that it will not.
            LookupMeans::Absent
                if self.create.repeat == Repeat::NewTransaction
                    && sent.since_first.is_some()
                    && self.lookup.settle_after.is_none() =>
            {
                CreateStep::Operator(
                    "a create may still go through, a second one would double it, and the profile \
                     does not say (settle_after) when an absence can be relied upon",
                )
            }
            LookupMeans::Absent => CreateStep::Post,
            LookupMeans::Unclear => CreateStep::Operator("the lookup is not clear"),
            LookupMeans::NoAnswer | LookupMeans::NotOurs => CreateStep::Wait,
        }
    }

    /// How it goes on after a create. `sent` are those before it.
    pub(super) fn after_create(&self, sent: &Sent, means: CreateMeans) -> CreateStep {
        match means {
            CreateMeans::Created | CreateMeans::Exists => CreateStep::Done,
            // No lookup has said that the earlier one is not there.
            CreateMeans::Refused
                if self.lookup.by == LookupBy::ProviderId && sent.since_first.is_some() =>
            {
                CreateStep::Operator("an earlier create may exist, and its repeat was refused")
            }
            CreateMeans::Refused => CreateStep::Refused,
            CreateMeans::Later | CreateMeans::Ambiguous => CreateStep::Wait,
            CreateMeans::Blocked => CreateStep::Hold,
            CreateMeans::Unclear => {
                CreateStep::Operator("something exists there, and we cannot tell what")
            }
        }
    }
}
