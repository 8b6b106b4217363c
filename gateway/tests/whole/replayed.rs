//! Past events are sent over another connection once more: each once for each job, whatever crashes, as deliveries of their own.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tidegate_test_support::eventually;
use tidegate_test_support::gateway::Gateway;
use tidegate_test_support::github::PING;
use tidegate_test_support::http::send;

use crate::api::{Api, TENANT, text};
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};

const JOBS: &str = "/v1/replay-jobs";

/// One source, and a destination that gets all; then, with `later`, another one that has got nothing yet.
async fn apply(world: &World, later: bool) {
    let destination = |name: &str| json!({"name": name, "url": world.receiver.url(&format!("/{name}"))});
    let connection = |name: &str, filter: Value| json!({"name": name, "source": "in", "destination": name, "filter": filter});
    let (mut destinations, mut connections) = (vec![destination("first")], vec![connection("first", json!(null))]);
    if later {
        destinations.push(destination("later"));
        connections.push(connection("later", json!({"body": {"keep": true}})));
    }
    let plan = json!({"rate": 100_000.0, "burst": 100_000, "shards": 2});
    world
        .api
        .apply(json!({"plan": plan, "sources": [{"name": "in"}], "destinations": destinations, "connections": connections}))
        .await;
}

async fn accept(world: &World, numbers: std::ops::Range<usize>) -> Vec<String> {
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "in").await));
    let mut events = Vec::new();
    for number in numbers {
        let body = json!({"number": number, "keep": number % 4 != 0}).to_string();
        let reply = send("POST", &url, &[("content-type", "application/json")], body).await;
        assert_eq!(reply.status, 202, "{:?}", reply.body);
        events.push(text(&reply.json()["id"]));
    }
    for event in &events {
        assert_eq!(world.api.settled(event, SOON).await["state"], "delivered");
    }
    events
}

fn counts(job: &Value) -> [u64; 4] {
    ["examined", "matched", "replayed", "gone"].map(|name| job[name].as_u64().unwrap())
}

/// The `webhook-id`s that came to a destination, with the numbers in their bodies.
fn received(world: &World, at: &str) -> BTreeMap<String, u64> {
    let requests = world.receiver.requests();
    let there = requests.iter().filter(|request| request.target == at);
    let number = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap()["number"].as_u64().unwrap();
    there.map(|request| (request.webhook_id().unwrap().to_owned(), number(&request.body))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_destination_gets_what_came_in_before_it_on_the_embedded_store() {
    replay(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_destination_gets_what_came_in_before_it_on_redis() {
    replay(REDIS).await;
}

async fn replay(engine: Engine) {
    let world = World::start(engine).await;
    apply(&world, false).await;
    let events = accept(&world, 0..12).await;
    apply(&world, true).await;
    let before = received(&world, "/first");

    let counted = world.api.job_over(JOBS, &world.api.begin_job(JOBS, json!({"connection": "later", "dry_run": true})).await).await;
    assert_eq!((&counted["state"], counts(&counted)), (&json!("done"), [12, 12, 0, 0]));
    let some = json!({"connection": "later", "filter": {"ids": events[..3], "state": "delivered"}});
    let done = world.api.job_over(JOBS, &world.api.begin_job(JOBS, some).await).await;
    assert_eq!((&done["state"], &counts(&done)[1..]), (&json!("done"), &[3, 3, 0][..]));
    eventually("two of the three are for it", SOON, async || (received(&world, "/later").len() == 2).then_some(())).await;
    let all = world.api.job_over(JOBS, &world.api.begin_job(JOBS, json!({"connection": "later", "rate": 1000})).await).await;
    assert_eq!((&all["state"], counts(&all)), (&json!("done"), [12, 12, 12, 0]));
    // Of twelve events the connection's filter keeps nine; two of them came by the job before as well.
    let later =
        eventually("all have come", SOON, async || Some(received(&world, "/later")).filter(|later| later.len() == 11)).await;
    let numbers: BTreeSet<u64> = later.values().copied().collect();
    assert_eq!(numbers, (0..12).filter(|number| number % 4 != 0).collect());
    assert_eq!(received(&world, "/first"), before, "the others get nothing again");
    assert!(later.keys().all(|id| !before.contains_key(id)));

    let connection = world.api.id("connections", "later").await;
    for (number, event) in events.iter().enumerate() {
        let shown = world.api.settled(event, SOON).await;
        let deliveries = shown["deliveries"].as_array().unwrap();
        let (replays, own): (Vec<&Value>, Vec<&Value>) = deliveries.iter().partition(|row| row["replay"] == true);
        assert_eq!((own.len(), replays.len()), (1, if number < 3 { 2 } else { 1 }), "{shown}");
        let state = if number % 4 == 0 { "filtered" } else { "delivered" };
        assert!(replays.iter().all(|row| row["connection"] == *connection && row["state"] == state), "{shown}");
    }
    let listed = world.api.get(&format!("{JOBS}?tenant={TENANT}")).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 3);
    let retries = world.api.get(&format!("/v1/dead-letters/retry-jobs?tenant={TENANT}")).await;
    assert_eq!(retries["items"], json!([]), "they are jobs of another kind");
    // The way that an event takes by itself from now on has no mark.
    let next = accept(&world, 13..14).await.remove(0);
    let shown = world.api.event(&next).await;
    assert!(shown["deliveries"].as_array().unwrap().iter().all(|row| row["replay"] == false), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_goes_on_after_its_gateway_was_killed_on_the_embedded_store() {
    killed(EMBEDDED, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_goes_on_at_another_gateway() {
    killed(REDIS, true).await;
}

async fn killed(engine: Engine, elsewhere: bool) {
    const EVENTS: usize = 160;
    let mut world = World::start(engine).await;
    apply(&world, true).await;
    let events = accept(&world, 0..EVENTS).await;
    let own = received(&world, "/later");
    let id = world.api.begin_job(JOBS, json!({"connection": "later", "rate": 40})).await;
    eventually("the job is under way", SOON, async || (received(&world, "/later").len() > own.len()).then_some(())).await;
    world.gateway.kill();
    let other: Option<Gateway> = if elsewhere {
        Some(world.servers.launch("").start().await)
    } else {
        world.gateway.restart().await;
        None
    };
    let api = Api::of(other.as_ref().unwrap_or(&world.gateway));
    let done = api.job_over(JOBS, &id).await;
    assert_eq!((&done["state"], counts(&done)[1]), (&json!("done"), EVENTS as u64));
    for event in &events {
        let shown = api.settled(event, SOON).await;
        let replays = shown["deliveries"].as_array().unwrap().iter().filter(|row| row["replay"] == true).count();
        assert_eq!(replays, 1, "each once, whatever was put again: {shown}");
    }
    let ids = received(&world, "/later").len() - own.len();
    assert_eq!(ids, EVENTS * 3 / 4, "each delivery has one id");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_fails_once_its_connection_is_deleted() {
    let world = World::start(EMBEDDED).await;
    apply(&world, true).await;
    accept(&world, 0..20).await;
    let id = world.api.begin_job(JOBS, json!({"connection": "later", "rate": 1})).await;
    let reply = world.api.send("DELETE", &format!("/v1/connections/later?tenant={TENANT}"), "application/json", "").await;
    assert_eq!(reply.status, 204, "{:?}", reply.body);
    let failed = world.api.job_over(JOBS, &id).await;
    assert_eq!(failed["state"], "failed");
    assert!(text(&failed["failure"]).contains("is deleted"), "{failed}");
    let bad = world.api.send("POST", &format!("{JOBS}?tenant={TENANT}"), "application/json", "{\"connection\": \"later\"}").await;
    assert_eq!((bad.status, &bad.json()["errors"][0]["field"]), (422, &json!("connection")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_sender_signed_is_not_passed_on_by_a_replay() {
    const SECRET: &str = "It's a Secret to Everybody";
    let world = World::start(EMBEDDED).await;
    let auth = json!({"type": "preset", "name": "github", "secrets": [SECRET]});
    let destination = |name: &str| json!({"name": name, "url": world.receiver.url(&format!("/{name}"))});
    let connection = |name: &str, source: &str| json!({"name": name, "source": source, "destination": name});
    world
        .api
        .apply(json!({
            "sources": [{"name": "signed", "auth": auth}, {"name": "other"}],
            "destinations": [destination("own"), destination("elsewhere")],
            "connections": [connection("own", "signed"), connection("elsewhere", "other")],
        }))
        .await;
    let signed = world.api.id("sources", "signed").await;
    let headers = PING.headers(SECRET, "72d3162e-cc78-11e3-81ab-4c9367dc0958");
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let event = text(&send("POST", &world.gateway.ingest(&format!("/in/{signed}")), &headers, PING.bytes()).await.json()["id"]);
    world.api.settled(&event, SOON).await;
    for (connection, spec) in
        [("own", json!({"connection": "own"})), ("elsewhere", json!({"connection": "elsewhere", "filter": {"source": "signed"}}))]
    {
        let before = world.receiver.requests().len();
        let done = world.api.job_over(JOBS, &world.api.begin_job(JOBS, spec).await).await;
        assert_eq!((&done["state"], counts(&done)[2]), (&json!("done"), 1));
        let requests = world.receiver.wait_for(before + 1, SOON).await;
        let request = &requests[before];
        assert_eq!((&request.target, &request.body[..]), (&format!("/{connection}"), &PING.bytes()[..]));
        assert!(request.header("x-github-event").is_some());
        assert_eq!(request.header("x-hub-signature-256"), None, "over {connection}");
    }
    // Its senders sign otherwise by now.
    let auth = json!({"type": "preset", "name": "standard_webhooks", "secrets": ["c2VjcmV0"]});
    world.api.patch(&format!("/v1/sources/signed?tenant={TENANT}"), &json!({ "auth": auth })).await;
    let before = world.receiver.requests().len();
    let spec = json!({"connection": "elsewhere", "filter": {"source": "signed"}});
    world.api.job_over(JOBS, &world.api.begin_job(JOBS, spec).await).await;
    let requests = world.receiver.wait_for(before + 1, SOON).await;
    assert_eq!(requests[before].header("x-hub-signature-256"), None);
    // How its events were signed is known no more.
    for path in ["connections/own", "sources/signed"] {
        let reply = world.api.send("DELETE", &format!("/v1/{path}?tenant={TENANT}"), "application/json", "").await;
        assert_eq!(reply.status, 204, "{:?}", reply.body);
    }
    let spec = json!({"connection": "elsewhere", "filter": {"source": signed}});
    let refused = world.api.send("POST", &format!("{JOBS}?tenant={TENANT}"), "application/json", spec.to_string()).await;
    assert_eq!((refused.status, &refused.json()["errors"][0]["field"]), (422, &json!("filter.source")));
}
