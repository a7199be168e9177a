//! What answers may mean: an ambiguous one is neither success nor failure, and an absence is only
//! what a body says.

use std::fmt::Display;

use super::super::{
    definition::{Create, Lookup, LookupBy, Repeat},
    error::{Faults, Key},
    rule::{CreateMeans, LookupMeans, OneOf, Rule},
    scalar::Scalar,
};

/// Checks what a create's answers mean.
pub(super) fn check_create(create: &Create, by: LookupBy, faults: &mut Faults<'_>) {
    let list = Key::of("create.answers");
    if !create.answers.iter().any(|rule| rule.means == CreateMeans::Created) {
        faults.add(&list, "no rule means created: nothing would ever be known to exist");
    }
    for (nth, rule) in create.answers.iter().enumerate() {
        let key = list.nth(nth);
        no_any_body(rule, &key, faults);
        let code = key.then("code");
        let has =
            |range: std::ops::RangeInclusive<u16>| rule.code.each().any(|c| range.contains(&c));
        let is_tested = rule.is.is_some();
        match rule.means {
            CreateMeans::Created if has(300..=599) => faults.add(
                &code,
                "only a 2xx can mean created: anything else is a refusal, or may have been lost",
            ),
            CreateMeans::Exists if has(300..=399) || has(500..=599) => faults
                .add(&code, "only a 2xx or 4xx can mean exists: a 5xx says nothing for certain"),
            CreateMeans::Exists if says_nothing_of_it(rule) && !is_tested => faults.add(
                &code,
                "401, 403, 407, 408, 421, 425 and 429 are about who asks and when: they only mean \
                 exists with `at` and `is`, or nothing would ever be sent",
            ),
            CreateMeans::Refused if has(300..=399) || has(500..=599) => faults.add(
                &code,
                "a 3xx or 5xx cannot mean refused: it may have gone through all the same, and \
                 calling it failed would hide a payment",
            ),
            CreateMeans::Refused if has(200..=299) && !is_tested => faults.add(
                &key,
                "a 2xx can only mean refused with `at` and `is`: it may have gone through",
            ),
            CreateMeans::Refused if unauthorized(rule) && !is_tested => faults.add(
                &code,
                "401 and 403 concern our credentials: they only mean refused with `at` and `is`",
            ),
            CreateMeans::Refused if rule.code.contains(429) && !is_tested => {
                faults.add(&code, "429 says 'not now': it can only mean refused with `at` and `is`")
            }
            CreateMeans::Blocked if may_be_sent(rule) && !is_tested => faults.add(
                &key,
                "only a 4xx other than 408 and 409 can mean blocked without `at` and `is`: with \
                 anything else it may have gone through",
            ),
            _ => {}
        }
        if by == LookupBy::ProviderId
            && matches!(rule.means, CreateMeans::Created | CreateMeans::Exists)
            && rule.provider_id.as_ref().is_none_or(|field| field.may_be_missing)
            && (rule.means == CreateMeans::Created || create.repeat == Repeat::Refused)
        {
            faults.add(
                &key.then("provider_id"),
                format!(
                    "must say where the third party's id is, without `?`: with lookup.by = \
                     \"provider_id\", what is {} could never be looked up without it",
                    rule.means
                ),
            );
        }
        if rule.means == CreateMeans::Exists
            && by == LookupBy::ProviderId
            && create.repeat == Repeat::NewTransaction
        {
            faults.add(&key, "a third party that makes a second transaction has no `exists`");
        }
    }
    reachable(&create.answers, &list, faults);
}

fn unauthorized<M>(rule: &Rule<M>) -> bool {
    rule.code.contains(401) || rule.code.contains(403)
}

/// Whether one of its codes says something about who asks or when, and nothing about a
/// transaction.
fn says_nothing_of_it<M>(rule: &Rule<M>) -> bool {
    rule.code.each().any(is_about_the_call)
}

fn is_about_the_call(code: u16) -> bool {
    matches!(code, 401 | 403 | 407 | 408 | 421 | 425 | 429)
}

/// Whether a request may have gone through that was answered with one of its codes.
fn may_be_sent<M>(rule: &Rule<M>) -> bool {
    rule.code.each().any(|code| !matches!(code, 400..=499) || matches!(code, 408 | 409))
}

/// Codes that say something about the way there or about who asks, and never that a transaction
/// is absent. 501 may: no lookup is offered.
fn proves_no_absence(code: u16) -> bool {
    matches!(code, 300..=399) || is_about_the_call(code) || (code >= 500 && code != 501)
}

/// Checks what a lookup's answers mean.
pub(super) fn check_lookup(lookup: &Lookup, faults: &mut Faults<'_>) {
    let list = Key::of("lookup.answers");
    if !lookup.answers.iter().any(|rule| rule.means == LookupMeans::Found) {
        faults.add(&list, "no rule means found: nothing would ever end");
    }
    for (nth, rule) in lookup.answers.iter().enumerate() {
        let key = list.nth(nth);
        match rule.means {
            LookupMeans::Absent => absence(rule, &key, faults),
            LookupMeans::Found => {
                no_any_body(rule, &key, faults);
                if rule.code.each().any(|code| !(200..=299).contains(&code)) {
                    faults.add(&key.then("code"), "only a 2xx can mean found");
                }
                if rule.status.is_none() {
                    faults.add(&key.then("status"), "must say where the status is");
                }
            }
            LookupMeans::NotOurs => faults.add(
                &key.then("means"),
                "'not ours' is not allowed: write found with `reference`, which is compared with \
                 our id",
            ),
            LookupMeans::Unclear | LookupMeans::NoAnswer => no_any_body(rule, &key, faults),
        }
    }
    reachable(&lookup.answers, &list, faults);
    match (&lookup.items, &lookup.condition) {
        (Some(_), None) => faults.add(
            &Key::of("lookup.where"),
            "must say what makes an item ours, such as { at = \"/reference\", is = \"{id}\" }: a \
             filter that the third party ignores would give others' transactions",
        ),
        (None, Some(_)) => {
            faults
                .add(&Key::of("lookup.where"), "is only used with `items`, the pointer of a list");
        }
        (Some(_), Some(condition)) if !condition.is.has_our_id() => {
            faults.add(&Key::of("lookup.where").then("is"), "must contain {id} or {id:hex}");
        }
        _ => {}
    }
    if lookup.items.is_some() && lookup.by == LookupBy::ProviderId {
        faults.add(&Key::of("lookup.items"), "is only used with by = \"id\"");
    }
}

fn absence(rule: &Rule<LookupMeans>, key: &Key, faults: &mut Faults<'_>) {
    if let Some(code) = rule.code.each().find(|code| proves_no_absence(*code)) {
        faults.add(
            &key.then("code"),
            format!(
                "{code} cannot mean absent: it is about the way there or about who asks, and a \
                 create would follow"
            ),
        );
    }
    let names_a_value = matches!(&rule.is, Some(OneOf(values)) if values.iter().all(is_telling));
    if rule.any_body && rule.at.is_some() {
        faults.add(&key.then("any_body"), "and `at` contradict each other");
    } else if rule.any_body && rule.code.each().any(|code| code < 400) {
        faults.add(&key.then("any_body"), "is not allowed with a 2xx: its body must say it");
    } else if !rule.any_body && !names_a_value {
        faults.add(
            key,
            "an absence needs `at` and `is`, a value in the body that says so: the same code may \
             come from a wrong path, a gateway or another environment, and a second payment would \
             follow. Where each such code is known to come from the third party itself, \
             any_body = true says so",
        );
    }
}

/// `false` alone says that something went wrong, and not what.
fn is_telling(value: &Scalar) -> bool {
    !matches!(value, Scalar::Truth(_))
}

fn no_any_body<M: Display>(rule: &Rule<M>, key: &Key, faults: &mut Faults<'_>) {
    if rule.any_body {
        let problem = format!("is only used with absent, not with {}", rule.means);
        faults.add(&key.then("any_body"), problem);
    }
}

/// A rule behind one that takes all its codes, or the same test, never decides anything.
fn reachable<M>(rules: &[Rule<M>], list: &Key, faults: &mut Faults<'_>) {
    for (nth, rule) in rules.iter().enumerate() {
        if rule.is.is_some() && rule.at.is_none() {
            faults.add(&list.nth(nth).then("at"), "is missing: `is` says what must stand there");
        }
        let takes_all = |earlier: &Rule<M>| {
            let same_test = earlier.at == rule.at && earlier.is == rule.is;
            (earlier.at.is_none() || same_test)
                && rule.code.each().all(|code| earlier.code.contains(code))
        };
        if let Some(before) = rules[..nth].iter().position(takes_all) {
            faults.add(
                &list.nth(nth),
                format!("never decides: rule {} matches first, whatever it is", before + 1),
            );
        }
    }
}
