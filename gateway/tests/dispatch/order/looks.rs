//! The first of a line that waits for long is recorded when it begins to, and not again and again.

use std::time::Duration;

use serde_json::json;
use tidegate::clock::{Clock, Timestamp};
use tidegate::control::snapshot::{Percent, Traffic};
use tidegate::event::EventId;
use tidegate::plugin::poison::FIRST_TRY;
use tidegate::store::DeliveryState;
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Receiver};

use super::{accept, body, by_key, numbers, ordered, refuse};
use crate::guest::filter;
use crate::plugins::{KEEP, START};
use crate::world::{SOON, World, is_delivered};

/// Looks of the shard's owner, each some seconds after the one before.
const LOOKS: usize = 20;
const PAUSE: Duration = Duration::from_secs(5);

/// When it was recorded that an event's one delivery waits for this, and how often its plugins have run.
async fn waits_since(world: &World, event: EventId, wanted: &str) -> (Timestamp, usize) {
    let is_wanted = |state: &DeliveryState| matches!(state, DeliveryState::Parked { reason, .. } if reason == wanted);
    let summary = world.settled("t", event, |summary| summary.deliveries.iter().any(|row| is_wanted(&row.state))).await;
    (summary.deliveries[0].at, summary.deliveries[0].runs.len())
}

/// Lets time pass. Each step ends with an event of another key that is delivered, which was looked at after all that had waited.
async fn pass(world: &World, source: &str) {
    for number in 0..LOOKS {
        world.clock.advance(PAUSE);
        let event = world.accept("t", source, &body("beside", number)).await;
        world.settled("t", event, is_delivered).await;
    }
}

#[tokio::test]
async fn one_of_two_connections_is_paused() {
    let receiver = Receiver::start().await;
    let world = World::at(Clock::manual(START)).await;
    let tenant = |paused: bool| {
        let mut tenant = ordered(&receiver, &by_key());
        tenant["sources"].as_array_mut().unwrap().push(json!({"name": "other"}));
        let other = json!({"name": "other", "source": "other", "destination": "out"});
        tenant["connections"].as_array_mut().unwrap().push(other);
        tenant["connections"][0]["paused"] = paused.into();
        tenant
    };
    world.declare("t", tenant(true)).await;
    let node = world.dispatch("a");
    let events = accept(&world, "a", 0..3).await;
    let since = waits_since(&world, events[0], "connection_paused").await;
    pass(&world, "other").await;
    assert_eq!(waits_since(&world, events[0], "connection_paused").await, since);
    world.declare("t", tenant(false)).await;
    world.clock.advance(Duration::from_secs(16));
    for event in events {
        world.settled("t", event, is_delivered).await;
    }
    assert_eq!(numbers(&receiver.requests(), "a"), [0, 1, 2]);
    node.stop().await;
}

#[tokio::test]
async fn retries_are_paused() {
    let receiver = Receiver::start().await;
    refuse(&receiver, "a", 0);
    let world = World::at(Clock::manual(START)).await;
    world.declare("t", ordered(&receiver, &by_key())).await;
    world.steer(Traffic { retries: Percent::NONE, ..Traffic::default() });
    let node = world.dispatch("a");
    let events = accept(&world, "a", 0..3).await;
    world.settled("t", events[0], |summary| summary.deliveries.iter().any(|row| row.attempts.len() == 1)).await;
    world.clock.advance(PAUSE);
    let since = waits_since(&world, events[0], "retries_paused").await;
    pass(&world, "in").await;
    assert_eq!(waits_since(&world, events[0], "retries_paused").await, since);
    assert_eq!(numbers(&receiver.requests(), "a"), [0]);
    receiver.answer(Answer::status(200));
    world.steer(Traffic::default());
    world.clock.advance(Duration::from_secs(16));
    for event in events {
        world.settled("t", event, is_delivered).await;
    }
    assert_eq!(receiver.requests().iter().filter(|request| request.json()["k"] == "a").count(), 4);
    node.stop().await;
}

#[tokio::test]
async fn a_poisoned_plugin_keeps_all_lines_but_for_one_try() {
    let receiver = Receiver::start().await;
    let world = World::at(Clock::manual(START)).await;
    let (bad, good) = (world.keep(filter("", "(unreachable)")).await, world.keep(filter("", KEEP)).await);
    let tenant = |component: &str| {
        let mut tenant = ordered(&receiver, &by_key());
        tenant["plugins"] = json!([{"name": "p", "component": component, "aliases": ["live"]}]);
        tenant["connections"][0]["plugins"] = json!([{"plugin": "p", "version": "live", "poison_after": 1}]);
        // Beside it there is a connection that needs no plugin.
        tenant["sources"].as_array_mut().unwrap().push(json!({"name": "other"}));
        tenant["destinations"].as_array_mut().unwrap().push(json!({"name": "free", "url": receiver.url("/free")}));
        let other = json!({"name": "other", "source": "other", "destination": "free"});
        tenant["connections"].as_array_mut().unwrap().push(other);
        tenant
    };
    world.declare("t", tenant(&bad)).await;
    let node = world.dispatch("a");
    let first = world.accept("t", "in", &body("a", 0)).await;
    let mut since = vec![waits_since(&world, first, "plugin_poisoned").await];
    assert_eq!(since[0].1, 1);
    let mut events = vec![first];
    for key in ["b", "c", "d"] {
        events.push(world.accept("t", "in", &body(key, 0)).await);
        world.settled("t", events[events.len() - 1], |summary| !summary.deliveries.is_empty()).await;
    }
    // One of them, the one that has waited longest, tries the plugin out.
    world.clock.advance(FIRST_TRY);
    let stops = async || world.poisoned("t").first().filter(|poisoned| poisoned.stops == 2).map(|poisoned| poisoned.stops);
    eventually("a try", SOON, stops).await;
    eventually("only one left the queue, and is recorded", SOON, async || {
        let mut runs = 0;
        for event in &events {
            let history = world.store.event(world.home("t"), *event).await.unwrap()?;
            runs += history.summary.deliveries.iter().map(|row| row.runs.len()).sum::<usize>();
        }
        (runs == 2).then_some(())
    })
    .await;
    since.clear();
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(1));
        let beside = world.accept("t", "other", "{}").await;
        world.settled("t", beside, is_delivered).await;
        let mut rows = Vec::new();
        for event in &events {
            let summary = world.settled("t", *event, |summary| !summary.deliveries.is_empty()).await;
            rows.push((summary.deliveries[0].at, summary.deliveries[0].runs.len()));
        }
        if since.is_empty() {
            since.clone_from(&rows);
        }
        assert_eq!(rows, since, "nothing is looked at while the circuit is open");
    }
    world.declare("t", tenant(&good)).await;
    for event in events {
        world.settled("t", event, is_delivered).await;
    }
    node.stop().await;
}
