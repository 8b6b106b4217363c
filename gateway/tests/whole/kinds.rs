//! Destinations of other kinds than HTTP, against the real servers: what arrives there, and what becomes of deliveries while a server is away,
//! hangs, or takes nothing.

mod brokers;
mod buckets;
mod refusals;
mod secure;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_test_support::brokers::{PASSWORD, Stored, USER};
use tidegate_test_support::eventually;
use tidegate_test_support::http::send;

use crate::api::{TENANT, text};
use crate::world::{EMBEDDED, SOON, World};

const BODY: &str = "{\"who\":\"J\u{f6}rg\"}";

/// A gateway with one source, `in`, and one destination, `out`, with these fields.
struct Kind {
    world: World,
}

impl Kind {
    async fn start(destination: Value) -> Self {
        Self::with(destination, "").await
    }

    async fn with(destination: Value, toml: &str) -> Self {
        Self::of(World::with(EMBEDDED, |launch| launch, toml).await, destination).await
    }

    async fn of(world: World, mut destination: Value) -> Self {
        let defaults = json!({
            "name": "out", "timeout": "5s", "circuit_breaker": {"enabled": false},
            "retry": {"base": "200ms", "max_delay": "1s", "jitter": "none", "max_attempts": 50},
        });
        for (field, value) in defaults.as_object().unwrap() {
            if destination.get(field).is_none() {
                destination[field] = value.clone();
            }
        }
        world
            .api
            .apply(json!({
                "sources": [{"name": "in", "max_body": 4_000_000}],
                "destinations": [destination],
                "connections": [{"name": "through", "source": "in", "destination": "out"}],
            }))
            .await;
        Self { world }
    }

    /// Where events come in.
    async fn url(&self) -> String {
        self.world.gateway.ingest(&format!("/in/{}", self.world.api.id("sources", "in").await))
    }

    /// Sends an event; its id.
    async fn post(&self, body: impl Into<bytes::Bytes>) -> String {
        let url = self.url().await;
        // Headers by which a sender could try to steer the brokers are among them.
        let headers = [
            ("content-type", "application/json"),
            ("x-kind", "first"),
            ("x-kind", "second"),
            ("nats-rollup", "all"),
            ("nats-msg-id", "mine"),
            ("cc", "elsewhere"),
            ("tidegate-event", "mine"),
        ];
        let reply = send("POST", &url, &headers, body).await;
        assert_eq!(reply.status, 202, "{:?}", reply.body);
        text(&reply.json()["id"])
    }

    /// The only delivery of an event that is delivered.
    async fn delivered(&self, event: &str) -> Value {
        let event = self.world.api.settled(event, SOON).await;
        assert_eq!(event["state"], "delivered", "{event:#}");
        event["deliveries"][0].clone()
    }

    /// The first failure of an event's attempts that has this code.
    async fn failed(&self, event: &str, code: &str) -> Value {
        let is_meant = |attempt: &&Value| attempt["failure"]["code"] == code;
        eventually(&format!("an attempt fails with {code}"), SOON, async || {
            let shown = self.world.api.event(event).await;
            shown["deliveries"][0]["attempts"].as_array()?.iter().find(is_meant).cloned()
        })
        .await
    }

    async fn patch_source(&self, change: Value) {
        self.world.api.patch(&format!("/v1/sources/in?tenant={TENANT}"), &change).await;
    }

    async fn patch(&self, change: Value) {
        self.world.api.patch(&format!("/v1/destinations/out?tenant={TENANT}"), &change).await;
    }
}

fn user() -> Value {
    json!({"type": "basic", "username": USER, "password": PASSWORD})
}

/// How a test looks at a broker.
trait Server {
    async fn stored(&self) -> Vec<Stored>;
    fn kill(&mut self);
    async fn restart(&mut self);
    fn pause(&self);
    fn resume(&self);
    /// What names a message.
    fn id(stored: &Stored) -> &str;
}

/// Events that come while the server is killed are there after its return, each of them.
async fn nothing_is_lost_while_it_is_down<S: Server>(kind: &Kind, server: &mut S) {
    let mut events = vec![kind.post("before").await];
    kind.delivered(&events[0]).await;
    server.kill();
    for number in 0..20 {
        events.push(kind.post(format!("{number}")).await);
    }
    kind.failed(&events[1], "connect_refused").await;
    server.restart().await;
    let mut ids = BTreeSet::new();
    for event in &events {
        ids.insert(text(&kind.delivered(event).await["id"]));
    }
    let stored = server.stored().await;
    let found: BTreeSet<String> = stored.iter().map(|stored| S::id(stored).to_owned()).collect();
    assert!(ids.is_subset(&found), "{ids:?} and {found:?}");
}

/// A server that accepts connections and says nothing holds an attempt up to its deadline; then the delivery is tried again.
async fn an_attempt_ends_while_it_hangs<S: Server>(kind: &Kind, server: &S) {
    kind.patch(json!({"timeout": "1s"})).await;
    let first = kind.post("with a connection").await;
    kind.delivered(&first).await;
    server.pause();
    let event = kind.post("into the void").await;
    let attempt = kind.failed(&event, "response_timeout").await;
    let took = Duration::from_micros(attempt["took_us"].as_u64().unwrap());
    assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&took), "{took:?}");
    server.resume();
    kind.delivered(&event).await;
}

/// Wrong credentials are a named failure that says none of them; right ones mend it.
async fn credentials_are_told_apart(kind: &Kind) {
    const WRONG: &str = "correct-horse-battery-staple";
    kind.patch(json!({"auth": {"type": "basic", "username": USER, "password": WRONG}})).await;
    let event = kind.post("who are you").await;
    kind.failed(&event, "login_refused").await;
    let shown = kind.world.api.event(&event).await.to_string();
    let log = kind.world.gateway.log();
    for secret in [WRONG, PASSWORD] {
        assert!(!shown.contains(secret), "{shown}");
        assert!(!log.contains(secret), "the log tells a password");
    }
    kind.patch(json!({"auth": user()})).await;
    kind.delivered(&event).await;
}
