//! What host tests of plugins need: events to feed them, and a host that stands in for the gateway.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::{Algorithm, Event, Header, Host, Level, Request};

/// A `POST` with this body, `content-type: application/json`, and fixed id and time.
pub fn event(body: impl Into<Vec<u8>>) -> Event {
    Event {
        id: "evt_00000000000000000000000000".into(),
        accepted_at: 1_700_000_000_000,
        request: Request {
            method: "POST".into(),
            path: String::new(),
            query: None,
            headers: vec![Header { name: "content-type".into(), value: b"application/json".to_vec() }],
            body: body.into(),
        },
        attributes: Vec::new(),
    }
}

impl Event {
    /// The event with one more header line. For tests.
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.request.headers.push(Header { name: name.to_ascii_lowercase(), value: value.as_ref().to_vec() });
        self
    }
}

/// Computes a keyed hash: algorithm, key, message.
type Signer = Box<dyn Fn(Algorithm, &[u8], &[u8]) -> Vec<u8>>;

/// Stands in for the gateway: what a test configures, and what the plugin logged.
#[derive(Default)]
pub struct FakeHost {
    config: Option<String>,
    secrets: BTreeMap<String, Vec<u8>>,
    signer: Option<Signer>,
    now: u64,
    random: Cell<u64>,
    logs: RefCell<Vec<(Level, String)>>,
}

impl FakeHost {
    /// A host with no configuration and no secrets, at the time of [`event`].
    pub fn new() -> Self {
        Self { now: 1_700_000_000_000, ..Self::default() }
    }

    /// Configures the plugin with a JSON text.
    pub fn with_config(mut self, config: impl ToString) -> Self {
        self.config = Some(config.to_string());
        self
    }

    /// Hands a secret to the plugin.
    pub fn with_secret(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.secrets.insert(name.into(), value.into());
        self
    }

    /// Computes [`Host::hmac`]; without it, the result is empty.
    pub fn with_signer(mut self, signer: impl Fn(Algorithm, &[u8], &[u8]) -> Vec<u8> + 'static) -> Self {
        self.signer = Some(Box::new(signer));
        self
    }

    /// What the plugin logged.
    pub fn logs(&self) -> Vec<(Level, String)> {
        self.logs.borrow().clone()
    }
}

impl Host for FakeHost {
    fn log(&self, level: Level, message: &str) {
        self.logs.borrow_mut().push((level, message.into()));
    }

    fn config_text(&self) -> String {
        self.config.clone().unwrap_or_else(|| "{}".into())
    }

    fn secret(&self, name: &str) -> Option<Vec<u8>> {
        self.secrets.get(name).cloned()
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn random_bytes(&self, length: u32) -> Vec<u8> {
        (0..length).map(|_| self.random_number().to_le_bytes()[0]).collect()
    }

    /// Counts up from one.
    fn random_number(&self) -> u64 {
        self.random.set(self.random.get() + 1);
        self.random.get()
    }

    fn hmac(&self, algorithm: Algorithm, secret_name: &str, message: &[u8]) -> Option<Vec<u8>> {
        let key = self.secrets.get(secret_name)?;
        Some(self.signer.as_ref().map_or_else(Vec::new, |sign| sign(algorithm, key, message)))
    }
}
