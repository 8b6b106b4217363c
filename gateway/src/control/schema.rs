//! Schemas that can't be derived.

use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

fn from_json(schema: serde_json::Value) -> RefOr<Schema> {
    serde_json::from_value(schema).expect("a test reads every schema")
}

fn secret_json() -> serde_json::Value {
    json!({
        "description": "Written as its text; shown as `{\"sealed\": true}`, which in a change means that it stays as it is.",
        "oneOf": [
            {"type": "string", "maxLength": 4096},
            {"type": "object", "required": ["sealed"], "properties": {"sealed": {"type": "boolean"}}, "additionalProperties": false}
        ]
    })
}

/// A secret.
pub(super) fn secret() -> RefOr<Schema> {
    from_json(secret_json())
}

/// Several secrets.
pub(super) fn secrets() -> RefOr<Schema> {
    from_json(json!({"type": "array", "items": secret_json()}))
}

/// Secrets by name.
pub(super) fn secret_map() -> RefOr<Schema> {
    from_json(json!({"type": "object", "additionalProperties": secret_json()}))
}

/// How a source's requests are verified: what [`super::model::SourceAuth`] reads.
pub(super) fn source_auth() -> RefOr<Schema> {
    let kind = |name: &str| json!({"type": "string", "enum": [name]});
    let keys = json!({"type": "array", "items": secret_json(), "minItems": 1, "maxItems": 8});
    let key_form = json!({"type": "string", "enum": ["text", "whsec", "base64", "hex"]});
    let variant = |required: &[&str], properties: serde_json::Value| json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false});
    let user = variant(&["username", "password"], json!({"username": {"type": "string"}, "password": secret_json()}));
    let timestamp = variant(
        &["header", "tolerance_s"],
        json!({
            "header": {"type": "string"}, "prefix": {"type": "string"},
            "unit": {"type": "string", "enum": ["seconds", "milliseconds"]}, "tolerance_s": {"type": "integer"}
        }),
    );
    let scheme = variant(
        &["header", "content", "encoding"],
        json!({
            "header": {"type": "string"}, "split": {"type": "string"}, "prefix": {"type": "string"},
            "content": {"type": "string", "description": "What is signed: text with `{body}`, `{timestamp}`, `{method}` and `{header:NAME}`."},
            "algorithm": {"type": "string", "enum": ["sha1", "sha256", "sha512"]},
            "encoding": {"type": "string", "enum": ["hex", "base64"]}, "key": key_form, "timestamp": timestamp
        }),
    );
    from_json(json!({
        "description": "How requests are verified.",
        "oneOf": [
            variant(&["type"], json!({"type": kind("none")})),
            variant(&["type"], json!({
                "type": {"type": "string", "enum": ["notices"], "description": "Takes the gateway's own notices (`Notice`) and nothing that is sent to it. A tenant has one."}
            })),
            variant(&["type", "keys"], json!({
                "type": kind("api_key"), "header": {"type": "string"}, "prefix": {"type": "string"},
                "query": {"type": "string"}, "keys": keys
            })),
            variant(&["type", "users"], json!({
                "type": kind("basic"), "users": {"type": "array", "items": user, "minItems": 1, "maxItems": 8}
            })),
            variant(&["type", "name", "secrets"], json!({
                "type": kind("preset"), "name": {"type": "string", "examples": ["github", "standard_webhooks"]},
                "secrets": keys, "tolerance_s": {"type": "integer"}, "key": key_form
            })),
            variant(&["type", "plugin"], json!({
                "type": kind("plugin"), "plugin": {"type": "string", "examples": ["own-scheme"]},
                "version": {"type": "string", "default": "latest"}, "config": {"type": "object"},
                "secrets": {"type": "object", "additionalProperties": secret_json()},
                "sign_only": {"type": "array", "items": {"type": "string"}},
                "limits": {"$ref": "#/components/schemas/LimitsSpec"}
            })),
            variant(&["type", "scheme", "secrets"], json!({"type": kind("hmac"), "scheme": scheme, "secrets": keys})),
        ]
    }))
}
