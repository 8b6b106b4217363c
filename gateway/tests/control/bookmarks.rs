//! Bookmarks by the API: kept, shown, bounded, and another tenant's are not there.

use serde_json::{Value, json};
use tidegate::event::EventId;

use crate::contract::happen;
use crate::world::{OPERATOR, World, problem};

const ALL: &str = "/v1/bookmarks";

fn of(name: &str, event: &str) -> Value {
    json!({ "name": name, "event": event, "note": "for tests" })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bookmark_is_kept_shown_and_deleted_and_only_ones_own() {
    let world = World::start().await;
    let (acme, other) = (world.tenant("acme").await, world.tenant("other").await);
    let seen = happen(&world, &acme).await;
    let made = world.ok_as(&acme.key, "POST", ALL, Some(&of("push", &seen.event))).await;
    let expected = json!([made["name"], made["event"], made["note"], made["source"]]);
    assert_eq!(expected, json!(["push", seen.event, "for tests", acme.source]), "{made}");
    assert!(made["bytes"].as_u64().is_some_and(|bytes| bytes > 16) && made["by"].is_string() && made["created_at"].is_string());
    assert_eq!(world.ok_as(&acme.key, "GET", ALL, None).await, json!({ "items": [made], "next": null }));
    let shown = world.ok_as(&acme.key, "GET", "/v1/bookmarks/push", None).await;
    let event = world.ok_as(&acme.key, "GET", &format!("/v1/events/{}", seen.event), None).await;
    assert_eq!(shown["request"], event["request"]);
    assert_eq!(event["test"], false);

    assert_eq!(world.ok_as(&other.key, "GET", ALL, None).await["items"], json!([]));
    for (method, path, body) in [
        ("GET", "/v1/bookmarks/push", None),
        ("DELETE", "/v1/bookmarks/push", None),
        ("POST", "/v1/bookmarks/push/send", Some(json!({}))),
        ("POST", ALL, Some(of("theirs", &seen.event))),
    ] {
        problem(&world.send(&other.key, method, path, body.as_ref()).await, 404);
    }
    assert_eq!(world.send(&acme.key, "DELETE", "/v1/bookmarks/push", None).await.status, 204);
    problem(&world.send(&acme.key, "GET", "/v1/bookmarks/push", None).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_says_why_and_what_helps() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let seen = happen(&world, &acme).await;
    for name in ["", "..", "a b", "a/b", &"x".repeat(65)] {
        let refused = problem(&world.send(&acme.key, "POST", ALL, Some(&of(name, &seen.event))).await, 422);
        assert_eq!(refused["errors"][0]["field"], "name", "{refused}");
    }
    let long = json!({"name": "a", "event": seen.event, "note": "x".repeat(1025)});
    assert_eq!(problem(&world.send(&acme.key, "POST", ALL, Some(&long)).await, 422)["errors"][0]["field"], "note");
    problem(&world.send(&acme.key, "POST", ALL, Some(&of("a", &EventId(7).to_string()))).await, 404);

    let made = world.ok_as(&acme.key, "POST", ALL, Some(&of("a", &seen.event))).await;
    let taken = problem(&world.send(&acme.key, "POST", ALL, Some(&of("a", &seen.queued))).await, 409);
    assert_eq!((&taken["code"], &taken["errors"][0]["field"]), (&json!("name_taken"), &json!("name")));
    let bytes = made["bytes"].as_u64().unwrap();
    for (plan, code, advice) in [
        (json!({"bookmarks": 1}), "too_many_bookmarks", "plan.bookmarks"),
        (json!({"bookmarks": null, "bookmark_bytes": 2 * bytes - 1}), "bookmarks_full", "plan.bookmark_bytes"),
    ] {
        world.ok("PATCH", "/v1/tenants/acme", Some(&json!({ "plan": plan }))).await;
        let refused = problem(&world.send(&acme.key, "POST", ALL, Some(&of("b", &seen.queued))).await, 422);
        assert_eq!(refused["code"], code);
        assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains(advice)), "{refused}");
    }
    world.ok("PATCH", "/v1/tenants/acme", Some(&json!({"plan": {"bookmark_bytes": null}}))).await;
    world.ok_as(&acme.key, "POST", ALL, Some(&of("b", &seen.queued))).await;
}

/// With an idempotency key the repeat is answered as the first, whenever it comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_makes_one_bookmark() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let seen = happen(&world, &acme).await;
    let bearer = format!("Bearer {OPERATOR}");
    let post = async |body: Value| {
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json"), ("idempotency-key", "once")];
        world.raw("POST", &format!("{ALL}?tenant=acme"), &headers, body.to_string()).await
    };
    let first = post(of("a", &seen.event)).await;
    assert_eq!(first.status, 201, "{:?}", first.body);
    let again = post(of("a", &seen.event)).await;
    assert_eq!((again.status, again.json()), (201, first.json()));
    problem(&post(of("b", &seen.event)).await, 422);
    assert_eq!(world.ok_as(&acme.key, "GET", ALL, None).await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_says_why_and_what_helps() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let seen = happen(&world, &acme).await;
    world.ok_as(&acme.key, "POST", ALL, Some(&of("a", &seen.event))).await;
    let send = async |body: Value| world.send(&acme.key, "POST", "/v1/bookmarks/a/send", Some(&body)).await;
    let unknown = problem(&send(json!({"connection": "none"})).await, 422);
    assert_eq!(unknown["errors"][0]["field"], "connection");
    let sent = send(json!({})).await;
    assert_eq!(sent.status, 202, "{:?}", sent.body);
    let event = world.ok_as(&acme.key, "GET", &format!("/v1/events/{}", sent.json()["id"].as_str().unwrap()), None).await;
    assert_eq!((&event["test"], &event["source"], &event["state"]), (&json!(true), &json!(acme.source), &json!("queued")));

    world.ok("PATCH", "/v1/tenants/acme", Some(&json!({"plan": {"queued_bytes": 1}}))).await;
    let full = problem(&send(json!({})).await, 422);
    assert!(full["code"] == "queue_full" && full["detail"].as_str().unwrap().contains("plan.queued_bytes"), "{full}");
    world.ok("PATCH", "/v1/tenants/acme", Some(&json!({"plan": {"queued_bytes": "1GiB"}}))).await;
    let disable = async |path: String| world.ok_as(&acme.key, "PATCH", &path, Some(&json!({"enabled": false}))).await;
    disable(format!("/v1/connections/{}", acme.connection)).await;
    let off = problem(&send(json!({"connection": "through"})).await, 422);
    assert!(off["errors"][0]["message"].as_str().unwrap().contains("disabled"), "{off}");
    disable(format!("/v1/sources/{}", acme.source)).await;
    problem(&send(json!({})).await, 409);
    world.ok_as(&acme.key, "DELETE", &format!("/v1/connections/{}", acme.connection), None).await;
    world.ok_as(&acme.key, "DELETE", &format!("/v1/sources/{}", acme.source), None).await;
    let gone = problem(&send(json!({})).await, 409);
    assert!(gone["detail"].as_str().unwrap().contains("name a connection"), "{gone}");
}
