//! Steering traffic: what is set reaches the snapshot in the revision that holds its audit record, on every node.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::clock::Clock;
use tidegate::control::refresh;
use tidegate::control::seal::generate_key;
use tidegate::control::snapshot::{Diversion, Diverted, Percent, Traffic};
use tidegate::event::{Shard, SourceId, TenantId};
use tidegate::store::Store;
use tidegate::store::redis::{RedisConfig, RedisStore};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};
use tokio_util::sync::CancellationToken;

use crate::world::{ByPrefix, OPERATOR, World, problem};

const SOON: Duration = Duration::from_secs(20);
/// The shard of the first tenant.
const HOME: Shard = Shard(0);

fn traffic(world: &World) -> Arc<Traffic> {
    Arc::clone(&world.control.snapshots().current().traffic)
}

fn percent(percent: u8) -> Percent {
    Percent::new(percent).unwrap()
}

fn share(percent: i64, reason: &str) -> Value {
    json!({"percent": percent, "reason": reason})
}

async fn audit(world: &World) -> Vec<Value> {
    world.ok("GET", "/v1/traffic/audit?limit=200", None).await["items"].as_array().unwrap().clone()
}

fn setting<'a>(shown: &'a Value, what: &str) -> &'a Value {
    shown["settings"].as_array().unwrap().iter().find(|setting| setting["what"] == what).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_sets_is_in_the_snapshot_and_says_who_when_and_why() {
    let world = World::start().await;
    let shown = world.ok("GET", "/v1/traffic", None).await;
    for (what, percent) in [("lanes.normal", 100), ("lanes.low", 100), ("lanes.held", 0), ("retries", 100)] {
        let expected = json!({"what": what, "percent": percent, "by": null, "at": null, "reason": null});
        assert_eq!(setting(&shown, what), &expected);
    }
    let minted = world.ok("POST", "/v1/keys", Some(&json!({"name": "night-shift"}))).await;
    let key = minted["key"].as_str().unwrap();
    let low = world.ok_as(key, "PUT", "/v1/traffic/lanes/low", Some(&share(20, "the receiver is slow"))).await;
    assert_eq!((&low["what"], &low["percent"], &low["reason"]), (&json!("lanes.low"), &json!(20), &json!("the receiver is slow")));
    assert_eq!(low["by"], json!({"kind": "key", "id": minted["info"]["id"], "name": "night-shift"}));
    world.ok("PUT", "/v1/traffic/retries", Some(&json!({"percent": 0}))).await;
    world.ok("PUT", "/v1/traffic/shards/3", Some(&share(50, "moving away"))).await;
    let now = traffic(&world);
    assert_eq!((now.normal, now.low, now.held, now.retries), (percent(100), percent(20), percent(0), percent(0)));
    assert_eq!(now.shards, [(Shard(3), percent(50))].into());
    world.ok("PUT", "/v1/traffic/shards/3", Some(&json!({"percent": 100}))).await;
    assert!(traffic(&world).shards.is_empty(), "the wings look up nothing that is as it would be anyway");

    let rows = audit(&world).await;
    let changed: Vec<_> = rows.iter().map(|row| (row["what"].clone(), row["from"].clone(), row["to"].clone())).collect();
    let row = |what: &str, from: &str, to: &str| (json!(what), json!(from), json!(to));
    assert_eq!(
        changed,
        [
            row("shards.3", "50%", "100%"),
            row("shards.3", "100%", "50%"),
            row("retries", "100%", "0%"),
            row("lanes.low", "100%", "20%")
        ]
    );
    assert_eq!(rows[2]["by"], json!({"kind": "operator", "id": null, "name": "operator"}));
    assert_eq!(rows[3]["by"]["name"], "night-shift");
    let page = world.ok("GET", "/v1/traffic/audit?limit=3", None).await;
    let rest = world.ok("GET", &format!("/v1/traffic/audit?limit=3&cursor={}", page["next"].as_str().unwrap()), None).await;
    assert_eq!((&rest["items"][0], &rest["next"]), (&rows[3], &Value::Null));

    // A node that starts on it finds the same.
    let beside = world.beside().await;
    assert_eq!(traffic(&beside), traffic(&world));
    assert_eq!(audit(&beside).await, rows);
    assert_eq!(beside.ok("GET", "/v1/traffic", None).await, world.ok("GET", "/v1/traffic", None).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_again_changes_nothing_and_what_is_wrong_is_refused() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    for path in ["/v1/traffic/lanes/low", "/v1/traffic/retries", "/v1/traffic/shards/0"] {
        world.ok("PUT", path, Some(&share(0, "why"))).await;
    }
    world.ok("PUT", "/v1/traffic/diversions/acme", Some(&json!({"reason": "why"}))).await;
    let (revision, rows) = (world.control.state().revision, audit(&world).await);
    for path in ["/v1/traffic/lanes/low", "/v1/traffic/retries", "/v1/traffic/shards/0"] {
        world.ok("PUT", path, Some(&share(0, "why"))).await;
        world.ok("PUT", path, Some(&json!({"percent": 0}))).await;
    }
    world.ok("PUT", &format!("/v1/traffic/diversions/{}", acme.id), Some(&json!({}))).await;
    let long = "x".repeat(501);
    for (path, body, field, part) in [
        ("/v1/traffic/lanes/low", json!({"percent": 101}), "percent", "from 0 to 100"),
        ("/v1/traffic/retries", json!({"percent": -1}), "percent", "from 0 to 100"),
        ("/v1/traffic/retries", share(1, &long), "reason", "at most 500"),
        ("/v1/traffic/lanes/fast", json!({"percent": 1}), "lane", "`normal`, `low` or `held`"),
        ("/v1/traffic/shards/4", json!({"percent": 1}), "shard", "from 0 to 3: `dispatch.shards` is 4"),
        ("/v1/traffic/shards/x", json!({"percent": 1}), "shard", "number"),
        ("/v1/traffic/diversions/acme", json!({ "reason": long }), "reason", "at most 500"),
    ] {
        let refused = world.refused(422, "PUT", path, Some(&body)).await;
        let error = &refused["errors"][0];
        assert_eq!(error["field"], field, "{refused}");
        assert!(error["message"].as_str().unwrap().contains(part), "{refused}");
    }
    world.refused(400, "PUT", "/v1/traffic/retries", Some(&json!({}))).await;
    world.refused(400, "PUT", "/v1/traffic/retries", Some(&json!({"percent": 1, "colour": "red"}))).await;
    world.refused(422, "GET", "/v1/traffic/audit?cursor=x", None).await;
    for unknown in ["nobody", "acme%2Fnobody", "nobody%2Fin", "ten_01j9zzzzzzzzzzzzzzzzzzzzzz", "src_01j9zzzzzzzzzzzzzzzzzzzzzz"] {
        let path = format!("/v1/traffic/diversions/{unknown}");
        world.refused(404, "PUT", &path, Some(&json!({}))).await;
        world.refused(404, "DELETE", &path, None).await;
    }
    assert_eq!((world.control.state().revision, audit(&world).await), (revision, rows), "nothing changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_diverted_is_held_then_returning_then_gone() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let tenant: TenantId = acme.id.parse().unwrap();
    let source: SourceId = acme.source.parse().unwrap();
    let who = Diverted::Source(source);
    let held = world.ok("PUT", "/v1/traffic/diversions/acme%2Fin", Some(&json!({"reason": "a storm"}))).await;
    assert_eq!((&held["kind"], &held["name"], &held["state"]), (&json!("source"), &json!("acme/in"), &json!("held")));
    assert_eq!(held["id"], acme.source.as_str());
    assert_eq!(traffic(&world).diversion(tenant, source, HOME), Some(Diversion::Held));
    world.control.returned(who, HOME).await.unwrap();
    assert_eq!(traffic(&world).diversion(tenant, source, HOME), Some(Diversion::Held), "only what is returning ends");

    let path = format!("/v1/traffic/diversions/{}", acme.source);
    for _ in 0..2 {
        let returning = world.ok("DELETE", &format!("{path}?reason=it%20is%20over"), None).await;
        assert_eq!((&returning["state"], &returning["reason"]), (&json!("returning"), &json!("it is over")));
    }
    assert_eq!(traffic(&world).diversion(tenant, source, HOME), Some(Diversion::Returning));
    assert_eq!(world.ok("GET", "/v1/traffic", None).await["diversions"][0]["state"], "returning");
    world.ok("PUT", &path, Some(&json!({"reason": "again"}))).await;
    assert_eq!(traffic(&world).diversion(tenant, source, HOME), Some(Diversion::Held));
    world.ok("DELETE", &path, None).await;
    // Two nodes hear of it; one of them has not seen that the other ended it.
    let beside = world.beside().await;
    world.control.returned(who, HOME).await.unwrap();
    beside.control.returned(who, HOME).await.unwrap();
    assert_eq!(traffic(&world).diversion(tenant, source, HOME), None);
    assert_eq!(traffic(&beside).diversion(tenant, source, HOME), None);
    assert_eq!(world.ok("DELETE", &path, None).await["state"], "returned");
    let states: Vec<_> = audit(&world).await.iter().map(|row| row["to"].clone()).collect();
    assert_eq!(states, ["none", "returning", "held", "returning", "held"]);
    assert_eq!(audit(&world).await[0]["by"]["kind"], "gateway");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_is_not_diverted_any_more() {
    let world = World::start().await;
    let (acme, other) = (world.tenant("acme").await, world.tenant("other").await);
    for reference in [&acme.source, &other.source, &other.id] {
        world.ok("PUT", &format!("/v1/traffic/diversions/{reference}"), Some(&json!({}))).await;
    }
    world.ok("DELETE", "/v1/connections/through?tenant=acme", None).await;
    world.ok("DELETE", "/v1/sources/in?tenant=acme", None).await;
    let left: Vec<_> = traffic(&world).diverted.keys().copied().collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(world.send(OPERATOR, "DELETE", "/v1/tenants/other", None).await.status, 202);
    assert_eq!(*traffic(&world), Traffic::default());
    assert_eq!(world.refused(409, "PUT", "/v1/traffic/diversions/other", Some(&json!({}))).await["code"], "being_deleted");
    let rows = audit(&world).await;
    let ended: Vec<_> = rows.iter().filter(|row| row["to"] == "none").map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(ended.len(), 3, "{rows:?}");
    assert!(ended.contains(&"acme/in") && ended.contains(&"other/in") && ended.contains(&"other"), "{ended:?}");
    assert_eq!(traffic(&world.beside().await), traffic(&world));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_keeps_the_last_changes_each_with_its_setting() {
    let world = World::start().await;
    for round in 0..260 {
        world
            .control
            .set_share("retries".parse().unwrap(), round % 100, &tidegate::control::model::Who::Operator, None)
            .await
            .unwrap();
    }
    let mut numbers: Vec<u64> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = world.ok("GET", &format!("/v1/traffic/audit?limit=100{cursor}"), None).await;
        numbers.extend(page["items"].as_array().unwrap().iter().map(|row| row["number"].as_u64().unwrap()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(numbers, (4..260).rev().collect::<Vec<u64>>());
    let (_, records) = world.store.config().await.unwrap();
    assert_eq!(records.iter().filter(|(key, _)| key.starts_with("trf/")).count(), 257, "256 changes and what they changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_key_steers_nothing() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let revision = world.control.state().revision;
    for (method, path, body) in [
        ("GET", "/v1/traffic".to_owned(), None),
        ("GET", "/v1/traffic/audit".to_owned(), None),
        ("PUT", "/v1/traffic/lanes/low".to_owned(), Some(share(0, ""))),
        ("PUT", "/v1/traffic/retries".to_owned(), Some(share(0, ""))),
        ("PUT", "/v1/traffic/shards/0".to_owned(), Some(share(0, ""))),
        ("PUT", format!("/v1/traffic/diversions/{}", acme.id), Some(json!({}))),
        ("DELETE", format!("/v1/traffic/diversions/{}", acme.id), None),
    ] {
        problem(&world.send(&acme.key, method, &path, body.as_ref()).await, 403);
    }
    assert_eq!(world.control.state().revision, revision);
}

/// Two gateways on one Redis: what is set on one is in the other's snapshot as soon as that has looked.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_on_one_node_is_seen_by_the_other() {
    assert!(refresh::INTERVAL <= Duration::from_millis(250), "in effect within a second, with time to read it");
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let key = generate_key().unwrap();
    let node = async || {
        let config = RedisConfig { shards: 4, ..RedisConfig::standalone(server.url().parse().unwrap()) };
        let store: Arc<dyn Store> = Arc::new(Box::pin(RedisStore::connect(config, Clock::system())).await.unwrap());
        World::on(store, key.clone(), Arc::new(ByPrefix)).await
    };
    let (one, other) = (node().await, node().await);
    let stop = CancellationToken::new();
    let running = tokio::spawn(refresh::run(Arc::clone(&other.control), |_| {}, stop.clone()));
    let acme = one.tenant("acme").await;
    for (path, body) in
        [("/v1/traffic/lanes/low".to_owned(), share(0, "a storm")), (format!("/v1/traffic/diversions/{}", acme.id), json!({}))]
    {
        one.ok("PUT", &path, Some(&body)).await;
        let revision = one.control.state().revision;
        let seen = tokio::time::timeout(SOON, other.control.snapshots().at_least(revision)).await.expect("it looks");
        assert_eq!(seen.traffic, traffic(&one));
    }
    assert_eq!(audit(&other).await, audit(&one).await);
    stop.cancel();
    running.await.unwrap();
}
