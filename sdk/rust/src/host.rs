//! What a plugin may ask of the gateway.

use serde::de::DeserializeOwned;

use crate::Failure;
use crate::glue::filter::tidegate::plugin::{clock, config, hmac, kv, log, random, secret};

pub use hmac::Algorithm;
pub use kv::Error as KvError;
pub use log::Level;

/// What a plugin may ask of the gateway. In tests, [`crate::testing::FakeHost`] takes the gateway's place.
pub trait Host {
    /// A line in the run's record. Control characters are removed; lines and bytes are capped.
    fn log(&self, level: Level, message: &str);

    /// The plugin's configuration on this connection, a JSON text; `{}` if there is none.
    fn config_text(&self) -> String;

    /// A secret that the connection hands to this plugin; none if it names no such secret or keeps it for signing alone.
    fn secret(&self, name: &str) -> Option<Vec<u8>>;

    /// When the event was accepted: milliseconds since the Unix epoch.
    fn now(&self) -> u64;

    /// Random bytes, seeded from the event's id. At most 4,096 a call.
    fn random_bytes(&self, length: u32) -> Vec<u8>;

    /// A random number, seeded from the event's id.
    fn random_number(&self) -> u64;

    /// The raw keyed hash of `message` under a secret of the connection; none if it names no such secret.
    fn hmac(&self, algorithm: Algorithm, secret_name: &str, message: &[u8]) -> Option<Vec<u8>>;

    /// Whether `tag` is that hash, compared in a time that does not tell where they differ; none if there is no such secret.
    fn hmac_verify(&self, algorithm: Algorithm, secret_name: &str, message: &[u8], tag: &[u8]) -> Option<bool>;

    /// An entry of the plugin's table, which outlives the event and is shared by all connections of the plugin; none if there is none.
    /// For [`Filter`](crate::Filter) and [`Transform`](crate::Transform).
    ///
    /// Changes are made at once, and once for each event, however often it is planned. Asking for what is not at hand makes the gateway
    /// run the plugin again from the start with the answer: ask first, work afterwards.
    fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, KvError>;

    /// Makes or replaces an entry, for so many seconds if a number is given.
    fn kv_set(&self, key: &str, value: &[u8], ttl_seconds: Option<u32>) -> Result<(), KvError>;

    /// Makes an entry unless there is one; whether it did.
    fn kv_add(&self, key: &str, value: &[u8], ttl_seconds: Option<u32>) -> Result<bool, KvError>;

    /// Takes an entry away; whether there was one.
    fn kv_delete(&self, key: &str) -> Result<bool, KvError>;

    /// Adds to a number, and gives the sum. One that does not exist counts as zero.
    fn kv_increment(&self, key: &str, by: i64, ttl_seconds: Option<u32>) -> Result<i64, KvError>;
}

impl From<KvError> for Failure {
    /// What can be mended may be tried again; what is the plugin's own fault may not.
    fn from(error: KvError) -> Self {
        match error {
            KvError::QuotaExceeded => Self::later("kv-quota-exceeded", "the tenant's tables are full"),
            KvError::NotANumber => Self::never("kv-not-a-number", "the entry to add to is not a number"),
            KvError::TooLarge => Self::never("kv-too-large", "the key or the value is too large for the table"),
            KvError::NoTable => Self::never("kv-no-table", "there is no table here"),
        }
    }
}

impl dyn Host + '_ {
    /// The configuration, read into a type. Fails with `bad-config`, which no retry can help.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.config_text())
            .map_err(|error| Failure::never("bad-config", format!("the plugin's configuration: {error}")))
    }

    /// Logs at level debug.
    pub fn log_debug(&self, message: &str) {
        self.log(Level::Debug, message);
    }

    /// Logs at level info.
    pub fn log_info(&self, message: &str) {
        self.log(Level::Info, message);
    }

    /// Logs at level warn.
    pub fn log_warn(&self, message: &str) {
        self.log(Level::Warn, message);
    }
}

/// The gateway that this instance runs in.
pub(crate) struct Gateway;

impl Gateway {
    pub(crate) fn log_error(&self, message: &str) {
        self.log(Level::Error, message);
    }
}

impl Host for Gateway {
    fn log(&self, level: Level, message: &str) {
        log::write(level, message);
    }

    fn config_text(&self) -> String {
        config::get()
    }

    fn secret(&self, name: &str) -> Option<Vec<u8>> {
        secret::get(name)
    }

    fn now(&self) -> u64 {
        clock::now()
    }

    fn random_bytes(&self, length: u32) -> Vec<u8> {
        random::bytes(length)
    }

    fn random_number(&self) -> u64 {
        random::number()
    }

    fn hmac(&self, algorithm: Algorithm, secret_name: &str, message: &[u8]) -> Option<Vec<u8>> {
        hmac::sign(algorithm, secret_name, message)
    }

    fn hmac_verify(&self, algorithm: Algorithm, secret_name: &str, message: &[u8], tag: &[u8]) -> Option<bool> {
        hmac::verify(algorithm, secret_name, message, tag)
    }

    fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, KvError> {
        kv::get(key)
    }

    fn kv_set(&self, key: &str, value: &[u8], ttl_seconds: Option<u32>) -> Result<(), KvError> {
        kv::set(key, value, ttl_seconds)
    }

    fn kv_add(&self, key: &str, value: &[u8], ttl_seconds: Option<u32>) -> Result<bool, KvError> {
        kv::add(key, value, ttl_seconds)
    }

    fn kv_delete(&self, key: &str) -> Result<bool, KvError> {
        kv::delete(key)
    }

    fn kv_increment(&self, key: &str, by: i64, ttl_seconds: Option<u32>) -> Result<i64, KvError> {
        kv::increment(key, by, ttl_seconds)
    }
}
