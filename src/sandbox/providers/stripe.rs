//! Stripe payouts: a form, an idempotency key, and lookups by Stripe's own id alone.
//!
//! Sources: stripe-python 16.1.0; docs.stripe.com on payouts, idempotent requests and webhooks.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Asked, Content, LookupBy, Notice, Order, Payment, Provider, Reaction, Repeat, Signing,
    asked::text, json, token_and_webhook, unchecked,
};

pub(super) const PAYOUTS: Provider = Provider {
    name: "stripe-payouts",
    token_path: None,
    check: unchecked,
    unauthorized: || error(401, "invalid_request_error", "Invalid API Key provided"),
    no_route: || error(404, "invalid_request_error", "Unrecognized request URL"),
    create_path: "/v1/payouts",
    content: Content::Form,
    order,
    created: |payment, word| json(200, payout(payment, word)),
    repeat: Repeat::SameAnswer {
        lives: Duration::from_secs(24 * 3_600),
        other_body: Some(|| {
            error(400, "idempotency_error", "Keys can only be used with the same parameters")
        }),
        running: Some(|| {
            error(409, "idempotency_error", "Another request with this key is in progress")
        }),
    },
    lookup_path: "/v1/payouts/",
    lookup_by: LookupBy::OwnId,
    found: |payment, word| json(200, payout(payment, word)),
    absent: |id| {
        json(
            404,
            json!({ "error": {
            "code": "resource_missing", "type": "invalid_request_error",
            "message": format!("No such payout: '{id}'"),
        } }),
        )
    },
    id_prefix: "po_",
    words: ["pending", "paid", "failed"],
    webhook,
    signing: Signing::TimeAndBody { header: "stripe-signature" },
    metadata: &[],
    values: token_and_webhook,
};

const REFERENCE: &str = "metadata[quartet_id]";

fn error(code: u16, kind: &str, message: &str) -> Reaction {
    json(code, json!({ "error": { "type": kind, "message": message } }))
}

fn order(asked: &Asked, body: &Value) -> Result<Order, Reaction> {
    let is_amount = text(body, "/amount").parse().is_ok_and(|amount: u64| amount > 0);
    let currency = text(body, "/currency");
    if !is_amount || currency.len() != 3 {
        return Err(error(400, "invalid_request_error", "amount and currency are required"));
    }
    let key = asked.header("idempotency-key").map(str::to_owned);
    if key.as_ref().is_some_and(|key| key.len() > 255) {
        return Err(error(400, "invalid_request_error", "The idempotency key is too long"));
    }
    let named = body[REFERENCE].as_str().map(str::to_owned);
    let reference = named.or_else(|| key.clone()).unwrap_or_default();
    Ok(Order { key, reference, webhook_url: None, body: body.clone() })
}

fn payout(payment: &Payment, word: &str) -> Value {
    let body = &payment.order.body;
    json!({
        "id": payment.id, "object": "payout", "status": word,
        "amount": text(body, "/amount").parse::<u64>().ok(),
        "currency": body["currency"],
        "metadata": { "quartet_id": body[REFERENCE] },
    })
}

fn webhook(payment: &Payment, word: &str, event_id: &str) -> Notice {
    let kind = if word == "pending" { "payout.updated" } else { &format!("payout.{word}") };
    let event = json!({
        "id": format!("evt_{event_id}"), "object": "event", "type": kind,
        "data": { "object": payout(payment, word) },
    });
    Notice { method: "POST", content_type: "application/json", body: event.to_string() }
}
