//! The call that Quartet makes to a client: OpenAPI's `callbacks` of a post.

use serde_json::{Value, json};

use crate::signature::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER};

/// The name of the body's schema.
pub const SCHEMA: &str = "StatusNotification";

/// The `PUT` to the client's callback URL.
pub fn callbacks() -> Value {
    let header = |name: &str, description: &str| {
        json!({
            "name": name,
            "in": "header",
            "required": true,
            "description": description,
            "schema": { "type": "string" },
        })
    };
    json!({
        "statusChanged": {
            // The URL is registered with the client's key: no request has it.
            "https://client.example/callback": {
                "put": {
                    "summary": "Notify the client of a status.",
                    "description": "Sent to your callback URL when the status changes, and with \
                        `pending` first where nothing better is known soon. It is sent again, \
                        after growing waits, until it is answered 2xx.",
                    "operationId": "notify_client",
                    "parameters": [
                        header(ID_HEADER, "`{id}_{version}`; a repeat carries the same one."),
                        header(TIMESTAMP_HEADER, "Unix seconds at which it was sent."),
                        header(
                            SIGNATURE_HEADER,
                            "Standard Webhooks: `v1,` and the base64 of the HMAC-SHA256 of \
                             `{webhook-id}.{webhook-timestamp}.{body}`; several are separated by \
                             spaces, and any that matches will do.",
                        ),
                    ],
                    "requestBody": {
                        "required": true,
                        "content": {
                            "application/json": {
                                "schema": { "$ref": format!("#/components/schemas/{SCHEMA}") },
                            },
                        },
                    },
                    "responses": {
                        "200": { "description": "Received. Any other 2xx will do." },
                        "410": { "description": "No more notifications of this transaction." },
                        "503": { "description": "Not now; `Retry-After` is honoured." },
                    },
                },
            },
        },
    })
}

/// The body of that call.
pub fn schema() -> Value {
    json!({
        "type": "object",
        "title": SCHEMA,
        "description": "The body of a notification.",
        "required": ["id", "status", "version", "occurred_at"],
        "properties": {
            "id": { "type": "string", "format": "uuid", "description": "The id you posted." },
            "status": {
                "allOf": [{ "$ref": "#/components/schemas/TransactionStatus" }],
                "description": "The present status.",
            },
            "version": {
                "type": "integer",
                "format": "int32",
                "description": "Grows by one with each status change: ignore a lower one than \
                    you have.",
            },
            "occurred_at": {
                "type": "string",
                "format": "date-time",
                "description": "When the transaction took this status.",
            },
        },
    })
}
