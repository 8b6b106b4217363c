//! Plugins run inside their tenant's fuel, and a version that is stopped again and again is tried now and then only.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate::clock::{Clock, Timestamp};
use tidegate::plugin::poison::{FIRST_TRY, LAST_TRY};
use tidegate::store::{DeliveryState, EventSummary};
use tidegate_test_support::http::Receiver;

use crate::guest::filter;
use crate::world::{MAX_WAIT, SHARD, SOON, World, fan_out, is_delivered};

pub(crate) const START: Timestamp = Timestamp(1_800_000_000_000);
/// An answer at address 8: keep.
pub(crate) const KEEP: &str = "(i32.store8 (i32.const 8) (i32.const 0)) (i32.store8 (i32.const 12) (i32.const 1)) (i32.const 8)";
/// Traps when the body begins with `x`.
const BITE: &str = "(if (i32.eq (i32.load8_u (local.get 12)) (i32.const 120)) (then (unreachable)))";

/// A filter that keeps all, after some 100,000 fuel.
pub(crate) fn hungry() -> Bytes {
    let burn = "(local.set 0 (i32.const 20000)) (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))";
    filter("", &format!("{burn} {KEEP}"))
}

/// A tenant's parts: the source `in`, and the connection `d` with this stage.
fn with_stage(receiver: &Receiver, component: &str, stage: Value) -> Value {
    let mut spec = fan_out(&[("d", receiver.url("/d"))], 64);
    spec["plugins"] = json!([{"name": "p", "component": component, "aliases": ["live"]}]);
    let mut whole = json!({"plugin": "p", "version": "live"});
    whole.as_object_mut().unwrap().extend(stage.as_object().unwrap().clone());
    spec["connections"][0]["plugins"] = json!([whole]);
    spec
}

fn parked(summary: &EventSummary, wanted: &str) -> bool {
    summary.deliveries.iter().any(|row| matches!(&row.state, DeliveryState::Parked { reason, .. } if reason == wanted))
}

fn dead(summary: &EventSummary) -> Option<&str> {
    summary.deliveries.iter().find_map(|row| match &row.state {
        DeliveryState::DeadLettered { reason } => Some(reason.code.as_str()),
        _ => None,
    })
}

async fn is_parked(world: &World) -> u64 {
    world.store.depth(SHARD).await.unwrap().parked
}

#[tokio::test]
async fn a_tenant_over_its_fuel_waits_without_an_attempt_and_nobody_else_does() {
    let receiver = Receiver::start().await;
    let world = World::at(Clock::manual(START)).await;
    let component = world.keep(hungry()).await;
    let mut spec = with_stage(&receiver, &component, json!({}));
    spec["plan"] = json!({"plugin_fuel": 1000});
    spec["destinations"].as_array_mut().unwrap().push(json!({"name": "plain", "url": receiver.url("/plain")}));
    spec["connections"].as_array_mut().unwrap().push(json!({"name": "plain", "source": "in", "destination": "plain"}));
    world.declare("hungry", spec).await;
    world.declare("quiet", with_stage(&receiver, &component, json!({}))).await;
    let node = world.dispatch("a");

    let first = world.accept("hungry", "in", "{}").await;
    world.settled("hungry", first, is_delivered).await;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(world.accept("hungry", "in", "{}").await);
    }
    for event in &waiting {
        let summary = world.settled("hungry", *event, |summary| parked(summary, "plugin_fuel") && summary.finished).await;
        assert_eq!(summary.deliveries.iter().filter(|row| row.state == DeliveryState::Delivered).count(), 1, "its sibling goes on");
        assert!(summary.deliveries.iter().all(|row| row.runs.is_empty()));
    }
    for _ in 0..20 {
        let event = world.accept("quiet", "in", "{}").await;
        world.settled("quiet", event, is_delivered).await;
    }
    assert_eq!(is_parked(&world).await, 5, "nothing comes in while the clock stands still");

    // What one of them uses comes in in some 100 seconds.
    for (number, event) in (1..).zip(&waiting) {
        world.clock.advance(Duration::from_secs(180));
        let summary = world.settled("hungry", *event, is_delivered).await;
        let row = summary.deliveries.iter().find(|row| !row.runs.is_empty()).unwrap();
        assert!(row.runs[0].fuel > 50_000, "{row:?}");
        assert_eq!(row.attempts[0].number, 1, "waiting costs no attempt");
        assert_eq!(is_parked(&world).await, 5 - number, "one at a time, in order");
    }
    node.stop().await;
}

#[tokio::test]
async fn what_waits_for_fuel_outlives_its_owner_and_goes_on_with_a_larger_plan() {
    let receiver = Receiver::start().await;
    let world = World::at(Clock::manual(START)).await;
    let component = world.keep(hungry()).await;
    let spec = |plan: Value| {
        let mut spec = with_stage(&receiver, &component, json!({}));
        spec["plan"] = plan;
        spec
    };
    world.declare("t", spec(json!({"plugin_fuel": 1}))).await;
    let node = world.dispatch("a");
    let first = world.accept("t", "in", "{}").await;
    world.settled("t", first, is_delivered).await;
    let second = world.accept("t", "in", "{}").await;
    let third = world.accept("t", "in", "{}").await;
    world.settled("t", third, |summary| parked(summary, "plugin_fuel")).await;
    node.stop().await;
    let node = world.dispatch("b");
    // The new owner's bucket begins full: it is good for one.
    world.settled("t", second, is_delivered).await;
    assert_eq!(is_parked(&world).await, 1);
    world.declare("t", spec(json!({"plugin_fuel": 1_000_000_000}))).await;
    world.clock.advance(Duration::from_secs(1));
    world.settled("t", third, is_delivered).await;
    // Without any, nothing waits for what never comes.
    world.declare("t", spec(json!({"plugin_fuel": 0}))).await;
    let forbidden = world.accept("t", "in", "{}").await;
    let summary = world.settled("t", forbidden, |summary| dead(summary).is_some()).await;
    assert_eq!(dead(&summary), Some("plugins_forbidden"));
    node.stop().await;
}

#[tokio::test]
async fn a_wait_for_fuel_ends() {
    let receiver = Receiver::start().await;
    let world = World::at(Clock::manual(START)).await;
    let component = world.keep(hungry()).await;
    let mut spec = with_stage(&receiver, &component, json!({}));
    // Some 100,000 seconds, longer than anything may wait.
    spec["plan"] = json!({"plugin_fuel": 1});
    spec["connections"][0]["plugins"][0]["limits"] = json!({"fuel": 10_000_000});
    world.declare("t", spec).await;
    let node = world.dispatch("a");
    for _ in 0..20 {
        let event = world.accept("t", "in", "{}").await;
        world.settled("t", event, |summary| summary.finished && !summary.deliveries.is_empty()).await;
    }
    assert_eq!(is_parked(&world).await, 19);
    world.clock.advance(MAX_WAIT);
    tidegate_test_support::eventually("all are given up", SOON, async || (is_parked(&world).await == 0).then_some(())).await;
    let depth = world.store.depth(SHARD).await.unwrap();
    assert_eq!((depth.dead_letters, receiver.count()), (19, 1));
    node.stop().await;
}

#[tokio::test]
async fn a_poisoned_version_holds_its_events_until_a_try_succeeds() {
    let receiver = Receiver::start().await;
    let world = World::at(Clock::manual(START)).await;
    let component = world.keep(filter("", &format!("{BITE} {KEEP}"))).await;
    world.declare("t", with_stage(&receiver, &component, json!({"poison_after": 3}))).await;
    world.declare("other", with_stage(&receiver, &component, json!({}))).await;
    let node = world.dispatch("a");
    for _ in 0..2 {
        let event = world.accept("t", "in", "x").await;
        let summary = world.settled("t", event, |summary| dead(summary).is_some()).await;
        assert_eq!(dead(&summary), Some("aborted"), "before it is poisoned the policy for failures holds");
    }
    let mut held = Vec::new();
    for body in ["x", "good", "x", "good"] {
        let event = world.accept("t", "in", body).await;
        world.settled("t", event, |summary| parked(summary, "plugin_poisoned")).await;
        held.push(event);
    }
    let poisoned = world.poisoned("t");
    assert_eq!((poisoned.len(), poisoned[0].stops, poisoned[0].reason.code.as_str()), (1, 3, "aborted"));
    assert_eq!((poisoned[0].since, poisoned[0].next_try), (START, START.after(FIRST_TRY)));
    let other = world.accept("other", "in", "good").await;
    world.settled("other", other, is_delivered).await;

    // The first try is the first that was held. It is stopped once more, and held once more.
    world.clock.advance(FIRST_TRY);
    let next = tidegate_test_support::eventually("a try", SOON, async || {
        world.poisoned("t").first().filter(|poisoned| poisoned.stops == 4).map(|poisoned| poisoned.next_try)
    })
    .await;
    assert_eq!(next, world.clock.now().after(FIRST_TRY * 2));
    assert!(receiver.requests().len() == 1, "only the other tenant's");
    world.clock.advance(FIRST_TRY * 2);
    // The next one answers: all that is held runs, and those that are stopped are treated like any.
    for (event, is_good) in held.iter().zip([false, true, false, true]) {
        if is_good {
            let summary = world.settled("t", *event, is_delivered).await;
            assert_eq!(summary.deliveries[0].attempts[0].number, 1, "waiting costs no attempt");
        } else {
            world.settled("t", *event, |summary| dead(summary) == Some("aborted")).await;
        }
    }
    assert!(world.poisoned("t").is_empty());
    node.stop().await;
}

#[tokio::test]
async fn another_version_frees_what_a_poisoned_one_holds() {
    let receiver = Receiver::start().await;
    let world = World::at(Clock::manual(START)).await;
    let bad = world.keep(filter("", "(unreachable)")).await;
    world.declare("t", with_stage(&receiver, &bad, json!({"poison_after": 1}))).await;
    let node = world.dispatch("a");
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(world.accept("t", "in", "{}").await);
        world.settled("t", *held.last().unwrap(), |summary| parked(summary, "plugin_poisoned")).await;
    }
    let good = world.keep(filter("", KEEP)).await;
    let mut spec = with_stage(&receiver, &good, json!({"poison_after": 1}));
    spec["plugins"] = json!([{"name": "p", "component": good, "aliases": ["live"]}]);
    world.declare("t", spec).await;
    for event in held {
        let summary = world.settled("t", event, is_delivered).await;
        assert_eq!(summary.deliveries[0].runs.last().unwrap().version.to_string(), good, "pinned to the other one as it is");
    }
    node.stop().await;
}

#[tokio::test]
async fn what_happens_to_events_of_a_poisoned_version_is_for_the_stage_to_say() {
    let receiver = Receiver::start().await;
    let world = World::at(Clock::manual(START)).await;
    let component = world.keep(filter("", &format!("{BITE} {KEEP}"))).await;
    for policy in ["pass_through", "dead_letter"] {
        world.declare(policy, with_stage(&receiver, &component, json!({"poison_after": 1, "on_poisoned": policy}))).await;
    }
    let node = world.dispatch("a");
    for policy in ["pass_through", "dead_letter"] {
        let event = world.accept(policy, "in", "x").await;
        world.settled(policy, event, |summary| dead(summary) == Some("aborted")).await;
    }
    let passed = world.accept("pass_through", "in", "x").await;
    let summary = world.settled("pass_through", passed, is_delivered).await;
    assert!(summary.deliveries[0].runs.is_empty(), "it did not run");
    let given_up = world.accept("dead_letter", "in", "good").await;
    world.settled("dead_letter", given_up, |summary| dead(summary) == Some("plugin_poisoned")).await;
    // The first to come after a while is the try.
    for _ in 0..2 {
        world.clock.advance(LAST_TRY);
        let tried = world.accept("dead_letter", "in", "good").await;
        world.settled("dead_letter", tried, is_delivered).await;
    }
    assert!(world.poisoned("dead_letter").is_empty());
    assert_eq!(world.poisoned("pass_through").len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_hold_ends() {
    let receiver = Receiver::start().await;
    let world = World::at(Clock::manual(START)).await;
    let bad = world.keep(filter("", "(unreachable)")).await;
    world.declare("t", with_stage(&receiver, &bad, json!({"poison_after": 1}))).await;
    let node = world.dispatch("a");
    let held = world.accept("t", "in", "{}").await;
    world.settled("t", held, |summary| parked(summary, "plugin_poisoned")).await;
    world.clock.advance(MAX_WAIT);
    let summary = world.settled("t", held, |summary| dead(summary).is_some()).await;
    assert_eq!(dead(&summary), Some("plugin_poisoned"));
    node.stop().await;
}
