//! Request bodies: read within the limit, parsed strictly, with every fault named.
//!
//! poem-openapi's own parsing takes a number for a string, drops unknown fields and reports a
//! missing field without its name. Here a body is parsed into JSON that refuses duplicate keys, and
//! then field by field, so that one answer names everything that is wrong with it.

use std::fmt;

use poem::{
    Request, RequestBody,
    error::ReadBodyError,
    http::{StatusCode, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    payload::{Json, Payload},
    registry::{MetaMediaType, MetaRequest, Registry},
    types::Type,
};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use uuid::{Uuid, fmt::Hyphenated};

use crate::{
    http::{
        ApiState,
        problem::{FieldProblem, Problem},
    },
    telemetry::labels::RejectReason,
};

/// Most characters of a content coding that an answer repeats.
const MAX_CODING_CHARS: usize = 40;

/// A type that is read from the fields of a JSON object. Its poem-openapi schema documents it.
pub trait FromFields: Type + Sized {
    /// Reads the fields; faults are collected in `fields`, and `None` is returned where one makes
    /// the value impossible.
    fn from_fields(fields: &mut Fields) -> Option<Self>;
}

/// A strictly parsed JSON body.
#[derive(Debug)]
pub struct StrictJson<T>(pub T);

impl<'a, T: FromFields> ApiExtractor<'a> for StrictJson<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    const PARAM_IS_REQUIRED: bool = true;

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(json_request::<T>())
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        check_content_type(request)?;
        let bytes = read(request, body).await?;
        Ok(Self(parse(&bytes, Unknown::Refused)?))
    }
}

/// A strictly parsed JSON body that may be left out: an empty body is `None`.
#[derive(Debug)]
pub struct OptionalJson<T>(pub Option<T>);

impl<'a, T: FromFields> ApiExtractor<'a> for OptionalJson<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest { required: false, ..json_request::<T>() })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let bytes = read(request, body).await?;
        if bytes.is_empty() {
            return Ok(Self(None));
        }
        check_content_type(request)?;
        Ok(Self(Some(parse(&bytes, Unknown::Refused)?)))
    }
}

/// The documentation of a required JSON body of type `T`.
pub(in crate::http) fn json_request<T: Type>() -> MetaRequest {
    MetaRequest {
        description: None,
        content: vec![MetaMediaType {
            content_type: Json::<T>::CONTENT_TYPE,
            schema: T::schema_ref(),
        }],
        required: true,
    }
}

/// Refuses another content type than JSON with 415.
pub(in crate::http) fn check_content_type(request: &Request) -> Result<(), Problem> {
    match request.content_type() {
        Some(content_type) if Json::<String>::check_content_type(content_type) => Ok(()),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send the body with `Content-Type: application/json`",
        )),
    }
}

/// Refuses a body that is compressed, or encoded in another way, with 415: it is read as it is
/// sent.
pub(in crate::http) fn check_content_coding(request: &Request) -> Result<(), Problem> {
    let values = request.headers().get_all(header::CONTENT_ENCODING);
    for value in values {
        // A name is ASCII; what is not is none that is known.
        let value = String::from_utf8_lossy(value.as_bytes());
        let coding = value
            .split(',')
            .map(str::trim)
            .find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"));
        if let Some(coding) = coding {
            let coding: String = coding.chars().take(MAX_CODING_CHARS).collect();
            let detail = format!(
                "the body has `Content-Encoding: {}`; send it without a content coding",
                coding.escape_debug()
            );
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
    }
    Ok(())
}

/// Reads the whole body, at most `HTTP__MAX_BODY` bytes within `HTTP__BODY_TIMEOUT`.
pub(in crate::http) async fn read(
    request: &Request,
    body: &mut RequestBody,
) -> Result<Vec<u8>, Problem> {
    read_at_most(request, body, ApiState::of(request).max_body).await
}

/// The same with another limit, in bytes.
pub(in crate::http) async fn read_at_most(
    request: &Request,
    body: &mut RequestBody,
    limit: usize,
) -> Result<Vec<u8>, Problem> {
    check_content_coding(request)?;
    let state = ApiState::of(request);
    let too_long = || {
        let detail = format!("the body is longer than {limit} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    };
    // What is declared too long is refused before it comes.
    let declared = request.header(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    if declared.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_long());
    }
    // Nothing before this takes it.
    let taken = body.take().map_err(|error| Problem::internal(&error))?;
    let (body, patience) = (taken, state.intake.body_timeout);
    match tokio::time::timeout(patience, body.into_bytes_limit(limit)).await {
        Ok(Ok(bytes)) => Ok(bytes.to_vec()),
        Ok(Err(ReadBodyError::PayloadTooLarge)) => Err(too_long()),
        Ok(Err(_)) => {
            let detail = "the body could not be read to its end";
            Err(Problem::new(StatusCode::BAD_REQUEST, detail))
        }
        Err(_) => {
            state.metrics.refused(RejectReason::SlowBody);
            let detail = format!("the body did not come within {} s", patience.as_secs_f64());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail))
        }
    }
}

/// What is done about fields that the type does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    Refused,
    Ignored,
}

/// Parses a JSON object: 400 where it is none, 422 where its fields are wrong.
pub fn parse<T: FromFields>(bytes: &[u8], unknown: Unknown) -> Result<T, Problem> {
    let malformed = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| malformed(format!("the body is no valid JSON: {error}")))?;
    let Value::Object(object) = value else {
        return Err(malformed("the body must be a JSON object".to_owned()));
    };
    let mut fields = Fields { object, allowed: Vec::new(), errors: Vec::new() };
    let parsed = T::from_fields(&mut fields);
    if unknown == Unknown::Refused {
        fields.refuse_unknown();
    }
    match parsed {
        Some(parsed) if fields.errors.is_empty() => Ok(parsed),
        _ => Err(Problem::invalid(fields.errors)),
    }
}

/// The fields of a JSON object while they are read.
#[derive(Debug)]
pub struct Fields {
    object: Map<String, Value>,
    allowed: Vec<&'static str>,
    errors: Vec<FieldProblem>,
}

impl Fields {
    /// A field that may be absent or null; `read` says what is wrong with another value.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, FieldFault>,
    ) -> Option<T> {
        self.allowed.push(name);
        match self.object.remove(name) {
            None | Some(Value::Null) => None,
            Some(value) => match read(value) {
                Ok(value) => Some(value),
                Err(fault) => {
                    self.errors.push(fault.under(name));
                    None
                }
            },
        }
    }

    /// A field that must be there.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, FieldFault>,
    ) -> Option<T> {
        let missing = self.object.get(name).is_none_or(Value::is_null);
        let value = self.optional(name, read);
        if missing {
            self.fault(name, "is required");
        }
        value
    }

    /// Notes a fault of a field.
    pub fn fault(&mut self, name: &str, detail: impl Into<String>) {
        self.errors.push(FieldFault::new(detail).under(name));
    }

    /// Whether a fault of this field was noted already.
    pub fn has_fault(&self, name: &str) -> bool {
        let pointer = format!("/{}", escape(name));
        self.errors.iter().any(|error| error.pointer.as_deref() == Some(&pointer))
    }

    fn refuse_unknown(&mut self) {
        let allowed = self.allowed.join(", ");
        for name in std::mem::take(&mut self.object).into_iter().map(|(name, _)| name) {
            self.fault(&name, format!("unknown field; allowed are {allowed}"));
        }
    }
}

/// What is wrong with a value, and where below the field.
#[derive(Debug)]
pub struct FieldFault {
    below: String,
    detail: String,
}

impl FieldFault {
    /// A fault of the field itself.
    pub fn new(detail: impl Into<String>) -> Self {
        Self { below: String::new(), detail: detail.into() }
    }

    /// A fault of the entry `key` of the field.
    pub fn below(key: &str, detail: impl Into<String>) -> Self {
        Self { below: format!("/{}", escape(key)), detail: detail.into() }
    }

    pub(in crate::http) fn under(self, name: &str) -> FieldProblem {
        FieldProblem::at(format!("/{}{}", escape(name), self.below), self.detail)
    }
}

/// RFC 6901 section 3.
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Reads text without NUL, which Postgres cannot store.
pub fn text(value: Value) -> Result<String, FieldFault> {
    match value {
        Value::String(text) if text.contains('\0') => {
            Err(FieldFault::new("must not contain the NUL character"))
        }
        Value::String(text) => Ok(text),
        _ => Err(FieldFault::new("must be a string")),
    }
}

/// Reads a uuid in its hyphenated form, in either case.
pub fn uuid(value: Value) -> Result<Uuid, FieldFault> {
    let fault = || FieldFault::new("must be a uuid such as 0195f3a2-7b1c-7e9a-8d4f-2c6b5a1e9f03");
    let text = text(value).map_err(|_| fault())?;
    if text.len() == Hyphenated::LENGTH {
        Uuid::try_parse(&text).map_err(|_| fault())
    } else {
        Err(fault())
    }
}

/// Reads a whole number from 0 on.
pub fn amount(value: Value) -> Result<i64, FieldFault> {
    value.as_i64().filter(|amount| *amount >= 0).ok_or_else(|| {
        FieldFault::new(format!("must be a whole number of minor units from 0 to {}", i64::MAX))
    })
}

/// Parses JSON into a [`Value`], refusing objects that have a key twice: which of the two counts
/// is not for a parser to decide when money is moved.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(entry) = entries.next_element_seed(Strict)? {
            array.push(entry);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Strict)?;
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate key `{}`", key.escape_debug())));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn strict(text: &str) -> Result<Value, serde_json::Error> {
        Strict.deserialize(&mut serde_json::Deserializer::from_str(text))
    }

    #[test]
    fn duplicate_keys_are_refused_at_any_depth() {
        assert!(strict(r#"{"a":1,"b":1}"#).is_ok());
        for text in [r#"{"a":1,"a":1}"#, r#"{"x":{"a":1,"a":2}}"#, r#"[{"a":1,"\u0061":2}]"#] {
            assert!(strict(text).unwrap_err().to_string().contains("duplicate key `a`"), "{text}");
        }
    }

    #[test]
    fn a_uuid_is_hyphenated_in_either_case() {
        let id = "0195F3A2-7b1c-7e9a-8d4f-2c6b5a1e9f03";
        assert_eq!(uuid(id.into()).unwrap(), Uuid::parse_str(id).unwrap());
        for text in ["", "0195f3a27b1c7e9a8d4f2c6b5a1e9f03", &format!("{{{id}}}"), &id[1..]] {
            assert!(uuid(text.into()).is_err(), "{text}");
        }
    }

    proptest! {
        /// What serde_json parses without duplicates, the strict parser parses alike.
        #[test]
        fn strict_agrees_with_serde_json(
            entries in proptest::collection::hash_map(".{0,4}", proptest::option::of(any::<i64>()), 0..6),
        ) {
            let entries: HashMap<_, _> = entries;
            let text = serde_json::to_string(&entries).unwrap();
            prop_assert_eq!(strict(&text).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
        }

        /// No text makes it panic.
        #[test]
        fn strict_never_panics(text in ".*") {
            let _ = strict(&text);
        }
    }
}
