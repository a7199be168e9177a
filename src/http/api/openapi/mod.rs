//! The OpenAPI document: what poem-openapi derives from the types, plus what it cannot express.
//!
//! poem-openapi leaves out that a field that may be left out may be null as well, that requests
//! refuse unknown fields, and every rule that is in [`crate::http::middleware::body`] rather than
//! in a type; it writes header names in capitals and each enumeration in place. Clients are
//! generated from the document, and it is tested against: it must be exact, and make good models.

mod callback;
mod enums;
mod node;
mod problems;

use serde_json::json;

use self::node::Node;
use super::webhooks::MAX_WEBHOOK_ID;
use crate::signature::ID_HEADER;

/// The schemas of bodies that are parsed with unknown fields refused.
const STRICT: [&str; 4] = ["NewTransaction", "OperatorNote", "ResolveRequest", "BulkReplayRequest"];
/// The schemas of answers that leave out what is absent; all others say `null`.
const LEAVING_OUT: [&str; 4] = ["FieldProblem", "Health", "Problem", "Transaction"];
/// Tags in the order of a reader.
const TAGS: [&str; 4] = ["Transactions", "Webhooks", "Operator", "Health"];
/// Headers as their RFCs write them.
const HEADERS: [&str; 8] = [
    "Idempotent-Replayed",
    "Location",
    "Operator-Name",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "ETag",
];

/// poem-openapi's document, made exact.
pub fn exact(spec: &str) -> String {
    // As generators of clients expect it: the charset is no part of JSON's media type.
    let spec = spec.replace("application/json; charset=utf-8", "application/json");
    // It is JSON, made by poem-openapi; if it were not, a test of the document would fail.
    let Ok(mut document) = serde_json::from_str::<Node>(&spec) else { return spec };
    document.set("servers", json!([{ "url": "/", "description": "This server." }]));
    if let Some(Node::Array(tags)) = document.get("tags") {
        tags.sort_by_cached_key(|tag| {
            let name = tag.clone().get("name").and_then(|name| name.as_text());
            TAGS.iter().position(|tag| name.as_deref() == Some(*tag))
        });
    }
    if let Some(schemas) = document.get("components").and_then(|all| all.get("schemas")) {
        for (name, schema) in schemas.fields() {
            if !LEAVING_OUT.contains(&name.as_str()) {
                allow_null(schema);
            }
            whole_limits(schema);
            if STRICT.contains(&name.as_str()) {
                schema.set("additionalProperties", false.into());
            }
            if name.as_str() == "ResolveRequest" {
                enums::only_final(schema);
            }
        }
        if let Some(new) = schemas.get("NewTransaction") {
            describe_money(new);
        }
        name_metadata(schemas);
    }
    if let Some(paths) = document.get("paths") {
        for (path, operations) in paths.fields() {
            for (method, operation) in operations.fields() {
                name_headers(operation);
                problems::describe(path, operation);
                if path.as_str() == "/v1/transactions" && method.as_str() == "post" {
                    operation.set("callbacks", callback::callbacks());
                }
            }
        }
    }
    refer_once(&mut document);
    enums::name(&mut document);
    if let Some(schemas) = document.get("components").and_then(|all| all.get("schemas")) {
        schemas.set(callback::SCHEMA, callback::schema());
    }
    // Strings, numbers and lists of them always serialise.
    serde_json::to_string_pretty(&document).unwrap_or(spec)
}

/// What may be left out may be null as well: in most answers it is, and requests take both as
/// absent. It is not said to be required in those answers: generators of Python models do not read
/// `nullable` of a field that is.
fn allow_null(schema: &mut Node) {
    let required = schema.get("required").map(|names| names.names()).unwrap_or_default();
    let Some(properties) = schema.get("properties") else { return };
    for (name, property) in properties.fields() {
        let is_anything = property.get("type").is_none() && property.get("allOf").is_none();
        if !required.contains(name) && !is_anything {
            property.set("nullable", true.into());
        }
    }
}

/// What stands beside a reference stands there once: poem-openapi repeats it within `allOf`, which
/// generators take for a type of its own.
fn refer_once(node: &mut Node) {
    if let Some(Node::Array(all)) = node.get("allOf")
        && all.first_mut().is_some_and(|first| first.get("$ref").is_some())
    {
        all.truncate(1);
    }
    match node {
        Node::Object(fields) => fields.iter_mut().for_each(|(_, field)| refer_once(field)),
        Node::Array(entries) => entries.iter_mut().for_each(refer_once),
        Node::Scalar(_) => {}
    }
}

/// A map of texts is a schema of its own, so that generated clients have one type for it and no
/// further one for that it may be absent.
fn name_metadata(schemas: &mut Node) {
    let mut metadata = None;
    for owner in ["NewTransaction", "Transaction"] {
        let property = schemas.get(owner).and_then(|schema| schema.get("properties"));
        let Some(property) = property.and_then(|properties| properties.get("metadata")) else {
            continue;
        };
        if let Node::Object(fields) = property {
            let beside = |name: &str| ["description", "nullable"].contains(&name);
            let (beside, schema) =
                std::mem::take(fields).into_iter().partition(|(name, _)| beside(name));
            *fields = beside;
            metadata.get_or_insert(Node::Object(schema));
            property.set("allOf", json!([{ "$ref": "#/components/schemas/Metadata" }]));
        }
    }
    if let Some(mut metadata) = metadata {
        metadata.set("description", "Pairs of strings that you give.".into());
        schemas.set("Metadata", metadata.into());
    }
}

/// The limits of whole numbers are whole: poem-openapi writes `0.0`.
fn whole_limits(schema: &mut Node) {
    let Some(properties) = schema.get("properties") else { return };
    for (_, property) in properties.fields() {
        if property.get("type").and_then(|kind| kind.as_text()).as_deref() != Some("integer") {
            continue;
        }
        for limit in ["minimum", "maximum"] {
            if let Some(Node::Scalar(value)) = property.get(limit)
                && let Some(whole) = value.as_f64()
            {
                *value = (whole as i64).into();
            }
        }
    }
}

/// Header names as they are written elsewhere, and the limits of `webhook-id`, for which
/// poem-openapi has no place.
fn name_headers(operation: &mut Node) {
    if let Some(Node::Array(parameters)) = operation.get("parameters") {
        for parameter in parameters {
            let Some(name) = parameter.get("name").and_then(|name| name.as_text()) else {
                continue;
            };
            if parameter.get("in").and_then(|place| place.as_text()).as_deref() == Some("header") {
                parameter.set("name", written(&name).into());
            }
            if name.eq_ignore_ascii_case(ID_HEADER)
                && let Some(schema) = parameter.get("schema")
            {
                schema.set("minLength", 1.into());
                schema.set("maxLength", MAX_WEBHOOK_ID.into());
            }
        }
    }
    let Some(responses) = operation.get("responses") else { return };
    for (_, response) in responses.fields() {
        let Some(headers) = response.get("headers") else { continue };
        for (name, _) in headers.fields() {
            *name = written(name);
        }
    }
}

/// Those of Standard Webhooks, which are not in the list, are written in small letters.
fn written(name: &str) -> String {
    let known = HEADERS.iter().find(|known| known.eq_ignore_ascii_case(name));
    known.map_or_else(|| name.to_ascii_lowercase(), |known| (*known).to_owned())
}

/// An amount has a currency, and a currency an amount: said in words alone, because generators
/// make two types of a choice between two objects. A currency is said by its form: as an
/// enumeration it would be 180 constants in each client, and a new one each time that a code is
/// added.
fn describe_money(new: &mut Node) {
    let Some(properties) = new.get("properties") else { return };
    if let Some(amount) = properties.get("amount") {
        amount.set("maximum", i64::MAX.into());
    }
    if let Some(currency) = properties.get("currency") {
        currency.set("pattern", "^[A-Z]{3}$".into());
        currency.set("example", "EUR".into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// A document of one schema, as poem-openapi writes it, made exact.
    fn schema(name: &str, schema: Value) -> Value {
        let document = json!({ "components": { "schemas": { name: schema } } });
        let exact: Value = serde_json::from_str(&exact(&document.to_string())).unwrap();
        exact["components"]["schemas"][name].clone()
    }

    #[test]
    fn what_may_be_left_out_may_be_null_where_it_is_not_always_left_out() {
        let plain = json!({
            "required": ["id"],
            "properties": {
                "id": { "type": "string" },
                "note": { "type": "string" },
                "detail": { "description": "Anything." },
            },
        });
        assert_eq!(schema("Transaction", plain.clone()), plain);
        let request = schema("OperatorNote", plain.clone());
        assert_eq!(request["properties"]["note"]["nullable"], true);
        let answer = schema("Answer", plain);
        let properties = &answer["properties"];
        assert_eq!(properties["id"], json!({ "type": "string" }));
        assert_eq!(properties["note"], json!({ "type": "string", "nullable": true }));
        assert_eq!(properties["detail"], json!({ "description": "Anything." }));
        assert!(answer.get("additionalProperties").is_none());
    }

    #[test]
    fn requests_take_what_they_know() {
        let note = schema("OperatorNote", json!({ "properties": {} }));
        assert_eq!(note["additionalProperties"], false);
    }

    #[test]
    fn an_enumeration_is_one_schema_wherever_it_is_used() {
        let words = json!(["pending", "failed"]);
        let status = json!({ "type": "string", "title": "Status", "enum": words });
        let properties = json!({ "properties": { "status": status, "of": status } });
        let document = json!({ "components": { "schemas": {
            "A": { "required": ["status", "of"], "properties": properties["properties"] },
            "ResolveRequest": properties,
        } } });
        let exact: Value = serde_json::from_str(&exact(&document.to_string())).unwrap();
        let schemas = &exact["components"]["schemas"];
        let reference = json!({ "$ref": "#/components/schemas/TransactionStatus" });
        assert_eq!(schemas["A"]["properties"]["status"], reference);
        assert_eq!(schemas["TransactionStatus"], json!({ "type": "string", "enum": words }));
        let resolve = &schemas["ResolveRequest"]["properties"];
        assert_eq!(resolve["of"], json!({ "nullable": true, "allOf": [reference] }));
        let last = json!([{ "$ref": "#/components/schemas/FinalStatus" }]);
        assert_eq!(resolve["status"]["allOf"], last);
        assert_eq!(schemas["FinalStatus"]["enum"], json!(["failed"]));
    }

    #[test]
    fn headers_have_the_names_of_their_rfcs() {
        for (given, written_as) in [
            ("RETRY-AFTER", "Retry-After"),
            ("IDEMPOTENT-REPLAYED", "Idempotent-Replayed"),
            ("WEBHOOK-ID", "webhook-id"),
            ("operator-name", "Operator-Name"),
        ] {
            assert_eq!(written(given), written_as);
        }
    }

    #[test]
    fn what_stands_beside_a_reference_stands_there_once() {
        let reference = json!({ "$ref": "#/components/schemas/Cause" });
        let all = json!([reference, { "description": "Why." }]);
        let answer = json!({ "required": ["cause"], "properties": {
            "cause": { "description": "Why.", "allOf": all },
        } });
        let expected = json!({ "description": "Why.", "allOf": [reference] });
        assert_eq!(schema("Answer", answer)["properties"]["cause"], expected);
    }

    #[test]
    fn limits_of_whole_numbers_are_whole() {
        let amount = json!({ "type": "integer", "minimum": 0.0, "maximum": 50.0 });
        let numbers = json!({ "required": ["amount"], "properties": { "amount": amount } });
        let whole = schema("Numbers", numbers);
        let expected = json!({ "type": "integer", "minimum": 0, "maximum": 50 });
        assert_eq!(whole["properties"]["amount"], expected);
    }

    #[test]
    fn the_order_stays() {
        let text = r#"{"z":1,"servers":0,"a":[{"y":null,"b":1.5}],"m":"x"}"#;
        let exact: Node = serde_json::from_str(&exact(text)).unwrap();
        let mut expected: Node = serde_json::from_str(text).unwrap();
        expected.set("servers", json!([{ "url": "/", "description": "This server." }]));
        assert_eq!(exact, expected);
    }
}
