//! GoCardless outbound payments: wrapped in the resource's name, an idempotency key whose repeat is
//! a conflict with a link, lookups by GoCardless's own id alone, and signed webhooks without a
//! status.
//!
//! Sources: gocardless_pro 3.22.0; developer.gocardless.com.

use ring::hmac;
use serde_json::{Value, json};

use super::{
    Asked, Content, Credentials, LookupBy, Notice, Order, Payment, Provider, Reaction, Repeat,
    Signing, asked::text, json, token_and_webhook,
};

pub(super) const OUTBOUND: Provider = Provider {
    name: "gocardless-outbound",
    token_path: None,
    check,
    unauthorized: || error(401, "invalid_api_usage", "access_token_not_found"),
    no_route: || error(404, "invalid_api_usage", "resource_not_found"),
    create_path: "/outbound_payments",
    content: Content::Json,
    order,
    created: |payment, word| json(201, resource(payment, word)),
    repeat: Repeat::Refused(|payment| {
        json(
            409,
            json!({ "error": { "type": "invalid_state", "code": 409, "errors": [{
            "reason": "idempotent_creation_conflict",
            "message": "A resource has already been created with this idempotency key",
            "links": { "conflicting_resource_id": payment.id },
        }] } }),
        )
    }),
    lookup_path: "/outbound_payments/",
    lookup_by: LookupBy::OwnId,
    found: |payment, word| json(200, resource(payment, word)),
    absent: |_| error(404, "invalid_api_usage", "resource_not_found"),
    id_prefix: "OUT",
    words: ["verifying", "executed", "failed"],
    webhook,
    signing: Signing::Hmac {
        header: "webhook-signature",
        algorithm: hmac::HMAC_SHA256,
        is_api_key: false,
    },
    metadata: &[("bank_account", "BA123")],
    values: token_and_webhook,
};

fn error(code: u16, kind: &str, reason: &str) -> Reaction {
    json(code, json!({ "error": { "type": kind, "code": code, "errors": [{ "reason": reason }] } }))
}

fn check(asked: &Asked, _: &Credentials) -> Option<Reaction> {
    let is_there = asked.header("gocardless-version").is_some();
    (!is_there).then(|| error(400, "invalid_api_usage", "missing_version_header"))
}

fn order(asked: &Asked, body: &Value) -> Result<Order, Reaction> {
    let fields = &body["outbound_payments"];
    let account = text(fields, "/links/recipient_bank_account");
    let metadata = fields["metadata"].as_object();
    let is_good = fields["amount"].as_u64().is_some_and(|amount| amount > 0)
        && !text(fields, "/scheme").is_empty()
        && account.starts_with("BA")
        && metadata.is_none_or(|metadata| metadata.len() <= 3);
    if !is_good {
        return Err(error(422, "validation_failed", "is_invalid"));
    }
    let key = asked.header("idempotency-key").map(str::to_owned);
    let named = text(fields, "/metadata/quartet_id");
    let reference =
        if named.is_empty() { key.clone().unwrap_or_default() } else { named.to_owned() };
    Ok(Order { key, reference, webhook_url: None, body: fields.clone() })
}

fn resource(payment: &Payment, word: &str) -> Value {
    let body = &payment.order.body;
    json!({ "outbound_payments": {
        "id": payment.id, "status": word, "amount": body["amount"], "scheme": body["scheme"],
        "metadata": body["metadata"], "links": body["links"],
    } })
}

fn webhook(payment: &Payment, word: &str, event_id: &str) -> Notice {
    let body = json!({
        "events": [{
            "id": format!("EV{event_id}"), "resource_type": "outbound_payments", "action": word,
            "links": { "outbound_payment": payment.id },
        }],
        "meta": { "webhook_id": format!("WB{event_id}") },
    });
    Notice { method: "POST", content_type: "application/json", body: body.to_string() }
}
