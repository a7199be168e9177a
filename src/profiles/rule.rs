//! The rules that say what an answer means. The first one that matches decides.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use super::{
    keywords::{alternatives, keywords},
    pointer::{FieldPointer, Pointer},
    reading::{Node, Truth, Unusable},
    scalar::Scalar,
};

keywords! {
    /// What the answer to a create means.
    CreateMeans {
        /// It exists there now.
        Created = "created",
        /// It existed there before.
        Exists = "exists",
        /// It does not exist there and never will by this request.
        Refused = "refused",
        /// Not now: try again.
        Later = "later",
        /// Something exists there, and we cannot tell what: an operator's.
        Unclear = "unclear",
        /// Our credentials were refused, which says nothing about the transaction.
        Blocked = "blocked",
        /// It may have gone through or not.
        Ambiguous = "ambiguous",
    }
}

keywords! {
    /// What the answer to a lookup means.
    LookupMeans {
        /// It exists there.
        Found = "found",
        /// It does not exist there: the only licence to create it.
        Absent = "absent",
        /// An operator must look: such as two transactions with our id.
        Unclear = "unclear",
        /// It says nothing.
        NoAnswer = "no answer",
        /// It is about another transaction, so it says nothing about ours.
        NotOurs = "not ours",
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule<M> {
    /// The status codes that it is for.
    pub(super) code: Codes,
    /// Where the test of the body looks.
    pub(super) at: Option<Pointer>,
    /// What must stand there; anything but `null` where this is left out.
    pub(super) is: Option<OneOf>,
    /// Says that the code alone proves an absence, whatever the body.
    #[serde(default)]
    pub(super) any_body: bool,
    pub(super) means: M,
    /// The third party's id for it.
    pub(super) provider_id: Option<FieldPointer>,
    /// A word of `[status]`.
    pub(super) status: Option<FieldPointer>,
    /// Our id.
    pub(super) reference: Option<FieldPointer>,
    /// Why, for an operator.
    pub(super) reason: Option<FieldPointer>,
}

impl<M> Rule<M> {
    pub(super) fn matches(&self, code: u16, body: &Result<Node<'_>, Unusable>) -> Truth {
        if !self.code.contains(code) {
            return Truth::No;
        }
        let Some(at) = &self.at else { return Truth::Yes };
        let found = match body {
            Ok(root) => root.at(at),
            Err(why) => Err(why.clone()),
        };
        match (found, &self.is) {
            (Err(why), _) => Truth::Unknown(why),
            (Ok(None), _) => Truth::No,
            (Ok(Some(node)), None) if node.is_null() => Truth::No,
            (Ok(Some(_)), None) => Truth::Yes,
            (Ok(Some(node)), Some(OneOf(allowed))) => node.is_one_of(allowed, at),
        }
    }

    /// What it tests, for an operator.
    pub(super) fn test(&self) -> String {
        match (&self.at, &self.is) {
            (None, _) => format!("code {}", self.code),
            (Some(at), None) => format!("code {}, {at} is there", self.code),
            (Some(at), Some(is)) => format!("code {}, {at} is {is}", self.code),
        }
    }

    pub(super) fn pointers(&self) -> impl Iterator<Item = &Pointer> {
        let fields = [&self.provider_id, &self.status, &self.reference, &self.reason];
        let fields = fields.into_iter().flatten().map(|field| &field.pointer);
        self.at.iter().chain(fields)
    }
}

/// Status codes: `200`, `"4xx"`, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codes(Vec<(u16, u16)>);

impl Codes {
    pub(super) fn contains(&self, code: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&code))
    }

    /// The codes that are allowed and in it.
    pub(super) fn each(&self) -> impl Iterator<Item = u16> + '_ {
        (MIN_CODE..=MAX_CODE).filter(|code| self.contains(*code))
    }
}

const MIN_CODE: u16 = 200;
const MAX_CODE: u16 = 599;

impl fmt::Display for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |(from, to): &(u16, u16)| match from == to {
            true => from.to_string(),
            false => format!("{}xx", from / 100),
        };
        let words: Vec<String> = self.0.iter().map(word).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        f.write_str(&alternatives(&words))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::More(more) => more,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CodeWord {
    Number(i64),
    Text(String),
}

impl<'de> Deserialize<'de> for Codes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let allowed = "must be a status code from 200 to 599, one of \"2xx\", \"3xx\", \"4xx\" and \
                       \"5xx\", or a list of such";
        let wrong = |found: &dyn fmt::Display| de::Error::custom(format!("{found} {allowed}"));
        let words = OneOrMore::<CodeWord>::deserialize(from)
            .map_err(|_| de::Error::custom(allowed))?
            .into_vec();
        if words.is_empty() {
            return Err(wrong(&"an empty list matches nothing: it"));
        }
        let code = |word: &CodeWord| match word {
            CodeWord::Number(number) => u16::try_from(*number)
                .ok()
                .filter(|code| (MIN_CODE..=MAX_CODE).contains(code))
                .map(|code| (code, code))
                .ok_or_else(|| wrong(number)),
            CodeWord::Text(text) => match text.as_str() {
                "2xx" => Ok((200, 299)),
                "3xx" => Ok((300, 399)),
                "4xx" => Ok((400, 499)),
                "5xx" => Ok((500, 599)),
                other => Err(wrong(&format!("'{other}'"))),
            },
        };
        words.iter().map(code).collect::<Result<_, _>>().map(Self)
    }
}

/// Values of which one must be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOf(pub(super) Vec<Scalar>);

impl fmt::Display for OneOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        f.write_str(&alternatives(&words))
    }
}

impl<'de> Deserialize<'de> for OneOf {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let allowed = "must be a text, a whole number, true, false, or a list of such";
        match OneOrMore::<Scalar>::deserialize(from) {
            Ok(values) => match values.into_vec() {
                empty if empty.is_empty() => Err(de::Error::custom(allowed)),
                values => Ok(Self(values)),
            },
            Err(_) => Err(de::Error::custom(allowed)),
        }
    }
}
