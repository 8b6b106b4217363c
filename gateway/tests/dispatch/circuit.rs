//! A destination that fails: its circuit opens, what is for it waits without an attempt, probes close it; and it is disabled when it says
//! that it is gone, or fails for very long. Its siblings never feel it.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::clock::{Clock, Timestamp};
use tidegate::control::condition::Condition;
use tidegate::dispatch::circuit::Phase;
use tidegate::event::DestinationId;
use tidegate::store::{DeliveryState, EventSummary};
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Receiver};

use crate::world::{MAX_WAIT, SHARD, SOON, World, fan_out, is_delivered};

const START: Timestamp = Timestamp(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn spec(destinations: &[(&str, String)], breaker: Value) -> Value {
    let mut spec = fan_out(destinations, 64);
    spec["destinations"][0]["retry"] = json!({"max_attempts": 50, "base": "1ms", "max_delay": "1ms", "jitter": "none"});
    spec["destinations"][0]["circuit_breaker"] = breaker;
    spec
}

fn dead(summary: &EventSummary) -> Option<&str> {
    summary.deliveries.iter().find_map(|row| match &row.state {
        DeliveryState::DeadLettered { reason } => Some(reason.code.as_str()),
        _ => None,
    })
}

fn waits_for(summary: &EventSummary, wanted: &str) -> bool {
    summary.deliveries.iter().any(|row| matches!(&row.state, DeliveryState::Parked { reason, .. } if reason == wanted))
}

fn destination(world: &World, name: &str) -> (DestinationId, Condition) {
    let state = world.control.state();
    let entry = state.find_tenant("t").unwrap().destinations.named(name).unwrap();
    (entry.id, entry.condition.clone())
}

async fn phase(world: &World, name: &str) -> Phase {
    world.control.circuit(destination(world, name).0).await.unwrap().map_or(Phase::Closed, |note| note.phase)
}

async fn is_in(world: &World, name: &str, wanted: Phase) {
    eventually(&format!("the circuit is {wanted:?}"), SOON, async || (phase(world, name).await == wanted).then_some(())).await;
}

#[tokio::test]
async fn a_failing_destination_opens_its_circuit_and_probes_close_it() {
    let (bad, good) = (Receiver::start().await, Receiver::start().await);
    bad.answer(Answer::status(500));
    let world = World::at(Clock::manual(START)).await;
    let breaker = json!({"failures": 3, "percent": 0, "pause": "5s", "max_pause": "10s", "probes": 3});
    world.declare("t", spec(&[("bad", bad.url("/")), ("good", good.url("/"))], breaker)).await;
    let node = world.dispatch("a");
    let mut events = Vec::new();
    for number in 1..=3 {
        events.push(world.accept("t", "in", &number.to_string()).await);
        bad.wait_for(number, SOON).await;
    }
    is_in(&world, "bad", Phase::Open).await;
    for number in 4..=10 {
        let event = world.accept("t", "in", &number.to_string()).await;
        world.settled("t", event, |summary| waits_for(summary, "circuit_open")).await;
        events.push(event);
    }
    // The retries of the first three come due, and wait like the others.
    world.clock.advance(Duration::from_millis(10));
    let parked = async |count| {
        eventually(&format!("{count} wait"), SOON, async || {
            (world.store.depth(SHARD).await.unwrap().parked == count).then_some(())
        })
        .await;
    };
    parked(10).await;
    good.wait_for(10, SOON).await;
    assert_eq!(bad.count(), 3, "an open circuit spends no attempts");

    // One probe for each pause, the second twice as long and no longer after that.
    for (count, pause) in [(4, 5), (5, 10), (6, 10)] {
        world.clock.advance(Duration::from_secs(pause));
        bad.wait_for(count, SOON).await;
        // It fails, and waits for its retry, and then with the others again.
        let next = Some(world.clock.now().after(Duration::from_secs(10)));
        eventually("the circuit is open again", SOON, async || {
            let note = world.control.circuit(destination(&world, "bad").0).await.unwrap()?;
            (note.until == next).then_some(())
        })
        .await;
        world.clock.advance(Duration::from_millis(10));
        parked(10).await;
        assert_eq!(bad.count(), count);
    }
    bad.answer(Answer::status(200));
    world.clock.advance(Duration::from_secs(10));
    for event in &events {
        let summary = world.settled("t", *event, is_delivered).await;
        assert!(summary.deliveries.iter().any(|row| !row.attempts.is_empty()));
    }
    is_in(&world, "bad", Phase::Closed).await;
    assert_eq!((bad.count(), good.count()), (16, 10));
    node.stop().await;
}

#[tokio::test]
async fn a_hanging_destination_opens_its_circuit_by_its_share_of_failures() {
    let (bad, good) = (Receiver::start().await, Receiver::start().await);
    bad.answer(Answer::hang());
    let world = World::at(Clock::manual(START)).await;
    let breaker = json!({"failures": 0, "percent": 50, "min_attempts": 4});
    let mut spec = spec(&[("bad", bad.url("/")), ("good", good.url("/"))], breaker);
    spec["destinations"][0]["timeout"] = json!("200ms");
    world.declare("t", spec).await;
    let node = world.dispatch("a");
    for number in 0..4 {
        world.accept("t", "in", &number.to_string()).await;
    }
    is_in(&world, "bad", Phase::Open).await;
    let held = world.accept("t", "in", "held").await;
    world.settled("t", held, |summary| waits_for(summary, "circuit_open")).await;
    good.wait_for(5, SOON).await;
    assert_eq!(bad.count(), 4);

    // What nobody mends is given up in the end, with what it waited for.
    let hold = world.store.depth(SHARD).await.unwrap();
    assert!(hold.parked >= 1);
    bad.answer(Answer::status(500));
    world.clock.advance(MAX_WAIT);
    let summary = world.settled("t", held, |summary| dead(summary).is_some()).await;
    assert_eq!(dead(&summary), Some("circuit_open"));
    node.stop().await;
}

#[tokio::test]
async fn a_breaker_that_is_switched_off_never_opens() {
    let bad = Receiver::start().await;
    bad.answer(Answer::status(500));
    let world = World::new().await;
    world.declare("t", spec(&[("bad", bad.url("/"))], json!({"enabled": false, "failures": 1}))).await;
    let node = world.dispatch("a");
    let event = world.accept("t", "in", "{}").await;
    let summary = world.settled("t", event, |summary| dead(summary).is_some()).await;
    assert_eq!((dead(&summary), summary.deliveries[0].attempts.len()), (Some("attempts_exhausted"), 50));
    node.stop().await;
}

#[tokio::test]
async fn a_destination_that_is_gone_is_disabled_and_what_waits_is_delivered_when_it_is_enabled() {
    let (gone, good) = (Receiver::start().await, Receiver::start().await);
    gone.answer(Answer::status(410));
    let world = World::at(Clock::manual(START)).await;
    let spec = spec(&[("gone", gone.url("/")), ("good", good.url("/"))], json!({}));
    world.declare("t", spec.clone()).await;
    let node = world.dispatch("a");
    let first = world.accept("t", "in", "first").await;
    let summary = world.settled("t", first, |summary| dead(summary).is_some()).await;
    assert_eq!(dead(&summary), Some("gone"));
    let disabled = eventually("it is disabled", SOON, async || destination(&world, "gone").1.disabled).await;
    assert_eq!((disabled.at, disabled.code.as_str()), (START, "gone"));
    let mut waiting = Vec::new();
    for number in 0..5 {
        let event = world.accept("t", "in", &number.to_string()).await;
        world.settled("t", event, |summary| waits_for(summary, "destination_disabled")).await;
        waiting.push(event);
    }
    good.wait_for(6, SOON).await;
    gone.answer(Answer::status(200));
    // To declare the same again enables nothing, and neither does time.
    world.declare("t", spec).await;
    world.clock.advance(HOUR);
    let another = world.accept("t", "in", "another").await;
    world.settled("t", another, |summary| waits_for(summary, "destination_disabled")).await;
    assert_eq!(gone.count(), 1);

    world.control.enable(world.home("t").tenant, "gone").await.unwrap();
    for event in waiting.iter().chain([&another]) {
        let summary = world.settled("t", *event, is_delivered).await;
        assert!(summary.deliveries.iter().all(|row| row.attempts.len() == 1));
    }
    let (_, condition) = destination(&world, "gone");
    assert_eq!((condition.disabled, condition.enabled_at), (None, Some(world.clock.now())));
    node.stop().await;
}

#[tokio::test]
async fn a_destination_that_fails_for_long_is_said_to_and_then_disabled() {
    let bad = Receiver::start().await;
    bad.answer(Answer::status(503));
    let world = World::at(Clock::manual(START)).await;
    let breaker = json!({"failures": 0, "percent": 0, "disable_after": "10h"});
    world.declare("t", spec(&[("bad", bad.url("/"))], breaker)).await;
    let mut node = world.dispatch("a");
    let fail = async || {
        let count = bad.count();
        world.accept("t", "in", "{}").await;
        bad.wait_for(count + 1, SOON).await;
    };
    for _ in 0..3 {
        fail().await;
    }
    assert_eq!(destination(&world, "bad").1, Condition::default());
    world.clock.advance(HOUR * 2);
    fail().await;
    let failing = eventually("it is said to fail", SOON, async || destination(&world, "bad").1.failing_since).await;
    assert_eq!(failing, START);
    // It is a part of the configuration, so another owner knows it too.
    node.stop().await;
    node = world.dispatch("b");
    // The retries of all four come due, and fail.
    world.clock.advance(HOUR * 8);
    let disabled = eventually("it is disabled", SOON, async || destination(&world, "bad").1.disabled).await;
    assert_eq!(disabled.code, "failing");
    assert!(disabled.detail.contains("503") && disabled.detail.contains(&START.to_string()), "{}", disabled.detail);

    // Enabled it starts afresh, and one success is enough to forget.
    world.control.enable(world.home("t").tenant, "bad").await.unwrap();
    bad.answer(Answer::status(200));
    let event = world.accept("t", "in", "{}").await;
    world.settled("t", event, is_delivered).await;
    let (_, condition) = destination(&world, "bad");
    assert_eq!((condition.disabled, condition.failing_since), (None, None));
    node.stop().await;
}

#[tokio::test]
async fn a_policy_says_what_statuses_mean_and_retry_after_is_obeyed() {
    let receiver = Receiver::start().await;
    let world = World::at(Clock::manual(START)).await;
    let mut spec = fan_out(&[("d", receiver.url("/"))], 8);
    spec["destinations"][0]["retry"] = json!({
        "backoff": "list", "delays": ["1s", "1m"], "jitter": "none", "max_retry_after": "1h",
        "on": [{"status": "409", "do": "deliver"}, {"status": "410", "do": "retry"}, {"status": "4xx", "do": "dead_letter"}],
    });
    world.declare("t", spec).await;
    let node = world.dispatch("a");
    let due = |summary: &EventSummary| match summary.deliveries.first().map(|row| &row.state) {
        Some(DeliveryState::Scheduled { due }) => Some(*due),
        _ => None,
    };
    let after = async |answer: Answer| {
        receiver.answer(answer);
        let event = world.accept("t", "in", "{}").await;
        let summary = world.settled("t", event, |summary| due(summary).is_some()).await;
        (event, due(&summary).unwrap().since(world.clock.now()))
    };
    receiver.answer(Answer::status(409));
    let event = world.accept("t", "in", "{}").await;
    world.settled("t", event, is_delivered).await;
    receiver.answer(Answer::status(422));
    let event = world.accept("t", "in", "{}").await;
    let summary = world.settled("t", event, |summary| dead(summary).is_some()).await;
    assert_eq!(summary.deliveries[0].attempts.len(), 1);
    assert_eq!(after(Answer::status(410)).await.1, Duration::from_secs(1));
    assert_eq!(destination(&world, "d").1, Condition::default(), "a rule for 410 comes before what it means");
    assert_eq!(after(Answer::status(503).header("retry-after", "600")).await.1, Duration::from_secs(600));
    let date = httpdate::fmt_http_date(START.after(Duration::from_secs(900)).to_system_time());
    assert_eq!(after(Answer::status(503).header("retry-after", &date)).await.1, Duration::from_secs(900));
    let (event, clamped) = after(Answer::status(503).header("retry-after", "999999")).await;
    assert_eq!(clamped, HOUR);
    // The list has two delays, so there are three attempts.
    receiver.answer(Answer::status(500));
    for (attempts, wait) in [(2, HOUR), (3, Duration::from_secs(60))] {
        world.clock.advance(wait);
        world.settled("t", event, |summary| summary.deliveries[0].attempts.len() == attempts).await;
    }
    let summary = world.settled("t", event, |summary| dead(summary).is_some()).await;
    assert_eq!(dead(&summary), Some("attempts_exhausted"));
    node.stop().await;
}

#[tokio::test]
async fn a_probe_that_finds_its_connection_deleted_goes_to_the_next() {
    let receiver = Receiver::start().await;
    receiver.answer(Answer::status(500));
    let world = World::at(Clock::manual(START)).await;
    let breaker = json!({"failures": 1, "percent": 0, "pause": "5s", "probes": 1});
    let mut tenant = spec(&[("bad", receiver.url("/"))], breaker);
    tenant["sources"].as_array_mut().unwrap().push(json!({"name": "other"}));
    tenant["connections"].as_array_mut().unwrap().push(json!({"name": "other", "source": "other", "destination": "bad"}));
    world.declare("t", tenant.clone()).await;
    let node = world.dispatch("a");
    world.accept("t", "in", "opens").await;
    receiver.wait_for(1, SOON).await;
    is_in(&world, "bad", Phase::Open).await;
    let deleted = world.accept("t", "in", "deleted").await;
    world.settled("t", deleted, |summary| waits_for(summary, "circuit_open")).await;
    let kept = world.accept("t", "other", "kept").await;
    world.settled("t", kept, |summary| waits_for(summary, "circuit_open")).await;
    tenant["connections"].as_array_mut().unwrap().remove(0);
    world.declare("t", tenant).await;
    receiver.answer(Answer::status(200));
    world.clock.advance(Duration::from_secs(5));
    world.settled("t", deleted, |summary| dead(summary) == Some("unknown_connection")).await;
    world.settled("t", kept, is_delivered).await;
    is_in(&world, "bad", Phase::Closed).await;
    node.stop().await;
}
