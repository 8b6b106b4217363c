//! A tenant is deleted in the middle of its work, and the gateway killed in the middle of that.

use serde_json::{Value, json};
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, send};

use crate::api::{Api, text};
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};

const EVENTS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_tenant_leaves_nothing_behind_on_the_embedded_store() {
    delete(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_tenant_leaves_nothing_behind_on_redis() {
    delete(REDIS).await;
}

/// A tenant with a destination that hangs, one that refuses for now and one that wants nothing more.
fn tenant(name: &str, world: &World) -> Value {
    let destination = |name: &str| {
        // Without the rule, and with a circuit, a destination that fails or is gone would have the others wait.
        let retry = json!({"base": "1h", "max_delay": "1h", "on": [{"status": "410", "do": "dead_letter"}]});
        json!({
            "name": name, "url": world.receiver.url(&format!("/{name}")), "timeout": "4s", "in_flight": 2, "retry": retry,
            "circuit_breaker": {"enabled": false},
        })
    };
    let connection = |name: &str| json!({"name": name, "source": "open", "destination": name});
    let names = ["hanging", "refusing", "gone"];
    json!({
        "name": name, "sources": [{"name": "open"}],
        "destinations": names.map(destination), "connections": names.map(connection),
    })
}

async fn source(api: &Api, tenant: &str) -> String {
    text(&api.get(&format!("/v1/sources/open?tenant={tenant}")).await["id"])
}

async fn delete(engine: Engine) {
    let mut world = World::start(engine).await;
    let names = ["acme", "b", "c", "d", "neighbour"];
    world.api.post("/v1/apply", &json!({"tenants": names.map(|name| tenant(name, &world))})).await;
    let shard = async |name: &str| world.api.get(&format!("/v1/tenants/{name}")).await["shard"].clone();
    assert_eq!(shard("acme").await, shard("neighbour").await, "they share a shard");
    // One of them has the others, too.
    world.api.patch("/v1/tenants/acme", &json!({"plan": {"shards": 4}})).await;
    world.receiver.answer_with(|request| match request.target.as_str() {
        "/hanging" => Answer::hang(),
        "/gone" => Answer::status(410),
        _ => Answer::status(503),
    });
    let acme = world.gateway.ingest(&format!("/in/{}", source(&world.api, "acme").await));
    let neighbour = world.gateway.ingest(&format!("/in/{}", source(&world.api, "neighbour").await));
    for number in 0..EVENTS {
        for url in [&acme, &neighbour] {
            assert_eq!(send("POST", url, &[], number.to_string()).await.status, 202);
        }
    }
    let letters = async |tenant: &str| {
        world.api.get(&format!("/v1/dead-letters?tenant={tenant}&limit=200")).await["items"].as_array().unwrap().len()
    };
    eventually("dead letters of both", SOON, async || {
        (letters("acme").await == EVENTS && letters("neighbour").await == EVENTS).then_some(())
    })
    .await;

    let begun = world.api.send("DELETE", "/v1/tenants/acme", "application/json", "").await;
    assert_eq!((begun.status, &begun.json()["state"]), (202, &json!("deleting")));
    let refused = send("POST", &acme, &[], "late").await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (404, Some("unknown_source")));
    assert_eq!(send("POST", &neighbour, &[], "in time").await.status, 202);
    eventually("the purge has begun", SOON, async || {
        (world.api.get("/v1/tenants/acme").await["deletion"]["events"].as_u64() > Some(0)).then_some(())
    })
    .await;
    world.gateway.kill();
    world.gateway.restart().await;
    let seen = std::cell::Cell::new(0);
    eventually("the tenant is gone", SOON, async || {
        let reply = world.api.try_get("/v1/tenants/acme").await;
        if reply.status == 404 {
            return Some(());
        }
        assert_eq!(reply.json()["state"], "deleting");
        let events = reply.json()["deletion"]["events"].as_u64().expect("a count");
        assert!(events >= seen.replace(events), "counts outlive a restart");
        None
    })
    .await;
    let log = world.gateway.wait_for_log(SOON, |log| log.contains("tenant deleted")).await;
    let line = log.lines().find(|line| line.contains("tenant deleted")).unwrap();
    let wanted = [format!("events={EVENTS}"), format!("\"events\":{EVENTS}")];
    assert!(wanted.iter().any(|wanted| line.contains(wanted)), "{line}");

    // The neighbour has all that it had, and its work goes on.
    eventually("dead letters of the neighbour", SOON, async || (letters("neighbour").await == EVENTS + 1).then_some(())).await;
    let events = world.api.get("/v1/events?tenant=neighbour&limit=200").await;
    assert_eq!(events["items"].as_array().unwrap().len(), EVENTS + 1);
    world.receiver.answer(Answer::status(200));
    let event = text(&events["items"][0]["id"]);
    assert_eq!(world.api.post(&format!("/v1/events/{event}/retry?tenant=neighbour"), &json!({})).await["retried"], 1);
    eventually("its retry is delivered", SOON, async || {
        let shown = world.api.get(&format!("/v1/events/{event}?tenant=neighbour")).await;
        let rows = shown["deliveries"].as_array().unwrap().clone();
        rows.iter().any(|row| row["state"] == "delivered" && row["attempts"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
}
