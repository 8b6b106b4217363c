//! Secrets are in no answer, log line, `Debug` form or stored record.

use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use crate::world::{OPERATOR, SECRETS, World, destination, id, source};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

const RETIRING: &str = "whsec_cmV0aXJpbmctcmV0aXJpbmctcmV0aXJpbmctcmV0aXI=";

fn scan(what: &str, text: &str, more: &[&str]) {
    for secret in SECRETS.iter().chain(more) {
        assert!(!text.contains(secret), "{what} shows {secret}: {text}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn secrets_show_up_nowhere() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    // With a single subscriber alive, a place that logs is off for good if another test's thread, which has none, comes there first.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let basic = json!({"name": "basic", "auth": {"type": "basic", "users": [{"username": "u", "password": SECRETS[1]}]}});
    let key = json!({"name": "key", "auth": {"type": "api_key", "header": "x-key", "keys": [SECRETS[0]]}});
    let hmac = json!({"name": "hmac", "auth": {"type": "hmac", "secrets": [SECRETS[0]], "scheme": {
        "header": "x-signature", "content": "{body}", "encoding": "hex"
    }}});
    let mut answers = Vec::new();
    for body in [&basic, &key, &hmac] {
        answers.push(world.ok("POST", "/v1/sources?tenant=acme", Some(body)).await.to_string());
    }
    for (name, auth) in [
        ("basic", json!({"type": "basic", "username": "u", "password": SECRETS[1]})),
        ("key", json!({"type": "api_key", "header": "x-key", "value": SECRETS[2]})),
        (
            "oauth2",
            json!({"type": "oauth2", "token_url": "https://login.example.com/token", "client_id": "c", "client_secret": SECRETS[1]}),
        ),
        (
            "aws",
            json!({"type": "aws_sigv4", "access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": SECRETS[0],
                "session_token": SECRETS[2], "region": "eu-central-1", "service": "lambda"}),
        ),
    ] {
        let body = json!({"name": name, "url": "https://example.com/", "auth": auth});
        answers.push(world.ok("POST", "/v1/destinations?tenant=acme", Some(&body)).await.to_string());
    }
    let retiring = json!([{"secret": RETIRING, "until": "2100-01-01T00:00:00Z"}]);
    let signed = json!({"name": "signed", "url": "https://example.com/",
        "signing": {"secrets": [SECRETS[3]], "retiring": retiring, "hmac": {"secret": SECRETS[0]}},
        "proxy": {"url": "http://proxy.example.com:3128", "username": "u", "password": SECRETS[1]}});
    answers.push(world.ok("POST", "/v1/destinations?tenant=acme", Some(&signed)).await.to_string());
    // A secret where another type is expected is not repeated in the error either.
    let wrong = json!({"name": "wrong", "auth": {"type": "preset", "name": "github", "secrets": SECRETS[0]}});
    answers.push(world.refused(400, "POST", "/v1/sources?tenant=acme", Some(&wrong)).await.to_string());
    let wrong = json!({"name": "wrong", "url": "https://example.com/", "signing": {"secrets": SECRETS[3]}});
    answers.push(world.refused(400, "POST", "/v1/destinations?tenant=acme", Some(&wrong)).await.to_string());
    let patch = json!({"auth": {"type": "bearer", "token": [SECRETS[2]]}});
    answers.push(world.refused(422, "PATCH", "/v1/destinations/out?tenant=acme", Some(&patch)).await.to_string());
    let spec = json!({"tenants": [{"name": "acme", "sources": [source("in")], "destinations": [destination("out")]}]});
    answers.push(world.ok("POST", "/v1/apply", Some(&spec)).await.to_string());
    for path in ["sources", "destinations", "connections", "plugins", "keys", "events", "dead-letters"] {
        answers.push(world.ok("GET", &format!("/v1/{path}?tenant=acme"), None).await.to_string());
    }
    let keys = [acme.key.as_str(), OPERATOR, RETIRING];
    for answer in &answers {
        scan("an answer", answer, &keys);
    }
    let (_, records) = world.store.config().await.unwrap();
    for (key, record) in &records {
        scan(key, &String::from_utf8_lossy(record), &keys);
    }
    scan("the state", &format!("{:?}", world.control.state()), &keys);
    scan("the snapshot", &format!("{:?}", world.control.snapshots().current()), &keys);
    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    scan("the log", &log, &keys);
    assert!(log.contains("configuration changed"), "the log was taken: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_shown_can_be_sent_back_and_secrets_stay() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let shown = world.ok_as(&acme.key, "GET", "/v1/destinations/out", None).await;
    assert_eq!(shown["auth"]["token"], json!({"sealed": true}));
    let before = world.control.snapshots().current();
    let header = |snapshot: &tidegate::control::snapshot::Snapshot| {
        let destination = &snapshot.destinations[&acme.destination.parse().unwrap()];
        (destination.headers[0].1.clone(), destination.in_flight)
    };
    let patch = json!({"in_flight": 3, "auth": shown["auth"]});
    let patched = world.ok_as(&acme.key, "PATCH", "/v1/destinations/out", Some(&patch)).await;
    assert_eq!(id(&patched), acme.destination);
    let after = world.control.snapshots().current();
    assert_eq!(header(&before).0, header(&after).0, "the token stayed");
    assert_eq!(header(&after), ("Bearer hunter2-bearer-token".parse().unwrap(), 3));
    assert!(header(&after).0.is_sensitive());
    // A sealed text is of its place alone: taken from the store and sent by hand, it opens nothing elsewhere.
    let (_, records) = world.store.config().await.unwrap();
    let record = records.iter().find(|(key, _)| key.ends_with(&acme.destination)).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record.1).unwrap();
    let stolen = json!({"auth": {"type": "api_key", "header": "x", "value": record["spec"]["auth"]["token"], "token": null}});
    let refused = world.send(&acme.key, "PATCH", "/v1/destinations/out", Some(&stolen)).await;
    assert_eq!(refused.status, 422, "{:?}", refused.body);
}
