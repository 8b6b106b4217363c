//! A node's control with its admin API, and short forms of what the tests ask of it.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::clock::Clock;
use tidegate::config::Admin;
use tidegate::control::Preparer;
use tidegate::control::api::{self, Options as ApiOptions};
use tidegate::control::inspect::{InspectError, Inspection, Inspector};
use tidegate::control::seal::{Sealer, generate_key};
use tidegate::control::service::{Control, Options};
use tidegate::control::snapshot::StageKind;
use tidegate::egress::policy::AddressPolicy;
use tidegate::event::{Header, PluginRun, Request};
use tidegate::plugin::{Call, Limits, Report};
use tidegate::secret::Secret;
use tidegate::store::Store;
use tidegate::store::embedded::{self, Embedded};
use tidegate_test_support::http::{self, Reply};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const OPERATOR: &str = "tgk_operator";

/// Takes whatever begins with `filter` or `transform`: what real components are judged by is tested with the runtime.
pub(crate) struct ByPrefix;

#[async_trait]
impl Inspector for ByPrefix {
    async fn inspect(&self, component: Bytes) -> Result<Inspection, InspectError> {
        let kind = match &component[..] {
            bytes if bytes.starts_with(b"filter") => StageKind::Filter,
            bytes if bytes.starts_with(b"transform") => StageKind::Transform,
            _ => return Err(InspectError::Unusable { code: "missing_export".into(), reason: "it exports nothing".into() }),
        };
        let compiled = component.len() as u64;
        Ok(Inspection { kind, exports: vec![format!("tidegate:plugin/{kind}@1.0.0")], compiled })
    }

    /// Filters keep everything; transforms give what they got, with their version's hash in a header.
    async fn ask(&self, kind: StageKind, call: Call) -> Report<Option<Vec<Request>>> {
        let mut request = Request::clone(&call.request);
        request.headers.push(Header { name: "x-version".into(), value: call.version.to_string().into() });
        let (answer, outputs) = match kind {
            StageKind::Filter => (None, 1),
            StageKind::Transform => (Some(vec![request]), 1),
        };
        let run = PluginRun { version: call.version, fuel: 1, memory: 2, took_us: 3, outcome: Ok(outputs), logs: Vec::new() };
        Report::answered(answer, run)
    }
}

/// A node.
pub(crate) struct World {
    pub(crate) control: Arc<Control>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) base: String,
    key: Secret,
    _stop: DropGuard,
    _directory: Option<TempDir>,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::at(Clock::system()).await
    }

    pub(crate) async fn at(clock: Clock) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path().join("store")).await;
        let key = generate_key().unwrap();
        let options = Options { clock, ..options(&store, &key, Arc::new(ByPrefix)) };
        Self { _directory: Some(directory), ..Self::with(options, key).await }
    }

    /// Another node on the same store.
    pub(crate) async fn beside(&self) -> Self {
        Self::on(Arc::clone(&self.store), self.key.clone(), Arc::new(ByPrefix)).await
    }

    pub(crate) async fn on(store: Arc<dyn Store>, key: Secret, inspector: Arc<dyn Inspector>) -> Self {
        Self::with(options(&store, &key, inspector), key).await
    }

    pub(crate) async fn with(options: Options, key: Secret) -> Self {
        let store = Arc::clone(&options.store);
        let control = Control::load(options).await.unwrap();
        let admin = Admin { max_body: 64 << 10, max_component: 256 << 10, ..Admin::default() };
        let router = api::router(ApiOptions {
            control: Arc::clone(&control),
            operator: Secret::new(OPERATOR),
            admin,
            metrics: Arc::new(|| ("text/plain", "tidegate_up 1\n".to_owned())),
            readiness: Arc::new(Vec::new),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(api::serve(listener, router, 64, stop.clone()));
        Self { control, store, base, key, _stop: stop.drop_guard(), _directory: None }
    }

    pub(crate) async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        http::send(method, &format!("{}{path}", self.base), headers, body).await
    }

    pub(crate) async fn send(&self, key: &str, method: &str, path: &str, body: Option<&Value>) -> Reply {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        self.raw(method, path, &headers[..if body.is_some() { 2 } else { 1 }], body.map(Value::to_string).unwrap_or_default()).await
    }

    /// As the operator; it must succeed.
    pub(crate) async fn ok(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        self.ok_as(OPERATOR, method, path, body).await
    }

    pub(crate) async fn ok_as(&self, key: &str, method: &str, path: &str, body: Option<&Value>) -> Value {
        let reply = self.send(key, method, path, body).await;
        assert!((200..300).contains(&reply.status), "{method} {path}: {} {:?}", reply.status, reply.body);
        if reply.body.is_empty() { Value::Null } else { reply.json() }
    }

    /// As the operator; it must be refused with this status, as problem details.
    pub(crate) async fn refused(&self, status: u16, method: &str, path: &str, body: Option<&Value>) -> Value {
        problem(&self.send(OPERATOR, method, path, body).await, status)
    }

    pub(crate) async fn upload(&self, key: &str, path: &str, component: &[u8]) -> Reply {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/wasm")];
        self.raw("POST", path, &headers, component.to_vec()).await
    }

    /// A tenant with one of everything.
    pub(crate) async fn tenant(&self, name: &str) -> Tenant {
        let tenant = id(&self.ok("POST", "/v1/tenants", Some(&json!({"name": name}))).await);
        let minted = self.ok("POST", "/v1/keys", Some(&json!({"name": "main", "tenant": tenant}))).await;
        let key = minted["key"].as_str().unwrap().to_owned();
        let key_id = id(&minted["info"]);
        let source = id(&self.ok_as(&key, "POST", "/v1/sources", Some(&source("in"))).await);
        let destination = id(&self.ok_as(&key, "POST", "/v1/destinations", Some(&destination("out"))).await);
        let uploaded = self.upload(&key, "/v1/plugins/shape/versions", format!("transform {name}").as_bytes()).await;
        assert_eq!(uploaded.status, 201, "{:?}", uploaded.body);
        let version = uploaded.json()["hash"].as_str().unwrap().to_owned();
        let plugin = id(&self.ok_as(&key, "GET", "/v1/plugins/shape", None).await);
        let connection = json!({
            "name": "through", "source": "in", "destination": "out",
            "filter": {"body": {"kind": {"$eq": "push"}}},
            "plugins": [{"plugin": "shape", "secrets": {"token": SECRETS[4]}, "config": {"channel": "x"}}]
        });
        let connection = id(&self.ok_as(&key, "POST", "/v1/connections", Some(&connection)).await);
        Tenant { id: tenant, key, key_id, source, destination, connection, plugin, version }
    }
}

pub(crate) async fn open(path: PathBuf) -> Arc<dyn Store> {
    let mut options = embedded::Options::new(path);
    options.durability = embedded::Durability::Everysec;
    tokio::task::spawn_blocking(move || Arc::new(Embedded::open(options).unwrap())).await.unwrap()
}

pub(crate) fn options(store: &Arc<dyn Store>, key: &Secret, inspector: Arc<dyn Inspector>) -> Options {
    let preparer = Preparer {
        sealer: Sealer::new(key, &[]).unwrap(),
        max_body: 1 << 20,
        ceilings: Limits::default(),
        gate: Limits::default(),
        policy: AddressPolicy::default(),
    };
    Options { store: Arc::clone(store), preparer, inspector, clock: Clock::system(), shards: 4 }
}

/// What a tenant has.
pub(crate) struct Tenant {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) key_id: String,
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) connection: String,
    pub(crate) plugin: String,
    pub(crate) version: String,
}

/// Every secret that the tests ever send, but for keys.
pub(crate) const SECRETS: [&str; 5] = [
    "hunter2-source-secret",
    "hunter2-basic-password",
    "hunter2-bearer-token",
    "whsec_aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMi0=",
    "hunter2-plugin-secret",
];

pub(crate) fn source(name: &str) -> Value {
    json!({"name": name, "auth": {"type": "preset", "name": "github", "secrets": [SECRETS[0]]}})
}

pub(crate) fn destination(name: &str) -> Value {
    json!({
        "name": name, "url": "https://example.com/hook",
        "auth": {"type": "bearer", "token": SECRETS[2]}, "signing": {"secrets": [SECRETS[3]]}
    })
}

pub(crate) fn id(value: &Value) -> String {
    value["id"].as_str().unwrap_or_else(|| panic!("no id in {value}")).to_owned()
}

/// The problem details of a refusal with this status.
pub(crate) fn problem(reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{:?}", reply.body);
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{:?}", reply.body);
    let problem = reply.json();
    assert_eq!(problem["status"], status);
    for field in ["type", "title", "code", "detail"] {
        assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {problem}");
    }
    problem
}
