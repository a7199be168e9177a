//! MTN MoMo disbursements: OAuth2 with a second key in a header, our id as `X-Reference-Id`, an
//! empty 202, and callbacks that are not signed.
//!
//! Sources: momodeveloper.mtn.com; mtnmomo 3.0.1.

use serde_json::{Value, json};
use uuid::{Uuid, Version};

use super::{
    Asked, Content, Credentials, LookupBy, Notice, Order, Payment, Provider, Reaction, Repeat,
    Signing,
    asked::{is_currency, is_decimal, text},
    credentials::CLIENT_ID,
    json,
};

const TOKEN_PATH: &str = "/disbursement/token/";

pub(super) const DISBURSEMENT: Provider = Provider {
    name: "mtn-momo",
    token_path: Some(TOKEN_PATH),
    check,
    unauthorized: || json(401, json!({ "statusCode": 401, "message": "Access denied" })),
    // The gateway's answer, which is not the product's.
    no_route: || json(404, json!({ "statusCode": 404, "message": "Resource not found" })),
    create_path: "/disbursement/v1_0/transfer",
    content: Content::Json,
    order,
    created: |_, _| Reaction::status_code(202),
    repeat: Repeat::Refused(|_| error(409, "RESOURCE_ALREADY_EXIST", "Duplicated reference id.")),
    lookup_path: "/disbursement/v1_0/transfer/",
    lookup_by: LookupBy::Key,
    found: |payment, word| json(200, resource(payment, word)),
    absent: |_| error(404, "RESOURCE_NOT_FOUND", "Requested resource was not found."),
    id_prefix: "",
    words: ["PENDING", "SUCCESSFUL", "FAILED"],
    webhook: |payment, word, _| Notice {
        method: "PUT",
        content_type: "application/json",
        body: resource(payment, word).to_string(),
    },
    signing: Signing::Nothing,
    metadata: &[("msisdn", "46733123454")],
    values: |credentials| {
        vec![
            ("SECRETS__SUBSCRIPTION_KEY", credentials.subscription_key.clone()),
            ("SECRETS__CLIENT_ID", CLIENT_ID.to_owned()),
            ("SECRETS__CLIENT_SECRET", credentials.api_key.clone()),
            ("VARS__TARGET_ENVIRONMENT", "sandbox".to_owned()),
        ]
    },
};

fn error(code: u16, word: &str, message: &str) -> Reaction {
    json(code, json!({ "code": word, "message": message }))
}

fn check(asked: &Asked, credentials: &Credentials) -> Option<Reaction> {
    if asked.header("ocp-apim-subscription-key") != Some(&credentials.subscription_key) {
        let message = "Access denied due to invalid subscription key";
        return Some(json(401, json!({ "statusCode": 401, "message": message })));
    }
    let is_ours =
        asked.path == TOKEN_PATH || asked.header("x-target-environment") == Some("sandbox");
    let message = "Access to target environment is forbidden.";
    (!is_ours).then(|| error(500, "NOT_ALLOWED_TARGET_ENVIRONMENT", message))
}

fn order(asked: &Asked, body: &Value) -> Result<Order, Reaction> {
    let id = asked.header("x-reference-id").and_then(|id| id.parse::<Uuid>().ok());
    let id = id.filter(|id| id.get_version() == Some(Version::Random));
    let Some(id) = id else {
        let message = "X-Reference-Id must be a UUID of version 4";
        return Err(error(400, "INVALID_REFERENCE_ID", message));
    };
    let is_good = is_decimal(text(body, "/amount"))
        && is_currency(text(body, "/currency"))
        && !text(body, "/externalId").is_empty()
        && !text(body, "/payee/partyId").is_empty();
    if !is_good {
        return Err(error(400, "BAD_REQUEST", "The transfer is not complete"));
    }
    Ok(Order {
        key: Some(id.to_string()),
        reference: text(body, "/externalId").to_owned(),
        webhook_url: asked.header("x-callback-url").map(str::to_owned),
        body: body.clone(),
    })
}

fn resource(payment: &Payment, word: &str) -> Value {
    let mut resource = payment.order.body.clone();
    resource["status"] = word.into();
    if word == "FAILED" {
        resource["reason"] = "PAYEE_NOT_FOUND".into();
    }
    resource
}
