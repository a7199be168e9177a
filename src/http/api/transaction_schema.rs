//! What clients post and read: the schemas of transactions and of the evidence about them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use iso_currency::Currency;
use poem_openapi::{
    Object,
    types::{Any, Example},
};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    domain::{DEFAULT_THIRD_PARTY, EvidenceKind, SettledBy, Status},
    http::{
        api_enum::ApiEnum,
        middleware::body::{self, FieldFault, Fields, FromFields},
        page::list_object,
    },
    store::{evidence, transactions},
};

/// Most characters of a reference.
const MAX_REFERENCE: usize = 140;
/// Most pairs of metadata.
const MAX_METADATA: usize = 50;

/// What a client posts.
#[derive(Debug, Clone, Object)]
#[oai(example, rename = "NewTransaction")]
pub struct CreateTransaction {
    /// Your id for it, and its idempotency key: a repeated post with the same content is harmless.
    /// Make it at random (a UUID of version 4 or 7): a post of an id that another client has is a
    /// 409, so that an id that can be guessed can be found, or taken first.
    pub id: Uuid,
    /// Name of the third party that creates it, one of those that you may use; your default one
    /// where it is left out.
    #[oai(validator(max_length = 64))]
    pub third_party: Option<String>,
    /// Minor units of the currency (cents for EUR), not negative. Send `amount` and `currency`
    /// together, or neither; one without the other is answered 422.
    #[oai(validator(minimum(value = "0")))]
    pub amount: Option<i64>,
    /// ISO 4217 alphabetic code, in capitals. Together with `amount`, or neither.
    pub currency: Option<String>,
    /// Free text.
    #[oai(validator(max_length = 140, pattern = r"^[^\u0000]*$"))]
    pub reference: Option<String>,
    /// At most 50 pairs of strings.
    #[oai(validator(max_properties = 50))]
    pub metadata: Option<BTreeMap<String, String>>,
}

impl Example for CreateTransaction {
    fn example() -> Self {
        Self {
            id: example_id(),
            third_party: None,
            amount: Some(1250),
            currency: Some("EUR".to_owned()),
            reference: Some("Invoice 2026-117".to_owned()),
            metadata: Some(BTreeMap::from([("order".to_owned(), "A-117".to_owned())])),
        }
    }
}

fn example_id() -> Uuid {
    Uuid::from_u128(0x0195_f3a2_7b1c_7e9a_8d4f_2c6b_5a1e_9f03)
}

impl FromFields for CreateTransaction {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let id = fields.required("id", body::uuid);
        let third_party = fields.optional("third_party", body::text);
        let amount = fields.optional("amount", body::amount);
        let has_amount = amount.is_some();
        let currency = fields.optional("currency", currency);
        if has_amount != currency.is_some()
            && !fields.has_fault("amount")
            && !fields.has_fault("currency")
        {
            let (missing, given) =
                if has_amount { ("currency", "amount") } else { ("amount", "currency") };
            fields.fault(missing, format!("is required together with {given}"));
        }
        let reference = fields.optional("reference", reference);
        let metadata = fields.optional("metadata", metadata);
        Some(Self { id: id?, third_party, amount, currency, reference, metadata })
    }
}

fn currency(value: Value) -> Result<String, FieldFault> {
    let code = body::text(value)?;
    match Currency::from_code(&code) {
        Some(_) => Ok(code),
        None => {
            Err(FieldFault::new("must be an ISO 4217 code of three capital letters, such as EUR"))
        }
    }
}

fn reference(value: Value) -> Result<String, FieldFault> {
    let text = body::text(value)?;
    if text.chars().count() > MAX_REFERENCE {
        return Err(FieldFault::new(format!("must be at most {MAX_REFERENCE} characters")));
    }
    Ok(text)
}

fn metadata(value: Value) -> Result<BTreeMap<String, String>, FieldFault> {
    let Value::Object(object) = value else {
        return Err(FieldFault::new("must be an object of strings"));
    };
    if object.len() > MAX_METADATA {
        return Err(FieldFault::new(format!("must have at most {MAX_METADATA} entries")));
    }
    object
        .into_iter()
        .map(|(key, value)| match value {
            Value::String(value) if key.contains('\0') || value.contains('\0') => {
                Err(FieldFault::below(&key, "must not contain the NUL character"))
            }
            Value::String(value) => Ok((key, value)),
            _ => Err(FieldFault::below(&key, "must be a string")),
        })
        .collect()
}

/// A transaction as Quartet knows it.
#[derive(Debug, Clone, Object)]
#[oai(skip_serializing_if_is_none, example)]
pub struct Transaction {
    /// The id you posted.
    pub id: Uuid,
    /// Name of the third party that creates it.
    pub third_party: String,
    /// The third party's own id of it, once that is known.
    pub provider_id: Option<String>,
    /// `pending`, then once `completed`, `declined` or `failed`.
    pub status: ApiEnum<Status>,
    /// Starts at 1 and grows by one with each status change.
    pub version: i32,
    /// Minor units of the currency.
    pub amount: Option<i64>,
    /// ISO 4217 alphabetic code.
    pub currency: Option<String>,
    /// Your free text.
    pub reference: Option<String>,
    /// Your pairs of strings.
    pub metadata: Option<BTreeMap<String, String>>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When the status last changed.
    pub updated_at: DateTime<Utc>,
    /// When the status became final.
    pub settled_at: Option<DateTime<Utc>>,
    /// What settled it.
    pub settled_by: Option<ApiEnum<SettledBy>>,
    /// The last version that your callback URL acknowledged; 0 = none yet.
    pub notified_version: i32,
}

impl Example for Transaction {
    fn example() -> Self {
        let posted = CreateTransaction::example();
        // 2026-11-23T10:00:00Z and half a minute later.
        let created_at = DateTime::from_timestamp_nanos(1_795_428_000_000_000_000);
        let settled_at = DateTime::from_timestamp_nanos(1_795_428_031_250_000_000);
        Self {
            id: posted.id,
            third_party: DEFAULT_THIRD_PARTY.to_owned(),
            provider_id: None,
            status: ApiEnum(Status::Completed),
            version: 2,
            amount: posted.amount,
            currency: posted.currency,
            reference: posted.reference,
            metadata: posted.metadata,
            created_at,
            updated_at: settled_at,
            settled_at: Some(settled_at),
            settled_by: Some(ApiEnum(SettledBy::Webhook)),
            notified_version: 2,
        }
    }
}

impl From<transactions::Transaction> for Transaction {
    fn from(row: transactions::Transaction) -> Self {
        Self {
            id: row.id,
            third_party: row.third_party.into(),
            provider_id: row.provider_id,
            status: ApiEnum(row.status),
            version: row.version,
            amount: row.amount,
            currency: row.currency,
            reference: row.reference,
            metadata: row.metadata.map(|metadata| metadata.0),
            created_at: row.created_at.at(),
            updated_at: row.updated_at,
            settled_at: row.settled_at,
            settled_by: row.settled_by.map(ApiEnum),
            notified_version: row.notified_version,
        }
    }
}

list_object! {
    /// A page of transactions.
    TransactionList {
        /// Newest first.
        items: Transaction
    }
}

/// A piece of evidence about a transaction.
#[derive(Debug, Object)]
#[oai(rename = "TransactionEvent")]
pub struct Event {
    /// Grows with the order of writing.
    pub id: i64,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// What happened.
    pub kind: ApiEnum<EvidenceKind>,
    /// Who saw or did it: `api`, `webhook`, `operator`, `lease`, or a job.
    pub source: String,
    /// What was seen.
    pub detail: Any<Value>,
}

/// The evidence about a transaction.
#[derive(Debug, Object)]
#[oai(rename = "TransactionEventList")]
pub struct EventList {
    /// Oldest first.
    pub items: Vec<Event>,
}

impl From<evidence::Evidence> for Event {
    fn from(row: evidence::Evidence) -> Self {
        Self {
            id: row.id,
            at: row.at,
            kind: ApiEnum(row.kind),
            source: row.source,
            detail: Any(row.detail),
        }
    }
}
