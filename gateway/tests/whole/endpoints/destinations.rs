//! Destinations whose plugins sign and judge.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_test_support::eventually;
use tidegate_test_support::http::Answer;

use super::{KEY, naming, own_scheme, signature, tenant};
use crate::api::text;
use crate::visitors::{DELIVERED, ZEROS, judge, sign};
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};

/// Tried again at once.
fn soon(attempts: u32) -> Value {
    json!({"max_attempts": attempts, "base": "1ms", "max_delay": "1ms"})
}

async fn posted(world: &World, body: &str) -> String {
    let reply = world.arrive("", &[], body).await;
    assert_eq!(reply.status, 202, "{:?}", reply.body);
    text(&reply.json()["id"])
}

fn parts(delivery: &Value) -> Vec<Value> {
    delivery["plugin_runs"].as_array().unwrap().iter().map(|run| run["attempt"].clone()).collect()
}

#[tokio::test]
async fn each_attempt_is_signed_afresh_and_judged_by_its_answer_on_the_embedded_store() {
    judged(EMBEDDED).await;
}

#[tokio::test]
async fn each_attempt_is_signed_afresh_and_judged_by_its_answer_on_redis() {
    judged(REDIS).await;
}

async fn judged(engine: Engine) {
    const WAIT: Duration = Duration::from_millis(1200);
    let (world, plugins) = World::with_plugins(engine, &[own_scheme()], "").await;
    let destination = json!({"sign": naming("own-scheme"), "judge": naming("own-scheme"), "retry": soon(5)});
    world.connect(&plugins, json!({}), destination).await;
    let busy = Answer::status(200).body(format!(r#"{{"result": "busy", "wait_ms": {}}}"#, WAIT.as_millis()));
    world.receiver.answer_in_turn([busy], Answer::status(200).body(r#"{"result": "refused", "why": "no such order"}"#));

    let event = world.api.settled(&posted(&world, "{}").await, SOON).await;
    assert_eq!(event["state"], "dead_lettered", "{event:#}");
    let delivery = &event["deliveries"][0];
    let code = |number: usize| delivery["attempts"][number]["failure"]["code"].clone();
    assert_eq!((code(0), code(1)), (json!("judged_retry"), json!("judged_dead_letter")), "{event:#}");
    assert!(text(&delivery["failure"]["detail"]).contains("no such order"), "{event:#}");
    let part = |number: u32, role: &str| json!({"number": number, "role": role, "plugin": "own-scheme"});
    let mut expected = vec![part(1, "sign"), part(1, "judge"), part(2, "sign"), part(2, "judge")];
    (expected[1]["verdict"], expected[3]["verdict"]) = (json!("retry"), json!("dead_letter"));
    assert_eq!(parts(delivery), expected, "{event:#}");

    let sent = world.receiver.requests();
    let [first, second] = &sent[..] else { panic!("{} requests", sent.len()) };
    assert_eq!(first.webhook_id(), second.webhook_id());
    // The gateway's times are whole milliseconds.
    let between = second.at.duration_since(first.at).unwrap() + Duration::from_millis(2);
    assert!(between >= WAIT, "not before the time that it was told: {between:?}");
    let mut times = Vec::new();
    for request in [first, second] {
        let signed = request.header("x-acme-signature").expect("it is signed");
        let seconds: u64 = signed.split([',', '=']).nth(1).and_then(|text| text.parse().ok()).expect("a time");
        assert_eq!(signed, signature(seconds, b"{}"));
        times.push(seconds);
    }
    assert!(times[0] < times[1], "made afresh: {times:?}");
    assert!(!event.to_string().contains(KEY));
    for role in ["sign", "judge"] {
        assert_eq!(world.metric("tidegate_plugin_runs", &[("outcome", "ok"), ("track", role)]).await, Some(2));
    }
}

#[tokio::test]
async fn a_judge_may_be_content_with_what_the_gateway_would_not_be() {
    let (world, plugins) = World::with_plugins(EMBEDDED, &[("lenient", judge(DELIVERED))], "").await;
    world.connect(&plugins, json!({}), json!({"judge": naming("lenient")})).await;
    world.receiver.answer(Answer::status(500));
    let event = world.api.settled(&posted(&world, "{}").await, SOON).await;
    let attempt = &event["deliveries"][0]["attempts"][0];
    assert_eq!((&event["state"], &attempt["status"], &attempt["failure"]), (&json!("delivered"), &json!(500), &Value::Null));
    assert_eq!(world.receiver.count(), 1);
}

#[tokio::test]
async fn a_judge_that_fails_leaves_it_to_the_gateway_and_the_record_says_so() {
    let judges = [("traps", judge("(unreachable)")), ("abstains", judge(ZEROS))];
    let (world, plugins) = World::with_plugins(EMBEDDED, &judges, "").await;
    for (name, verdict) in [("traps", None), ("abstains", Some("default"))] {
        world.connect(&plugins, json!({}), json!({"judge": naming(name), "retry": soon(5)})).await;
        world.receiver.answer_in_turn([Answer::status(500)], Answer::status(200));
        let event = world.api.settled(&posted(&world, "{}").await, SOON).await;
        assert_eq!(event["state"], "delivered", "{event:#}");
        let delivery = &event["deliveries"][0];
        assert_eq!(delivery["attempts"][0]["failure"]["code"], "status", "{event:#}");
        assert_eq!(delivery["attempts"][1]["failure"], Value::Null, "{event:#}");
        for (number, run) in (1..).zip(delivery["plugin_runs"].as_array().unwrap()) {
            assert_eq!((&run["attempt"]["number"], run["attempt"]["verdict"].as_str()), (&json!(number), verdict), "{event:#}");
            assert_eq!(run["failure"]["code"].as_str(), verdict.is_none().then_some("aborted"), "{event:#}");
        }
    }
}

#[tokio::test]
async fn an_attempt_that_can_not_be_signed_is_not_made_and_tried_again() {
    let (world, plugins) = World::with_plugins(EMBEDDED, &[("traps", sign("(unreachable)"))], "").await;
    world.connect(&plugins, json!({}), json!({"sign": naming("traps"), "retry": soon(2)})).await;
    let event = world.api.settled(&posted(&world, "{}").await, SOON).await;
    assert_eq!(event["state"], "dead_lettered", "{event:#}");
    let delivery = &event["deliveries"][0];
    let attempts = delivery["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2, "{event:#}");
    for attempt in attempts {
        let failure = &attempt["failure"];
        assert_eq!((&failure["party"], &failure["code"]), (&json!("plugin"), &json!("aborted")), "{event:#}");
        assert!(text(&failure["detail"]).contains("plugin `traps` did not sign"), "{event:#}");
    }
    assert_eq!((&delivery["failure"]["code"], parts(delivery).len()), (&json!("attempts_exhausted"), 2), "{event:#}");
    assert_eq!(world.receiver.count(), 0, "nothing was sent");
}

#[tokio::test]
async fn without_fuel_a_delivery_that_is_to_be_signed_waits_and_spends_no_attempt() {
    let (world, plugins) = World::with_plugins(EMBEDDED, &[("signs", sign(ZEROS))], "").await;
    let connect = async |fuel: u64| {
        world.api.post("/v1/apply", &json!({"tenants": [{"name": "acme", "plan": {"plugin_fuel": fuel}}]})).await;
        world.connect(&plugins, json!({}), json!({"sign": naming("signs")})).await;
    };
    connect(1).await;
    // What is tried is paid for as well, and leaves none for deliveries.
    let filter = world.api.keep(crate::guest::filter("", "(i32.const 8)")).await;
    world.api.apply(json!({"plugins": [{"name": "drops", "component": filter}]})).await;
    world.api.post(&tenant("/v1/plugins/drops/versions/latest/try"), &json!({"request": {}})).await;
    let event = posted(&world, "{}").await;
    let waiting = eventually("it waits for fuel", SOON, async || {
        let delivery = world.api.event(&event).await["deliveries"][0].clone();
        (delivery["reason"] == "plugin_fuel").then_some(delivery)
    })
    .await;
    assert_eq!((&waiting["state"], &waiting["attempts"]), (&json!("parked"), &json!([])), "{waiting:#}");
    assert_eq!(world.receiver.count(), 0);
    connect(1_000_000_000).await;
    let event = world.api.settled(&event, SOON).await;
    assert_eq!((&event["state"], &event["deliveries"][0]["attempts"][0]["number"]), (&json!("delivered"), &json!(1)), "{event:#}");
    connect(0).await;
    let event = world.api.settled(&posted(&world, "{}").await, SOON).await;
    assert_eq!(event["deliveries"][0]["failure"]["code"], "plugins_forbidden", "{event:#}");
}
