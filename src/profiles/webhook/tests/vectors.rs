//! Recorded webhooks of providers, valid and not: each is a test.

use std::collections::BTreeSet;

use super::{Rejection, support::*};

/// Verifies a vector by the parameters of its scheme alone, and compares the reason.
fn check(id: &str) {
    let vector = vector(id);
    let receiver = vector.receiver();
    let keys = vector.keys(&receiver);
    let result = vector.verify(&receiver, &keys);
    if vector.valid {
        assert!(result.is_ok(), "{result:?}");
        return;
    }
    let rejection = result.expect_err("it is not valid");
    assert!(fits(&rejection, vector.reason.as_deref().unwrap_or_default()), "{rejection:?}");
}

fn fits(rejection: &Rejection, reason: &str) -> bool {
    use Rejection::*;
    match reason {
        "no signature matches" | "an item's signature is wrong" => matches!(rejection, NoMatch(_)),
        "no signature of this version" | "prefix missing" => {
            matches!(rejection, NoSignature { .. })
        }
        "timestamp outside the tolerance" => matches!(rejection, TooOld(_) | TooNew(_)),
        "bad timestamp" => matches!(rejection, BadTimestamp { .. }),
        "pair given twice" => matches!(rejection, RepeatedPair { .. }),
        "token" | "basic" => matches!(rejection, WrongCredentials(_)),
        "item without signature" => matches!(rejection, UnsignedItem),
        "missing signature header"
        | "missing header"
        | "no basic credentials"
        | "a covered header is absent" => matches!(rejection, MissingHeader(_)),
        // Vectors of `rfc9421` say no reason.
        "" => !matches!(rejection, Body(_) | Method(_)),
        other => panic!("unknown reason {other}"),
    }
}

macro_rules! vectors {
    ($($module:ident $scheme:literal [$($case:ident)+])+) => {
        $(mod $module {
            $(#[test]
            #[allow(non_snake_case)]
            fn $case() {
                super::check(concat!($scheme, "/", stringify!($case)));
            })+
        })+

        const IDS: &[&str] = &[$($(concat!($scheme, "/", stringify!($case))),+),+];
    };
}

vectors! {
    standard_webhooks_v1 "standard-webhooks-v1" [
        valid tampered_body wrong_secret rotated_receiver_holds_both missing_header empty_header
        header_names_in_other_case body_reserialised expired just_within_tolerance
        from_the_future tampered_timestamp rotated_two_signatures two_signatures_neither_known
        unknown_versions_first only_an_unknown_version tampered_id published
    ]
    svix_v1 "svix-v1" [
        valid tampered_body wrong_secret rotated_receiver_holds_both missing_header empty_header
        header_names_in_other_case body_reserialised expired just_within_tolerance
        from_the_future tampered_timestamp rotated_two_signatures two_signatures_neither_known
        unknown_versions_first only_an_unknown_version tampered_id
    ]
    stripe "stripe" [
        valid tampered_body wrong_secret rotated_receiver_holds_both missing_header empty_header
        header_names_in_other_case body_reserialised expired just_within_tolerance
        from_the_future tampered_timestamp rotated_two_signatures two_signatures_neither_known
        unknown_version_first only_an_unknown_version timestamp_no_number timestamp_given_twice
    ]
    hook0 "hook0" [
        valid tampered_body wrong_secret rotated_receiver_holds_both missing_header empty_header
        header_names_in_other_case body_reserialised expired just_within_tolerance
        from_the_future tampered_timestamp tampered_covered_header covered_header_absent
    ]
    gocardless "gocardless" [
        valid tampered_body wrong_secret rotated_receiver_holds_both missing_header empty_header
        header_names_in_other_case body_reserialised a_year_later upper_case_hex
        truncated_signature
    ]
    razorpay "razorpay" [
        valid tampered_body wrong_secret rotated_receiver_holds_both missing_header empty_header
        header_names_in_other_case body_reserialised a_year_later upper_case_hex
        truncated_signature
    ]
    checkout_com "checkout.com" [
        valid tampered_body wrong_secret rotated_receiver_holds_both missing_header empty_header
        header_names_in_other_case body_reserialised a_year_later upper_case_hex
        truncated_signature
    ]
    coinbase_commerce "coinbase-commerce" [
        valid tampered_body wrong_secret rotated_receiver_holds_both missing_header empty_header
        header_names_in_other_case body_reserialised a_year_later upper_case_hex
        truncated_signature
    ]
    paystack "paystack" [
        valid tampered_body wrong_secret rotated_receiver_holds_both missing_header empty_header
        header_names_in_other_case body_reserialised a_year_later upper_case_hex
        truncated_signature
    ]
    github "github" [
        valid tampered_body wrong_secret rotated_receiver_holds_both missing_header empty_header
        header_names_in_other_case body_reserialised a_year_later upper_case_hex
        truncated_signature without_prefix
    ]
    shopify "shopify" [
        valid tampered_body wrong_secret rotated_receiver_holds_both missing_header empty_header
        header_names_in_other_case body_reserialised a_year_later
    ]
    flutterwave_v4 "flutterwave-v4" [
        valid tampered_body wrong_secret rotated_receiver_holds_both missing_header empty_header
        header_names_in_other_case body_reserialised a_year_later
    ]
    adyen_header "adyen-header" [
        valid tampered_body wrong_secret rotated_receiver_holds_both missing_header empty_header
        header_names_in_other_case body_reserialised a_year_later
    ]
    square "square" [
        valid tampered_body wrong_secret rotated_receiver_holds_both missing_header empty_header
        header_names_in_other_case body_reserialised a_year_later other_url
    ]
    standard_webhooks_v1a "standard-webhooks-v1a" [
        published valid tampered_body wrong_key expired from_the_future
        rotated_receiver_holds_both rotated_two_signatures beside_a_v1_signature
        under_the_name_v1 hmac_with_the_public_key tampered_id
    ]
    wise "wise" [
        valid tampered_body wrong_key rotated_receiver_holds_both test_notification a_year_later
        pss_instead_of_pkcs1
    ]
    circle "circle" [
        valid tampered_body wrong_key rotated_receiver_holds_both a_year_later
        raw_r_s_instead_of_der
    ]
    paypal "paypal" [
        valid tampered_body wrong_key expired rotated_receiver_holds_both other_webhook_id
        FORGED_body_with_the_same_crc32
    ]
    flutterwave_v3 "flutterwave-v3" [
        valid wrong_secret missing_header rotated_receiver_holds_both
        tampered_body_is_NOT_noticed prefix_of_the_secret
    ]
    gitlab "gitlab" [
        valid wrong_secret missing_header rotated_receiver_holds_both
        tampered_body_is_NOT_noticed prefix_of_the_secret
    ]
    basic "basic" [
        valid wrong_secret missing_header
    ]
    adyen_items "adyen-items" [
        valid tampered_body unsigned_field_tampered wrong_secret rotated_receiver_holds_both
        two_items_valid second_item_forged item_without_signature
    ]
    rfc9421 "rfc9421" [
        valid tampered_body tampered_body_and_digest wrong_key rotated_receiver_holds_both
        expired other_path missing_header digest_not_covered
    ]
}

#[test]
fn no_vector_is_left_out() {
    let ids: BTreeSet<_> = vectors().iter().map(|vector| vector.id.as_str()).collect();
    assert_eq!(ids, IDS.iter().copied().collect());
    assert_eq!(vectors().len(), 235);
}
