//! A tenant's key sees its tenant and nothing else.

use serde_json::{Value, json};
use tidegate::control::api;

use crate::world::{Tenant, World, problem};

/// A path of the document with another tenant's things in it.
fn fill(path: &str, tenant: &Tenant) -> String {
    path.replace("{tenant}", &tenant.id)
        .replace("{key}", &tenant.key_id)
        .replace("{source}", &tenant.source)
        .replace("{destination}", &tenant.destination)
        .replace("{connection}", &tenant.connection)
        .replace("{plugin}", &tenant.plugin)
        .replace("{version}", &tenant.version)
        .replace("{alias}", "stable")
        .replace("{lane}", "low")
        .replace("{shard}", "1")
        .replace("{tenant_or_source}", &tenant.source)
        .replace("{event}", "evt_01j9zzzzzzzzzzzzzzzzzzzzzz")
        .replace("{job}", "job_01j9zzzzzzzzzzzzzzzzzzzzzz")
        .replace("{delivery}", "dlv_01j9zzzzzzzzzzzzzzzzzzzzzz")
}

/// A body that would do for the request if it were allowed.
fn body(path: &str, method: &str) -> Option<Value> {
    match (method, path) {
        ("patch", path) if path.contains("/aliases/") => Some(json!({"version": "latest"})),
        ("patch", _) => Some(json!({"name": "mine-now"})),
        ("put", _) => Some(json!({"version": "latest"})),
        ("post", path) if path.ends_with("/try") => Some(json!({"request": {}})),
        ("post", path) if path.ends_with("/schedule") => Some(json!({})),
        ("post", path) if path.ends_with("/replay") => Some(json!({"version": "latest", "connection": "through"})),
        ("post", "/v1/sources") => Some(json!({"name": "x"})),
        ("post", "/v1/destinations") => Some(json!({"name": "x", "url": "https://example.com/"})),
        ("post", "/v1/connections") => Some(json!({"name": "x", "source": "in", "destination": "out"})),
        ("post", "/v1/destinations/{destination}/rotate-secret") => Some(json!({})),
        ("post", "/v1/dead-letters/retry-jobs") => Some(json!({})),
        ("post", "/v1/bookmarks") => Some(json!({"name": "x", "event": "evt_01j9zzzzzzzzzzzzzzzzzzzzzz"})),
        ("post", path) if path.ends_with("/send") => Some(json!({})),
        ("post", "/v1/replay-jobs") => Some(json!({"connection": "through"})),
        ("post", "/v1/dead-letters/retry") => Some(json!({"ids": ["dlv_01j9zzzzzzzzzzzzzzzzzzzzzz"]})),
        _ => None,
    }
}

async fn send(world: &World, key: &str, method: &str, path: &str, sample: &str) -> tidegate_test_support::http::Reply {
    if method == "post" && (sample.ends_with("/versions") || sample == "/v1/components") {
        return world.upload(key, path, b"transform x").await;
    }
    if method == "post" && sample.ends_with("/table") {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/x-ndjson")];
        return world.raw("POST", path, &headers, "{\"key\": \"a\", \"value\": \"mine\"}").await;
    }
    world.send(key, &method.to_uppercase(), path, body(sample, method).as_ref()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_hides_what_is_another_tenants() {
    let world = World::start().await;
    let theirs = world.tenant("theirs").await;
    let mine = world.tenant("mine").await;
    let entry = format!("/v1/plugins/{}/table/{}", theirs.plugin, theirs.key_id);
    world.ok_as(&theirs.key, "PUT", &entry, Some(&json!("theirs"))).await;
    let before = world.control.state().revision;
    let document = api::openapi();
    let mut by_id = 0;
    let mut by_name = 0;
    for (path, item) in document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/v1/")) {
        for (method, operation) in item.as_object().unwrap() {
            let filled = fill(path, &theirs);
            if path.contains('{') {
                by_id += 1;
                // Who is no operator does not even learn whom a diversion could be of.
                let status = if path.starts_with("/v1/traffic") { 403 } else { 404 };
                problem(&send(&world, &mine.key, method, &filled, path).await, status);
            }
            let parameters = operation["parameters"].as_array().unwrap();
            if parameters.iter().any(|parameter| parameter["name"] == "tenant" && parameter["in"] == "query") {
                by_name += 1;
                let query = if path == "/v1/deliveries" { "&event=evt_01j9zzzzzzzzzzzzzzzzzzzzzz" } else { "" };
                for tenant in [theirs.id.as_str(), "theirs"] {
                    let path_of_theirs = format!("{filled}?tenant={tenant}{query}");
                    problem(&send(&world, &mine.key, method, &path_of_theirs, path).await, 404);
                }
            }
        }
    }
    assert!(by_id >= 20 && by_name >= 25, "{by_id} {by_name}");
    assert_eq!(world.control.state().revision, before, "nothing changed");
    assert_eq!(world.ok_as(&theirs.key, "GET", &entry, None).await, "theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_hold_only_what_is_the_callers() {
    let world = World::start().await;
    let theirs = world.tenant("theirs").await;
    let mine = world.tenant("mine").await;
    for path in ["/v1/tenants", "/v1/keys", "/v1/sources", "/v1/destinations", "/v1/connections", "/v1/plugins"] {
        let listed = world.ok_as(&mine.key, "GET", path, None).await;
        assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{path}: {listed}");
        let text = listed.to_string();
        let their_ids = [&theirs.id, &theirs.key_id, &theirs.source, &theirs.destination, &theirs.connection, &theirs.plugin];
        assert!(their_ids.iter().all(|id| !text.contains(id.as_str())), "{path}: {listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_key_does_no_operators_work() {
    let world = World::start().await;
    let mine = world.tenant("mine").await;
    world.tenant("theirs").await;
    for (method, path, body) in [
        ("POST", "/v1/tenants".to_owned(), json!({"name": "more"})),
        ("PATCH", format!("/v1/tenants/{}", mine.id), json!({"plan": {"rate": 1e6}})),
        ("POST", "/v1/apply".to_owned(), json!({"tenants": [{"name": "mine", "plan": {"rate": 1e6}}]})),
    ] {
        problem(&world.send(&mine.key, method, &path, Some(&body)).await, 403);
    }
    problem(&world.send(&mine.key, "DELETE", &format!("/v1/tenants/{}", mine.id), None).await, 403);
    problem(&world.send(&mine.key, "POST", "/v1/apply", Some(&json!({"tenants": [{"name": "theirs"}]}))).await, 404);
    problem(&world.send(&mine.key, "POST", "/v1/apply", Some(&json!({"tenants": [{"name": "new"}]}))).await, 404);
    problem(&world.send(&mine.key, "POST", "/v1/keys", Some(&json!({"name": "k", "tenant": "theirs"}))).await, 404);
    // A key that it makes without naming a tenant is its own tenant's, not an operator's.
    let minted = world.ok_as(&mine.key, "POST", "/v1/keys", Some(&json!({"name": "k"}))).await;
    assert_eq!(minted["info"]["tenant"], mine.id.as_str());
    problem(&world.send(minted["key"].as_str().unwrap(), "POST", "/v1/tenants", Some(&json!({"name": "more"}))).await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_and_wrong_keys_open_nothing() {
    let world = World::start().await;
    let mine = world.tenant("mine").await;
    let mut wrong = mine.key.clone();
    let last = if wrong.ends_with('0') { "1" } else { "0" };
    wrong.replace_range(wrong.len() - 1.., last);
    let document = api::openapi();
    for (path, item) in document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/v1/")) {
        for method in item.as_object().unwrap().keys() {
            let filled = fill(path, &mine);
            let without = world.raw(&method.to_uppercase(), &filled, &[], "").await;
            assert_eq!(without.header("www-authenticate"), Some("Bearer"), "{method} {path}");
            problem(&without, 401);
            problem(&send(&world, &wrong, method, &filled, path).await, 401);
        }
    }
    for header in ["Basic dGVzdDp0ZXN0", "Bearer", "Bearer ", "tgk_x"] {
        problem(&world.raw("GET", "/v1/sources", &[("authorization", header)], "").await, 401);
    }
    world.ok_as(&mine.key, "DELETE", &format!("/v1/keys/{}", mine.key_id), None).await;
    problem(&world.send(&mine.key, "GET", "/v1/sources", None).await, 401);
}
