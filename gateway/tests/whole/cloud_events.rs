//! CloudEvents in and out, judged by the official SDKs.

use serde_json::{Value, json};
use tidegate_test_support::cloud_events::Sdk;
use tidegate_test_support::http::{Received, send};

use crate::world::{EMBEDDED, SOON, World, prebuilt};

async fn world() -> World {
    let world = World::start(EMBEDDED).await;
    let component = world.api.keep(prebuilt("cloudevents")).await;
    let wrap = |mode: &str| {
        json!({
            "mode": mode, "source": {"pointer": "/repository/url"}, "type": {"header": "x-github-event", "prefix": "com.github."},
            "id": {"header": "x-github-delivery"}, "subject": {"pointer": "/title"}, "extensions": {"team": "core"},
        })
    };
    let ways = [
        ("structured", "in", wrap("structured")),
        ("binary", "in", wrap("binary")),
        ("plain", "envelopes", json!({"mode": "unwrap"})),
        ("headers", "envelopes", json!({"mode": "unwrap", "attributes": "headers"})),
    ];
    let destination = |name: &str| json!({"name": name, "url": world.receiver.url(&format!("/{name}"))});
    let connection = |name: &str, source: &str, config: &Value| {
        let stage = json!({"plugin": "cloudevents", "version": "live", "config": config});
        json!({"name": name, "source": source, "destination": name, "plugins": [stage]})
    };
    world
        .api
        .apply(json!({
            "plugins": [{"name": "cloudevents", "component": component, "aliases": ["live"]}],
            "sources": [{"name": "in"}, {"name": "envelopes", "format": "cloudevents"}],
            "destinations": ways.iter().map(|(name, ..)| destination(name)).collect::<Vec<_>>(),
            "connections": ways.iter().map(|(name, source, config)| connection(name, source, config)).collect::<Vec<_>>(),
        }))
        .await;
    world
}

async fn url(world: &World, source: &str) -> String {
    world.gateway.ingest(&format!("/in/{}", world.api.id("sources", source).await))
}

fn to<'a>(requests: &'a [Received], path: &str) -> &'a Received {
    requests.iter().find(|request| request.target == path).unwrap_or_else(|| panic!("nothing for {path}"))
}

#[tokio::test]
async fn what_goes_out_in_either_mode_is_read_by_the_official_libraries() {
    let world = world().await;
    let title = "Größe \"XL\" 100% € and more";
    let body = json!({"repository": {"url": "https://github.com/o/r"}, "title": title});
    let headers = [("content-type", "application/json"), ("x-github-event", "push"), ("x-github-delivery", "d-1")];
    assert_eq!(send("POST", &url(&world, "in").await, &headers, body.to_string()).await.status, 202);
    let requests = world.receiver.wait_for(2, SOON).await;
    let (structured, binary) = (to(&requests, "/structured"), to(&requests, "/binary"));
    assert_eq!(structured.header("content-type"), Some("application/cloudevents+json; charset=utf-8"));
    assert_eq!(binary.header("content-type"), Some("application/json"));
    for sdk in Sdk::ALL {
        for request in [structured, binary] {
            let event = sdk.read(&request.headers, &request.body);
            for (name, value) in [
                ("specversion", "1.0"),
                ("id", "d-1"),
                ("source", "https://github.com/o/r"),
                ("type", "com.github.push"),
                ("datacontenttype", "application/json"),
                ("team", "core"),
            ] {
                assert_eq!(event[name], value, "{sdk:?}: {event}");
            }
            assert!(event["time"].as_str().is_some_and(|time| humantime::parse_rfc3339(time).is_ok()), "{sdk:?}: {event}");
            assert_eq!(event["data"], body, "{sdk:?}");
            // The JavaScript library leaves what stands in a header as it is.
            if sdk == Sdk::Python || request.target == "/structured" {
                assert_eq!(event["subject"], title, "{sdk:?}: {event}");
            }
        }
    }
}

#[tokio::test]
async fn what_the_official_libraries_send_is_taken_and_unwrapped() {
    let world = world().await;
    let url = url(&world, "envelopes").await;
    let mut count = 0;
    for (sdk, mode) in Sdk::ALL.into_iter().flat_map(|sdk| ["binary", "structured"].map(|mode| (sdk, mode))) {
        let event = json!({
            "specversion": "1.0", "id": format!("{sdk:?}-{mode}"), "source": "/orders", "type": "com.example.made", "subject": "7",
            "time": "2026-01-31T10:00:00.123Z", "datacontenttype": "application/json", "data": {"order": 7},
        });
        let (headers, body) = sdk.make(mode, &event);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let reply = send("POST", &url, &headers, body).await;
        assert_eq!(reply.status, 202, "{sdk:?} {mode}: {:?}", reply.body);
        count += 2;
        let requests = world.receiver.wait_for(count, SOON).await;
        let (plain, again) = (to(&requests[count - 2..], "/plain"), to(&requests[count - 2..], "/headers"));
        assert_eq!(plain.json(), json!({"order": 7}), "{sdk:?} {mode}");
        assert_eq!((plain.header("content-type"), plain.header("ce-id")), (Some("application/json"), None));
        for reader in Sdk::ALL {
            let read = reader.read(&again.headers, &again.body);
            for name in ["id", "source", "type", "subject", "datacontenttype", "data"] {
                assert_eq!(read[name], event[name], "{name} of {sdk:?} {mode}, read by {reader:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_no_cloudevent_is_refused_where_the_source_says_so() {
    let world = world().await;
    let url = url(&world, "envelopes").await;
    for (headers, body, field, part) in [
        (vec![("content-type", "application/cloudevents+json")], "{\"specversion\": \"1.0\"}", "body", "no `id`"),
        (vec![("content-type", "application/cloudevents+json")], "no", "body", "expected"),
        (vec![("content-type", "application/json")], "{}", "headers", "ce-specversion"),
        (vec![("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s")], "", "headers", "no `type`"),
    ] {
        let reply = send("POST", &url, &headers, body).await;
        let problem = reply.json();
        let named = (reply.status, &problem["code"], &problem["field"]);
        assert_eq!(named, (400, &json!("not_a_cloudevent"), &json!(field)), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{problem}");
    }
    assert!(world.api.all("/v1/events").await.is_empty());
}
