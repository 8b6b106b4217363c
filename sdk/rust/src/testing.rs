//! What host tests of plugins need: events to feed them, and a host that stands in for the gateway.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::glue::filter::tidegate::plugin::types::HeaderChange;
use crate::{Algorithm, Arrival, Attempt, Event, Header, Host, KvError, Level, Output, QueryChange, Request};

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

/// The request of [`event`], as it comes in.
pub fn arrival(body: impl Into<Vec<u8>>) -> Arrival {
    let Event { accepted_at, request, .. } = event(body);
    Arrival { request, received_at: accepted_at, attributes: Vec::new() }
}

/// A first attempt to deliver [`event`] to `https://api.example.com/hook`.
pub fn attempt(body: impl Into<Vec<u8>>) -> Attempt {
    let Event { id, accepted_at, request, .. } = event(body);
    Attempt {
        delivery_id: "dlv_00000000000000000000000000".into(),
        event_id: id,
        number: 1,
        started_at: accepted_at,
        origin: "https://api.example.com".into(),
        request: Request { path: "/hook".into(), ..request },
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

/// What the gateway would send for this output of this event's transform.
pub fn sent(event: &Event, output: Output) -> Request {
    let Request { method, path, query, mut headers, body } = event.request.clone();
    for change in output.headers {
        match change {
            HeaderChange::Clear => headers.clear(),
            HeaderChange::Remove(name) => headers.retain(|header| !header.name.eq_ignore_ascii_case(&name)),
            HeaderChange::Set(header) => {
                let name = header.name.to_ascii_lowercase();
                let place = headers.iter().position(|header| header.name == name).unwrap_or(headers.len());
                headers.retain(|header| header.name != name);
                headers.insert(place, Header { name, value: header.value });
            }
            HeaderChange::Append(header) => headers.push(Header { name: header.name.to_ascii_lowercase(), value: header.value }),
        }
    }
    Request {
        method: output.method.unwrap_or(method),
        path: output.path.unwrap_or(path),
        query: match output.query {
            QueryChange::Keep => query,
            QueryChange::Remove => None,
            QueryChange::Set(query) => Some(query),
        },
        headers,
        body: output.body.unwrap_or(body),
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
    table: RefCell<BTreeMap<String, Vec<u8>>>,
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

    /// Puts an entry into the plugin's table. Nothing in it goes by its time to live.
    pub fn with_entry(self, key: &str, value: impl Into<Vec<u8>>) -> Self {
        self.table.borrow_mut().insert(key.into(), value.into());
        self
    }

    /// What is in the plugin's table.
    pub fn table(&self) -> BTreeMap<String, Vec<u8>> {
        self.table.borrow().clone()
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

    fn hmac_verify(&self, algorithm: Algorithm, secret_name: &str, message: &[u8], tag: &[u8]) -> Option<bool> {
        self.hmac(algorithm, secret_name, message).map(|expected| expected == tag)
    }

    fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.table.borrow().get(key).cloned())
    }

    fn kv_set(&self, key: &str, value: &[u8], _: Option<u32>) -> Result<(), KvError> {
        self.table.borrow_mut().insert(key.into(), value.into());
        Ok(())
    }

    fn kv_add(&self, key: &str, value: &[u8], _: Option<u32>) -> Result<bool, KvError> {
        let mut table = self.table.borrow_mut();
        let new = !table.contains_key(key);
        if new {
            table.insert(key.into(), value.into());
        }
        Ok(new)
    }

    fn kv_delete(&self, key: &str) -> Result<bool, KvError> {
        Ok(self.table.borrow_mut().remove(key).is_some())
    }

    fn kv_increment(&self, key: &str, by: i64, _: Option<u32>) -> Result<i64, KvError> {
        let mut table = self.table.borrow_mut();
        let number = match table.get(key) {
            Some(value) => std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok()).ok_or(KvError::NotANumber)?,
            None => 0,
        };
        let sum = number.checked_add(by).ok_or(KvError::NotANumber)?;
        table.insert(key.into(), sum.to_string().into_bytes());
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_the_gateway_would_send() {
        let event = event("in").with_header("x-a", "1").with_header("x-b", "2").with_header("x-a", "3");
        let lines = |output: Output| -> Vec<String> {
            let line = |header: &Header| format!("{}: {}", header.name, String::from_utf8_lossy(&header.value));
            sent(&event, output).headers.iter().map(line).collect()
        };
        assert_eq!((sent(&event, Output::new()).method, lines(Output::new()).len()), ("POST".into(), 4));
        assert_eq!(lines(Output::new().header("X-A", "4")), ["content-type: application/json", "x-a: 4", "x-b: 2"]);
        assert_eq!(lines(Output::new().remove_header("X-A").append_header("X-B", "5"))[1..], ["x-b: 2", "x-b: 5"]);
        assert_eq!(lines(Output::new().header("x-c", "6").clear_headers().header("x-d", "7")), ["x-d: 7"]);
        let all = sent(&event, Output::new().method("PUT").path("/p").query("q").body("out"));
        assert_eq!((&all.method[..], &all.path[..], all.query.as_deref(), &all.body[..]), ("PUT", "/p", Some("q"), &b"out"[..]));
    }
}
