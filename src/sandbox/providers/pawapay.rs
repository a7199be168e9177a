//! pawaPay v2 payouts: 200 to everything, with what it means in the body; our id as `payoutId`; and
//! callbacks with HTTP message signatures.
//!
//! Source: docs.pawapay.io.

use serde_json::{Value, json};
use uuid::{Uuid, Version};

use super::{
    Asked, Content, LookupBy, Notice, Order, Payment, Provider, Reaction, Repeat, Signing,
    asked::{is_currency, is_decimal, text},
    json, token_alone, unchecked,
};

pub(super) const PAYOUTS: Provider = Provider {
    name: "pawapay",
    token_path: None,
    check: unchecked,
    unauthorized: || failure(401, "AUTHENTICATION_ERROR"),
    no_route: || json(404, json!({ "status": 404, "error": "Not Found" })),
    create_path: "/v2/payouts",
    content: Content::Json,
    order,
    created: |payment, _| answer(&payment.id, "ACCEPTED"),
    repeat: Repeat::Refused(|payment| answer(&payment.id, "DUPLICATE_IGNORED")),
    lookup_path: "/v2/payouts/",
    lookup_by: LookupBy::Key,
    found: |payment, word| json(200, json!({ "status": "FOUND", "data": resource(payment, word) })),
    absent: |_| json(200, json!({ "status": "NOT_FOUND" })),
    id_prefix: "",
    words: ["PROCESSING", "COMPLETED", "FAILED"],
    webhook: |payment, word, _| Notice {
        method: "POST",
        content_type: "application/json",
        body: resource(payment, word).to_string(),
    },
    signing: Signing::MessageSignature,
    metadata: &[("msisdn", "260763456789"), ("provider", "MTN_MOMO_ZMB")],
    values: |credentials| {
        let mut values = token_alone(credentials);
        values.push(("SECRETS__WEBHOOK", credentials.public_key()));
        values
    },
};

fn answer(id: &str, word: &str) -> Reaction {
    json(200, json!({ "payoutId": id, "status": word }))
}

fn failure(code: u16, word: &str) -> Reaction {
    json(code, json!({ "failureReason": { "failureCode": word } }))
}

fn order(_: &Asked, body: &Value) -> Result<Order, Reaction> {
    let id = text(body, "/payoutId");
    let parsed = id.parse().ok().filter(|id: &Uuid| id.get_version() == Some(Version::Random));
    if parsed.is_none() {
        return Err(failure(400, "INVALID_INPUT"));
    }
    let rejected = |word: &str| {
        let reason = json!({ "failureCode": word });
        Err(json(200, json!({ "payoutId": id, "status": "REJECTED", "failureReason": reason })))
    };
    if !is_decimal(text(body, "/amount")) {
        return rejected("INVALID_AMOUNT");
    }
    if !is_currency(text(body, "/currency")) {
        return rejected("INVALID_CURRENCY");
    }
    let details = &body["recipient"]["accountDetails"];
    if text(details, "/phoneNumber").is_empty() || text(details, "/provider").is_empty() {
        return rejected("INVALID_PHONE_NUMBER");
    }
    let (key, reference) = (Some(id.to_owned()), id.to_owned());
    Ok(Order { key, reference, webhook_url: None, body: body.clone() })
}

fn resource(payment: &Payment, word: &str) -> Value {
    let mut resource = payment.order.body.clone();
    resource["status"] = word.into();
    resource
}
