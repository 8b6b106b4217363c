//! The OpenAPI document against the server: every operation it names is asked for, and what comes back is as it says.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tidegate_test_support::http::Reply;

use crate::contract::{Happened, happen};
use crate::schema::faults;
use crate::world::{OPERATOR, SECRETS, Tenant, World, destination, problem, source};

/// One request of each operation, in an order in which each can succeed.
fn requests(tenant: &Tenant, seen: &Happened) -> Vec<(&'static str, String, Option<Value>)> {
    let name = |text: &str| Some(json!({ "name": text }));
    let alias = format!("/v1/plugins/shape/versions/{}?tenant=acme", tenant.version);
    let (event, delivery) = (&seen.event, &seen.delivery);
    let mut requests: Vec<(&str, String, Option<Value>)> = vec![
        ("get_healthz", "/healthz".into(), None),
        ("get_readyz", "/readyz".into(), None),
        ("get_metrics", "/metrics".into(), None),
        ("get_openapi_json", "/openapi.json".into(), None),
        ("get_tenants", "/v1/tenants?limit=1".into(), None),
        ("post_tenants", "/v1/tenants".into(), name("more")),
        ("get_tenants_tenant", "/v1/tenants/more".into(), None),
        ("patch_tenants_tenant", "/v1/tenants/more".into(), Some(json!({"plan": {"weight": 3}}))),
        ("delete_tenants_tenant", "/v1/tenants/more".into(), None),
        ("get_keys", "/v1/keys?tenant=acme".into(), None),
        ("post_keys", "/v1/keys".into(), name("ops")),
        ("get_keys_key", format!("/v1/keys/{}", tenant.key_id), None),
        ("delete_keys_key", format!("/v1/keys/{}", tenant.key_id), None),
        ("post_apply", "/v1/apply?dry_run=true".into(), Some(json!({"tenants": [{"name": "acme", "sources": [source("in")]}]}))),
        ("get_plugins", "/v1/plugins?tenant=acme".into(), None),
        ("get_plugins_plugin", "/v1/plugins/shape?tenant=acme".into(), None),
        ("get_plugins_plugin_versions", "/v1/plugins/shape/versions?tenant=acme".into(), None),
        ("post_plugins_plugin_versions", "/v1/plugins/shape/versions?tenant=acme".into(), None),
        ("get_plugins_plugin_versions_version", alias.clone(), None),
        (
            "put_plugins_plugin_aliases_alias",
            "/v1/plugins/shape/aliases/stable?tenant=acme".into(),
            Some(json!({"version": "latest"})),
        ),
        (
            "patch_plugins_plugin_aliases_alias",
            "/v1/plugins/shape/aliases/stable?tenant=acme".into(),
            Some(
                json!({"canary": {"version": tenant.version, "percent": 12.5}, "shadow": {"version": tenant.version, "percent": 0.01}}),
            ),
        ),
        ("get_plugins_plugin_aliases_alias_shadow", "/v1/plugins/shape/aliases/stable/shadow?tenant=acme".into(), None),
        (
            "post_plugins_plugin_replay",
            "/v1/plugins/shape/replay?tenant=acme".into(),
            Some(json!({"version": "latest", "against": tenant.version, "connection": "through", "since": "2026-01-01T00:00:00Z"})),
        ),
        ("get_plugins_plugin_aliases_alias", "/v1/plugins/shape/aliases/stable?tenant=acme".into(), None),
        ("post_plugins_plugin_aliases_alias_promote", "/v1/plugins/shape/aliases/stable/promote?tenant=acme".into(), None),
        ("post_plugins_plugin_aliases_alias_rollback", "/v1/plugins/shape/aliases/stable/rollback?tenant=acme".into(), None),
        (
            "post_plugins_plugin_versions_version_try",
            "/v1/plugins/shape/versions/stable/try?tenant=acme".into(),
            Some(json!({"request": {"headers": [{"name": "X-Raw", "value_base64": "/w=="}], "json": {"a": 1}}})),
        ),
        ("delete_plugins_plugin_aliases_alias", "/v1/plugins/shape/aliases/stable?tenant=acme".into(), None),
        ("delete_plugins_plugin_versions_version", alias, None),
        ("put_plugins_plugin_table_key", "/v1/plugins/shape/table/a%2Fb?tenant=acme&ttl=1h".into(), None),
        ("post_plugins_plugin_table", "/v1/plugins/shape/table?tenant=acme".into(), None),
        ("get_plugins_plugin_table", "/v1/plugins/shape/table?tenant=acme&prefix=a&limit=3".into(), None),
        ("get_plugins_plugin_table_key", "/v1/plugins/shape/table/a%2Fb?tenant=acme".into(), None),
        ("delete_plugins_plugin_table_key", "/v1/plugins/shape/table/a%2Fb?tenant=acme".into(), None),
        ("post_components", "/v1/components".into(), None),
        ("get_events", "/v1/events?tenant=acme".into(), None),
        ("get_events_event", format!("/v1/events/{event}?tenant=acme"), None),
        ("get_events_event_deliveries_delivery", format!("/v1/events/{event}/deliveries/{delivery}?tenant=acme"), None),
        ("get_deliveries", format!("/v1/deliveries?tenant=acme&event={event}"), None),
        (
            "post_destinations_destination_rotate_secret",
            "/v1/destinations/out/rotate-secret?tenant=acme".into(),
            Some(json!({"overlap": "1h", "kind": "ed25519"})),
        ),
        ("get_dead_letters", "/v1/dead-letters?tenant=acme&source=in&party=destination&status=500&limit=2".into(), None),
        (
            "post_dead_letters_retry_jobs",
            "/v1/dead-letters/retry-jobs?tenant=acme".into(),
            Some(
                json!({"filter": {"destination": "out", "since": "2026-01-01T00:00:00Z", "code": "status"}, "rate": 5, "dry_run": true}),
            ),
        ),
        ("get_dead_letters_retry_jobs", "/v1/dead-letters/retry-jobs?tenant=acme".into(), None),
        ("get_dead_letters_retry_jobs_job", "/v1/dead-letters/retry-jobs/{job}?tenant=acme".into(), None),
        ("delete_dead_letters_retry_jobs_job", "/v1/dead-letters/retry-jobs/{job}?tenant=acme".into(), None),
        (
            "post_replay_jobs",
            "/v1/replay-jobs?tenant=acme".into(),
            Some(json!({
                "connection": "through", "rate": 5, "dry_run": true,
                "filter": {"source": "in", "since": "2026-01-01T00:00:00Z", "state": "delivered", "ids": [event]},
            })),
        ),
        ("get_replay_jobs", "/v1/replay-jobs?tenant=acme".into(), None),
        ("get_replay_jobs_job", "/v1/replay-jobs/{job}?tenant=acme".into(), None),
        ("delete_replay_jobs_job", "/v1/replay-jobs/{job}?tenant=acme".into(), None),
        ("post_bookmarks", "/v1/bookmarks?tenant=acme".into(), Some(json!({"name": "one", "event": event, "note": "for tests"}))),
        ("get_bookmarks", "/v1/bookmarks?tenant=acme".into(), None),
        ("get_bookmarks_bookmark", "/v1/bookmarks/one?tenant=acme".into(), None),
        ("post_bookmarks_bookmark_send", "/v1/bookmarks/one/send?tenant=acme".into(), Some(json!({"connection": "through"}))),
        ("delete_bookmarks_bookmark", "/v1/bookmarks/one?tenant=acme".into(), None),
        ("post_dead_letters_retry", "/v1/dead-letters/retry?tenant=acme".into(), Some(json!({ "ids": [delivery] }))),
        ("post_events_event_retry", format!("/v1/events/{event}/retry?tenant=acme"), None),
        ("put_traffic_lanes_lane", "/v1/traffic/lanes/low".into(), Some(json!({"percent": 20, "reason": "slow"}))),
        ("put_traffic_retries", "/v1/traffic/retries".into(), Some(json!({"percent": 0}))),
        ("put_traffic_shards_shard", "/v1/traffic/shards/1".into(), Some(json!({"percent": 50}))),
        ("put_traffic_diversions_tenant_or_source", "/v1/traffic/diversions/acme".into(), Some(json!({"reason": "a storm"}))),
        ("get_traffic", "/v1/traffic".into(), None),
        ("delete_traffic_diversions_tenant_or_source", "/v1/traffic/diversions/acme?reason=over".into(), None),
        ("delete_traffic_diversions_tenant_or_source", "/v1/traffic/diversions/acme%2Fin".into(), None),
        ("get_signals", "/v1/signals".into(), None),
        ("get_scaling", "/v1/scaling?target=30".into(), None),
        ("get_traffic_audit", "/v1/traffic/audit?limit=2".into(), None),
    ];
    let hmac = json!({"name": "new", "dedup": {"pointer": "/id"}, "methods": ["POST"], "auth": {
        "type": "hmac", "secrets": [SECRETS[0]],
        "scheme": {"header": "x-s", "content": "{timestamp}.{body}", "encoding": "hex", "timestamp": {"header": "x-t", "tolerance_s": 60}}
    }});
    let through = json!({
        "name": "new", "source": "in", "destination": "out", "retry": {"max_attempts": 3},
        "plugins": [{"plugin": "shape", "limits": {"memory": "4MiB", "time": "50ms"}, "secrets": {"a": "b"}, "sign_only": ["a"]}]
    });
    let mut limited = destination("new");
    limited["rate"] = json!({"limit": 100, "per": "minute"});
    limited["order"] = json!({"by": "header", "name": "x-account"});
    limited["circuit_breaker"] = json!({"percent": 50, "pause": "2s"});
    limited["retry"] = json!({"backoff": "linear", "jitter": "equal", "on": [{"status": "500-502", "do": "retry"}]});
    for (kind, plural, id, body) in [
        ("source", "sources", &tenant.source, hmac),
        ("destination", "destinations", &tenant.destination, limited),
        ("connection", "connections", &tenant.connection, through),
    ] {
        let (all, one) = (format!("/v1/{plural}?tenant=acme"), format!("/v1/{plural}/{id}?tenant=acme"));
        let named = |method: &str, suffix: &str| -> &'static str { format!("{method}_{plural}{suffix}").leak() };
        let suffix = format!("_{kind}");
        requests.push((named("post", ""), all.clone(), Some(body)));
        requests.push((named("get", ""), all, None));
        requests.push((named("get", &suffix), one.clone(), None));
        let mut change = json!({"enabled": false});
        if kind == "destination" {
            change["batch"] = json!({"format": "ndjson", "max_bytes": "64KiB", "max_wait": "1s"});
        }
        requests.push((named("patch", &suffix), one, Some(change)));
    }
    for (kind, plural) in [("connection", "connections"), ("source", "sources"), ("destination", "destinations")] {
        let doomed = format!("/v1/{plural}/new?tenant=acme");
        requests.push((format!("delete_{plural}_{kind}").leak(), doomed, None));
    }
    let connection = format!("/v1/connections/{}/schedule?tenant=acme", tenant.connection);
    let schedule = "/v1/destinations/out/schedule?tenant=acme";
    let draft = json!({"backoff": "list", "delays": ["10s", "1m"], "jitter": 0.5, "on": [{"status": "4xx", "do": "dead_letter"}]});
    requests.insert(0, ("get_connections_connection_schedule", connection, None));
    requests.insert(0, ("get_destinations_destination_schedule", schedule.into(), None));
    requests.insert(0, ("post_destinations_destination_schedule", schedule.into(), Some(draft)));
    requests.insert(0, ("post_destinations_destination_enable", "/v1/destinations/out/enable?tenant=acme".into(), None));
    requests.push(("delete_connections_connection", "/v1/connections/through?tenant=acme".into(), None));
    requests.push(("delete_plugins_plugin", "/v1/plugins/shape?tenant=acme".into(), None));
    requests
}

fn check(document: &Value, operation: &Value, what: &str, sent: Option<&Value>, reply: &Reply) {
    let assert_valid = |schema: &Value, value: &Value, side: &str| {
        let errors = faults(document, schema, value);
        assert!(errors.is_empty(), "{what}: {side}: {errors:#?}\n{value:#}");
    };
    if let Some(sent) = sent {
        assert_valid(&operation["requestBody"]["content"]["application/json"]["schema"], sent, "request");
    }
    let response = &operation["responses"][reply.status.to_string()];
    assert!(response.is_object(), "{what}: status {} is not described: {:?}", reply.status, reply.body);
    let Some(content) = response["content"].as_object() else {
        assert!(reply.body.is_empty(), "{what}: no content is described");
        return;
    };
    let content_type = reply.header("content-type").unwrap().split(';').next().unwrap();
    let described = content.get(content_type).unwrap_or_else(|| panic!("{what}: {content_type} is not described"));
    if content_type == "application/json" {
        assert_valid(&described["schema"], &reply.json(), "response");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_answers_as_the_document_says() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let seen = happen(&world, &tenant).await;
    let document: Value = world.raw("GET", "/openapi.json", &[], "").await.json();
    assert_eq!(document, tidegate::control::api::openapi(), "the same document with and without a server");
    let mut operations = std::collections::BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(operations.insert(id.clone(), (path, method, operation)).is_none(), "{id} twice");
        }
    }
    let mut asked = BTreeSet::new();
    let mut job = String::new();
    for (id, path, body) in requests(&tenant, &seen) {
        let path = path.replace("{job}", &job);
        let (_, method, operation) = operations.get(id).unwrap_or_else(|| panic!("{id} is not in the document"));
        let reply = match id {
            "post_plugins_plugin_versions" => world.upload(OPERATOR, &path, b"transform newer").await,
            "post_plugins_plugin_table" => {
                let bearer = format!("Bearer {OPERATOR}");
                let headers = [("authorization", bearer.as_str()), ("content-type", "application/x-ndjson")];
                world.raw("POST", &path, &headers, "{\"key\": \"abc\", \"value\": [1], \"ttl\": \"1h\"}").await
            }
            "post_components" => world.upload(OPERATOR, &path, b"filter").await,
            _ => world.send(OPERATOR, &method.to_uppercase(), &path, body.as_ref()).await,
        };
        assert!((200..300).contains(&reply.status), "{id}: {} {:?}", reply.status, reply.body);
        check(&document, operation, id, body.as_ref(), &reply);
        if matches!(id, "post_dead_letters_retry_jobs" | "post_replay_jobs") {
            job = reply.json()["id"].as_str().unwrap().to_owned();
        }
        asked.insert(id.to_owned());
    }
    let missing: Vec<_> = operations.keys().filter(|id| !asked.contains(*id)).collect();
    assert!(missing.is_empty(), "described and not asked for: {missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_in_the_document_and_what_is_not_is_refused() {
    let world = World::start().await;
    let document = tidegate::control::api::openapi();
    let problem_schema = json!({"$ref": "#/components/schemas/Problem"});
    for (path, item) in document["paths"].as_object().unwrap() {
        let path: String = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect::<Vec<_>>().join("/");
        for method in ["get", "post", "put", "patch", "delete"] {
            if item.get(method).is_none() {
                let refused = problem(&world.send(OPERATOR, &method.to_uppercase(), &path, None).await, 405);
                assert_eq!(faults(&document, &problem_schema, &refused), [""; 0], "{refused}");
            }
        }
    }
    // The router is made of the document's own list, and by nothing else.
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/control");
    let mut files = vec![sources.join("api.rs")];
    for directory in ["api", "api/views"] {
        let entries = std::fs::read_dir(sources.join(directory)).unwrap().map(|entry| entry.unwrap().path());
        files.extend(entries.filter(|path| path.is_file()));
    }
    let routed: usize = files.iter().map(|file| std::fs::read_to_string(file).unwrap().matches(".route(").count()).sum();
    assert_eq!(routed, 1, "routes are added in one place, from the list");
}
