//! A connection is paused: what comes in waits in the store without an attempt, the source's other connections go on, and it comes back in
//! order.

use std::time::Duration;

use serde_json::json;
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, send};

use crate::api::{TENANT, text};
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};

/// What is not delivered within this waits.
const A_MOMENT: Duration = Duration::from_millis(500);
const HELD: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_paused_waits_and_comes_back_in_order_on_the_embedded_store() {
    pause(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_paused_waits_and_comes_back_in_order_on_redis() {
    pause(REDIS).await;
}

/// A source with two connections; one event at a time, so that the order of arrival is the order of delivery.
async fn set_up(world: &World) {
    let retry = json!({"base": "100ms", "max_delay": "100ms"});
    let destination = |name: &str| json!({"name": name, "url": world.receiver.url(&format!("/{name}")), "retry": retry});
    let connection = |name: &str| json!({"name": name, "source": "open", "destination": name});
    let names = ["held", "free"];
    world
        .api
        .apply(json!({
            "plan": {"in_flight": 1}, "sources": [{"name": "open"}],
            "destinations": names.map(destination),
            "connections": names.map(connection),
        }))
        .await;
}

async fn accept(world: &World, body: &str) -> String {
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "open").await));
    let reply = send("POST", &url, &[], body.to_owned()).await;
    assert_eq!(reply.status, 202, "{:?}", reply.body);
    text(&reply.json()["id"])
}

async fn set(world: &World, paused: bool) {
    world.api.patch(&format!("/v1/connections/held?tenant={TENANT}"), &json!({ "paused": paused })).await;
}

async fn waits(world: &World, event: &str) {
    eventually(&format!("{event} waits"), SOON, async || {
        let waiting = &world.api.event(event).await["waiting"];
        (waiting["for"] == "paused" && text(&waiting["detail"]).contains("`held` is paused")).then_some(())
    })
    .await;
}

fn arrived(world: &World, at: &str) -> Vec<String> {
    let requests = world.receiver.requests();
    let there = requests.iter().filter(|request| request.target == at);
    there.map(|request| String::from_utf8_lossy(&request.body).into_owned()).collect()
}

async fn pause(engine: Engine) {
    let mut world = World::start(engine).await;
    set_up(&world).await;
    world.receiver.answer_with(|request| Answer::status(if request.target == "/held" { 503 } else { 200 }));
    let failing = accept(&world, "failing").await;
    world.receiver.wait_until(SOON, |requests| requests.iter().any(|request| request.target == "/held")).await;
    set(&world, true).await;
    // What failed before waits as well: nothing more arrives once its retry found the connection paused.
    eventually("the retry waits", SOON, async || {
        let event = world.api.event(&failing).await;
        let rows = event["deliveries"].as_array().unwrap();
        rows.iter().any(|row| row["reason"] == "connection_paused").then_some(())
    })
    .await;
    let attempts = arrived(&world, "/held").len();
    let mut held = Vec::new();
    for number in 0..HELD {
        held.push(accept(&world, &number.to_string()).await);
    }
    world.receiver.answer(Answer::status(200));
    waits(&world, &failing).await;
    waits(&world, &held[HELD - 1]).await;
    eventually("the other connection goes on", SOON, async || (arrived(&world, "/free").len() == HELD + 1).then_some(())).await;
    assert_eq!(arrived(&world, "/held").len(), attempts, "no attempt is spent");

    set(&world, false).await;
    for event in held.iter().chain([&failing]) {
        assert_eq!(world.api.settled(event, SOON).await["state"], "delivered");
    }
    let all = arrived(&world, "/held");
    let in_order = &all[attempts..];
    let expected: Vec<String> = ["failing".to_owned()].into_iter().chain((0..HELD).map(|number| number.to_string())).collect();
    assert_eq!(in_order, expected, "in order");

    // The next owner finds it paused.
    set(&world, true).await;
    let mut later = Vec::new();
    for _ in 0..3 {
        later.push(accept(&world, "later").await);
    }
    waits(&world, &later[2]).await;
    world.gateway.kill();
    world.gateway.restart().await;
    assert!(tokio::time::timeout(A_MOMENT, world.api.settled(&later[0], SOON)).await.is_err(), "it waits still");
    assert_eq!(arrived(&world, "/held").len(), all.len());
    set(&world, false).await;
    for event in &later {
        assert_eq!(world.api.settled(event, SOON).await["state"], "delivered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_paused_for_too_long_is_given_up_with_that_reason() {
    let world = World::with(EMBEDDED, |launch| launch, "dispatch.max_wait = \"2s\"\n").await;
    set_up(&world).await;
    world.receiver.answer(Answer::status(200));
    set(&world, true).await;
    let event = accept(&world, "late").await;
    let settled = world.api.settled(&event, SOON).await;
    let rows = settled["deliveries"].as_array().unwrap();
    let codes: Vec<_> = rows.iter().filter_map(|row| row["failure"]["code"].as_str()).collect();
    assert_eq!(codes, ["connection_paused"], "{settled}");
    assert!(arrived(&world, "/held").is_empty());
}
