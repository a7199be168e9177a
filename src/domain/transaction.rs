//! A transaction's content and its status: what makes two posts the same, and which changes of
//! status are legal.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Route, ThirdPartyName};

super::string_enum! {
    /// Where a transaction stands. It leaves `Pending` at most once by itself.
    Status {
        Pending = "pending",
        Completed = "completed",
        Declined = "declined",
        Failed = "failed",
    }
}

impl Status {
    /// Whether nothing but an operator changes it any more.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending)
    }
}

super::string_enum! {
    /// A status as the third party reports it, in an answer or a webhook. It has no word for
    /// `failed`: that one is Quartet's own.
    ReportedStatus {
        Pending = "pending",
        Completed = "completed",
        Declined = "declined",
    }
}

impl From<ReportedStatus> for Status {
    fn from(reported: ReportedStatus) -> Self {
        match reported {
            ReportedStatus::Pending => Self::Pending,
            ReportedStatus::Completed => Self::Completed,
            ReportedStatus::Declined => Self::Declined,
        }
    }
}

super::string_enum! {
    /// What settled a transaction.
    SettledBy {
        ThirdPartyResponse = "third_party_response",
        Poll = "poll",
        Webhook = "webhook",
        CreationFailure = "creation_failure",
        Operator = "operator",
    }
}

/// What a reported status does to the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It becomes the status.
    Settle,
    /// Nothing new: the report is `pending`, or what is known already.
    Unchanged,
    /// Another final status is known already: for an operator.
    Conflict,
}

impl Status {
    /// Decides what a report of `reported` by `by` does to a transaction that has this status.
    ///
    /// An answer to a create or to its lookup proves that the transaction is there, which
    /// contradicts `failed` even while it is `pending` there.
    pub const fn decide(self, reported: Self, by: SettledBy) -> Decision {
        match (self, reported) {
            (Self::Failed, Self::Pending) if matches!(by, SettledBy::ThirdPartyResponse) => {
                Decision::Conflict
            }
            (_, Self::Pending) => Decision::Unchanged,
            (Self::Pending, _) => Decision::Settle,
            (Self::Completed, Self::Completed)
            | (Self::Declined, Self::Declined)
            | (Self::Failed, Self::Failed) => Decision::Unchanged,
            _ => Decision::Conflict,
        }
    }
}

/// What the client posted, besides the id. Absent and `null` are the same.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Minor units of `currency`, not negative.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub amount: Option<i64>,
    /// ISO 4217 alphabetic code; present exactly when `amount` is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub currency: Option<String>,
    /// At most 140 characters.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reference: Option<String>,
    /// At most 50 string pairs. An empty map is kept and differs from none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// A transaction as far as calls about it to its third party are made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub content: Content,
    /// The third party's id, once it is known.
    pub provider_id: Option<String>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// How long ago the last create was sent that may have gone through, where that matters.
    pub since_create: Option<Duration>,
}

impl Content {
    /// SHA-256 of the canonical form: JSON with sorted keys, no white space, absent fields left
    /// out. The order of keys and the white space of the posted text do not matter.
    pub fn hash(&self) -> [u8; 32] {
        // The fields serialise in a fixed order and the map is sorted, so that equal contents give
        // equal bytes; a struct of strings and integers always serialises.
        let canonical = serde_json::to_vec(self).expect("content is plain JSON");
        Sha256::digest(canonical).into()
    }

    /// The same with the third party that the client `chose` in place of its default, if it did.
    pub fn hash_at(&self, chose: Option<&ThirdPartyName>) -> [u8; 32] {
        let Some(third_party) = chose else { return self.hash() };
        // No content's own form ends like that.
        Sha256::new().chain_update(self.hash()).chain_update(third_party.as_str()).finalize().into()
    }
}

/// A transaction as it is accepted, and as the payload of its create_transaction job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTransaction {
    /// The client's id for it.
    pub id: Uuid,
    /// The client that posted it.
    pub client_id: Uuid,
    /// What was posted.
    pub content: Content,
    /// At which third party it is created.
    #[serde(default, skip_serializing_if = "Route::is_default")]
    pub route: Route,
}

impl NewTransaction {
    /// The hash of what was posted besides the id: of the content, and of the third party where the
    /// client chose one in place of its default.
    pub fn content_hash(&self) -> [u8; 32] {
        self.content.hash_at(self.route.is_chosen.then_some(&self.route.third_party))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;

    fn status() -> impl Strategy<Value = Status> {
        select(Status::ALL)
    }

    proptest! {
        /// Whatever is reported in whatever order, the status leaves `pending` at most once, and
        /// the version grows exactly with it.
        #[test]
        fn status_leaves_pending_at_most_once(
            reports in proptest::collection::vec((status(), select(SettledBy::ALL)), 0..20),
        ) {
            let (mut current, mut changes) = (Status::Pending, 0);
            for (reported, by) in reports {
                match current.decide(reported, by) {
                    Decision::Settle => {
                        prop_assert_eq!(current, Status::Pending);
                        prop_assert!(reported.is_final());
                        current = reported;
                        changes += 1;
                    }
                    Decision::Unchanged => {
                        prop_assert!(!reported.is_final() || reported == current);
                    }
                    Decision::Conflict => {
                        prop_assert!(current.is_final());
                        prop_assert_ne!(current, reported);
                    }
                }
            }
            prop_assert!(changes <= 1);
            prop_assert_eq!(changes == 1, current.is_final());
        }

        /// A report seen twice in a row does nothing the second time.
        #[test]
        fn a_repeated_report_is_never_settled_twice(
            current in status(),
            reported in status(),
            by in select(SettledBy::ALL),
        ) {
            if current.decide(reported, by) == Decision::Settle {
                prop_assert_eq!(reported.decide(reported, by), Decision::Unchanged);
            }
        }

        /// The hash depends on the content alone, and survives a trip through JSON.
        #[test]
        fn hash_is_canonical(
            amount in proptest::option::of(0i64..),
            reference in proptest::option::of(".{0,20}"),
            metadata in proptest::option::of(proptest::collection::btree_map(".{0,5}", ".{0,5}", 0..5)),
        ) {
            let content = Content {
                amount,
                currency: amount.map(|_| "EUR".to_owned()),
                reference,
                metadata,
            };
            let json = serde_json::to_string_pretty(&content).unwrap();
            let back: Content = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(back.hash(), content.hash());

            let mut other = content.clone();
            other.reference = Some(format!("{}x", content.reference.clone().unwrap_or_default()));
            prop_assert_ne!(other.hash(), content.hash());
        }
    }

    #[test]
    fn existing_at_the_third_party_contradicts_failed() {
        let (failed, pending) = (Status::Failed, Status::Pending);
        assert_eq!(failed.decide(pending, SettledBy::ThirdPartyResponse), Decision::Conflict);
        assert_eq!(failed.decide(pending, SettledBy::Webhook), Decision::Unchanged);
    }

    #[test]
    fn empty_metadata_differs_from_none() {
        let none = Content::default();
        let empty = Content { metadata: Some(BTreeMap::new()), ..Content::default() };
        assert_ne!(none.hash(), empty.hash());
    }

    #[test]
    fn words_round_trip() {
        for status in Status::ALL {
            assert_eq!(status.as_str().parse(), Ok(*status));
        }
        let error = "done".parse::<Status>().unwrap_err();
        assert_eq!(error.to_string(), "must be one of pending, completed, declined, failed");
    }
}
