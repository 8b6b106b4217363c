//! What GitHub sends, signed by GitHub's own library, through a filter and plugins, to receivers that verify with the official
//! libraries.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tidegate_test_support::github::{self, Payload};
use tidegate_test_support::http::{Received, send};
use tidegate_test_support::standard_webhooks::{verify_node, verify_python, verify_rust};

use crate::api::text;
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World, prebuilt};

const GITHUB_SECRET: &str = "It's a Secret to Everybody";
const CHAT_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const ACTIONS_SECRET: &str = "whsec_dGlkZWdhdGUgZGV2ZWxvcG1lbnQgc2VjcmV0";
/// Actions that the second connection's plugin lets through.
const ACTIONS: [&str; 2] = ["opened", "created"];

#[tokio::test]
async fn github_webhooks_go_the_whole_way_on_the_embedded_store() {
    whole_way(EMBEDDED).await;
}

#[tokio::test]
async fn github_webhooks_go_the_whole_way_on_redis() {
    whole_way(REDIS).await;
}

/// A payload that was accepted.
struct Sent {
    payload: Payload,
    event: String,
    trace_id: String,
}

async fn whole_way(engine: Engine) {
    let world = World::start(engine).await;
    set_up(&world).await;
    let source = world.api.id("sources", "github").await;
    let mut sent = Vec::new();
    for (number, payload) in (1u128..).zip(github::ALL) {
        sent.push(post(&world, &source, payload, number).await);
    }
    let expected: BTreeSet<(String, String)> = sent.iter().flat_map(expectations).collect();
    let received = world.receiver.wait_for(expected.len(), SOON).await;

    // Once everything is settled nothing more is on its way.
    let mut events = BTreeMap::new();
    for one in &sent {
        events.insert(one.event.clone(), world.api.settled(&one.event, SOON).await);
    }
    assert_eq!(world.receiver.count(), expected.len(), "each delivered exactly once");
    let mut delivered = BTreeSet::new();
    for request in &received {
        let (event, target) = check_request(request, &sent, &events);
        assert!(delivered.insert((event, target)), "{} came twice", request.target);
    }
    assert_eq!(delivered, expected);
    for one in &sent {
        check_history(one, &events[&one.event]);
    }
    let listed: BTreeSet<String> = world.api.all("/v1/events").await.iter().map(|event| text(&event["id"])).collect();
    assert_eq!(listed, sent.iter().map(|one| one.event.clone()).collect());
}

async fn set_up(world: &World) {
    let chat = world.api.keep(prebuilt("github-push-to-chat")).await;
    let fields = world.api.keep(prebuilt("json-field-filter")).await;
    let destination = |name: &str, secret: &str| json!({"name": name, "url": world.receiver.url(&format!("/{name}")), "signing": {"secrets": [secret]}});
    world
        .api
        .apply(json!({
            "plugins": [
                {"name": "github-push-to-chat", "component": chat},
                {"name": "json-field-filter", "component": fields},
            ],
            "sources": [{
                "name": "github",
                "auth": {"type": "preset", "name": "github", "secrets": [GITHUB_SECRET]},
                "dedup": {"header": "x-github-delivery"},
                "trust_trace": true,
            }],
            "destinations": [destination("chat", CHAT_SECRET), destination("actions", ACTIONS_SECRET)],
            "connections": [{
                "name": "pushes",
                "source": "github",
                "destination": "chat",
                "filter": {"headers": {"x-github-event": "push"}, "body": {"repository": {"full_name": {"$exist": true}}}},
                "plugins": [{"plugin": "github-push-to-chat", "config": {"channel": "#deploys", "format": "markdown"}}],
            }, {
                "name": "actions",
                "source": "github",
                "destination": "actions",
                "plugins": [{
                    "plugin": "json-field-filter",
                    "config": {"rules": [{"pointer": "/action", "values": ACTIONS}]},
                }],
            }],
        }))
        .await;
}

/// Sends a payload twice, as GitHub does when it redelivers, and forged.
async fn post(world: &World, source: &str, payload: Payload, number: u128) -> Sent {
    let url = world.gateway.ingest(&format!("/in/{source}"));
    let trace_id = format!("{number:032x}");
    let traceparent = format!("00-{trace_id}-00000000000000aa-01");
    let mut headers = payload.headers(GITHUB_SECRET, &format!("72d3162e-cc78-11e3-81ab-{number:012x}"));
    headers.push(("traceparent", traceparent));
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();

    let forged = send("POST", &url, &headers, payload.body[1..].to_vec()).await;
    assert_eq!((forged.status, forged.json()["code"].as_str()), (401, Some("wrong_signature")), "{:?}", forged.body);
    let first = send("POST", &url, &headers, payload.bytes()).await;
    assert_eq!(first.status, 202, "{}: {:?}", payload.name, first.body);
    let again = send("POST", &url, &headers, payload.bytes()).await;
    assert_eq!(again.status, 202);
    assert_eq!(again.json(), json!({"id": first.json()["id"], "duplicate": true}));
    Sent { payload, event: text(&first.json()["id"]), trace_id }
}

/// What of a payload must be delivered: event and path.
fn expectations(sent: &Sent) -> Vec<(String, String)> {
    let body = body_of(sent.payload);
    let branch = body["ref"].as_str().is_some_and(|name| name.starts_with("refs/heads/"));
    let mut targets = Vec::new();
    if sent.payload.event == "push" && branch {
        targets.push("/chat");
    }
    if body["action"].as_str().is_some_and(|action| ACTIONS.contains(&action)) {
        targets.push("/actions");
    }
    targets.into_iter().map(|target| (sent.event.clone(), target.to_owned())).collect()
}

/// Checks a delivery, and tells which it was.
fn check_request(request: &Received, sent: &[Sent], events: &BTreeMap<String, Value>) -> (String, String) {
    let id = request.webhook_id().expect("deliveries are named");
    let of = |event: &Value| event["deliveries"].as_array().is_some_and(|rows| rows.iter().any(|row| row["id"] == id));
    let (event, _) = events.iter().find(|(_, event)| of(event)).unwrap_or_else(|| panic!("the API does not know {id}"));
    let sent = sent.iter().find(|one| one.event == *event).expect("only these were accepted");

    let secret = if request.target == "/chat" { CHAT_SECRET } else { ACTIONS_SECRET };
    for verify in [verify_rust, verify_python, verify_node] {
        assert_eq!(verify(secret, &request.headers, &request.body), Ok(()));
    }
    let traceparent = request.header("traceparent").expect("the trace goes on");
    assert_eq!(traceparent.split('-').nth(1), Some(sent.trace_id.as_str()));
    assert_ne!(traceparent.split('-').nth(2), Some("00000000000000aa"), "each attempt is a span of its own");

    assert_eq!(request.method, "POST");
    assert_eq!(request.header("content-type"), Some("application/json"));
    if request.target == "/chat" {
        let body = body_of(sent.payload);
        let (message, repository) = (request.json(), body["repository"]["full_name"].as_str().expect("a name"));
        assert_eq!(message["channel"], "#deploys");
        let said = message["text"].as_str().expect("a text");
        assert!(said.contains(repository) && said.contains(body["pusher"]["name"].as_str().expect("a name")), "{said}");
        assert_eq!(message.as_object().map(serde_json::Map::len), Some(2), "reshaped: {message}");
    } else {
        assert_eq!(request.body, sent.payload.bytes(), "byte for byte");
        assert_eq!(request.header("x-github-event"), Some(sent.payload.event));
        assert_eq!(request.header("x-hub-signature-256"), None, "the sender's signature is not the gateway's to pass on");
    }
    (event.clone(), request.target.clone())
}

/// The API tells the same story.
fn check_history(sent: &Sent, event: &Value) {
    let expected: BTreeSet<String> = expectations(sent).into_iter().map(|(_, target)| target).collect();
    let state = if expected.is_empty() { "filtered" } else { "delivered" };
    assert_eq!(event["state"], state, "{event:#}");
    assert_eq!(event["request"]["body"].as_str().map(str::as_bytes), Some(sent.payload.body), "kept byte for byte");
    let headers = event["request"]["headers"].as_array().expect("headers");
    assert!(headers.iter().any(|header| header["name"] == "x-hub-signature-256"), "kept, to be looked at: {event:#}");
    let rows = event["deliveries"].as_array().expect("deliveries");
    assert_eq!(rows.len(), 2, "one outcome for each connection: {event:#}");
    let delivered = rows.iter().filter(|row| row["state"] == "delivered");
    for row in delivered.clone() {
        let attempts = row["attempts"].as_array().expect("attempts");
        assert_eq!(attempts.len(), 1);
        assert_eq!((&attempts[0]["status"], &attempts[0]["failure"]), (&json!(200), &Value::Null));
        let run = &row["plugin_runs"][0];
        assert!(run["fuel"].as_u64() > Some(0) && run["memory"].as_u64() > Some(0) && run["outputs"] == 1, "{run:#}");
    }
    assert_eq!(delivered.count(), expected.len());
    for row in rows.iter().filter(|row| row["state"] != "delivered") {
        assert_eq!(row["state"], "filtered", "{row:#}");
        assert!(
            ["filter", "github-push-to-chat", "json-field-filter"].contains(&row["reason"].as_str().expect("what filtered it"))
        );
        assert_eq!(row["attempts"], json!([]));
    }
}

fn body_of(payload: Payload) -> Value {
    serde_json::from_slice(payload.body).expect("JSON")
}
