//! What may be sent: nothing that another program would read differently, no secret where it would
//! be logged, and our id always.

use super::super::{
    body::{Node, Pairs},
    definition::{Create, Definition, Lookup, LookupBy},
    error::{Faults, Key},
    request::{Content, Method, is_dots, is_header_name},
    template::{Part, Source, Template},
};

/// Checks what is sent.
pub(super) fn check(profile: &Definition, faults: &mut Faults<'_>) {
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
        if lookup.by == LookupBy::ProviderId
            && body.templates().iter().any(|text| text.has_secret())
        {
            let why = "a create that cannot be looked up by our id is kept, to be repeated byte for \
                       byte, and a secret is not kept with it: send it in a header";
            faults.add(&key, format!("a secret is not allowed in this body: {why}"));
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
    let without_headers = || body.iter().copied().chain([&create.path]).chain(query.clone());
    if without_headers().chain(headers()).any(|t| t.uses(|source| *source == Source::ProviderId)) {
        faults.add(&key, "{provider_id} cannot be sent: it is only known from the answer");
    }
    if without_headers().any(|template| template.uses(|source| matches!(source, Source::Now(_)))) {
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
            faults
                .add(&key, "{provider_id} is not known before a create: use by = \"provider_id\"");
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
        let Part::Text(text) = part else { continue };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/%".contains(c);
        if let Some(wrong) = text.chars().find(|c| !is_plain(*c)) {
            faults
                .add(key, format!("{wrong:?} is not allowed in a path: encode it, or use `query`"));
        }
        if text.split('/').any(is_dots) {
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

pub(in crate::profiles) fn headers(pairs: &Pairs, key: &Key, faults: &mut Faults<'_>) {
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
pub(in crate::profiles) fn without_transaction(pairs: &Pairs, key: &Key, faults: &mut Faults<'_>) {
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
