//! Declared state: idempotent, rehearsed, pruned, all or nothing.

use serde_json::{Value, json};
use tidegate::event::VersionHash;

use crate::world::{OPERATOR, SECRETS, World, destination, id, problem, source};

fn declared(component: &str) -> Value {
    json!({"tenants": [{
        "name": "acme", "plan": {"rate": 50.0},
        "plugins": [{"name": "shape", "component": component, "aliases": ["stable"]}],
        "sources": [source("in")],
        "destinations": [destination("out")],
        "connections": [{"name": "through", "source": "in", "destination": "out",
            "plugins": [{"plugin": "shape", "version": "stable", "secrets": {"token": SECRETS[4]}}]}]
    }]})
}

fn actions(report: &Value) -> Vec<String> {
    let text = |change: &Value, name: &str| change[name].as_str().unwrap().to_owned();
    report["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| format!("{} {} {}", text(change, "action"), text(change, "kind"), text(change, "name")))
        .collect()
}

async fn keep(world: &World, component: &[u8]) -> String {
    let kept = world.upload(OPERATOR, "/v1/components", component).await;
    assert_eq!(kept.status, 200, "{:?}", kept.body);
    kept.json()["hash"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_time_makes_all_in_one_revision_and_the_second_changes_nothing() {
    let world = World::start().await;
    let spec = declared(&keep(&world, b"transform 1").await);
    let report = world.ok("POST", "/v1/apply", Some(&spec)).await;
    assert_eq!(
        actions(&report),
        ["create tenant acme", "create plugin shape", "create source in", "create destination out", "create connection through"]
    );
    let revision = world.control.state().revision;
    assert_eq!(revision.0, 1, "one revision for all");
    let again = world.ok("POST", "/v1/apply", Some(&spec)).await;
    assert!(actions(&again).iter().all(|action| action.starts_with("unchanged")), "{again}");
    assert_eq!(world.control.state().revision, revision);
    let mut changed = spec.clone();
    changed["tenants"][0]["destinations"][0]["auth"]["token"] = "another".into();
    let report = world.ok("POST", "/v1/apply", Some(&changed)).await;
    let updates: Vec<_> = actions(&report).into_iter().filter(|action| !action.starts_with("unchanged")).collect();
    assert_eq!(updates, ["update destination out"], "a changed secret is a change");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_all_and_writes_nothing() {
    let world = World::start().await;
    let hash = VersionHash::of(b"transform not sent").to_string();
    let report = world.ok("POST", "/v1/apply?dry_run=true", Some(&declared(&hash))).await;
    assert_eq!(report["dry_run"], true);
    assert_eq!(actions(&report).len(), 5);
    assert_eq!(world.control.state().revision.0, 0);
    let (_, records) = world.store.config().await.unwrap();
    assert!(records.is_empty());
    let inspected = world.upload(OPERATOR, "/v1/components?dry_run=true", b"transform not sent").await.json();
    assert_eq!(inspected["kept"], false);
    let refused = world.refused(422, "POST", "/v1/apply", Some(&declared(&hash))).await;
    assert!(refused["errors"][0]["message"].as_str().unwrap().contains("/v1/components"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_is_asked_for_and_stays_inside_the_declared_tenants() {
    let world = World::start().await;
    let other = world.tenant("other").await;
    world.tenant("acme").await;
    world.ok("POST", "/v1/sources?tenant=acme", Some(&json!({"name": "stray"}))).await;
    let spec = json!({"tenants": [{"name": "acme", "sources": [source("in")]}]});
    let report = world.ok("POST", "/v1/apply", Some(&spec)).await;
    assert!(!report.to_string().contains("delete"), "{report}");
    let rehearsed = world.ok("POST", "/v1/apply?prune=true&dry_run=true", Some(&spec)).await;
    let report = world.ok("POST", "/v1/apply?prune=true", Some(&spec)).await;
    assert_eq!(rehearsed["changes"], report["changes"]);
    let mut deleted: Vec<_> = actions(&report).into_iter().filter(|action| action.starts_with("delete")).collect();
    deleted.sort();
    assert_eq!(deleted, ["delete connection through", "delete destination out", "delete plugin shape", "delete source stray"]);
    assert_eq!(id(&world.ok("GET", "/v1/sources/in?tenant=other", None).await), other.source);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_fault_stops_all_of_it() {
    let world = World::start().await;
    let spec = json!({"tenants": [
        {"name": "good", "sources": [source("in")]},
        {"name": "bad", "sources": [source("in"), source("in")], "destinations": [{"name": "out", "url": "http://[::1]/"}],
         "connections": [{"name": "c", "source": "nowhere", "destination": "out"}]}
    ]});
    let refused = world.refused(422, "POST", "/v1/apply", Some(&spec)).await;
    let fields: Vec<&str> = refused["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect();
    for field in ["tenants[1].sources[1].name", "tenants[1].destinations[0].url", "tenants[1].connections[0].source"] {
        assert!(fields.contains(&field), "{field}: {refused}");
    }
    assert_eq!(world.control.state().revision.0, 0, "nothing changed");
    problem(&world.send(OPERATOR, "GET", "/v1/tenants/good", None).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_key_applies_to_its_own() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let spec = json!({"tenants": [{"name": "acme", "sources": [{"name": "more"}]}]});
    let report = world.ok_as(&acme.key, "POST", "/v1/apply", Some(&spec)).await;
    assert_eq!(actions(&report), ["create source more"]);
}
