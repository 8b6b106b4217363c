//! What a plugin keeps from one event to the next is its own: a table is its plugin's and tenant's, an instance that is used again its stage's.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_test_support::http::send;

use crate::api::text;
use crate::guest::{filter, import};
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};

const KEEP: &str = "(i32.store8 (i32.const 8) (i32.const 0)) (i32.store8 (i32.const 12) (i32.const 1)) (i32.const 8)";

/// A filter that keeps all and logs the digit that `number` gives.
fn counts(fields: &str, number: &str) -> Bytes {
    let fields = format!("{} {fields}", import("log", "write", "(param i32 i32 i32)"));
    let log = format!(
        "(i32.store8 (i32.const 64) (i32.add (i32.const 48) {number})) (call $write (i32.const 1) (i32.const 64) (i32.const 1))"
    );
    filter(&fields, &format!("{log} {KEEP}"))
}

/// Of the events so far, by an entry of its table.
fn in_its_table() -> Bytes {
    let fields = format!(r#"{} (data (i32.const 32) "events")"#, import("kv", "increment", "(param i32 i32 i64 i32 i32 i32)"));
    counts(
        &fields,
        "(block (result i32)
            (call $increment (i32.const 32) (i32.const 6) (i64.const 1) (i32.const 0) (i32.const 0) (i32.const 128))
            (i32.wrap_i64 (i64.load (i32.const 136))))",
    )
}

/// Of the runs of its instance.
fn in_its_memory() -> Bytes {
    counts(
        "(global $runs (mut i32) (i32.const 0))",
        "(block (result i32) (global.set $runs (i32.add (global.get $runs) (i32.const 1))) (global.get $runs))",
    )
}

#[tokio::test]
async fn tables_and_instances_are_one_tenants_alone_on_the_embedded_store() {
    apart(EMBEDDED).await;
}

#[tokio::test]
async fn tables_and_instances_are_one_tenants_alone_on_redis() {
    apart(REDIS).await;
}

async fn apart(engine: Engine) {
    let world = World::with(engine, |launch| launch, "plugins.idle_bytes = \"128MiB\"").await;
    let (table, memory) = (world.api.keep(in_its_table()).await, world.api.keep(in_its_memory()).await);
    let connection = |name: &str, plugin: &str, more: Value| {
        let mut stage = json!({"plugin": plugin});
        stage.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"name": name, "source": "in", "destination": "d", "plugins": [stage]})
    };
    let reuse = json!({"reuse": {"invocations": 100}});
    let mut sources = BTreeMap::new();
    let mut names = BTreeMap::new();
    for tenant in ["acme", "other"] {
        let state = json!({
            "name": tenant,
            "plugins": [
                {"name": "table", "component": table}, {"name": "second", "component": table}, {"name": "memory", "component": memory},
            ],
            "sources": [{"name": "in"}],
            "destinations": [{"name": "d", "url": world.receiver.url("/")}],
            "connections": [
                connection("table", "table", json!({})),
                connection("table-again", "second", reuse.clone()),
                connection("memory", "memory", reuse.clone()),
                connection("memory-again", "memory", reuse.clone()),
                connection("fresh", "memory", json!({})),
            ],
        });
        world.api.post("/v1/apply", &json!({ "tenants": [state] })).await;
        sources.insert(tenant, text(&world.api.get(&format!("/v1/sources/in?tenant={tenant}")).await["id"]));
        let connections = world.api.get(&format!("/v1/connections?tenant={tenant}")).await;
        names.extend(connections["items"].as_array().unwrap().iter().map(|one| (text(&one["id"]), text(&one["name"]))));
    }
    for number in 1..=3 {
        for (tenant, source) in &sources {
            let event = send("POST", &world.gateway.ingest(&format!("/in/{source}")), &[], "{}").await.json();
            let told = told(&world, tenant, &text(&event["id"]), &names).await;
            let own = format!("info: {number}");
            let expected = [("fresh", "info: 1"), ("memory", &own), ("memory-again", &own), ("table", &own), ("table-again", &own)];
            assert_eq!(told, BTreeMap::from(expected.map(|(name, line)| (name.to_owned(), line.to_owned()))), "{tenant}");
        }
    }
    // Of each tenant those of the two stages that use theirs again and ask for no table.
    tidegate_test_support::eventually("the instances that wait are counted", SOON, async || {
        let metrics = String::from_utf8(world.api.try_get("/metrics").await.body.to_vec()).unwrap();
        metrics.lines().any(|line| line.starts_with("tidegate_plugin_idle") && line.ends_with(" 4")).then_some(())
    })
    .await;
    for (tenant, plugin) in sources.keys().flat_map(|tenant| ["table", "second"].map(|plugin| (tenant, plugin))) {
        let listed = world.api.get(&format!("/v1/plugins/{plugin}/table?tenant={tenant}")).await;
        assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
        assert_eq!((&listed["items"][0]["key"], &listed["items"][0]["value"]), (&json!("events"), &json!("3")), "{tenant}");
    }
}

/// What the plugin of each connection logged of an event, once all is done.
async fn told(world: &World, tenant: &str, event: &str, names: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let path = format!("/v1/events/{event}?tenant={tenant}");
    let settled = tidegate_test_support::eventually("it is delivered", SOON, async || {
        let shown = world.api.get(&path).await;
        (shown["state"] == "delivered").then_some(shown)
    })
    .await;
    let deliveries = settled["deliveries"].as_array().unwrap();
    let told = deliveries.iter().map(|delivery| {
        let [run] = &delivery["plugin_runs"].as_array().unwrap()[..] else { panic!("{delivery}") };
        (names[delivery["connection"].as_str().unwrap()].clone(), text(&run["logs"][0]))
    });
    told.collect()
}
