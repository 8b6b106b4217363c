//! Deleting a tenant: at once for whoever uses it, over time in the store, and to be watched meanwhile.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::control::refresh;
use tidegate::event::SourceId;
use tidegate_test_support::eventually;
use tokio_util::sync::CancellationToken;

use crate::contract::happen;
use crate::world::{OPERATOR, World, problem, source};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_tenant_is_closed_at_once_and_gone_when_nothing_is_left_of_it() {
    let world = World::start().await;
    let (acme, other) = (world.tenant("acme").await, world.tenant("other").await);
    let seen = happen(&world, &acme).await;
    let shown = world.ok("GET", "/v1/tenants/acme", None).await;
    assert_eq!((&shown["state"], &shown["deletion"]), (&json!("active"), &Value::Null));
    problem(&world.send(&acme.key, "DELETE", &format!("/v1/tenants/{}", acme.id), None).await, 403);

    let begun = world.send(OPERATOR, "DELETE", "/v1/tenants/acme", None).await;
    assert_eq!(begun.status, 202);
    let deleting = json!({"events": 0, "given_up": 0, "dead_letters": 0});
    assert_eq!((&begun.json()["state"], &begun.json()["deletion"]), (&json!("deleting"), &deleting));
    // Nothing comes in any more, and nothing can be added.
    problem(&world.send(&acme.key, "GET", "/v1/sources", None).await, 401);
    let snapshot = world.control.snapshots().current();
    assert!(!snapshot.sources.contains_key(&acme.source.parse::<SourceId>().unwrap()));
    assert!(snapshot.sources.contains_key(&other.source.parse::<SourceId>().unwrap()));
    for (method, path, body) in [
        ("POST", "/v1/sources?tenant=acme".to_owned(), source("new")),
        ("POST", "/v1/keys".to_owned(), json!({"name": "new", "tenant": "acme"})),
        ("PATCH", "/v1/tenants/acme".to_owned(), json!({"name": "again"})),
        ("POST", "/v1/apply".to_owned(), json!({"tenants": [{"name": "acme", "sources": [source("new")]}]})),
        ("POST", "/v1/dead-letters/retry?tenant=acme".to_owned(), json!({"ids": [seen.delivery]})),
        ("POST", "/v1/dead-letters/retry-jobs?tenant=acme".to_owned(), json!({})),
        ("POST", "/v1/replay-jobs?tenant=acme".to_owned(), json!({"connection": "through"})),
    ] {
        assert_eq!(world.refused(409, method, &path, Some(&body)).await["code"], "being_deleted", "{method} {path}");
    }
    world.refused(409, "POST", "/v1/tenants", Some(&json!({"name": "acme"}))).await;
    let again = world.send(OPERATOR, "DELETE", "/v1/tenants/acme", None).await;
    assert_eq!(again.status, 202, "once more changes nothing");

    // Another node, or this one after a restart, goes on with it.
    let world = world.beside().await;
    let (store, home) =
        (world.store.clone(), world.control.homes(tidegate::control::service::Access::Operator, Some("acme")).unwrap());
    let home = home.at(home.shards.home());
    let lease = store.acquire(home.shard, "test", SOON).await.unwrap().unwrap();
    for _ in 0..4 {
        assert!(!store.purge(&lease, home.tenant).await.unwrap().done, "one event is still queued");
    }
    let shown = world.ok("GET", "/v1/tenants/acme", None).await;
    assert_eq!(shown["deletion"], json!({"events": 1, "given_up": 0, "dead_letters": 1}));
    let listed = world.ok("GET", "/v1/events?tenant=acme", None).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "what is left can be looked at");
    let (stop, control) = (CancellationToken::new(), Arc::clone(&world.control));
    let running = tokio::spawn(refresh::run(control, |_| {}, stop.clone()));
    // The owner records what is queued; here that is the test.
    let budget = tidegate::store::Budget::new(10, 1 << 20);
    let mut claimed = store.claim(&lease, tidegate::event::Lane::Normal, budget).await.unwrap();
    claimed.extend(store.reclaim(&lease, &claimed.iter().map(|claimed| claimed.ticket).collect(), budget).await.unwrap());
    let records: Vec<_> = claimed
        .iter()
        .filter(|claimed| claimed.event.id.to_string() == seen.queued)
        .map(|claimed| tidegate::store::Record {
            origin: tidegate::store::Origin::Entry(claimed.ticket),
            event: claimed.event.id,
            tenant: home.tenant,
            finished: true,
            deliveries: Vec::new(),
        })
        .collect();
    assert_eq!(records.len(), 1);
    store.record(&lease, &records).await.unwrap();
    eventually("the purge is done", SOON, async || store.purge(&lease, home.tenant).await.unwrap().done.then_some(())).await;
    eventually("the tenant is gone", SOON, async || {
        (world.send(OPERATOR, "GET", "/v1/tenants/acme", None).await.status == 404).then_some(())
    })
    .await;
    stop.cancel();
    running.await.unwrap();
    let listed = world.ok("GET", "/v1/tenants", None).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let (_, records) = world.store.config().await.unwrap();
    assert!(records.iter().all(|(key, _)| !key.contains(&acme.id)), "{records:?}");
    world.ok("POST", "/v1/tenants", Some(&json!({"name": "acme"}))).await;
    world.ok_as(&other.key, "GET", "/v1/sources/in", None).await;
}
