//! The fields that a matching rule reads from an answer.

use uuid::Uuid;

use super::{
    answer::ReadStatus,
    definition::{Definition, Statuses},
    pointer::{FieldPointer, Pointer},
    reading::{Node, Unusable},
    rule::Rule,
    safety::fold,
};
use crate::domain::{ReportedStatus, peer_answer::excerpt};

/// Most characters of a status word or a reason that are kept.
const MAX_WORD_CHARS: usize = 60;
/// Longest id of a third party.
const MAX_PROVIDER_ID: usize = 255;

/// What was read from the fields of a matching rule.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) provider_id: Option<String>,
    pub(super) status: Option<ReadStatus>,
    pub(super) reason: Option<String>,
    /// The answer is about another id.
    pub(super) is_about_other: bool,
    /// Nothing proves that it is about ours, whether that is why or the field cannot be read.
    pub(super) is_unproven: bool,
    /// A field cannot be read at all, as against a missing one.
    pub(super) is_unusable: bool,
    /// It has neither our id nor the status that it must have, as where an answer is
    /// `{"message":"maintenance"}`.
    pub(super) says_nothing: bool,
    /// What is not as the profile says: `without a status`, `, but the answer is empty`.
    pub(super) strange: Option<String>,
}

impl Definition {
    pub(super) fn fields<M>(
        &self,
        rule: &Rule<M>,
        id: Uuid,
        body: &Result<Node<'_>, Unusable>,
    ) -> Fields {
        let mut fields = Fields::default();
        let mut is_about_ours = false;
        match read(&rule.reference, body) {
            Read::NotAsked => {}
            Read::Missing { is_allowed } => fields.is_about_other = !is_allowed,
            Read::Node(node, at) => match node.text(at) {
                Ok(text) => {
                    is_about_ours = text.is_some_and(|text| is_same_id(&text, id));
                    fields.is_about_other = !is_about_ours;
                }
                Err(why) => fields.unusable(&why),
            },
            Read::Unusable(why) => fields.unusable(&why),
        }
        fields.is_unproven = fields.is_about_other || fields.is_unusable;
        if fields.is_about_other {
            fields.note(", but the answer is about another id");
        }
        let mut has_status = rule.status.as_ref().is_none_or(|field| field.may_be_missing);
        match read(&rule.status, body) {
            Read::NotAsked => {}
            Read::Missing { is_allowed } => {
                if !is_allowed {
                    fields.note(" without a status");
                }
            }
            Read::Node(node, at) => match node.word(at) {
                Ok(found) => {
                    has_status |= found.is_some();
                    let word = found.as_deref().unwrap_or(node.raw());
                    let status = self.status.read(word, found.is_some());
                    if status.meaning.is_none() {
                        fields.note(&format!(" with the unknown status `{}`", status.word));
                    }
                    fields.status = Some(status);
                }
                Err(why) => fields.unusable(&why),
            },
            Read::Unusable(why) => fields.unusable(&why),
        }
        fields.says_nothing = !has_status && !is_about_ours;
        match read(&rule.provider_id, body).text() {
            Ok(Some(text)) if is_usable_id(&text) => fields.provider_id = Some(text),
            Ok(None) if rule.provider_id.as_ref().is_none_or(|field| field.may_be_missing) => {}
            Ok(_) => fields.note(" without an id of its own"),
            Err(why) => fields.note(&format!(", but {why}")),
        }
        if let Ok(Some(reason)) = read(&rule.reason, body).text() {
            fields.reason = Some(excerpt(&reason, MAX_WORD_CHARS));
        }
        fields
    }
}

impl Fields {
    /// Keeps the first.
    fn note(&mut self, why: &str) {
        self.strange.get_or_insert_with(|| why.to_owned());
    }

    fn unusable(&mut self, why: &Unusable) {
        self.is_unusable = true;
        self.note(&format!(", but {why}"));
    }
}

/// What stands at a field's pointer.
enum Read<'a, 'p> {
    NotAsked,
    Missing { is_allowed: bool },
    Node(Node<'a>, &'p Pointer),
    Unusable(Unusable),
}

impl Read<'_, '_> {
    /// The text of a string or a number; anything else is none.
    fn text(self) -> Result<Option<String>, Unusable> {
        match self {
            Self::Node(node, at) if node.is_scalar() => node.written(at).map(Some),
            Self::NotAsked | Self::Missing { .. } | Self::Node(..) => Ok(None),
            Self::Unusable(why) => Err(why),
        }
    }
}

fn read<'a, 'p>(
    field: &'p Option<FieldPointer>,
    body: &Result<Node<'a>, Unusable>,
) -> Read<'a, 'p> {
    let Some(FieldPointer { pointer, may_be_missing }) = field else { return Read::NotAsked };
    let found = match body {
        Ok(root) => root.at(pointer),
        Err(why) => Err(why.clone()),
    };
    match found {
        Ok(Some(node)) => Read::Node(node, pointer),
        Ok(None) => Read::Missing { is_allowed: *may_be_missing },
        Err(why) => Read::Unusable(why),
    }
}

impl Statuses {
    /// What a word means. Anything else, such as an object, has none.
    pub(super) fn read(&self, word: &str, is_word: bool) -> ReadStatus {
        let folded = fold(word);
        let is_in = |list: &[String]| is_word && list.iter().any(|known| fold(known) == folded);
        let meaning = if is_in(&self.completed) {
            Some(ReportedStatus::Completed)
        } else if is_in(&self.declined) {
            Some(ReportedStatus::Declined)
        } else {
            is_in(&self.pending).then_some(ReportedStatus::Pending)
        };
        let is_reversible = is_in(&self.reversible);
        ReadStatus { word: excerpt(word, MAX_WORD_CHARS), meaning, is_reversible }
    }
}

/// An id is compared as a uuid, not as text.
pub(super) fn is_same_id(found: &str, id: Uuid) -> bool {
    Uuid::parse_str(found.trim()).is_ok_and(|found| found == id)
}

/// Whether it can be stored, indexed and asked for.
fn is_usable_id(id: &str) -> bool {
    (1..=MAX_PROVIDER_ID).contains(&id.len())
        && !id.chars().any(|c| c.is_control() || c.is_whitespace())
}
