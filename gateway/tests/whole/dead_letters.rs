//! Dead letters are found by what they have in common, and tried again by jobs that keep their rate, can be cancelled, and go on after a
//! `kill -9`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tidegate::clock::Timestamp;
use tidegate_test_support::eventually;
use tidegate_test_support::gateway::Gateway;
use tidegate_test_support::http::{Answer, send};
use tidegate_test_support::ports::Closed;
use tokio::task::JoinSet;

use crate::api::{Api, TENANT, text};
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};

const JOBS: &str = "/v1/dead-letters/retry-jobs";
const SENDERS: usize = 16;
/// How long a job over many dead letters may take on a busy machine.
const LONG: Duration = Duration::from_secs(90);

/// Two sources and two destinations: one that answers, and one that nobody listens at.
async fn set_up(world: &World) -> Closed {
    let nobody = Closed::new();
    let retry = json!({"max_attempts": 1});
    // With a circuit most would wait, and not be given up.
    let breaker = json!({"enabled": false});
    let destination = |name: &str, url: String| json!({"name": name, "url": url, "retry": retry, "circuit_breaker": breaker});
    let connection = |name: &str, to: &str| json!({"name": name, "source": name, "destination": to});
    world
        .api
        .apply(json!({
            "plan": {"rate": 100_000.0, "burst": 100_000},
            "sources": [{"name": "a"}, {"name": "b"}],
            "destinations": [destination("up", world.receiver.url("/up")), destination("away", format!("http://{}/", nobody.address()))],
            "connections": [connection("a", "up"), connection("b", "away")],
        }))
        .await;
    nobody
}

/// Sends so many events to a source; their ids.
async fn accept(world: &World, source: &str, count: usize) -> BTreeSet<String> {
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", source).await));
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let url = url.clone();
        senders.spawn(async move {
            let mut ids = Vec::new();
            for number in (sender..count).step_by(SENDERS) {
                let reply = send("POST", &url, &[], number.to_string()).await;
                assert_eq!(reply.status, 202, "{:?}", reply.body);
                ids.push(text(&reply.json()["id"]));
            }
            ids
        });
    }
    senders.join_all().await.into_iter().flatten().collect()
}

async fn listed(api: &Api, filter: &str) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/v1/dead-letters?tenant={TENANT}{filter}{cursor}")).await;
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { return items };
        cursor = format!("&cursor={next}");
    }
}

/// Waits until the gateway has given up so many.
async fn given_up(world: &World, count: usize) {
    eventually(&format!("{count} dead letters"), LONG, async || {
        let signals = world.api.get("/v1/signals").await;
        (signals["gateway"]["dead_letters"] == count).then_some(())
    })
    .await;
}

async fn job(api: &Api, id: &str) -> Value {
    api.get(&format!("{JOBS}/{id}?tenant={TENANT}")).await
}

fn counts(job: &Value) -> [u64; 4] {
    ["examined", "matched", "retried", "gone"].map(|name| job[name].as_u64().unwrap())
}

/// How often each event was received.
fn received(world: &World) -> BTreeMap<String, usize> {
    world.receiver.requests().iter().fold(BTreeMap::new(), |mut received, request| {
        *received.entry(request.webhook_id().unwrap().to_owned()).or_default() += 1;
        received
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_found_by_what_they_have_in_common_on_the_embedded_store() {
    find(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_found_by_what_they_have_in_common_on_redis() {
    find(REDIS).await;
}

async fn find(engine: Engine) {
    let world = World::start(engine).await;
    let _nobody = set_up(&world).await;
    world.api.patch(&format!("/v1/tenants/{TENANT}"), &json!({"plan": {"shards": 4}})).await;
    world.receiver.answer(Answer::status(503).body("out of order"));
    let a = accept(&world, "a", 7).await;
    given_up(&world, 7).await;
    let clock = || Timestamp::from(tidegate_test_support::now());
    let between = clock().after(Duration::from_millis(1));
    eventually("the clock goes on", SOON, async || (clock() > between).then_some(())).await;
    let b = accept(&world, "b", 5).await;
    given_up(&world, 12).await;

    let events = async |filter: &str| -> BTreeSet<String> {
        listed(&world.api, filter).await.iter().map(|letter| text(&letter["event"])).collect()
    };
    let all: BTreeSet<String> = a.union(&b).cloned().collect();
    assert_eq!(events("").await, all);
    let connection = world.api.id("connections", "a").await;
    for filter in
        ["source=a", "destination=up", &format!("connection={connection}"), "status=503", "code=status", "party=destination"]
    {
        assert_eq!(events(&format!("&{filter}")).await, a, "{filter}");
        assert_eq!(events(&format!("&{filter}&limit=2")).await, a, "{filter} in small pages");
    }
    for filter in ["source=b", "destination=away", "party=network", "code=connect_refused"] {
        assert_eq!(events(&format!("&{filter}")).await, b, "{filter}");
    }
    assert_eq!(events(&format!("&until={between}")).await, a);
    assert_eq!(events(&format!("&since={between}")).await, b);
    assert!(events("&source=a&status=500").await.is_empty());

    let letters = listed(&world.api, "&source=a").await;
    let last = &letters[0]["last_attempt"];
    assert_eq!((&last["number"], &last["status"], &last["response"]), (&json!(1), &json!(503), &json!("out of order")));
    let letters = listed(&world.api, "&source=b").await;
    let last = &letters[0]["last_attempt"];
    assert_eq!((&last["status"], &last["failure"]["code"]), (&Value::Null, &json!("connect_refused")));

    let refused = world.api.try_get(&format!("/v1/dead-letters?tenant={TENANT}&source=nobody")).await;
    assert_eq!((refused.status, &refused.json()["errors"][0]["field"]), (422, &json!("source")));

    // A job means the same.
    let counted =
        world.api.job_over(JOBS, &world.api.begin_job(JOBS, json!({"filter": {"source": "a"}, "dry_run": true})).await).await;
    assert_eq!((&counted["state"], counts(&counted)), (&json!("done"), [12, 7, 0, 0]));
    world.receiver.answer(Answer::status(200));
    let done = world.api.job_over(JOBS, &world.api.begin_job(JOBS, json!({"filter": {"source": "a"}})).await).await;
    assert_eq!((&done["state"], counts(&done)), (&json!("done"), [12, 7, 7, 0]));
    for event in &a {
        assert_eq!(world.api.settled(event, SOON).await["state"], "delivered");
    }
    assert_eq!(events("").await, b);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_on_after_its_gateway_was_killed_on_the_embedded_store() {
    killed(EMBEDDED, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_on_after_its_gateway_was_killed_on_redis() {
    killed(REDIS, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_on_at_another_gateway() {
    killed(REDIS, true).await;
}

/// A gateway is killed in the middle of a job; it itself comes back, or another one goes on.
async fn killed(engine: Engine, elsewhere: bool) {
    const LETTERS: usize = 300;
    let mut world = World::start(engine).await;
    let _nobody = set_up(&world).await;
    world.receiver.answer(Answer::status(503));
    let events = accept(&world, "a", LETTERS).await;
    given_up(&world, LETTERS).await;
    let refused = received(&world);
    let id = world.api.begin_job(JOBS, json!({"rate": 60})).await;
    let before = eventually("the job is under way", SOON, async || {
        let job = job(&world.api, &id).await;
        (counts(&job)[2] > 0).then_some(job)
    })
    .await;
    assert_eq!(before["state"], "running");
    world.gateway.kill();
    world.receiver.answer(Answer::status(200));
    let other: Option<Gateway> = if elsewhere {
        Some(world.servers.launch("").start().await)
    } else {
        world.gateway.restart().await;
        None
    };
    let api = Api::of(other.as_ref().unwrap_or(&world.gateway));
    let done = api.job_over(JOBS, &id).await;
    let all = LETTERS as u64;
    // What was put back in the first second failed again, and is newer than the job.
    assert_eq!((&done["state"], counts(&done)), (&json!("done"), [all, all, all, 0]));
    for event in &events {
        let event = api.settled(event, SOON).await;
        let attempts = event["deliveries"][0]["attempts"].as_array().unwrap().len();
        assert!(attempts >= 2, "each was tried again: {event}");
    }
    let again = api.job_over(JOBS, &api.begin_job(JOBS, json!({})).await).await;
    assert_eq!(again["state"], "done");
    for event in &events {
        eventually("it is delivered", SOON, async || (api.event(event).await["state"] == "delivered").then_some(())).await;
    }
    assert_eq!(received(&world).keys().collect::<Vec<_>>(), refused.keys().collect::<Vec<_>>(), "with the ids that they had");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_puts_them_into_their_lines_in_the_order_of_their_events_on_the_embedded_store() {
    ordered(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_puts_them_into_their_lines_in_the_order_of_their_events_on_redis() {
    ordered(REDIS).await;
}

/// A destination that keeps an order by key gives everything up; then jobs try it again.
async fn ordered(engine: Engine) {
    const FEW: usize = 6;
    const MANY: usize = 50;
    const KEYS: usize = 5;
    let world = World::start(engine).await;
    set_up(&world).await;
    let patch = json!({"order": {"by": "header", "name": "x-key"}});
    world.api.patch(&format!("/v1/destinations/up?tenant={TENANT}"), &patch).await;
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "a").await));
    let give_up = async |keys: usize, count: usize| {
        world.receiver.answer(Answer::status(503));
        let mut events = Vec::new();
        for number in 0..count {
            let key = (number % keys).to_string();
            let reply = send("POST", &url, &[("x-key", key.as_str())], number.to_string()).await;
            events.push(text(&reply.json()["id"]));
        }
        eventually("all are given up", SOON, async || (listed(&world.api, "").await.len() == count).then_some(())).await;
        events
    };
    let retry = format!("/v1/dead-letters/retry?tenant={TENANT}");
    let came = async |job: Value, keys: usize, events: Vec<String>| {
        let count = events.len();
        world.receiver.answer(Answer::status(200));
        let before = world.receiver.requests().len();
        if job.is_null() {
            // By hand, in the order in which they are listed: newest first.
            let ids: Vec<_> = listed(&world.api, "").await.iter().map(|letter| letter["id"].clone()).collect();
            assert_eq!(world.api.post(&retry, &json!({ "ids": ids })).await["retried"], count);
        } else {
            let done = world.api.job_over(JOBS, &world.api.begin_job(JOBS, job).await).await;
            assert_eq!((&done["state"], counts(&done)), (&json!("done"), [count as u64, count as u64, count as u64, 0]));
        }
        let requests = world.receiver.wait_for(before + count, SOON).await;
        let number = |body: &[u8]| std::str::from_utf8(body).unwrap().parse::<usize>().unwrap();
        let numbers: Vec<_> = requests[before..].iter().map(|request| number(&request.body)).collect();
        for key in 0..keys {
            let of_key: Vec<_> = numbers.iter().copied().filter(|number| number % keys == key).collect();
            assert_eq!(of_key, (key..count).step_by(keys).collect::<Vec<_>>(), "of key {key}");
        }
        for event in &events {
            assert_eq!(world.api.settled(event, SOON).await["state"], "delivered");
        }
    };

    let few = give_up(1, FEW).await;
    // The first fails once more, and so is given up last.
    let letters = listed(&world.api, "").await;
    let first = &letters.last().unwrap()["id"];
    assert_eq!(world.api.post(&retry, &json!({ "ids": [first] })).await["retried"], 1);
    eventually("it is given up again", SOON, async || {
        let letters = listed(&world.api, "").await;
        (letters.len() == FEW && letters[0]["id"] == *first).then_some(())
    })
    .await;
    came(json!({}), 1, few).await;

    let by_hand = give_up(1, FEW).await;
    came(json!(null), 1, by_hand).await;

    let many = give_up(KEYS, MANY).await;
    // In several batches.
    came(json!({"rate": 25}), KEYS, many).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_undelivered_when_its_destination_is_deleted_is_given_up_with_that_reason_on_the_embedded_store() {
    deleted(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_undelivered_when_its_destination_is_deleted_is_given_up_with_that_reason_on_redis() {
    deleted(REDIS).await;
}

/// A destination goes, and its connection with it, while deliveries to it are to be tried again and others wait for a place.
async fn deleted(engine: Engine) {
    const EVENTS: usize = 10;
    let world = World::start(engine).await;
    let _nobody = set_up(&world).await;
    let destination = world.api.id("destinations", "up").await;
    let patch = json!({"in_flight": 1, "retry": {"base": "1s", "max_delay": "1s", "max_attempts": 50}});
    world.api.patch(&format!("/v1/destinations/up?tenant={TENANT}"), &patch).await;
    world.receiver.answer(Answer::status(503));
    let events = accept(&world, "a", EVENTS).await;
    // What is not planned by then has no connection any more, and is told as unmatched.
    world.receiver.wait_for(EVENTS, SOON).await;
    for path in ["connections/a", "destinations/up"] {
        let reply = world.api.send("DELETE", &format!("/v1/{path}?tenant={TENANT}"), "application/json", "").await;
        assert_eq!(reply.status, 204, "{:?}", reply.body);
    }
    let letters = eventually("all are given up", SOON, async || {
        let letters = listed(&world.api, &format!("&destination={destination}")).await;
        (letters.len() == EVENTS).then_some(letters)
    })
    .await;
    for letter in &letters {
        assert_eq!(letter["reason"]["code"], "unknown_connection", "{letter}");
    }
    assert_eq!(letters.iter().map(|letter| text(&letter["event"])).collect::<BTreeSet<_>>(), events);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_keeps_its_rate_and_can_be_cancelled() {
    const LETTERS: usize = 200;
    const RATE: usize = 20;
    let world = World::start(EMBEDDED).await;
    let _nobody = set_up(&world).await;
    world.receiver.answer(Answer::status(503));
    accept(&world, "a", LETTERS).await;
    given_up(&world, LETTERS).await;
    world.receiver.answer(Answer::status(200));
    let id = world.api.begin_job(JOBS, json!({"rate": RATE})).await;
    eventually("some of them are put back", SOON, async || (counts(&job(&world.api, &id).await)[2] >= 60).then_some(())).await;
    let reply = world.api.send("DELETE", &format!("{JOBS}/{id}?tenant={TENANT}"), "application/json", "").await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    let ended = world.api.job_over(JOBS, &id).await;
    assert_eq!(ended["state"], "cancelled");
    let retried = counts(&ended)[2] as usize;
    assert!((60..LETTERS).contains(&retried), "{ended}");
    assert_eq!(listed(&world.api, "").await.len(), LETTERS - retried, "the others stay");
    world.receiver.wait_for(LETTERS + retried, SOON).await;

    let arrived: Vec<SystemTime> = world.receiver.requests()[LETTERS..].iter().map(|request| request.at).collect();
    let took = arrived[retried - 1].duration_since(arrived[0]).unwrap();
    // A second's worth comes at once; the first may be as late as half a second.
    let least = Duration::from_secs_f64((retried - RATE) as f64 / RATE as f64 - 0.5);
    assert!(took >= least, "{retried} in {took:?}");

    let again = world.api.send("DELETE", &format!("{JOBS}/{id}?tenant={TENANT}"), "application/json", "").await;
    assert_eq!((again.status, &again.json()["state"]), (200, &json!("cancelled")), "once more changes nothing");
    let jobs = world.api.get(&format!("{JOBS}?tenant={TENANT}")).await;
    assert_eq!(jobs["items"].as_array().unwrap().iter().map(|job| text(&job["id"])).collect::<Vec<_>>(), [id]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_have_limits_and_wait_while_retries_are_paused() {
    let world = World::start(EMBEDDED).await;
    let _nobody = set_up(&world).await;
    world.receiver.answer(Answer::status(503));
    accept(&world, "a", 3).await;
    given_up(&world, 3).await;
    let set = async |percent: u8| {
        let body = json!({ "percent": percent }).to_string();
        assert_eq!(world.api.send("PUT", "/v1/traffic/retries", "application/json", body).await.status, 200);
    };
    set(0).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(world.api.begin_job(JOBS, json!({})).await);
    }
    for id in &ids {
        eventually("it is held up", SOON, async || (job(&world.api, id).await["held_up_by"] == "retries_paused").then_some(()))
            .await;
    }
    let fifth = world.api.send("POST", &format!("{JOBS}?tenant={TENANT}"), "application/json", "{}").await;
    assert_eq!(fifth.status, 409, "{:?}", fifth.body);
    assert!(text(&fifth.json()["detail"]).contains("4 retry and replay jobs"), "{:?}", fifth.body);
    assert_eq!(listed(&world.api, "").await.len(), 3);
    world.receiver.answer(Answer::status(200));
    set(100).await;
    let mut retried = 0;
    for id in &ids {
        let done = world.api.job_over(JOBS, id).await;
        assert_eq!(done["state"], "done");
        retried += counts(&done)[2];
    }
    assert_eq!(retried, 3, "each by one of them");

    // Twenty are kept.
    for _ in 0..20 {
        let id = world.api.begin_job(JOBS, json!({"dry_run": true})).await;
        world.api.job_over(JOBS, &id).await;
        ids.push(id);
    }
    let jobs = world.api.get(&format!("{JOBS}?tenant={TENANT}")).await;
    let kept: Vec<String> = jobs["items"].as_array().unwrap().iter().map(|job| text(&job["id"])).collect();
    assert_eq!(kept, ids[4..].iter().rev().cloned().collect::<Vec<_>>(), "newest first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_are_retried_in_bounded_memory() {
    const LETTERS: usize = 10_000;
    const BODY: usize = 8 << 10;
    // The store has a process of its own: what grows here is the gateway.
    let world = World::with(REDIS, |launch| launch, "dispatch.bytes = \"16MiB\"\n").await;
    let _nobody = set_up(&world).await;
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "b").await));
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let url = url.clone();
        senders.spawn(async move {
            for _ in (sender..LETTERS).step_by(SENDERS) {
                assert_eq!(send("POST", &url, &[], vec![b'x'; BODY]).await.status, 202);
            }
        });
    }
    senders.join_all().await;
    given_up(&world, LETTERS).await;
    let before = resident(&world.gateway);
    let id = world.api.begin_job(JOBS, json!({"rate": 100_000})).await;
    let mut most = 0;
    let done = eventually("the job is over", LONG, async || {
        most = most.max(resident(&world.gateway));
        let job = job(&world.api, &id).await;
        (job["state"] != "running").then_some(job)
    })
    .await;
    assert_eq!((&done["state"], counts(&done)[1..3].to_vec()), (&json!("done"), vec![LETTERS as u64; 2]));
    println!("resident: {} KiB before, at most {} KiB meanwhile", before >> 10, most >> 10);
    assert!(most < before + (48 << 20), "of {} MiB of dead letters: {before} became {most}", (LETTERS * BODY) >> 20);
}

/// Resident memory of a gateway, in bytes.
fn resident(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}
