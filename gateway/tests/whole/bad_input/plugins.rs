//! Components that can't be used, and plugins that misbehave.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{accepted, set_up, still_delivers};
use crate::api::{TENANT, text};
use crate::guest::{filter, import, transform, wat};
use crate::world::{EMBEDDED, SOON, World};

#[tokio::test]
async fn an_unusable_component_is_refused_at_upload_with_the_reason() {
    let world = World::start(EMBEDDED).await;
    set_up(&world).await;
    let foreign = r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#;
    let table: [(&str, Bytes, &str); 5] = [
        ("a core module", wat("(module)"), "core_module"),
        ("no Wasm", Bytes::from_static(b"#!/bin/sh"), "not_wasm"),
        ("no export", wat("(component)"), "missing_export"),
        ("a foreign import", wat(foreign), "foreign_import"),
        ("a trap at the start", filter("(func $f (unreachable)) (start $f)", "(i32.const 8)"), "instantiation_failed"),
    ];
    for (what, component, code) in table {
        for path in [format!("/v1/plugins/bad/versions?tenant={TENANT}"), "/v1/components".to_owned()] {
            let reply = world.api.send("POST", &path, "application/wasm", component.clone()).await;
            assert_eq!((reply.status, reply.json()["code"].as_str()), (422, Some(code)), "{what}: {:?}", reply.body);
        }
    }
    assert_eq!(world.api.try_get(&format!("/v1/plugins/bad?tenant={TENANT}")).await.status, 404, "nothing was made");
    still_delivers(&world).await;
}

/// A plugin, its limits, and the failure that its events end with.
fn hostile() -> Vec<(&'static str, Bytes, Value, &'static str)> {
    let log = import("log", "write", "(param i32 i32 i32)");
    let flood = "(loop (call $write (i32.const 1) (i32.const 0) (i32.const 100)) (br 0)) (unreachable)";
    let forever = "(loop (br 0)) (unreachable)";
    // One output whose method lies beyond the memory.
    let garbage = "(i32.store (i32.const 12) (i32.const -64)) (i32.store (i32.const 16) (i32.const 1)) (i32.const 8)";
    let recursion = "(func $f (result i32) (i32.add (call $f) (i32.const 1)))";
    let growth = "(loop (drop (memory.grow (i32.const 16))) (br 0)) (unreachable)";
    vec![
        ("loops", filter("", forever), json!({"fuel": 1_000_000}), "fuel_exhausted"),
        ("loops-on", filter("", forever), json!({"fuel": 2_000_000_000, "time": "50ms"}), "wall_clock"),
        ("recurses", filter(recursion, "(call $f)"), json!({}), "stack_overflow"),
        ("grows", filter("", growth), json!({"memory": "20MiB"}), "memory_limit"),
        ("floods-logs", filter(&log, flood), json!({}), "log_flood"),
        ("garbage", transform("", garbage), json!({}), "output_unreadable"),
        ("aborts", filter("", "(unreachable)"), json!({}), "aborted"),
    ]
}

#[tokio::test]
async fn a_misbehaving_plugin_dead_letters_its_own_deliveries_and_hurts_nobody_else() {
    let world = World::start(EMBEDDED).await;
    set_up(&world).await;
    let (mut plugins, mut connections) = (Vec::new(), Vec::new());
    for (name, component, limits, _) in hostile() {
        plugins.push(json!({"name": name, "component": world.api.keep(component).await}));
        let stage = json!({"plugin": name, "limits": limits, "on_failure": "dead_letter"});
        connections.push(json!({"name": name, "source": "many", "destination": "receiver", "plugins": [stage]}));
    }
    connections.push(json!({"name": "healthy", "source": "many", "destination": "receiver"}));
    world.api.apply(json!({"plugins": plugins, "sources": [{"name": "many"}], "connections": connections})).await;

    let event = accepted(&world, "many", "{\"for\": \"all\"}").await;
    let settled = world.api.settled(&event, SOON).await;
    assert_eq!(settled["state"], "dead_lettered");
    let rows = settled["deliveries"].as_array().expect("deliveries");
    assert_eq!(rows.len(), hostile().len() + 1, "{settled:#}");
    let letters = world.api.all("/v1/dead-letters").await;
    for (name, _, _, code) in hostile() {
        let connection = world.api.id("connections", name).await;
        let row = rows.iter().find(|row| row["connection"] == *connection).expect("each connection has an outcome");
        assert_eq!((&row["state"], &row["failure"]["code"]), (&json!("dead_lettered"), &json!(code)), "{name}: {row:#}");
        assert_eq!(row["failure"]["party"], "plugin");
        assert_eq!(row["plugin_runs"][0]["failure"]["code"], code, "the run is shown with its failure");
        let letter = letters.iter().find(|letter| letter["id"] == row["id"]).expect("listed as a dead letter");
        assert_eq!((&letter["reason"]["code"], &letter["event"]), (&json!(code), &json!(event)), "{letter:#}");
    }
    let healthy = world.api.id("connections", "healthy").await;
    let row = rows.iter().find(|row| row["connection"] == *healthy).expect("an outcome");
    assert_eq!(row["state"], "delivered");
    let received = world.receiver.wait_for(1, SOON).await;
    assert_eq!(received[0].webhook_id(), Some(text(&row["id"]).as_str()));
    assert_eq!(received.len(), 1);
    assert_eq!(settled["request"]["body"], "{\"for\": \"all\"}", "the event itself is kept");
    still_delivers(&world).await;
}
