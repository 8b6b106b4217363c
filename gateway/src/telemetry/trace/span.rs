//! Spans out of records, by the semantic conventions for HTTP and messaging.

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry::trace::{Event as SpanEvent, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::{Accepted, AttemptOf, BatchOf, Incoming, Peer, Planned, Settled, parent};
use crate::clock::Timestamp;
use crate::event::{Attempt, BatchPart, ConnectionId, DeliveryId, Event, EventId, Failure, PluginRun, TenantId, TraceContext};

/// A span in the making.
pub(super) struct Builder(SpanData);

/// The server span of a request.
pub(super) fn accepted(incoming: &Incoming, context: TraceContext, record: &Accepted<'_>) -> Builder {
    let name = format!("{} /in/{{source}}", method(record.method));
    let mut span = Builder::new(context, context.span_id, incoming.parent, SpanKind::Server, name);
    span.0.parent_span_is_remote = incoming.parent.is_some();
    span.lasted(record.started_at, record.took);
    if let Some(link) = incoming.link {
        span.0.links.links.push(Link::new(context_of(link, link.span_id, true), Vec::new(), 0));
    }
    span.set("http.request.method", method(record.method));
    span.set("http.route", "/in/{source}");
    span.set("http.response.status_code", i64::from(record.status));
    span.set("http.request.body.size", count(record.bytes));
    span.set("network.protocol.name", "http");
    span.set("network.protocol.version", record.protocol);
    span.set("tidegate.source", record.source.to_string());
    span.set("tidegate.tenant", record.tenant.to_string());
    if let Some(event) = record.event {
        span.set("messaging.message.id", event.to_string());
    }
    if let Some(lane) = record.lane {
        span.set("tidegate.lane", lane.as_str());
    }
    if let Some(error) = record.error {
        span.set("error.type", error);
    }
    if record.status >= 500 {
        // A server span is an error only if the server is to blame.
        span.0.status = Status::error(record.error.unwrap_or("error"));
    }
    span
}

/// The accept span again, for a trace that was not sampled and turned out to matter.
pub(super) fn rebuilt_accept(trace: TraceContext, event: EventId, tenant: TenantId, accepted_at: Timestamp) -> Builder {
    let mut span = Builder::new(trace, trace.span_id, None, SpanKind::Server, "POST /in/{source}".to_owned());
    span.lasted(accepted_at, Duration::ZERO);
    span.set("tidegate.rebuilt", true);
    span.set("messaging.message.id", event.to_string());
    span.set("tidegate.tenant", tenant.to_string());
    span
}

/// The consumer span of an event on one connection.
pub(super) fn planned(trace: TraceContext, event: &Event, planned: &Planned<'_>) -> Builder {
    let own = process_span(trace, Some(planned.connection));
    let mut span = Builder::new(trace, own, Some(trace.span_id), SpanKind::Consumer, "process event".to_owned());
    span.lasted(planned.started_at, planned.took);
    span.set("messaging.system", "tidegate");
    span.set("messaging.operation.type", "process");
    span.set("messaging.operation.name", "process");
    span.set("messaging.destination.name", event.source.to_string());
    span.set("messaging.message.id", event.id.to_string());
    span.set("messaging.message.body.size", count(event.request.body.len()));
    span.set("tidegate.connection", planned.connection.to_string());
    span.set("tidegate.tenant", event.tenant.to_string());
    span.set("tidegate.queue.wait", planned.started_at.since(event.accepted_at).as_secs_f64());
    match planned.outcome {
        Ok(outputs) => span.set("tidegate.outputs", i64::from(outputs)),
        Err(failure) => span.fail(failure),
    }
    span
}

/// One run of a plugin over an event on one connection.
pub(super) fn plugin_run(
    trace: TraceContext,
    event: EventId,
    connection: ConnectionId,
    name: &str,
    started_at: Timestamp,
    run: &PluginRun,
) -> Builder {
    let parent = process_span(trace, Some(connection));
    run_below(trace, parent, (event, connection), name, started_at, run)
}

/// One run of a plugin that signs an attempt or judges its answer, below the attempt's span.
pub(super) fn visit(attempt: TraceContext, of: AttemptOf<'_>, name: &str, started_at: Timestamp, run: &PluginRun) -> Builder {
    run_below(attempt, attempt.span_id, (of.event, of.connection), name, started_at, run)
}

fn run_below(
    trace: TraceContext,
    parent: u64,
    (event, connection): (EventId, ConnectionId),
    name: &str,
    started_at: Timestamp,
    run: &PluginRun,
) -> Builder {
    let mut span = Builder::new(trace, parent::span_id(), Some(parent), SpanKind::Internal, format!("plugin {name}"));
    span.lasted(started_at, Duration::from_micros(run.took_us));
    span.set("messaging.message.id", event.to_string());
    span.set("tidegate.connection", connection.to_string());
    span.set("tidegate.plugin.name", name.to_owned());
    span.set("tidegate.plugin.version", run.version.to_string());
    span.set("tidegate.plugin.fuel", i64::try_from(run.fuel).unwrap_or(i64::MAX));
    span.set("tidegate.plugin.memory", i64::try_from(run.memory).unwrap_or(i64::MAX));
    span.set("tidegate.plugin.log_lines", count(run.logs.len()));
    match &run.outcome {
        Ok(outputs) => span.set("tidegate.outputs", i64::from(*outputs)),
        Err(failure) => span.fail(failure),
    }
    span
}

/// The client span of one attempt.
pub(super) fn attempt(
    trace: TraceContext,
    own: u64,
    delivery: AttemptOf<'_>,
    peer: Peer<'_>,
    attempt: &Attempt,
    settled: Settled<'_>,
) -> Builder {
    let verb = method(delivery.method);
    let parent = process_span(trace, Some(delivery.connection));
    let is_http = matches!(peer.scheme, "http" | "https");
    let (kind, name) = if is_http { (SpanKind::Client, verb.to_string()) } else { (SpanKind::Producer, "send".to_owned()) };
    let mut span = Builder::new(trace, own, Some(parent), kind, name);
    let took = Duration::from_micros(attempt.took_us);
    span.lasted(attempt.started_at, took);
    span.set("server.address", peer.host.to_owned());
    span.set("server.port", i64::from(peer.port));
    if is_http {
        span.set("http.request.method", verb);
        // Without path and query: they may carry what is the tenant's alone.
        span.set("url.full", format!("{}://{}:{}/", peer.scheme, peer.host, peer.port));
        span.set("url.scheme", peer.scheme.to_owned());
        span.set("http.request.body.size", count(delivery.bytes));
        if attempt.number > 1 {
            span.set("http.request.resend_count", i64::from(attempt.number - 1));
        }
    } else {
        span.set("messaging.system", messaging_system(peer.scheme));
        span.set("messaging.operation.type", "send");
        span.set("messaging.message.body.size", count(delivery.bytes));
    }
    if let Some(status) = attempt.status {
        span.set("http.response.status_code", i64::from(status));
    }
    span.delivery(&delivery, attempt);
    span.settle(settled);
    span
}

/// Links of one span; more are counted and left out.
const MAX_LINKS: usize = 128;

/// The client span of one request of several deliveries: linked with the others, below the one whose trace it is in.
pub(super) fn batch(
    own: TraceContext,
    batch: BatchOf,
    peer: Peer<'_>,
    attempt: &Attempt,
    members: impl Iterator<Item = (TraceContext, ConnectionId)>,
) -> Builder {
    let (mut parent, mut links, mut left) = (None, Vec::new(), 0);
    for (trace, connection) in members {
        let process = process_span(trace, Some(connection));
        if parent.is_none() && trace.trace_id == own.trace_id {
            parent = Some(process);
        } else if links.len() < MAX_LINKS {
            links.push(Link::new(context_of(trace, process, false), Vec::new(), 0));
        } else {
            left += 1;
        }
    }
    let mut span = Builder::new(own, own.span_id, parent, SpanKind::Client, "POST".to_owned());
    (span.0.links.links, span.0.links.dropped_count) = (links, left);
    span.lasted(attempt.started_at, Duration::from_micros(attempt.took_us));
    span.set("server.address", peer.host.to_owned());
    span.set("server.port", i64::from(peer.port));
    span.set("http.request.method", "POST");
    span.set("url.full", format!("{}://{}:{}/", peer.scheme, peer.host, peer.port));
    span.set("url.scheme", peer.scheme.to_owned());
    span.set("http.request.body.size", count(batch.bytes));
    if let Some(status) = attempt.status {
        span.set("http.response.status_code", i64::from(status));
    }
    span.set("messaging.batch.message_count", i64::from(batch.part.size));
    span.set("tidegate.batch", batch.part.id.to_string());
    span.set("tidegate.destination", batch.destination.to_string());
    span.set("tidegate.tenant", batch.tenant.to_string());
    if let Some(failure) = &attempt.failure {
        span.fail(failure);
    }
    span
}

/// The span of one delivery's attempt in a batch, linked with the request's.
pub(super) fn batched(
    trace: TraceContext,
    batch: Option<TraceContext>,
    part: BatchPart,
    delivery: AttemptOf<'_>,
    attempt: &Attempt,
    settled: Option<Settled<'_>>,
) -> Builder {
    let parent = process_span(trace, Some(delivery.connection));
    let mut span = Builder::new(trace, parent::span_id(), Some(parent), SpanKind::Internal, "batch".to_owned());
    if let Some(batch) = batch {
        span.0.links.links.push(Link::new(context_of(batch, batch.span_id, false), Vec::new(), 0));
    }
    span.lasted(attempt.started_at, Duration::from_micros(attempt.took_us));
    if let Some(status) = attempt.status {
        span.set("http.response.status_code", i64::from(status));
    }
    span.set("messaging.batch.message_count", i64::from(part.size));
    span.set("tidegate.batch", part.id.to_string());
    span.delivery(&delivery, attempt);
    if let Some(settled) = settled {
        span.settle(settled);
    }
    span
}

/// What semantic conventions call the broker of a URL scheme.
fn messaging_system(scheme: &str) -> &'static str {
    match scheme {
        "redis" | "rediss" => "redis",
        "amqp" | "amqps" => "rabbitmq",
        "kafka" | "kafka+tls" => "kafka",
        _ => "nats",
    }
}

/// A delivery that was given up outside of an attempt.
pub(super) fn dead_lettered(
    trace: TraceContext,
    connection: Option<ConnectionId>,
    delivery: DeliveryId,
    at: Timestamp,
    reason: &Failure,
) -> Builder {
    let parent = process_span(trace, connection);
    let mut span = Builder::new(trace, parent::span_id(), Some(parent), SpanKind::Internal, "dead_letter".to_owned());
    span.lasted(at, Duration::ZERO);
    span.set("tidegate.delivery", delivery.to_string());
    span.fail(reason);
    span
}

impl Builder {
    fn new(trace: TraceContext, own: u64, parent: Option<u64>, span_kind: SpanKind, name: String) -> Self {
        Self(SpanData {
            span_context: context_of(trace, own, false),
            parent_span_id: parent.map_or(SpanId::INVALID, |id| SpanId::from_bytes(id.to_be_bytes())),
            parent_span_is_remote: false,
            span_kind,
            name: Cow::Owned(name),
            start_time: std::time::UNIX_EPOCH,
            end_time: std::time::UNIX_EPOCH,
            attributes: Vec::with_capacity(16),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("tidegate").with_version(env!("CARGO_PKG_VERSION")).build(),
        })
    }

    pub(super) fn finish(self) -> SpanData {
        self.0
    }

    fn lasted(&mut self, from: Timestamp, took: Duration) {
        self.0.start_time = from.to_system_time();
        self.0.end_time = self.0.start_time + took;
    }

    fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.attributes.push(KeyValue::new(key, value));
    }

    /// What the span of an attempt says of its delivery, and how it failed.
    fn delivery(&mut self, delivery: &AttemptOf<'_>, attempt: &Attempt) {
        self.set("tidegate.delivery", delivery.id.to_string());
        self.set("messaging.message.id", delivery.event.to_string());
        self.set("tidegate.connection", delivery.connection.to_string());
        self.set("tidegate.destination", delivery.destination.to_string());
        self.set("tidegate.tenant", delivery.tenant.to_string());
        if attempt.number == 1 {
            self.set("tidegate.delivery.latency", attempt.started_at.since(delivery.accepted_at).as_secs_f64());
        }
        if let Some(failure) = &attempt.failure {
            self.fail(failure);
        }
    }

    fn fail(&mut self, failure: &Failure) {
        self.set("error.type", failure.code.clone());
        self.0.status = Status::error(failure.detail.clone());
    }

    fn settle(&mut self, settled: Settled<'_>) {
        let (name, attributes) = match settled {
            Settled::Delivered => ("delivered", Vec::new()),
            Settled::Scheduled { due } => ("scheduled", vec![KeyValue::new("tidegate.due", due.to_string())]),
            Settled::DeadLettered { reason } => {
                let code = KeyValue::new("error.type", reason.code.clone());
                ("dead_lettered", vec![code, KeyValue::new("tidegate.reason", reason.detail.clone())])
            }
        };
        self.0.events.events.push(SpanEvent::new(name, self.0.end_time, attributes, 0));
    }
}

/// Derived, not random: see the module's documentation. Work that belongs to no connection hangs below the accept span.
fn process_span(trace: TraceContext, connection: Option<ConnectionId>) -> u64 {
    let Some(connection) = connection else { return trace.span_id };
    let seed = trace.span_id ^ (connection.0 as u64) ^ ((connection.0 >> 64) as u64).rotate_left(32);
    // SplitMix64's finaliser: every bit of the seed reaches every bit of the id.
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)).max(1)
}

fn context_of(trace: TraceContext, span: u64, remote: bool) -> SpanContext {
    let flags = if trace.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace_id, span_id) = (TraceId::from_bytes(trace.trace_id.to_be_bytes()), SpanId::from_bytes(span.to_be_bytes()));
    SpanContext::new(trace_id, span_id, flags, remote, TraceState::default())
}

/// Methods that are not known become `_OTHER`, as the conventions ask: names stay few.
fn method(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.iter().find(|known| **known == method).copied().unwrap_or("_OTHER")
}

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
