//! The first of a line that gateways go away with runs alone after a while, and is given up in the end; what is behind it goes on.

use std::time::Duration;

use tidegate::clock::Clock;
use tidegate::event::{EventId, Lane};
use tidegate::store::{DeliveryState, QueueKey};
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Receiver};

use super::{accept, by_destination, by_key, dead, numbers, ordered, parked, refuse};
use crate::plugins::START;
use crate::world::{LEASE, SHARD, SOON, World, fan_out, is_delivered};

/// Two events in a line, of which the first was handed out so often by gateways that went away without a word.
async fn crash_on_the_first(world: &World, receiver: &Receiver, crashes: u32) -> Vec<EventId> {
    refuse(receiver, "a", 0);
    world.declare("t", ordered(receiver, &by_destination())).await;
    let node = world.dispatch("a");
    let events = accept(world, "a", 0..2).await;
    eventually("both stand in line", SOON, async || (parked(world).await == 2).then_some(())).await;
    receiver.wait_for(1, SOON).await;
    node.stop().await;
    let later = Clock::system().now().after(SOON);
    for crash in 0..crashes {
        let lease = world.store.acquire(SHARD, &format!("crashing {crash}"), LEASE).await.unwrap().expect("the shard is free");
        assert_eq!(world.store.heads(&lease, queue(world), later, crate::ALL).await.unwrap().jobs.len(), 1);
        world.store.release(&lease).await.unwrap();
    }
    receiver.answer(Answer::status(200));
    events
}

#[tokio::test]
async fn one_that_crashed_gateways_before_runs_alone_and_gets_through() {
    let (receiver, world) = (Receiver::start().await, World::new().await);
    let events = crash_on_the_first(&world, &receiver, 3).await;
    let node = world.dispatch("b");
    for event in events {
        world.settled("t", event, is_delivered).await;
    }
    assert_eq!(numbers(&receiver.requests(), "a"), [0, 1]);
    node.stop().await;
}

#[tokio::test]
async fn one_that_crashes_every_gateway_is_given_up() {
    let (receiver, world) = (Receiver::start().await, World::new().await);
    let events = crash_on_the_first(&world, &receiver, 4).await;
    let attempts = receiver.count();
    let node = world.dispatch("b");
    let summary = world.settled("t", events[0], |summary| dead(summary).is_some()).await;
    assert_eq!(dead(&summary), Some("gateway_crashed"));
    world.settled("t", events[1], is_delivered).await;
    assert_eq!(receiver.count(), attempts + 1, "it was not tried again");
    assert_eq!(world.store.retry(world.home("t"), &[summary.deliveries[0].id], world.clock.now()).await.unwrap(), 1);
    world.settled("t", events[0], is_delivered).await;
    node.stop().await;
}

/// Gateways read an innocent one together with one that they go away with: it was given up with that one.
#[tokio::test]
async fn one_that_stands_beside_one_that_crashes_every_gateway_is_delivered() {
    let (receiver, world) = (Receiver::start().await, World::at(Clock::manual(START)).await);
    let tenant = |paused: bool| {
        let mut tenant = ordered(&receiver, &by_key());
        tenant["connections"][0]["paused"] = paused.into();
        tenant
    };
    world.declare("t", tenant(true)).await;
    let node = world.dispatch("a");
    let guilty = accept(&world, "guilty", 0..1).await.remove(0);
    eventually("it stands in line", SOON, async || (parked(&world).await == 1).then_some(())).await;
    world.clock.advance(Duration::from_secs(1));
    let innocent = accept(&world, "innocent", 0..1).await.remove(0);
    eventually("both stand in line", SOON, async || (parked(&world).await == 2).then_some(())).await;
    node.stop().await;
    // The one that is first is begun first, and alone once it is suspected.
    for crash in 0..4 {
        let lease = world.store.acquire(SHARD, &format!("crashing {crash}"), LEASE).await.unwrap().expect("the shard is free");
        let heads = world.store.heads(&lease, queue(&world), world.clock.now(), crate::ALL).await.unwrap();
        assert_eq!(heads.jobs[0].event(), guilty);
        world.store.release(&lease).await.unwrap();
    }
    world.declare("t", tenant(false)).await;
    let node = world.dispatch("b");
    let summary = world.settled("t", guilty, |summary| dead(summary).is_some()).await;
    assert_eq!(dead(&summary), Some("gateway_crashed"));
    world.settled("t", innocent, is_delivered).await;
    assert_eq!(receiver.count(), 1);
    node.stop().await;
}

/// The same for what is in nobody's hands.
#[tokio::test]
async fn an_event_beside_one_that_crashes_every_gateway_is_delivered() {
    let (receiver, world) = (Receiver::start().await, World::new().await);
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 8)).await;
    let guilty = world.accept("t", "in", "{}").await;
    let innocent = world.accept("t", "in", "{}").await;
    for crash in 0..4 {
        let lease = world.store.acquire(SHARD, &format!("crashing {crash}"), LEASE).await.unwrap().expect("the shard is free");
        let found = match crash {
            0 => world.store.claim(&lease, Lane::Normal, crate::ALL).await.unwrap(),
            _ => world.store.reclaim(&lease, &[].into(), crate::ALL).await.unwrap(),
        };
        assert_eq!(found[0].event.id, guilty);
        world.store.release(&lease).await.unwrap();
    }
    let node = world.dispatch("b");
    let summary = world.settled("t", guilty, |summary| summary.finished).await;
    assert_eq!(dead(&summary), Some("gateway_crashed"));
    world.settled("t", innocent, is_delivered).await;
    assert_eq!(receiver.count(), 1);
    node.stop().await;
}

fn queue(world: &World) -> QueueKey {
    let (tenant, state) = (world.home("t").tenant, world.control.state());
    QueueKey::Ordered(tenant, state.find_tenant("t").unwrap().destinations.named("out").unwrap().id)
}

/// What was delivered before stays so; only the rest is given up.
#[tokio::test]
async fn what_an_event_came_to_before_it_crashed_gateways_is_kept() {
    let (good, bad) = (Receiver::start().await, Receiver::start().await);
    bad.answer(Answer::hang());
    let world = World::new().await;
    world.declare("t", fan_out(&[("good", good.url("/")), ("bad", bad.url("/"))], 8)).await;
    let node = world.dispatch("a");
    let event = world.accept("t", "in", "{}").await;
    world.settled("t", event, |summary| summary.deliveries.iter().any(|row| row.state == DeliveryState::Delivered)).await;
    // The gateway loses its lease with the rest in hand, and so do others.
    let lease = world.store.acquire(SHARD, "a", LEASE).await.unwrap().expect("a node gets a new lease");
    node.stop().await;
    world.store.release(&lease).await.unwrap();
    for crash in 1..4 {
        let lease = world.store.acquire(SHARD, &format!("crashing {crash}"), LEASE).await.unwrap().expect("the shard is free");
        assert_eq!(world.store.reclaim(&lease, &[].into(), crate::ALL).await.unwrap().len(), 1);
        world.store.release(&lease).await.unwrap();
    }
    let node = world.dispatch("b");
    let summary = world.settled("t", event, |summary| summary.finished).await;
    let states: Vec<_> = summary.deliveries.iter().map(|row| (row.connection.is_some(), row.state.is_terminal())).collect();
    assert_eq!(states, [(true, true), (true, true)], "{summary:?}");
    assert!(summary.deliveries.iter().any(|row| row.state == DeliveryState::Delivered), "{summary:?}");
    assert_eq!(dead(&summary), Some("gateway_crashed"));
    bad.answer(Answer::status(200));
    let id = summary.deliveries.iter().find(|row| row.state != DeliveryState::Delivered).map(|row| row.id).unwrap();
    assert_eq!(world.store.retry(world.home("t"), &[id], world.clock.now()).await.unwrap(), 1);
    world.settled("t", event, is_delivered).await;
    assert_eq!(good.count(), 1, "what was delivered is not delivered again");
    node.stop().await;
}
