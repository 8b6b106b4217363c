//! Every wait ends: what waited for something that did not come is given up with what it waited for as the reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tidegate::clock::{Clock, Timestamp};
use tidegate::control::snapshot::{Diversion, Diverted, Traffic};
use tidegate::event::{EventId, Lane};
use tidegate::store::{DeliveryState, EventSummary};
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Receiver};

use crate::world::{MAX_WAIT, SHARD, SOON, World, fan_out, is_delivered};

const START: Timestamp = Timestamp(1_800_000_000_000);

/// The code of the one thing that the event was given up for.
fn code(summary: &EventSummary) -> Option<&str> {
    match &summary.deliveries.first()?.state {
        DeliveryState::DeadLettered { reason } if summary.deliveries.len() == 1 => Some(&reason.code),
        _ => None,
    }
}

async fn given_up(world: &World, tenant: &str, event: EventId) -> EventSummary {
    world.settled(tenant, event, |summary| summary.finished && code(summary).is_some()).await
}

#[tokio::test]
async fn a_disabled_destination_holds_its_deliveries_until_they_are_too_old() {
    let receiver = Receiver::start().await;
    let world = World::at(Clock::manual(START)).await;
    let mut spec = fan_out(&[("d", receiver.url("/"))], 8);
    // The retry policy is for what fails; what waits has a time of its own.
    spec["destinations"][0]["enabled"] = json!(false);
    spec["destinations"][0]["retry"]["max_age"] = json!("1h");
    world.declare("t", spec.clone()).await;
    let node = world.dispatch("a");
    let event = world.accept("t", "in", "{}").await;
    let waits = |summary: &EventSummary| {
        let state = summary.deliveries.first().map(|row| &row.state);
        matches!(state, Some(DeliveryState::Parked { reason, .. }) if reason == "destination_disabled")
    };
    world.settled("t", event, waits).await;
    world.clock.advance(MAX_WAIT - Duration::from_secs(1));
    let second = world.accept("t", "in", "{}").await;
    let summary = world.settled("t", second, waits).await;
    assert!(!summary.deliveries[0].state.is_terminal());
    let first = world.store.event(world.home("t"), event).await.unwrap().unwrap();
    assert!(waits(&first.summary), "{:?}", first.summary);
    world.clock.advance(Duration::from_secs(1));
    let summary = given_up(&world, "t", event).await;
    assert_eq!(code(&summary), Some("destination_disabled"));
    assert_eq!((receiver.count(), summary.deliveries[0].attempts.len()), (0, 0));
    // Enabled again it can be retried by hand, for another span of waiting.
    spec["destinations"][0]["enabled"] = json!(true);
    world.declare("t", spec).await;
    assert_eq!(world.store.retry(world.home("t"), &[summary.deliveries[0].id], world.clock.now()).await.unwrap(), 1);
    world.clock.advance(Duration::from_secs(1));
    world.settled("t", event, is_delivered).await;
    world.settled("t", second, is_delivered).await;
    node.stop().await;
}

#[tokio::test]
async fn what_is_parked_is_given_up_when_its_turn_comes_too_late() {
    for (window, code_of_it) in [("tenant", "tenant_window"), ("destination", "destination_window")] {
        let receiver = Receiver::start().await;
        let world = World::at(Clock::manual(START)).await;
        let mut spec = fan_out(&[("d", receiver.url("/"))], if window == "tenant" { 8 } else { 1 });
        if window == "tenant" {
            spec["plan"] = json!({"rate": 1000.0, "burst": 1000, "weight": 1, "in_flight": 1});
        }
        // Long enough to see what is parked behind it.
        spec["destinations"][0]["timeout"] = json!("3s");
        world.declare("t", spec).await;
        let late = Arc::new(AtomicBool::new(false));
        let is_late = late.clone();
        receiver.answer_with(move |_| if is_late.load(Ordering::SeqCst) { Answer::status(200) } else { Answer::hang() });
        let node = world.dispatch("a");
        world.accept("t", "in", "first").await;
        receiver.wait_for(1, SOON).await;
        let second = world.accept("t", "in", "second").await;
        eventually("the second is parked", SOON, async || (world.store.depth(SHARD).await.unwrap().parked == 1).then_some(()))
            .await;
        late.store(true, Ordering::SeqCst);
        world.clock.advance(MAX_WAIT);
        let summary = given_up(&world, "t", second).await;
        assert_eq!(code(&summary), Some(code_of_it));
        assert_eq!(receiver.count(), 1, "nothing is sent that is too old");
        node.stop().await;
    }
}

#[tokio::test]
async fn the_low_and_the_held_lane_end_too() {
    let receiver = Receiver::start().await;
    let world = World::at(Clock::manual(START)).await;
    for tenant in ["t", "diverted"] {
        world.declare(tenant, fan_out(&[("d", receiver.url("/"))], 8)).await;
    }
    let home = world.home("diverted");
    world.steer(Traffic { diverted: [(Diverted::Tenant(home.tenant), Diversion::Held)].into(), ..Traffic::default() });
    let into = async |lane| {
        let tenant = if lane == Lane::Held { "diverted" } else { "t" };
        world.accept_in(lane, world.home(tenant).tenant, world.source(tenant, "in"), "{}").await
    };
    let (low, held, normal) = (into(Lane::Low).await, into(Lane::Held).await, into(Lane::Normal).await);
    world.clock.advance(MAX_WAIT - Duration::from_secs(60));
    let younger = into(Lane::Held).await;
    world.clock.advance(Duration::from_secs(60));
    let mut nodes = vec![world.dispatch("a")];
    assert_eq!(code(&given_up(&world, "t", low).await), Some("low_lane"));
    assert_eq!(code(&given_up(&world, "diverted", held).await), Some("held"));
    // What only had to wait for a gateway is not given up.
    world.settled("t", normal, is_delivered).await;
    let fresh = into(Lane::Low).await;
    world.settled("t", fresh, is_delivered).await;
    // The younger one is held over any number of owners, and given up in its turn.
    for name in ["b", "c", "d", "e", "f"] {
        nodes.remove(0).stop().await;
        nodes.push(world.dispatch(name));
        let fresh = into(Lane::Normal).await;
        world.settled("t", fresh, is_delivered).await;
    }
    let waits = world.store.event(home, younger).await.unwrap().unwrap().summary.deliveries;
    assert!(waits.iter().all(|row| !row.state.is_terminal()), "{waits:?}");
    world.clock.advance(MAX_WAIT);
    assert_eq!(code(&given_up(&world, "diverted", younger).await), Some("held"));
    nodes.remove(0).stop().await;
}

#[tokio::test]
async fn the_first_that_a_paused_connection_holds_is_the_first_to_go_on_under_another_owner() {
    let receiver = Receiver::start().await;
    let world = World::new().await;
    let tenant = |paused: bool| {
        let mut spec = fan_out(&[("d", receiver.url("/d")), ("free", receiver.url("/free"))], 8);
        spec["plan"] = json!({"rate": 1000.0, "burst": 1000, "in_flight": 1});
        spec["sources"].as_array_mut().unwrap().push(json!({"name": "beside"}));
        spec["connections"][0]["paused"] = paused.into();
        spec["connections"][1]["source"] = "beside".into();
        spec
    };
    world.declare("t", tenant(true)).await;
    let mut node = world.dispatch("a");
    for number in 0..5 {
        let event = world.accept("t", "in", &number.to_string()).await;
        world.settled("t", event, |summary| summary.finished && !summary.deliveries.is_empty()).await;
    }
    node.stop().await;
    node = world.dispatch("b");
    // Rounds of the new owner, who looks how old the first is.
    for _ in 0..5 {
        let event = world.accept("t", "beside", "{}").await;
        world.settled("t", event, is_delivered).await;
    }
    world.declare("t", tenant(false)).await;
    let requests = receiver.wait_for(10, SOON).await;
    let held = requests.iter().filter(|request| request.target == "/d");
    let arrived: Vec<_> = held.map(|request| String::from_utf8_lossy(&request.body).into_owned()).collect();
    assert_eq!(arrived, ["0", "1", "2", "3", "4"]);
    node.stop().await;
}
