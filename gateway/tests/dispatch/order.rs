//! What keeps its order on the way to a destination.

mod crashes;
mod divided;
mod looks;
mod lost;

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::clock::Clock;
use tidegate::event::EventId;
use tidegate::store::{DeliveryState, EventSummary, QueueKey};
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Received, Receiver};

use crate::plugins::{START, hungry};
use crate::world::{LEASE, SHARD, SOON, World, is_delivered};

/// A tenant with one destination that keeps this order.
fn ordered(receiver: &Receiver, order: &Value) -> Value {
    json!({
        "sources": [{"name": "in"}],
        "destinations": [{
            "name": "out", "url": receiver.url("/"), "order": order, "circuit_breaker": {"enabled": false},
            "retry": {
                "max_attempts": 50, "base": "10ms", "max_delay": "500ms",
                "on": [{"status": "404", "do": "dead_letter"}],
            },
        }],
        "connections": [{"name": "through", "source": "in", "destination": "out"}],
    })
}

fn by_key() -> Value {
    json!({"by": "json_pointer", "pointer": "/k"})
}

fn by_destination() -> Value {
    json!({"by": "destination"})
}

fn body(key: &str, number: usize) -> String {
    json!({"k": key, "n": number}).to_string()
}

async fn accept(world: &World, key: &str, numbers: std::ops::Range<usize>) -> Vec<EventId> {
    let mut events = Vec::new();
    for number in numbers {
        events.push(world.accept("t", "in", &body(key, number)).await);
    }
    events
}

/// What came of a key, in order of arrival, with what comes again at once left out.
fn numbers(requests: &[Received], key: &str) -> Vec<u64> {
    let of_key = requests.iter().map(Received::json).filter(|body| body["k"] == key);
    let mut numbers: Vec<u64> = of_key.map(|body| body["n"].as_u64().unwrap()).collect();
    numbers.dedup();
    numbers
}

/// Answers 503 to these, and takes all others.
fn refuse(receiver: &Receiver, key: &'static str, number: u64) {
    receiver.answer_with(move |request| {
        let body = request.json();
        Answer::status(if body["k"] == key && body["n"] == number { 503 } else { 200 })
    });
}

async fn parked(world: &World) -> u64 {
    world.store.depth(SHARD).await.unwrap().parked
}

pub(crate) fn dead(summary: &EventSummary) -> Option<&str> {
    summary.deliveries.iter().find_map(|row| match &row.state {
        DeliveryState::DeadLettered { reason } => Some(reason.code.as_str()),
        _ => None,
    })
}

#[tokio::test]
async fn a_delivery_that_fails_holds_up_its_own_key_alone() {
    let receiver = Receiver::start().await;
    refuse(&receiver, "a", 0);
    let world = World::new().await;
    world.declare("t", ordered(&receiver, &by_key())).await;
    let node = world.dispatch("a");
    let held_up = accept(&world, "a", 0..5).await;
    let others = accept(&world, "b", 0..20).await;
    let keyless = world.accept("t", "in", "{}").await;
    for event in others.into_iter().chain([keyless]) {
        world.settled("t", event, is_delivered).await;
    }
    assert_eq!(numbers(&receiver.requests(), "a"), [0], "what is behind it was not tried");
    assert_eq!(numbers(&receiver.requests(), "b"), (0..20).collect::<Vec<_>>());
    let waits = world.settled("t", held_up[1], |summary| !summary.deliveries.is_empty()).await;
    assert!(matches!(&waits.deliveries[0].state, DeliveryState::Parked { reason, .. } if reason == "order"), "{waits:?}");
    receiver.answer(Answer::status(200));
    for event in held_up {
        world.settled("t", event, is_delivered).await;
    }
    assert_eq!(numbers(&receiver.requests(), "a"), [0, 1, 2, 3, 4]);
    assert_eq!(parked(&world).await, 0);
    node.stop().await;
}

#[tokio::test]
async fn order_survives_a_narrow_window_a_rate_and_other_owners() {
    let receiver = Receiver::start().await;
    receiver.answer_with(|request| Answer::status(if request.number.is_multiple_of(5) { 503 } else { 200 }));
    let world = World::new().await;
    let mut tenant = ordered(&receiver, &by_destination());
    tenant["plan"] = json!({"rate": 1000.0, "burst": 1000, "in_flight": 1});
    tenant["destinations"][0]["rate"] = json!({"limit": 200, "per": "second"});
    world.declare("t", tenant).await;
    let mut events = accept(&world, "a", 0..40).await;
    for owner in ["a", "b", "c"] {
        let node = world.dispatch(owner);
        let seen = receiver.count();
        receiver.wait_for(seen + 10, SOON).await;
        let so_far = events.len();
        events.extend(accept(&world, "a", so_far..so_far + 20).await);
        node.stop().await;
    }
    let node = world.dispatch("d");
    for event in &events {
        world.settled("t", *event, is_delivered).await;
    }
    assert_eq!(numbers(&receiver.requests(), "a"), (0..100).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test]
async fn what_is_given_up_lets_the_next_go_and_comes_behind_when_it_is_retried() {
    let receiver = Receiver::start().await;
    receiver.answer_with(|request| match request.json()["n"].as_u64() {
        Some(0) => Answer::status(404),
        Some(1) => Answer::status(503),
        _ => Answer::status(200),
    });
    let world = World::new().await;
    world.declare("t", ordered(&receiver, &by_key())).await;
    let node = world.dispatch("a");
    let events = accept(&world, "a", 0..4).await;
    let summary = world.settled("t", events[0], |summary| dead(summary).is_some()).await;
    receiver.wait_until(SOON, |requests| numbers(requests, "a") == [0, 1]).await;
    assert_eq!(world.store.retry(world.home("t"), &[summary.deliveries[0].id], world.clock.now()).await.unwrap(), 1);
    eventually("it stands in its line again", SOON, async || (parked(&world).await >= 3).then_some(())).await;
    receiver.answer(Answer::status(200));
    for event in events {
        world.settled("t", event, is_delivered).await;
    }
    assert_eq!(numbers(&receiver.requests(), "a"), [0, 1, 2, 3, 0]);
    node.stop().await;
}

#[tokio::test]
async fn a_paused_connection_keeps_what_waits_in_order() {
    let receiver = Receiver::start().await;
    let world = World::new().await;
    let tenant = |paused: bool, url: &Receiver| {
        let mut tenant = ordered(url, &by_destination());
        tenant["connections"][0]["paused"] = paused.into();
        tenant
    };
    world.declare("t", tenant(true, &receiver)).await;
    let node = world.dispatch("a");
    let mut events = accept(&world, "a", 0..10).await;
    world.settled("t", events[9], |summary| summary.finished).await;
    assert_eq!(receiver.count(), 0);
    world.declare("t", tenant(false, &receiver)).await;
    events.extend(accept(&world, "a", 10..20).await);
    receiver.wait_for(3, SOON).await;
    world.declare("t", tenant(true, &receiver)).await;
    events.extend(accept(&world, "a", 20..30).await);
    world.declare("t", tenant(false, &receiver)).await;
    for event in events {
        world.settled("t", event, is_delivered).await;
    }
    assert_eq!(numbers(&receiver.requests(), "a"), (0..30).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test]
async fn a_sibling_without_an_order_waits_for_nothing_and_nothing_comes_twice() {
    let (kept, free) = (Receiver::start().await, Receiver::start().await);
    refuse(&kept, "a", 0);
    let world = World::new().await;
    let mut tenant = ordered(&kept, &by_destination());
    tenant["plan"] = json!({"rate": 1000.0, "burst": 1000, "in_flight": 3});
    tenant["destinations"].as_array_mut().unwrap().push(json!({"name": "free", "url": free.url("/")}));
    tenant["connections"].as_array_mut().unwrap().push(json!({"name": "free", "source": "in", "destination": "free"}));
    world.declare("t", tenant).await;
    let node = world.dispatch("a");
    let events = accept(&world, "a", 0..40).await;
    free.wait_for(40, SOON).await;
    assert_eq!(numbers(&kept.requests(), "a"), [0]);
    node.stop().await;
    kept.answer(Answer::status(200));
    let node = world.dispatch("b");
    for event in events {
        world.settled("t", event, |summary| is_delivered(summary) && summary.deliveries.len() == 2).await;
    }
    assert_eq!(numbers(&kept.requests(), "a"), (0..40).collect::<Vec<_>>());
    assert_eq!(free.count(), 40);
    node.stop().await;
}

#[tokio::test]
async fn sources_share_the_lines_of_a_destination() {
    let receiver = Receiver::start().await;
    refuse(&receiver, "a", 0);
    let world = World::new().await;
    let mut tenant = ordered(&receiver, &by_key());
    tenant["sources"].as_array_mut().unwrap().push(json!({"name": "other"}));
    tenant["connections"].as_array_mut().unwrap().push(json!({"name": "other", "source": "other", "destination": "out"}));
    world.declare("t", tenant).await;
    let node = world.dispatch("a");
    let mut events = Vec::new();
    for number in 0..10 {
        let source = if number % 2 == 0 { "in" } else { "other" };
        events.push(world.accept("t", source, &body("a", number)).await);
    }
    let tenant = world.home("t").tenant;
    let destination = world.control.state().find_tenant("t").unwrap().destinations.named("out").unwrap().id;
    eventually("all stand in line", SOON, async || (parked(&world).await == 10).then_some(())).await;
    receiver.answer(Answer::status(200));
    for event in events {
        world.settled("t", event, is_delivered).await;
    }
    assert_eq!(numbers(&receiver.requests(), "a"), (0..10).collect::<Vec<_>>());
    node.stop().await;
    let lease = world.store.acquire(SHARD, "look", LEASE).await.unwrap().expect("nobody owns it");
    let left = world.store.heads(&lease, QueueKey::Ordered(tenant, destination), world.clock.now(), crate::ALL).await.unwrap();
    assert!(left.jobs.is_empty() && left.next.is_none(), "{left:?}");
}

#[tokio::test]
async fn what_waits_keeps_its_order_when_newcomers_need_none() {
    let receiver = Receiver::start().await;
    refuse(&receiver, "a", 0);
    let world = World::new().await;
    world.declare("t", ordered(&receiver, &by_destination())).await;
    let node = world.dispatch("a");
    let events = accept(&world, "a", 0..5).await;
    eventually("all stand in line", SOON, async || (parked(&world).await == 5).then_some(())).await;
    let mut tenant = ordered(&receiver, &Value::Null);
    tenant["destinations"][0].as_object_mut().unwrap().remove("order");
    world.declare("t", tenant).await;
    let newcomer = world.accept("t", "in", &body("b", 0)).await;
    world.settled("t", newcomer, is_delivered).await;
    assert_eq!(numbers(&receiver.requests(), "a"), [0]);
    receiver.answer(Answer::status(200));
    for event in events {
        world.settled("t", event, is_delivered).await;
    }
    assert_eq!(numbers(&receiver.requests(), "a"), [0, 1, 2, 3, 4]);
    node.stop().await;
}

#[tokio::test]
async fn outputs_of_a_transform_leave_in_order_before_the_next_event() {
    let receiver = Receiver::start().await;
    receiver.answer_with(|request| Answer::status(if request.number.is_multiple_of(3) { 503 } else { 200 }));
    let world = World::new().await;
    let splitter = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/prebuilt/splitter.wasm")).unwrap();
    let component = world.keep(splitter.into()).await;
    let mut tenant = ordered(&receiver, &by_destination());
    tenant["plugins"] = json!([{"name": "splitter", "component": component, "aliases": ["live"]}]);
    tenant["connections"][0]["plugins"] = json!([{"plugin": "splitter", "version": "live", "config": {"pointer": ""}}]);
    world.declare("t", tenant).await;
    let node = world.dispatch("a");
    let mut events = Vec::new();
    for event in 0..10 {
        let parts: Vec<_> = (0..5).map(|part| json!({"k": "a", "n": event * 5 + part})).collect();
        events.push(world.accept("t", "in", &Value::from(parts).to_string()).await);
    }
    for event in events {
        world.settled("t", event, |summary| is_delivered(summary) && summary.deliveries.len() == 5).await;
    }
    assert_eq!(numbers(&receiver.requests(), "a"), (0..50).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test]
async fn what_waits_for_fuel_keeps_its_place() {
    let receiver = Receiver::start().await;
    let world = World::at(Clock::manual(START)).await;
    let component = world.keep(hungry()).await;
    let mut tenant = ordered(&receiver, &by_destination());
    tenant["plan"] = json!({"plugin_fuel": 1000});
    tenant["plugins"] = json!([{"name": "hungry", "component": component, "aliases": ["live"]}]);
    tenant["connections"][0]["plugins"] = json!([{"plugin": "hungry", "version": "live"}]);
    world.declare("t", tenant).await;
    let node = world.dispatch("a");
    let events = accept(&world, "a", 0..4).await;
    for (number, event) in events.into_iter().enumerate() {
        world.settled("t", event, is_delivered).await;
        assert_eq!(numbers(&receiver.requests(), "a"), (0..=number as u64).collect::<Vec<_>>());
        // More than one run uses.
        world.clock.advance(Duration::from_secs(200));
    }
    node.stop().await;
}
