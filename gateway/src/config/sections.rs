//! The sections of the file. What serde can check is checked by the types; the rest in `validate`.

mod egress;
mod store;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use super::secret::SecretRef;
use super::units;

pub use egress::{Egress, Proxies, StaticHost};
pub use store::{Durability, Embedded, EmbeddedDurability, Redis, RedisMode, Store};
pub(super) use store::{RawDurability, RawStore, StoreKind};

/// The file as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) ingest: Ingest,
    pub(super) admin: Admin,
    pub(super) store: RawStore,
    pub(super) dispatch: Dispatch,
    pub(super) egress: Egress,
    pub(super) plugins: Plugins,
    pub(super) history: History,
    pub(super) notices: Notices,
    pub(super) telemetry: Telemetry,
    pub(super) shutdown: Shutdown,
    pub(super) keys: Keys,
}

/// Where events come in.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ingest {
    /// Address and port. Default `0.0.0.0:8080`.
    pub listen: SocketAddr,
    /// Serves TLS when set; plain HTTP otherwise.
    pub tls: Option<Tls>,
    /// The URL that senders see, without a path; needed where a proxy changes it. Printed, and used by signatures over URLs.
    pub public_url: Option<String>,
    /// Peers whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Request line and headers together. Default 32 KiB.
    #[serde(with = "units::size")]
    pub max_head: usize,
    /// Header lines in a request. Default 100.
    pub max_headers: usize,
    /// The largest body that any source may be set to take. Default 10 MiB; a source's own default is 1 MiB.
    #[serde(with = "units::size")]
    pub max_body: usize,
    /// Bytes of bodies being read at once, over all connections. Default 256 MiB.
    #[serde(with = "units::size")]
    pub max_body_bytes: usize,
    /// A connection without a request is closed after this. Default 60 s.
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// From a request's first byte to the end of its headers. Default 10 s.
    #[serde(with = "units::duration")]
    pub head_timeout: Duration,
    /// From the end of the headers to the end of the body. Default 30 s.
    #[serde(with = "units::duration")]
    pub body_timeout: Duration,
    /// From the end of the body to the answer. Default 10 s.
    #[serde(with = "units::duration")]
    pub answer_timeout: Duration,
    /// A body that comes slower than this, in bytes a second, is refused after a grace of 5 s. Default 1 KiB.
    #[serde(with = "units::size")]
    pub min_rate: u64,
    /// Open connections. Default 10,000.
    pub max_connections: usize,
    /// Open connections from one address (one /64 network for IPv6); trusted proxies are not counted. Default 1,000.
    pub max_connections_per_peer: usize,
    /// HTTP/2 requests at once on a connection. Default 100.
    pub max_streams: u32,
}

impl Default for Ingest {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 8080).into(),
            tls: None,
            public_url: None,
            trusted_proxies: Vec::new(),
            max_head: 32 << 10,
            max_headers: 100,
            max_body: 10 << 20,
            max_body_bytes: 256 << 20,
            idle_timeout: Duration::from_secs(60),
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(10),
            min_rate: 1 << 10,
            max_connections: 10_000,
            max_connections_per_peer: 1_000,
            max_streams: 100,
        }
    }
}

/// A certificate and its key, both PEM files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The admin API, with health and metrics.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Address and port. Default `127.0.0.1:8082`: other machines need a proxy with TLS in front, or an address set here.
    pub listen: SocketAddr,
    /// The largest JSON body. Default 4 MiB.
    #[serde(with = "units::size")]
    pub max_body: usize,
    /// The largest component. Default 64 MiB.
    #[serde(with = "units::size")]
    pub max_component: usize,
    /// From the end of the headers to the answer. Default 30 s; uploads get `upload_timeout`.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// The same for uploads, which are compiled. Default 2 min.
    #[serde(with = "units::duration")]
    pub upload_timeout: Duration,
    /// Open connections. Default 256.
    pub max_connections: usize,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8082).into(),
            max_body: 4 << 20,
            max_component: 64 << 20,
            timeout: Duration::from_secs(30),
            upload_timeout: Duration::from_secs(120),
            max_connections: 256,
        }
    }
}

/// How work is handed out.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dispatch {
    /// Events in work at once on this node. Default 4,096.
    pub in_flight: usize,
    /// Bytes of events in work at once on this node. Default 64 MiB.
    #[serde(with = "units::size")]
    pub bytes: usize,
    /// Bytes that plugins made of them, waiting to be delivered; while more is there, no other event is given to plugins. Default 64 MiB.
    #[serde(with = "units::size")]
    pub output_bytes: usize,
    /// A shard is taken over when its owner was silent for this long. Default 10 s.
    #[serde(with = "units::duration")]
    pub lease_ttl: Duration,
    /// Shards that new tenants are spread over. Default 4. May grow later, never shrink.
    pub shards: u16,
    /// What waits on something that is full, held or disabled is given up once it is older than this: a dead letter with that
    /// reason. Counts from the event's acceptance, or from the last retry by hand. Default 7 days.
    #[serde(with = "units::duration")]
    pub max_wait: Duration,
    /// A delivery of the normal lane that begins later than this after its acceptance is late; when one in ten is, the low lane
    /// yields, and then what is parked. Default 200 ms.
    #[serde(with = "units::duration")]
    pub latency_target: Duration,
}

impl Default for Dispatch {
    fn default() -> Self {
        Self {
            in_flight: 4_096,
            bytes: 64 << 20,
            output_bytes: 64 << 20,
            lease_ttl: Duration::from_secs(10),
            shards: 4,
            max_wait: Duration::from_secs(7 * 24 * 60 * 60),
            latency_target: Duration::from_millis(200),
        }
    }
}

/// The sandbox.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plugins {
    /// Compiled versions are kept here. Default `data/artifacts`.
    pub cache: PathBuf,
    /// The cache's size on disk. Default 2 GiB.
    #[serde(with = "units::size")]
    pub cache_bytes: u64,
    /// Compiled versions that are in memory; the least used are loaded again when they are needed. Default 256 MiB.
    #[serde(with = "units::size")]
    pub loaded_bytes: u64,
    /// Threads that run plugins; 0 means one for each core.
    pub threads: usize,
    /// Instances that wait for another run of a stage that uses them again, each counted as often as it has memories (one, for most); 0 keeps none.
    /// The least recently used go first. Default 64.
    pub idle_instances: u32,
    /// Bytes of their memories and tables. Default 64 MiB.
    #[serde(with = "units::size")]
    pub idle_bytes: usize,
    /// How long one waits at the most. Default 60 s.
    #[serde(with = "units::duration")]
    pub idle_time: Duration,
    /// The most memory that a run may be given. Default 64 MiB.
    #[serde(with = "units::size")]
    pub max_memory: usize,
    /// The most fuel that a run may be given. Default 2,000,000,000.
    pub max_fuel: u64,
    /// The most wall-clock time that a run may be given. Default 5 s.
    #[serde(with = "units::duration")]
    pub max_time: Duration,
    /// The most bytes of output that a run may make. Default 16 MiB.
    #[serde(with = "units::size")]
    pub max_output: usize,
    /// The most fuel that a run may be given that a sender or an attempt waits for (a source's `auth` and `respond`, a destination's `sign`
    /// and `judge`), and what it is given unless it asks for less. Default 50,000,000.
    pub gate_fuel: u64,
    /// The same for wall-clock time. Default 250 ms.
    #[serde(with = "units::duration")]
    pub gate_time: Duration,
    /// Requests of one tenant that may wait for its sources' plugins at once; more are answered with 503. Default 32.
    pub gate_queue: usize,
    /// How long a request may wait for its source's plugins, their runs included, before it is answered with 503. Default 5 s.
    #[serde(with = "units::duration")]
    pub gate_wait: Duration,
}

impl Default for Plugins {
    fn default() -> Self {
        Self {
            cache: "data/artifacts".into(),
            cache_bytes: 2 << 30,
            loaded_bytes: 256 << 20,
            threads: 0,
            idle_instances: 64,
            idle_bytes: 64 << 20,
            idle_time: Duration::from_secs(60),
            max_memory: 64 << 20,
            max_fuel: 2_000_000_000,
            max_time: Duration::from_secs(5),
            max_output: 16 << 20,
            gate_fuel: 50_000_000,
            gate_time: Duration::from_millis(250),
            gate_queue: 32,
            gate_wait: Duration::from_secs(5),
        }
    }
}

/// How long what is terminal is kept, for each shard.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct History {
    /// Default 7 days.
    #[serde(with = "units::duration")]
    pub age: Duration,
    /// Default 1 GiB; the oldest goes first.
    #[serde(with = "units::size")]
    pub bytes: u64,
    /// Dead letters are kept for this long. Default 30 days.
    #[serde(with = "units::duration")]
    pub dead_letter_age: Duration,
}

impl Default for History {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self { age: 7 * day, bytes: 1 << 30, dead_letter_age: 30 * day }
    }
}

/// Notices of what becomes of tenants' destinations, plugins and queues. A tenant hears of them by a source of the type `notices`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Notices {
    /// How often conditions are looked at. Default 2 s; queues a fifth as often.
    #[serde(with = "units::duration")]
    pub every: Duration,
    /// The least time between two notices of one type about one thing. Default 10 min.
    #[serde(with = "units::duration")]
    pub quiet: Duration,
    /// How long something must be over before that is told. Default 1 min.
    #[serde(with = "units::duration")]
    pub hold: Duration,
    /// So many new dead letters of a tenant within `dead_letters_window` are told of; fewer than half of it end that. Default 100.
    pub dead_letters: u64,
    /// Default 10 min.
    #[serde(with = "units::duration")]
    pub dead_letters_window: Duration,
    /// Such a part of a tenant's `plan.queued_bytes`, in percent, is told of; less than half of it ends that. Default 50.
    pub backlog_percent: u8,
    /// The operator's tenant, by its name: its source of the type `notices` hears of all tenants. Default: none.
    pub tenant: Option<String>,
}

impl Default for Notices {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self {
            every: Duration::from_secs(2),
            quiet: 10 * minute,
            hold: minute,
            dead_letters: 100,
            dead_letters_window: 10 * minute,
            backlog_percent: 50,
            tenant: None,
        }
    }
}

/// Logs and traces. Where traces and metrics are sent is set by the standard `OTEL_*` variables.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// Default `json`.
    pub log: LogFormat,
    /// A level, or filter directives like `info,tidegate::dispatch=debug`. Default `info`.
    pub level: String,
    /// Of all traces, those that are kept; errors and slow ones always are. From 0 to 1. Default 0.01.
    pub sample_ratio: f64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { log: LogFormat::Json, level: "info".into(), sample_ratio: 0.01 }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// The graceful stop.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// What is in flight has this long to finish. Default 20 s.
    #[serde(with = "units::duration")]
    pub deadline: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(20) }
    }
}

/// Where the keys are that `tidegate init` makes.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keys {
    /// Seals stored secrets. Default `file:keys/encryption.key`. The same on every node.
    pub encryption: SecretRef,
    /// Earlier encryption keys: what they sealed is still read, and sealed anew with the present one when it changes.
    pub previous_encryption: Vec<SecretRef>,
    /// The operator's API key. Default `file:keys/operator.key`. The same on every node.
    pub operator: SecretRef,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            encryption: SecretRef::File("keys/encryption.key".into()),
            previous_encryption: Vec::new(),
            operator: SecretRef::File("keys/operator.key".into()),
        }
    }
}
