//! A plugin's versions through the API of a running gateway: trying one, sharing events between two, going back, and deleting one that
//! events still need.

use serde_json::{Value, json};
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, send};

use crate::api::{TENANT, text};
use crate::guest::{filter, import, transform};
use crate::world::{EMBEDDED, Engine, OPERATOR, REDIS, SOON, World, prebuilt};

/// An answer at address 8 of a filter: keep.
const KEEP: &str = "(i32.store8 (i32.const 8) (i32.const 0)) (i32.store8 (i32.const 12) (i32.const 1)) (i32.const 8)";
const DROP: &str = "(i32.const 8)";

/// A transform that gives one output with this body.
pub(crate) fn giving(body: &str) -> bytes::Bytes {
    giving_with("", body)
}

/// The same, with something to do before: another version.
pub(crate) fn giving_with(before: &str, body: &str) -> bytes::Bytes {
    let escaped: String = body.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    // The answer at 8 points at one output at 64, of which all is kept but the body, at 1024.
    let fields = format!(r#"(data (i32.const 1024) "{escaped}")"#);
    let code = format!(
        "{before} (i32.store (i32.const 12) (i32.const 64)) (i32.store (i32.const 16) (i32.const 1))
         (i32.store (i32.const 108) (i32.const 1)) (i32.store (i32.const 112) (i32.const 1024))
         (i32.store (i32.const 116) (i32.const {})) (i32.const 8)",
        body.len()
    );
    transform(&fields, &code)
}

impl World {
    /// A plugin `shape` with this version, `live` at it, and a connection from `in` that names `live`.
    pub(crate) async fn with_plugin(&self, version: &str, stage: Value) {
        let mut stage = stage;
        (stage["plugin"], stage["version"]) = (json!("shape"), json!("live"));
        self.api
            .apply(json!({
                "plugins": [{"name": "shape", "component": version, "aliases": ["live"]}],
                "sources": [{"name": "in"}],
                "destinations": [{"name": "out", "url": self.receiver.url("/out")}],
                "connections": [{"name": "through", "source": "in", "destination": "out", "plugins": [stage]}],
            }))
            .await;
    }

    pub(crate) async fn push(&self, component: bytes::Bytes) -> String {
        let path = format!("/v1/plugins/shape/versions?tenant={TENANT}");
        let reply = self.api.send("POST", &path, "application/wasm", component).await;
        assert_eq!(reply.status, 201, "{:?}", reply.body);
        text(&reply.json()["hash"])
    }

    pub(crate) async fn post(&self, body: &str) -> String {
        let url = self.gateway.ingest(&format!("/in/{}", self.api.id("sources", "in").await));
        let reply = send("POST", &url, &[("x-github-event", "push")], body.to_owned()).await;
        assert_eq!(reply.status, 202, "{:?}", reply.body);
        text(&reply.json()["id"])
    }

    async fn attempt(&self, version: &str, spec: Value) -> Value {
        self.api.post(&format!("/v1/plugins/shape/versions/{version}/try?tenant={TENANT}"), &spec).await
    }

    pub(crate) async fn alias(&self, change: Value) -> Value {
        self.api.patch(&format!("/v1/plugins/shape/aliases/live?tenant={TENANT}"), &change).await
    }
}

fn ran(event: &Value) -> String {
    text(&event["deliveries"][0]["plugin_runs"][0]["version"])
}

#[tokio::test]
async fn a_version_is_tried_on_a_request_and_on_a_stored_event() {
    let world = World::start(EMBEDDED).await;
    let chat = world.api.keep(prebuilt("github-push-to-chat")).await;
    world.with_plugin(&chat, json!({"config": {"channel": "#tried"}})).await;
    let push = include_str!("../fixtures/github/push.json");
    let inline = json!({"headers": [{"name": "X-GitHub-Event", "value": "push"}], "body": push});
    let tried = world.attempt("live", json!({"request": inline, "connection": "through"})).await;
    assert_eq!((&tried["outcome"], &tried["version"]), (&json!("outputs"), &json!(chat)), "{tried:#}");
    assert!(text(&tried["outputs"][0]["body"]).contains("#tried"), "{tried:#}");
    assert!(tried["fuel"].as_u64().unwrap() > 0 && tried["memory"].as_u64().unwrap() > 0, "{tried:#}");
    let other = world.attempt("latest", json!({"request": inline, "config": {"channel": "#inline"}})).await;
    assert!(text(&other["outputs"][0]["body"]).contains("#inline"), "{other:#}");

    let event = world.post(push).await;
    world.receiver.wait_for(1, SOON).await;
    let again = world.attempt(&chat, json!({"event": event, "connection": "through"})).await;
    assert_eq!((&again["event"], &again["outcome"]), (&json!(event), &json!("outputs")), "{again:#}");
    let sent = &world.receiver.requests()[0];
    assert_eq!(text(&again["outputs"][0]["body"]).as_bytes(), &sent.body[..], "as it was sent");
    assert_eq!(world.receiver.count(), 1, "nothing is delivered");
    let listed = world.api.all("/v1/events").await;
    assert_eq!(listed.len(), 1, "nothing is stored");
}

#[tokio::test]
async fn what_is_tried_says_where_it_trapped_and_never_a_secret() {
    let world = World::start(EMBEDDED).await;
    let trapping = world.api.keep(filter("(func $innermost unreachable)", "(call $innermost) (i32.const 8)")).await;
    world.with_plugin(&trapping, json!({"secrets": {"token": "hunter2-hunter2"}})).await;
    let tried = world.attempt("live", json!({"request": {"body": "x"}})).await;
    assert_eq!((&tried["outcome"], &tried["failure"]["code"]), (&json!("failed"), &json!("aborted")), "{tried:#}");
    assert_eq!((&tried["backtrace"][0]["function"], &tried["backtrace"][1]["function"]), (&json!("innermost"), &json!("main")));

    // It asks for the secret `token` and logs it.
    let fields = format!(
        r#"{} {} (data (i32.const 2048) "token")"#,
        import("secret", "get", "(param i32 i32 i32)"),
        import("log", "write", "(param i32 i32 i32)")
    );
    let code = format!(
        "(call $get (i32.const 2048) (i32.const 5) (i32.const 16))
         (call $write (i32.const 1) (i32.load (i32.const 20)) (i32.load (i32.const 24))) {KEEP}"
    );
    let telling = world.push(filter(&fields, &code)).await;
    let tried = world.attempt(&telling, json!({"request": {"body": "x"}, "connection": "through"})).await;
    assert_eq!((&tried["outcome"], &tried["logs"]), (&json!("kept"), &json!(["info: [secret token]"])), "{tried:#}");
    assert!(!tried.to_string().contains("hunter2"), "{tried:#}");

    let path = format!("/v1/plugins/shape/versions/live/try?tenant={TENANT}");
    for (spec, field) in [
        (json!({}), "event"),
        (json!({"event": "evt_00000000000000000000000000", "request": {}}), "event"),
        (json!({"request": {"body": "a", "json": 1}}), "request.body"),
        (json!({"request": {"headers": [{"name": "a b", "value": ""}]}}), "request.headers[0].name"),
        (json!({"request": {"body_base64": "?"}}), "request.body_base64"),
        (json!({"request": {}, "connection": "through", "config": {}}), "connection"),
        (json!({"request": {}, "limits": {"fuel": 1}}), "limits.fuel"),
    ] {
        let reply = world.api.send("POST", &path, "application/json", spec.to_string()).await;
        assert_eq!((reply.status, &reply.json()["errors"][0]["field"]), (422, &json!(field)), "{spec}");
    }
    let reply = world.api.send("POST", &path.replace("/live/", "/none/"), "application/json", r#"{"request":{}}"#).await;
    assert_eq!(reply.status, 404);
}

#[tokio::test]
async fn a_canary_takes_its_share_and_goes_or_stays_by_one_call_on_the_embedded_store() {
    canary(EMBEDDED).await;
}

#[tokio::test]
async fn a_canary_takes_its_share_and_goes_or_stays_by_one_call_on_redis() {
    canary(REDIS).await;
}

async fn canary(engine: Engine) {
    let world = World::start(engine).await;
    let stable = world.api.keep(filter("", DROP)).await;
    world.with_plugin(&stable, json!({"poison_after": 1000})).await;
    let failing = world.push(filter("", "(nop) unreachable")).await;
    let set = world.alias(json!({"canary": {"version": failing, "percent": 50}})).await;
    assert_eq!((&set["version"], &set["canary"]["version"]), (&json!(stable), &json!(failing)), "{set:#}");

    let mut sides = std::collections::BTreeMap::<String, Vec<Value>>::new();
    for _ in 0..40 {
        let event = world.api.settled(&world.post("{}").await, SOON).await;
        sides.entry(ran(&event)).or_default().push(event);
    }
    assert_eq!(sides.keys().collect::<std::collections::BTreeSet<_>>(), [&stable, &failing].into(), "both run");
    assert!(sides[&stable].iter().all(|event| event["state"] == "filtered"));
    assert!(sides[&failing].iter().all(|event| event["state"] == "dead_lettered"));
    let metrics = send("GET", &world.gateway.admin("/metrics"), &[], "").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    for (outcome, track, count) in [("ok", "stable", sides[&stable].len()), ("aborted", "canary", sides[&failing].len())] {
        let found = metrics.lines().find(|line| {
            line.starts_with("tidegate_plugin_runs") && [outcome, track].iter().all(|label| line.contains(&format!("=\"{label}\"")))
        });
        assert!(found.is_some_and(|line| line.ends_with(&format!(" {count}"))), "{track}: {count}\n{found:?}");
    }

    // What failed with the canary is tried again with it, even when the canary is gone.
    let back = world.api.post(&format!("/v1/plugins/shape/aliases/live/rollback?tenant={TENANT}"), &json!(null)).await;
    assert_eq!((&back["version"], &back["canary"]), (&json!(stable), &Value::Null), "{back:#}");
    let failed = text(&sides[&failing][0]["id"]);
    world.api.post(&format!("/v1/events/{failed}/retry?tenant={TENANT}"), &json!(null)).await;
    let runs = eventually("the dead letter has run again", SOON, async || {
        let runs = world.api.event(&failed).await["deliveries"][0]["plugin_runs"].as_array().unwrap().clone();
        (runs.len() > 1).then_some(runs)
    })
    .await;
    assert!(runs.iter().all(|run| run["version"] == *failing), "{runs:#?}");
    for _ in 0..10 {
        assert_eq!(ran(&world.api.settled(&world.post("{}").await, SOON).await), stable);
    }

    // Promoted, all run it; rolled back, none does.
    let good = world.push(filter("", "(nop) (nop) (i32.const 8)")).await;
    world.alias(json!({"canary": {"version": good, "percent": 0.5}})).await;
    let promoted = world.api.post(&format!("/v1/plugins/shape/aliases/live/promote?tenant={TENANT}"), &json!(null)).await;
    assert_eq!((&promoted["version"], &promoted["canary"]), (&json!(good), &Value::Null), "{promoted:#}");
    assert_eq!((&promoted["past"][0]["version"], &promoted["past"][0]["by"]), (&json!(stable), &json!("operator")), "{promoted:#}");
    assert_eq!(ran(&world.api.settled(&world.post("{}").await, SOON).await), good);
    let back = world.api.post(&format!("/v1/plugins/shape/aliases/live/rollback?tenant={TENANT}"), &json!(null)).await;
    assert_eq!((&back["version"], &back["past"]), (&json!(stable), &json!([])), "{back:#}");
    assert_eq!(ran(&world.api.settled(&world.post("{}").await, SOON).await), stable);
    for what in ["promote", "rollback"] {
        let path = format!("/v1/plugins/shape/aliases/live/{what}?tenant={TENANT}");
        let reply = world.api.send("POST", &path, "application/json", "null").await;
        assert_eq!((reply.status, &reply.json()["code"]), (409, &json!("conflict")), "{what}");
    }
}

#[tokio::test]
async fn what_was_accepted_with_a_version_runs_it_after_it_was_deleted() {
    let world = World::start(EMBEDDED).await;
    let first = world.api.keep(filter("", DROP)).await;
    world.with_plugin(&first, json!({})).await;
    world.api.apply(json!({"plan": {"in_flight": 1}, "sources": [{"name": "blocking"}], "destinations": [{"name": "hanging", "url": world.receiver.url("/hanging"), "timeout": "5s"}], "connections": [{"name": "blocking", "source": "blocking", "destination": "hanging"}]})).await;
    world.receiver.answer_with(|request| if request.target == "/hanging" { Answer::hang() } else { Answer::status(200) });
    let blocking = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "blocking").await));
    assert_eq!(send("POST", &blocking, &[], "{}").await.status, 202);
    world.receiver.wait_for(1, SOON).await;
    let event = world.post("{}").await;
    eventually("the event waits, unplanned", SOON, async || {
        (world.api.event(&event).await["deliveries"][0]["state"] == "parked").then_some(())
    })
    .await;

    let second = world.push(filter("", "(nop) (i32.const 8)")).await;
    let path = format!("/v1/plugins/shape/versions/{first}?tenant={TENANT}");
    let delete = async || world.api.send("DELETE", &path, "application/json", "").await;
    assert_eq!(delete().await.status, 409, "the alias names it");
    for part in ["canary", "shadow"] {
        world.alias(json!({"version": second, part: {"version": first, "percent": 1}})).await;
        let reply = delete().await;
        let detail = text(&reply.json()["detail"]);
        assert_eq!((reply.status, detail.contains(&format!("the {part} of alias `live`"))), (409, true), "{detail}");
        world.alias(json!({ part: null })).await;
    }
    assert_eq!(delete().await.status, 204);
    assert_eq!(world.api.try_get(&path).await.status, 404, "nothing can name it any more");
    let reply = world
        .api
        .send(
            "PATCH",
            &format!("/v1/plugins/shape/aliases/live?tenant={TENANT}"),
            "application/json",
            json!({"version": first}).to_string(),
        )
        .await;
    assert_eq!(reply.status, 422, "nothing can name it any more");
    assert_eq!(ran(&world.api.settled(&event, SOON).await), first, "pinned when it was accepted");
    assert_eq!(ran(&world.api.settled(&world.post("{}").await, SOON).await), second);
}

#[tokio::test]
async fn files_declare_what_an_alias_runs_beside() {
    let world = World::start(EMBEDDED).await;
    let versions = [DROP, "(nop) (i32.const 8)", "(nop) (nop) (i32.const 8)"].map(|body| filter("", body));
    let mut hashes = Vec::new();
    for version in versions {
        hashes.push(world.api.keep(version).await);
    }
    let declared = json!({"plugins": [{
        "name": "shape", "component": hashes[0], "aliases": ["live"],
        "canary": {"component": hashes[1], "percent": 10}, "shadow": {"component": hashes[2], "percent": 2.5}
    }]});
    world.api.apply(declared.clone()).await;
    let alias = async || world.api.get(&format!("/v1/plugins/shape/aliases/live?tenant={TENANT}")).await;
    let first = alias().await;
    assert_eq!((&first["canary"]["version"], &first["canary"]["percent"]), (&json!(hashes[1]), &json!(10.0)), "{first:#}");
    assert_eq!((&first["shadow"]["version"], &first["shadow"]["percent"]), (&json!(hashes[2]), &json!(2.5)), "{first:#}");
    let mut again = declared.clone();
    again["name"] = json!(TENANT);
    let report = world.api.post("/v1/apply", &json!({"tenants": [again]})).await;
    assert!(report["changes"].as_array().unwrap().iter().all(|change| change["action"] == "unchanged"), "{report:#}");
    world.api.apply(json!({"plugins": [{"name": "shape", "component": hashes[0], "aliases": ["live"]}]})).await;
    let ended = alias().await;
    assert_eq!((&ended["canary"], &ended["shadow"]), (&Value::Null, &Value::Null), "what is not declared ends");
}

#[tokio::test]
async fn the_commands_do_what_the_api_does() {
    let world = World::start(EMBEDDED).await;
    let stable = world.api.keep(filter("", DROP)).await;
    world.with_plugin(&stable, json!({})).await;
    let newer = world.push(filter("", "(nop) (i32.const 8)")).await;
    let trapping = world.push(filter("", "unreachable")).await;
    world.api.settled(&world.post("{}").await, SOON).await;
    let request = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(request.path(), r#"{"headers": [{"name": "x", "value": "y"}], "json": {"a": 1}}"#).unwrap();
    let file = request.path().to_str().unwrap().to_owned();
    let run = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["plugin", arguments[0], "shape"]).args(&arguments[1..]);
        command.env("TIDEGATE_URL", world.gateway.admin("")).env("TIDEGATE_KEY", OPERATOR).env("TIDEGATE_TENANT", TENANT);
        let output = command.output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let ok = async |arguments: &[&str], parts: &[&str]| {
        let (success, stdout, stderr) = run(arguments).await;
        assert!(success && parts.iter().all(|part| stdout.contains(part)), "{arguments:?}\n{stdout}\n{stderr}");
    };
    ok(&["try", "--request", &file, "--version", "live", "--connection", "through"], &["outcome   dropped", "fuel"]).await;
    let (success, stdout, stderr) = run(&["try", "--request", &file, "--version", &trapping]).await;
    assert!(!success && stdout.contains("at main (offset 0x") && stderr.contains("aborted"), "{stdout}\n{stderr}");
    ok(&["canary", "--alias", "live", "--version", &newer, "--percent", "12.5"], &[&stable, "canary", &newer, "12.5 %"]).await;
    ok(&["shadow", "--alias", "live", "--version", &trapping, "--percent", "1"], &["shadow", &trapping, "1.0 %"]).await;
    ok(&["shadow", "--alias", "live"], &[&trapping, "DROPPED"]).await;
    ok(&["promote", "--alias", "live"], &[&newer, "BEFORE", &stable, "operator"]).await;
    ok(&["rollback", "--alias", "live"], &[&stable]).await;
    ok(&["shadow", "--alias", "live", "--end"], &[&stable]).await;
    ok(&["alias", "--alias", "live", "--to", &newer, "--json"], &["\"canary\": null", &newer]).await;
    ok(&["replay", "--version", &trapping, "--against", &stable, "--connection", "through"], &["failed", "0 requests -> aborted"])
        .await;
    let (success, _, stderr) = run(&["promote", "--alias", "live"]).await;
    assert!(!success && stderr.contains("no canary to promote"), "{stderr}");
}
