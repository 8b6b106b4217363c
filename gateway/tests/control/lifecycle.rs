//! What changes reach: the snapshot, other nodes, a node that starts again; and requests that come again.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use tidegate::control::refresh::{self, Refreshed};
use tidegate::control::service::{Access, Control};
use tidegate::event::{ConnectionId, SourceId};
use tidegate::store::Store;
use tokio_util::sync::CancellationToken;

use crate::world::{ByPrefix, OPERATOR, World, destination, id, options, problem, source};

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_in_the_snapshot_when_its_answer_comes() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let snapshots = world.control.snapshots();
    let source: SourceId = acme.source.parse().unwrap();
    let connection: ConnectionId = acme.connection.parse().unwrap();
    {
        let snapshot = snapshots.load();
        let found = &snapshot.sources[&source];
        assert_eq!(found.connections.len(), 1);
        assert_eq!(found.pins[0].connection, connection);
        assert_eq!(found.pins[0].versions[0].to_string(), acme.version);
        assert_eq!(snapshot.connections[&connection].chain[0].config.as_ref(), r#"{"channel":"x"}"#);
        assert!(snapshot.connections[&connection].filter.is_some());
        assert_eq!(snapshot.tenants.len(), 1);
    }
    let newer = world.upload(&acme.key, "/v1/plugins/shape/versions", b"filter now").await.json();
    assert_eq!(snapshots.load().connections[&connection].chain[0].version.to_string(), newer["hash"].as_str().unwrap());
    world.ok_as(&acme.key, "PATCH", "/v1/connections/through", Some(&json!({"enabled": false}))).await;
    assert!(snapshots.load().sources[&source].connections.is_empty());
    assert!(!snapshots.load().connections[&connection].enabled);
    let untouched = Arc::clone(&snapshots.load().tenants[&acme.id.parse().unwrap()]);
    world.tenant("other").await;
    assert!(Arc::ptr_eq(&untouched, &snapshots.load().tenants[&acme.id.parse().unwrap()]), "what did not change is taken over");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_follows_and_a_conflict_is_resolved() {
    let world = World::start().await;
    let other = world.beside().await;
    let acme = world.tenant("acme").await;
    let (stop, changed) = (CancellationToken::new(), Arc::new(tokio::sync::Notify::new()));
    let told = Arc::clone(&changed);
    let watch = move |seen: Refreshed<'_>| {
        if matches!(seen, Refreshed::Changed) {
            told.notify_one();
        }
    };
    let running = tokio::spawn(refresh::run(Arc::clone(&other.control), watch, stop.clone()));
    changed.notified().await;
    let at = world.control.state().revision;
    let snapshot = other.control.snapshots().at_least(at).await;
    assert!(snapshot.sources.contains_key(&acme.source.parse().unwrap()));
    other.ok_as(&acme.key, "GET", "/v1/sources/in", None).await;
    stop.cancel();
    running.await.unwrap();
    // This node does not know of the other's change when it makes its own.
    other.ok("POST", "/v1/sources?tenant=acme", Some(&source("b"))).await;
    world.ok("POST", "/v1/sources?tenant=acme", Some(&source("c"))).await;
    let listed = world.ok("GET", "/v1/sources?tenant=acme", None).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 3, "{listed}");
    // The name went to the other node's.
    other.control.refresh().await.unwrap();
    other.ok("POST", "/v1/sources?tenant=acme", Some(&source("d"))).await;
    problem(&world.send(OPERATOR, "POST", "/v1/sources?tenant=acme", Some(&source("d"))).await, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_does_not_replace_the_last_good_revision() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let good = world.control.state().revision;
    for (key, record, part) in [
        (format!("src/{}/{}", acme.id, acme.source), &b"nonsense"[..], "damaged"),
        (format!("src/{}/{}", acme.id, acme.source), br#"{"v": 200, "created_at": 0, "updated_at": 0, "spec": {}}"#, "upgrade"),
        (format!("xyz/{}/{}", acme.id, acme.source), b"{}", "its kind is not known"),
    ] {
        let (revision, records) = world.store.config().await.unwrap();
        let before = records.iter().find(|(known, _)| *known == key).map(|(_, record)| record.clone());
        let broken = world.store.configure(revision, vec![(key.clone(), Some(Bytes::copy_from_slice(record)))]).await.unwrap();
        let error = world.control.refresh().await.unwrap_err().to_string();
        assert!(error.contains(&key) && error.contains(part), "{error}");
        assert_eq!(world.control.state().revision, good);
        assert!(world.control.snapshots().load().sources.contains_key(&acme.source.parse().unwrap()));
        world.store.configure(broken, vec![(key, before)]).await.unwrap();
    }
    assert!(world.control.refresh().await.unwrap(), "readable again");
    assert!(world.control.state().revision > good);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_brings_everything_back() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let again = world.beside().await;
    let (before, after) = (world.control.snapshots().current(), again.control.snapshots().current());
    assert_eq!(before.revision, after.revision);
    let connection: ConnectionId = acme.connection.parse().unwrap();
    assert_eq!(before.connections[&connection].chain[0].version, after.connections[&connection].chain[0].version);
    assert_eq!(before.destinations.keys().collect::<Vec<_>>(), after.destinations.keys().collect::<Vec<_>>());
    assert_eq!(again.control.authenticate(&acme.key), Some(Access::Tenant(acme.id.parse().unwrap())));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_encryption_key_is_refused_by_name() {
    let world = World::start().await;
    world.tenant("acme").await;
    let other = tidegate::control::seal::generate_key().unwrap();
    let error = Control::load(options(&world.store, &other, Arc::new(ByPrefix))).await.unwrap_err().to_string();
    assert!(error.contains("keys.previous_encryption"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_is_not_allowed_any_more_is_held_and_stops_nothing() {
    let world = World::start().await;
    let key = tidegate::control::seal::generate_key().unwrap();
    let store: Arc<dyn Store> = Arc::clone(&world.store);
    let mut open = options(&store, &key, Arc::new(ByPrefix));
    open.preparer.policy.allow = vec!["127.0.0.0/8".parse().unwrap()];
    let control = Control::load(open).await.unwrap();
    let tenant = serde_json::from_value(json!({"name": "acme"})).unwrap();
    let tenant = control.create_tenant(Access::Operator, &tenant, None).await.unwrap().id;
    let spec = serde_json::from_value(json!({"name": "local", "url": "http://127.0.0.1:9/"})).unwrap();
    let made = control.create::<tidegate::control::model::Destinations>(tenant, spec, None).await.unwrap();
    assert!(control.snapshots().load().destinations[&made.id].enabled);
    let closed = Control::load(options(&store, &key, Arc::new(ByPrefix))).await.unwrap();
    assert!(!closed.snapshots().load().destinations[&made.id].enabled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_gives_the_same_thing() {
    let world = World::start().await;
    world.tenant("acme").await;
    let bearer = format!("Bearer {OPERATOR}");
    let headers = |key| [("authorization", bearer.as_str()), ("content-type", "application/json"), ("idempotency-key", key)];
    for (path, body, other) in [
        ("/v1/tenants", json!({"name": "again"}), json!({"name": "other"})),
        ("/v1/sources?tenant=acme", source("again"), source("other")),
        ("/v1/destinations?tenant=acme", destination("again"), destination("other")),
    ] {
        let first = world.raw("POST", path, &headers("k1"), body.to_string()).await;
        assert_eq!(first.status, 201, "{:?}", first.body);
        let second = world.raw("POST", path, &headers("k1"), body.to_string()).await;
        assert_eq!((second.status, second.json()), (201, first.json()), "{path}");
        let mismatch = problem(&world.raw("POST", path, &headers("k1"), other.to_string()).await, 422);
        assert_eq!(mismatch["code"], "idempotency_mismatch");
        problem(&world.raw("POST", path, &headers("k2"), body.to_string()).await, 409);
    }
    let body = json!({"name": "again", "tenant": "acme"}).to_string();
    let first = world.raw("POST", "/v1/keys", &headers("k1"), body.clone()).await.json();
    let second = world.raw("POST", "/v1/keys", &headers("k1"), body).await.json();
    assert_eq!(first, second, "the key's text too");
    let (_, records) = world.store.config().await.unwrap();
    assert_eq!(records.iter().filter(|(key, _)| key.starts_with("key/")).count(), 2);
    // Keys of one caller say nothing to another.
    let key = first["key"].as_str().unwrap();
    let mine = format!("Bearer {key}");
    let headers = [("authorization", mine.as_str()), ("content-type", "application/json"), ("idempotency-key", "k1")];
    let made = world.raw("POST", "/v1/sources", &headers, source("mine").to_string()).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_everything_once() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    for number in 0..7 {
        world.ok_as(&acme.key, "POST", "/v1/sources", Some(&json!({"name": format!("s{number}")}))).await;
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = world.ok_as(&acme.key, "GET", &format!("/v1/sources?limit=3{cursor}"), None).await;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 3);
        seen.extend(items.iter().map(id));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let mut unique = seen.clone();
    unique.sort();
    unique.dedup();
    assert_eq!((seen.len(), unique.len()), (8, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_tenants_are_spread_over_the_shards() {
    let world = World::start().await;
    for number in 0..8 {
        world.ok("POST", "/v1/tenants", Some(&json!({"name": format!("t{number}")}))).await;
    }
    let listed = world.ok("GET", "/v1/tenants", None).await;
    let mut shards: Vec<u64> = listed["items"].as_array().unwrap().iter().map(|tenant| tenant["shard"].as_u64().unwrap()).collect();
    shards.sort_unstable();
    assert_eq!(shards, [0, 0, 1, 1, 2, 2, 3, 3]);
}
