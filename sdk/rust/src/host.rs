//! What a plugin may ask of the gateway.

use serde::de::DeserializeOwned;

use crate::Failure;
use crate::glue::filter::tidegate::plugin::{clock, config, hmac, log, random, secret};

pub use hmac::Algorithm;
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
}
