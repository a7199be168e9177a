//! Paystack transfers: our id as `reference`, a repeat refused with 400, and webhooks signed with
//! the API key.
//!
//! Sources: PaystackOSS/openapi; paystack.com/docs. The codes of the two errors were not verified.

use ring::hmac;
use serde_json::{Value, json};

use super::{
    Asked, Content, LookupBy, Notice, Order, Payment, Provider, Reaction, Repeat, Signing,
    asked::text, json, unchecked,
};

pub(super) const TRANSFERS: Provider = Provider {
    name: "paystack",
    token_path: None,
    check: unchecked,
    unauthorized: || error(401, "invalid_Key", "Invalid key"),
    no_route: || json(404, json!({ "status": false, "message": "Route not found" })),
    create_path: "/transfer",
    content: Content::Json,
    order,
    created: |payment, word| {
        let message = "Transfer has been queued";
        json(200, json!({ "status": true, "message": message, "data": resource(payment, word) }))
    },
    repeat: Repeat::Refused(|_| {
        error(400, "duplicate_transfer_reference", "Please provide a unique reference")
    }),
    lookup_path: "/transfer/verify/",
    lookup_by: LookupBy::Key,
    found: |payment, word| {
        let message = "Transfer retrieved";
        json(200, json!({ "status": true, "message": message, "data": resource(payment, word) }))
    },
    absent: |_| error(404, "transfer_not_found", "Transfer not found"),
    id_prefix: "",
    words: ["pending", "success", "failed"],
    webhook,
    signing: Signing::Hmac {
        header: "x-paystack-signature",
        algorithm: hmac::HMAC_SHA512,
        is_api_key: true,
    },
    metadata: &[("recipient", "RCP_sandbox")],
    values: |credentials| {
        let key = || credentials.api_key.clone();
        vec![("SECRETS__TOKEN", key()), ("SECRETS__WEBHOOK", key())]
    },
};

fn error(code: u16, word: &str, message: &str) -> Reaction {
    json(code, json!({ "status": false, "code": word, "message": message }))
}

fn order(_: &Asked, body: &Value) -> Result<Order, Reaction> {
    let reference = text(body, "/reference");
    let is_allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    if !(16..=50).contains(&reference.len()) || !reference.bytes().all(is_allowed) {
        return Err(error(400, "invalid_params", "reference is not valid"));
    }
    let is_good = body["amount"].as_u64().is_some_and(|amount| amount > 0)
        && text(body, "/source") == "balance"
        && text(body, "/recipient").starts_with("RCP_");
    if !is_good {
        return Err(error(400, "invalid_params", "amount, source and recipient are required"));
    }
    let (key, reference) = (Some(reference.to_owned()), reference.to_owned());
    Ok(Order { key, reference, webhook_url: None, body: body.clone() })
}

fn resource(payment: &Payment, word: &str) -> Value {
    let body = &payment.order.body;
    json!({
        "transfer_code": format!("TRF_{}", payment.id.replace('-', "")), "status": word,
        "reference": payment.id, "amount": body["amount"], "currency": body["currency"],
    })
}

fn webhook(payment: &Payment, word: &str, _: &str) -> Notice {
    let body = json!({ "event": format!("transfer.{word}"), "data": resource(payment, word) });
    Notice { method: "POST", content_type: "application/json", body: body.to_string() }
}
