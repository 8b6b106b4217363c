//! What an operator sets is kept: lanes, retries and shards that are paused, and who is diverted and comes back in order.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tidegate::clock::{Clock, Timestamp};
use tidegate::control::snapshot::{Diversion, Diverted, Percent, Traffic};
use tidegate::event::{EventId, Lane};
use tidegate::store::DeliveryState;
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Receiver};

use crate::world::{LEASE, SHARD, SOON, World, fan_out, is_delivered};

const PAUSED: Percent = Percent::NONE;

async fn parked(world: &World, count: u64) {
    eventually("work is parked", SOON, async || (world.store.depth(SHARD).await.unwrap().parked == count).then_some(())).await;
}

async fn waits_for(world: &World, tenant: &str, event: EventId, wanted: &str) {
    let is_wanted = |state: &DeliveryState| matches!(state, DeliveryState::Parked { reason, .. } if reason == wanted);
    world.settled(tenant, event, |summary| summary.deliveries.iter().any(|row| is_wanted(&row.state))).await;
}

/// One event at a time, so that the order of deliveries is the order of the queue.
fn one_by_one(url: String) -> Value {
    let mut spec = fan_out(&[("d", url)], 8);
    spec["plan"] = json!({"rate": 1000.0, "burst": 1000, "weight": 1, "in_flight": 1});
    spec["sources"] = json!([{"name": "in"}, {"name": "other"}]);
    spec["connections"] =
        json!([{"name": "d", "source": "in", "destination": "d"}, {"name": "o", "source": "other", "destination": "d"}]);
    spec
}

fn bodies(receiver: &Receiver) -> Vec<String> {
    receiver.requests().iter().map(|request| String::from_utf8_lossy(&request.body).into_owned()).collect()
}

#[tokio::test]
async fn who_is_diverted_waits_and_comes_back_in_order() {
    for by_source in [false, true] {
        let (receiver, others) = (Receiver::start().await, Receiver::start().await);
        let world = World::new().await;
        world.declare("t", one_by_one(receiver.url("/"))).await;
        world.declare("quiet", fan_out(&[("d", others.url("/"))], 8)).await;
        let (tenant, source) = (world.home("t").tenant, world.source("t", "in"));
        let who = if by_source { Diverted::Source(source) } else { Diverted::Tenant(tenant) };
        let set = |diversion| world.steer(Traffic { diverted: [(who, diversion)].into(), ..Traffic::default() });
        set(Diversion::Held);
        // What was on its way already, and what acceptors divert.
        for body in ["1", "2"] {
            world.accept("t", "in", body).await;
        }
        for body in ["3", "4"] {
            world.accept_in(Lane::Held, tenant, source, body).await;
        }
        let mut node = world.dispatch("a");
        let quiet = world.accept("quiet", "in", "q").await;
        world.settled("quiet", quiet, is_delivered).await;
        parked(&world, 2).await;
        let mut expected = vec!["1", "2", "3", "4", "5", "6"];
        if by_source {
            let beside = world.accept("t", "other", "beside").await;
            world.settled("t", beside, is_delivered).await;
            expected.insert(0, "beside");
        }
        assert_eq!(bodies(&receiver), expected[..expected.len() - 6]);
        // Another gateway takes over, with nothing forgotten.
        node.stop().await;
        node = world.dispatch("b");
        set(Diversion::Returning);
        world.accept_in(Lane::Held, tenant, source, "5").await;
        receiver.wait_for(expected.len() - 1, SOON).await;
        eventually("the diversion is over", SOON, async || world.came_back.lock().unwrap().contains(&(who, SHARD)).then_some(()))
            .await;
        world.steer(Traffic::default());
        let last = world.accept("t", "in", "6").await;
        world.settled("t", last, is_delivered).await;
        assert_eq!(bodies(&receiver), expected, "{who:?}");
        node.stop().await;
    }
}

#[tokio::test]
async fn a_shard_whose_work_breaks_begins_anew() {
    let receiver = Receiver::start().await;
    let world = World::new().await;
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 8)).await;
    let who = Diverted::Tenant(world.home("t").tenant);
    world.breaks.store(true, Ordering::SeqCst);
    world.steer(Traffic { diverted: [(who, Diversion::Returning)].into(), ..Traffic::default() });
    let node = world.dispatch("a");
    eventually("the shard's work broke", SOON, async || (!world.breaks.load(Ordering::SeqCst)).then_some(())).await;
    let event = world.accept("t", "in", "{}").await;
    world.settled("t", event, is_delivered).await;
    node.stop().await;
}

#[tokio::test]
async fn what_comes_late_into_the_held_lane_is_delivered_all_the_same() {
    let receiver = Receiver::start().await;
    let world = World::new().await;
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 8)).await;
    let node = world.dispatch("a");
    let event = world.accept_in(Lane::Held, world.home("t").tenant, world.source("t", "in"), "late").await;
    world.settled("t", event, is_delivered).await;
    node.stop().await;
}

#[tokio::test]
async fn the_held_can_be_drained_while_they_are_diverted() {
    let receiver = Receiver::start().await;
    let world = World::new().await;
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 8)).await;
    let (tenant, source) = (world.home("t").tenant, world.source("t", "in"));
    let held = Traffic { diverted: [(Diverted::Tenant(tenant), Diversion::Held)].into(), ..Traffic::default() };
    world.steer(held.clone());
    let node = world.dispatch("a");
    let events = [world.accept_in(Lane::Held, tenant, source, "{}").await, world.accept("t", "in", "{}").await];
    parked(&world, 1).await;
    world.steer(Traffic { held: Percent::new(10).unwrap(), ..held });
    for event in events {
        world.settled("t", event, is_delivered).await;
    }
    assert!(world.came_back.lock().unwrap().is_empty(), "it is still diverted");
    node.stop().await;
}

#[tokio::test]
async fn a_paused_lane_waits_and_the_other_does_not() {
    let receiver = Receiver::start().await;
    let world = World::new().await;
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 8)).await;
    let (tenant, source) = (world.home("t").tenant, world.source("t", "in"));
    let all = Traffic::default();
    for (paused, traffic) in
        [(Lane::Low, Traffic { low: PAUSED, ..all.clone() }), (Lane::Normal, Traffic { normal: PAUSED, ..all.clone() })]
    {
        world.steer(traffic);
        let node = world.dispatch("a");
        let other = if paused == Lane::Low { Lane::Normal } else { Lane::Low };
        let waiting = world.accept_in(paused, tenant, source, "{}").await;
        for _ in 0..3 {
            let passing = world.accept_in(other, tenant, source, "{}").await;
            world.settled("t", passing, is_delivered).await;
        }
        let rows = world.store.event(world.home("t"), waiting).await.unwrap().unwrap().summary.deliveries;
        assert_eq!(rows, [], "{paused:?}");
        world.steer(all.clone());
        world.settled("t", waiting, is_delivered).await;
        node.stop().await;
    }
}

#[tokio::test]
async fn retries_pause_alone() {
    let receiver = Receiver::start().await;
    receiver.answer_in_turn([Answer::status(500)], Answer::status(200));
    let world = World::new().await;
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 8)).await;
    world.steer(Traffic { retries: PAUSED, ..Traffic::default() });
    let mut node = world.dispatch("a");
    let failed = world.accept("t", "in", "{}").await;
    waits_for(&world, "t", failed, "retries_paused").await;
    let first = world.accept("t", "in", "{}").await;
    world.settled("t", first, is_delivered).await;
    assert_eq!(receiver.count(), 2);
    node.stop().await;
    node = world.dispatch("b");
    world.steer(Traffic::default());
    let summary = world.settled("t", failed, is_delivered).await;
    assert_eq!(summary.deliveries[0].attempts.len(), 2);
    node.stop().await;
}

#[tokio::test]
async fn a_paused_shard_waits() {
    let receiver = Receiver::start().await;
    let world = World::new().await;
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 8)).await;
    world.steer(Traffic { shards: [(SHARD, PAUSED)].into(), ..Traffic::default() });
    let node = world.dispatch("a");
    let event = world.accept("t", "in", "{}").await;
    let is_taken = async || world.store.acquire(SHARD, "other", LEASE).await.unwrap().is_none().then_some(());
    eventually("the shard has an owner", SOON, is_taken).await;
    for _ in 0..100 {
        // Each is a write, and the owner is woken by it.
        world.accept("t", "in", "{}").await;
    }
    assert_eq!(receiver.count(), 0);
    world.steer(Traffic::default());
    world.settled("t", event, is_delivered).await;
    node.stop().await;
}

#[tokio::test]
async fn many_noisy_tenants_never_take_the_room_of_a_quiet_one() {
    let (hanging, quiet) = (Receiver::start().await, Receiver::start().await);
    hanging.answer(Answer::hang());
    let world = World::new().await;
    // Each may have more in flight than the whole node has room for, at many destinations.
    for tenant in ["a", "b", "c", "d"] {
        let names: Vec<String> = (0..8).map(|number| format!("d{number}")).collect();
        let destinations: Vec<_> = names.iter().map(|name| (name.as_str(), hanging.url("/"))).collect();
        let mut spec = fan_out(&destinations, 256);
        spec["plan"] = json!({"rate": 1e6, "burst": 1_000_000, "in_flight": 10_000});
        world.declare(tenant, spec).await;
    }
    world.declare("quiet", fan_out(&[("d", quiet.url("/"))], 8)).await;
    let node = world.dispatch("n");
    for _ in 0..200 {
        for tenant in ["a", "b", "c", "d"] {
            world.accept(tenant, "in", "{}").await;
        }
    }
    eventually("the noisy ones are parked", SOON, async || (world.store.depth(SHARD).await.unwrap().parked > 300).then_some(()))
        .await;
    for _ in 0..20 {
        let event = world.accept("quiet", "in", "{}").await;
        world.settled("quiet", event, is_delivered).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn a_source_that_is_diverted_while_its_tenant_waits_keeps_its_order() {
    let receiver = Receiver::start().await;
    let world = World::new().await;
    world.declare("t", one_by_one(receiver.url("/"))).await;
    let (tenant, source) = (world.home("t").tenant, world.source("t", "in"));
    let set = |diversion| world.steer(Traffic { diverted: [(Diverted::Source(source), diversion)].into(), ..Traffic::default() });
    receiver.answer(Answer::hang());
    let mut node = world.dispatch("a");
    world.accept("t", "other", "first").await;
    receiver.wait_for(1, SOON).await;
    let mut events = Vec::new();
    for body in ["1", "2"] {
        events.push(world.accept("t", "in", body).await);
    }
    // The window is full: these wait in their tenant's queue.
    parked(&world, 2).await;
    set(Diversion::Held);
    // By acceptors that have not heard of it yet.
    for body in ["3", "4"] {
        events.push(world.accept("t", "in", body).await);
    }
    parked(&world, 4).await;
    node.stop().await;
    receiver.answer(Answer::status(200));
    node = world.dispatch("b");
    receiver.wait_for(2, SOON).await;
    for event in events {
        waits_for(&world, "t", event, "held").await;
    }
    set(Diversion::Returning);
    let last = world.accept_in(Lane::Held, tenant, source, "5").await;
    world.settled("t", last, is_delivered).await;
    assert_eq!(bodies(&receiver), ["first", "first", "1", "2", "3", "4", "5"]);
    node.stop().await;
}

/// The last that acceptors held, more than is read at once, goes before what is new.
#[tokio::test]
async fn what_is_new_waits_until_the_held_lane_is_read_to_its_end() {
    const LATE: usize = 800;
    let receiver = Receiver::start().await;
    let world = World::at(Clock::manual(Timestamp(1_800_000_000_000))).await;
    world.declare("t", one_by_one(receiver.url("/"))).await;
    let (tenant, source) = (world.home("t").tenant, world.source("t", "in"));
    let who = Diverted::Tenant(tenant);
    world.steer(Traffic { diverted: [(who, Diversion::Returning)].into(), ..Traffic::default() });
    let node = world.dispatch("a");
    eventually("the diversion is over", SOON, async || world.came_back.lock().unwrap().contains(&(who, SHARD)).then_some(())).await;
    world.steer(Traffic { normal: PAUSED, ..Traffic::default() });
    for number in 0..LATE {
        world.accept_in(Lane::Held, tenant, source, &number.to_string()).await;
    }
    let new = world.accept("t", "in", &LATE.to_string()).await;
    world.steer(Traffic::default());
    world.settled("t", new, is_delivered).await;
    receiver.wait_for(LATE + 1, SOON).await;
    assert_eq!(bodies(&receiver), (0..=LATE).map(|number| number.to_string()).collect::<Vec<_>>());
    node.stop().await;
}
