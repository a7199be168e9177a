//! The OpenAPI document: what poem-openapi makes of the types, and what it has no way to say.
//!
//! poem-openapi leaves out that a field that may be left out may be null as well, that requests
//! refuse unknown fields, and every rule that is in [`super::body`] rather than in a type. Clients
//! are generated from the document, and it is tested against: it must be exact.

use std::fmt;

use iso_currency::Currency;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, json};

use super::webhooks::MAX_WEBHOOK_ID;
use crate::{domain::Status, signature::ID_HEADER};

/// The schemas of bodies that are parsed with unknown fields refused.
const STRICT: [&str; 4] = ["NewTransaction", "OperatorNote", "ResolveRequest", "BulkReplayRequest"];

/// JSON in the order in which it was written, which is that of the documentation.
#[derive(Debug)]
enum Node {
    Object(Vec<(String, Node)>),
    Array(Vec<Node>),
    Scalar(Value),
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        match value {
            Value::Object(fields) => {
                Self::Object(fields.into_iter().map(|(name, value)| (name, value.into())).collect())
            }
            Value::Array(entries) => Self::Array(entries.into_iter().map(Into::into).collect()),
            scalar => Self::Scalar(scalar),
        }
    }
}

impl Node {
    fn get(&mut self, name: &str) -> Option<&mut Self> {
        match self {
            Self::Object(fields) => {
                fields.iter_mut().find(|(other, _)| other == name).map(|(_, field)| field)
            }
            _ => None,
        }
    }

    fn set(&mut self, name: &str, value: Value) {
        if let Some(field) = self.get(name) {
            *field = value.into();
        } else if let Self::Object(fields) = self {
            fields.push((name.to_owned(), value.into()));
        }
    }

    fn fields(&mut self) -> &mut [(String, Self)] {
        match self {
            Self::Object(fields) => fields,
            _ => &mut [],
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Array(entries) => entries.iter().filter_map(Self::as_text).collect(),
            _ => Vec::new(),
        }
    }

    fn as_text(&self) -> Option<String> {
        match self {
            Self::Scalar(Value::String(text)) => Some(text.clone()),
            _ => None,
        }
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Object(fields) => {
                serializer.collect_map(fields.iter().map(|(name, field)| (name, field)))
            }
            Self::Array(entries) => serializer.collect_seq(entries),
            Self::Scalar(value) => value.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut array = Vec::new();
        while let Some(entry) = entries.next_element()? {
            array.push(entry);
        }
        Ok(Node::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut object = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            object.push(entry);
        }
        Ok(Node::Object(object))
    }
}

/// poem-openapi's document, made exact.
pub fn exact(spec: &str) -> String {
    // As generators of clients expect it: the charset is no part of JSON's media type.
    let spec = spec.replace("application/json; charset=utf-8", "application/json");
    // It is JSON, made by poem-openapi; where it were not, a test of the document would tell.
    let Ok(mut document) = serde_json::from_str::<Node>(&spec) else { return spec };
    if let Some(schemas) = document.get("components").and_then(|all| all.get("schemas")) {
        for (name, schema) in schemas.fields() {
            allow_null(schema);
            if STRICT.contains(&name.as_str()) {
                schema.set("additionalProperties", false.into());
            }
            if name.as_str() == "ResolveRequest" {
                only_final(schema);
            }
        }
        if let Some(new) = schemas.get("NewTransaction") {
            describe_money(new);
        }
    }
    if let Some(paths) = document.get("paths") {
        for (_, operations) in paths.fields() {
            for (_, operation) in operations.fields() {
                limit_webhook_id(operation);
            }
        }
    }
    // Strings, numbers and lists of them always serialise.
    serde_json::to_string_pretty(&document).unwrap_or(spec)
}

/// What may be left out may be null: in answers it is, and requests take both as absent.
fn allow_null(schema: &mut Node) {
    let required = schema.get("required").map(|names| names.names()).unwrap_or_default();
    let Some(properties) = schema.get("properties") else { return };
    for (name, property) in properties.fields() {
        let is_anything = property.get("type").is_none() && property.get("allOf").is_none();
        if required.contains(name) || is_anything {
            continue;
        }
        property.set("nullable", true.into());
        if let Some(Node::Array(words)) = property.get("enum") {
            words.push(Node::Scalar(Value::Null));
        }
    }
}

/// The limits of a header, for which poem-openapi has no place.
fn limit_webhook_id(operation: &mut Node) {
    let Some(Node::Array(parameters)) = operation.get("parameters") else { return };
    for parameter in parameters {
        let name = parameter.get("name").and_then(|name| name.as_text()).unwrap_or_default();
        if name.eq_ignore_ascii_case(ID_HEADER)
            && let Some(schema) = parameter.get("schema")
        {
            schema.set("minLength", 1.into());
            schema.set("maxLength", MAX_WEBHOOK_ID.into());
        }
    }
}

/// An operator's decision is an end.
fn only_final(resolve: &mut Node) {
    let status = resolve.get("properties").and_then(|properties| properties.get("status"));
    if let Some(Node::Array(words)) = status.and_then(|status| status.get("enum")) {
        words.retain(|word| word.as_text().as_deref() != Some(Status::Pending.as_str()));
    }
}

/// An amount has a currency, and a currency an amount.
fn describe_money(new: &mut Node) {
    new.set(
        "anyOf",
        json!([
            {
                "description": "With money.",
                "required": ["amount", "currency"],
                "properties": { "amount": { "type": "integer" }, "currency": { "type": "string" } },
            },
            {
                "description": "Without.",
                "properties": {
                    "amount": { "nullable": true, "enum": [null] },
                    "currency": { "nullable": true, "enum": [null] },
                },
            },
        ]),
    );
    let Some(properties) = new.get("properties") else { return };
    if let Some(amount) = properties.get("amount") {
        amount.set("maximum", i64::MAX.into());
    }
    if let Some(currency) = properties.get("currency") {
        let codes = currencies().into_iter().map(Value::from);
        currency.set("enum", codes.chain([Value::Null]).collect());
    }
}

/// Every ISO 4217 code that a post may have.
fn currencies() -> Vec<String> {
    let letters = || (b'A'..=b'Z').map(char::from);
    let all = letters().flat_map(|a| {
        letters().flat_map(move |b| letters().map(move |c| String::from_iter([a, b, c])))
    });
    all.filter(|code| Currency::from_code(code).is_some()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document of one schema, as poem-openapi writes it, made exact.
    fn schema(name: &str, schema: Value) -> Value {
        let document = json!({ "components": { "schemas": { name: schema } } });
        let exact: Value = serde_json::from_str(&exact(&document.to_string())).unwrap();
        exact["components"]["schemas"][name].clone()
    }

    #[test]
    fn what_may_be_left_out_may_be_null() {
        let answer = schema(
            "Answer",
            json!({
                "required": ["id"],
                "properties": {
                    "id": { "type": "string" },
                    "by": { "type": "string", "enum": ["poll"] },
                    "detail": { "description": "Anything." },
                },
            }),
        );
        let properties = &answer["properties"];
        assert_eq!(properties["id"], json!({ "type": "string" }));
        let by = json!({ "type": "string", "enum": ["poll", null], "nullable": true });
        assert_eq!(properties["by"], by);
        assert_eq!(properties["detail"], json!({ "description": "Anything." }));
        assert!(answer.get("additionalProperties").is_none());
    }

    #[test]
    fn requests_take_what_they_know() {
        let note = schema("OperatorNote", json!({ "properties": {} }));
        assert_eq!(note["additionalProperties"], false);
        let status = json!({ "type": "string", "enum": ["pending", "failed"] });
        let resolve = schema("ResolveRequest", json!({ "properties": { "status": status } }));
        assert_eq!(resolve["properties"]["status"]["enum"], json!(["failed", null]));
    }

    #[test]
    fn currencies_are_those_that_a_post_may_have() {
        let codes = currencies();
        assert!(codes.len() > 150, "{codes:?}");
        assert!(codes.contains(&"EUR".to_owned()) && !codes.contains(&"XQQ".to_owned()));
    }

    #[test]
    fn the_order_stays() {
        let text = r#"{"z":1,"a":[{"y":null,"b":1.5}],"m":"x"}"#;
        let exact = exact(text);
        assert_eq!(exact.split_whitespace().collect::<String>(), text);
    }
}
