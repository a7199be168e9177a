//! What the loader refuses: profiles that would lose, double or misreport money, or leak secrets.
//! Each fault says why.

use std::{collections::BTreeMap, fmt::Display};

use super::{
    amount::MAX_EXPONENT,
    body::{Node, Pairs},
    definition::{Content, Create, Definition, Lookup, LookupBy, Method, Repeat, Statuses},
    error::{Faults, Key},
    rule::{CreateMeans, LookupMeans, OneOf, Rule, Scalar},
    template::{Source, Template},
};

/// Checks everything that needs more than one value.
pub(super) fn check(profile: &Definition, faults: &mut Faults<'_>) {
    currencies(profile, faults);
    requests(profile, faults);
    create_rules(&profile.create, profile.lookup.by, faults);
    lookup_rules(&profile.lookup, faults);
    together(profile, faults);
    words(&profile.status, faults);
    super::auth::check(&profile.auth, faults);
}

fn currencies(profile: &Definition, faults: &mut Faults<'_>) {
    for (code, exponent) in &profile.exponents {
        let key = Key::of("exponents").then(code);
        if iso_currency::Currency::from_code(code).is_none() {
            faults.add(&key, format!("'{code}' is not a currency of ISO 4217, in capitals"));
        }
        if *exponent > MAX_EXPONENT {
            faults.add(&key, format!("{exponent} is not allowed: 0 to {MAX_EXPONENT} digits"));
        }
    }
}

// ---- requests

fn requests(profile: &Definition, faults: &mut Faults<'_>) {
    let (create, lookup) = (&profile.create, &profile.lookup);
    let (create_key, lookup_key) = (Key::of("create"), Key::of("lookup"));
    path(&create.path, &create_key.then("path"), faults);
    path(&lookup.path, &lookup_key.then("path"), faults);
    query(&create.query, &create_key.then("query"), faults);
    query(&lookup.query, &lookup_key.then("query"), faults);
    headers(&profile.headers, &Key::of("headers"), faults);
    without_transaction(&profile.headers, &Key::of("headers"), faults);
    headers(&create.headers, &create_key.then("headers"), faults);
    headers(&lookup.headers, &lookup_key.then("headers"), faults);
    for (own, key) in [(&create.headers, &create_key), (&lookup.headers, &lookup_key)] {
        for (name, _) in &own.0 {
            if profile.headers.0.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                let key = key.then("headers").then(name);
                faults.add(&key, "is among the headers of all calls too: write it in one place");
            }
        }
    }
    if !matches!(lookup.method, Method::Get | Method::Post) {
        let key = lookup_key.then("method");
        faults.add(&key, format!("'{}' is not allowed: GET or POST", lookup.method));
    }
    if matches!(create.method, Method::Get) {
        faults.add(&create_key.then("method"), "'GET' is not allowed: POST, PUT or PATCH");
    }
    if let Some(body) = &create.body {
        let key = create_key.then("body");
        if matches!(create.content, Content::Form) {
            for (name, node) in &body.0 {
                form_field(node, &key.then(name), faults);
            }
        }
        for template in body.templates() {
            let is_alone = template.only_placeholder().is_some();
            if template.uses(|source| *source == Source::Metadata) && !is_alone {
                faults.add(&key, "{metadata} is an object: it must stand alone in its text");
            }
        }
    }
    in_create(create, faults);
    in_lookup(lookup, faults);
}

/// What a create may not be made of.
fn in_create(create: &Create, faults: &mut Faults<'_>) {
    let key = Key::of("create");
    let body: Vec<&Template> = create.body.iter().flat_map(|body| body.templates()).collect();
    let query = create.query.0.iter().map(|(_, template)| template);
    let headers = || create.headers.0.iter().map(|(_, template)| template);
    let without_headers =
        || body.iter().copied().chain([&create.path]).chain(query.clone());
    if without_headers().chain(headers()).any(|t| t.uses(|source| *source == Source::ProviderId)) {
        faults.add(&key, "{provider_id} cannot be sent: it is only known from the answer");
    }
    if without_headers().any(|template| template.uses(|source| *source == Source::Now)) {
        faults.add(
            &key,
            "{now} is only allowed in headers: the same create again must be the same bytes; \
             {created_at} stays the same",
        );
    }
    // Where they might be in a header, the whole of them count.
    if !without_headers().chain(headers()).any(Template::has_our_id) {
        faults.add(
            &key,
            "our id is not sent: without {id} or {id:hex} in the path, the query, a header or the \
             body, a repeated create cannot be told from a second transaction",
        );
    }
}

fn in_lookup(lookup: &Lookup, faults: &mut Faults<'_>) {
    let key = Key::of("lookup");
    let sent = || {
        let query = lookup.query.0.iter().map(|(_, template)| template);
        let headers = lookup.headers.0.iter().map(|(_, template)| template);
        [&lookup.path].into_iter().chain(query).chain(headers)
    };
    let has_theirs = sent().any(|template| template.uses(|source| *source == Source::ProviderId));
    match lookup.by {
        LookupBy::Id if has_theirs => {
            faults.add(&key, "{provider_id} is not known before a create: use by = \"provider_id\"");
        }
        LookupBy::Id if !sent().any(Template::has_our_id) => {
            faults.add(&key, "asks for no id: write {id} or {id:hex} into the path or the query");
        }
        LookupBy::ProviderId if !has_theirs => {
            faults.add(&key, "asks for no id: write {provider_id} into the path or the query");
        }
        _ => {}
    }
}

fn path(template: &Template, key: &Key, faults: &mut Faults<'_>) {
    let text = template.as_str();
    if !text.starts_with('/') {
        faults.add(key, format!("'{text}' must begin with a slash"));
    }
    no_object(template, key, faults);
    no_secret(template, key, "a path", faults);
    if template.placeholders().any(|placeholder| placeholder.is_optional) {
        faults.add(key, "`?` is not allowed in a path: without a part it is another path");
    }
    for part in template.parts() {
        let super::template::Part::Text(text) = part else { continue };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/%".contains(c);
        if let Some(wrong) = text.chars().find(|c| !is_plain(*c)) {
            faults.add(key, format!("{wrong:?} is not allowed in a path: encode it, or use `query`"));
        }
        if text.split('/').any(|segment| super::request::is_dots(segment)) {
            faults.add(key, "'.' and '..' are not allowed in a path: they lead elsewhere");
        }
    }
}

fn query(pairs: &Pairs, key: &Key, faults: &mut Faults<'_>) {
    for (name, template) in &pairs.0 {
        let key = key.then(name);
        no_object(template, &key, faults);
        no_secret(template, &key, "a query", faults);
    }
}

fn no_secret(template: &Template, key: &Key, place: &str, faults: &mut Faults<'_>) {
    if template.has_secret() {
        let why = "servers and proxies log it; send it in a header or the body";
        faults.add(key, format!("a secret is not allowed in {place}: {why}"));
    }
}

fn no_object(template: &Template, key: &Key, faults: &mut Faults<'_>) {
    if template.uses(|source| *source == Source::Metadata) {
        faults.add(key, "{metadata} is an object, and only fits a JSON body: use {metadata.NAME}");
    }
}

/// Headers that the client sets, or that say where a message ends.
const RESERVED: [&str; 10] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "te",
    "traceparent",
    "transfer-encoding",
    "upgrade",
];

pub(super) fn headers(pairs: &Pairs, key: &Key, faults: &mut Faults<'_>) {
    let mut seen: Vec<String> = Vec::new();
    for (name, template) in &pairs.0 {
        let key = key.then(name);
        let lower = name.to_ascii_lowercase();
        if !is_header_name(name) {
            faults.add(&key, "is not a header's name");
        }
        if RESERVED.contains(&lower.as_str()) {
            faults.add(&key, "is set by the program");
        }
        if lower == "authorization" && !template.has_secret() {
            faults.add(&key, "is set by [auth]");
        }
        if seen.contains(&lower) {
            faults.add(&key, "stands more than once, in other letters");
        }
        seen.push(lower);
        no_object(template, &key, faults);
    }
}

/// Headers of all calls, some of which are about no transaction.
pub(super) fn without_transaction(pairs: &Pairs, key: &Key, faults: &mut Faults<'_>) {
    for (name, template) in &pairs.0 {
        if template.uses(|source| !matches!(source, Source::Var(_) | Source::Secret(_))) {
            faults.add(
                &key.then(name),
                "only {var:NAME} and {secret:NAME} are allowed here: headers about a transaction \
                 belong to [create] or [lookup]",
            );
        }
    }
}

pub(super) fn is_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token)
}

fn form_field(node: &Node, key: &Key, faults: &mut Faults<'_>) {
    match node {
        Node::Text(template) => no_object(template, key, faults),
        Node::Number(_) | Node::Truth(_) => {}
        Node::Array(_) | Node::Table(_) => faults.add(
            key,
            "a form has no lists or tables: write each field with its full name, such as \
             \"metadata[key]\"",
        ),
    }
}

// ---- answers

fn create_rules(create: &Create, by: LookupBy, faults: &mut Faults<'_>) {
    let list = Key::of("create.answers");
    if !create.answers.iter().any(|rule| rule.means == CreateMeans::Created) {
        faults.add(&list, "no rule means created: nothing would ever be known to exist");
    }
    for (nth, rule) in create.answers.iter().enumerate() {
        let key = list.nth(nth);
        no_any_body(rule, &key, faults);
        let code = key.then("code");
        let has = |range: std::ops::RangeInclusive<u16>| rule.code.each().any(|c| range.contains(&c));
        let is_tested = rule.is.is_some();
        match rule.means {
            CreateMeans::Created if has(300..=599) => faults.add(
                &code,
                "only a 2xx can mean created: anything else is a refusal, or may have been lost",
            ),
            CreateMeans::Exists if has(300..=399) || has(500..=599) => faults.add(
                &code,
                "only a 2xx or 4xx can mean exists: a 5xx says nothing for certain",
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
                "401 and 403 concern our credentials: they can only mean refused with `at` and `is`",
            ),
            CreateMeans::Refused if rule.code.contains(429) && !is_tested => faults.add(
                &code,
                "429 says 'not now': it can only mean refused with `at` and `is`",
            ),
            CreateMeans::Blocked if has(200..=399) && !is_tested => {
                faults.add(&key, "a 2xx or 3xx can only mean blocked with `at` and `is`");
            }
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

/// Codes that say something about the way there or about who asks, and never that a transaction
/// is absent. 501 may: no lookup is offered.
fn proves_no_absence(code: u16) -> bool {
    matches!(code, 300..=399 | 401 | 403 | 407 | 408 | 421 | 425 | 429)
        || (code >= 500 && code != 501)
}

fn lookup_rules(lookup: &Lookup, faults: &mut Faults<'_>) {
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
            faults.add(&Key::of("lookup.where"), "is only used with `items`, the pointer of a list");
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
    let names_a_value = matches!(&rule.is, Some(OneOf(values)) if values.iter().any(is_telling));
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

// ---- the create and the lookup together

fn together(profile: &Definition, faults: &mut Faults<'_>) {
    let (create, lookup) = (&profile.create, &profile.lookup);
    let has_absence = lookup.items.is_some()
        || lookup.answers.iter().any(|rule| rule.means == LookupMeans::Absent);
    if lookup.by == LookupBy::Id && !has_absence {
        faults.add(
            &Key::of("lookup.answers"),
            "no rule means absent, and there is no list (`items`): nothing could ever be created, \
             since only a proof of absence allows it",
        );
    }
    if lookup.by == LookupBy::ProviderId {
        for (nth, rule) in lookup.answers.iter().enumerate() {
            if rule.means == LookupMeans::Absent {
                faults.add(
                    &Key::of("lookup.answers").nth(nth).then("means"),
                    "'absent' is not allowed with by = \"provider_id\": what has an id of theirs \
                     was created, and an unknown id is an error there, never a licence to create",
                );
            }
        }
        let repeats_exist =
            create.answers.iter().any(|rule| rule.means == CreateMeans::Exists);
        match create.repeat {
            Repeat::NewTransaction => faults.add(
                &Key::of("create.repeat"),
                "'new-transaction' cannot be made safe with lookup.by = \"provider_id\": after a \
                 create without an answer, nobody could tell whether a second one doubles it",
            ),
            Repeat::Refused if !repeats_exist => faults.add(
                &Key::of("create.answers"),
                "no rule means exists: with lookup.by = \"provider_id\" and repeat = \"refused\", \
                 a duplicate's answer is the only way to learn the third party's id",
            ),
            Repeat::Refused | Repeat::SameAnswer => {}
        }
    }
    if create.repeat == Repeat::NewTransaction && create.repeat_within.is_some() {
        faults.add(
            &Key::of("create.repeat_within"),
            "is not allowed with repeat = \"new-transaction\": no repeat is safe",
        );
    }
}

// ---- statuses

fn words(statuses: &Statuses, faults: &mut Faults<'_>) {
    let key = Key::of("status");
    if statuses.completed.is_empty() {
        faults.add(&key.then("completed"), "is empty: nothing would ever be completed");
    }
    let lists = [
        ("pending", &statuses.pending),
        ("completed", &statuses.completed),
        ("declined", &statuses.declined),
    ];
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for (list, words) in lists {
        for (nth, word) in words.iter().enumerate() {
            let key = key.then(list).nth(nth);
            if word.trim().is_empty() {
                faults.add(&key, "is empty");
            } else if let Some(other) = seen.insert(fold(word), list) {
                faults.add(
                    &key,
                    format!("'{word}' is in `{other}` too: a word has one meaning, without case"),
                );
            }
        }
    }
    for (nth, word) in statuses.reversible.iter().enumerate() {
        if seen.get(&fold(word)) != Some(&"completed") {
            let problem = format!("'{word}' is not in `completed`, so it cannot be taken back");
            faults.add(&key.then("reversible").nth(nth), problem);
        }
    }
}

/// A status word as it is compared.
pub(super) fn fold(word: &str) -> String {
    word.trim().to_ascii_lowercase()
}
