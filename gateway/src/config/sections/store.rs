//! `[store]`.

use std::path::PathBuf;

use serde::Deserialize;

use super::Tls;
use crate::config::units;
use crate::secret::Secret;

/// Where events are kept, as it is written. Flat, so that a wrong field is found with its line.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct RawStore {
    pub(in crate::config) kind: StoreKind,
    pub(in crate::config) durability: Option<RawDurability>,
    pub(in crate::config) path: Option<PathBuf>,
    #[serde(deserialize_with = "units::size_option::deserialize")]
    pub(in crate::config) cache: Option<u64>,
    #[serde(deserialize_with = "units::size_option::deserialize")]
    pub(in crate::config) reserve: Option<u64>,
    pub(in crate::config) urls: Option<Vec<String>>,
    pub(in crate::config) mode: Option<RedisMode>,
    pub(in crate::config) sentinel_master: Option<String>,
    pub(in crate::config) ca_file: Option<PathBuf>,
    pub(in crate::config) cert_file: Option<PathBuf>,
    pub(in crate::config) key_file: Option<PathBuf>,
    pub(in crate::config) namespace: Option<String>,
    pub(in crate::config) assume_settings: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum StoreKind {
    #[default]
    Embedded,
    Redis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawDurability {
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
