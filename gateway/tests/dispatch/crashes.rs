//! Work that gateways go away with is given up in the end, wherever it stands outside the lanes; what they only look at is not.

use tidegate::event::{DeliveryId, EventId, JobId, Lane, Shard};
use tidegate::store::{DeliveryRecord, DeliveryState, EventSummary, Job, Lease, Origin, QueueKey, Record, Work};
use tidegate_test_support::http::{Answer, Receiver};

use crate::ALL;
use crate::world::{LEASE, SHARD, SOON, World, fan_out, is_delivered};

fn dead(summary: &EventSummary) -> Option<&str> {
    summary.deliveries.iter().find_map(|row| match &row.state {
        DeliveryState::DeadLettered { reason } => Some(reason.code.as_str()),
        _ => None,
    })
}

/// Takes work and goes away without a word, as a gateway does that crashes.
async fn crash(world: &World, times: u32, take: impl AsyncFn(&Lease) -> Vec<Job>) {
    for crash in 0..times {
        let lease = world.store.acquire(SHARD, &format!("crashing {crash}"), LEASE).await.unwrap().expect("the shard is free");
        assert_eq!(take(&lease).await.len(), 1);
        world.store.release(&lease).await.unwrap();
    }
}

async fn crash_on_what_is_due(world: &World, times: u32) {
    let now = world.clock.now();
    crash(world, times, async |lease| world.store.due(lease, now, ALL).await.unwrap()).await;
}

async fn crash_on_what_is_parked(world: &World, queue: QueueKey, times: u32) {
    crash(world, times, async |lease| world.store.unpark(lease, queue, ALL).await.unwrap().jobs).await;
}

/// An event that stands in its tenant's queue.
async fn park(world: &World, tenant: &str) -> (EventId, QueueKey) {
    let id = world.accept(tenant, "in", "{}").await;
    let lease = world.store.acquire(SHARD, "parking", LEASE).await.unwrap().expect("the shard is free");
    let claimed = world.store.claim(&lease, Lane::Normal, ALL).await.unwrap().remove(0);
    let (at, queue) = (claimed.event.accepted_at, QueueKey::Tenant(claimed.event.tenant));
    let (row, tenant) = (DeliveryId::of_event(id), claimed.event.tenant);
    let work = Work::Plan { event: Box::new(claimed.event), connection: None };
    let job = Job { id: row, attempts: 0, spent: 0, since: at, work, line: None, claims: 0 };
    let parked = DeliveryRecord {
        id: row,
        connection: None,
        destination: None,
        output: 0,
        at,
        state: DeliveryState::Parked { reason: "tenant_window".into(), queue: Some(queue) },
        attempts: Vec::new(),
        runs: Vec::new(),
        job: Some(Box::new(job)),
    };
    let origin = Origin::Entry(claimed.ticket);
    world.store.record(&lease, &[Record { origin, event: id, tenant, finished: true, deliveries: vec![parked] }]).await.unwrap();
    world.store.release(&lease).await.unwrap();
    (id, queue)
}

#[tokio::test]
async fn a_plan_that_crashes_every_gateway_from_the_schedule_is_given_up() {
    let (receiver, world) = (Receiver::start().await, World::new().await);
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 8)).await;
    let node = world.dispatch("a");
    let id = world.accept("t", "in", "{}").await;
    world.settled("t", id, is_delivered).await;
    node.stop().await;
    let event = world.store.event(world.home("t"), id).await.unwrap().unwrap().event.unwrap();
    let connection = world.control.state().find_tenant("t").unwrap().connections.named("d").unwrap().id;
    let again = DeliveryId::replay(JobId(1), id, connection);
    let work = Work::Plan { event: Box::new(event), connection: Some(connection) };
    let now = world.clock.now();
    let job = Job { id: again, attempts: 0, spent: 0, since: now, work, line: None, claims: 0 };
    assert_eq!(world.store.add(world.home("t"), &[job], now).await.unwrap(), 1);
    crash_on_what_is_due(&world, 4).await;
    let node = world.dispatch("b");
    let summary = world.settled("t", id, |summary| dead(summary).is_some()).await;
    assert_eq!(dead(&summary), Some("gateway_crashed"));
    assert_eq!(receiver.count(), 1, "it was not tried again");
    // By hand it begins anew.
    assert_eq!(world.store.retry(world.home("t"), &[again], world.clock.now()).await.unwrap(), 1);
    world.settled("t", id, is_delivered).await;
    node.stop().await;
}

#[tokio::test]
async fn an_event_that_crashes_every_gateway_from_a_queue_is_given_up() {
    let (receiver, world) = (Receiver::start().await, World::new().await);
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 8)).await;
    let (guilty, queue) = park(&world, "t").await;
    crash_on_what_is_parked(&world, queue, 4).await;
    let node = world.dispatch("b");
    let summary = world.settled("t", guilty, |summary| dead(summary).is_some()).await;
    assert_eq!(dead(&summary), Some("gateway_crashed"));
    assert_eq!(receiver.count(), 0);
    node.stop().await;
}

#[tokio::test]
async fn an_event_that_crashed_gateways_from_a_queue_runs_alone_and_gets_through() {
    let (receiver, world) = (Receiver::start().await, World::new().await);
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 8)).await;
    let (event, queue) = park(&world, "t").await;
    crash_on_what_is_parked(&world, queue, 3).await;
    let node = world.dispatch("b");
    world.settled("t", event, is_delivered).await;
    node.stop().await;
}

/// Each owner looks once since when the front of a queue waits that it does not serve. That is no hand-out: it was given up after so many
/// restarts in good order.
#[tokio::test]
async fn what_a_pause_holds_is_not_counted_by_owners_that_look_at_its_age() {
    let (receiver, world) = (Receiver::start().await, World::new().await);
    let tenant = |paused: bool| {
        let mut spec = fan_out(&[("d", receiver.url("/"))], 8);
        spec["connections"][0]["paused"] = paused.into();
        spec
    };
    world.declare("t", tenant(true)).await;
    world.declare("other", fan_out(&[("d", receiver.url("/other"))], 8)).await;
    let (other, source) = (world.home("other").tenant, world.source("other", "in"));
    let node = world.dispatch("a");
    let held = world.accept("t", "in", "{}").await;
    world.settled("t", held, |summary| summary.finished && !summary.deliveries.is_empty()).await;
    node.stop().await;
    for restart in 0..5 {
        let node = world.dispatch(&format!("restart {restart}"));
        for _ in 0..2 {
            // The low lane is read before the fronts, once in each round: so the second one comes after a look.
            let low = world.accept_in(Lane::Low, other, source, "{}").await;
            world.settled("other", low, is_delivered).await;
        }
        node.stop().await;
    }
    world.declare("t", tenant(false)).await;
    let node = world.dispatch("b");
    world.settled("t", held, is_delivered).await;
    node.stop().await;
}

const OTHER: Shard = Shard(1);

/// Events in two shards that were claimed so often by gateways that went away; two of each.
async fn crash_in_two_shards(receiver: &Receiver, world: &World, times: u32) -> [Vec<EventId>; 2] {
    let mut spec = fan_out(&[("d", receiver.url("/"))], 8);
    spec["plan"] = serde_json::json!({"shards": 2});
    world.declare("t", spec).await;
    let (tenant, source) = (world.home("t").tenant, world.source("t", "in"));
    let mut events = [Vec::new(), Vec::new()];
    for (shard, events) in [SHARD, OTHER].into_iter().zip(&mut events) {
        for _ in 0..2 {
            events.push(world.accept_at(shard, Lane::Normal, tenant, source, "{}").await);
        }
        for crash in 0..times {
            let lease = world.store.acquire(shard, &format!("crashing {crash}"), LEASE).await.unwrap().expect("the shard is free");
            let fresh = world.store.claim(&lease, Lane::Normal, ALL).await.unwrap();
            let held = fresh.iter().map(|claimed| claimed.ticket).collect();
            let again = world.store.reclaim(&lease, &held, ALL).await.unwrap();
            assert_eq!(fresh.len() + again.len(), 2);
            world.store.release(&lease).await.unwrap();
        }
    }
    events
}

/// Each shard ran its suspects one at a time, but all shards at once: one that another shard's took the gateway away with was counted with it.
#[tokio::test]
async fn suspects_of_two_shards_run_one_at_a_time_and_are_not_counted_while_they_wait() {
    let (receiver, world) = (Receiver::start().await, World::with_shards(2).await);
    receiver.answer(Answer::hang());
    let events = crash_in_two_shards(&receiver, &world, 2).await;
    let node = world.dispatch("b");
    receiver.wait_for(1, SOON).await;
    // What is new in a shard that has no suspect in hand would begin: both have one, in hand or waiting.
    let begun = async || {
        let mut begun = 0;
        for shard in [SHARD, OTHER] {
            begun += world.store.depth(shard).await.unwrap().lanes.iter().map(|lane| lane.entries).sum::<u64>();
        }
        begun
    };
    assert_eq!((receiver.count(), begun().await), (1, 4), "one runs, and it is not over");
    node.stop().await;
    let mut counts = Vec::new();
    for shard in [SHARD, OTHER] {
        let lease = world.store.acquire(shard, "counting", LEASE).await.unwrap().expect("the shard is free");
        let mut held = std::collections::HashSet::new();
        loop {
            let found = world.store.reclaim(&lease, &held, ALL).await.unwrap();
            if found.is_empty() {
                break;
            }
            held.extend(found.iter().map(|one| one.ticket));
            counts.extend(found.iter().map(|one| one.claims));
        }
    }
    counts.sort();
    // The one that ran was put on the schedule as the gateway stopped.
    assert_eq!(counts, [3, 3, 3], "no other was handed out");
    let _all = events;
}

/// A suspect that hangs keeps its own shard, and others that have a suspect, but none that has none.
#[tokio::test]
async fn a_suspect_that_hangs_keeps_no_other_shard() {
    let (receiver, world) = (Receiver::start().await, World::with_shards(2).await);
    receiver.answer(Answer::hang());
    world.declare("quiet", fan_out(&[("d", receiver.url("/quiet"))], 8)).await;
    let (guilty, queue) = {
        world.declare("t", fan_out(&[("d", receiver.url("/"))], 8)).await;
        park(&world, "t").await
    };
    crash_on_what_is_parked(&world, queue, 3).await;
    let node = world.dispatch("b");
    receiver.wait_for(1, SOON).await;
    receiver.answer(Answer::status(200));
    let (tenant, source) = (world.home("quiet").tenant, world.source("quiet", "in"));
    world.accept_at(OTHER, Lane::Normal, tenant, source, "{}").await;
    receiver.wait_for(2, SOON).await;
    assert!(!is_delivered(&world.store.event(world.home("t"), guilty).await.unwrap().unwrap().summary));
    node.stop().await;
}
