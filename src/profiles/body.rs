//! What a create sends: a tree with placeholders, in the order in which the profile writes it.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

use super::template::Template;

/// Deepest body.
const MAX_DEPTH: usize = 16;

/// A value of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Text(Template),
    Number(i64),
    Truth(bool),
    Array(Vec<Node>),
    Table(Vec<(String, Node)>),
}

/// The body of a create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body(pub(super) Vec<(String, Node)>);

impl Body {
    /// Every text in it.
    pub(super) fn templates(&self) -> Vec<&Template> {
        fn collect<'a>(node: &'a Node, into: &mut Vec<&'a Template>) {
            match node {
                Node::Text(template) => into.push(template),
                Node::Number(_) | Node::Truth(_) => {}
                Node::Array(nodes) => nodes.iter().for_each(|node| collect(node, into)),
                Node::Table(entries) => entries.iter().for_each(|(_, node)| collect(node, into)),
            }
        }
        let mut templates = Vec::new();
        self.0.iter().for_each(|(_, node)| collect(node, &mut templates));
        templates
    }

    fn depth(&self) -> usize {
        fn below(node: &Node) -> usize {
            match node {
                Node::Text(_) | Node::Number(_) | Node::Truth(_) => 0,
                Node::Array(nodes) => 1 + nodes.iter().map(below).max().unwrap_or(0),
                Node::Table(entries) => {
                    1 + entries.iter().map(|(_, node)| below(node)).max().unwrap_or(0)
                }
            }
        }
        1 + self.0.iter().map(|(_, node)| below(node)).max().unwrap_or(0)
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let body = match Node::deserialize(from)? {
            Node::Table(entries) => Self(entries),
            _ => return Err(D::Error::custom("must be a table, such as { id = \"{id}\" }")),
        };
        if body.depth() > MAX_DEPTH {
            return Err(D::Error::custom(format!("is nested deeper than {MAX_DEPTH}")));
        }
        Ok(body)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(NodeVisitor)
    }
}

/// TOML's dates are given to a visitor as a table with this key.
const DATE_KEY: &str = "$__toml_private_datetime";

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a whole number, true, false, a list or a table")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Node, E> {
        Template::parse(text).map(Node::Text).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Number(number))
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Node, E> {
        Ok(Node::Truth(truth))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element()? {
            nodes.push(node);
        }
        Ok(Node::Array(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == DATE_KEY {
                return Err(A::Error::custom("must be a text: write a date between quotes"));
            }
            entries.push((key, map.next_value()?));
        }
        Ok(Node::Table(entries))
    }
}

/// Names with texts, in their order: headers and the query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pairs(pub(super) Vec<(String, Template)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Node::Table(entries) = Node::deserialize(from)? else {
            return Err(D::Error::custom("must be a table, such as { name = \"value\" }"));
        };
        let pair = |(name, node): (String, Node)| {
            let plain = |text: String| Template::parse(&text).map_err(D::Error::custom);
            let template = match node {
                Node::Text(template) => template,
                Node::Number(number) => plain(number.to_string())?,
                Node::Truth(truth) => plain(truth.to_string())?,
                Node::Array(_) | Node::Table(_) => {
                    return Err(D::Error::custom(format!(
                        "{name} must be a text, a whole number, true or false"
                    )));
                }
            };
            Ok((name, template))
        };
        entries.into_iter().map(pair).collect::<Result<_, _>>().map(Self)
    }
}
