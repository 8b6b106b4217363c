//! Limits of attempts: never exceeded, used nearly whole, and what is over them waits in the store, in order, without an attempt.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::clock::{Clock, Timestamp};
use tidegate::control::snapshot::{Percent, Traffic};
use tidegate::egress::EgressConfig;
use tidegate::event::{EventId, Lane};
use tidegate::store::{DeliveryState, EventSummary};
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Receiver};

use crate::world::{MAX_WAIT, Node, SHARD, SOON, World, fan_out, is_delivered};

const START: Timestamp = Timestamp(1_800_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);
/// A little more than lies between two attempts of 100 a minute.
const STEP: Duration = Duration::from_millis(607);

fn limited(destinations: &[(&str, String)], rate: &Value) -> Value {
    let mut spec = fan_out(destinations, 64);
    spec["destinations"][0]["rate"] = rate.clone();
    spec
}

fn per_minute(limit: u32) -> Value {
    json!({"limit": limit, "per": "minute"})
}

fn is_parked(summary: &EventSummary, wanted: &str) -> bool {
    summary.deliveries.iter().any(|row| matches!(&row.state, DeliveryState::Parked { reason, .. } if reason == wanted))
}

async fn parked(world: &World) -> u64 {
    world.store.depth(SHARD).await.unwrap().parked
}

/// A world whose clock moves by hand. Its tenant `tick` only wakes the gateway, which does not know that time has passed.
async fn world() -> World {
    let world = World::at(Clock::manual(START)).await;
    world.declare("tick", json!({"sources": [{"name": "in"}]})).await;
    world
}

/// Lets an interval pass and waits for the one attempt that it has room for; `count` is what came then.
async fn step(world: &World, receiver: &Receiver, by: Duration, count: usize) {
    world.clock.advance(by);
    eventually("the next attempt", SOON, async || {
        world.accept("tick", "in", "{}").await;
        (receiver.count() >= count).then_some(())
    })
    .await;
    assert_eq!(receiver.count(), count, "one interval has room for one attempt");
}

/// When the attempts of these events began, in order.
async fn begun(world: &World, tenant: &str, events: &[EventId]) -> Vec<Timestamp> {
    let mut begun = Vec::new();
    for event in events {
        let history = world.store.event(world.home(tenant), *event).await.unwrap().unwrap();
        begun.extend(history.summary.deliveries.iter().flat_map(|row| &row.attempts).map(|attempt| attempt.started_at));
    }
    begun.sort_unstable();
    begun
}

fn fullest(begun: &[Timestamp], span: Duration) -> usize {
    let within = |from: usize| begun[from..].iter().take_while(|at| at.since(begun[from]) < span).count();
    (0..begun.len()).map(within).max().unwrap_or(0)
}

#[tokio::test]
async fn over_its_rate_a_destination_gets_as_much_as_it_allows_in_order_and_its_sibling_all() {
    let (receiver, sibling) = (Receiver::start().await, Receiver::start().await);
    let world = world().await;
    world.declare("t", limited(&[("d", receiver.url("/")), ("sibling", sibling.url("/"))], &per_minute(100))).await;
    let mut node = world.dispatch("a");
    let mut events = Vec::new();
    for number in 0..130 {
        events.push(world.accept("t", "in", &number.to_string()).await);
        // So that the order of acceptance is the order in which they are taken up.
        world.settled("t", events[number], |summary| is_parked(summary, "rate_limit")).await;
    }
    sibling.wait_for(130, SOON).await;
    assert_eq!((receiver.count(), parked(&world).await), (0, 130), "a new owner begins with nothing");
    for count in 1..=120 {
        if count == 50 {
            // Another owner gives no burst: it goes on where this one was.
            node.stop().await;
            node = world.dispatch("b");
            let other = world.accept("t", "in", "130").await;
            world.settled("t", other, |summary| is_parked(summary, "rate_limit")).await;
            assert_eq!(receiver.count(), 49);
            events.push(other);
        }
        step(&world, &receiver, STEP, count).await;
    }
    let bodies: Vec<_> = receiver.requests().iter().map(|one| String::from_utf8_lossy(&one.body).into_owned()).collect();
    assert_eq!(bodies, (0..120).map(|number| number.to_string()).collect::<Vec<_>>());
    let last = world.settled("t", events[119], is_delivered).await;
    assert!(last.deliveries.iter().all(|row| row.attempts.len() == 1 && row.attempts[0].number == 1), "waiting costs no attempt");
    let mut begun = begun(&world, "t", &events).await;
    // The sibling's all began at the start.
    begun.retain(|at| *at > START);
    assert!(fullest(&begun, MINUTE) <= 100, "{} in one minute", fullest(&begun, MINUTE));
    assert!(fullest(&begun, MINUTE) >= 98, "{} in one minute", fullest(&begun, MINUTE));
    node.stop().await;
}

#[tokio::test]
async fn every_attempt_counts_and_a_raised_limit_holds_at_once() {
    let receiver = Receiver::start().await;
    receiver.answer(Answer::status(500));
    let world = world().await;
    let mut spec = limited(&[("d", receiver.url("/"))], &per_minute(6));
    spec["destinations"][0]["retry"] = json!({"max_attempts": 4, "base": "1ms", "max_delay": "1ms", "jitter": "none"});
    world.declare("t", spec.clone()).await;
    let node = world.dispatch("a");
    let event = world.accept("t", "in", "{}").await;
    for count in 1..=4 {
        // 6 a minute are one in 10.1 s.
        world.settled("t", event, |summary| is_parked(summary, "rate_limit")).await;
        step(&world, &receiver, Duration::from_millis(10_101), count).await;
        if count < 4 {
            let retry = |summary: &EventSummary| matches!(summary.deliveries[0].state, DeliveryState::Scheduled { .. });
            world.settled("t", event, retry).await;
            world.clock.advance(Duration::from_millis(5));
        }
    }
    receiver.answer(Answer::status(200));
    let event = world.accept("t", "in", "{}").await;
    world.settled("t", event, |summary| is_parked(summary, "rate_limit")).await;
    spec["destinations"][0]["rate"] = json!({"limit": 1000, "per": "second"});
    world.declare("t", spec.clone()).await;
    eventually("it goes on with the raised limit", SOON, async || {
        world.clock.advance(Duration::from_millis(2));
        (receiver.count() == 5).then_some(())
    })
    .await;
    world.settled("t", event, is_delivered).await;
    spec["destinations"][0]["rate"] = Value::Null;
    world.declare("t", spec).await;
    let event = world.accept("t", "in", "{}").await;
    world.settled("t", event, is_delivered).await;
    node.stop().await;
}

#[tokio::test]
async fn a_tenants_rate_holds_for_all_of_its_destinations_and_for_nobody_else() {
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    let world = world().await;
    let mut spec = fan_out(&[("a", receiver.url("/a")), ("b", receiver.url("/b"))], 64);
    spec["plan"] = json!({"delivery_rate": per_minute(60)});
    world.declare("t", spec).await;
    world.declare("other", fan_out(&[("d", other.url("/"))], 64)).await;
    let node = world.dispatch("a");
    for _ in 0..10 {
        let event = world.accept("t", "in", "{}").await;
        world.settled("t", event, |summary| summary.deliveries.len() == 2 && is_parked(summary, "delivery_rate")).await;
        let event = world.accept("other", "in", "{}").await;
        world.settled("other", event, is_delivered).await;
    }
    for count in 1..=20 {
        step(&world, &receiver, Duration::from_millis(1011), count).await;
    }
    let of = |path: &str| receiver.requests().iter().filter(|one| one.target == path).count();
    assert_eq!((of("/a"), of("/b"), other.count()), (10, 10, 10));
    node.stop().await;
}

#[tokio::test]
async fn a_wait_for_a_rate_ends() {
    let receiver = Receiver::start().await;
    let world = world().await;
    world.declare("t", limited(&[("d", receiver.url("/"))], &json!({"limit": 1, "per": "hour"}))).await;
    let node = world.dispatch("a");
    for _ in 0..50 {
        let event = world.accept("t", "in", "{}").await;
        world.settled("t", event, |summary| is_parked(summary, "rate_limit")).await;
    }
    world.clock.advance(MAX_WAIT);
    eventually("all are given up", SOON, async || (parked(&world).await == 0).then_some(())).await;
    assert_eq!((world.store.depth(SHARD).await.unwrap().dead_letters, receiver.count()), (50, 0));
    // What is given up used up none of the rate.
    let event = world.accept("t", "in", "{}").await;
    let summary = world.settled("t", event, is_delivered).await;
    assert_eq!(summary.deliveries[0].attempts[0].number, 1);
    node.stop().await;
}

/// A destination that hangs has all connections that its tenant may have, or that there are. What finds none waits: that is no failure of its own
/// destination, and no attempt.
#[tokio::test]
async fn without_a_connection_a_delivery_waits_and_spends_no_attempt() {
    let batch = json!({"format": "json_array", "max_events": 2, "max_wait": "10ms"});
    for (other, max_connections, batch) in [("t", 2, Value::Null), ("other", 1, Value::Null), ("t", 2, batch)] {
        let (hanging, healthy) = (Receiver::start().await, Receiver::start().await);
        hanging.answer(Answer::hang());
        let world = World::new().await;
        let to = |name: &str, url: String, timeout: &str| {
            json!({
                "name": name, "url": url, "timeout": timeout, "retry": {"max_attempts": 1}, "circuit_breaker": {"enabled": false},
            })
        };
        let over = |name: &str| json!({"name": name, "source": name, "destination": name});
        let mut spec = json!({
            "sources": [{"name": "slow"}, {"name": "quick"}],
            "destinations": [to("slow", hanging.url("/"), "30s"), to("quick", healthy.url("/"), "1s")],
            "connections": [over("slow"), over("quick")],
        });
        if !batch.is_null() {
            spec["destinations"][1]["batch"] = batch;
        }
        for tenant in ["t", "other"] {
            world.declare(tenant, spec.clone()).await;
        }
        let node = world.dispatch_with("a", EgressConfig { max_connections, ..EgressConfig::default() });
        world.accept("t", "slow", "{}").await;
        hanging.wait_for(1, SOON).await;
        let event = world.accept(other, "quick", "{}").await;
        let summary = world.settled(other, event, |summary| is_parked(summary, "no_capacity") || summary.finished).await;
        assert!(is_parked(&summary, "no_capacity"), "{summary:?}");
        assert_eq!((summary.deliveries[0].attempts.len(), healthy.count()), (0, 0));
        // Its connections end, and so does the attempt that has one.
        drop(hanging);
        let summary = world.settled(other, event, is_delivered).await;
        assert_eq!((summary.deliveries[0].attempts.len(), healthy.count()), (1, 1));
        node.stop().await;
    }
}

/// Two tenants, one of which has a destination that hangs with the one connection that it may have, and another that finds none.
struct Crowded {
    hanging: Receiver,
    healthy: Receiver,
    node: Node,
}

async fn crowded(world: &World) -> Crowded {
    let (hanging, healthy) = (Receiver::start().await, Receiver::start().await);
    hanging.answer(Answer::hang());
    let to = |name: &str, url: String, timeout: &str| json!({"name": name, "url": url, "timeout": timeout});
    let over = |name: &str| json!({"name": name, "source": name, "destination": name});
    let spec = json!({
        "sources": [{"name": "slow"}, {"name": "quick"}],
        "destinations": [to("slow", hanging.url("/"), "5m"), to("quick", healthy.url("/"), "200ms")],
        "connections": [over("slow"), over("quick")],
    });
    for tenant in ["t", "other"] {
        world.declare(tenant, spec.clone()).await;
    }
    world.accept("t", "slow", "{}").await;
    let node = world.dispatch_with("a", EgressConfig { max_connections: 2, ..EgressConfig::default() });
    hanging.wait_for(1, SOON).await;
    Crowded { hanging, healthy, node }
}

/// What found no connection waits for one with all that comes after it, and asks for one when it has rested.
#[tokio::test]
async fn what_finds_no_connection_rests_before_it_asks_again() {
    let world = world().await;
    let Crowded { hanging, healthy, node } = crowded(&world).await;
    let first = world.accept("t", "quick", "1").await;
    world.settled("t", first, |summary| is_parked(summary, "no_capacity")).await;
    // There is one from now on.
    drop(hanging);
    world.clock.advance(Duration::from_millis(999));
    let second = world.accept("t", "quick", "2").await;
    world.settled("t", second, |summary| is_parked(summary, "no_capacity")).await;
    let other = world.accept("other", "quick", "3").await;
    world.settled("other", other, is_delivered).await;
    assert_eq!((healthy.count(), parked(&world).await), (1, 2));
    world.clock.advance(Duration::from_millis(1));
    for event in [first, second] {
        let summary = world.settled("t", event, is_delivered).await;
        assert_eq!(summary.deliveries[0].attempts.len(), 1);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_wait_for_a_connection_ends_and_says_what_it_was_for() {
    let world = world().await;
    let Crowded { hanging: _hanging, healthy, node } = crowded(&world).await;
    let (tenant, source) = (world.home("t").tenant, world.source("t", "quick"));
    // They were held for nearly as long as anything may wait.
    world.steer(Traffic { low: Percent::NONE, ..Traffic::default() });
    let mut events = Vec::new();
    for number in 0..10 {
        events.push(world.accept_in(Lane::Low, tenant, source, &number.to_string()).await);
    }
    world.clock.advance(MAX_WAIT - MINUTE);
    world.steer(Traffic::default());
    for event in &events {
        world.settled("t", *event, |summary| is_parked(summary, "no_capacity")).await;
    }
    world.clock.advance(MINUTE);
    for event in events {
        let summary = world.settled("t", event, |summary| summary.deliveries.iter().all(|row| row.state.is_terminal())).await;
        let DeliveryState::DeadLettered { reason } = &summary.deliveries[0].state else { panic!("{summary:?}") };
        assert_eq!((reason.code.as_str(), summary.deliveries[0].attempts.len()), ("no_capacity", 0));
    }
    assert_eq!(healthy.count(), 0);
    node.stop().await;
}
