//! The sections of the file. What serde can check is checked by the types; the rest in `validate`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use super::secret::SecretRef;
use super::units;
use crate::secret::Secret;

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

/// Where events are kept, as it is written. Flat, so that a wrong field is found with its line.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawStore {
    pub(super) kind: StoreKind,
    pub(super) durability: Option<RawDurability>,
    pub(super) path: Option<PathBuf>,
    #[serde(deserialize_with = "units::size_option::deserialize")]
    pub(super) cache: Option<u64>,
    #[serde(deserialize_with = "units::size_option::deserialize")]
    pub(super) reserve: Option<u64>,
    pub(super) urls: Option<Vec<String>>,
    pub(super) mode: Option<RedisMode>,
    pub(super) sentinel_master: Option<String>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) namespace: Option<String>,
    pub(super) assume_settings: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoreKind {
    #[default]
    Embedded,
    Redis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawDurability {
    Ephemeral,
    Everysec,
    Fsync,
    Replicated,
}

/// Where events are kept.
#[derive(Clone, Debug)]
pub enum Store {
    /// `kind = "embedded"`: a directory.
    Embedded(Embedded),
    /// `kind = "redis"`: Redis or Valkey.
    Redis(Redis),
}

/// The embedded store. One gateway process.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// Its directory. Default `data`.
    pub path: PathBuf,
    /// When a write counts as kept. Default `fsync`.
    pub durability: EmbeddedDurability,
    /// The page cache. Default 64 MiB.
    pub cache: u64,
    /// Free space on the disk below which events are refused with 503, so that acks and retries still find room. Default 256 MiB.
    pub reserve: u64,
}

impl Default for Embedded {
    fn default() -> Self {
        Self { path: "data".into(), durability: EmbeddedDurability::Fsync, cache: 64 << 20, reserve: 256 << 20 }
    }
}

/// When the embedded store counts a write as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddedDurability {
    /// After fsync: survives power loss.
    Fsync,
    /// Handed to the operating system, with an fsync each second: survives a crash of the gateway, not all of one of the machine.
    Everysec,
}

/// Redis or Valkey. Any number of gateways.
#[derive(Clone, Debug)]
pub struct Redis {
    /// `redis://` or `rediss://`, each in the file as it is or as `env:NAME` or `file:PATH`: they may hold a password. One for a
    /// standalone server, several for Sentinel and Cluster.
    pub urls: Vec<Secret>,
    /// Default `standalone`.
    pub mode: RedisMode,
    /// The master's name; needed for Sentinel.
    pub sentinel_master: Option<String>,
    /// For `rediss://` URLs: the authorities to trust in place of the system's, in a PEM file.
    pub ca_file: Option<PathBuf>,
    /// For servers that want to know who connects: the gateway's certificate and its key, in PEM files.
    pub identity: Option<Tls>,
    /// What a confirmed write survives. Default `everysec`.
    pub durability: Durability,
    /// What every key starts with. Default `tidegate`.
    pub namespace: String,
    /// Starts although `CONFIG` is denied and the server's settings can't be checked. Default false.
    pub assume_settings: bool,
}

/// How the servers stand together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisMode {
    /// One server.
    #[default]
    Standalone,
    /// A master that sentinels know.
    Sentinel,
    /// Redis Cluster.
    Cluster,
}

/// What a write that Redis confirmed survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing.
    Ephemeral,
    /// A crash of Redis, but for what its operating system had not taken yet; of the machine, but for one to two seconds.
    #[default]
    Everysec,
    /// Power loss of the one node.
    Fsync,
    /// Most losses of one node: a replica has it too.
    Replicated,
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

/// What may be reached. Private, loopback and metadata addresses never, unless allowed here.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Egress {
    /// Networks that are allowed although they are not public, like `10.0.0.0/8`.
    pub allow: Vec<IpNet>,
    /// Ports that may be dialled; empty means every port.
    pub ports: Vec<u16>,
    /// Certificate authorities to trust besides the system's: PEM files.
    pub extra_ca: Vec<PathBuf>,
    /// Names that are not asked for in the DNS. Their addresses must be allowed all the same.
    pub hosts: Vec<StaticHost>,
    /// Kept of each response body. Default 16 KiB.
    #[serde(with = "units::size")]
    pub max_response: usize,
    /// Kept of all response bodies together until they are recorded; what does not fit is cut. Default 32 MiB.
    #[serde(with = "units::size")]
    pub response_bytes: usize,
    /// Open connections, idle ones too. Default 4,096.
    pub max_connections: usize,
    /// An idle connection is closed after this. Default 60 s.
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// Name resolution, TCP and TLS together. Default 10 s.
    #[serde(with = "units::duration")]
    pub connect_timeout: Duration,
    /// Proxies for destinations that name none. Default `environment`.
    pub proxy: Proxies,
}

/// Proxies for destinations that name none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proxies {
    /// None.
    None,
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say. Proxies are asked for addresses that may be reached.
    #[default]
    Environment,
    /// The same, but they are asked for names, for machines that cannot resolve them: what names lead to is theirs to judge.
    EnvironmentAndNames,
}

impl Default for Egress {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            ports: Vec::new(),
            extra_ca: Vec::new(),
            hosts: Vec::new(),
            max_response: 16 << 10,
            response_bytes: 32 << 20,
            max_connections: 4_096,
            idle_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            proxy: Proxies::default(),
        }
    }
}

/// A name with its addresses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticHost {
    /// The name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
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
