//! A tenant with a plugin and few events, and how long these take.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_test_support::http::{Reply, send};
use tidegate_test_support::monotonic;
use tokio::sync::Mutex;

use crate::api::{TENANT, text};
use crate::world::{EMBEDDED, SOON, World, prebuilt};

/// The tenant that attacks.
pub(crate) const MALLORY: &str = "mallory";

/// One attack at a time: what is measured beside one is not another's doing.
pub(crate) static ALONE: Mutex<()> = Mutex::const_new(());

/// What a busy machine may add to anything.
const SLACK: Duration = Duration::from_millis(100);

/// A gateway with a quiet tenant, whose events go through a plugin to the receiver's `/quiet`, and another one.
pub(crate) struct Quiet {
    pub(crate) world: World,
    source: String,
}

impl Quiet {
    pub(crate) async fn start() -> Self {
        let world = World::start(EMBEDDED).await;
        let fields = world.api.keep(prebuilt("json-field-filter")).await;
        let stage = json!({"plugin": "fields", "config": {"rules": [{"pointer": "/n"}]}});
        world
            .api
            .apply(json!({
                "plugins": [{"name": "fields", "component": fields}],
                "sources": [{"name": "open"}],
                "destinations": [{"name": "receiver", "url": world.receiver.url("/quiet")}],
                "connections": [{"name": "open", "source": "open", "destination": "receiver", "plugins": [stage]}],
            }))
            .await;
        let source = world.api.id("sources", "open").await;
        let quiet = Self { world, source };
        quiet.mallory(json!({})).await;
        quiet
    }

    /// Brings the attacker's tenant to this state.
    pub(crate) async fn mallory(&self, mut state: Value) {
        state["name"] = MALLORY.into();
        self.world.api.post("/v1/apply", &json!({ "tenants": [state] })).await;
    }

    /// Posts an event; gives its id.
    pub(crate) async fn accepted(&self) -> String {
        let reply = send("POST", &self.world.gateway.ingest(&format!("/in/{}", self.source)), &[], r#"{"n": 1}"#).await;
        assert_eq!(reply.status, 202, "{:?}", reply.body);
        text(&reply.json()["id"])
    }

    /// Uploads a component as a tenant.
    pub(crate) async fn upload(&self, tenant: &str, plugin: &str, component: impl Into<Bytes>) -> Reply {
        let path = format!("/v1/plugins/{plugin}/versions?tenant={tenant}");
        self.world.api.send("POST", &path, "application/wasm", component).await
    }

    /// What has reached the receiver of the quiet tenant.
    pub(crate) fn delivered(&self) -> usize {
        self.world.receiver.requests().iter().filter(|request| request.target == "/quiet").count()
    }

    /// Sends one event after another while `more` says so, and at least 30; gives how long each took from before its request to its arrival at
    /// the receiver.
    pub(crate) async fn latencies(&self, more: impl Fn() -> bool) -> Vec<Duration> {
        let mut took = Vec::new();
        while took.len() < 30 || more() {
            let (before, started) = (self.delivered(), monotonic());
            self.accepted().await;
            let arrived = |requests: &[_]| requests.iter().filter(|request| is_quiet(request)).count() > before;
            self.world.receiver.wait_until(SOON, arrived).await;
            took.push(started.elapsed());
        }
        took
    }

    pub(crate) async fn still_uploads(&self) {
        let reply = self.upload(TENANT, "chat", prebuilt("github-push-to-chat")).await;
        assert!(matches!(reply.status, 200 | 201), "{:?}", reply.body);
    }
}

fn is_quiet(request: &tidegate_test_support::http::Received) -> bool {
    request.target == "/quiet"
}

/// Half of the events were no slower than this.
pub(crate) fn median(took: &[Duration]) -> Duration {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// At most twice as slow as without the attack.
pub(crate) fn assert_unhurt(what: &str, idle: &[Duration], during: &[Duration]) {
    let (before, meanwhile) = (median(idle), median(during));
    println!("{what}: median latency of {} quiet events {meanwhile:.1?}, {before:.1?} without", during.len());
    assert!(meanwhile <= before * 2 + SLACK, "{what}: median {meanwhile:?}, {before:?} without");
}
