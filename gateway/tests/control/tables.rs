//! Plugins' tables by the API.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::clock::{Clock, Timestamp};
use tidegate::control::service::Access;
use tidegate::store::TableUse;
use tidegate::store::table::{MAX_TABLE_KEY, MAX_TABLE_VALUE};
use tidegate_test_support::http::Reply;

use crate::world::{OPERATOR, World, problem};

const TABLE: &str = "/v1/plugins/shape/table";
const HOUR: Duration = Duration::from_secs(3600);

async fn put(world: &World, key: &str, path: &str, value: impl Into<bytes::Bytes>) -> Reply {
    let bearer = format!("Bearer {key}");
    world.raw("PUT", path, &[("authorization", &bearer)], value).await
}

async fn load(world: &World, key: &str, lines: impl Into<bytes::Bytes>) -> Reply {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/x-ndjson")];
    world.raw("POST", TABLE, &headers, lines).await
}

async fn keys(world: &World, key: &str, query: &str) -> Vec<String> {
    let listed = world.ok_as(key, "GET", &format!("{TABLE}{query}"), None).await;
    listed["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap().to_owned()).collect()
}

async fn usage(world: &World, tenant: &str) -> TableUse {
    let homes = world.control.homes(Access::Operator, Some(tenant)).unwrap();
    world.store.table_use(homes.at(homes.shards.home())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_written_read_listed_and_deleted() {
    let start = Timestamp(1_800_000_000_000);
    let clock = Clock::manual(start);
    let world = World::at(clock.clone()).await;
    let acme = world.tenant("acme").await;
    let bytes: Vec<u8> = (0..=255).collect();
    for (name, value, ttl) in
        [("user%3A7%2F%C3%A9", bytes.clone(), "?ttl=1h"), ("b", b"text".to_vec(), ""), ("c", vec![b'x'; MAX_TABLE_VALUE], "")]
    {
        let reply = put(&world, &acme.key, &format!("{TABLE}/{name}{ttl}"), value.clone()).await;
        assert_eq!((reply.status, reply.body.len()), (204, 0), "{:?}", reply.body);
        let read = world.send(&acme.key, "GET", &format!("{TABLE}/{name}"), None).await;
        assert_eq!((read.status, &read.body[..]), (200, &value[..]));
        assert_eq!(read.header("content-type"), Some("application/octet-stream"));
    }
    let listed = world.ok_as(&acme.key, "GET", TABLE, None).await;
    assert_eq!(
        listed,
        json!({"next": null, "items": [
            {"key": "b", "size": 4, "expires_at": null, "value": "text"},
            {"key": "c", "size": MAX_TABLE_VALUE, "expires_at": null},
            {"key": "user:7/é", "size": 256, "expires_at": start.after(HOUR).to_string(),
                "base64": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &bytes)}
        ]})
    );
    let page = world.ok_as(&acme.key, "GET", &format!("{TABLE}?limit=2"), None).await;
    assert_eq!((page["items"].as_array().unwrap().len(), &page["next"]), (2, &json!("c")));
    assert_eq!(keys(&world, &acme.key, "?limit=2&cursor=c").await, ["user:7/é"]);
    assert_eq!(keys(&world, &acme.key, "?prefix=user%3A").await, ["user:7/é"]);
    let shown = world.ok("GET", "/v1/tenants/acme", None).await;
    let used = usage(&world, "acme").await;
    assert_eq!(shown["tables"], json!({"bytes": used.bytes, "entries": 3}));
    clock.advance(HOUR);
    assert_eq!(keys(&world, &acme.key, "").await, ["b", "c"]);
    problem(&world.send(&acme.key, "GET", &format!("{TABLE}/user%3A7%2F%C3%A9"), None).await, 404);
    assert_eq!(world.send(&acme.key, "DELETE", &format!("{TABLE}/b"), None).await.status, 204);
    problem(&world.send(&acme.key, "DELETE", &format!("{TABLE}/b"), None).await, 404);
    problem(&world.send(&acme.key, "GET", &format!("{TABLE}/b"), None).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_writes_each_line_or_says_which_is_wrong() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let lines: Vec<String> = (0..1000).map(|n| json!({"key": format!("k{n:04}"), "value": {"n": n}}).to_string()).collect();
    let loaded = load(&world, &acme.key, format!("{}\n\n", lines.join("\r\n"))).await;
    assert_eq!((loaded.status, loaded.json()), (200, json!({"loaded": 1000})));
    assert_eq!(usage(&world, "acme").await.entries, 1000);
    let read = world.send(&acme.key, "GET", &format!("{TABLE}/k0999"), None).await;
    assert_eq!(&read.body[..], br#"{"n":999}"#);
    for (lines, part) in [
        ("{\"key\": \"x\", \"value\": \"1\"}\n{\"key\": \"\", \"value\": \"1\"}", "line 2: key"),
        ("{\"key\": \"x\", \"value\": \"1\"}\n\n{\"key\": \"x\", \"ttl\": \"1h\"}", "line 3: value"),
        ("{\"key\": \"x\", \"value\": \"1\"}\n{\"key\": \"x\", \"value\": \"1\", \"ttl\": \"never\"}", "line 2: ttl"),
        ("{\"key\": \"x\", \"value\": \"1\"}\n{\"key\"", "line 2"),
        ("{\"key\": \"x\", \"value\": \"1\", \"colour\": \"red\"}", "line 1"),
    ] {
        let reply = load(&world, &acme.key, lines).await;
        assert!(matches!(reply.status, 400 | 422), "{lines}: {}", reply.status);
        let refused = problem(&reply, reply.status);
        assert!(refused.to_string().contains(part), "{lines}: {refused}");
    }
    let too_many = load(&world, &acme.key, "{\"key\":\"\"}\n".repeat(50_001)).await;
    assert!(matches!(too_many.status, 413 | 422), "{}", too_many.status);
    assert_eq!(usage(&world, "acme").await.entries, 1000, "what is refused writes nothing");
    let bearer = format!("Bearer {}", acme.key);
    let json = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    problem(&world.raw("POST", TABLE, &json, "{}").await, 415);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_refused_by_name() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let long = "k".repeat(MAX_TABLE_KEY + 1);
    for (path, value, status, part) in [
        (format!("{TABLE}/{long}"), 1, 422, "1 to 256 bytes"),
        (format!("{TABLE}/a%0Ab"), 1, 422, "control characters"),
        (format!("{TABLE}/a"), MAX_TABLE_VALUE + 1, 413, "64KiB"),
        (format!("{TABLE}/a?ttl=0s"), 1, 422, "3650days"),
        (format!("{TABLE}/a?ttl=soon"), 1, 422, "must be a duration"),
        (format!("{TABLE}/a?colour=red"), 1, 400, "colour"),
        ("/v1/plugins/nobody/table/a".to_owned(), 1, 404, "nobody"),
    ] {
        let refused = problem(&put(&world, &acme.key, &path, vec![b'1'; value]).await, status);
        assert!(refused.to_string().contains(part), "{path}: {refused}");
    }
    world.ok("PATCH", "/v1/tenants/acme", Some(&json!({"plan": {"table_bytes": 130}}))).await;
    assert_eq!(put(&world, &acme.key, &format!("{TABLE}/a"), "1").await.status, 204);
    let full = problem(&put(&world, &acme.key, &format!("{TABLE}/b"), "1").await, 409);
    assert_eq!(full["code"], "tables_full");
    assert!(full["detail"].as_str().unwrap().contains("plan.table_bytes"), "{full}");
    let full = problem(&load(&world, &acme.key, "{\"key\":\"a\",\"value\":\"2\"}\n{\"key\":\"b\",\"value\":\"2\"}").await, 409);
    assert!(full["detail"].as_str().unwrap().ends_with("1 entries were written before"), "{full}");
    world.ok("PATCH", "/v1/tenants/acme", Some(&json!({"plan": {"table_bytes": "1KiB"}}))).await;
    assert_eq!(put(&world, &acme.key, &format!("{TABLE}/b"), "1").await.status, 204);
    let plan = world.ok("GET", "/v1/tenants/acme", None).await["plan"].clone();
    assert_eq!(plan["table_bytes"], "1KiB");
    let fresh = world.ok("POST", "/v1/tenants", Some(&json!({"name": "fresh"}))).await;
    assert_eq!(fresh["plan"]["table_bytes"], "16MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_and_plugins_do_not_see_each_other() {
    let world = World::start().await;
    let (acme, other) = (world.tenant("acme").await, world.tenant("other").await);
    assert_eq!(world.upload(&acme.key, "/v1/plugins/second/versions", b"filter second").await.status, 201);
    assert_eq!(put(&world, &acme.key, &format!("{TABLE}/a"), "1").await.status, 204);
    assert_eq!(put(&world, OPERATOR, &format!("{TABLE}/b?tenant=other"), "2").await.status, 204);
    assert_eq!((keys(&world, &acme.key, "").await, keys(&world, &other.key, "").await), (vec!["a".into()], vec!["b".into()]));
    problem(&world.send(&other.key, "GET", &format!("{TABLE}/a"), None).await, 404);
    problem(&world.send(&other.key, "GET", &format!("/v1/plugins/{}/table/a", acme.plugin), None).await, 404);
    problem(&world.send(&acme.key, "GET", "/v1/plugins/second/table/a", None).await, 404);
    let by_id = world.send(&acme.key, "GET", &format!("/v1/plugins/{}/table/a", acme.plugin), None).await;
    assert_eq!(&by_id.body[..], b"1", "a plugin is found by its id too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_plugin_takes_its_table_with_it() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    for plugin in ["one", "two", "three"] {
        let path = format!("/v1/plugins/{plugin}");
        let component = format!("filter {plugin}");
        assert_eq!(world.upload(&acme.key, &format!("{path}/versions"), component.as_bytes()).await.status, 201);
        assert_eq!(put(&world, &acme.key, &format!("{path}/table/a"), "1").await.status, 204);
    }
    assert_eq!(put(&world, &acme.key, &format!("{TABLE}/a"), "1").await.status, 204);
    problem(&world.send(&acme.key, "DELETE", "/v1/plugins/shape", None).await, 409);
    assert_eq!(usage(&world, "acme").await.entries, 4, "one that is in use keeps its table");
    assert_eq!(world.send(&acme.key, "DELETE", "/v1/plugins/one", None).await.status, 204);
    assert_eq!(usage(&world, "acme").await.entries, 3);
    let version = world.ok_as(&acme.key, "GET", "/v1/plugins/two/versions/latest", None).await["hash"].clone();
    let declared: Value = json!({"tenants": [{"name": "acme", "plugins": [{"name": "two", "component": version}]}]});
    world.ok("POST", "/v1/apply?prune=true", Some(&declared)).await;
    assert_eq!(usage(&world, "acme").await.entries, 1, "and so do those that an apply prunes");
}
