//! One trace for each event, from its HTTP request to its last attempt, made of what the gateway records anyway.
//!
//! ```text
//! POST /in/{source}        server    made at accept; its context travels inside the event
//! `- process {source}      consumer  one for each connection: filters, plugins
//!    |- plugin {name}      internal  fuel, memory, outcome
//!    |- POST               client    one for each attempt, retries too; its context goes out as `traceparent`
//!    |- batch              internal  one for each attempt in a request of several, linked with that request's span
//!    `- dead_letter ...    internal  where a delivery went when it did not just arrive
//! ```
//! Spans are built from records when these are complete, with the times that the records have; hot code is not instrumented.
//! The process span's id is derived from the accept span and the connection, so that a retry hours later, on another gateway,
//! still finds its parent without storing it.
//!
//! A request of several deliveries has one span, in the trace of one of them, with links to the others; its context goes out.
//!
//! **Sampling** is decided once, at accept. What failed or was slow is kept all the same: its span is sent even though the trace
//! is not sampled. The trace then begins with an accept span rebuilt from the event (`tidegate.rebuilt`, no duration), and
//! holds only what failed or was slow; spans between that went well are missing.
//!
//! Types here are plain: whoever calls this knows nothing of OpenTelemetry.

mod parent;
mod span;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::trace::SpanData;
use tokio::sync::mpsc;

pub use parent::{Incoming, Root, Sampler, Trust};

use super::metrics::Metrics;
use crate::clock::Timestamp;
use crate::event::{
    Attempt, BatchPart, ConnectionId, DeliveryId, DestinationId, Event, EventId, Failure, Lane, PluginRun, SourceId, TenantId,
    TraceContext,
};
use span::Builder;

/// Where spans go. Cheap to clone; does nothing if no receiver is configured.
#[derive(Clone, Debug, Default)]
pub struct Spans(Option<Arc<Pipeline>>);

#[derive(Debug)]
struct Pipeline {
    queue: mpsc::Sender<SpanData>,
    sampler: Sampler,
    slow: Duration,
    metrics: Metrics,
}

/// A trace's id for a log line; nothing if there is no trace.
#[derive(Clone, Copy, Debug)]
pub struct TraceId(pub Option<TraceContext>);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |trace| write!(f, "{:032x}", trace.trace_id))
    }
}

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// Where it came in.
    pub source: SourceId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The event, if one was made: none on a refusal.
    pub event: Option<EventId>,
    /// Size of the body.
    pub bytes: usize,
    /// The lane that it went to.
    pub lane: Option<Lane>,
    /// `1.1` or `2`.
    pub protocol: &'static str,
    /// The answer.
    pub status: u16,
    /// When its head had been read.
    pub started_at: Timestamp,
    /// From then to its answer.
    pub took: Duration,
    /// Why it was not taken, by its stable name.
    pub error: Option<&'static str>,
}

/// An event planned on one connection.
#[derive(Clone, Copy, Debug)]
pub struct Planned<'a> {
    /// The connection.
    pub connection: ConnectionId,
    /// When its planning started.
    pub started_at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// Outgoing requests, or why there are none.
    pub outcome: Result<u32, &'a Failure>,
}

/// Where an attempt went.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// Host name or address, without credentials.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// `http` or `https`.
    pub scheme: &'a str,
}

/// Which delivery an attempt is of.
#[derive(Clone, Copy, Debug)]
pub struct AttemptOf<'a> {
    /// The delivery.
    pub id: DeliveryId,
    /// The event that it came from.
    pub event: EventId,
    /// Its tenant.
    pub tenant: TenantId,
    /// The connection.
    pub connection: ConnectionId,
    /// The destination.
    pub destination: DestinationId,
    /// When the event was accepted.
    pub accepted_at: Timestamp,
    /// The request's method.
    pub method: &'a str,
    /// Size of its body.
    pub bytes: usize,
    /// The event's trace.
    pub trace: Option<TraceContext>,
}

/// Which request of several deliveries an attempt is.
#[derive(Clone, Copy, Debug)]
pub struct BatchOf {
    /// Its id and size.
    pub part: BatchPart,
    /// Its tenant.
    pub tenant: TenantId,
    /// The destination.
    pub destination: DestinationId,
    /// Size of its body.
    pub bytes: usize,
}

/// Where a delivery stands after a record.
#[derive(Clone, Copy, Debug)]
pub enum Settled<'a> {
    /// A complete 2xx head came.
    Delivered,
    /// It will be tried again.
    Scheduled {
        /// When.
        due: Timestamp,
    },
    /// Given up.
    DeadLettered {
        /// Why.
        reason: &'a Failure,
    },
}

/// The span of an attempt that is under way: its context goes out with the request.
#[derive(Clone, Copy, Debug)]
pub struct AttemptSpan {
    context: Option<TraceContext>,
}

impl AttemptSpan {
    /// Makes the span's id. The request carries [`AttemptSpan::traceparent`].
    pub fn start(trace: Option<TraceContext>) -> Self {
        Self { context: trace.map(|trace| TraceContext { span_id: parent::span_id(), ..trace }) }
    }

    /// The `traceparent` to send, if the event has a trace.
    pub fn traceparent(&self) -> Option<String> {
        self.context.map(parent::traceparent)
    }
}

impl Spans {
    /// Without a receiver: nothing is recorded, but contexts of trusted senders are still passed on.
    pub fn off() -> Self {
        Self::default()
    }

    /// Sends spans into `queue`; what does not fit is dropped and counted. Spans slower than `slow` are kept always.
    pub(super) fn new(queue: mpsc::Sender<SpanData>, sampler: Sampler, slow: Duration, metrics: Metrics) -> Self {
        Self(Some(Arc::new(Pipeline { queue, sampler, slow, metrics })))
    }

    /// Decides the trace of a request that just came in.
    pub fn incoming(&self, traceparent: Option<&[u8]>, trust: Trust) -> Incoming {
        Incoming::decide(self.0.as_ref().map(|pipeline| &pipeline.sampler), traceparent, trust)
    }

    /// The request was answered. Refusals are sent if the trace is sampled, too.
    pub fn accepted(&self, incoming: &Incoming, record: Accepted<'_>) {
        let (Some(pipeline), Some(context)) = (&self.0, incoming.context) else { return };
        let failed = record.status >= 500;
        if pipeline.wants(context, failed, record.took) {
            pipeline.send(span::accepted(incoming, context, &record));
        }
    }

    /// The event was planned on one connection, by filter and plugins.
    pub fn planned(&self, event: &Event, planned: Planned<'_>) {
        let Some((pipeline, trace)) = self.with(event.trace) else { return };
        let failed = planned.outcome.is_err();
        if pipeline.wants(trace, failed, planned.took) {
            if !trace.sampled {
                pipeline.send(span::rebuilt_accept(trace, event.id, event.tenant, event.accepted_at));
            }
            pipeline.send(span::planned(trace, event, &planned));
        }
    }

    /// A plugin ran over the event. `name` is the plugin's.
    pub fn plugin_run(&self, event: &Event, connection: ConnectionId, name: &str, started_at: Timestamp, run: &PluginRun) {
        let Some((pipeline, trace)) = self.with(event.trace) else { return };
        if pipeline.wants(trace, run.outcome.is_err(), Duration::from_micros(run.took_us)) {
            pipeline.send(span::plugin_run(trace, event.id, connection, name, started_at, run));
        }
    }

    /// A plugin signed an attempt that is under way, or judged its answer. `name` is the plugin's.
    pub fn visit(&self, span: AttemptSpan, of: AttemptOf<'_>, name: &str, started_at: Timestamp, run: &PluginRun) {
        let Some((pipeline, own)) = self.with(span.context) else { return };
        if pipeline.wants(own, run.outcome.is_err(), Duration::from_micros(run.took_us)) {
            pipeline.send(span::visit(own, of, name, started_at, run));
        }
    }

    /// An attempt ended, and this is where its delivery stands now.
    pub fn attempt(&self, span: AttemptSpan, delivery: AttemptOf<'_>, peer: Peer<'_>, attempt: &Attempt, settled: Settled<'_>) {
        let (Some((pipeline, trace)), Some(own)) = (self.with(delivery.trace), span.context) else { return };
        if !pipeline.wants(trace, attempt.failure.is_some(), Duration::from_micros(attempt.took_us)) {
            return;
        }
        if !trace.sampled && attempt.number <= 1 {
            pipeline.send(span::rebuilt_accept(trace, delivery.event, delivery.tenant, delivery.accepted_at));
        }
        pipeline.send(span::attempt(trace, own.span_id, delivery, peer, attempt, settled));
    }

    /// A request of several deliveries ended. `members` are their traces with their connections; the request's own is one of them.
    pub fn batch(
        &self,
        span: AttemptSpan,
        batch: BatchOf,
        peer: Peer<'_>,
        attempt: &Attempt,
        members: impl Iterator<Item = (TraceContext, ConnectionId)>,
    ) {
        let Some((pipeline, own)) = self.with(span.context) else { return };
        if pipeline.wants(own, attempt.failure.is_some(), Duration::from_micros(attempt.took_us)) {
            pipeline.send(span::batch(own, batch, peer, attempt, members));
        }
    }

    /// What became of one delivery of a batch; none if it waits on.
    pub fn batched(
        &self,
        batch: AttemptSpan,
        part: BatchPart,
        delivery: AttemptOf<'_>,
        attempt: &Attempt,
        settled: Option<Settled<'_>>,
    ) {
        let Some((pipeline, trace)) = self.with(delivery.trace) else { return };
        if !pipeline.wants(trace, attempt.failure.is_some(), Duration::from_micros(attempt.took_us)) {
            return;
        }
        if !trace.sampled && attempt.number <= 1 {
            pipeline.send(span::rebuilt_accept(trace, delivery.event, delivery.tenant, delivery.accepted_at));
        }
        pipeline.send(span::batched(trace, batch.context, part, delivery, attempt, settled));
    }

    /// A delivery was given up without an attempt, or after its last one was recorded elsewhere.
    pub fn dead_lettered(
        &self,
        trace: Option<TraceContext>,
        connection: Option<ConnectionId>,
        delivery: DeliveryId,
        at: Timestamp,
        reason: &Failure,
    ) {
        if let Some((pipeline, trace)) = self.with(trace) {
            pipeline.send(span::dead_lettered(trace, connection, delivery, at, reason));
        }
    }

    fn with(&self, trace: Option<TraceContext>) -> Option<(&Pipeline, TraceContext)> {
        Some((self.0.as_deref()?, trace?))
    }
}

impl Pipeline {
    fn wants(&self, trace: TraceContext, failed: bool, took: Duration) -> bool {
        trace.sampled || failed || took >= self.slow
    }

    fn send(&self, builder: Builder) {
        if self.queue.try_send(builder.finish()).is_err() {
            self.metrics.spans_dropped(1);
        }
    }
}
