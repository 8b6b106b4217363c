//! A bucket.

use tidegate_test_support::brokers::s3::{BUCKET, S3};

use super::*;
use tidegate_test_support::github::PUSH;

/// Whoever reads the bucket could take a signature in it for the gateway's word, or try to use it again.
#[tokio::test]
async fn what_signed_an_event_does_not_become_metadata() {
    const SECRET: &str = "It's a Secret to Everybody";
    let server = S3::start().await;
    let kind = Kind::start(json!({"kind": "s3", "url": server.url(), "s3": {"bucket": BUCKET}, "auth": server.auth()})).await;
    let auth = json!({"type": "preset", "name": "github", "secrets": [SECRET]});
    kind.patch_source(json!({ "auth": auth })).await;
    let url = kind.url().await;
    let headers = PUSH.headers(SECRET, "d-1");
    let mut headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    headers.extend([("tidegate-event", "mine"), ("tidegate-left-out", "7"), ("x-amz-acl", "public-read")]);
    let reply = send("POST", &url, &headers, PUSH.bytes()).await;
    let event = text(&reply.json()["id"]);
    kind.delivered(&event).await;
    let [(_, object)] = &server.objects().await[..] else { panic!("one object") };
    assert_eq!(object.body, PUSH.body);
    let names: Vec<_> = object.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert!(!names.iter().any(|name| name.contains("signature")), "{names:?}");
    assert_eq!(object.header("x-amz-meta-x-github-event"), Some("push"));
    assert_eq!((object.header("x-amz-meta-tidegate-event"), object.header("x-amz-meta-tidegate-left-out")), (Some(&*event), None));
    assert_eq!((object.header("x-amz-acl"), object.header("x-amz-meta-x-amz-acl")), (None, Some("public-read")));
}

#[tokio::test]
async fn a_delivery_is_an_object_of_a_bucket() {
    let server = S3::start().await;
    let s3 = json!({"bucket": BUCKET, "key": "in/{date}/{event} {id}.json"});
    let headers = json!([{"name": "x-amz-storage-class", "value": "STANDARD_IA"}]);
    let destination = json!({"kind": "s3", "url": server.url(), "s3": s3, "auth": server.auth(), "headers": headers});
    let kind = Kind::start(destination).await;
    let event = kind.post(BODY).await;
    let delivery = kind.delivered(&event).await;
    assert_eq!(delivery["attempts"][0]["status"], 200);
    let accepted = text(&kind.world.api.event(&event).await["accepted_at"]);
    let id = text(&delivery["id"]);
    let [(key, object)] = &server.objects().await[..] else { panic!("one object") };
    assert_eq!(*key, format!("in/{}/{event} {id}.json", accepted[..10].replace('-', "/")));
    assert_eq!((&*object.body, object.header("content-type")), (BODY.as_bytes(), Some("application/json")));
    assert_eq!(object.header("x-amz-meta-webhook-id"), Some(&*id));
    assert_eq!(object.header("x-amz-meta-tidegate-event"), Some(&*event));
    assert_eq!(object.header("x-amz-meta-x-kind"), Some("first"));
    assert_eq!(object.header("x-amz-storage-class"), Some("STANDARD_IA"));

    let mut wrong = server.auth();
    wrong["secret_access_key"] = "correct-horse-battery-staple".into();
    kind.patch(json!({"auth": wrong})).await;
    let event = kind.post("who are you").await;
    let attempt = kind.failed(&event, "status").await;
    assert_eq!(attempt["status"], 403);
    assert!(attempt["response"].as_str().unwrap().contains("SignatureDoesNotMatch"), "{attempt}");
    kind.patch(json!({"auth": server.auth(), "s3": {"bucket": "no-such-bucket"}})).await;
    kind.failed(&event, "status").await;
    kind.patch(json!({"s3": {"bucket": BUCKET}})).await;
    let delivery = kind.delivered(&event).await;
    let statuses: BTreeSet<_> = delivery["attempts"].as_array().unwrap().iter().map(|one| one["status"].to_string()).collect();
    assert!(statuses.contains("200") && statuses.contains("403"), "{statuses:?}");
    assert_eq!(server.objects().await.len(), 2);
}
