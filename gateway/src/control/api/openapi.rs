//! The OpenAPI document, made of the routes and of the schemas of what they take and give.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use super::routes::{Body, Reply, Route};
use super::{Problem, aliases, recovery, rotation, tables, tenants, traffic, views};
use crate::control::apply::{ApplyReport, ApplySpec};
use crate::control::bookmarks::{BookmarkSpec, SendSpec};
use crate::control::model::{ConnectionSpec, DestinationSpec, RetrySpec, SourceSpec, TenantSpec};
use crate::control::recovery::{JobSpec, ReplayJobSpec};
use crate::control::replay::ReplaySpec;
use crate::control::service::TenantPatch;
use crate::control::trial::TrySpec;
use crate::notices::Notice;

/// The document of these routes.
pub(super) fn document(routes: &[Route]) -> Value {
    let mut paths = Map::new();
    for route in routes {
        let item = paths.entry(route.path).or_insert_with(|| json!({}));
        item[route.method] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A tenant's key sees its tenant and nothing else. An operator's key names the tenant that a request is \
                for by `?tenant=` with its id or name. Listings have `limit` and `cursor`. Errors are problem details (RFC 9457).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}
        },
        "paths": paths,
        "webhooks": {"notice": {"post": notice()}},
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key: `tgk_...`"}}
        },
        "security": [{"key": []}]
    })
}

/// What receivers of notices are sent.
fn notice() -> Value {
    json!({
        "summary": "Tells what became of a destination, a plugin or a queue. Goes to where the connections of a tenant's source of the type \
            `notices` lead, signed as all their deliveries are (Standard Webhooks). The same `webhook-id` means the same notice.",
        "tags": ["notices"],
        "security": [],
        "requestBody": {"required": true, "content": {"application/json": {"schema": reference("Notice")}}},
        "responses": {"2XX": {"description": "Taken; anything else is tried again"}}
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "operationId": operation_id(route),
        "tags": [route.tag],
        "summary": route.summary,
        "parameters": parameters(route),
        "responses": responses(route),
    });
    match route.body {
        Body::None => {}
        Body::Json(schema) => {
            let schema = json!({"schema": reference(schema)});
            let mut content = json!({"application/json": schema});
            if route.method == "patch" {
                content["application/merge-patch+json"] = schema;
            }
            operation["requestBody"] = json!({"required": true, "content": content});
        }
        Body::Wasm => {
            let content = json!({"application/wasm": {"schema": {"type": "string", "contentMediaType": "application/wasm"}}});
            operation["requestBody"] = json!({"required": true, "content": content});
        }
        Body::Bytes => operation["requestBody"] = json!({"required": true, "content": {"*/*": {"schema": {}}}}),
        Body::Lines(schema) => {
            let content = json!({"application/x-ndjson": {"itemSchema": reference(schema)}});
            operation["requestBody"] = json!({"required": true, "content": content});
        }
    }
    if route.open {
        operation["security"] = json!([]);
    }
    operation
}

fn operation_id(route: &Route) -> String {
    let words = route.path.trim_start_matches("/v1/").replace(['{', '}'], "").replace(['/', '.', '-'], "_");
    format!("{}_{}", route.method, words.trim_matches('_'))
}

fn parameters(route: &Route) -> Vec<Value> {
    let in_path = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = in_path.map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    let in_query = route.query.iter().map(|name| {
        let (description, schema) = match *name {
            "tenant" => ("The tenant's id or name; needed with an operator's key.", json!({"type": "string"})),
            "limit" => ("Rows of a page.", json!({"type": "integer", "minimum": 1, "maximum": 200, "default": 50})),
            "cursor" => ("The `next` of the page before.", json!({"type": "string"})),
            "prefix" => ("Only keys that start with this.", json!({"type": "string"})),
            "ttl" => (
                "How long the entry lives, from 1 ms to 3650 days; for good without it.",
                json!({"type": "string", "examples": ["1h"]}),
            ),
            "event" => ("The event's id.", json!({"type": "string"})),
            "source" => ("Only of the source with this id or name.", json!({"type": "string"})),
            "destination" => ("Only to the destination with this id or name.", json!({"type": "string"})),
            "connection" => ("Only of the connection with this id or name.", json!({"type": "string"})),
            "since" => ("Only what was given up at this time or later.", json!({"type": "string", "format": "date-time"})),
            "until" => ("Only what was given up before this time.", json!({"type": "string", "format": "date-time"})),
            "code" => ("Only with this code, of the reason or of the last attempt.", json!({"type": "string", "maxLength": 64})),
            "party" => {
                ("Only by this one's fault.", json!({"type": "string", "enum": ["gateway", "plugin", "network", "destination"]}))
            }
            "status" => ("Only with this status of the last response.", json!({"type": "integer", "minimum": 100, "maximum": 599})),
            "target" => (
                "Within how many seconds a backlog is to be drained.",
                json!({"type": "integer", "minimum": 1, "maximum": 86400, "default": 60}),
            ),
            "reason" => ("Why, for the audit.", json!({"type": "string", "maxLength": 500})),
            "dry_run" => ("Only says what would be done.", json!({"type": "boolean", "default": false})),
            _ => ("Deletes what is not declared.", json!({"type": "boolean", "default": false})),
        };
        json!({"name": name, "in": "query", "required": *name == "event", "description": description, "schema": schema})
    });
    let again = (route.method == "post" && route.status == 201 && !matches!(route.body, Body::Wasm)).then(|| {
        json!({
            "name": "Idempotency-Key", "in": "header", "required": false, "schema": {"type": "string", "maxLength": 255},
            "description": "The same key with the same body gives the same answer for a day; with another body it is an error."
        })
    });
    in_path.chain(in_query).chain(again).collect()
}

fn responses(route: &Route) -> Value {
    let content = match route.reply {
        Reply::Nothing => None,
        Reply::Json(schema) => Some(json!({"application/json": {"schema": reference(schema)}})),
        Reply::AnyJson => Some(json!({"application/json": {"schema": {"type": "object"}}})),
        Reply::Bytes => Some(json!({"application/octet-stream": {"schema": {}}})),
        Reply::Text => Some(json!({"text/plain": {"schema": {"type": "string"}}})),
        Reply::Page(schema) => Some(json!({"application/json": {"schema": {
            "type": "object", "required": ["items", "next"],
            "properties": {"items": {"type": "array", "items": reference(schema)}, "next": {"type": ["string", "null"]}}
        }}})),
    };
    let mut done = json!({"description": "Done"});
    if let Some(content) = content {
        done["content"] = content;
    }
    let mut responses = json!({
        route.status.to_string(): done,
        "default": {
            "description": "What is wrong, and what would be right",
            "content": {"application/problem+json": {"schema": reference("Problem")}}
        }
    });
    if matches!(route.body, Body::Wasm) && route.status == 201 {
        responses["200"] = responses["201"].clone();
    }
    if route.path == "/readyz" {
        responses["503"] = responses["200"].clone();
    }
    responses
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn schemas() -> BTreeMap<String, Value> {
    let mut found = Vec::new();
    add::<Problem>(&mut found);
    add::<TenantSpec>(&mut found);
    add::<TenantPatch>(&mut found);
    add::<SourceSpec>(&mut found);
    add::<DestinationSpec>(&mut found);
    add::<ConnectionSpec>(&mut found);
    add::<ApplySpec>(&mut found);
    add::<ApplyReport>(&mut found);
    add::<tenants::KeySpec>(&mut found);
    add::<aliases::AliasSpec>(&mut found);
    add::<aliases::AliasPatch>(&mut found);
    add::<views::AliasView>(&mut found);
    add::<views::ShadowView>(&mut found);
    add::<ReplaySpec>(&mut found);
    add::<views::ReplayView>(&mut found);
    add::<TrySpec>(&mut found);
    add::<views::TriedView>(&mut found);
    add::<tables::TableLine>(&mut found);
    add::<tables::LoadedView>(&mut found);
    add::<views::TableEntryView>(&mut found);
    add::<views::TablesView>(&mut found);
    add::<rotation::RotateSpec>(&mut found);
    add::<rotation::RotatedView>(&mut found);
    add::<recovery::RetryDeadLettersSpec>(&mut found);
    add::<JobSpec>(&mut found);
    add::<ReplayJobSpec>(&mut found);
    add::<views::TenantView>(&mut found);
    add::<views::DeletionView>(&mut found);
    add::<views::KeyView>(&mut found);
    add::<views::MintedView>(&mut found);
    add::<views::PluginView>(&mut found);
    add::<views::VersionView>(&mut found);
    add::<views::ComponentView>(&mut found);
    add::<views::DestinationStatusView>(&mut found);
    add::<views::ScheduleView>(&mut found);
    add::<RetrySpec>(&mut found);
    add::<views::EventView>(&mut found);
    add::<views::DeliveryView>(&mut found);
    add::<views::DeadLetterView>(&mut found);
    add::<views::RetriedView>(&mut found);
    add::<views::RetryJobView>(&mut found);
    add::<views::ReplayJobView>(&mut found);
    add::<BookmarkSpec>(&mut found);
    add::<SendSpec>(&mut found);
    add::<views::BookmarkView>(&mut found);
    add::<views::SentView>(&mut found);
    add::<traffic::ShareSpec>(&mut found);
    add::<traffic::DiversionSpec>(&mut found);
    add::<views::TrafficView>(&mut found);
    add::<views::SettingView>(&mut found);
    add::<views::DiversionView>(&mut found);
    add::<views::TrafficChangeView>(&mut found);
    add::<views::SignalsView>(&mut found);
    add::<views::ScalingView>(&mut found);
    add::<views::HealthView>(&mut found);
    add::<Notice>(&mut found);
    let mut schemas: BTreeMap<String, Value> =
        found.into_iter().map(|(name, schema)| (name, serde_json::to_value(schema).expect("schemas are plain data"))).collect();
    for kind in ["Source", "Destination", "Connection"] {
        let spec = schemas[&format!("{kind}Spec")].clone();
        schemas.insert(format!("{kind}Patch"), patch(spec.clone()));
        schemas.insert(kind.to_owned(), view(spec, kind));
    }
    schemas
}

fn add<T: ToSchema + PartialSchema>(found: &mut Vec<(String, RefOr<Schema>)>) {
    found.push((T::name().into_owned(), T::schema()));
    T::schemas(found);
}

/// A spec of which nothing is needed, and where null takes a field away.
fn patch(mut spec: Value) -> Value {
    if let Some(map) = spec.as_object_mut() {
        map.remove("required");
    }
    if let Some(fields) = spec["properties"].as_object_mut() {
        for field in fields.values_mut() {
            *field = json!({"anyOf": [field.clone(), {"type": "null"}]});
        }
    }
    spec
}

/// A spec with what the gateway adds.
fn view(mut spec: Value, kind: &str) -> Value {
    let text = || json!({"type": "string"});
    let mut added = vec![("id", text()), ("created_at", text()), ("updated_at", text())];
    match kind {
        "Source" => added.push(("path", text())),
        "Destination" => added.push(("status", reference("DestinationStatusView"))),
        _ => {}
    }
    for (name, schema) in added {
        spec["properties"][name] = schema;
        if let Some(required) = spec["required"].as_array_mut() {
            required.push(name.into());
        }
    }
    if kind == "Destination" {
        spec["properties"]["public_keys"] = json!({"type": "array", "items": {"type": "string"}});
    }
    spec
}
