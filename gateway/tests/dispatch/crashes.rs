//! Work that gateways go away with is given up in the end, wherever it stands outside the lanes; what they only look at is not.

use tidegate::event::{DeliveryId, EventId, JobId, Lane};
use tidegate::store::{DeliveryRecord, DeliveryState, EventSummary, Job, Lease, Origin, QueueKey, Record, Work};
use tidegate_test_support::http::Receiver;

use crate::ALL;
use crate::world::{LEASE, SHARD, World, fan_out, is_delivered};

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
