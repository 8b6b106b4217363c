//! Shadows and replays: what another version would give, told and never sent.

use serde_json::{Value, json};
use tidegate_test_support::eventually;
use tidegate_test_support::http::send;

use crate::api::TENANT;
use crate::guest::{filter, transform};
use crate::versions::{giving, giving_with};
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};

#[tokio::test]
async fn a_shadow_is_compared_and_never_sent_on_the_embedded_store() {
    shadow(EMBEDDED).await;
}

#[tokio::test]
async fn a_shadow_is_compared_and_never_sent_on_redis() {
    shadow(REDIS).await;
}

async fn shadow(engine: Engine) {
    let world = World::start(engine).await;
    let live = world.api.keep(giving(r#"{"a": 1, "b": [1, 2]}"#)).await;
    world.with_plugin(&live, json!({})).await;
    let path = format!("/v1/plugins/shape/aliases/live/shadow?tenant={TENANT}");
    assert_eq!(world.api.try_get(&path).await.status, 404, "there is none yet");

    let versions = [
        ("formatting", giving(r#"{"b":[1,2],"a":1}"#), json!([])),
        ("different", giving(r#"{"a": 1, "b": [1, 3]}"#), json!([{"output": 0, "part": "json", "at": "/b/1", "op": "replace"}])),
        ("failed", transform("", "unreachable"), Value::Null),
        ("same", giving_with("(nop)", r#"{"a": 1, "b": [1, 2]}"#), json!([])),
    ];
    for (number, (kind, component, differences)) in versions.into_iter().enumerate() {
        let version = world.push(component).await;
        world.alias(json!({"shadow": {"version": version, "percent": 100}})).await;
        let event = world.post("{}").await;
        let event = world.api.settled(&event, SOON).await;
        assert_eq!(event["state"], "delivered", "{event:#}");
        let told = eventually("the shadow was compared", SOON, async || {
            let told = world.api.get(&path).await;
            (told["runs"] == 1).then_some(told)
        })
        .await;
        for count in ["same", "formatting", "different", "failed", "dropped"] {
            assert_eq!(told[count], u64::from(count == kind), "{count}: {told:#}");
        }
        assert_eq!(told["version"], *version);
        match &differences {
            Value::Array(none) if none.is_empty() => assert_eq!(told["last"], json!([]), "{told:#}"),
            Value::Array(_) => {
                assert_eq!((&told["last"][0]["event"], &told["last"][0]["differences"]), (&event["id"], &differences), "{told:#}");
            }
            _ => assert_eq!(told["last"][0]["shadow_failure"], "aborted", "{told:#}"),
        }
        assert_eq!(world.receiver.count(), number + 1, "one delivery each");
        assert!(world.receiver.requests().iter().all(|request| request.body == r#"{"a": 1, "b": [1, 2]}"#.as_bytes()));
    }
    let metrics = send("GET", &world.gateway.admin("/metrics"), &[], "").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    for line in [r#"result="different""#, r#"result="failed""#, r#"track="shadow""#] {
        assert!(metrics.contains(line), "{line}");
    }
    world.alias(json!({"shadow": null})).await;
    assert_eq!(world.api.try_get(&path).await.status, 404);
}

#[tokio::test]
async fn what_a_shadow_uses_is_paid_for_by_its_tenant() {
    let world = World::start(EMBEDDED).await;
    let live = world.api.keep(filter("", "(i32.const 8)")).await;
    world.with_plugin(&live, json!({"limits": {"fuel": 1_000_000}})).await;
    world.api.apply(json!({"plan": {"plugin_fuel": 1000}})).await;
    let spinning = world.push(filter("", "(loop (br 0)) (unreachable)")).await;
    world.alias(json!({"shadow": {"version": spinning, "percent": 100}})).await;
    assert_eq!(world.api.settled(&world.post("{}").await, SOON).await["state"], "filtered", "there is fuel for the live one");
    let path = format!("/v1/plugins/shape/aliases/live/shadow?tenant={TENANT}");
    eventually("the shadow has run", SOON, async || (world.api.get(&path).await["runs"] == 1).then_some(())).await;
    let event = world.post("{}").await;
    eventually("the next event waits for fuel", SOON, async || {
        (world.api.event(&event).await["deliveries"][0]["reason"] == "plugin_fuel").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_shadow_that_is_too_slow_is_dropped_and_holds_nobody_up() {
    let world = World::start(EMBEDDED).await;
    let keep = "(i32.store8 (i32.const 8) (i32.const 0)) (i32.store8 (i32.const 12) (i32.const 1)) (i32.const 8)";
    let live = world.api.keep(filter("", keep)).await;
    world.with_plugin(&live, json!({"limits": {"memory": "32MiB"}})).await;
    let spinning = world.push(filter("", "(loop (br 0)) (unreachable)")).await;
    world.alias(json!({"shadow": {"version": spinning, "percent": 100}})).await;
    for _ in 0..12 {
        world.post("{}").await;
    }
    world.receiver.wait_for(12, SOON).await;
    let path = format!("/v1/plugins/shape/aliases/live/shadow?tenant={TENANT}");
    let told = eventually("all are counted", SOON, async || {
        let told = world.api.get(&path).await;
        (told["runs"] == 12).then_some(told)
    })
    .await;
    assert_eq!((&told["failed"], &told["last"][0]["shadow_failure"]), (&json!(12), &json!("fuel_exhausted")), "{told:#}");

    // Nine requests of 900 KiB each, and the event: more than may wait.
    let nine = |before: &str| {
        let code = "(i32.store (i32.const 12) (i32.const 2048)) (i32.store (i32.const 16) (i32.const 9)) (i32.const 8)";
        transform("", &format!("{before} {code}"))
    };
    let (live, shadow) = (world.push(nine("")).await, world.push(nine("(nop)")).await);
    world.alias(json!({"version": live, "shadow": {"version": shadow, "percent": 100}})).await;
    let event = world.post(&"x".repeat(900 << 10)).await;
    assert_eq!(world.api.settled(&event, SOON).await["state"], "delivered");
    assert_eq!(world.receiver.count(), 12 + 9);
    let told = eventually("it is counted", SOON, async || {
        let told = world.api.get(&path).await;
        (told["dropped"] == 1).then_some(told)
    })
    .await;
    assert_eq!((&told["runs"], &told["last"]), (&json!(0), &json!([])), "{told:#}");
    assert!(world.api.all("/v1/events").await.iter().all(|event| event["state"] == "delivered"));
}

#[tokio::test]
async fn a_replay_shows_what_would_change_and_sends_nothing() {
    let world = World::start(EMBEDDED).await;
    let live = world.api.keep(giving(r#"{"text": "old", "n": 1}"#)).await;
    world.with_plugin(&live, json!({})).await;
    let mut events = Vec::new();
    for number in 0..5 {
        let event = world.post(&format!("{{\"n\": {number}}}")).await;
        world.api.settled(&event, SOON).await;
        events.insert(0, event);
    }
    let path = format!("/v1/plugins/shape/replay?tenant={TENANT}");
    let replay = async |change: Value| {
        let mut spec = json!({"version": "latest", "connection": "through"});
        for (name, value) in change.as_object().unwrap() {
            spec[name] = value.clone();
        }
        world.api.post(&path, &spec).await
    };

    let same = replay(json!({"version": "live"})).await;
    assert_eq!((&same["totals"]["events"], &same["totals"]["same"]), (&json!(5), &json!(5)), "{same:#}");
    assert_eq!((&same["changed"], &same["next"]), (&json!([]), &Value::Null), "{same:#}");

    let newer = world.push(giving(r#"{"text": "new", "n": 1}"#)).await;
    let first = replay(json!({"limit": 3})).await;
    assert_eq!((&first["against"], &first["version"]), (&json!(live), &json!(newer)), "{first:#}");
    assert_eq!((&first["totals"]["different"], &first["next"]), (&json!(3), &json!(events[2])), "{first:#}");
    let rest = replay(json!({"cursor": first["next"]})).await;
    assert_eq!((&rest["totals"]["different"], &rest["next"]), (&json!(2), &Value::Null), "{rest:#}");
    let shown: Vec<&Value> = [&first, &rest].iter().flat_map(|page| page["changed"].as_array().unwrap()).collect();
    assert_eq!(
        shown.iter().map(|one| &one["event"]).collect::<Vec<_>>(),
        events.iter().map(|id| json!(id)).collect::<Vec<_>>().iter().collect::<Vec<_>>()
    );
    let expected = json!([{"output": 0, "part": "json", "at": "/text", "op": "replace", "from": "old", "to": "new"}]);
    assert!(shown.iter().all(|one| one["differences"] == expected), "{shown:#?}");
    assert_eq!(replay(json!({"limit": 3})).await, first, "the same again");

    let dropping = world.push(filter("", "(i32.const 8)")).await;
    let dropped = replay(json!({"version": dropping, "against": newer})).await;
    assert_eq!((&dropped["changed"][0]["before"]["outputs"], &dropped["changed"][0]["after"]["outputs"]), (&json!(1), &json!(0)));
    let trapping = world.push(filter("", "unreachable")).await;
    let failed = replay(json!({"version": trapping})).await;
    assert_eq!(
        (&failed["totals"]["failed"], &failed["changed"][0]["after"]["failure"]),
        (&json!(5), &json!("aborted")),
        "{failed:#}"
    );
    let none = replay(json!({"until": "2020-01-01T00:00:00Z"})).await;
    assert_eq!(none["totals"]["events"], 0, "{none:#}");

    assert_eq!(world.receiver.count(), 5, "nothing more is delivered");
    for (spec, field) in [
        (json!({"version": "none", "connection": "through"}), "version"),
        (json!({"version": "live", "connection": "through", "against": "none"}), "against"),
        (json!({"version": "live", "connection": "through", "since": "yesterday"}), "since"),
        (json!({"version": "live", "connection": "through", "limit": 0}), "limit"),
        (json!({"version": "live", "connection": "through", "cursor": "x"}), "cursor"),
    ] {
        let reply = world.api.send("POST", &path, "application/json", spec.to_string()).await;
        assert_eq!((reply.status, &reply.json()["errors"][0]["field"]), (422, &json!(field)), "{spec}");
    }
}
