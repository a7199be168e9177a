//! How recorded cases are written.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};
use uuid::Uuid;

use super::{
    keywords::{keywords, not_allowed},
    period::Period,
};
use crate::domain::ReportedStatus;

keywords! {
    /// The call that a case is about.
    CaseCall {
        Create = "create",
        Lookup = "lookup",
    }
}

/// The transaction that cases are about. What is left out has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleSection {
    pub(super) id: Uuid,
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) reference: String,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) provider_id: String,
    pub(super) webhook_url: Option<String>,
}

impl Default for SampleSection {
    fn default() -> Self {
        Self {
            id: Uuid::from_u128(0x6f1c_2f0e_7a52_4b7e_9d6a_2d2a_0a4d_9b11),
            amount: 1250,
            currency: "EUR".to_owned(),
            reference: "Invoice 117".to_owned(),
            metadata: BTreeMap::new(),
            provider_id: "prov_1".to_owned(),
            webhook_url: None,
        }
    }
}

/// An answer, and what it must mean.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerCase {
    pub(super) call: CaseCall,
    pub(super) code: u16,
    /// The answer's text; none where it is left out.
    #[serde(default)]
    pub(super) body: String,
    pub(super) means: String,
    #[serde(default, deserialize_with = "reported")]
    pub(super) status: Option<ReportedStatus>,
    pub(super) provider_id: Option<String>,
    pub(super) reason: Option<String>,
    /// How long before it a create was sent that may have gone through.
    pub(super) since_create: Option<Period>,
}

/// A request as it must be sent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestCase {
    pub(super) call: CaseCall,
    /// As `quartet third-party check` prints it.
    pub(super) is: String,
}

/// The file beside a profile.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CasesFile {
    pub(super) sample: Option<SampleSection>,
    #[serde(default)]
    pub(super) test: Vec<AnswerCase>,
    #[serde(default)]
    pub(super) request: Vec<RequestCase>,
}

fn reported<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ReportedStatus>, D::Error> {
    let word = String::deserialize(from)?;
    let words: Vec<&str> = ReportedStatus::ALL.iter().map(|status| status.as_str()).collect();
    word.parse().map(Some).map_err(|_| de::Error::custom(not_allowed(&word, &words)))
}
