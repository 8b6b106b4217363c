//! Batches on the real program, with both stores: what a receiver gets and proves, what it may answer, and that a kill loses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_test_support::http::{Answer, Received, send};
use tidegate_test_support::standard_webhooks::{verify_node, verify_python, verify_rust};
use tidegate_test_support::{eventually, monotonic};

use crate::api::{Api, TENANT, text};
use crate::load::{Acked, Load};
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World, prebuilt};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const KILLS: usize = 3;
/// A stop that waits for a batch to be filled may take this long.
const LONG: Duration = Duration::from_secs(90);
const SENDERS: usize = 16;

async fn set_up(world: &World, destination: Value) {
    let mut out = json!({"name": "out", "url": world.receiver.url("/"), "circuit_breaker": {"enabled": false}});
    for (field, value) in destination.as_object().unwrap() {
        out[field] = value.clone();
    }
    world
        .api
        .apply(json!({
            "plan": {"rate": 100_000.0, "burst": 100_000},
            "sources": [{"name": "in"}],
            "destinations": [out],
            "connections": [{"name": "through", "source": "in", "destination": "out"}],
        }))
        .await;
}

async fn ingest(world: &World) -> String {
    world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "in").await))
}

fn items(request: &Received) -> Vec<Value> {
    request.json().as_array().expect("an array").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_signed_as_one_and_each_event_shows_it_on_the_embedded_store() {
    signed(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_signed_as_one_and_each_event_shows_it_on_redis() {
    signed(REDIS).await;
}

async fn signed(engine: Engine) {
    let world = World::start(engine).await;
    world.receiver.answer_with(|request| {
        let bad = |item: &&Value| request.number == 0 && item["data"]["n"] == 0;
        let failures: Vec<_> = items(request).iter().filter(bad).map(|item| json!({"itemIdentifier": item["id"]})).collect();
        Answer::status(200).body(json!({ "batchItemFailures": failures }).to_string())
    });
    let batch = json!({"format": "json_array", "envelope": true, "max_events": 3, "max_wait": "10s"});
    let retry = json!({"base": "1ms", "max_delay": "1ms"});
    set_up(&world, json!({"batch": batch, "signing": {"secrets": [SECRET]}, "retry": retry})).await;
    let url = ingest(&world).await;
    let mut events = Vec::new();
    for n in 0..5 {
        let reply =
            send("POST", &url, &[("content-type", "application/json"), ("x-kind", "k")], json!({ "n": n }).to_string()).await;
        events.push(text(&reply.json()["id"]));
    }
    // The one that failed fills the second.
    let requests = world.receiver.wait_for(2, SOON).await;
    for request in &requests {
        for verify in [verify_rust, verify_python, verify_node] {
            verify(SECRET, &request.headers, &request.body).unwrap();
        }
        assert!(request.webhook_id().unwrap().starts_with("bat_"));
        for item in items(request) {
            assert!(events.contains(&text(&item["event"])), "{item}");
            assert_eq!(item["headers"], json!({"content-type": "application/json", "x-kind": "k"}));
        }
    }
    for event in &events {
        let event = world.api.settled(event, SOON).await;
        assert_eq!(event["state"], "delivered", "{event:#}");
        let delivery = &event["deliveries"][0];
        let attempts = delivery["attempts"].as_array().unwrap();
        for attempt in attempts {
            let request = requests.iter().find(|one| one.webhook_id() == attempt["batch"]["id"].as_str()).expect("its request");
            assert!(items(request).iter().any(|item| item["id"] == delivery["id"]));
            assert_eq!((&attempt["batch"]["size"], &attempt["status"]), (&json!(3), &json!(200)));
        }
        let was_bad = items(&requests[0]).iter().any(|item| item["event"] == event["id"] && item["data"]["n"] == 0);
        assert_eq!(attempts.len(), if was_bad { 2 } else { 1 });
        assert_eq!(attempts[0]["failure"]["code"], if was_bad { json!("batch_item") } else { Value::Null });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_gathers_goes_out_at_a_stop_on_the_embedded_store() {
    stopped(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_gathers_goes_out_at_a_stop_on_redis() {
    stopped(REDIS).await;
}

/// A gateway is told to stop while a batch gathers that nothing else would close for half a minute.
async fn stopped(engine: Engine) {
    const EVENTS: usize = 7;
    let mut world = World::with(engine, |launch| launch, "shutdown.deadline = \"60s\"").await;
    let batch = json!({"format": "json_array", "envelope": true, "max_events": 100, "max_wait": "30s"});
    set_up(&world, json!({ "batch": batch })).await;
    world
        .api
        .apply(json!({
            "destinations": [{"name": "seen", "url": world.receiver.url("/seen")}],
            "connections": [{"name": "seen", "source": "in", "destination": "seen"}],
        }))
        .await;
    let url = ingest(&world).await;
    let mut events = BTreeSet::new();
    for n in 0..EVENTS {
        let reply = send("POST", &url, &[("content-type", "application/json")], json!({ "n": n }).to_string()).await;
        events.insert(text(&reply.json()["id"]));
    }
    // By now the other delivery of each gathers.
    world.receiver.wait_for(EVENTS, SOON).await;
    let began = monotonic();
    let status = world.gateway.stop(LONG).await;
    let took = began.elapsed();
    assert!(status.success(), "{status}: {}", world.gateway.log());
    assert!(took < SOON / 2, "stopped only after {took:?}");
    let arrived: BTreeSet<_> = world
        .receiver
        .requests()
        .iter()
        .filter(|request| request.target == "/")
        .flat_map(items)
        .map(|item| text(&item["event"]))
        .collect();
    assert_eq!(arrived, events, "what gathered was sent");
    world.gateway.restart().await;
    for event in &events {
        assert_eq!(world.api.settled(event, SOON).await["state"], "delivered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_loses_nothing_of_its_batches_on_the_embedded_store() {
    killed(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_loses_nothing_of_its_batches_on_redis() {
    killed(REDIS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_gateway_takes_over_what_was_in_batches() {
    let mut world = World::start(REDIS).await;
    let log = Log::keep(&world).await;
    let other = world.servers.launch("").start().await;
    let api = Api::of(&other);
    eventually("the other knows the source", SOON, async || {
        (api.try_get(&format!("/v1/sources/in?tenant={TENANT}")).await.status == 200).then_some(())
    })
    .await;
    let path = format!("/in/{}", world.api.id("sources", "in").await);
    let load = Load::start(&[world.gateway.ingest(&path), other.ingest(&path)], SENDERS);
    load.ledger.more(400, SOON).await;
    world.gateway.kill();
    load.ledger.more(400, SOON).await;
    log.end("one of two gateways killed", &world, &api, load.stop().await).await;
}

async fn killed(engine: Engine) {
    let mut world = World::start(engine).await;
    let log = Log::keep(&world).await;
    let load = Load::start(&[ingest(&world).await], SENDERS);
    for _ in 0..KILLS {
        load.ledger.more(400, SOON).await;
        world.gateway.kill();
        world.gateway.restart().await;
    }
    load.ledger.more(20, SOON).await;
    log.end(&format!("{engine:?}"), &world, &world.api, load.stop().await).await;
    let metrics = String::from_utf8(world.api.try_get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("tidegate_attempt_batch_sum"), "{metrics}");
}

/// What the receiver took.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    once: BTreeSet<u64>,
    again: usize,
}

impl Log {
    /// With a receiver that refuses some batches as a whole, and some in part, by place; slowly, so that a kill finds some on their way.
    async fn keep(world: &World) -> Self {
        let retry = json!({"base": "20ms", "max_delay": "200ms", "max_attempts": 50});
        let batch = json!({"format": "json_array", "max_events": 50, "max_wait": "20ms"});
        set_up(world, json!({"batch": batch, "retry": retry, "in_flight": 4})).await;
        let log = Self::default();
        let kept = log.clone();
        world.receiver.answer_with(move |request| {
            let is_failed = |place: usize| match request.number % 5 {
                0 => true,
                1 => place.is_multiple_of(2),
                _ => false,
            };
            let (mut failures, mut taken) = (Vec::new(), kept.0.lock().unwrap());
            for (place, item) in items(request).iter().enumerate() {
                if is_failed(place) {
                    failures.push(json!({"itemIdentifier": place.to_string()}));
                } else {
                    let is_new = taken.once.insert(item["number"].as_u64().expect("a number"));
                    taken.again += usize::from(!is_new);
                }
            }
            let answer = match request.number % 5 {
                0 => Answer::status(503),
                _ => Answer::status(200).body(json!({ "batchItemFailures": failures }).to_string()),
            };
            answer.after(Duration::from_millis(20))
        });
        log
    }

    /// Waits until all that was acknowledged has arrived, and the history says so.
    async fn end(&self, what: &str, world: &World, api: &Api, acked: BTreeMap<u64, Acked>) {
        eventually("all that was acknowledged arrives", SOON * 2, async || {
            let taken = self.0.lock().unwrap();
            acked.keys().all(|number| taken.once.contains(number)).then_some(())
        })
        .await;
        eventually("the history says so", SOON, async || {
            let events = api.all("/v1/events").await;
            events.iter().all(|event| event["state"] == "delivered").then_some(())
        })
        .await;
        let letters = api.get(&format!("/v1/dead-letters?tenant={TENANT}")).await;
        assert_eq!(letters["items"], json!([]));
        let (requests, again) = (world.receiver.count(), self.0.lock().unwrap().again);
        println!("{what}: {} acknowledged, {requests} requests, {again} taken twice", acked.len());
        assert!(requests < acked.len(), "events go out together: {requests} requests");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_answers_are_bounded_and_lose_nothing() {
    let world = World::start(EMBEDDED).await;
    let batch = json!({"format": "ndjson", "max_events": 2, "max_wait": "10s"});
    let retry = json!({"base": "1ms", "max_delay": "1ms", "max_attempts": 20});
    set_up(&world, json!({"batch": batch, "retry": retry, "timeout": "2s"})).await;
    let failures = |name: &str| json!({"batchItemFailures": [{"itemIdentifier": name}]}).to_string();
    let hostile = [
        Answer::status(207).flooding(1 << 30),
        Answer::status(207).dripping(Duration::from_millis(300), "[".repeat(100)),
        Answer::status(200).body(failures("evt_of_somebody_else")),
        Answer::status(200).body(failures("2")),
        Answer::status(200).body(failures("0").trim_end_matches('}').to_owned()),
        Answer::status(200).body(json!([{"id": 99, "status": 200}]).to_string()),
        Answer::disconnect(),
    ];
    let count = hostile.len();
    world.receiver.answer_in_turn(hostile, Answer::status(200).flooding(1 << 30));
    let url = ingest(&world).await;
    let mut events = Vec::new();
    for n in 0..2 {
        events.push(text(&send("POST", &url, &[], json!({ "n": n }).to_string()).await.json()["id"]));
    }
    for event in &events {
        let event = world.api.settled(event, SOON).await;
        assert_eq!(event["state"], "delivered", "{event:#}");
        let attempts = event["deliveries"][0]["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), count + 1);
        let codes: Vec<_> = attempts.iter().map(|attempt| attempt["failure"]["code"].as_str().unwrap_or("none")).collect();
        assert!(codes[..count - 1].iter().all(|code| *code == "batch_answer"), "{codes:?}");
        assert_eq!(codes[count..], ["none"], "a head of 200 counts, whatever comes behind it");
        assert!(attempts.iter().all(|attempt| attempt["took_us"].as_u64().unwrap() < 4_000_000));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cloudevents_go_out_in_the_standards_batch() {
    let world = World::start(EMBEDDED).await;
    let component = world.api.keep(prebuilt("cloudevents")).await;
    let config =
        json!({"mode": "structured", "source": {"pointer": "/from"}, "type": {"pointer": "/kind"}, "id": {"pointer": "/id"}});
    world
        .api
        .apply(json!({
            "plugins": [{"name": "cloudevents", "component": component, "aliases": ["live"]}],
            "sources": [{"name": "in"}],
            "destinations": [{
                "name": "out", "url": world.receiver.url("/"), "retry": {"base": "1ms", "max_delay": "1ms"},
                "batch": {"format": "cloudevents", "max_events": 2, "max_wait": "10s"},
            }],
            "connections": [{
                "name": "through", "source": "in", "destination": "out",
                "plugins": [{"plugin": "cloudevents", "version": "live", "config": config}],
            }],
        }))
        .await;
    world.receiver.answer_in_turn(
        [Answer::status(200).body(json!({"batchItemFailures": [{"itemIdentifier": "b"}]}).to_string())],
        Answer::status(200),
    );
    let url = ingest(&world).await;
    for id in ["a", "b", "c"] {
        let body = json!({"id": id, "from": "https://example.com/", "kind": "com.example.made"});
        let reply = send("POST", &url, &[("content-type", "application/json")], body.to_string()).await;
        assert_eq!(reply.status, 202);
    }
    let requests = world.receiver.wait_for(2, SOON).await;
    let ids = |request: &Received| items(request).iter().map(|event| text(&event["id"])).collect::<BTreeSet<_>>();
    for request in &requests {
        assert_eq!(request.header("content-type"), Some("application/cloudevents-batch+json"));
        assert!(items(request).iter().all(|event| event["specversion"] == "1.0" && event["data"]["from"].is_string()));
    }
    let all: BTreeSet<_> = requests.iter().flat_map(ids).collect();
    assert_eq!(all, ["a", "b", "c"].map(str::to_owned).into());
}
