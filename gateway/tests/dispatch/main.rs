//! The dispatch wing at its boundary: events in a real store, destinations behind real sockets.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

mod batch;
mod circuit;
mod crashes;
#[path = "../plugin/guest.rs"]
#[allow(dead_code, reason = "the plugins' own tests need more of it")]
mod guest;
mod limits;
mod order;
mod plugins;
#[path = "../store/on_redis/proxy.rs"]
#[allow(dead_code, reason = "the store's own tests need more of it")]
mod proxy;
mod recovery;
mod spread;
mod steer;
mod wait;
mod world;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tidegate::event::{DeliveryId, JobId, Lane, SourceId};
use tidegate::store::{Budget, DeliveryState, Job, Work};
use tidegate_test_support::http::{Answer, Receiver};
use tokio::runtime::Handle;
use world::{LEASE, SHARD, SOON, World, fan_out, is_delivered};

const ALL: Budget = Budget::new(100, 1 << 20);

#[tokio::test]
async fn a_failing_destination_is_tried_again_and_its_sibling_never_feels_it() {
    let (good, bad) = (Receiver::start().await, Receiver::start().await);
    bad.answer_in_turn([Answer::status(500), Answer::status(503)], Answer::status(200));
    let world = World::new().await;
    world.declare("t", fan_out(&[("good", good.url("/")), ("bad", bad.url("/"))], 8)).await;
    let node = world.dispatch("a");
    let event = world.accept("t", "in", "{}").await;
    let summary = world.settled("t", event, is_delivered).await;
    let mut attempts: Vec<_> = summary.deliveries.iter().map(|row| row.attempts.len()).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 3]);
    assert_eq!((good.count(), bad.count()), (1, 3));
    let ids: HashSet<_> = bad.requests().iter().map(|request| request.webhook_id().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 1, "one delivery keeps one id over all its attempts");
    node.stop().await;
}

#[tokio::test]
async fn what_is_used_up_is_dead_lettered_with_its_reason_and_can_be_retried_by_hand() {
    let receiver = Receiver::start().await;
    receiver.answer(Answer::status(500));
    let world = World::new().await;
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 8)).await;
    let node = world.dispatch("a");
    let event = world.accept("t", "in", "{}").await;
    let dead = |row: &tidegate::store::DeliveryRecord| matches!(&row.state, DeliveryState::DeadLettered { reason } if reason.code == "attempts_exhausted");
    let summary = world.settled("t", event, |summary| summary.deliveries.iter().any(dead)).await;
    assert_eq!(summary.deliveries[0].attempts.len(), 3);
    receiver.answer(Answer::status(200));
    let retried =
        world.store.retry(world.home("t"), &[summary.deliveries[0].id], tidegate::clock::Clock::system().now()).await.unwrap();
    assert_eq!(retried, 1);
    let summary = world.settled("t", event, is_delivered).await;
    assert_eq!(summary.deliveries[0].attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(world.store.depth(SHARD).await.unwrap().dead_letters, 0);
    node.stop().await;
}

#[tokio::test]
async fn a_hanging_destination_parks_its_own_deliveries_and_no_others() {
    let (good, hanging) = (Receiver::start().await, Receiver::start().await);
    hanging.answer(Answer::hang());
    let world = World::new().await;
    world.declare("t", fan_out(&[("good", good.url("/")), ("hanging", hanging.url("/"))], 2)).await;
    let node = world.dispatch("a");
    for number in 0..20 {
        world.accept("t", "in", &number.to_string()).await;
    }
    good.wait_for(20, SOON).await;
    hanging.wait_for(2, SOON).await;
    tidegate_test_support::eventually("18 parked deliveries", SOON, async || {
        (world.store.depth(SHARD).await.unwrap().parked == 18).then_some(())
    })
    .await;
    assert_eq!(hanging.count(), 2, "its window holds two");
    node.stop().await;
    // What hung at the stop is still queued, and so is what was parked: another owner delivers all of it.
    hanging.answer(Answer::status(200));
    let node = world.dispatch("b");
    let requests = hanging.wait_until(SOON, |requests| bodies(requests).len() == 20).await;
    assert!(requests.len() <= 22, "only what was under way at the stop came twice");
    node.stop().await;
}

#[tokio::test]
async fn a_tenant_over_its_window_is_parked_and_a_quiet_one_passes() {
    let (slow, quick) = (Receiver::start().await, Receiver::start().await);
    slow.answer(Answer::hang());
    let world = World::new().await;
    let mut noisy = fan_out(&[("d", slow.url("/"))], 64);
    noisy["plan"] = json!({"rate": 1000.0, "burst": 1000, "weight": 1, "in_flight": 4});
    world.declare("noisy", noisy).await;
    world.declare("quiet", fan_out(&[("d", quick.url("/"))], 64)).await;
    for number in 0..50 {
        world.accept("noisy", "in", &number.to_string()).await;
    }
    let event = world.accept("quiet", "in", "{}").await;
    let node = world.dispatch("a");
    world.settled("quiet", event, is_delivered).await;
    slow.wait_for(4, SOON).await;
    assert_eq!(slow.count(), 4, "the window holds four");
    slow.answer(Answer::status(200));
    node.stop().await;
    let node = world.dispatch("b");
    slow.wait_until(SOON, |requests| bodies(requests).len() == 50).await;
    node.stop().await;
}

#[tokio::test]
async fn an_event_without_a_place_to_go_has_a_recorded_status() {
    let world = World::new().await;
    world.declare("t", json!({"sources": [{"name": "in"}]})).await;
    let node = world.dispatch("a");
    let unmatched = world.accept("t", "in", "{}").await;
    let summary = world.settled("t", unmatched, |summary| summary.finished && !summary.deliveries.is_empty()).await;
    assert_eq!(summary.deliveries[0].state, DeliveryState::Unmatched);
    let unknown = world.accept_as(world.home("t").tenant, SourceId(7), "{}").await;
    let summary = world.settled("t", unknown, |summary| summary.finished && !summary.deliveries.is_empty()).await;
    assert!(
        matches!(&summary.deliveries[0].state, DeliveryState::DeadLettered { reason } if reason.code == "unknown_source"),
        "{summary:?}"
    );
    node.stop().await;
}

#[tokio::test]
async fn a_filter_that_says_no_is_a_recorded_status() {
    let receiver = Receiver::start().await;
    let world = World::new().await;
    let mut spec = fan_out(&[("d", receiver.url("/"))], 8);
    spec["connections"][0]["filter"] = json!({"body": {"kind": "wanted"}});
    world.declare("t", spec).await;
    let node = world.dispatch("a");
    let no = world.accept("t", "in", r#"{"kind": "other"}"#).await;
    let yes = world.accept("t", "in", r#"{"kind": "wanted"}"#).await;
    world.settled("t", yes, is_delivered).await;
    let summary = world.settled("t", no, |summary| summary.finished && !summary.deliveries.is_empty()).await;
    assert_eq!(summary.deliveries[0].state, DeliveryState::Filtered { by: "filter".into() });
    assert_eq!(receiver.count(), 1);
    node.stop().await;
}

/// Claims the one event and goes away without a word, as a gateway does that crashes.
async fn crash_on_it(world: &World, crashes: u32) {
    for crash in 0..crashes {
        let lease = world.store.acquire(SHARD, &format!("crashing {crash}"), LEASE).await.unwrap().expect("the shard is free");
        let fresh = world.store.claim(&lease, Lane::Normal, ALL).await.unwrap();
        let again = world.store.reclaim(&lease, &fresh.iter().map(|claimed| claimed.ticket).collect(), ALL).await.unwrap();
        assert_eq!(fresh.len() + again.len(), 1);
        world.store.release(&lease).await.unwrap();
    }
}

#[tokio::test]
async fn an_event_that_crashed_gateways_before_runs_alone_and_gets_through() {
    let receiver = Receiver::start().await;
    let world = World::new().await;
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 8)).await;
    let event = world.accept("t", "in", "{}").await;
    crash_on_it(&world, 3).await;
    let node = world.dispatch("a");
    world.settled("t", event, is_delivered).await;
    node.stop().await;
}

#[tokio::test]
async fn an_event_that_crashes_every_gateway_is_given_up() {
    let receiver = Receiver::start().await;
    let world = World::new().await;
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 8)).await;
    let event = world.accept("t", "in", "{}").await;
    crash_on_it(&world, 4).await;
    let node = world.dispatch("a");
    let summary = world.settled("t", event, |summary| summary.finished && !summary.deliveries.is_empty()).await;
    assert!(
        matches!(&summary.deliveries[0].state, DeliveryState::DeadLettered { reason } if reason.code == "gateway_crashed"),
        "{summary:?}"
    );
    assert_eq!(receiver.count(), 0);
    let retried =
        world.store.retry(world.home("t"), &[summary.deliveries[0].id], tidegate::clock::Clock::system().now()).await.unwrap();
    assert_eq!(retried, 1);
    world.settled("t", event, is_delivered).await;
    node.stop().await;
}

#[tokio::test]
async fn an_owner_that_lost_its_lease_attempts_nothing_more() {
    let receiver = Receiver::start().await;
    let world = World::new().await;
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 1)).await;
    let let_go = Arc::new(AtomicBool::new(false));
    let first = let_go.clone();
    receiver.answer_with(move |_| if first.load(Ordering::SeqCst) { Answer::status(200) } else { Answer::hang() });
    let node = world.dispatch("a");
    let event = world.accept("t", "in", "{}").await;
    receiver.wait_for(1, SOON).await;
    // The same node name asks again, as after a restart: the store fences the old lease at once.
    let thief = world.store.acquire(SHARD, "a", LEASE).await.unwrap().expect("a node that lost its lease gets a new one");
    let_go.store(true, Ordering::SeqCst);
    world.store.release(&thief).await.unwrap();
    let summary = world.settled("t", event, is_delivered).await;
    assert_eq!(summary.deliveries.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn what_another_owner_took_over_is_no_failed_write() {
    let receiver = Receiver::start().await;
    let world = World::new().await;
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 1)).await;
    let (store, runtime) = (world.store.clone(), Handle::current());
    let is_first = AtomicBool::new(true);
    // Between the request and its answer the lease is taken away.
    receiver.answer_with(move |_| {
        if is_first.swap(false, Ordering::SeqCst) {
            let (store, runtime) = (store.clone(), runtime.clone());
            let taken = std::thread::spawn(move || runtime.block_on(store.acquire(SHARD, "a", LEASE)).unwrap());
            assert!(taken.join().unwrap().is_some());
        }
        Answer::status(200)
    });
    let node = world.dispatch("a");
    let event = world.accept("t", "in", "{}").await;
    world.settled("t", event, is_delivered).await;
    assert_eq!(receiver.count(), 2, "the first answer was not recorded");
    assert!(node.counted("tidegate_store_write_duration_seconds_count", "record") > 0.0);
    assert_eq!(node.counted("tidegate_store_write_failures_total", "record"), 0.0);
    node.stop().await;
}

#[tokio::test]
async fn a_replay_is_no_delivery_latency() {
    let receiver = Receiver::start().await;
    let world = World::new().await;
    world.declare("t", fan_out(&[("d", receiver.url("/"))], 1)).await;
    let node = world.dispatch("a");
    let id = world.accept("t", "in", "{}").await;
    world.settled("t", id, is_delivered).await;
    assert_eq!(node.total("tidegate_delivery_latency_seconds_count"), 1.0);
    let event = world.store.event(world.home("t"), id).await.unwrap().unwrap().event.unwrap();
    let connection = world.control.state().find_tenant("t").unwrap().connections.named("d").unwrap().id;
    let first = DeliveryId::replay(JobId(1), id, connection);
    let work = Work::Plan { event: Box::new(event), connection: Some(connection) };
    let now = world.clock.now();
    let job = Job { id: first, attempts: 0, spent: 0, since: now, work, line: None, claims: 0 };
    assert_eq!(world.store.add(world.home("t"), &[job], now).await.unwrap(), 1);
    world.settled("t", id, |summary| is_delivered(summary) && summary.deliveries.len() == 2).await;
    assert_eq!((receiver.count(), node.total("tidegate_delivery_latency_seconds_count")), (2, 1.0));
    node.stop().await;
}

fn bodies(requests: &[tidegate_test_support::http::Received]) -> HashSet<Vec<u8>> {
    requests.iter().map(|request| request.body.to_vec()).collect()
}
