//! The admin API as a client uses it.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_test_support::eventually;
use tidegate_test_support::gateway::Gateway;
use tidegate_test_support::http::{self, Reply};

use crate::world::OPERATOR;

/// The tenant of every test that needs only one.
pub(crate) const TENANT: &str = "acme";

/// How long a job over many things may take on a busy machine.
const JOB: Duration = Duration::from_secs(90);

/// A client with a key.
#[derive(Clone)]
pub(crate) struct Api {
    base: String,
    key: String,
}

impl Api {
    /// With the operator's key.
    pub(crate) fn of(gateway: &Gateway) -> Self {
        Self { base: gateway.admin(""), key: OPERATOR.to_owned() }
    }

    /// With another key.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { base: self.base.clone(), key: key.to_owned() }
    }

    pub(crate) async fn send(&self, method: &str, path: &str, kind: &str, body: impl Into<Bytes>) -> Reply {
        let bearer = format!("Bearer {}", self.key);
        http::send(method, &format!("{}{path}", self.base), &[("authorization", &bearer), ("content-type", kind)], body).await
    }

    pub(crate) async fn try_get(&self, path: &str) -> Reply {
        self.send("GET", path, "application/json", "").await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        ok(self.try_get(path).await)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        ok(self.send("POST", path, "application/json", body.to_string()).await)
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Value {
        ok(self.send("PATCH", path, "application/json", body.to_string()).await)
    }

    /// Brings the tenant to this state.
    pub(crate) async fn apply(&self, mut tenant: Value) {
        tenant["name"] = TENANT.into();
        self.post("/v1/apply", &json!({ "tenants": [tenant] })).await;
    }

    /// Keeps a component, so that an apply can name it; gives its hash.
    pub(crate) async fn keep(&self, component: impl Into<Bytes>) -> String {
        let kept = ok(self.send("POST", "/v1/components", "application/wasm", component).await);
        text(&kept["hash"])
    }

    /// The id of a thing of the tenant: `api.id("sources", "github")`.
    pub(crate) async fn id(&self, kind: &str, name: &str) -> String {
        text(&self.get(&format!("/v1/{kind}/{name}?tenant={TENANT}")).await["id"])
    }

    /// One event with all that became of it.
    pub(crate) async fn event(&self, id: &str) -> Value {
        self.get(&format!("/v1/events/{id}?tenant={TENANT}")).await
    }

    /// Waits until nothing more is to happen to an event.
    pub(crate) async fn settled(&self, id: &str, within: Duration) -> Value {
        eventually(&format!("{id} is settled"), within, async || {
            let event = self.event(id).await;
            (!matches!(event["state"].as_str(), Some("queued" | "active"))).then_some(event)
        })
        .await
    }

    /// Begins a job of the tenant's: `/v1/replay-jobs`, or those over dead letters. Its id.
    pub(crate) async fn begin_job(&self, jobs: &str, spec: Value) -> String {
        let reply = self.send("POST", &format!("{jobs}?tenant={TENANT}"), "application/json", spec.to_string()).await;
        assert_eq!(reply.status, 202, "{:?}", reply.body);
        text(&reply.json()["id"])
    }

    /// Waits until a job is over, and gives what it shows then.
    pub(crate) async fn job_over(&self, jobs: &str, id: &str) -> Value {
        eventually(&format!("{id} is over"), JOB, async || {
            let job = self.get(&format!("{jobs}/{id}?tenant={TENANT}")).await;
            (job["state"] != "running").then_some(job)
        })
        .await
    }

    /// All items of a listing.
    pub(crate) async fn all(&self, path: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("{path}?tenant={TENANT}&limit=200{cursor}")).await;
            items.extend(page["items"].as_array().expect("a page has items").iter().cloned());
            let Some(next) = page["next"].as_str() else { return items };
            cursor = format!("&cursor={next}");
        }
    }
}

fn ok(reply: Reply) -> Value {
    assert!(matches!(reply.status, 200 | 201), "{} {:?}", reply.status, reply.body);
    reply.json()
}

/// A field that is text.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is text")).to_owned()
}
