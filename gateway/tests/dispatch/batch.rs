//! Batches: how they fill, what becomes of each event in them, and what they count as.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::clock::{Clock, Timestamp};
use tidegate::event::{DeliveryId, EventId};
use tidegate::store::{DeliveryRecord, DeliveryState, EventSummary};
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Received, Receiver};

use crate::world::{SOON, World, fan_out, is_delivered};

const START: Timestamp = Timestamp(1_800_000_000_000);
/// How long batches wait, of whose time a test says when it is over.
const WAIT: Duration = Duration::from_millis(100);

fn batched(url: String, batch: &Value) -> Value {
    let mut spec = fan_out(&[("d", url)], 8);
    spec["destinations"][0]["batch"] = batch.clone();
    spec["destinations"][0]["circuit_breaker"] = json!({"enabled": false});
    spec
}

fn of(max_events: usize) -> Value {
    json!({"format": "json_array", "max_events": max_events, "max_wait": "100ms"})
}

fn enveloped(max_events: usize) -> Value {
    json!({"format": "json_array", "envelope": true, "max_events": max_events, "max_wait": "100ms"})
}

/// A world whose time stands still.
async fn still() -> World {
    World::at(Clock::manual(START)).await
}

async fn accept(world: &World, tenant: &str, numbers: std::ops::Range<usize>) -> Vec<EventId> {
    let mut events = Vec::new();
    for number in numbers {
        events.push(world.accept(tenant, "in", &json!({ "n": number }).to_string()).await);
    }
    events
}

/// The numbers in a request.
fn numbers(request: &Received) -> BTreeSet<u64> {
    items(request).iter().map(number).collect()
}

fn number(item: &Value) -> u64 {
    item.get("data").unwrap_or(item)["n"].as_u64().expect("a number")
}

fn items(request: &Received) -> Vec<Value> {
    request.json().as_array().expect("an array").clone()
}

/// The event's only row, once it is as wanted. Time passes until then.
async fn row(world: &World, event: EventId, is_wanted: impl Fn(&EventSummary) -> bool) -> DeliveryRecord {
    let home = world.home("t");
    eventually("the event's row", SOON, async || {
        let history = world.store.event(home, event).await.unwrap()?;
        if !is_wanted(&history.summary) {
            world.clock.advance(WAIT);
            return None;
        }
        history.summary.deliveries.into_iter().next()
    })
    .await
}

fn is_dead(summary: &EventSummary) -> bool {
    summary.deliveries.iter().any(|row| matches!(row.state, DeliveryState::DeadLettered { .. }))
}

fn code(row: &DeliveryRecord) -> &str {
    match &row.state {
        DeliveryState::DeadLettered { reason } => &reason.code,
        _ => "",
    }
}

/// Lets time pass until so many events are there.
async fn pass(world: &World, receiver: &Receiver, count: usize) -> Vec<Received> {
    let total = |requests: &[Received]| requests.iter().map(|request| items(request).len()).sum::<usize>();
    eventually("all events are there", SOON, async || {
        world.clock.advance(WAIT);
        Some(receiver.requests()).filter(|requests| total(requests) >= count)
    })
    .await
}

#[tokio::test]
async fn a_batch_goes_out_when_it_is_full_or_its_time_is_over() {
    let (receiver, world) = (Receiver::start().await, still().await);
    world.declare("t", batched(receiver.url("/all?of=them"), &of(5))).await;
    let node = world.dispatch("a");
    let events = accept(&world, "t", 0..12).await;
    let requests = receiver.wait_for(2, SOON).await;
    assert!(requests.iter().all(|request| numbers(request).len() == 5));
    let full: BTreeSet<u64> = requests.iter().flat_map(numbers).collect();
    assert_eq!(receiver.count(), 2, "the others wait for more");
    let requests = pass(&world, &receiver, 12).await;
    assert_eq!(requests.len(), 3);
    assert_eq!(numbers(&requests[2]), &(0..12).collect::<BTreeSet<_>>() - &full);
    for request in &requests {
        assert_eq!((request.method.as_str(), &*request.target), ("POST", "/all?of=them"));
        assert_eq!(request.header("content-type"), Some("application/json"));
    }
    let ids: BTreeSet<_> = requests.iter().map(|request| request.webhook_id().unwrap().to_owned()).collect();
    for event in events {
        let row = row(&world, event, is_delivered).await;
        let [attempt] = &row.attempts[..] else { panic!("{row:?}") };
        let part = attempt.batch.expect("it went out in a batch");
        assert!(ids.contains(&part.id.to_string()) && matches!(part.size, 2 | 5), "{part:?}");
        assert_eq!((attempt.number, attempt.status), (1, Some(200)));
    }
    node.stop().await;
}

#[tokio::test]
async fn a_batch_has_at_most_so_many_bytes_but_what_is_larger_goes_alone() {
    const MOST: usize = 1024;
    let (receiver, world) = (Receiver::start().await, still().await);
    let batch = json!({"format": "ndjson", "max_bytes": "1KiB", "max_wait": "100ms"});
    world.declare("t", batched(receiver.url("/"), &batch)).await;
    let node = world.dispatch("a");
    let mut events = Vec::new();
    for (number, length) in [400, 400, 400, 400, 5000, 400].into_iter().enumerate() {
        let body = json!({"n": number, "padding": "x".repeat(length)}).to_string();
        events.push(world.accept("t", "in", &body).await);
    }
    for event in &events {
        row(&world, *event, is_delivered).await;
    }
    let mut seen = 0;
    for request in receiver.requests() {
        let lines: Vec<_> = request.body.split_inclusive(|byte| *byte == b'\n').collect();
        assert!(lines.iter().all(|line| serde_json::from_slice::<Value>(line).is_ok() && line.ends_with(b"\n")));
        assert!(request.body.len() <= MOST || lines.len() == 1, "{} bytes, {} lines", request.body.len(), lines.len());
        assert_eq!(request.header("content-type"), Some("application/x-ndjson"));
        seen += lines.len();
    }
    assert_eq!(seen, events.len());
    node.stop().await;
}

#[tokio::test]
async fn tenants_and_destinations_share_no_batch() {
    let (receiver, world) = (Receiver::start().await, still().await);
    let mut spec = fan_out(&[("one", receiver.url("/one")), ("other", receiver.url("/other"))], 8);
    for destination in spec["destinations"].as_array_mut().unwrap() {
        destination["batch"] = of(100);
    }
    for tenant in ["t", "u"] {
        world.declare(tenant, spec.clone()).await;
    }
    let node = world.dispatch("a");
    for number in 0..6 {
        world.accept("t", "in", &json!({"n": number, "of": "t"}).to_string()).await;
        world.accept("u", "in", &json!({"n": number, "of": "u"}).to_string()).await;
    }
    let requests = pass(&world, &receiver, 24).await;
    for request in &requests {
        let whose: BTreeSet<_> = items(request).iter().map(|item| item["of"].as_str().unwrap().to_owned()).collect();
        assert_eq!(whose.len(), 1, "{request:?}");
    }
    let both: BTreeSet<_> = requests.iter().map(|request| (request.target.clone(), items(request)[0]["of"].to_string())).collect();
    assert_eq!(both.len(), 4);
    node.stop().await;
}

#[tokio::test]
async fn each_event_ends_as_the_answer_says_of_it() {
    let (receiver, world) = (Receiver::start().await, still().await);
    receiver.answer_with(|request| {
        let failures =
            items(request).into_iter().filter(|item| number(item) == 2).map(|item| json!({"itemIdentifier": item["id"]}));
        match request.number {
            0 => Answer::status(200).body(json!({"batchItemFailures": failures.collect::<Vec<_>>()}).to_string()),
            _ => Answer::status(207).body(json!(vec![json!({"status": 201}); items(request).len()]).to_string()),
        }
    });
    world.declare("t", batched(receiver.url("/"), &enveloped(4))).await;
    let node = world.dispatch("a");
    let events = accept(&world, "t", 0..4).await;
    receiver.wait_for(1, SOON).await;
    for (number, event) in events.iter().enumerate() {
        let row = row(&world, *event, is_delivered).await;
        let ended: Vec<_> = row.attempts.iter().map(|one| (one.status, one.failure.as_ref().map(|why| why.code.clone()))).collect();
        match number {
            2 => assert_eq!(ended, [(Some(200), Some("batch_item".to_owned())), (Some(201), None)]),
            _ => assert_eq!(ended, [(Some(200), None)]),
        }
    }
    let requests = receiver.requests();
    let sizes: Vec<_> = requests.iter().map(|request| items(request).len()).collect();
    assert_eq!(sizes, [4, 1]);
    let again = &items(&requests[1])[0];
    let connection = world.control.state().find_tenant("t").unwrap().connections.named("d").unwrap().id;
    assert_eq!(again["id"], DeliveryId::derive(events[2], connection, 0).to_string());
    assert_eq!(again["event"], events[2].to_string());
    assert_ne!(requests[0].webhook_id(), requests[1].webhook_id(), "it is another batch");
    node.stop().await;
}

#[tokio::test]
async fn an_event_with_a_status_of_its_own_is_judged_by_its_policy() {
    let (receiver, world) = (Receiver::start().await, still().await);
    receiver.answer_with(|request| {
        let statuses = [200, 422, 503, 410];
        let result = |item: &Value| json!({"id": item["id"], "status": if request.number > 0 { 200 } else { statuses[number(item) as usize] }});
        Answer::status(207).body(json!({"results": items(request).iter().map(result).collect::<Vec<_>>()}).to_string())
    });
    let mut spec = batched(receiver.url("/"), &enveloped(4));
    spec["destinations"][0]["retry"]["on"] = json!([{"status": "422", "do": "dead_letter"}]);
    world.declare("t", spec).await;
    let node = world.dispatch("a");
    let events = accept(&world, "t", 0..4).await;
    receiver.wait_for(1, SOON).await;
    for (event, dead) in events.iter().zip(["", "status", "", "gone"]) {
        let is_over = |summary: &EventSummary| is_delivered(summary) || is_dead(summary);
        let row = row(&world, *event, is_over).await;
        assert_eq!(code(&row), dead, "{row:?}");
    }
    let more = accept(&world, "t", 0..4).await;
    row(&world, more[0], is_delivered).await;
    node.stop().await;
}

#[tokio::test]
async fn one_bad_event_takes_no_others_to_the_dead_letters() {
    for (status, code_of_it) in [(400, "attempts_exhausted"), (422, "attempts_exhausted"), (409, "status")] {
        let (receiver, world) = (Receiver::start().await, still().await);
        receiver.answer_with(move |request| Answer::status(if numbers(request).contains(&5) { status } else { 200 }));
        let mut spec = batched(receiver.url("/"), &of(8));
        spec["destinations"][0]["retry"] = json!({"max_attempts": 1, "on": [{"status": "409", "do": "dead_letter"}]});
        world.declare("t", spec).await;
        let node = world.dispatch("a");
        let events = accept(&world, "t", 0..8).await;
        receiver.wait_for(1, SOON).await;
        for (number, event) in events.iter().enumerate() {
            if number != 5 {
                row(&world, *event, is_delivered).await;
                continue;
            }
            let row = row(&world, *event, is_dead).await;
            assert_eq!(code(&row), code_of_it);
            let sizes: Vec<_> = row.attempts.iter().map(|attempt| attempt.batch.unwrap().size).collect();
            assert_eq!(sizes, [8, 4, 2, 1]);
            let numbers: Vec<_> = row.attempts.iter().map(|attempt| attempt.number).collect();
            assert_eq!(numbers, (1..=numbers.len() as u32).collect::<Vec<_>>());
        }
        assert_eq!(receiver.count(), 7, "one, and two for each halving");
        node.stop().await;
    }
}

#[tokio::test]
async fn a_batch_that_is_too_large_comes_in_smaller_ones() {
    let (receiver, world) = (Receiver::start().await, still().await);
    receiver.answer_with(|request| Answer::status(if items(request).len() > 3 { 413 } else { 200 }));
    let mut spec = batched(receiver.url("/"), &of(16));
    spec["destinations"][0]["retry"] = json!({"max_attempts": 1});
    world.declare("t", spec).await;
    let node = world.dispatch("a");
    let events = accept(&world, "t", 0..16).await;
    receiver.wait_for(1, SOON).await;
    for event in events {
        let row = row(&world, event, is_delivered).await;
        assert!(row.attempts.last().unwrap().batch.unwrap().size <= 3);
    }
    node.stop().await;
}

#[tokio::test]
async fn what_failed_as_a_whole_is_tried_again_event_by_event() {
    let (receiver, world) = (Receiver::start().await, still().await);
    receiver.answer_in_turn([Answer::status(503).body("busy".repeat(1000))], Answer::status(200));
    world.declare("t", batched(receiver.url("/"), &of(6))).await;
    let node = world.dispatch("a");
    let events = accept(&world, "t", 0..6).await;
    receiver.wait_for(1, SOON).await;
    for event in events {
        let row = row(&world, event, is_delivered).await;
        assert_eq!((row.attempts.len(), row.attempts[0].status), (2, Some(503)));
        assert_eq!((row.attempts[0].response.len(), row.attempts[0].response_cut), (1024, true), "a part of it with each");
    }
    node.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_not_understood_is_no_delivery() {
    let (receiver, world) = (Receiver::start().await, still().await);
    let unknown = json!({"batchItemFailures": [{"itemIdentifier": "dlv_00000000000000000000000000"}]}).to_string();
    receiver
        .answer_in_turn([Answer::status(200).body(unknown), Answer::status(207).body("?")], Answer::status(200).body("nonsense"));
    world.declare("t", batched(receiver.url("/"), &of(3))).await;
    let node = world.dispatch("a");
    let events = accept(&world, "t", 0..3).await;
    receiver.wait_for(1, SOON).await;
    for event in events {
        let row = row(&world, event, is_delivered).await;
        let failure = row.attempts[0].failure.as_ref().unwrap();
        assert_eq!(failure.code, "batch_answer", "{failure:?}");
    }
    node.stop().await;
}

#[tokio::test]
async fn what_fits_no_batch_is_a_dead_letter_that_says_what_would_help() {
    let (receiver, world) = (Receiver::start().await, still().await);
    world.declare("t", batched(receiver.url("/"), &of(2))).await;
    let node = world.dispatch("a");
    let text = world.accept("t", "in", "not json").await;
    let events = accept(&world, "t", 0..2).await;
    let dead = row(&world, text, is_dead).await;
    assert_eq!((code(&dead), dead.attempts.len()), ("batch_not_json", 0));
    for event in events {
        row(&world, event, is_delivered).await;
    }
    world.declare("t", batched(receiver.url("/"), &enveloped(2))).await;
    let letter = dead.id;
    assert_eq!(world.store.retry(world.home("t"), &[letter], world.clock.now()).await.unwrap(), 1);
    row(&world, text, is_delivered).await;
    assert_eq!(items(receiver.requests().last().unwrap())[0]["data_base64"], "bm90IGpzb24=");
    node.stop().await;
}

#[tokio::test]
async fn a_rate_is_one_of_requests() {
    let (receiver, world) = (Receiver::start().await, still().await);
    let mut spec = batched(receiver.url("/"), &of(10));
    spec["destinations"][0]["rate"] = json!({"limit": 6, "per": "minute"});
    world.declare("t", spec).await;
    world.declare("tick", json!({"sources": [{"name": "in"}]})).await;
    let node = world.dispatch("a");
    let events = accept(&world, "t", 0..20).await;
    let home = world.home("t");
    let is_waiting = |summary: &EventSummary| {
        summary.deliveries.iter().any(|row| matches!(&row.state, DeliveryState::Parked { reason, .. } if reason == "rate_limit"))
    };
    for event in &events {
        // No time passes: ten come together however long it takes, and the rate gives nothing.
        eventually("an event that waits", SOON, async || {
            world.store.event(home, *event).await.unwrap().filter(|history| is_waiting(&history.summary))
        })
        .await;
    }
    assert_eq!(receiver.count(), 0, "a new owner begins with nothing");
    for count in 1..=2 {
        // 6 a minute are one in 10.1 s.
        world.clock.advance(Duration::from_millis(10_101));
        let requests = eventually("the next request", SOON, async || {
            world.accept("tick", "in", "{}").await;
            Some(receiver.requests()).filter(|requests| requests.len() >= count)
        })
        .await;
        assert_eq!((requests.len(), items(&requests[count - 1]).len()), (count, 10));
    }
    node.stop().await;
}

#[tokio::test]
async fn halves_that_wait_for_the_rate_are_not_put_together_again() {
    let (receiver, world) = (Receiver::start().await, still().await);
    receiver.answer_with(|request| Answer::status(if numbers(request).contains(&2) { 400 } else { 200 }));
    let mut spec = batched(receiver.url("/"), &of(4));
    spec["destinations"][0]["rate"] = json!({"limit": 6, "per": "minute"});
    spec["destinations"][0]["retry"] = json!({"max_attempts": 1});
    world.declare("t", spec).await;
    world.declare("tick", json!({"sources": [{"name": "in"}]})).await;
    let node = world.dispatch("a");
    let events = accept(&world, "t", 0..4).await;
    let home = world.home("t");
    for (number, event) in events.iter().enumerate() {
        let row = eventually("its end", SOON, async || {
            world.clock.advance(WAIT * 10);
            world.accept("tick", "in", "{}").await;
            let history = world.store.event(home, *event).await.unwrap()?;
            history.summary.deliveries.into_iter().next().filter(|row| row.state.is_terminal())
        })
        .await;
        let sizes: Vec<_> = row.attempts.iter().map(|attempt| attempt.batch.unwrap().size).collect();
        assert!(sizes.windows(2).all(|pair| pair[1] < pair[0]), "{sizes:?}");
        assert_eq!(code(&row), if number == 2 { "attempts_exhausted" } else { "" }, "{row:?}");
        assert!(number != 2 || sizes.ends_with(&[1]), "{sizes:?}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_batch_that_fails_is_one_failure_to_the_circuit() {
    let (receiver, world) = (Receiver::start().await, still().await);
    receiver.answer(Answer::status(503));
    let mut spec = batched(receiver.url("/"), &of(10));
    spec["destinations"][0]["circuit_breaker"] = json!({"failures": 3, "percent": 0});
    spec["destinations"][0]["retry"] = json!({"base": "1h"});
    world.declare("t", spec).await;
    let node = world.dispatch("a");
    for count in 1..=3 {
        for event in accept(&world, "t", 0..10).await {
            // Time stands still, so the others' retries are not due.
            world.settled("t", event, |summary| summary.deliveries.iter().any(|row| row.attempts.len() == 1)).await;
        }
        assert_eq!(receiver.count(), count, "twenty failed events open no circuit, three failed requests do");
    }
    let event = accept(&world, "t", 0..1).await[0];
    let is_held = |summary: &EventSummary| {
        summary.deliveries.iter().any(|row| matches!(&row.state, DeliveryState::Parked { reason, .. } if reason == "circuit_open"))
    };
    let held = world.settled("t", event, is_held).await;
    assert!(held.deliveries[0].attempts.is_empty(), "it spends no attempt");
    node.stop().await;
}

#[tokio::test]
async fn one_that_hangs_leaves_its_tenants_others_room() {
    let (hanging, sibling) = (Receiver::start().await, Receiver::start().await);
    hanging.answer(Answer::hang());
    let world = World::new().await;
    let mut spec = fan_out(&[("hanging", hanging.url("/")), ("sibling", sibling.url("/"))], 64);
    spec["destinations"][0]["batch"] = json!({"format": "json_array", "max_wait": "1ms"});
    spec["plan"] = json!({"in_flight": 8});
    world.declare("t", spec).await;
    let node = world.dispatch("a");
    accept(&world, "t", 0..60).await;
    sibling.wait_for(60, SOON).await;
    let in_hand: usize = hanging.requests().iter().map(|request| items(request).len()).sum();
    assert!((1..=4).contains(&in_hand), "{in_hand} of 8 are in the hands of one that hangs");
    node.stop().await;
}

#[tokio::test]
async fn so_many_requests_at_once_and_the_next_gathers_meanwhile() {
    let (receiver, world) = (Receiver::start().await, World::new().await);
    receiver.answer_in_turn([Answer::hang()], Answer::status(200));
    let mut spec = batched(receiver.url("/"), &json!({"format": "json_array", "max_events": 50, "max_wait": "1ms"}));
    (spec["destinations"][0]["in_flight"], spec["destinations"][0]["timeout"]) = (json!(1), json!("1s"));
    world.declare("t", spec).await;
    let node = world.dispatch("a");
    let first = accept(&world, "t", 0..1).await;
    receiver.wait_for(1, SOON).await;
    let others = accept(&world, "t", 1..21).await;
    for event in first.iter().chain(&others) {
        row(&world, *event, is_delivered).await;
    }
    let requests = receiver.requests();
    let apart = requests[1].at.duration_since(requests[0].at).unwrap();
    assert!(apart >= Duration::from_millis(900), "the second began {apart:?} after the first, which took a second");
    assert!(requests.len() <= 4, "{} requests", requests.len());
    node.stop().await;
}

#[tokio::test]
async fn what_gathers_goes_out_as_it_is_at_a_stop() {
    let (receiver, world) = (Receiver::start().await, World::new().await);
    let mut spec = batched(receiver.url("/"), &json!({"format": "json_array", "max_events": 4, "max_wait": "30s"}));
    let other = Receiver::start().await;
    spec["sources"].as_array_mut().unwrap().push(json!({"name": "beside"}));
    spec["destinations"].as_array_mut().unwrap().push(json!({"name": "beside", "url": other.url("/")}));
    let beside = json!({"name": "beside", "source": "beside", "destination": "beside"});
    spec["connections"].as_array_mut().unwrap().push(beside);
    world.declare("t", spec).await;
    let node = world.dispatch("a");
    let events = accept(&world, "t", 0..3).await;
    // What comes later and goes elsewhere tells that these were taken up.
    let sibling = world.accept("t", "beside", "{}").await;
    world.settled("t", sibling, is_delivered).await;
    node.stop().await;
    assert_eq!(receiver.count(), 1);
    for event in events {
        let row = row(&world, event, is_delivered).await;
        assert_eq!((row.attempts.len(), row.attempts[0].batch.unwrap().size), (1, 3));
    }
}

#[tokio::test]
async fn what_waits_behind_a_batch_is_put_back_at_a_stop() {
    let (receiver, world) = (Receiver::start().await, World::new().await);
    let mut spec = batched(receiver.url("/"), &json!({"format": "json_array", "max_events": 2, "max_wait": "30s"}));
    spec["destinations"][0]["in_flight"] = json!(1);
    world.declare("t", spec).await;
    receiver.answer(Answer::hang());
    let node = world.dispatch("a");
    let first = accept(&world, "t", 0..2).await;
    receiver.wait_for(1, SOON).await;
    let behind = accept(&world, "t", 2..3).await;
    node.stop().await;
    assert_eq!(receiver.count(), 1);
    receiver.answer(Answer::status(200));
    let node = world.dispatch("b");
    let last = accept(&world, "t", 3..4).await;
    for event in first.into_iter().chain(behind).chain(last) {
        row(&world, event, is_delivered).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn what_is_paused_or_disabled_while_it_gathers_does_not_go_out() {
    for (kind, field, value, reason) in
        [("connections", "paused", true, "connection_paused"), ("destinations", "enabled", false, "destination_disabled")]
    {
        let (receiver, world) = (Receiver::start().await, still().await);
        let mut spec = batched(receiver.url("/"), &of(3));
        world.declare("t", spec.clone()).await;
        let node = world.dispatch("a");
        let mut events = accept(&world, "t", 0..2).await;
        spec[kind][0][field] = json!(value);
        world.declare("t", spec.clone()).await;
        events.extend(accept(&world, "t", 2..3).await);
        let waits = |summary: &EventSummary| {
            let is_so = |row: &DeliveryRecord| matches!(&row.state, DeliveryState::Parked { reason: why, .. } if why == reason);
            summary.deliveries.iter().any(is_so)
        };
        for event in &events {
            row(&world, *event, waits).await;
        }
        assert_eq!(receiver.count(), 0, "{kind}");
        spec[kind][0][field] = json!(!value);
        world.declare("t", spec).await;
        pass(&world, &receiver, 3).await;
        node.stop().await;
    }
}
