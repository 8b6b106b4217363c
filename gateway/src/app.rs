//! Puts the parts together: the only place that knows them all. Nothing knows it but the commands.

pub(crate) mod moving;
mod parts;
pub(crate) mod tables;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::config::memory::MemoryLimits;
use crate::control::api;
use crate::control::inspect::Inspector;
use crate::control::refresh::{self, Refreshed};
use crate::control::service::{Control, LoadError, Options};
use crate::control::signals;
use crate::dispatch::{DispatchParts, Dispatcher, Notice, Returned};
use crate::egress::{Egress, EgressError};
use crate::ingest::accept::{self, Acceptor};
use crate::ingest::quota::{self, Quotas};
use crate::ingest::receive::{self, TlsError, tls_config};
use crate::notices;
use crate::plugin::{PluginError, Runtime};
use crate::store::{Store, StoreError};
use crate::telemetry::otel::Otel;
use crate::telemetry::{Scrape, Telemetry, TelemetryError};

/// Between two measurements of what a durable write costs.
const PROBE: Duration = Duration::from_secs(10);
/// Shards of which it is said at once that somebody has returned there.
const RETURNED: usize = 64;
/// Destinations of which something is noticed at once.
const NOTICED: usize = 256;

/// Which wings a process runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Both.
    #[default]
    All,
    /// Accepts events only. Needs a store that several processes can share.
    Ingest,
    /// Delivers only. Needs a store that several processes can share.
    Dispatch,
}

/// Why a gateway did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored configuration can't be used.
    #[error("configuration in the store: {0}")]
    Load(#[from] LoadError),
    /// A setting that does not work.
    #[error("{0}")]
    Setting(String),
    /// A key that can't be read.
    #[error("{field}: {error}")]
    Key {
        /// The setting.
        field: String,
        /// What is wrong with it.
        error: String,
    },
    /// The sandbox can't be set up.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The way out can't be set up.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// Telemetry can't be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// TLS can't be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address can't be listened on.
    #[error("{field} {address}: {error}")]
    Listen {
        /// The setting.
        field: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// Roles apart need a store that processes share.
    #[error("--role {0:?} needs `store.kind = \"redis\"`: the embedded store belongs to one process")]
    Role(Role),
    /// A task of ours ended abnormally.
    #[error("internal task: {0}")]
    Task(String),
}

/// A running gateway.
pub struct App {
    control: Arc<Control>,
    ingest: Option<SocketAddr>,
    admin: SocketAddr,
    telemetry: Telemetry,
    deadline: Duration,
    failed: std::pin::Pin<Box<dyn Future<Output = StoreError> + Send>>,
    stops: Stops,
    acceptor: Acceptor,
    receiving: Option<JoinHandle<receive::Stopped>>,
    dispatching: Option<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

/// Told in this order: what comes in stops first, what watches it last.
#[derive(Default)]
struct Stops {
    ingest: CancellationToken,
    dispatch: CancellationToken,
    rest: CancellationToken,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("ingest", &self.ingest).field("admin", &self.admin).finish_non_exhaustive()
    }
}

impl App {
    /// Opens the store, loads the configuration, and starts what the role asks for. `base` is what relative secret files stand
    /// under.
    pub async fn start(config: Config, base: &Path, role: Role) -> Result<Self, StartError> {
        if role != Role::All && matches!(config.store, crate::config::Store::Embedded(_)) {
            return Err(StartError::Role(role));
        }
        let clock = Clock::system();
        let mut preparer = parts::preparer(&config, base)?;
        let operator = config.keys.operator.resolve(base);
        let operator = operator.map_err(|error| StartError::Key { field: "keys.operator".into(), error: error.to_string() })?;
        let otel = Otel::read(|name| std::env::var(name).ok(), config.telemetry.sample_ratio)?;
        let telemetry = Telemetry::start(otel)?;
        let parts::Opened { store, closed, failed } = parts::store(&config, &clock).await?;
        preparer.policy.closed = closed.clone();
        let plugin_config = parts::plugins(&config.plugins)?;
        tell_memory(&config, plugin_config.all_threads());
        let tables = Arc::new(tables::StoredTables::new(store.clone(), clock.clone()));
        let components = Arc::new(parts::StoredComponents(store.clone()));
        let plugins = Runtime::with_tables(plugin_config, components, tables.clone())?;
        let options = Options {
            store: store.clone(),
            preparer,
            inspector: Arc::new(plugins.clone()),
            clock: clock.clone(),
            shards: config.dispatch.shards,
        };
        let control = Control::load(options).await?;
        tables.follow(control.snapshots());
        telemetry.metrics().revision(control.state().revision);

        let stops = Stops::default();
        let acceptor = Acceptor::new(store.clone(), accept::Limits::default(), Arc::new(Quotas::default()), telemetry.metrics());
        let mut app = Self {
            control: control.clone(),
            ingest: None,
            admin: config.admin.listen,
            deadline: config.shutdown.deadline,
            telemetry,
            failed,
            stops,
            acceptor,
            receiving: None,
            dispatching: None,
            others: Vec::new(),
        };
        if role != Role::Dispatch {
            app.start_ingest(&config, store.clone(), plugins.clone(), &clock).await?;
        }
        if role != Role::Ingest {
            let egress = Egress::new(parts::egress(&config.egress, closed)?)?;
            app.start_dispatch(&config, store.clone(), (plugins, egress), clock)?;
        }
        // Last: whoever asks whether the gateway is ready must find it so.
        app.start_admin(&config, operator).await?;
        app.start_watching(store);
        Ok(app)
    }

    /// Where events are taken, if they are.
    pub fn ingest_address(&self) -> Option<SocketAddr> {
        self.ingest
    }

    /// Where the admin API is.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// The configuration of the running gateway.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Runs until `stop` resolves or the store fails for good, then stops gracefully: takes nothing more, finishes what is in
    /// flight inside the deadline, gives the shards up. What is unfinished then is still queued.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), StartError> {
        let outcome = tokio::select! {
            () = stop => Ok(()),
            error = &mut self.failed => Err(error),
        };
        tracing::info!("stopping");
        self.stops.ingest.cancel();
        if let Some(receiving) = self.receiving.take() {
            match receiving.await {
                Ok(stopped) if stopped.cut > 0 => tracing::warn!(connections = stopped.cut, "connections cut at the deadline"),
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "ingest ended abnormally"),
            }
        }
        // Nobody was told that what still waits for a store that is away was accepted.
        if tokio::time::timeout(self.deadline, self.acceptor.stop()).await.is_err() {
            tracing::warn!("events given up that the store did not confirm in time");
        }
        self.stops.dispatch.cancel();
        if let Some(dispatching) = self.dispatching.take()
            && let Err(error) = dispatching.await
        {
            tracing::error!(%error, "dispatch ended abnormally");
        }
        self.stops.rest.cancel();
        for mut other in self.others {
            match tokio::time::timeout(self.deadline, &mut other).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "task ended abnormally"),
                Err(_) => other.abort(),
            }
        }
        self.telemetry.shutdown(self.deadline.min(Duration::from_secs(5))).await;
        tracing::info!("stopped");
        Ok(outcome?)
    }

    /// What dispatch says of who has returned: it says so again and again, so nothing is lost where one is busy already.
    fn end_diversions(&mut self) -> Returned {
        let (say, mut said) = tokio::sync::mpsc::channel(RETURNED);
        let (control, stop) = (self.control.clone(), self.stops.rest.clone());
        self.others.push(tokio::spawn(async move {
            while let Some(Some((who, shard))) = stop.run_until_cancelled(said.recv()).await {
                if let Err(error) = control.returned(who, shard).await {
                    tracing::warn!(%error, "diversion not ended, trying again");
                }
            }
        }));
        Arc::new(move |who, shard| {
            // Those that are under way are enough.
            let _ = say.try_send((who, shard));
        })
    }

    /// What dispatch notices of destinations: said again and again, too.
    fn keep_noticed(&mut self) -> Notice {
        let (say, mut said) = tokio::sync::mpsc::channel(NOTICED);
        let (control, stop) = (self.control.clone(), self.stops.rest.clone());
        self.others.push(tokio::spawn(async move {
            while let Some(Some((tenant, destination, noticed, at))) = stop.run_until_cancelled(said.recv()).await {
                if let Err(error) = control.notice(tenant, destination, &noticed, at).await {
                    tracing::warn!(%tenant, %destination, %error, "what was noticed of a destination is not kept, trying again");
                }
            }
        }));
        Arc::new(move |tenant, destination, noticed, at| {
            // Those that are under way are enough.
            let _ = say.try_send((tenant, destination, noticed, at));
        })
    }

    async fn start_admin(&mut self, config: &Config, operator: crate::secret::Secret) -> Result<(), StartError> {
        let listener = listen("admin.listen", config.admin.listen).await?;
        self.admin = address_of(&listener, config.admin.listen);
        let scrape = self.telemetry.scrape();
        let router = api::router(api::Options {
            control: self.control.clone(),
            operator,
            admin: config.admin.clone(),
            metrics: Arc::new(move || {
                let text = scrape.text().unwrap_or_else(|error| format!("# {error}\n"));
                (Scrape::CONTENT_TYPE, text)
            }),
            readiness: Arc::new(Vec::new),
        });
        self.others.push(tokio::spawn(api::serve(listener, router, config.admin.max_connections, self.stops.rest.clone())));
        Ok(())
    }

    async fn start_ingest(
        &mut self,
        config: &Config,
        store: Arc<dyn Store>,
        plugins: Runtime,
        clock: &Clock,
    ) -> Result<(), StartError> {
        let tls = config.ingest.tls.as_ref().map(|tls| tls_config(&tls.certificate, &tls.key)).transpose()?;
        let listener = listen("ingest.listen", config.ingest.listen).await?;
        self.ingest = Some(address_of(&listener, config.ingest.listen));
        let parts = receive::Parts {
            snapshots: self.control.snapshots(),
            acceptor: self.acceptor.clone(),
            clock: clock.clone(),
            metrics: self.telemetry.metrics(),
            spans: self.telemetry.spans(),
            plugins: Some(plugins),
        };
        let server = receive::Server::new(parts, parts::ingest(config), tls);
        self.receiving = Some(tokio::spawn(server.run(listener, self.stops.ingest.clone().cancelled_owned())));
        let sharing = quota::share::run(self.acceptor.quotas().clone(), store, clock.clone(), self.stops.rest.clone());
        self.others.push(tokio::spawn(sharing));
        Ok(())
    }

    fn start_dispatch(
        &mut self,
        config: &Config,
        store: Arc<dyn Store>,
        (plugins, egress): (Runtime, Egress),
        clock: Clock,
    ) -> Result<(), StartError> {
        let parts = DispatchParts {
            store: store.clone(),
            snapshots: self.control.snapshots(),
            plugins,
            egress,
            clock: clock.clone(),
            metrics: self.telemetry.metrics(),
            spans: self.telemetry.spans(),
            returned: self.end_diversions(),
            noticed: self.keep_noticed(),
        };
        let dispatcher = Dispatcher::new(parts::dispatch(config), parts);
        let noticing = notices::Parts {
            control: self.control.clone(),
            store,
            acceptor: self.acceptor.clone(),
            standings: dispatcher.standings(),
            clock,
            metrics: self.telemetry.metrics(),
            rules: parts::notices(&config.notices),
        };
        self.others.push(tokio::spawn(notices::run(noticing, self.stops.ingest.clone())));
        self.dispatching = Some(tokio::spawn(dispatcher.run(self.stops.dispatch.clone())));
        Ok(())
    }

    /// Follows other nodes' changes, and measures the store and its queues.
    fn start_watching(&mut self, store: Arc<dyn Store>) {
        let (control, metrics) = (self.control.clone(), self.telemetry.metrics());
        let watch = move |refreshed: Refreshed<'_>| match refreshed {
            Refreshed::Failed(_) => metrics.reload_failed(),
            Refreshed::Changed | Refreshed::Unchanged => {}
        };
        self.others.push(tokio::spawn(refresh::run(self.control.clone(), watch, self.stops.rest.clone())));
        let metrics = self.telemetry.metrics();
        let drain = move |lane, time| metrics.drain(lane, time);
        self.others.push(tokio::spawn(signals::run(self.control.clone(), drain, self.stops.rest.clone())));
        let (metrics, stop) = (self.telemetry.metrics(), self.stops.rest.clone());
        self.others.push(tokio::spawn(async move {
            loop {
                metrics.revision(control.state().revision);
                match store.probe().await {
                    Ok(took) => metrics.probe(took),
                    Err(error) => tracing::warn!(%error, "store not measured"),
                }
                if tokio::time::timeout(PROBE, stop.cancelled()).await.is_ok() {
                    return;
                }
            }
        }));
    }
}

/// The store and the configuration in it, to be changed while no gateway runs on it. `inspector` judges components.
pub(crate) async fn offline(
    config: &Config,
    base: &Path,
    inspector: Arc<dyn Inspector>,
) -> Result<(Arc<dyn Store>, Arc<Control>), StartError> {
    let clock = Clock::system();
    let mut preparer = parts::preparer(config, base)?;
    let parts::Opened { store, closed, .. } = parts::store(config, &clock).await?;
    preparer.policy.closed = closed;
    let options = Options { store: store.clone(), preparer, inspector, clock, shards: config.dispatch.shards };
    let control = Control::load(options).await?;
    Ok((store, control))
}

/// Whoever sets a memory limit for the process needs this number.
fn tell_memory(config: &Config, plugin_threads: usize) {
    let limits = config.memory(plugin_threads);
    let MemoryLimits { bodies, in_flight, outputs, responses, loaded, running, idle, cache, overhead } = limits;
    tracing::info!(
        mib = limits.sum() >> 20,
        ingest.max_body_bytes = bodies,
        dispatch.bytes = in_flight,
        dispatch.output_bytes = outputs,
        egress.response_bytes = responses,
        plugins.loaded_bytes = loaded,
        plugins.max_memory = running,
        plugins.idle_bytes = idle,
        store.cache = cache,
        overhead,
        "memory stays under this, whatever the backlog"
    );
}

async fn listen(field: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Listen { field, address, error })
}

fn address_of(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}
