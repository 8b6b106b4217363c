//! Limits and circuits of destinations on the real program: with both stores, and with two gateways that take over from each other.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tidegate::clock::Timestamp;
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Received, Receiver, send};

use crate::api::{Api, TENANT, text};
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};

const DESTINATION: &str = "/v1/destinations/ill?tenant=acme";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circuit_opens_and_closes_and_a_destination_that_is_gone_comes_back_on_the_embedded_store() {
    ill(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circuit_opens_and_closes_and_a_destination_that_is_gone_comes_back_on_redis() {
    ill(REDIS).await;
}

async fn ill(engine: Engine) {
    let world = World::start(engine).await;
    let sibling = Receiver::start().await;
    world.receiver.answer(Answer::status(500));
    let breaker = json!({"failures": 3, "percent": 0, "pause": "1s", "max_pause": "1s", "probes": 2});
    world
        .api
        .apply(json!({
            "sources": [{"name": "in"}],
            "destinations": [
                {"name": "ill", "url": world.receiver.url("/"), "circuit_breaker": breaker, "retry": {"base": "1ms", "max_delay": "1ms"}},
                {"name": "well", "url": sibling.url("/")},
            ],
            "connections": [
                {"name": "ill", "source": "in", "destination": "ill"}, {"name": "well", "source": "in", "destination": "well"},
            ],
        }))
        .await;
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "in").await));
    let post = async || text(&send("POST", &url, &[], "{}").await.json()["id"]);
    let status = async |wanted: &dyn Fn(&Value) -> bool| {
        eventually("the destination's status", SOON, async || {
            let status = world.api.get(DESTINATION).await["status"].clone();
            wanted(&status).then_some(status)
        })
        .await
    };
    let waits = async |event: &str, reason: &str| {
        eventually(&format!("it waits for {reason}"), SOON, async || {
            let event = world.api.event(event).await;
            event["deliveries"].as_array().unwrap().iter().any(|one| one["waiting"]["for"] == reason).then_some(())
        })
        .await;
    };
    assert_eq!(status(&|_| true).await["circuit"]["state"], "closed");
    let mut events = vec![post().await];
    let open = status(&|status| status["circuit"]["state"] == "open").await;
    assert_eq!(open["circuit"]["reason"]["code"], "status");
    assert!(open["circuit"]["since"].is_string() && open["circuit"]["until"].is_string() && open["disabled"].is_null(), "{open}");
    for _ in 0..5 {
        let event = post().await;
        waits(&event, "circuit_open").await;
        events.push(event);
    }
    sibling.wait_for(6, SOON).await;
    let metrics = String::from_utf8(world.api.try_get("/metrics").await.body.to_vec()).unwrap();
    assert!(
        metrics.lines().any(|line| line.starts_with("tidegate_destination_circuits_open") && line.ends_with(" 1")),
        "{metrics}"
    );
    world.receiver.answer(Answer::status(200));
    for event in &events {
        assert_eq!(world.api.settled(event, SOON).await["state"], "delivered");
    }
    status(&|status| status["circuit"]["state"] == "closed").await;

    world.receiver.answer(Answer::status(410));
    let gone = post().await;
    assert_eq!(world.api.settled(&gone, SOON).await["state"], "dead_lettered");
    let disabled = status(&|status| !status["disabled"].is_null()).await;
    assert_eq!(disabled["disabled"]["code"], "gone");
    let held = post().await;
    waits(&held, "destination_disabled").await;
    world.receiver.answer(Answer::status(200));
    let count = world.receiver.count();
    let enabled = world.api.post("/v1/destinations/ill/enable?tenant=acme", &json!({})).await;
    assert!(enabled["status"]["disabled"].is_null(), "{enabled}");
    assert_eq!(world.api.settled(&held, SOON).await["state"], "delivered");
    assert_eq!(world.receiver.count(), count + 1);
}

/// Arrivals of a destination's requests.
fn arrivals(requests: &[Received], path: &str) -> Vec<SystemTime> {
    requests.iter().filter(|one| one.target == path).map(|one| one.at).collect()
}

/// The most of these within a span.
fn fullest<T: Copy>(times: &[T], is_within: impl Fn(T, T) -> bool) -> usize {
    (0..times.len()).map(|from| times[from..].iter().take_while(|at| is_within(times[from], **at)).count()).max().unwrap_or(0)
}

/// When the recorded attempts of a destination began.
async fn begun(api: &Api, events: &[String], destination: &str) -> Vec<Timestamp> {
    let mut begun = Vec::new();
    for event in events {
        let event = api.event(event).await;
        let rows = event["deliveries"].as_array().unwrap().iter().filter(|row| row["destination"] == destination);
        begun.extend(rows.flat_map(|row| row["attempts"].as_array().unwrap().clone()).map(|attempt| {
            let at = humantime::parse_rfc3339(attempt["started_at"].as_str().unwrap()).unwrap();
            Timestamp::from(at)
        }));
    }
    begun.sort_unstable();
    begun
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rates_hold_over_two_gateways_that_take_over_from_each_other() {
    const LIMIT: usize = 20;
    const EVENTS: usize = 500;
    let mut world = World::start(REDIS).await;
    let mut other = world.servers.launch("").start().await;
    let to = |path: &str| world.receiver.url(path);
    world
        .api
        .apply(json!({
            "sources": [{"name": "in"}],
            "destinations": [
                {"name": "second", "url": to("/second"), "rate": {"limit": LIMIT, "per": "second"}},
                {"name": "minute", "url": to("/minute"), "rate": {"limit": 600, "per": "minute"}},
            ],
            "connections": [
                {"name": "second", "source": "in", "destination": "second"},
                {"name": "minute", "source": "in", "destination": "minute"},
            ],
        }))
        .await;
    let tenant = world.api.get(&format!("/v1/tenants/{TENANT}")).await;
    eventually("the other gateway knows", SOON, async || {
        (Api::of(&other).try_get(&format!("/v1/tenants/{TENANT}")).await.status == 200).then_some(())
    })
    .await;
    let source = world.api.id("sources", "in").await;
    let urls = [world.gateway.ingest(&format!("/in/{source}")), other.ingest(&format!("/in/{source}"))];
    let mut events = Vec::new();
    for number in 0..EVENTS {
        let reply = send("POST", &urls[number % 2], &[], "{}").await;
        assert_eq!(reply.status, 202, "{:?}", reply.body);
        events.push(text(&reply.json()["id"]));
    }
    let until = |path: &'static str, count: usize| {
        world.receiver.wait_until(SOON, move |requests| requests.iter().filter(|one| one.target == path).count() >= count)
    };
    let minute = arrivals(&until("/minute", 130).await, "/minute");
    let took = minute[129].duration_since(minute[9]).unwrap();
    println!("120 attempts of 600 a minute took {took:?}");
    assert!(took <= Duration::from_secs_f64(12.0 / 0.98), "98 % of the limit are used: {took:?}");

    // Whichever of them delivers: both are killed, one after the other.
    world.gateway.kill();
    let so_far = arrivals(&world.receiver.requests(), "/second").len();
    until("/second", so_far + 3 * LIMIT).await;
    world.gateway.restart().await;
    other.kill();
    until("/second", EVENTS).await;
    let second = arrivals(&world.receiver.requests(), "/second");
    let api = Api::of(&world.gateway);
    let id = api.id("destinations", "second").await;
    let last = events.last().unwrap();
    eventually("the last is recorded", SOON, async || {
        let event = api.event(last).await;
        let rows = event["deliveries"].as_array().unwrap().clone();
        rows.iter().any(|row| row["destination"] == id && row["state"] == "delivered").then_some(())
    })
    .await;
    let begun = begun(&api, &events, &id).await;
    let most = fullest(&begun, |from, at| at.since(from) < Duration::from_secs(1));
    assert!(most <= LIMIT, "{most} attempts began in one second");
    // Between the start of an attempt and its arrival lies what a busy machine takes.
    let arrived = fullest(&second, |from, at| at.duration_since(from).unwrap_or_default() < Duration::from_millis(800));
    assert!(arrived <= LIMIT, "{arrived} arrived in 0.8 s");
    println!("shard {}, {} recorded, {} arrived, at most {most} a second", tenant["shard"], begun.len(), second.len());
}
