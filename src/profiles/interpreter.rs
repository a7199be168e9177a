//! Reads answers by the rules of a profile.
//!
//! The first rule that matches decides. A rule whose test cannot be read (the body broke off, is no
//! JSON, has the key twice) neither matches nor fails to: it stops the search, and the answer then
//! proves nothing. Without a rule, the code decides alone: a create's 401, 403 and 407 are
//! `blocked`, 421, 425, 429 and 503 `later`, other 4xx but 408 `refused`, and everything else
//! `ambiguous`; a lookup has `no answer`.

use std::time::Duration;

use uuid::Uuid;

use super::{
    amount::Exponents,
    answer::{Answer, Call, CreateAnswer, DecidedBy, LookupAnswer, Reading},
    definition::{Definition, LookupBy},
    fields::{Fields, is_same_id},
    pointer::Pointer,
    reading::{Node, Truth, Unusable, root},
    rule::{CreateMeans, LookupMeans, Rule},
    values::{Inputs, Renderer},
};
use crate::domain::peer_answer::{MAX_EXCERPT_CHARS, excerpt};

impl Definition {
    pub(super) fn read_create(&self, id: Uuid, answer: &Answer<'_>) -> CreateAnswer {
        let rules = &self.create.answers;
        let body = root(answer.body, begins_in_array(rules, None));
        let unread = match first_match(rules, answer.code, &body) {
            Ok(Some((nth, rule))) => return self.created(id, answer, nth, rule, &body),
            Ok(None) => None,
            Err(why) => Some(why),
        };
        let means = match (create_default(answer.code), &unread) {
            // It might be an answer that does not refuse.
            (CreateMeans::Refused, Some(_)) => CreateMeans::Ambiguous,
            (means, _) => means,
        };
        self.by_code(Call::Create, means, unread, answer)
    }

    fn created(
        &self,
        id: Uuid,
        answer: &Answer<'_>,
        nth: usize,
        rule: &Rule<CreateMeans>,
        body: &Result<Node<'_>, Unusable>,
    ) -> CreateAnswer {
        let mut fields = self.fields(rule, id, body);
        let exists = matches!(rule.means, CreateMeans::Created | CreateMeans::Exists);
        let mut means = rule.means;
        if fields.is_unproven || fields.is_unusable {
            (fields.status, fields.provider_id) = (None, None);
        }
        // Where the code alone proves that it exists, the rest of the answer is merely not used.
        let relies_on_body = (exists && rule.at.is_some()) || means == CreateMeans::Refused;
        if fields.is_unproven && relies_on_body {
            means = CreateMeans::Ambiguous;
        }
        if exists && self.lookup.by == LookupBy::ProviderId && fields.provider_id.is_none() {
            // The same request again tells the id; a duplicate without one is an operator's.
            means = match rule.means {
                CreateMeans::Created => CreateMeans::Ambiguous,
                _ => CreateMeans::Unclear,
            };
        }
        self.by_rule(Call::Create, means, nth, rule, fields, answer)
    }

    /// `since_post`: how long ago the last create was sent that may have gone through.
    pub(super) fn read_lookup(
        &self,
        inputs: &Inputs<'_>,
        answer: &Answer<'_>,
        since_post: Option<Duration>,
    ) -> LookupAnswer {
        let rules = &self.lookup.answers;
        let body = root(answer.body, begins_in_array(rules, self.lookup.items.as_ref()));
        let (nth, rule) = match first_match(rules, answer.code, &body) {
            Ok(Some(found)) => found,
            Ok(None) => return self.by_code(Call::Lookup, LookupMeans::NoAnswer, None, answer),
            Err(why) => {
                return self.by_code(Call::Lookup, LookupMeans::NoAnswer, Some(why), answer);
            }
        };
        let read = match (&self.lookup.items, rule.means) {
            (Some(items), LookupMeans::Found) => {
                self.found_in_list(inputs, answer, nth, rule, (&body, items))
            }
            _ => self.found(inputs.id, answer, nth, rule, (&body, false)),
        };
        self.settled(read, since_post, answer)
    }

    /// `is_ours`: the body was compared with our id before.
    fn found(
        &self,
        id: Uuid,
        answer: &Answer<'_>,
        nth: usize,
        rule: &Rule<LookupMeans>,
        (body, is_ours): (&Result<Node<'_>, Unusable>, bool),
    ) -> LookupAnswer {
        let fields = self.fields(rule, id, body);
        let means = match rule.means {
            LookupMeans::Found if fields.is_about_other => LookupMeans::NotOurs,
            LookupMeans::Found if fields.is_unusable => LookupMeans::NoAnswer,
            LookupMeans::Found if fields.says_nothing && !is_ours => LookupMeans::NoAnswer,
            means => means,
        };
        self.by_rule(Call::Lookup, means, nth, rule, fields, answer)
    }

    fn found_in_list(
        &self,
        inputs: &Inputs<'_>,
        answer: &Answer<'_>,
        nth: usize,
        rule: &Rule<LookupMeans>,
        (body, at): (&Result<Node<'_>, Unusable>, &Pointer),
    ) -> LookupAnswer {
        let items = body.as_ref().map_err(Clone::clone).and_then(|root| {
            let list = root.at(at)?.map(Node::items).transpose()?.flatten();
            list.ok_or_else(|| Unusable::Answer(format!("the answer has no list at {at}")))
        });
        let read = |means, strange: Option<&str>| {
            let strange = strange.map(str::to_owned);
            let fields = Fields { strange, ..Fields::default() };
            self.by_rule(Call::Lookup, means, nth, rule, fields, answer)
        };
        let items = match items {
            Ok(items) => items,
            Err(why) => return read(LookupMeans::NoAnswer, Some(&format!(", but {why}"))),
        };
        let mut ours = Vec::new();
        for item in &items {
            match self.is_ours(inputs, *item) {
                Ok(true) => ours.push(*item),
                Ok(false) => {}
                Err(why) => return read(LookupMeans::NoAnswer, Some(&format!(", but {why}"))),
            }
        }
        match ours[..] {
            [item] => self.found(inputs.id, answer, nth, rule, (&Ok(item), true)),
            [_, _, ..] => {
                let why = format!(" with {} transactions that have our id", ours.len());
                read(LookupMeans::Unclear, Some(&why))
            }
            [] if items.is_empty() => read(LookupMeans::Absent, None),
            // A list of others is no proof: the filter may have been ignored, and ours be on
            // another page.
            [] => read(LookupMeans::NotOurs, Some(" with a list of other transactions")),
        }
    }

    fn is_ours(&self, inputs: &Inputs<'_>, item: Node<'_>) -> Result<bool, Unusable> {
        let Some(condition) = &self.lookup.condition else { return Ok(false) };
        let Some(found) = item.at(&condition.at)? else { return Ok(false) };
        let found = found.written(&condition.at)?;
        let none = Exponents::new();
        let wanted = Renderer { inputs: *inputs, exponents: &none }
            .text(&condition.is)
            .map_err(|why| Unusable::Answer(why.to_string()))?;
        let is_id = condition.is.only_placeholder().is_some();
        Ok(match wanted {
            Some(_) if is_id => is_same_id(&found, inputs.id),
            Some(wanted) => wanted == found,
            None => false,
        })
    }

    /// An absence that comes too early does not count.
    fn settled(
        &self,
        mut read: LookupAnswer,
        since_post: Option<Duration>,
        answer: &Answer<'_>,
    ) -> LookupAnswer {
        let settle_after = self.lookup.settle_after.map(|period| period.0);
        if read.means == LookupMeans::Absent
            && let Some((after, since)) = settle_after.zip(since_post)
            && since < after
        {
            read.means = LookupMeans::NoAnswer;
            let after = humantime::format_duration(after);
            read.strange = Some(strange(
                answer,
                &format!(" that it is absent, which counts only {after} after a create"),
            ));
        }
        read
    }

    fn by_rule<M>(
        &self,
        call: Call,
        means: M,
        nth: usize,
        rule: &Rule<M>,
        fields: Fields,
        answer: &Answer<'_>,
    ) -> Reading<M> {
        let decided_by =
            DecidedBy { profile: self.name.clone(), call, rule: Some(nth + 1), test: rule.test() };
        Reading {
            means,
            provider_id: fields.provider_id,
            status: fields.status,
            reason: fields.reason,
            strange: fields.strange.map(|why| strange(answer, &why)),
            said: strange(answer, ""),
            decided_by,
            code: answer.code,
        }
    }

    /// `unread`: why the search for a rule stopped.
    fn by_code<M>(
        &self,
        call: Call,
        means: M,
        unread: Option<Unusable>,
        answer: &Answer<'_>,
    ) -> Reading<M> {
        let test = format!("code {}", answer.code);
        Reading {
            means,
            provider_id: None,
            status: None,
            reason: None,
            strange: unread.map(|why| strange(answer, &format!(", but {why}"))),
            said: strange(answer, ""),
            decided_by: DecidedBy { profile: self.name.clone(), call, rule: None, test },
            code: answer.code,
        }
    }
}

/// The first rule that matches, with its place, counted from 0. An error says why the test of a
/// rule before it cannot be read.
fn first_match<'a, M>(
    rules: &'a [Rule<M>],
    code: u16,
    body: &Result<Node<'_>, Unusable>,
) -> Result<Option<(usize, &'a Rule<M>)>, Unusable> {
    for (nth, rule) in rules.iter().enumerate() {
        match rule.matches(code, body) {
            Truth::No => {}
            Truth::Yes => return Ok(Some((nth, rule))),
            Truth::Unknown(why) => return Err(why),
        }
    }
    Ok(None)
}

/// What a create's code means where no rule matches.
fn create_default(code: u16) -> CreateMeans {
    match code {
        // 407 is from a proxy on the way, 421 from a server that is not meant: the third party has
        // not seen the request.
        401 | 403 | 407 => CreateMeans::Blocked,
        421 | 425 | 429 | 503 => CreateMeans::Later,
        // The server gave up waiting for the request; whether it acted on it is not said.
        408 => CreateMeans::Ambiguous,
        400..=499 => CreateMeans::Refused,
        _ => CreateMeans::Ambiguous,
    }
}

/// `answered 200, but …: {"status":…}`, for an operator's eyes.
fn strange(answer: &Answer<'_>, why: &str) -> String {
    let code = answer.code;
    match answer.body {
        Ok(text) => {
            let text = excerpt(text, MAX_EXCERPT_CHARS);
            let colon = if text.is_empty() { "" } else { ": " };
            format!("answered {code}{why}{colon}{text}")
        }
        Err(reason) if why.is_empty() => format!("answered {code}: {reason}"),
        Err(_) => format!("answered {code}{why}"),
    }
}

/// Whether the answer's own array is looked into.
fn begins_in_array<M>(rules: &[Rule<M>], items: Option<&Pointer>) -> bool {
    match items {
        Some(items) => items.begins_in_array(),
        None => rules.iter().flat_map(Rule::pointers).any(Pointer::begins_in_array),
    }
}
