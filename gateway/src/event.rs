//! What flows through the gateway: ids, events, deliveries, attempts. No I/O, and nothing of ours but the time type.
//!
//! Every record that is stored starts with a format version; see [`encode`]. A release reads its own version and the
//! one before, and refuses newer ones.

mod again;
mod attempt;
mod codec;
mod id;
mod part;

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use attempt::{Attempt, BatchPart};
pub use codec::{DecodeError, FORMAT, decode, decode_event, decode_with, encode, encode_event, encode_with};
pub use id::{
    BatchId, ConnectionId, DeliveryId, DestinationId, EventId, IdError, JobId, KeyId, PluginId, Revision, Shard, SourceId,
    TenantId, VersionHash,
};
pub use part::{AttemptPart, AttemptRole, NotAPart};

use crate::clock::Timestamp;

/// One accepted request, byte-exact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Made by the gateway before the store is asked, so that a re-send keeps it.
    pub id: EventId,
    /// Whose event it is.
    pub tenant: TenantId,
    /// Where it came in.
    pub source: SourceId,
    /// Configuration revision that it was accepted under; it is planned with that revision or a later one.
    pub revision: Revision,
    /// When the request had been read and verified.
    pub accepted_at: Timestamp,
    /// The request.
    pub request: Request,
    /// Plugin versions pinned at accept: the version that each connection with plugins ran when the event was taken.
    pub pins: Pins,
    /// The trace that the event belongs to, if the accept was traced.
    pub trace: Option<TraceContext>,
}

/// An HTTP request as it came in, or as it will go out: nothing is normalised but the header names' case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The method, as sent (`POST`).
    pub method: String,
    /// On an event: the path below the source, with its leading `/`, or empty. On an outgoing request: the path to append to
    /// the destination's.
    pub path: String,
    /// The raw query without `?`, if there was one.
    pub query: Option<String>,
    /// Headers in order, repeated ones repeated, names in lower case, values as raw bytes.
    pub headers: Vec<Header>,
    /// The body.
    pub body: Bytes,
}

/// A request that is read in several places at once: an event's own, or one that was made of it.
#[derive(Clone, Debug)]
pub enum SharedRequest {
    /// The event's.
    Event(Arc<Event>),
    /// A plugin's output, or a frozen delivery's.
    Made(Arc<Request>),
}

impl std::ops::Deref for SharedRequest {
    type Target = Request;

    fn deref(&self) -> &Request {
        match self {
            Self::Event(event) => &event.request,
            Self::Made(request) => request,
        }
    }
}

impl SharedRequest {
    /// The request itself; copied if somebody else still reads it.
    pub fn into_request(self) -> Request {
        match self {
            Self::Event(event) => event.request.clone(),
            Self::Made(request) => Arc::unwrap_or_clone(request),
        }
    }
}

/// One header line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Lower case.
    pub name: String,
    /// Any bytes that HTTP allows in a field value.
    pub value: Bytes,
}

impl Request {
    /// The first value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|header| header.name == name).map(|header| &header.value[..])
    }

    /// Bytes that this request holds: what a budget counts.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
        self.method.len() + self.path.len() + self.query.as_ref().map_or(0, String::len) + headers + self.body.len()
    }
}

/// Versions pinned at accept, one for each plugin in the chain of each of the source's connections, in order.
pub type Pins = Vec<Pin>;

/// The version that a connection's plugin resolved to when the event was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The connection.
    pub connection: ConnectionId,
    /// One version for each plugin in its chain.
    pub versions: Vec<VersionHash>,
}

/// A W3C trace context as it is carried inside an event (<https://www.w3.org/TR/trace-context/>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    /// 16 bytes.
    pub trace_id: u128,
    /// The accept span's id: parent of all that follows.
    pub span_id: u64,
    /// Decided once, at accept.
    pub sampled: bool,
}

/// Which queue of a shard an event waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Tenants inside their plan's throughput.
    Normal,
    /// What exceeds it.
    Low,
    /// Diverted by an operator.
    Held,
}

impl Lane {
    /// Every lane, in the order in which they are served.
    pub const ALL: [Self; 3] = [Self::Normal, Self::Low, Self::Held];

    /// The lane's name in keys, labels and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Low => "low",
            Self::Held => "held",
        }
    }
}

/// What a plan made of one event on one connection: a request to make, frozen. The timestamp, signature, destination's
/// credentials and `traceparent` are made afresh for each attempt and never stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Made from event, connection and output: the same on every re-plan, and sent as `webhook-id`.
    pub id: DeliveryId,
    /// The event that it came from.
    pub event: EventId,
    /// The tenant.
    pub tenant: TenantId,
    /// The connection.
    pub connection: ConnectionId,
    /// The destination.
    pub destination: DestinationId,
    /// Which output of the transform: 0 without one.
    pub output: u32,
    /// When the event was accepted.
    pub accepted_at: Timestamp,
    /// The request.
    pub request: Request,
    /// The event's trace.
    pub trace: Option<TraceContext>,
}

/// Why an attempt, or a plan, did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Who failed.
    pub party: Party,
    /// A stable, machine-readable name: `connect_timeout`, `status`, `fuel_exhausted`, ...
    pub code: String,
    /// One sentence for people. No secrets, no bodies.
    pub detail: String,
    /// Whether trying again can help.
    pub retryable: bool,
}

impl Failure {
    /// The code of the one failure that asks for no more deliveries: the destination answered 410.
    pub const GONE: &'static str = "gone";
    /// The code of a message that is larger than its broker takes.
    pub const MESSAGE_TOO_LARGE: &'static str = "message_too_large";
    /// The code of what no connection became free for in time: nothing was sent.
    pub const NO_CAPACITY: &'static str = "no_capacity";
    /// The code of what was queued when its tenant was deleted.
    pub const TENANT_DELETED: &'static str = "tenant_deleted";
}

/// Who failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// The gateway.
    Gateway,
    /// The tenant's plugin.
    Plugin,
    /// Name resolution, connection, TLS, transport.
    Network,
    /// The destination answered, and the answer is a refusal.
    Destination,
}

/// One run of a plugin over one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginRun {
    /// Which version ran.
    pub version: VersionHash,
    /// Fuel used.
    pub fuel: u64,
    /// Peak linear memory, bytes, summed.
    pub memory: u64,
    /// Wall time in microseconds.
    pub took_us: u64,
    /// How many outputs it gave (1 or 0 for a filter), or why it failed.
    pub outcome: Result<u32, Failure>,
    /// What it logged, up to the cap; control characters removed.
    pub logs: Vec<String>,
}
