//! An event that feeds several destinations is divided where some of them keep an order.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::clock::{Clock, Timestamp};
use tidegate::control::snapshot::{Diversion, Diverted, Traffic};
use tidegate::event::EventId;
use tidegate::store::DeliveryState;
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Receiver};
use tidegate_test_support::redis::{Flavor, Server};
use tokio::runtime::Handle;

use super::{by_destination, dead, lost, parked};
use crate::plugins::START;
use crate::world::{LEASE, MAX_WAIT, Node, SHARD, SOON, World, fan_out, is_delivered};

/// More than fits into one write three times.
const LARGE: usize = 4 << 20;

/// Holds what comes in for the tenant, so that it is parked as a whole.
fn hold(world: &World) {
    let who = Diverted::Tenant(world.home("t").tenant);
    world.steer(Traffic { diverted: [(who, Diversion::Held)].into(), ..Traffic::default() });
}

#[tokio::test]
async fn a_large_one_stands_in_all_its_lines() {
    let receiver = Receiver::start().await;
    let world = World::new().await;
    let names = ["x", "y", "z"];
    let urls = names.map(|name| (name, receiver.url(&format!("/{name}"))));
    let mut tenant = fan_out(&urls, 8);
    for number in 0..names.len() {
        tenant["destinations"][number]["order"] = json!({"by": "json_pointer", "pointer": "/k"});
        tenant["destinations"][number]["retry"] = json!({"max_attempts": 50, "base": "10ms", "max_delay": "10ms"});
    }
    world.declare("t", tenant).await;
    receiver.answer_with(|request| Answer::status(if request.number.is_multiple_of(4) { 503 } else { 200 }));
    let body = |number: u64| json!({"pad": "x".repeat(LARGE), "k": "a", "n": number}).to_string();
    let mut events = Vec::new();
    // The first two are taken up as they come, the others out of their tenant's queue.
    let node = world.dispatch("a");
    for number in 0..4 {
        if number == 2 {
            hold(&world);
        }
        events.push(world.accept("t", "in", &body(number)).await);
        if number >= 2 {
            let waits = |row: &tidegate::store::DeliveryRecord| row.connection.is_none() && !row.state.is_terminal();
            world.settled("t", events[events.len() - 1], |summary| summary.deliveries.iter().any(waits)).await;
        }
    }
    world.steer(Traffic::default());
    for event in events {
        let summary = world.settled("t", event, |summary| is_delivered(summary) && summary.deliveries.len() == names.len()).await;
        assert!(summary.deliveries.iter().all(|row| row.destination.is_some()), "{summary:?}");
    }
    for name in names {
        let requests = receiver.requests();
        let there = requests.iter().filter(|request| request.target == format!("/{name}"));
        let mut numbers: Vec<_> = there.map(|request| request.json()["n"].as_u64().unwrap()).collect();
        numbers.dedup();
        assert_eq!(numbers, [0, 1, 2, 3], "{name}");
    }
    assert_eq!(parked(&world).await, 0);
    node.stop().await;
}

#[tokio::test]
async fn what_a_parked_event_came_to_before_a_crash_is_put_into_no_line() {
    let (good, bad) = (Receiver::start().await, Receiver::start().await);
    bad.answer(Answer::hang());
    let world = World::new().await;
    let tenant = |order: &Value| {
        let mut tenant = fan_out(&[("good", good.url("/")), ("bad", bad.url("/"))], 8);
        if !order.is_null() {
            tenant["destinations"][0]["order"] = order.clone();
        }
        tenant
    };
    world.declare("t", tenant(&Value::Null)).await;
    let (node, event) = begun(&world).await;
    // The gateway loses its lease with the rest in hand.
    let lease = world.store.acquire(SHARD, "a", LEASE).await.unwrap().expect("a node gets a new lease");
    node.stop().await;
    bad.answer(Answer::status(200));
    world.declare("t", tenant(&by_destination())).await;
    world.store.release(&lease).await.unwrap();
    let node = world.dispatch("b");
    world.settled("t", event, |summary| is_delivered(summary) && summary.deliveries.len() == 2).await;
    assert_eq!(good.count(), 1);
    node.stop().await;
}

/// An event that was parked as a whole, and of which a delivery is done.
async fn begun(world: &World) -> (Node, EventId) {
    hold(world);
    let node = world.dispatch("a");
    let event = world.accept("t", "in", "{}").await;
    eventually("it is parked", SOON, async || (parked(world).await == 1).then_some(())).await;
    world.steer(Traffic::default());
    world.settled("t", event, |summary| summary.deliveries.iter().any(|row| row.state == DeliveryState::Delivered)).await;
    (node, event)
}

#[tokio::test]
async fn of_a_parked_event_that_is_given_up_what_was_delivered_before_stays_so() {
    let (good, bad) = (Receiver::start().await, Receiver::start().await);
    bad.answer(Answer::hang());
    let world = World::at(Clock::manual(START)).await;
    world.declare("t", fan_out(&[("good", good.url("/")), ("bad", bad.url("/"))], 8)).await;
    let (node, event) = begun(&world).await;
    let lease = world.store.acquire(SHARD, "a", LEASE).await.unwrap().expect("a node gets a new lease");
    node.stop().await;
    bad.answer(Answer::status(200));
    world.clock.advance(MAX_WAIT * 2);
    world.store.release(&lease).await.unwrap();
    let node = world.dispatch("b");
    let summary = world.settled("t", event, |summary| summary.finished && dead(summary).is_some()).await;
    assert_eq!(dead(&summary), Some("tenant_window"));
    assert!(summary.deliveries.len() == 2 && summary.deliveries.iter().all(|row| row.connection.is_some()), "{summary:?}");
    let left = summary.deliveries.iter().find(|row| row.state != DeliveryState::Delivered).map(|row| row.id).unwrap();
    assert_eq!(world.store.retry(world.home("t"), &[left], world.clock.now()).await.unwrap(), 1);
    world.settled("t", event, is_delivered).await;
    assert_eq!((good.count(), bad.requests().last().map(|request| request.body.clone())), (1, Some("{}".into())));
    node.stop().await;
}

/// The note that an event had begun was to end soon after its last outcome was known, written or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn that_an_event_had_begun_stays_noted_until_its_last_outcome_is_written() {
    let (good, bad) = (Receiver::start().await, Receiver::start().await);
    let (server, _proxy, world) = lost::world(Flavor::Redis).await;
    world.declare("t", fan_out(&[("good", good.url("/")), ("bad", bad.url("/"))], 8)).await;
    let (store, runtime) = (world.store.clone(), Handle::current());
    let (go_on, goes_on) = mpsc::sync_channel(1);
    let goes_on = Mutex::new(goes_on);
    // Between the request and its answer the lease is taken away.
    bad.answer_with(move |_| {
        if goes_on.lock().unwrap().recv().is_ok() {
            let (store, runtime) = (store.clone(), runtime.clone());
            let taken = std::thread::spawn(move || runtime.block_on(store.acquire(SHARD, "a", LEASE)).unwrap());
            assert!(taken.join().unwrap().is_some());
        }
        Answer::status(200)
    });
    let (node, event) = begun(&world).await;
    let topic = &topic(&server).await;
    go_on.send(()).unwrap();
    bad.wait_for(2, SOON).await;
    assert!(noted_until(&server, topic).await > Some(Clock::system().now().after(Duration::from_secs(3600))));
    drop(go_on);
    world.settled("t", event, is_delivered).await;
    assert_eq!(good.count(), 1);
    node.stop().await;
}

/// What notes that an event had begun was cut off by the event's end, and nobody let the note go.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_note_whose_answer_nobody_waited_for_is_let_go() {
    let (good, bad) = (Receiver::start().await, Receiver::start().await);
    let (server, proxy, world) = lost::world(Flavor::Redis).await;
    world.declare("t", fan_out(&[("good", good.url("/")), ("bad", bad.url("/"))], 8)).await;
    let (go_on, goes_on) = mpsc::sync_channel::<()>(1);
    let goes_on = Mutex::new(goes_on);
    bad.answer_with(move |_| {
        assert!(goes_on.lock().unwrap().recv().is_err());
        Answer::status(200)
    });
    hold(&world);
    let node = world.dispatch("a");
    world.accept("t", "in", "{}").await;
    eventually("it is parked", SOON, async || (parked(&world).await == 1).then_some(())).await;
    let mut answer = proxy.keep_answer("begun/", ":1\r\n");
    world.steer(Traffic::default());
    answer.caught().await;
    drop(go_on);
    let count = async |command: &[&str]| redis::from_redis_value::<u64>(server.command(command).await).unwrap();
    eventually("its end is written", SOON, async || (count(&["HLEN", "{tg:0}:j"]).await == 0).then_some(())).await;
    answer.pass_on();
    let topic = &topic(&server).await;
    let now = || Some(Clock::system().now());
    eventually("the note has ended", SOON, async || (noted_until(&server, topic).await <= now()).then_some(())).await;
    node.stop().await;
}

/// Where it is noted that an event has begun: only one has.
async fn topic(server: &Server) -> String {
    let topics = redis::from_redis_value::<Vec<String>>(server.command(&["KEYS", "*begun/*"]).await).unwrap();
    let [topic] = &topics[..] else { panic!("{topics:?}") };
    topic.clone()
}

async fn noted_until(server: &Server, topic: &str) -> Option<Timestamp> {
    let notes: Vec<String> = redis::from_redis_value(server.command(&["HVALS", topic]).await).unwrap();
    notes.iter().map(|note| Timestamp(note.split(':').next().unwrap().parse().unwrap())).max()
}
