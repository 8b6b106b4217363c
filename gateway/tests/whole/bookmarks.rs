//! An event that was bookmarked is sent again as a test: through its source or over one connection.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidegate_test_support::eventually;
use tidegate_test_support::github::PING;
use tidegate_test_support::http::send;

use crate::api::{TENANT, text};
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};

const SECRET: &str = "It's a Secret to Everybody";

/// Two destinations of one source, of which the second keeps an order, and one of another source.
async fn set_up(world: &World) {
    let names = ["plain", "ordered", "elsewhere"];
    let destination = |name: &str| {
        let order = if name == "ordered" { json!({"by": "destination"}) } else { json!(null) };
        json!({"name": name, "url": world.receiver.url(&format!("/{name}")), "order": order})
    };
    let connection = |name: &str| {
        let source = if name == "elsewhere" { "other" } else { "in" };
        json!({"name": name, "source": source, "destination": name})
    };
    world
        .api
        .apply(json!({
            "plan": {"shards": 2}, "sources": [{"name": "in"}, {"name": "other"}],
            "destinations": names.map(destination), "connections": names.map(connection),
        }))
        .await;
}

async fn post(world: &World, path: &str, body: &Value, status: u16) -> Value {
    let reply = world.api.send("POST", &format!("{path}?tenant={TENANT}"), "application/json", body.to_string()).await;
    assert_eq!(reply.status, status, "{:?}", reply.body);
    reply.json()
}

/// Sends the bookmark, and gives the states of what became of it by connection.
async fn sent(world: &World, names: &BTreeMap<String, String>, spec: Value) -> (String, BTreeMap<String, String>) {
    let id = text(&post(world, "/v1/bookmarks/one/send", &spec, 202).await["id"]);
    let event = world.api.settled(&id, SOON).await;
    assert_eq!(event["test"], true, "{event}");
    let rows = event["deliveries"].as_array().unwrap().iter();
    (id, rows.map(|row| (names[row["connection"].as_str().unwrap()].clone(), text(&row["state"]))).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bookmark_is_sent_again_on_the_embedded_store() {
    again(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bookmark_is_sent_again_on_redis() {
    again(REDIS).await;
}

async fn again(engine: Engine) {
    let mut world = World::start(engine).await;
    set_up(&world).await;
    let all = world.api.all("/v1/connections").await;
    let names: BTreeMap<_, _> = all.iter().map(|one| (text(&one["id"]), text(&one["name"]))).collect();
    let path = format!("/in/{}/below?a=b", world.api.id("sources", "in").await);
    let headers = [("x-kind", "one"), ("x-kind", "two"), ("authorization", "Bearer secret")];
    let reply = send("POST", &world.gateway.ingest(&path), &headers, vec![0xff, 0, 1]).await;
    let first = text(&reply.json()["id"]);
    world.api.settled(&first, SOON).await;
    let made = post(&world, "/v1/bookmarks", &json!({"name": "one", "event": first}), 201).await;
    assert_eq!(made["event"], first);

    let delivered = |of: &[&str]| of.iter().map(|name| ((*name).to_owned(), "delivered".to_owned())).collect::<BTreeMap<_, _>>();
    let (second, states) = sent(&world, &names, json!({})).await;
    assert_eq!(states, delivered(&["plain", "ordered"]));
    for name in ["plain", "ordered", "elsewhere"] {
        let (_, states) = sent(&world, &names, json!({"connection": name})).await;
        assert_eq!(states, delivered(&[name]));
    }
    // Each is an event of its own, with the request as it was.
    let requests = world.receiver.requests();
    let at = |name: &str| requests.iter().filter(|request| request.target == format!("/{name}")).collect::<Vec<_>>();
    assert_eq!(["plain", "ordered", "elsewhere"].map(|name| at(name).len()), [3, 3, 1]);
    let ids: std::collections::BTreeSet<_> = requests.iter().map(|request| request.webhook_id()).collect();
    assert_eq!(ids.len(), 7);
    assert!(requests.iter().all(|request| request.body[..] == [0xff, 0, 1] && request.header("authorization").is_none()));
    let (old, new) = (world.api.event(&first).await, world.api.event(&second).await);
    assert_eq!(old["request"], new["request"]);
    assert_eq!((&old["test"], &new["test"]), (&json!(false), &json!(true)));

    // It outlives its gateway.
    world.gateway.kill();
    world.gateway.restart().await;
    let shown = world.api.get(&format!("/v1/bookmarks/one?tenant={TENANT}")).await;
    assert_eq!(shown["request"], old["request"]);
    assert_eq!(sent(&world, &names, json!({"connection": "elsewhere"})).await.1, delivered(&["elsewhere"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_sender_signed_is_no_use_to_another_sources_receivers() {
    let world = World::start(EMBEDDED).await;
    let auth = json!({"type": "preset", "name": "github", "secrets": [SECRET]});
    world
        .api
        .apply(json!({
            "sources": [{"name": "signed", "auth": auth}, {"name": "other"}],
            "destinations": [{"name": "elsewhere", "url": world.receiver.url("/elsewhere")}],
            "connections": [{"name": "elsewhere", "source": "other", "destination": "elsewhere"}],
        }))
        .await;
    let path = format!("/in/{}", world.api.id("sources", "signed").await);
    let headers = PING.headers(SECRET, "72d3162e-cc78-11e3-81ab-4c9367dc0958");
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let event = text(&send("POST", &world.gateway.ingest(&path), &headers, PING.bytes()).await.json()["id"]);
    world.api.settled(&event, SOON).await;
    post(&world, "/v1/bookmarks", &json!({"name": "one", "event": event}), 201).await;
    let sent = post(&world, "/v1/bookmarks/one/send", &json!({"connection": "elsewhere"}), 202).await;
    world.api.settled(&text(&sent["id"]), SOON).await;
    let requests = world.receiver.requests();
    let [request] = &requests[..] else { panic!("{} requests", requests.len()) };
    assert_eq!(request.body, PING.body);
    assert!(request.header("x-github-event").is_some());
    assert_eq!(request.header("x-hub-signature-256"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bookmark_outlives_its_source_and_history_on_the_embedded_store() {
    outlives(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bookmark_outlives_its_source_and_history_on_redis() {
    outlives(REDIS).await;
}

async fn outlives(engine: Engine) {
    let world = World::with(engine, |launch| launch, "history.age = \"1s\"").await;
    set_up(&world).await;
    let all = world.api.all("/v1/connections").await;
    let names: BTreeMap<_, _> = all.iter().map(|one| (text(&one["id"]), text(&one["name"]))).collect();
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "in").await));
    let reply = send("POST", &url, &[("x-kind", "one")], vec![0xff, 0, 1]).await;
    let first = text(&reply.json()["id"]);
    let made = post(&world, "/v1/bookmarks", &json!({"name": "one", "event": first}), 201).await;
    assert_eq!(made["event"], first);
    eventually("history is trimmed", SOON, async || {
        (world.api.try_get(&format!("/v1/events/{first}?tenant={TENANT}")).await.status == 404).then_some(())
    })
    .await;
    for path in ["connections/plain", "connections/ordered", "sources/in"] {
        let reply = world.api.send("DELETE", &format!("/v1/{path}?tenant={TENANT}"), "application/json", "").await;
        assert_eq!(reply.status, 204, "{:?}", reply.body);
    }
    let shown = world.api.get(&format!("/v1/bookmarks/one?tenant={TENANT}")).await;
    assert_eq!(shown["event"], first);
    let refused = post(&world, "/v1/bookmarks/one/send", &json!({}), 409).await;
    assert!(text(&refused["detail"]).contains("name a connection"), "{refused}");
    let before = world.receiver.requests().len();
    let (_, states) = sent(&world, &names, json!({"connection": "elsewhere"})).await;
    assert_eq!(states, [("elsewhere".to_owned(), "delivered".to_owned())].into());
    let requests = world.receiver.requests();
    let request = &requests[before];
    assert_eq!((&request.target[..], &request.body[..], request.header("x-kind")), ("/elsewhere", &[0xff, 0, 1][..], Some("one")));
}
