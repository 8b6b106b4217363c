//! An operator holds a storm back and lets it go: diverted, paused, given back, on the real program.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Reply, send};

use crate::api::{Api, TENANT, text};
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};

/// What is not delivered within this is held back.
const A_MOMENT: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_is_held_and_let_go_in_order_on_the_embedded_store() {
    steer(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_is_held_and_let_go_in_order_on_redis() {
    steer(REDIS).await;
}

async fn set(api: &Api, path: &str, body: Value) -> Value {
    let reply = api.send("PUT", &format!("/v1/traffic/{path}"), "application/json", body.to_string()).await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    reply.json()
}

async fn waits_for(api: &Api, event: &str, wanted: &str) {
    eventually(&format!("{event} waits for {wanted}"), SOON, async || {
        (api.event(event).await["waiting"]["for"] == wanted).then_some(())
    })
    .await;
}

async fn steer(engine: Engine) {
    let world = World::start(engine).await;
    world.receiver.answer(Answer::status(200));
    // One at a time, so that the order of arrival is the order of delivery.
    world
        .api
        .apply(json!({
            "plan": {"in_flight": 1}, "sources": [{"name": "open"}],
            "destinations": [{"name": "out", "url": world.receiver.url("/")}],
            "connections": [{"name": "through", "source": "open", "destination": "out"}],
        }))
        .await;
    let source = world.api.id("sources", "open").await;
    let url = world.gateway.ingest(&format!("/in/{source}"));
    let accept = async |body: &str| -> String {
        let reply: Reply = send("POST", &url, &[], body.to_owned()).await;
        assert_eq!(reply.status, 202, "{:?}", reply.body);
        text(&reply.json()["id"])
    };

    set(&world.api, &format!("diversions/{TENANT}%2Fopen"), json!({"reason": "a storm"})).await;
    let mut held = Vec::new();
    for number in 0..20 {
        held.push(accept(&number.to_string()).await);
    }
    waits_for(&world.api, &held[0], "held").await;
    eventually("the held lane is told of", SOON, async || {
        (world.api.get("/v1/signals").await["gateway"]["lanes"][2]["events"] == 20).then_some(())
    })
    .await;
    assert_eq!(world.api.get("/v1/scaling").await["backlog"], 0, "what is held asks for no gateways");
    assert_eq!(world.receiver.count(), 0);

    let back = world.api.send("DELETE", &format!("/v1/traffic/diversions/{source}"), "application/json", "").await;
    assert_eq!((back.status, &back.json()["state"]), (200, &json!("returning")));
    let newcomer = accept("20").await;
    world.receiver.wait_for(21, SOON).await;
    let bodies: Vec<_> =
        world.receiver.requests().iter().map(|request| String::from_utf8_lossy(&request.body).into_owned()).collect();
    assert_eq!(bodies, (0..=20).map(|number| number.to_string()).collect::<Vec<_>>(), "no newcomer overtakes");
    eventually("the diversion ends by itself", SOON, async || {
        world.api.get("/v1/traffic").await["diversions"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    world.api.settled(&newcomer, SOON).await;

    set(&world.api, "lanes/normal", json!({"percent": 0, "reason": "the receiver is ill"})).await;
    // What comes before the owner looks again is delivered still.
    let paused = eventually("the lane is paused", SOON, async || {
        let event = accept("paused").await;
        tokio::time::timeout(A_MOMENT, world.api.settled(&event, SOON)).await.is_err().then_some(event)
    })
    .await;
    waits_for(&world.api, &paused, "paused").await;
    set(&world.api, "lanes/normal", json!({"percent": 100})).await;
    assert_eq!(world.api.settled(&paused, SOON).await["state"], "delivered");
}
