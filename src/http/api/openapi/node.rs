//! JSON that keeps the order of its fields.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

/// JSON in the order in which it was written, which is that of the documentation.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
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
    pub fn get(&mut self, name: &str) -> Option<&mut Self> {
        match self {
            Self::Object(fields) => {
                fields.iter_mut().find(|(other, _)| other == name).map(|(_, field)| field)
            }
            _ => None,
        }
    }

    pub fn set(&mut self, name: &str, value: Value) {
        if let Some(field) = self.get(name) {
            *field = value.into();
        } else if let Self::Object(fields) = self {
            fields.push((name.to_owned(), value.into()));
        }
    }

    pub fn fields(&mut self) -> &mut [(String, Self)] {
        match self {
            Self::Object(fields) => fields,
            _ => &mut [],
        }
    }

    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Array(entries) => entries.iter().filter_map(Self::as_text).collect(),
            _ => Vec::new(),
        }
    }

    pub fn as_text(&self) -> Option<String> {
        match self {
            Self::Scalar(Value::String(text)) => Some(text.clone()),
            _ => None,
        }
    }
}

impl From<Node> for Value {
    fn from(node: Node) -> Self {
        match node {
            Node::Object(fields) => {
                fields.into_iter().map(|(name, field)| (name, Self::from(field))).collect()
            }
            Node::Array(entries) => entries.into_iter().map(Self::from).collect(),
            Node::Scalar(value) => value,
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
