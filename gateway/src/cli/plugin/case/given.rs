//! What comes in, as a case writes it.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::Data;
use super::expected::Whole;
use crate::clock::Timestamp;
use crate::config::Plugins;
use crate::event::{DeliveryId, EventId, Header, Request, SharedRequest};
use crate::plugin::{Attempted, Interface, Limits, Response};

/// The time of all that comes in.
const NOW: Timestamp = Timestamp(1_700_000_000_123);

/// An event.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct GivenEvent {
    id: EventId,
    accepted_at: Timestamp,
    method: String,
    path: String,
    query: Option<String>,
    headers: Vec<(String, Data)>,
    body: Data,
}

impl Default for GivenEvent {
    fn default() -> Self {
        let Whole { method, path, query, .. } = Whole::default();
        Self { id: EventId(7), accepted_at: NOW, method, path, query, headers: Vec::new(), body: Data::default() }
    }
}

/// A request that is not accepted yet.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct GivenArrival {
    received_at: Timestamp,
    method: String,
    path: String,
    query: Option<String>,
    headers: Vec<(String, Data)>,
    body: Data,
}

impl Default for GivenArrival {
    fn default() -> Self {
        let GivenEvent { accepted_at, method, path, query, headers, body, .. } = GivenEvent::default();
        Self { received_at: accepted_at, method, path, query, headers, body }
    }
}

/// An attempt, and what it sends.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct GivenAttempt {
    delivery_id: DeliveryId,
    event_id: EventId,
    number: u32,
    started_at: Timestamp,
    origin: String,
    method: String,
    path: String,
    query: Option<String>,
    headers: Vec<(String, Data)>,
    body: Data,
}

impl Default for GivenAttempt {
    fn default() -> Self {
        let GivenEvent { id, accepted_at, method, path, query, headers, body } = GivenEvent::default();
        let origin = "https://api.example.com".into();
        let delivery_id = DeliveryId(id.0);
        Self { delivery_id, event_id: id, number: 1, started_at: accepted_at, origin, method, path, query, headers, body }
    }
}

/// A destination's answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct GivenResponse {
    status: u16,
    headers: Vec<(String, Data)>,
    body: Data,
}

impl Default for GivenResponse {
    fn default() -> Self {
        Self { status: 200, headers: Vec::new(), body: Data::default() }
    }
}

/// What a plugin is asked about: whose random numbers it sees, when that is, and the request.
pub(super) type Subject = (EventId, Timestamp, SharedRequest);

impl GivenEvent {
    pub(super) fn subject(&self) -> Subject {
        let Self { id, accepted_at, method, path, query, headers, body } = self;
        (*id, *accepted_at, request(method, path, query.as_ref(), headers, body))
    }

    pub(super) fn data(&mut self) -> impl Iterator<Item = &mut Data> {
        values(&mut self.headers).chain([&mut self.body])
    }
}

impl GivenArrival {
    pub(super) fn subject(&self) -> Subject {
        let Self { received_at, method, path, query, headers, body } = self;
        (GivenEvent::default().id, *received_at, request(method, path, query.as_ref(), headers, body))
    }

    pub(super) fn data(&mut self) -> impl Iterator<Item = &mut Data> {
        values(&mut self.headers).chain([&mut self.body])
    }
}

impl GivenAttempt {
    pub(super) fn subject(&self) -> Subject {
        let Self { event_id, started_at, method, path, query, headers, body, .. } = self;
        (*event_id, *started_at, request(method, path, query.as_ref(), headers, body))
    }

    pub(super) fn attempted(&self) -> Attempted {
        Attempted {
            delivery: self.delivery_id,
            event: self.event_id,
            number: self.number,
            started_at: self.started_at,
            origin: self.origin.clone(),
        }
    }

    pub(super) fn data(&mut self) -> impl Iterator<Item = &mut Data> {
        values(&mut self.headers).chain([&mut self.body])
    }
}

impl GivenResponse {
    pub(super) fn response(&self) -> Response {
        Response { status: self.status, headers: lines(&self.headers), body: self.body.bytes().into() }
    }

    pub(super) fn data(&mut self) -> impl Iterator<Item = &mut Data> {
        values(&mut self.headers).chain([&mut self.body])
    }
}

fn values(headers: &mut [(String, Data)]) -> impl Iterator<Item = &mut Data> {
    headers.iter_mut().map(|(_, value)| value)
}

fn lines(headers: &[(String, Data)]) -> Vec<Header> {
    headers.iter().map(|(name, value)| Header { name: name.to_ascii_lowercase(), value: value.bytes().into() }).collect()
}

fn request(method: &str, path: &str, query: Option<&String>, headers: &[(String, Data)], body: &Data) -> SharedRequest {
    SharedRequest::Made(Arc::new(Request {
        method: method.into(),
        path: path.into(),
        query: query.cloned(),
        headers: lines(headers),
        body: body.bytes().into(),
    }))
}

/// A secret.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GivenSecret {
    pub(super) value: Data,
    /// The value stays with the gateway.
    #[serde(default)]
    pub(super) sign_only: bool,
}

/// Those limits that differ from a gateway's defaults.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct GivenLimits {
    fuel: Option<u64>,
    wall_ms: Option<u64>,
    memory: Option<usize>,
    table_elements: Option<usize>,
    outputs: Option<usize>,
    output_bytes: Option<usize>,
    log_lines: Option<usize>,
    log_bytes: Option<usize>,
    log_flood: Option<usize>,
    host_calls: Option<u32>,
    table_ops: Option<u32>,
    table_traffic: Option<usize>,
    /// The plan's.
    pub(super) table_bytes: Option<u64>,
}

impl GivenLimits {
    /// The fuel of what a sender or an attempt waits for is a gateway's. Its wall clock is not: a case's outcome is not to be this machine's.
    pub(super) fn limits(&self, ask: Interface) -> Limits {
        let mut usual = Limits::default();
        if !matches!(ask, Interface::Filter | Interface::Transform) {
            usual.fuel = Plugins::default().gate_fuel;
        }
        Limits {
            fuel: self.fuel.unwrap_or(usual.fuel),
            wall: self.wall_ms.map_or(usual.wall, Duration::from_millis),
            memory: self.memory.unwrap_or(usual.memory),
            table_elements: self.table_elements.unwrap_or(usual.table_elements),
            outputs: self.outputs.unwrap_or(usual.outputs),
            output_bytes: self.output_bytes.unwrap_or(usual.output_bytes),
            log_lines: self.log_lines.unwrap_or(usual.log_lines),
            log_bytes: self.log_bytes.unwrap_or(usual.log_bytes),
            log_flood: self.log_flood.unwrap_or(usual.log_flood),
            host_calls: self.host_calls.unwrap_or(usual.host_calls),
            table_ops: self.table_ops.unwrap_or(usual.table_ops),
            table_traffic: self.table_traffic.unwrap_or(usual.table_traffic),
        }
    }
}
