//! A dispatcher over a real store, a real configuration and real HTTP, without the ingest wing: events are put into the store.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::clock::Clock;
use tidegate::control::apply::{ApplySpec, Mode};
use tidegate::control::model::Who;
use tidegate::control::service::{Access, Control, Options};
use tidegate::control::snapshot::{Diverted, Traffic};
use tidegate::control::{Preparer, seal};
use tidegate::dispatch::{DispatchConfig, DispatchParts, Dispatcher, Notice, Returned};
use tidegate::egress::policy::AddressPolicy;
use tidegate::egress::{Egress, EgressConfig};
use tidegate::event::{Event, EventId, Lane, Request, Shard, SourceId, TenantId, VersionHash};
use tidegate::ingest::verify::Verifier;
use tidegate::plugin::poison::Poisoned;
use tidegate::plugin::{Components, Limits, PluginConfig, Runtime};
use tidegate::store::embedded::{Embedded, Options as StoreOptions};
use tidegate::store::{Acceptance, DeliveryState, EventSummary, Home, Retention, Store};
use tidegate::telemetry::Telemetry;
use tidegate::telemetry::otel::Otel;
use tidegate_test_support::eventually;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const LEASE: Duration = Duration::from_millis(600);
pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
pub(crate) const SHARD: Shard = Shard(0);

pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) control: Arc<Control>,
    plugins: Runtime,
    /// Who was said to have returned, and in which shard.
    pub(crate) came_back: Arc<Mutex<Vec<(Diverted, Shard)>>>,
    /// Breaks the work of the shard that next says so, once.
    pub(crate) breaks: Arc<AtomicBool>,
    returned: Returned,
    pub(crate) clock: Clock,
    shards: u16,
    _directory: TempDir,
}

struct Shelf(Arc<dyn Store>);

#[async_trait::async_trait]
impl Components for Shelf {
    async fn fetch(&self, version: VersionHash) -> Result<Option<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.component(version).await?)
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::at(Clock::system()).await
    }

    /// With so many shards instead of one.
    pub(crate) async fn with_shards(shards: u16) -> Self {
        Self::start(Clock::system(), shards).await
    }

    /// By this clock, but for the store's leases.
    pub(crate) async fn at(clock: Clock) -> Self {
        Self::start(clock, 1).await
    }

    async fn start(clock: Clock, shards: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(StoreOptions::new(directory.path().join("data"))).unwrap());
        Self::with(store, directory, clock, shards).await
    }

    /// Over another store than the embedded one.
    pub(crate) async fn over(store: Arc<dyn Store>) -> Self {
        Self::with(store, tempfile::tempdir().unwrap(), Clock::system(), 1).await
    }

    async fn with(store: Arc<dyn Store>, directory: TempDir, clock: Clock, shards: u16) -> Self {
        let mut config = PluginConfig::new(directory.path().join("artifacts")).unwrap();
        config.compiler = env!("CARGO_BIN_EXE_tidegate").into();
        let plugins = Runtime::start(config, Arc::new(Shelf(store.clone()))).unwrap();
        let preparer = Preparer {
            sealer: seal::Sealer::new(&seal::generate_key().unwrap(), &[]).unwrap(),
            max_body: 1 << 20,
            ceilings: Limits::default(),
            gate: Limits::default(),
            policy: AddressPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()], ..AddressPolicy::default() },
        };
        let options =
            Options { store: store.clone(), preparer, inspector: Arc::new(plugins.clone()), clock: clock.clone(), shards };
        let control = Control::load(options).await.unwrap();
        let came_back = Arc::<Mutex<Vec<(Diverted, Shard)>>>::default();
        let heard = came_back.clone();
        let breaks = Arc::<AtomicBool>::default();
        let is_broken = breaks.clone();
        let returned: Returned = Arc::new(move |who, shard| {
            assert!(!is_broken.swap(false, Ordering::SeqCst), "broken by the test");
            heard.lock().unwrap().push((who, shard));
        });
        Self { store, control, plugins, came_back, breaks, returned, clock, shards, _directory: directory }
    }

    /// Declares a tenant; `more` has its sources, destinations and connections.
    pub(crate) async fn declare(&self, tenant: &str, mut more: Value) {
        more["name"] = json!(tenant);
        let spec: ApplySpec = serde_json::from_value(json!({ "tenants": [more] })).unwrap();
        self.control.apply(Access::Operator, &Who::Operator, &spec, Mode { dry_run: false, prune: true }).await.unwrap();
    }

    /// A dispatcher that runs until it is stopped or killed.
    pub(crate) fn dispatch(&self, node: &str) -> Node {
        self.dispatch_with(node, EgressConfig::default())
    }

    /// The same, and this is how it reaches out.
    pub(crate) fn dispatch_with(&self, node: &str, egress: EgressConfig) -> Node {
        let config = DispatchConfig {
            node: node.to_owned(),
            shards: self.shards,
            in_flight: 256,
            in_flight_bytes: 16 << 20,
            output_bytes: 16 << 20,
            default_window: 64,
            lease_ttl: LEASE,
            latency_target: Duration::from_millis(200),
            progress_after: Duration::from_millis(200),
            max_wait: MAX_WAIT,
            drain: Duration::from_millis(300),
            // Also for tests that let what waits grow too old.
            retention: Retention { age: MAX_WAIT * 10, bytes: 1 << 30, dead_letter_age: MAX_WAIT * 10 },
        };
        let egress = EgressConfig {
            policy: AddressPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()], ..AddressPolicy::default() },
            ..egress
        };
        let telemetry = Telemetry::start(Otel::default()).unwrap();
        let parts = DispatchParts {
            store: self.store.clone(),
            snapshots: self.control.snapshots(),
            plugins: self.plugins.clone(),
            egress: Egress::new(egress).unwrap(),
            clock: self.clock.clone(),
            metrics: telemetry.metrics(),
            spans: telemetry.spans(),
            returned: self.returned.clone(),
            noticed: self.noticed(),
        };
        let stop = CancellationToken::new();
        Node { running: tokio::spawn(Dispatcher::new(config, parts).run(stop.clone())), stop, telemetry }
    }

    /// What is noticed of destinations is kept in the configuration, as a gateway does it.
    fn noticed(&self) -> Notice {
        let control = self.control.clone();
        Arc::new(move |tenant, destination, noticed, at| {
            let control = control.clone();
            tokio::spawn(async move { control.notice(tenant, destination, &noticed, at).await.unwrap() });
        })
    }

    /// Sets what an operator would; a change of the configuration takes it back.
    pub(crate) fn steer(&self, traffic: Traffic) {
        let snapshots = self.control.snapshots();
        let mut snapshot = (*snapshots.current()).clone();
        snapshot.traffic = Arc::new(traffic);
        snapshots.publish(snapshot);
    }

    /// Keeps an event of a tenant's source, as the ingest wing would.
    pub(crate) async fn accept(&self, tenant: &str, source: &str, body: &str) -> EventId {
        let state = self.control.state();
        let tenant = state.find_tenant(tenant).expect("declared");
        let source = tenant.sources.named(source).expect("declared").id;
        self.accept_as(tenant.id(), source, body).await
    }

    pub(crate) fn source(&self, tenant: &str, source: &str) -> SourceId {
        self.control.state().find_tenant(tenant).and_then(|tenant| Some(tenant.sources.named(source)?.id)).expect("declared")
    }

    pub(crate) async fn accept_as(&self, tenant: TenantId, source: SourceId, body: &str) -> EventId {
        self.accept_in(Lane::Normal, tenant, source, body).await
    }

    pub(crate) async fn accept_in(&self, lane: Lane, tenant: TenantId, source: SourceId, body: &str) -> EventId {
        self.accept_at(SHARD, lane, tenant, source, body).await
    }

    pub(crate) async fn accept_at(&self, shard: Shard, lane: Lane, tenant: TenantId, source: SourceId, body: &str) -> EventId {
        let now = self.clock.now();
        let event = Event {
            id: EventId::new(now, rand::random()),
            tenant,
            source,
            revision: self.control.state().revision,
            accepted_at: now,
            request: Request { method: "POST".into(), body: Bytes::copy_from_slice(body.as_bytes()), ..Request::default() },
            pins: Vec::new(),
            trace: None,
        };
        let id = event.id;
        let event = Verifier::none().verify(event, now).unwrap();
        let acceptance = Acceptance { event, shard, lane, dedup: None };
        self.store.accept(vec![acceptance]).await.unwrap();
        id
    }

    /// Keeps a component, so that what is declared can name it.
    pub(crate) async fn keep(&self, component: Bytes) -> String {
        self.control.keep(component).await.unwrap().hash.to_string()
    }

    /// Versions that are poisoned on this node.
    pub(crate) fn poisoned(&self, tenant: &str) -> Vec<Poisoned> {
        self.plugins.circuits().poisoned(self.home(tenant).tenant)
    }

    pub(crate) fn home(&self, tenant: &str) -> Home {
        Home { tenant: self.control.state().find_tenant(tenant).expect("declared").id(), shard: SHARD }
    }

    /// Waits until the event's rows are as wanted, and gives them.
    pub(crate) async fn settled(&self, tenant: &str, id: EventId, wanted: impl Fn(&EventSummary) -> bool) -> EventSummary {
        let home = self.home(tenant);
        eventually("the event's rows", SOON, async || {
            let history = self.store.event(home, id).await.unwrap()?;
            wanted(&history.summary).then_some(history.summary)
        })
        .await
    }
}

pub(crate) struct Node {
    running: JoinHandle<()>,
    stop: CancellationToken,
    telemetry: Telemetry,
}

impl Node {
    /// A graceful stop.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }

    /// The sum of a metric over all its labels.
    pub(crate) fn total(&self, name: &str) -> f64 {
        let text = self.telemetry.scrape().text().unwrap();
        let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} ")));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// A counter's value, for an operation of the store.
    pub(crate) fn counted(&self, name: &str, operation: &str) -> f64 {
        let text = self.telemetry.scrape().text().unwrap();
        let operation = format!("operation=\"{operation}\"");
        let line = text.lines().find(|line| line.starts_with(name) && line.contains(&operation));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
    }
}

pub(crate) fn is_delivered(summary: &EventSummary) -> bool {
    summary.finished && !summary.deliveries.is_empty() && summary.deliveries.iter().all(|row| row.state == DeliveryState::Delivered)
}

/// A source `in` with a connection to each of these destinations, retried at once and often.
pub(crate) fn fan_out(destinations: &[(&str, String)], in_flight: usize) -> Value {
    let retry = json!({"max_attempts": 3, "base": "1ms", "max_delay": "5ms"});
    json!({
        "sources": [{"name": "in"}],
        "destinations": destinations.iter().map(|(name, url)| {
            json!({"name": name, "url": url, "retry": retry, "in_flight": in_flight, "timeout": "30s"})
        }).collect::<Vec<_>>(),
        "connections": destinations.iter().map(|(name, _)| {
            json!({"name": name, "source": "in", "destination": name})
        }).collect::<Vec<_>>(),
    })
}
