//! The handshake of "HTTP 1.1 Web Hooks for Event Delivery" (CloudEvents), on both sides.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Received, send};

use crate::api::text;
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};

const ORIGIN: &str = "hooks.example.com";
const DESTINATION: &str = "/v1/destinations/out?tenant=acme";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_is_asked_before_it_is_sent_to_on_the_embedded_store() {
    asked(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_is_asked_before_it_is_sent_to_on_redis() {
    asked(REDIS).await;
}

/// Only what is no delivery.
fn questions(requests: &[Received]) -> Vec<Received> {
    requests.iter().filter(|request| request.method == "OPTIONS").cloned().collect()
}

async fn asked(engine: Engine) {
    let mut world = World::start(engine).await;
    world.receiver.answer_with(|request| if request.method == "OPTIONS" { Answer::status(405) } else { Answer::status(204) });
    let state = |path: &str| {
        json!({
            "sources": [{"name": "in"}],
            "destinations": [{
                "name": "out", "url": world.receiver.url(path), "auth": {"type": "bearer", "token": "t0ken"},
                "handshake": {"origin": ORIGIN, "rate": 600},
            }],
            "connections": [{"name": "all", "source": "in", "destination": "out"}],
        })
    };
    world.api.apply(state("/hook?of=acme")).await;
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "in").await));
    let post = async || text(&send("POST", &url, &[("content-type", "application/json")], "{}").await.json()["id"]);
    let handshake = async |agreed: bool| {
        eventually("the answer is noted", SOON, async || {
            let status = world.api.get(DESTINATION).await["status"]["handshake"].clone();
            (status["agreed"] == agreed).then_some(status)
        })
        .await
    };

    // No consent is in a status.
    let event = post().await;
    let refused = handshake(false).await;
    assert!(refused["detail"].as_str().unwrap().contains("WebHook-Allowed-Origin"), "{refused}");
    let waiting = eventually("it waits for the handshake", SOON, async || {
        let event = world.api.event(&event).await;
        let waiting = event["deliveries"][0]["waiting"].clone();
        waiting["for"].is_string().then_some(waiting)
    })
    .await;
    assert_eq!(waiting["for"], "destination_handshake", "{waiting}");
    let first = questions(&world.receiver.requests())[0].clone();
    assert_eq!((first.target.as_str(), first.header("webhook-request-origin")), ("/hook?of=acme", Some(ORIGIN)));
    assert_eq!((first.header("webhook-request-rate"), first.header("authorization")), (Some("600"), None));
    assert!(first.body.is_empty() && first.webhook_id().is_none());

    // Enabling asks again at once. One request a second is allowed.
    let agree = |request: &Received| match request.method.as_str() {
        "OPTIONS" => Answer::status(200).header("webhook-allowed-origin", ORIGIN).header("webhook-allowed-rate", "60"),
        _ => Answer::status(204),
    };
    world.receiver.answer_with(agree);
    world.api.post("/v1/destinations/out/enable?tenant=acme", &json!({})).await;
    let agreed = handshake(true).await;
    assert_eq!((&agreed["rate"], &agreed["detail"]), (&json!(60), &Value::Null));
    let mut events = vec![event];
    for _ in 0..2 {
        events.push(post().await);
    }
    for event in &events {
        assert_eq!(world.api.settled(event, SOON).await["state"], "delivered");
    }
    let requests = world.receiver.requests();
    let deliveries: Vec<_> = requests.iter().filter(|request| request.method == "POST").collect();
    assert_eq!(deliveries.len(), 3);
    assert!(deliveries.iter().all(|request| request.header("webhook-request-origin") == Some(ORIGIN)));
    assert!(deliveries.iter().all(|request| request.header("authorization") == Some("Bearer t0ken")));
    let took = deliveries[2].at.duration_since(deliveries[0].at).unwrap();
    assert!(took >= Duration::from_millis(1800), "one a second: {took:?}");

    // What was agreed to stays agreed to, and is for that URL alone.
    let count = questions(&requests).len();
    world.gateway.kill();
    world.gateway.restart().await;
    let event = post().await;
    assert_eq!(world.api.settled(&event, SOON).await["state"], "delivered");
    assert_eq!(questions(&world.receiver.requests()).len(), count, "nobody is asked again");
    world.api.apply(state("/other")).await;
    let event = post().await;
    assert_eq!(world.api.settled(&event, SOON).await["state"], "delivered");
    let questions = questions(&world.receiver.requests());
    assert_eq!((questions.len(), questions[count].target.as_str()), (count + 1, "/other"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_says_who_may_send_and_a_gateway_may_send_to_a_gateway() {
    let world = World::start(EMBEDDED).await;
    let source = json!({"name": "asked", "methods": ["POST"], "handshake": {"origins": [ORIGIN, "*.not"], "rate": 1200}});
    let reply = world.api.send("POST", "/v1/tenants", "application/json", json!({"name": "acme"}).to_string()).await;
    assert_eq!(reply.status, 201);
    let reply = world.api.send("POST", "/v1/sources?tenant=acme", "application/json", source.to_string()).await;
    assert_eq!((reply.status, &reply.json()["errors"][0]["field"]), (422, &json!("handshake.origins[1]")));
    world
        .api
        .apply(json!({
            "sources": [
                {"name": "asked", "methods": ["POST"], "handshake": {"origins": [ORIGIN], "rate": 1200}},
                {"name": "open", "handshake": {"origins": ["*"]}},
                {"name": "plain"},
            ],
        }))
        .await;
    let mut urls = Vec::new();
    for name in ["asked", "open", "plain"] {
        urls.push(world.gateway.ingest(&format!("/in/{}", world.api.id("sources", name).await)));
    }
    let ask = async |url: &str, origin: &str| send("OPTIONS", url, &[("webhook-request-origin", origin)], "").await;
    let reply = ask(&urls[0], "Hooks.Example.com").await;
    let allowed = ["webhook-allowed-origin", "webhook-allowed-rate", "allow"].map(|name| reply.header(name));
    assert_eq!((reply.status, allowed), (200, [Some("Hooks.Example.com"), Some("1200"), Some("POST")]));
    let reply = ask(&urls[0], "evil.example.com").await;
    assert_eq!((reply.status, &reply.json()["code"]), (403, &json!("origin_not_allowed")));
    assert_eq!(reply.header("webhook-allowed-origin"), None);
    let reply = ask(&urls[1], "any.example.com").await;
    assert_eq!(
        (reply.header("webhook-allowed-origin"), reply.header("webhook-allowed-rate")),
        (Some("any.example.com"), Some("*"))
    );
    assert!(world.api.all("/v1/events").await.is_empty(), "a question is no event");
    assert_eq!(ask(&urls[2], ORIGIN).await.status, 202, "who does not answer keeps it as any other");

    world
        .api
        .apply(json!({
            "sources": [{"name": "in"}],
            "destinations": [
                {"name": "self", "url": urls[0], "handshake": {"origin": ORIGIN}},
                {"name": "out", "url": world.receiver.url("/")},
            ],
            "connections": [
                {"name": "first", "source": "in", "destination": "self"}, {"name": "second", "source": "asked", "destination": "out"},
            ],
        }))
        .await;
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "in").await));
    assert_eq!(send("POST", &url, &[], "through").await.status, 202);
    let arrived = world.receiver.wait_for(1, SOON).await;
    assert_eq!(&arrived[0].body[..], b"through");
}
