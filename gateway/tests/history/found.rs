//! What was found wrong, each by itself.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, send};

use crate::api::{TENANT, text};
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World, prebuilt};

/// Destinations, and the connections to them.
const NAMES: [&str; 2] = ["quick", "slow"];

async fn accept(world: &World, body: &str) -> String {
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "open").await));
    let reply = send("POST", &url, &[], body.to_owned()).await;
    assert_eq!(reply.status, 202, "{:?}", reply.body);
    text(&reply.json()["id"])
}

fn states(event: &Value) -> Vec<String> {
    event["deliveries"].as_array().unwrap().iter().map(|row| text(&row["state"])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_delivered_before_a_crash_is_not_delivered_again_for_want_of_room_on_the_embedded_store() {
    begun(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_delivered_before_a_crash_is_not_delivered_again_for_want_of_room_on_redis() {
    begun(REDIS).await;
}

/// Two events, each delivered to one destination and on its way to another. Their gateway is killed, and the next one has room for one of them:
/// the other was parked as a whole, without what had become of it, and then delivered to both.
async fn begun(engine: Engine) {
    let mut world = World::start(engine).await;
    let destination = |name: &str| json!({"name": name, "url": world.receiver.url(&format!("/{name}"))});
    let connection = |name: &str| json!({"name": name, "source": "open", "destination": name});
    world
        .api
        .apply(json!({
            "plan": {"in_flight": 2}, "sources": [{"name": "open"}],
            "destinations": NAMES.map(destination), "connections": NAMES.map(connection),
        }))
        .await;
    world.receiver.answer_with(|request| if request.target == "/slow" { Answer::hang() } else { Answer::status(200) });
    let events = [accept(&world, "1").await, accept(&world, "2").await];
    for event in &events {
        eventually("what is delivered is told", SOON, async || {
            (states(&world.api.event(event).await) == ["delivered"]).then_some(())
        })
        .await;
    }
    world.api.patch(&format!("/v1/tenants/{TENANT}"), &json!({"plan": {"in_flight": 1}})).await;
    world.gateway.kill();
    world.receiver.answer(Answer::status(200));
    world.gateway.restart().await;
    for event in &events {
        let settled = world.api.settled(event, SOON).await;
        assert_eq!(states(&settled), ["delivered", "delivered"], "{settled:#}");
    }
    let mut quick = BTreeMap::<String, usize>::new();
    for request in world.receiver.requests().iter().filter(|request| request.target == "/quick") {
        *quick.entry(request.webhook_id().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(quick.into_values().collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_delivered_of_a_parked_event_before_a_crash_is_not_delivered_again_on_the_embedded_store() {
    begun_out_of_a_queue(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_delivered_of_a_parked_event_before_a_crash_is_not_delivered_again_on_redis() {
    begun_out_of_a_queue(REDIS).await;
}

/// An event waits for a place as a whole, is delivered to one destination, and on its way to another when its gateway is killed: the next one
/// planned it anew, beside what had become of it.
async fn begun_out_of_a_queue(engine: Engine) {
    let mut world = World::start(engine).await;
    let retry = json!({"base": "10ms", "max_delay": "10ms"});
    let destination =
        |name: &str| json!({"name": name, "url": world.receiver.url(&format!("/{name}")), "timeout": "3s", "retry": retry});
    let connection = |name: &str| json!({"name": name, "source": "open", "destination": name});
    world
        .api
        .apply(json!({
            "plan": {"in_flight": 1}, "sources": [{"name": "open"}],
            "destinations": NAMES.map(destination), "connections": NAMES.map(connection),
        }))
        .await;
    world.receiver.answer_with(|request| if request.target == "/slow" { Answer::hang() } else { Answer::status(200) });
    let first = accept(&world, "1").await;
    world.receiver.wait_for(2, SOON).await;
    let second = accept(&world, "2").await;
    eventually("it waits as a whole", SOON, async || (states(&world.api.event(&second).await) == ["parked"]).then_some(())).await;
    eventually("one of its deliveries is told", SOON, async || {
        states(&world.api.event(&second).await).contains(&"delivered".to_owned()).then_some(())
    })
    .await;
    world.gateway.kill();
    world.receiver.answer(Answer::status(200));
    world.gateway.restart().await;
    for event in [&first, &second] {
        let settled = world.api.settled(event, SOON).await;
        assert_eq!(states(&settled), ["delivered", "delivered"], "{settled:#}");
    }
    let quick = world.receiver.requests().iter().filter(|request| request.target == "/quick").count();
    assert_eq!(quick, 2, "one for each event");
}

/// An event that is not planned yet is held with its source, whatever way it came back; it was planned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_tried_again_is_held_with_its_source() {
    let world = World::start(EMBEDDED).await;
    let component = world.api.keep(prebuilt("json-field-filter")).await;
    world
        .api
        .apply(json!({
            "plugins": [{"name": "keep", "component": component}],
            "sources": [{"name": "open"}],
            "destinations": [{"name": "out", "url": world.receiver.url("/")}],
            "connections": [{
                "name": "through", "source": "open", "destination": "out",
                "plugins": [{"plugin": "keep", "config": {"rules": [{"pointer": "/keep"}]}}],
            }],
        }))
        .await;
    let event = accept(&world, "no JSON").await;
    let given_up = world.api.settled(&event, SOON).await;
    assert_eq!(given_up["deliveries"][0]["failure"]["code"], "plugin_failed", "{given_up:#}");
    let diversion = format!("/v1/traffic/diversions/{TENANT}%2Fopen");
    assert_eq!(world.api.send("PUT", &diversion, "application/json", "{}").await.status, 200);
    assert_eq!(world.api.post(&format!("/v1/events/{event}/retry?tenant={TENANT}"), &json!({})).await["retried"], 1);
    eventually("it is held", SOON, async || {
        let row = world.api.event(&event).await["deliveries"][0].clone();
        assert_ne!(row["state"], "dead_lettered", "{row:#}");
        (row["reason"] == "held" && row["waiting"]["for"] == "held").then_some(())
    })
    .await;
    assert_eq!(world.api.send("DELETE", &diversion, "application/json", "").await.status, 200);
    let again = world.api.settled(&event, SOON).await;
    assert_eq!(
        (again["state"].as_str(), again["deliveries"][0]["plugin_runs"].as_array().unwrap().len()),
        (Some("dead_lettered"), 2)
    );
}
