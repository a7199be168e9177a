//! Mollie payments: amounts in decimals, an idempotency key, lookups by Mollie's own id alone, and
//! webhooks that are a form with this id and prove nothing.
//!
//! Sources: docs.mollie.com; mollie-api-python 4.0.0. How long a key lives is not documented; an
//! hour is what its users report.

use std::time::Duration;

use serde_json::{Value, json};
use url::form_urlencoded;

use super::{
    Asked, Content, LookupBy, Notice, Order, Payment, Provider, Reaction, Repeat, Signing,
    asked::{is_currency, is_decimal, text},
    json, unchecked,
};

pub(super) const PAYMENTS: Provider = Provider {
    name: "mollie",
    token_path: None,
    check: unchecked,
    unauthorized: || problem(401, "Unauthorized Request"),
    no_route: || problem(404, "Not Found"),
    create_path: "/v2/payments",
    content: Content::Json,
    order,
    created: |payment, word| json(201, resource(payment, word)),
    repeat: Repeat::SameAnswer {
        lives: Duration::from_secs(3_600),
        other_body: None,
        running: None,
    },
    lookup_path: "/v2/payments/",
    lookup_by: LookupBy::OwnId,
    found: |payment, word| json(200, resource(payment, word)),
    absent: |_| problem(404, "Not Found"),
    id_prefix: "tr_",
    words: ["open", "paid", "failed"],
    webhook,
    signing: Signing::Nothing,
    metadata: &[],
    values: |credentials| {
        vec![
            ("SECRETS__TOKEN", credentials.api_key.clone()),
            ("VARS__REDIRECT", "https://shop.example/back".to_owned()),
        ]
    },
};

fn problem(code: u16, title: &str) -> Reaction {
    json(code, json!({ "status": code, "title": title }))
}

fn order(asked: &Asked, body: &Value) -> Result<Order, Reaction> {
    let amount = is_decimal(text(body, "/amount/value"));
    if !amount || !is_currency(text(body, "/amount/currency")) {
        return Err(problem(422, "Unprocessable Entity"));
    }
    if ["/description", "/redirectUrl"].iter().any(|field| text(body, field).is_empty()) {
        return Err(problem(422, "Unprocessable Entity"));
    }
    let key = asked.header("idempotency-key").map(str::to_owned);
    let named = text(body, "/metadata/quartet_id");
    let reference =
        if named.is_empty() { key.clone().unwrap_or_default() } else { named.to_owned() };
    let webhook_url = body["webhookUrl"].as_str().map(str::to_owned);
    Ok(Order { key, reference, webhook_url, body: body.clone() })
}

fn resource(payment: &Payment, word: &str) -> Value {
    let body = &payment.order.body;
    json!({
        "resource": "payment", "id": payment.id, "mode": "test", "status": word,
        "amount": body["amount"], "description": body["description"],
        "metadata": body["metadata"],
    })
}

fn webhook(payment: &Payment, _: &str, _: &str) -> Notice {
    let body =
        form_urlencoded::Serializer::new(String::new()).append_pair("id", &payment.id).finish();
    Notice { method: "POST", content_type: "application/x-www-form-urlencoded", body }
}
