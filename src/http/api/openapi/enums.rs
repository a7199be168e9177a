//! Enumerations as schemas of their own, so that generated clients have one type for each.

use serde_json::{Value, json};

use super::node::Node;
use crate::domain::Status;

/// Enumerations that have another name here than in the code.
const NAMES: [(&str, &str); 6] = [
    ("Status", "TransactionStatus"),
    ("ReportedStatus", "ThirdPartyStatus"),
    ("OperatorAction", "OperatorActionKind"),
    ("MaintenanceTask", "MaintenanceTaskName"),
    ("Finding", "ReconciliationFindingKind"),
    ("ItemOutcome", "BulkReplayOutcome"),
];
/// The statuses that an operator may decide.
const FINAL: &str = "FinalStatus";

/// An operator's decision is an end.
pub fn only_final(resolve: &mut Node) {
    let status = resolve.get("properties").and_then(|properties| properties.get("status"));
    let Some(status) = status else { return };
    status.set("title", FINAL.into());
    if let Some(Node::Array(words)) = status.get("enum") {
        words.retain(|word| word.as_text().as_deref() != Some(Status::Pending.as_str()));
    }
}

/// Gives each enumeration that has a title a schema by that name, and refers to it.
pub fn name(document: &mut Node) {
    let mut schemas = Vec::new();
    refer(document, &mut schemas);
    let components = document.get("components").and_then(|all| all.get("schemas"));
    let Some(components) = components else { return };
    for (name, words) in schemas {
        components.set(&name, json!({ "type": "string", "enum": words }));
    }
}

fn refer(node: &mut Node, schemas: &mut Vec<(String, Vec<String>)>) {
    let title = node.get("title").and_then(|title| title.as_text());
    let words = node.get("enum").map(|words| words.names());
    if let (Some(title), Some(words)) = (title, words) {
        let known = NAMES.iter().find(|(name, _)| *name == title);
        let name = known.map_or(title.as_str(), |(_, name)| *name).to_owned();
        let reference = json!({ "$ref": format!("#/components/schemas/{name}") });
        if !schemas.iter().any(|(known, _)| *known == name) {
            schemas.push((name, words));
        }
        let Node::Object(fields) = node else { return };
        fields.retain(|(name, _)| !["type", "title", "enum"].contains(&name.as_str()));
        if fields.is_empty() {
            *node = reference.into();
        } else {
            // Beside a reference nothing else counts in OpenAPI 3.0, so it stands in `allOf`.
            node.set("allOf", Value::Array(vec![reference]));
        }
        return;
    }
    match node {
        Node::Object(fields) => fields.iter_mut().for_each(|(_, field)| refer(field, schemas)),
        Node::Array(entries) => entries.iter_mut().for_each(|entry| refer(entry, schemas)),
        Node::Scalar(_) => {}
    }
}
