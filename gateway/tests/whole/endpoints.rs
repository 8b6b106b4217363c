//! Sources and destinations that name plugins: the example with a scheme of its own, built from source, and guests that fail.

mod destinations;
mod sources;

use ring::hmac;
use serde_json::{Value, json};
use tidegate_test_support::http::{Reply, send};

use crate::api::TENANT;
use crate::build::Guest;
use crate::world::{Engine, World};

/// What the service and the tenant share.
const KEY: &str = "hunter2-key-of-acme";
/// A busy machine must not stop a plugin: it is fuel that is limited here.
const PATIENT: &str = "plugins.max_time = \"60s\"\nplugins.gate_time = \"60s\"\nplugins.gate_wait = \"60s\"\n";

/// How a source or a destination names a plugin at its alias `live`.
fn naming(plugin: &str) -> Value {
    json!({"plugin": plugin, "version": "live", "secrets": {"acme": KEY}, "sign_only": ["acme"]})
}

/// The same as a source's `auth`.
fn auth(plugin: &str) -> Value {
    let mut auth = naming(plugin);
    auth["type"] = "plugin".into();
    auth
}

/// The scheme's signature, made here.
fn signature(seconds: u64, body: &[u8]) -> String {
    let signed = [seconds.to_string().as_bytes(), b".", body].concat();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes()), &signed);
    format!("t={seconds},v1={}", hex::encode(tag.as_ref()))
}

/// What the scheme says now.
fn now() -> u64 {
    tidegate::clock::Clock::system().now().as_secs()
}

impl World {
    /// With the plugins at their alias `live`.
    async fn with_plugins(engine: Engine, plugins: &[(&str, bytes::Bytes)], toml: &str) -> (Self, Vec<Value>) {
        let world = Self::with(engine, |launch| launch, &format!("{PATIENT}{toml}")).await;
        let mut declared = Vec::new();
        for (name, component) in plugins {
            let component = world.api.keep(component.clone()).await;
            declared.push(json!({"name": name, "component": component, "aliases": ["live"]}));
        }
        (world, declared)
    }

    /// One source, `in`, and one destination, `out`, with these fields beside their names.
    async fn connect(&self, plugins: &[Value], mut source: Value, mut destination: Value) {
        source["name"] = "in".into();
        destination["name"] = "out".into();
        destination["url"] = self.receiver.url("/hook").into();
        self.api
            .apply(json!({
                "plugins": plugins,
                "sources": [source],
                "destinations": [destination],
                "connections": [{"name": "through", "source": "in", "destination": "out"}],
            }))
            .await;
    }

    async fn arrive(&self, below: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let source = self.api.id("sources", "in").await;
        send("POST", &self.gateway.ingest(&format!("/in/{source}{below}")), headers, body.to_owned()).await
    }

    /// The value of the first metric with this name and these labels.
    async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        let metrics = send("GET", &self.gateway.admin("/metrics"), &[], "").await;
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        let is_meant = |line: &&str| {
            line.starts_with(name) && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
        };
        metrics.lines().find(is_meant)?.rsplit(' ').next()?.parse().ok()
    }
}

/// A refusal with 503, and after how many seconds to come again.
fn come_again(reply: &Reply, code: &str) -> u64 {
    assert_eq!((reply.status, &reply.json()["code"]), (503, &json!(code)), "{:?}", reply.body);
    reply.header("retry-after").and_then(|after| after.parse().ok()).expect("it says when to come again")
}

fn own_scheme() -> (&'static str, bytes::Bytes) {
    ("own-scheme", Guest::of_example("rust").component())
}

fn tenant(path: &str) -> String {
    format!("{path}?tenant={TENANT}")
}
