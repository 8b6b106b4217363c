//! Bad input: each error names the field and what would be right.

use serde_json::{Value, json};

use crate::world::{OPERATOR, SECRETS, World, destination, problem, source};

fn with(mut base: Value, field: &str, value: Value) -> Value {
    base[field] = value;
    base
}

/// Status, path, body, the field that is named, and a part of what is said of it.
fn table() -> Vec<(u16, &'static str, Value, &'static str, &'static str)> {
    let (source, destination) =
        (|field: &str, value| with(source("s"), field, value), |field: &str, value| with(destination("d"), field, value));
    let batch = |field: &str, value| destination("batch", with(json!({"format": "json_array"}), field, value));
    let batched = |field: &str, value| with(destination("batch", json!({"format": "json_array"})), field, value);
    let connection = |field: &str, value| with(json!({"name": "c", "source": "in", "destination": "out"}), field, value);
    let plugin = |field: &str, value: Value| connection("plugins", json!([with(json!({"plugin": "shape"}), field, value)]));
    let (s, d, c) = ("/v1/sources?tenant=acme", "/v1/destinations?tenant=acme", "/v1/connections?tenant=acme");
    let (j, r) = ("/v1/dead-letters/retry-jobs?tenant=acme", "/v1/replay-jobs?tenant=acme");
    vec![
        (400, s, source("colour", json!("red")), "colour", "expected one of"),
        (422, s, source("name", json!("")), "name", "1 to 64 letters"),
        (422, s, source("name", json!("src_x")), "name", "like an id"),
        (422, s, source("name", json!("a/b")), "name", "1 to 64 letters"),
        (400, s, source("max_body", json!("lots")), "max_body", "\"1MiB\""),
        (422, s, source("max_body", json!(0)), "max_body", "from 1 to"),
        (422, s, source("methods", json!([])), "methods", "left out for any"),
        (422, s, source("methods", json!(["GE T"])), "methods[0]", "like \"POST\""),
        (422, s, source("dedup", json!({})), "dedup", "exactly one of"),
        (422, s, source("dedup", json!({"header": "a b"})), "dedup.header", "header's name"),
        (422, s, source("dedup", json!({"pointer": "id"})), "dedup.pointer", "\"/data/id\""),
        (422, s, source("dedup", json!({"header": "x", "window": "1year"})), "dedup.window", "7days"),
        (400, s, source("dedup", json!({"header": "x", "window": "soon"})), "dedup.window", "\"30s\""),
        (422, s, source("auth", json!({"type": "preset", "name": "nobody", "secrets": ["x"]})), "auth", "there are github"),
        (422, s, source("auth", json!({"type": "preset", "name": "github", "secrets": []})), "auth", "1 to"),
        (400, s, source("auth", json!({"type": "magic"})), "auth.type", "expected one of"),
        (400, s, source("auth", json!({"type": "plugin"})), "auth", "missing field `plugin`"),
        (422, s, source("auth", json!({"type": "plugin", "plugin": "nobody"})), "auth.plugin", "it has `shape`"),
        (422, s, source("auth", json!({"type": "plugin", "plugin": "shape"})), "auth.version", "does not export"),
        (400, s, source("respond", json!({"plugin": "shape", "on_failure": "retry"})), "respond.on_failure", "unknown field"),
        (422, d, destination("sign", json!({"plugin": "shape", "version": "stable"})), "sign.version", "it has `latest`"),
        (422, d, destination("judge", json!({"plugin": "shape", "sign_only": ["x"]})), "judge.sign_only[0]", "no secret"),
        (422, d, destination("url", json!("not a url")), "url", "malformed"),
        (422, d, destination("url", json!("ftp://example.com")), "url", "http or https"),
        (422, d, destination("url", json!("https://user:pw@example.com")), "url", "user or password"),
        (422, d, destination("url", json!("http://127.0.0.1/")), "url", "loopback"),
        (422, d, destination("url", json!("http://169.254.169.254/")), "url", "metadata"),
        (422, d, destination("url", json!("http://2130706433/")), "url", "loopback"),
        (422, d, destination("url", json!("http://0177.0.0.1/")), "url", "loopback"),
        (422, d, destination("url", json!("http://0x7f.1/")), "url", "loopback"),
        (422, d, destination("url", json!("http://[::ffff:169.254.169.254]/")), "url", "metadata"),
        (422, d, destination("url", json!("http://[64:ff9b::a00:1]/")), "url", "private"),
        (422, d, destination("url", json!("http://[fe80::1%25eth0]/")), "url", "malformed"),
        (422, d, destination("timeout", json!("1h")), "timeout", "to 5m"),
        (422, d, destination("in_flight", json!(0)), "in_flight", "from 1 to"),
        (422, d, destination("retry", json!({"max_attempts": 1000})), "retry.max_attempts", "from 1 to 50"),
        (422, d, destination("retry", json!({"backoff": "list"})), "retry.delays", "from 1 to 49"),
        (422, d, destination("retry", json!({"delays": ["1s"]})), "retry.delays", "`backoff: list`"),
        (422, d, destination("retry", json!({"backoff": "list", "delays": ["8days"]})), "retry.delays[0]", "to 7days"),
        (400, d, destination("retry", json!({"backoff": "list", "delays": ["soon"]})), "retry.delays[0]", "\"30s\""),
        (422, d, destination("retry", json!({"jitter": 1.5})), "retry.jitter", "from 0 to 1"),
        (400, d, destination("retry", json!({"jitter": "some"})), "retry.jitter", "a share from 0 to 1"),
        (422, d, destination("retry", json!({"on": [{"status": "200", "do": "retry"}]})), "retry.on[0].status", "none of 2xx"),
        (400, d, destination("retry", json!({"on": [{"status": "4xx", "do": "drop"}]})), "retry.on[0].do", "expected one of"),
        (422, d, destination("rate", json!({"limit": 0, "per": "minute"})), "rate.limit", "from 1 to 1000000"),
        (400, d, destination("rate", json!({"limit": 1, "per": "day"})), "rate.per", "expected one of"),
        (422, d, destination("circuit_breaker", json!({"percent": 101})), "circuit_breaker.percent", "from 0 to 100"),
        (422, d, destination("circuit_breaker", json!({"pause": "1m", "max_pause": "1s"})), "circuit_breaker.max_pause", "from 1m"),
        (422, d, destination("circuit_breaker", json!({"disable_after": "1m"})), "circuit_breaker.disable_after", "from 1h"),
        (400, d, destination("order", json!({"by": "age"})), "order.by", "expected one of"),
        (422, d, destination("order", json!({"by": "header"})), "order.name", "is needed"),
        (422, d, destination("order", json!({"by": "header", "name": "a b"})), "order.name", "not a header's name"),
        (422, d, destination("order", json!({"by": "json_pointer"})), "order.pointer", "JSON pointer"),
        (422, d, destination("order", json!({"by": "json_pointer", "pointer": "id"})), "order.pointer", "JSON pointer"),
        (422, d, destination("order", json!({"by": "destination", "name": "x"})), "order.name", "`\"by\": \"header\"` alone"),
        (422, d, destination("order", json!({"by": "header", "name": "x", "pointer": "/x"})), "order.pointer", "alone"),
        (400, d, destination("batch", json!({"format": "csv"})), "batch.format", "expected one of"),
        (400, d, destination("batch", json!({"max_events": 2})), "batch", "missing field `format`"),
        (400, d, batch("max_bytes", json!("much")), "batch.max_bytes", "\"1MiB\""),
        (422, d, batch("max_events", json!(0)), "batch.max_events", "from 1 to 1000"),
        (422, d, batch("max_events", json!(1001)), "batch.max_events", "from 1 to 1000"),
        (422, d, batch("max_bytes", json!("1023")), "batch.max_bytes", "from 1024 to 16777216"),
        (422, d, batch("max_wait", json!("0s")), "batch.max_wait", "from 1ms to 30s"),
        (422, d, batch("max_wait", json!("31s")), "batch.max_wait", "from 1ms to 30s"),
        (
            422,
            d,
            destination("batch", json!({"format": "cloudevents", "envelope": true})),
            "batch.envelope",
            "is an envelope itself",
        ),
        (422, d, batched("append_path", json!(true)), "append_path", "one path"),
        (422, d, batched("append_query", json!(true)), "append_query", "one query"),
        (422, d, batched("order", json!({"by": "destination"})), "order", "together with `batch`"),
        (422, d, batched("kind", json!("s3")), "batch", "kind `http` alone"),
        (422, d, batched("sign", json!({"plugin": "shape"})), "sign", "`signing` signs batches"),
        (422, d, batched("judge", json!({"plugin": "shape"})), "judge", "tells outcomes itself"),
        (422, "/v1/destinations/out/schedule?tenant=acme", json!({"max_attempts": 0}), "max_attempts", "from 1 to 50"),
        (
            422,
            "/v1/tenants",
            json!({"name": "t", "plan": {"delivery_rate": {"limit": 0, "per": "second"}}}),
            "plan.delivery_rate.limit",
            "from 1",
        ),
        (422, d, destination("headers", json!([{"name": "host", "value": "x"}])), "headers[0].name", "set by the gateway"),
        (422, d, destination("headers", json!([{"name": "webhook-id", "value": "x"}])), "headers[0].name", "set by the gateway"),
        (422, d, destination("headers", json!([{"name": "x", "value": "a\nb"}])), "headers[0].value", "printable"),
        (422, d, destination("auth", json!({"type": "bearer", "token": "a\nb"})), "auth.token", "printable"),
        (422, d, destination("signing", json!({"secrets": ["whsec_!"]})), "signing.secrets[0]", "base64"),
        (422, c, connection("source", json!("nobody")), "source", "it has `in`"),
        (422, c, connection("destination", json!("nobody")), "destination", "it has `out`"),
        (422, c, connection("filter", json!({"body": {"a": {"$like": 1}}})), "filter.body.a.$like", "not an operator"),
        (422, c, plugin("plugin", json!("nobody")), "plugins[0].plugin", "it has `shape`"),
        (422, c, plugin("version", json!("stable")), "plugins[0].version", "it has `latest`"),
        (422, c, plugin("limits", json!({"fuel": 1})), "plugins[0].limits.fuel", "from 10000"),
        (422, c, plugin("sign_only", json!(["x"])), "plugins[0].sign_only[0]", "no secret"),
        (422, "/v1/tenants", json!({"name": "t", "plan": {"rate": -1.0}}), "plan.rate", "from 0.001"),
        (422, "/v1/tenants", json!({"name": "t", "plan": {"rate": 500.0, "ceiling": 400.0}}), "plan.ceiling", "at least plan.rate"),
        (422, "/v1/tenants", json!({"name": "t", "plan": {"ceiling": 1e9}}), "plan.ceiling", "from 0.001"),
        (422, "/v1/tenants", json!({"name": "t", "plan": {"queued_bytes": 0}}), "plan.queued_bytes", "from 1 to"),
        (422, "/v1/tenants", json!({"name": "t", "plan": {"bookmarks": 1001}}), "plan.bookmarks", "from 0 to 1000"),
        (422, "/v1/tenants", json!({"name": "t", "plan": {"bookmark_bytes": "2048GiB"}}), "plan.bookmark_bytes", "from 0 to"),
        (422, "/v1/tenants", json!({"name": "t", "plan": {"table_bytes": "2048GiB"}}), "plan.table_bytes", "from 0 to"),
        (400, "/v1/tenants", json!({"name": "t", "plan": {"queued_bytes": "much"}}), "plan.queued_bytes", "\"1MiB\""),
        (409, "/v1/tenants", json!({"name": "acme"}), "name", "choose a name"),
        (409, s, json!({"name": "in"}), "name", "choose a name"),
        (422, "/v1/sources", json!({"name": "x"}), "tenant", "?tenant="),
        (422, "/v1/dead-letters/retry?tenant=acme", json!({"ids": []}), "ids", "1 to 1000"),
        (422, j, json!({"filter": {"source": "nobody"}}), "filter.source", "name of a source"),
        (422, j, json!({"filter": {"since": "yesterday"}}), "filter.since", "RFC 3339"),
        (
            422,
            j,
            json!({"filter": {"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}}),
            "filter.until",
            "after `since`",
        ),
        (422, j, json!({"filter": {"status": 99}}), "filter.status", "from 100 to 599"),
        (422, j, json!({"filter": {"code": ""}}), "filter.code", "1 to 64"),
        (400, j, json!({"filter": {"party": "nobody"}}), "filter.party", "variant"),
        (422, j, json!({"rate": 0}), "rate", "from 1 to 1000"),
        (400, r, json!({}), "", "missing field `connection`"),
        (422, r, json!({"connection": "nobody"}), "connection", "name of a connection"),
        (422, r, json!({"connection": "through", "filter": {"until": "tomorrow"}}), "filter.until", "RFC 3339"),
        (400, r, json!({"connection": "through", "filter": {"state": "queued"}}), "filter.state", "variant"),
        (422, r, json!({"connection": "through", "rate": 0}), "rate", "from 1 to 1000"),
        (400, "/v1/dead-letters/retry?tenant=acme", json!({"ids": ["evt_1"]}), "ids[0]", "dlv_"),
        (
            422,
            "/v1/apply",
            json!({"tenants": [{"name": "acme", "sources": [{"name": "/"}]}]}),
            "tenants[0].sources[0].name",
            "1 to 64",
        ),
        (
            422,
            "/v1/apply",
            json!({"tenants": [{"name": "acme", "plugins": [{"name": "p", "component": "x"}]}]}),
            "tenants[0].plugins[0].component",
            "64 hex digits",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_error_names_the_field_and_the_fix() {
    let world = World::start().await;
    world.tenant("acme").await;
    let before = world.control.state().revision;
    let mut wrong = Vec::new();
    for (status, path, body, field, part) in table() {
        let reply = world.send(OPERATOR, "POST", path, Some(&body)).await;
        let answer = if reply.status == status { problem(&reply, status) } else { reply.json() };
        let errors = answer["errors"].as_array().into_iter().flatten();
        let mut named =
            errors.filter(|error| error["field"] == field && error["message"].as_str().is_some_and(|text| text.contains(part)));
        if reply.status != status || named.next().is_none() {
            wrong.push(format!("{status} {field}: {part}: {answer}"));
        }
        assert!(SECRETS.iter().all(|secret| !answer.to_string().contains(secret)), "{answer}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(world.control.state().revision, before, "nothing changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_faults_come_at_once() {
    let world = World::start().await;
    world.tenant("acme").await;
    let body = json!({"name": "", "url": "http://10.0.0.1/", "timeout": "0s", "in_flight": 0});
    let problem = world.refused(422, "POST", "/v1/destinations?tenant=acme", Some(&body)).await;
    assert_eq!(problem["errors"].as_array().unwrap().len(), 4, "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_no_proper_requests_are_answered_in_kind() {
    let world = World::start().await;
    world.tenant("acme").await;
    let key = format!("Bearer {OPERATOR}");
    let json = [("authorization", key.as_str()), ("content-type", "application/json")];
    let sources = "/v1/sources?tenant=acme";
    assert_eq!(problem(&world.raw("POST", sources, &json, "{\"name\": ").await, 400)["code"], "bad_json");
    assert_eq!(problem(&world.raw("POST", sources, &json, "{\"name\": \"a\"} trailing").await, 400)["code"], "bad_json");
    assert_eq!(problem(&world.raw("POST", sources, &json, "").await, 400)["code"], "bad_json");
    problem(&world.raw("POST", sources, &json[..1], "{}").await, 415);
    problem(&world.raw("POST", sources, &json, vec![b' '; 65 << 10]).await, 413);
    problem(&world.upload(OPERATOR, "/v1/plugins/big/versions?tenant=acme", &vec![0; 257 << 10]).await, 413);
    problem(&world.raw("POST", "/v1/plugins/p/versions?tenant=acme", &json, "{}").await, 415);
    problem(&world.raw("PUT", "/v1/sources", &json, "{}").await, 405);
    problem(&world.raw("GET", "/v1/nothing", &json, "").await, 404);
    problem(&world.raw("GET", "/", &[], "").await, 404);
    problem(&world.raw("GET", "/v1/sources?tenant=acme&colour=red", &json, "").await, 400);
    problem(&world.raw("GET", "/v1/sources?tenant=acme&limit=many", &json, "").await, 400);
    problem(&world.raw("GET", "/v1/sources?tenant=acme&cursor=x", &json, "").await, 422);
    problem(&world.raw("GET", "/v1/events?tenant=acme&cursor=x", &json, "").await, 422);
    problem(&world.raw("GET", "/v1/sources?tenant=nobody", &json, "").await, 404);
    problem(&world.raw("PATCH", "/v1/sources/in?tenant=acme", &json, "[]").await, 400);
    let refused = problem(&world.upload(OPERATOR, "/v1/plugins/bad/versions?tenant=acme", b"nonsense").await, 422);
    assert_eq!(refused["code"], "missing_export");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_is_not_deleted_and_the_users_are_named() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    for path in ["/v1/sources/in", "/v1/destinations/out", "/v1/plugins/shape"] {
        let refused = world.refused(409, "DELETE", &format!("{path}?tenant=acme"), None).await;
        assert!(refused["detail"].as_str().unwrap().contains("connection `through`"), "{refused}");
    }
    let refused = world.refused(409, "DELETE", &format!("/v1/plugins/shape/versions/{}?tenant=acme", acme.version), None).await;
    assert!(refused["detail"].as_str().unwrap().contains("alias `latest`"), "{refused}");
    let alias = json!({"version": "latest"});
    world.ok("PUT", "/v1/plugins/shape/aliases/stable?tenant=acme", Some(&alias)).await;
    let staged = json!({"plugins": [{"plugin": "shape", "version": "stable"}]});
    world.ok("PATCH", "/v1/connections/through?tenant=acme", Some(&staged)).await;
    let refused = world.refused(409, "DELETE", "/v1/plugins/shape/aliases/stable?tenant=acme", None).await;
    assert!(refused["detail"].as_str().unwrap().contains("connection `through`"), "{refused}");
    for path in ["/v1/connections/through", "/v1/sources/in", "/v1/destinations/out", "/v1/plugins/shape"] {
        world.ok("DELETE", &format!("{path}?tenant=acme"), None).await;
    }
}
