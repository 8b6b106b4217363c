//! How a plugin's versions and aliases are checked and stored.

use serde_json::{Value, json};

use crate::world::{Tenant, World, problem};

const ALIAS: &str = "/v1/plugins/shape/aliases/live";

async fn push(world: &World, tenant: &Tenant, component: &str) -> String {
    let reply = world.upload(&tenant.key, "/v1/plugins/shape/versions", component.as_bytes()).await;
    assert_eq!(reply.status, 201, "{:?}", reply.body);
    reply.json()["hash"].as_str().unwrap().to_owned()
}

async fn record(world: &World, tenant: &Tenant) -> Value {
    let key = format!("plg/{}/{}", tenant.id, tenant.plugin);
    let (_, records) = world.store.config().await.unwrap();
    let (_, record) = records.into_iter().find(|(at, _)| *at == key).unwrap();
    serde_json::from_slice(&record).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_in_the_second_format_only_while_an_alias_is_split() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let other = push(&world, &acme, "transform other").await;
    world.ok_as(&acme.key, "PUT", ALIAS, Some(&json!({"version": acme.version}))).await;
    let before = record(&world, &acme).await;
    let fields: Vec<&String> = before["spec"].as_object().unwrap().keys().collect();
    assert_eq!((&before["v"], fields), (&json!(1), ["aliases", "name", "versions"].map(String::from).iter().collect()));
    for part in ["canary", "shadow"] {
        let split = json!({"version": acme.version, part: {"version": other, "percent": 33.33}});
        let shown = world.ok_as(&acme.key, "PUT", ALIAS, Some(&split)).await;
        assert_eq!(shown["splits"]["live"][part]["percent"], 33.33, "{shown:#}");
        assert_eq!(record(&world, &acme).await["v"], 2, "an older release refuses it rather than run it in another way");
        let again = world.beside().await;
        assert_eq!(again.ok_as(&acme.key, "GET", ALIAS, None).await[part]["version"], *other, "read back");
        world.ok_as(&acme.key, "PATCH", ALIAS, Some(&json!({ part: null }))).await;
        assert_eq!(record(&world, &acme).await["v"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_alias_cannot_run_is_refused_by_field() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let other = push(&world, &acme, "transform other").await;
    let filter = push(&world, &acme, "filter").await;
    let beyond = "0".repeat(64);
    for (spec, field) in [
        (json!({"version": "none"}), "version"),
        (json!({"version": acme.version, "canary": {"version": filter, "percent": 1}}), "canary.version"),
        (json!({"version": acme.version, "shadow": {"version": filter, "percent": 1}}), "shadow.version"),
        (json!({"version": acme.version, "canary": {"version": acme.version, "percent": 1}}), "canary.version"),
        (json!({"version": acme.version, "canary": {"version": beyond, "percent": 1}}), "canary.version"),
        (json!({"version": acme.version, "canary": {"version": other, "percent": 0}}), "canary.percent"),
        (json!({"version": acme.version, "canary": {"version": other, "percent": 0.005}}), "canary.percent"),
        (json!({"version": acme.version, "shadow": {"version": other, "percent": 100.5}}), "shadow.percent"),
    ] {
        let refused = problem(&world.send(&acme.key, "PUT", ALIAS, Some(&spec)).await, 422);
        assert_eq!(refused["errors"][0]["field"], field, "{refused:#}");
    }
    let latest =
        problem(&world.send(&acme.key, "PATCH", "/v1/plugins/shape/aliases/latest", Some(&json!({"canary": null}))).await, 422);
    assert_eq!(latest["errors"][0]["field"], "alias");
    for (method, path) in [
        ("PATCH", ALIAS.to_owned()),
        ("GET", ALIAS.to_owned()),
        ("POST", format!("{ALIAS}/promote")),
        ("POST", format!("{ALIAS}/rollback")),
    ] {
        let body = json!({});
        let body = (method == "PATCH").then_some(&body);
        problem(&world.send(&acme.key, method, &path, body).await, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_remembers_ten_places_and_who_moved_it() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let mut hashes = Vec::new();
    for number in 0..13 {
        hashes.push(push(&world, &acme, &format!("transform {number}")).await);
    }
    for hash in &hashes {
        world.ok_as(&acme.key, "PUT", ALIAS, Some(&json!({"version": hash}))).await;
    }
    let alias = world.ok_as(&acme.key, "GET", ALIAS, None).await;
    let past: Vec<&Value> = alias["past"].as_array().unwrap().iter().map(|past| &past["version"]).collect();
    let expected: Vec<Value> = hashes[2..12].iter().rev().map(|hash| json!(hash)).collect();
    assert_eq!(past, expected.iter().collect::<Vec<_>>());
    assert_eq!((&alias["past"][0]["by"], &alias["past"][0]["key"]), (&json!("main"), &json!(acme.key_id)));
    // What was deleted is nowhere to go back to.
    world.ok_as(&acme.key, "DELETE", &format!("/v1/plugins/shape/versions/{}", hashes[11]), None).await;
    for expected in hashes[2..11].iter().rev() {
        let back = world.ok_as(&acme.key, "POST", &format!("{ALIAS}/rollback"), None).await;
        assert_eq!(back["version"], **expected);
    }
    problem(&world.send(&acme.key, "POST", &format!("{ALIAS}/rollback"), None).await, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_versions_that_may_still_run_are_bounded() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let delete = async |hash: &str| world.send(&acme.key, "DELETE", &format!("/v1/plugins/shape/versions/{hash}"), None).await;
    // Each upload moves `latest` on, so that the one before can go.
    let mut last = push(&world, &acme, "transform 0").await;
    for number in 1..=200 {
        let next = push(&world, &acme, &format!("transform {number}")).await;
        assert_eq!(delete(&last).await.status, 204);
        last = next;
    }
    assert_eq!(record(&world, &acme).await["spec"]["retired"].as_array().unwrap().len(), 200);
    push(&world, &acme, "transform newest").await;
    let refused = problem(&delete(&last).await, 422);
    assert!(refused["errors"][0]["message"].as_str().unwrap().contains("200 versions"), "{refused:#}");
    // What is uploaded again is not deleted any more.
    push(&world, &acme, "transform 5").await;
    assert_eq!(delete(&last).await.status, 204);
}
