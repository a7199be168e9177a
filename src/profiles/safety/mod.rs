//! What the loader refuses: profiles that would lose, double or misreport money, or leak secrets.
//! Each fault says why.

mod answers;
pub(super) mod requests;

use std::collections::BTreeMap;

use super::{
    amount::MAX_EXPONENT,
    auth::Credentials,
    definition::{Definition, LookupBy, Repeat, Statuses},
    error::{Faults, Key},
    rule::{CreateMeans, LookupMeans},
    webhook::WebhookProfile,
};

/// Checks everything that needs more than one value.
pub(super) fn check(profile: &Definition, faults: &mut Faults<'_>) {
    currencies(profile, faults);
    let credentials = Credentials::of(&profile.auth);
    requests::check(profile, credentials.header_name(), faults);
    answers::check_create(&profile.create, profile.lookup.by, faults);
    answers::check_lookup(&profile.lookup, faults);
    together(profile, faults);
    words(&profile.status, faults);
    super::auth::check(&profile.auth, faults);
    if let Some(section) = &profile.sign {
        let sent = [&profile.headers, &profile.create.headers, &profile.lookup.headers];
        super::signing::check(section, sent, credentials.header_name(), faults);
    }
    let webhook = profile.webhook.as_ref().map_or(Ok(()), WebhookProfile::check);
    for fault in webhook.err().unwrap_or_default() {
        faults.add(&Key::of(&fault.key), fault.problem);
    }
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

/// What the create and the lookup must have together.
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
        let repeats_exist = create.answers.iter().any(|rule| rule.means == CreateMeans::Exists);
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
    word.trim().to_lowercase()
}
