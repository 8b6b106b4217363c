//! Plugins that may not run for now: their events wait in the store, say for what, and go on when that is mended.

use serde_json::{Value, json};
use tidegate_test_support::eventually;
use tidegate_test_support::http::send;

use crate::api::text;
use crate::guest::filter;
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};

/// An answer at address 8: keep.
const KEEP: &str = "(i32.store8 (i32.const 8) (i32.const 0)) (i32.store8 (i32.const 12) (i32.const 1)) (i32.const 8)";

#[tokio::test]
async fn events_wait_for_fuel_and_for_a_version_that_is_not_stopped_on_the_embedded_store() {
    ailing(EMBEDDED).await;
}

#[tokio::test]
async fn events_wait_for_fuel_and_for_a_version_that_is_not_stopped_on_redis() {
    ailing(REDIS).await;
}

async fn ailing(engine: Engine) {
    let world = World::start(engine).await;
    let bad = world.api.keep(filter("", "(unreachable)")).await;
    let good = world.api.keep(filter("", KEEP)).await;
    let state = |component: &str, fuel: u64| {
        json!({
            "plan": {"plugin_fuel": fuel},
            "plugins": [{"name": "p", "component": component, "aliases": ["live"]}],
            "sources": [{"name": "in"}],
            "destinations": [{"name": "d", "url": world.receiver.url("/")}],
            "connections": [{
                "name": "c", "source": "in", "destination": "d",
                "plugins": [{"plugin": "p", "version": "live", "poison_after": 1}],
            }],
        })
    };
    world.api.apply(state(&bad, 1_000_000_000)).await;
    let post = async || {
        let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "in").await));
        text(&send("POST", &url, &[], "{}").await.json()["id"])
    };
    let waits = async |event: &str, reason: &str| {
        eventually(&format!("it waits for {reason}"), SOON, async || {
            (world.api.event(event).await["waiting"]["for"] == reason).then_some(())
        })
        .await;
    };
    let gauge = async |name: &str| {
        let metrics = String::from_utf8(world.api.try_get("/metrics").await.body.to_vec()).unwrap();
        metrics.lines().find(|line| line.starts_with(name)).and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
    };
    let held = post().await;
    waits(&held, "plugin_poisoned").await;
    let plugin = world.api.get("/v1/plugins/p?tenant=acme").await;
    assert_eq!((&plugin["poisoned"][0]["version"], &plugin["poisoned"][0]["reason"]["code"]), (&json!(bad), &json!("aborted")));
    assert_eq!(world.api.get("/v1/signals").await["plugins"]["poisoned"], 1);
    assert_eq!(gauge("tidegate_plugin_poisoned").await.as_deref(), Some("1"));

    // With the good one there is fuel for one event.
    world.api.apply(state(&good, 1)).await;
    let event = world.api.settled(&held, SOON).await;
    assert_eq!((&event["state"], &event["waiting"]), (&json!("delivered"), &Value::Null));
    let second = post().await;
    waits(&second, "plugin_fuel").await;
    assert_eq!(world.api.get("/v1/signals").await["plugins"]["waiting_for_fuel"], 1);
    assert_eq!(gauge("tidegate_plugin_fuel_waits").await.as_deref(), Some("1"));
    world.api.apply(state(&good, 1_000_000_000)).await;
    assert_eq!(world.api.settled(&second, SOON).await["state"], "delivered");
    assert_eq!(world.receiver.count(), 2);
}
