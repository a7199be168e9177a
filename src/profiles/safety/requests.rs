//! What may be sent: nothing that another program would read differently, no secret where it would
//! be logged, and our id always.

use super::super::{
    body::{Node, Pairs},
    definition::{Create, Definition, Lookup, LookupBy},
    error::{Faults, Key},
    request::{Content, Method, SET_BY_THE_PROGRAM, is_dots, is_header_name, is_reserved},
    template::{Part, Source, Template},
};

/// Checks what is sent. `auth` is the name of the header with the credentials.
pub(super) fn check(profile: &Definition, auth: Option<&str>, faults: &mut Faults<'_>) {
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
    if let Some(auth) = auth {
        not_twice(&profile.headers, auth, &Key::of("headers"), faults);
        not_twice(&create.headers, auth, &create_key.then("headers"), faults);
        not_twice(&lookup.headers, auth, &lookup_key.then("headers"), faults);
    }
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
    if lookup.by == LookupBy::ProviderId {
        for (name, template) in &create.headers.0 {
            if template.has_our_id() && template.has_secret() {
                let key = create_key.then("headers").then(name);
                faults.add(
                    &key,
                    "our id and a secret are not allowed together here: a create that cannot be \
                     looked up by our id is repeated with the same key, and a secret may change",
                );
            }
        }
    }
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
    if !without_headers().chain(headers()).any(Template::always_has_our_id) {
        faults.add(
            &key,
            "our id is not sent, or not always: without {id} or {id:hex} in the path, the query, a \
             header or the body, beside nothing that may be left out, a repeated create cannot be \
             distinguished from a second transaction",
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
        LookupBy::Id if !sent().any(Template::always_has_our_id) => {
            faults.add(
                &key,
                "asks for no id, or not always: write {id} or {id:hex} into the path or the query, \
                 beside nothing that may be left out",
            );
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

/// A header that `[auth]` sets, too, would be sent twice.
pub(in crate::profiles) fn not_twice(pairs: &Pairs, set: &str, key: &Key, faults: &mut Faults<'_>) {
    for (name, _) in pairs.0.iter().filter(|(name, _)| name.eq_ignore_ascii_case(set)) {
        faults.add(&key.then(name), "is set by [auth] too: write it in one place");
    }
}

pub(in crate::profiles) fn headers(pairs: &Pairs, key: &Key, faults: &mut Faults<'_>) {
    let mut seen: Vec<String> = Vec::new();
    for (name, template) in &pairs.0 {
        let key = key.then(name);
        let lower = name.to_ascii_lowercase();
        if !is_header_name(name) {
            faults.add(&key, "is not a header's name");
        }
        if is_reserved(name) {
            faults.add(&key, SET_BY_THE_PROGRAM);
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
