//! The profiles that come with the program.

use super::{ID, content};
use crate::profiles::{Inputs, SHIPPED, Shipped, ThirdParty};

#[test]
fn every_shipped_profile_passes_its_cases() {
    for shipped in SHIPPED {
        let profile = shipped.profile().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(profile.name(), shipped.name);
        assert!(profile.webhook().is_some(), "{}", shipped.name);
        let cases = shipped.recorded_cases(&profile).unwrap_or_else(|error| panic!("{error}"));
        let checked = cases.run(&profile);
        assert!(checked.cases >= 8, "{}: {} cases", shipped.name, checked.cases);
        assert!(checked.differences.is_empty(), "{}: {:#?}", shipped.name, checked.differences);
    }
}

#[test]
fn a_case_that_differs_is_a_difference() {
    for shipped in SHIPPED {
        let profile = shipped.profile().unwrap();
        let mut checked = shipped.recorded_cases(&profile).unwrap().run(&profile);
        let all = checked.cases;
        assert_eq!(checked.differences, Vec::<String>::new());
        // Each case, one by one, with something else expected.
        for (from, to) in [("means = \"", "means = \"un"), ("is = '''\n", "is = '''\nX")] {
            let cases = shipped.cases.replace(from, to);
            let changed = crate::profiles::Cases::of(&profile, Some(("x", &cases))).unwrap();
            checked = changed.run(&profile);
            assert_eq!(checked.cases, all);
            let expected = shipped.cases.matches(from).count();
            assert_eq!(checked.differences.len(), expected, "{}", shipped.name);
        }
    }
}

/// Stripe's own table: an amount with the wrong number of digits pays a hundred times as much.
#[test]
fn stripe_is_sent_the_amounts_that_it_means() {
    let profile = Shipped::named("stripe-payouts").unwrap().profile().unwrap();
    let values = profile.names().masks();
    let sent = |amount: i64, currency: &str| {
        let mut content = content(&[]);
        (content.amount, content.currency) = (Some(amount), Some(currency.to_owned()));
        let request = profile.create_request(&super::inputs(&content, &values));
        let body = String::from_utf8(request.map_err(|error| error.to_string())?.body).unwrap();
        let fields = body.strip_prefix("amount=").unwrap();
        Ok::<_, String>(fields.split('&').next().unwrap().to_owned())
    };
    let in_major_units = [
        "BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "PYG", "RWF", "VND", "VUV", "XAF", "XOF",
        "XPF",
    ];
    for currency in in_major_units {
        assert_eq!(sent(1200, currency).as_deref(), Ok("1200"), "{currency}");
    }
    // ISO 4217 gives it two digits, so that 1200 are 12 ariary.
    assert_eq!(sent(1200, "MGA").as_deref(), Ok("12"));
    assert!(sent(1250, "MGA").unwrap_err().contains("cannot be written with 0 digits"));
    // These have no minor unit, and Stripe counts them with two digits all the same.
    for currency in ["ISK", "UGX"] {
        assert_eq!(sent(1200, currency).as_deref(), Ok("120000"), "{currency}");
    }
    for currency in ["EUR", "HUF", "TWD", "MRU", "BHD", "JOD", "KWD", "OMR", "TND"] {
        assert_eq!(sent(1200, currency).as_deref(), Ok("1200"), "{currency}");
    }
}

/// What a profile sends is JSON or a form that can be read again, and no secret is in a URL.
#[test]
fn every_shipped_profile_sends_what_can_be_read() {
    for shipped in SHIPPED {
        let profile = shipped.profile().unwrap();
        let mut values = profile.names().masks();
        values.vars.values_mut().for_each(|value| *value = "v".to_owned());
        let keys: Vec<String> = profile.metadata_keys().into_iter().collect();
        let metadata: Vec<(&str, &str)> =
            keys.iter().map(|key| (key.as_str(), "é\"\\\n")).collect();
        let content = content(&metadata);
        let empty = super::values(&[]);
        let inputs = Inputs {
            provider_id: Some("theirs"),
            values: &values,
            ..super::inputs(&content, &empty)
        };
        let create = profile.create_request(&inputs).unwrap();
        let lookup = profile.lookup_request(&inputs).unwrap();
        for request in [&create, &lookup] {
            assert!(!request.target().contains("secret"), "{request:?}");
        }
        if create.content_type() == Some("application/json") {
            let body: serde_json::Value = serde_json::from_slice(&create.body).unwrap();
            let sent = body.to_string() + &format!("{:?}", create.headers);
            assert!(sent.contains(&ID.to_string()), "{sent}");
        }
    }
}
