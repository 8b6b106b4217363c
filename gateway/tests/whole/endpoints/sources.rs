//! Sources whose plugins verify and answer.

use serde_json::{Value, json};
use tidegate_test_support::http::send;

use super::{KEY, auth, come_again, naming, now, own_scheme, signature, tenant};
use crate::api::text;
use crate::visitors::{SPINS, ZEROS, respond, sign, verify};
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World, prebuilt};

#[tokio::test]
async fn a_plugin_verifies_answers_and_signs_on_the_embedded_store() {
    speaks(EMBEDDED).await;
}

#[tokio::test]
async fn a_plugin_verifies_answers_and_signs_on_redis() {
    speaks(REDIS).await;
}

async fn speaks(engine: Engine) {
    let (world, plugins) = World::with_plugins(engine, &[own_scheme()], "").await;
    let source = json!({"auth": auth("own-scheme"), "respond": naming("own-scheme")});
    world.connect(&plugins, source, json!({"sign": naming("own-scheme")})).await;

    let answered = world.arrive("/handshake", &[], r#"{"challenge": "abc"}"#).await;
    assert_eq!((answered.status, &answered.body[..]), (200, &b"abc"[..]));
    assert!(answered.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")), "{answered:?}");
    assert_eq!(world.metric("tidegate_ingest_requests", &[("outcome", "answered")]).await, Some(1));

    for (wrong, body) in [(signature(now(), b"other"), "{}"), (signature(now() - 1000, b"{}"), "{}"), ("t=1".into(), "{}")] {
        let reply = world.arrive("", &[("x-acme-signature", &wrong)], body).await;
        let problem = reply.json();
        assert_eq!((reply.status, &problem["code"]), (401, &json!("rejected_by_plugin")), "{problem}");
        assert!(!problem.to_string().contains("the signature"), "the reason is the operator's: {problem}");
    }
    world.gateway.wait_for_log(SOON, |log| log.contains("the signature is not this body's")).await;
    assert_eq!(world.api.all("/v1/events").await, [Value::Null; 0], "nothing was kept");

    let right = signature(now(), b"hello");
    let headers = [("x-acme-signature", &right[..]), ("authorization", "Bearer x"), ("cookie", "a=b"), ("x-kept", "1")];
    let reply = world.arrive("", &headers, "hello").await;
    assert_eq!(reply.status, 202, "{:?}", reply.body);
    let event = world.api.settled(&text(&reply.json()["id"]), SOON).await;
    assert_eq!(event["state"], "delivered", "{event:#}");
    let shown = event["request"]["headers"].to_string();
    assert!(shown.contains("x-kept") && !shown.contains("authorization") && !shown.contains("cookie"), "{shown}");
    let sent = &world.receiver.requests()[0];
    let signed = sent.header("x-acme-signature").expect("it is signed").to_owned();
    let seconds = signed.split([',', '=']).nth(1).and_then(|text| text.parse().ok()).expect("a time");
    assert_eq!((&sent.body[..], &signed), (&b"hello"[..], &signature(seconds, b"hello")));
    assert_eq!(sent.headers.get_all("x-acme-signature").iter().count(), 1, "in place of the sender's");
    let run = &event["deliveries"][0]["plugin_runs"][0];
    assert_eq!(run["attempt"], json!({"number": 1, "role": "sign", "plugin": "own-scheme"}), "{run:#}");
    assert!(run["fuel"].as_u64().is_some_and(|fuel| fuel > 0), "{run:#}");

    for path in ["/v1/sources/in", "/v1/destinations/out"] {
        let shown = world.api.get(&tenant(path)).await.to_string();
        assert!(shown.contains("sealed") && !shown.contains(KEY), "{shown}");
    }
    assert!(!world.gateway.log().contains(KEY) && !event.to_string().contains(KEY));
}

#[tokio::test]
async fn a_plugin_that_fails_refuses_all_for_now_and_keeps_nothing() {
    let failing = [
        ("checks", verify("(unreachable)")),
        ("spins", verify(SPINS)),
        ("answers", respond("(unreachable)")),
        ("accepts", verify(ZEROS)),
    ];
    let (world, plugins) = World::with_plugins(EMBEDDED, &failing, "plugins.gate_fuel = 1_000_000\n").await;
    world.connect(&plugins, json!({"auth": auth("checks")}), json!({})).await;
    let reply = world.arrive("", &[], "{}").await;
    assert!((1..=5).contains(&come_again(&reply, "verify_failed")));
    assert_eq!(world.metric("tidegate_plugin_runs", &[("outcome", "aborted"), ("track", "verify")]).await, Some(1));
    assert_eq!(world.metric("tidegate_ingest_requests", &[("outcome", "plugin_failed")]).await, Some(1));
    let log = world.gateway.wait_for_log(SOON, |log| log.contains("the source's plugin failed")).await;
    assert!(log.contains("aborted"), "{log}");

    world.connect(&plugins, json!({"auth": auth("spins")}), json!({})).await;
    come_again(&world.arrive("", &[], "{}").await, "verify_failed");
    assert_eq!(world.metric("tidegate_plugin_runs", &[("outcome", "fuel_exhausted"), ("track", "verify")]).await, Some(1));

    world.connect(&plugins, json!({"auth": auth("accepts"), "respond": naming("answers")}), json!({})).await;
    come_again(&world.arrive("", &[], "{}").await, "respond_failed");
    assert_eq!(world.api.all("/v1/events").await, [Value::Null; 0], "nothing was kept");

    // The next version mends it, without a change to the source.
    let path = tenant("/v1/plugins/answers/versions");
    let mended = world.api.send("POST", &path, "application/wasm", respond(ZEROS)).await.json();
    world.api.patch(&tenant("/v1/plugins/answers/aliases/live"), &json!({"version": mended["hash"]})).await;
    let reply = world.arrive("", &[], "{}").await;
    assert_eq!(reply.status, 202, "{:?}", reply.body);
}

#[tokio::test]
async fn what_is_named_is_there_exports_what_is_needed_and_stays() {
    let named = [("checks", verify(ZEROS)), ("signs", sign(ZEROS))];
    let (world, plugins) = World::with_plugins(EMBEDDED, &named, "").await;
    world.connect(&plugins, json!({"auth": auth("checks")}), json!({"sign": naming("signs")})).await;
    let refused = async |method: &str, path: &str, body: Value| {
        let reply = world.api.send(method, &tenant(path), "application/json", body.to_string()).await;
        (reply.status, reply.json())
    };

    let faults = [
        ("/v1/sources/in", json!({"auth": {"plugin": "signs"}}), "auth.version", "tidegate:plugin/verify"),
        ("/v1/sources/in", json!({"respond": naming("checks")}), "respond.version", "tidegate:plugin/respond"),
        ("/v1/sources/in", json!({"respond": naming("nobody")}), "respond.plugin", "`nobody`"),
        ("/v1/sources/in", json!({"auth": {"version": "none"}}), "auth.version", "`none`"),
        ("/v1/sources/in", json!({"auth": {"limits": {"fuel": 1}}}), "auth.limits.fuel", "10000"),
        ("/v1/destinations/out", json!({"judge": naming("signs")}), "judge.version", "tidegate:plugin/judge"),
        ("/v1/connections/through", json!({"plugins": [{"plugin": "signs"}]}), "plugins[0].version", "tidegate:plugin/filter"),
        ("/v1/sources/in", json!({"respond": {"plugin": "checks", "on_failure": "retry"}}), "respond", "on_failure"),
        ("/v1/sources/in", json!({"auth": {"type": "other"}}), "auth", "`plugin`"),
    ];
    for (path, change, field, says) in faults {
        let (status, problem) = refused("PATCH", path, change.clone()).await;
        let error = problem["errors"][0].clone();
        let at = error["field"].as_str().unwrap_or_default();
        assert!(status == 422 && at.starts_with(field), "{change}: {problem:#}");
        assert!(text(&error["message"]).contains(says), "{change}: {problem:#}");
    }

    // No version of another kind comes in its place.
    let path = tenant("/v1/plugins/checks/versions");
    let other = world.api.send("POST", &path, "application/wasm", prebuilt("json-field-filter")).await;
    assert_eq!(other.status, 201, "`latest` is not what the source names: {:?}", other.body);
    let (status, problem) = refused("PATCH", "/v1/plugins/checks/aliases/live", json!({"version": "latest"})).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("version")), "{problem:#}");
    assert!(text(&problem["errors"][0]["message"]).contains("source `in`"), "{problem:#}");

    let version = text(&plugins[1]["component"]);
    world.api.patch(&tenant("/v1/destinations/out"), &json!({"sign": {"version": version}})).await;
    let in_use = [
        ("/v1/plugins/checks".to_owned(), "source `in`"),
        ("/v1/plugins/signs".to_owned(), "destination `out`"),
        ("/v1/plugins/checks/aliases/live".to_owned(), "source `in`"),
        (format!("/v1/plugins/signs/versions/{version}"), "destination `out`"),
    ];
    for (path, user) in in_use {
        let (status, problem) = refused("DELETE", &path, Value::Null).await;
        assert!(status == 409 && problem.to_string().contains(user), "{path}: {problem:#}");
    }
    let reply = world.arrive("", &[], "{}").await;
    assert_eq!(reply.status, 202, "{:?}", reply.body);
}

#[tokio::test]
async fn a_tenant_without_fuel_is_told_to_come_again_and_another_is_not() {
    let (world, plugins) = World::with_plugins(EMBEDDED, &[("checks", verify(ZEROS))], "").await;
    let state = |name: &str, fuel: u64| {
        json!({
            "name": name, "plan": {"plugin_fuel": fuel}, "plugins": plugins,
            "sources": [{"name": "in", "auth": auth("checks")}],
        })
    };
    let posted = async |name: &str| {
        let source = world.api.get(&format!("/v1/sources/in?tenant={name}")).await;
        send("POST", &world.gateway.ingest(&format!("/in/{}", text(&source["id"]))), &[], "{}").await
    };
    let tenants = json!({"tenants": [state("hungry", 1), state("sated", 1_000_000_000)]});
    world.api.post("/v1/apply", &tenants).await;
    assert_eq!(posted("hungry").await.status, 202, "what it has is five seconds' worth, and may be overdrawn");
    assert!(come_again(&posted("hungry").await, "plugin_fuel") > 1);
    assert_eq!(posted("sated").await.status, 202);
    world.api.post("/v1/apply", &json!({"tenants": [state("hungry", 0)]})).await;
    come_again(&posted("hungry").await, "plugins_forbidden");
    world.api.post("/v1/apply", &json!({"tenants": [state("hungry", 1_000_000_000)]})).await;
    let reply = posted("hungry").await;
    assert_eq!(reply.status, 202, "{:?}", reply.body);
}
