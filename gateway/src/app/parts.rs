//! From the validated configuration to the settings of each part.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::StartError;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::control::Preparer;
use crate::control::seal::Sealer;
use crate::dispatch::DispatchConfig;
use crate::egress::policy::{AddressPolicy, Closed};
use crate::egress::{EgressConfig, Proxies};
use crate::event::VersionHash;
use crate::ingest::receive;
use crate::notices::Rules;
use crate::plugin::{Components, Limits, PluginConfig};
use crate::store::embedded::{self, Embedded};
use crate::store::redis::{self, RedisConfig, RedisStore};
use crate::store::transfer::{Incoming, Outgoing};
use crate::store::{Retention, Store};

/// Work of one tenant on one node at once, before its plan is known.
const DEFAULT_WINDOW: usize = 64;
/// After this long an unfinished event's progress is written.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

/// A store, and what resolves if it has failed for good.
pub(super) struct Opened {
    pub(super) store: Arc<dyn Store>,
    /// Where its servers are, which destinations must not reach.
    pub(super) closed: Closed,
    pub(super) failed: std::pin::Pin<Box<dyn Future<Output = crate::store::StoreError> + Send>>,
}

/// Opens the configured store. Only this and the two below name the engines.
pub(super) async fn store(config: &Config, clock: &Clock) -> Result<Opened, StartError> {
    match &config.store {
        config::Store::Embedded(settings) => {
            let options = embedded_options(settings, clock);
            let opened = tokio::task::spawn_blocking(move || Embedded::open(options)).await;
            let store = Arc::new(opened.map_err(|error| StartError::Task(error.to_string()))??);
            let watched = store.clone();
            Ok(Opened { store, closed: Closed::default(), failed: Box::pin(async move { watched.failed().await }) })
        }
        config::Store::Redis(settings) => {
            let store = Arc::new(RedisStore::connect(redis_config(settings, config.dispatch.shards)?, clock.clone()).await?);
            // A server that is away may come back; `ready` says so meanwhile.
            Ok(Opened { closed: Closed::new(store.addresses()), store, failed: Box::pin(std::future::pending()) })
        }
    }
}

/// Opens the configured store to read everything out of it.
pub(super) async fn outgoing(config: &Config, clock: &Clock) -> Result<Box<dyn Outgoing>, StartError> {
    match &config.store {
        config::Store::Embedded(settings) => {
            let options = embedded_options(settings, clock);
            let opened = tokio::task::spawn_blocking(move || embedded::Export::open(&options)).await;
            Ok(Box::new(opened.map_err(|error| StartError::Task(error.to_string()))??))
        }
        config::Store::Redis(settings) => {
            let config = redis_config(settings, config.dispatch.shards)?;
            Ok(Box::new(redis::Export::connect(config, clock.clone()).await?))
        }
    }
}

/// Opens the configured store, which must be empty, to fill it.
pub(super) async fn incoming(config: &Config, clock: &Clock) -> Result<Box<dyn Incoming>, StartError> {
    match &config.store {
        config::Store::Embedded(settings) => {
            let options = embedded_options(settings, clock);
            let opened = tokio::task::spawn_blocking(move || embedded::Import::open(&options)).await;
            Ok(Box::new(opened.map_err(|error| StartError::Task(error.to_string()))??))
        }
        config::Store::Redis(settings) => {
            let config = redis_config(settings, config.dispatch.shards)?;
            Ok(Box::new(redis::Import::connect(config, clock.clone()).await?))
        }
    }
}

fn embedded_options(settings: &config::Embedded, clock: &Clock) -> embedded::Options {
    let mut options = embedded::Options::new(settings.path.clone());
    options.durability = match settings.durability {
        config::EmbeddedDurability::Fsync => embedded::Durability::Fsync,
        config::EmbeddedDurability::Everysec => embedded::Durability::Everysec,
    };
    options.cache_bytes = settings.cache;
    options.reserve_bytes = settings.reserve;
    options.clock = clock.clone();
    options
}

fn redis_config(settings: &config::Redis, shards: u16) -> Result<RedisConfig, StartError> {
    let parse =
        |url: &crate::secret::Secret| url.expose().parse().map_err(|error| StartError::Setting(format!("store.urls: {error}")));
    let mut urls = settings.urls.iter().map(parse).collect::<Result<Vec<redis::RedisUrl>, _>>()?;
    let topology = match settings.mode {
        config::RedisMode::Standalone if urls.len() == 1 => redis::Topology::Standalone(urls.remove(0)),
        config::RedisMode::Standalone => {
            return Err(StartError::Setting("store.urls: a standalone server has exactly one URL".into()));
        }
        config::RedisMode::Sentinel => {
            let missing = || StartError::Setting("store.sentinel_master: must be set in the mode `sentinel`".into());
            redis::Topology::Sentinel { urls, master: settings.sentinel_master.clone().ok_or_else(missing)? }
        }
        config::RedisMode::Cluster => redis::Topology::Cluster(urls),
    };
    let durability = match settings.durability {
        config::Durability::Ephemeral => redis::Durability::Ephemeral,
        config::Durability::Everysec => redis::Durability::EverySec,
        config::Durability::Fsync => redis::Durability::Fsync,
        config::Durability::Replicated => redis::Durability::Replicated,
    };
    let read = |file: &Path, setting: &str| {
        std::fs::read(file).map_err(|error| StartError::Setting(format!("store.{setting}: {}: {error}", file.display())))
    };
    let identity = |files: &config::Tls| {
        Ok::<_, StartError>(redis::Identity {
            certificate: read(&files.certificate, "cert_file")?,
            key: read(&files.key, "key_file")?,
        })
    };
    let tls = redis::Tls {
        authorities: settings.ca_file.as_deref().map(|file| read(file, "ca_file")).transpose()?,
        identity: settings.identity.as_ref().map(identity).transpose()?,
    };
    Ok(RedisConfig {
        topology,
        tls,
        durability,
        namespace: settings.namespace.clone(),
        shards,
        timeouts: redis::Timeouts::default(),
        check_every: Duration::from_secs(2),
        vouched: settings.assume_settings,
    })
}

/// Reads components out of the store for the plugin runtime.
pub(super) struct StoredComponents(pub(super) Arc<dyn Store>);

#[async_trait]
impl Components for StoredComponents {
    async fn fetch(&self, version: VersionHash) -> Result<Option<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.component(version).await?)
    }
}

pub(super) fn plugins(settings: &config::Plugins) -> Result<PluginConfig, StartError> {
    let mut config = PluginConfig::new(settings.cache.clone()).map_err(|error| StartError::Setting(format!("plugins: {error}")))?;
    if settings.threads > 0 {
        config.threads = settings.threads;
    }
    config.disk_bytes = settings.cache_bytes;
    config.cached_bytes = settings.loaded_bytes;
    config.idle_instances = settings.idle_instances;
    config.idle_bytes = settings.idle_bytes;
    config.idle_time = settings.idle_time;
    Ok(config)
}

pub(super) fn preparer(config: &Config, base: &Path) -> Result<Preparer, StartError> {
    let key = |field: &str, reference: &config::SecretRef| {
        reference.resolve(base).map_err(|error| StartError::Key { field: field.to_owned(), error: error.to_string() })
    };
    let current = key("keys.encryption", &config.keys.encryption)?;
    let previous = config.keys.previous_encryption.iter().map(|reference| key("keys.previous_encryption", reference));
    let sealer = Sealer::new(&current, &previous.collect::<Result<Vec<_>, _>>()?);
    let sealer = sealer.map_err(|error| StartError::Key { field: "keys.encryption".to_owned(), error: error.to_string() })?;
    let ceilings = Limits {
        fuel: config.plugins.max_fuel,
        wall: config.plugins.max_time,
        memory: config.plugins.max_memory,
        output_bytes: config.plugins.max_output,
        ..Limits::default()
    };
    let (fuel, wall) = (ceilings.fuel.min(config.plugins.gate_fuel), ceilings.wall.min(config.plugins.gate_time));
    let gate = Limits { fuel, wall, ..ceilings.clone() };
    Ok(Preparer { sealer, max_body: config.ingest.max_body, ceilings, gate, policy: policy(&config.egress) })
}

fn policy(settings: &config::Egress) -> AddressPolicy {
    AddressPolicy { allow: settings.allow.clone(), ports: settings.ports.clone(), ..AddressPolicy::default() }
}

pub(super) fn egress(settings: &config::Egress, closed: Closed) -> Result<EgressConfig, StartError> {
    let read = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path).map_err(|error| StartError::Setting(format!("egress.extra_ca: {}: {error}", path.display())))
    };
    Ok(EgressConfig {
        policy: AddressPolicy { closed, ..policy(settings) },
        hosts: settings.hosts.iter().map(|host| (host.name.clone(), host.addresses.clone())).collect(),
        name_servers: settings.name_servers.clone(),
        extra_ca_pem: settings.extra_ca.iter().map(read).collect::<Result<_, _>>()?,
        max_response: settings.max_response,
        response_bytes: settings.response_bytes,
        max_connections: settings.max_connections,
        idle_timeout: settings.idle_timeout,
        connect_timeout: settings.connect_timeout,
        proxies: match settings.proxy {
            config::Proxies::None => Proxies::None,
            config::Proxies::Environment => Proxies::Environment,
            config::Proxies::EnvironmentAndNames => Proxies::EnvironmentAndNames,
        },
        ..EgressConfig::default()
    })
}

pub(super) fn ingest(config: &Config) -> receive::Limits {
    let settings = &config.ingest;
    receive::Limits {
        connections: settings.max_connections,
        connections_per_peer: settings.max_connections_per_peer,
        trusted_proxies: settings.trusted_proxies.clone(),
        head_bytes: settings.max_head,
        header_count: settings.max_headers,
        body_bytes: settings.max_body_bytes,
        streams: settings.max_streams,
        head: settings.head_timeout,
        body: settings.body_timeout,
        body_rate: settings.min_rate,
        idle: settings.idle_timeout,
        total: settings.body_timeout + settings.answer_timeout,
        drain: config.shutdown.deadline,
        gate_queue: config.plugins.gate_queue,
        gate_wait: config.plugins.gate_wait,
        ..receive::Limits::default()
    }
}

pub(super) fn dispatch(config: &Config) -> DispatchConfig {
    DispatchConfig {
        // A name that no other process has: a store hands a shard back to the node that held it.
        node: format!("{}-{}-{:08x}", host_name(), std::process::id(), rand::random::<u32>()),
        shards: config.dispatch.shards,
        in_flight: config.dispatch.in_flight,
        in_flight_bytes: config.dispatch.bytes,
        output_bytes: config.dispatch.output_bytes,
        default_window: DEFAULT_WINDOW,
        lease_ttl: config.dispatch.lease_ttl,
        latency_target: config.dispatch.latency_target,
        progress_after: PROGRESS_AFTER,
        max_wait: config.dispatch.max_wait,
        drain: config.shutdown.deadline,
        retention: Retention {
            age: config.history.age,
            bytes: config.history.bytes,
            dead_letter_age: config.history.dead_letter_age,
        },
    }
}

pub(super) fn notices(settings: &config::Notices) -> Rules {
    let config::Notices { every, quiet, hold, dead_letters, dead_letters_window, backlog_percent, tenant } = settings.clone();
    Rules { every, quiet, hold, dead_letters, dead_letters_window, backlog_percent, tenant }
}

fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "node".to_owned())
}
