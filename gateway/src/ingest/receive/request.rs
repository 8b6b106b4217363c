//! One request, from its head to its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST};
use http::request::Parts as Head;
use http::{Request, StatusCode, Version};
use hyper::body::{Body, Incoming};

use super::answer::{self, Answer, Extra, Refusal, jitter};
use super::body::{self, BodyError, Room};
use super::connection::Context;
use super::gate::{self, Said};
use super::{Limits, Shared, cloud_event, dedup, handshake};
use crate::clock::{self, Timestamp};
use crate::config::units::ShownSize;
use crate::control::snapshot::{Format, Source, Tenant};
use crate::event::{self, Event, EventId, Header, Lane, Revision, Shard, SourceId};
use crate::ingest::accept::AcceptError;
use crate::ingest::quota::Quota;
use crate::ingest::verify::VerifyError;
use crate::plugin::Response;
use crate::store::{Acceptance, Accepted, Home, StoreError};
use crate::telemetry::metrics::Ingested;
use crate::telemetry::trace::{self, Incoming as Trace, Trust};

/// What every path of the ingest listener starts with.
const PREFIX: &str = "/in/";

/// Takes a request as far as it goes, and answers.
pub(super) async fn handle(context: &Context, request: Request<Incoming>) -> Answer {
    let (shared, activity) = (&*context.shared, &*context.activity);
    let _busy = activity.busy(request.version() == Version::HTTP_2);
    let started = clock::monotonic();
    let now = shared.parts.clock.now();
    let (head, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    let mut seen = Seen { started, now, trace: Trace::default(), source: None, lane: None, bytes: 0 };
    let outcome = take(context, &mut seen, &head, body).await;
    let took = started.elapsed();
    let (answer, result, event) = match &outcome {
        Ok(Taken::Event(id, Accepted::New { .. })) => (answer::accepted(*id), Ingested::Accepted, Some(*id)),
        Ok(Taken::Event(_, Accepted::Duplicate(first))) => (answer::duplicate(*first), Ingested::Duplicate, Some(*first)),
        Ok(Taken::Permitted(answer)) => (answer.clone(), Ingested::Answered, None),
        Ok(Taken::Answered(response)) => (answer::given(response.clone()), Ingested::Answered, None),
        Err(refusal) => {
            if has_body {
                activity.linger();
            }
            (refusal.answer(), refusal.outcome, None)
        }
    };
    shared.parts.metrics.ingested(result, took);
    let error = outcome.as_ref().err().map(|refusal| refusal.code);
    record(shared, &seen, &head, event, answer.status(), took, error);
    answer
}

/// What became known of a request on its way, for its span.
struct Seen {
    started: Instant,
    now: Timestamp,
    trace: Trace,
    source: Option<Arc<Source>>,
    lane: Option<Lane>,
    bytes: usize,
}

/// What became of a request that was not refused.
enum Taken {
    /// It is an event.
    Event(EventId, Accepted),
    /// A plugin answered it; it is no event.
    Answered(Response),
    /// It asked whether its sender may send.
    Permitted(Answer),
}

async fn take(context: &Context, seen: &mut Seen, head: &Head, body: Incoming) -> Result<Taken, Refusal> {
    let shared = &*context.shared;
    let limits = &shared.limits;
    let (source, revision) = find(shared, head.uri.path())?;
    let source = &*seen.source.insert(source);
    if let Some(answered) = handshake::answer(source, head).filter(|_| source.enabled) {
        return answered.map(Taken::Permitted);
    }
    check_head(limits, source, head)?;
    let trust = if source.trust_trace { Trust::Parent } else { Trust::Link };
    seen.trace = shared.parts.spans.incoming(head.headers.get("traceparent").map(|value| value.as_bytes()), trust);

    let cap = source.max_body;
    check_length(head, cap)?;
    let tenant = &*source.tenant;
    let quota = shared.parts.acceptor.quotas().of(Home { tenant: tenant.id, shard: tenant.shards.home() });
    check_plan(shared, tenant, &quota, seen.now).await?;
    let share = shared.source_bodies.of(source.id);
    let mut room = Room::new(&shared.bodies, context.peer.bodies.as_ref(), &share);
    let body = body::read(body, cap, seen.started, limits, &mut room).await.map_err(|error| refuse_body(error, cap, limits))?;
    seen.bytes = body.len();

    let mut request = copy(head, body);
    let mut verdict = None;
    if gate::is_asked(source) {
        // On the heap: most sources have none, and all requests would carry its room along.
        match Box::pin(ask_plugins(shared, source, request, seen.now)).await? {
            (_, Said::Answer(response)) => return Ok(Taken::Answered(response)),
            (given_back, Said::Event(said)) => (request, verdict) = (given_back, said),
        }
    }
    let id = EventId::new(seen.now, rand::random());
    let event = Event {
        id,
        tenant: source.tenant.id,
        source: source.id,
        revision,
        accepted_at: seen.now,
        request,
        pins: source.pins_for(id),
        trace: seen.trace.context,
    };
    let dedup = source.dedup.as_ref().and_then(|rule| dedup::key(rule, source.id, &event.request));
    let event = source.verifier.verify_by(event, seen.now, verdict).map_err(|error| unauthorized(&error))?;
    if source.format == Format::CloudEvents {
        cloud_event::check(&event.event().request).map_err(not_a_cloud_event)?;
    }
    let shard = if source.is_ordered {
        tenant.shards.home()
    } else {
        tenant.shards.place(event.event().id, dedup.as_ref().map(|dedup| &dedup.key))
    };
    let lane = choose_lane(shared, source, shard, &quota, revision, head, seen.now)?;
    seen.lane = Some(lane);
    let acceptance = Acceptance { event, shard, lane, dedup };
    let deadline = seen.started + limits.total;
    match context.activity.within(deadline, shared.parts.acceptor.accept(acceptance)).await {
        Some(accepted) => match accepted {
            Ok((id, accepted)) => Ok(Taken::Event(id, accepted)),
            Err(error) => Err(not_accepted(&error, limits)),
        },
        None => Err(Refusal::unavailable(
            "store_timeout",
            "The store did not confirm the event in time. It may have been accepted; sending it again is safe if the source drops duplicates.",
            Ingested::StoreFailed,
            limits.retry_after,
        )),
    }
}

async fn ask_plugins(
    shared: &Shared,
    source: &Arc<Source>,
    request: event::Request,
    now: Timestamp,
) -> Result<(event::Request, Said), Refusal> {
    match &shared.gate {
        Some(gate) => gate.ask(shared, source, request, now).await,
        None => Err(Refusal::unavailable(
            "plugins_unavailable",
            "The source needs its plugins, and this gateway runs none. Nothing was kept.",
            Ingested::PluginFailed,
            shared.limits.retry_after,
        )),
    }
}

/// A tenant that uses more than its plan allows is told so, before its body is read; nobody else notices.
async fn check_plan(shared: &Shared, tenant: &Tenant, quota: &Quota, now: Timestamp) -> Result<(), Refusal> {
    let (acceptor, plan) = (&shared.parts.acceptor, &tenant.plan);
    if acceptor.is_full(quota, tenant, now).await {
        let detail = format!(
            "The tenant has as much queued as its plan allows: plan.queued_bytes is {}. Nothing was kept. Wait until some of it is delivered, put right the destinations that it waits for, or have plan.queued_bytes raised.",
            ShownSize(plan.queued_bytes)
        );
        return Err(Refusal::over_plan("queued_bytes_exceeded", detail).extra(Extra::RetryAfter(jitter(shared.limits.retry_after))));
    }
    acceptor.quotas().pass(quota, plan, now).map_err(|room_in| {
        let detail = format!(
            "The tenant sends more than its plan takes: plan.ceiling is {} events per second. Nothing was kept. Send more slowly, or have plan.ceiling raised.",
            plan.ceiling
        );
        let whole = Duration::from_secs(room_in.as_secs() + u64::from(room_in.subsec_nanos() > 0));
        Refusal::over_plan("ceiling_exceeded", detail).extra(Extra::RetryAfter(whole.max(Duration::from_secs(1))))
    })
}

/// A body may take its time: its source may be gone by then, or diverted.
fn choose_lane(
    shared: &Shared,
    source: &Source,
    shard: Shard,
    quota: &Quota,
    revision: Revision,
    head: &Head,
    now: Timestamp,
) -> Result<Lane, Refusal> {
    let snapshot = shared.parts.snapshots.load();
    if snapshot.revision != revision {
        find(shared, head.uri.path())?;
    }
    if snapshot.traffic.diversion(source.tenant.id, source.id, shard).is_some() {
        return Ok(Lane::Held);
    }
    let lane = shared.parts.acceptor.quotas().lane(quota, &source.tenant.plan, now);
    // What comes by the low lane would be overtaken.
    Ok(if source.is_ordered { Lane::Normal } else { lane })
}

/// The source that a path names, whatever it looks like.
fn find(shared: &Shared, path: &str) -> Result<(Arc<Source>, Revision), Refusal> {
    let id = path.strip_prefix(PREFIX).map(|rest| rest.split('/').next().unwrap_or(rest));
    let id: SourceId = id.and_then(|id| id.parse().ok()).ok_or_else(Refusal::unknown_source)?;
    let snapshot = shared.parts.snapshots.load();
    let source = snapshot.sources.get(&id).cloned().ok_or_else(Refusal::unknown_source)?;
    Ok((source, snapshot.revision))
}

fn check_head(limits: &Limits, source: &Source, head: &Head) -> Result<(), Refusal> {
    if !source.enabled {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "source_disabled", "The source is disabled", Ingested::Refused)
            .detail("Its owner disabled it: nothing sent to it is kept until it is enabled again."));
    }
    if let Some(methods) = source.methods.as_ref().filter(|methods| !methods.contains(&head.method)) {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed", Ingested::Refused)
            .detail("The source takes only the methods that the header `allow` lists.")
            .field("method")
            .extra(Extra::Allow(methods.clone())));
    }
    let too_large = |detail: String| {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Err(Refusal::new(status, "head_too_large", "Request head too large", Ingested::TooLarge).detail(detail).field("headers"))
    };
    if head.headers.len() > limits.header_count {
        return too_large(format!("Send at most {} header lines.", limits.header_count));
    }
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let lines: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if target + lines > limits.head_bytes {
        return too_large(format!("Keep path, query and headers together under {} bytes.", limits.head_bytes));
    }
    Ok(())
}

/// A body that says that it is too large is not read at all.
fn check_length(head: &Head, cap: usize) -> Result<(), Refusal> {
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if usize::try_from(length).map_or(true, |length| length > cap) => Err(too_large(cap)),
        _ => Ok(()),
    }
}

/// The request as it came. Values share one allocation.
fn copy(head: &Head, body: Bytes) -> event::Request {
    let below = head.uri.path().get(PREFIX.len()..).and_then(|rest| rest.find('/').map(|at| &rest[at..]));
    let size: usize = head.headers.values().map(|value| value.len()).sum();
    let mut values = BytesMut::with_capacity(size);
    let mut headers = Vec::with_capacity(head.headers.len() + 1);
    if let Some(authority) = head.uri.authority().filter(|_| !head.headers.contains_key(HOST)) {
        headers.push(Header { name: HOST.as_str().to_owned(), value: Bytes::copy_from_slice(authority.as_str().as_bytes()) });
    }
    for (name, value) in &head.headers {
        values.extend_from_slice(value.as_bytes());
        headers.push(Header { name: name.as_str().to_owned(), value: values.split().freeze() });
    }
    event::Request {
        method: head.method.as_str().to_owned(),
        path: below.unwrap_or_default().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers,
        body,
    }
}

fn too_large(cap: usize) -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Body too large", Ingested::TooLarge)
        .detail(format!("The source takes bodies up to {cap} bytes. Nothing was kept."))
        .field("body")
}

fn refuse_body(error: BodyError, cap: usize, limits: &Limits) -> Refusal {
    match error {
        BodyError::TooLarge => too_large(cap),
        BodyError::NoRoom => Refusal::unavailable(
            "overloaded",
            "Too many bodies are being received. Nothing was kept.",
            Ingested::Overloaded,
            limits.retry_after,
        ),
        BodyError::TooSlow => Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "Body too slow", Ingested::TimedOut)
            .detail(format!(
                "Send the whole body within {} s, at {} bytes per second or more. Nothing was kept.",
                limits.body.as_secs(),
                limits.body_rate
            ))
            .field("body")
            .extra(Extra::Close),
        BodyError::Incomplete => Refusal::new(StatusCode::BAD_REQUEST, "body_incomplete", "Body incomplete", Ingested::HungUp)
            .detail("The body ended before its length, or its framing is broken. Nothing was kept.")
            .field("body"),
    }
}

fn unauthorized(error: &VerifyError) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, error.code(), "Not verified", Ingested::Unauthorized)
        .detail(format!("The source refuses the request: {error}. Nothing was kept."))
}

fn not_a_cloud_event((field, problem): (&'static str, String)) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "not_a_cloudevent", "Not a CloudEvent", Ingested::Refused)
        .detail(format!("The source takes CloudEvents 1.0 alone, and this is none: {problem}. Nothing was kept."))
        .field(field)
}

fn not_accepted(error: &AcceptError, limits: &Limits) -> Refusal {
    let unavailable = |code, detail, outcome| Refusal::unavailable(code, detail, outcome, limits.retry_after);
    match error {
        AcceptError::QueueFull => {
            unavailable("overloaded", "Too many events wait for the store. The event was not kept.", Ingested::Overloaded)
        }
        AcceptError::Stopping => unavailable("stopping", "The gateway is stopping. The event was not kept.", Ingested::Overloaded),
        AcceptError::Store(StoreError::Full(_)) => {
            unavailable("store_full", "The store has no room. The event was not kept.", Ingested::StoreFailed)
        }
        AcceptError::Store(_) => unavailable(
            "store_unavailable",
            "The store did not confirm the event. It may have been accepted; sending it again is safe if the source drops duplicates.",
            Ingested::StoreFailed,
        ),
    }
}

fn record(
    shared: &Shared,
    seen: &Seen,
    head: &Head,
    event: Option<EventId>,
    status: StatusCode,
    took: Duration,
    error: Option<&'static str>,
) {
    // What names no source belongs to no tenant and makes no span: strangers must not fill the trace store.
    let Some(source) = &seen.source else { return };
    shared.parts.spans.accepted(
        &seen.trace,
        trace::Accepted {
            method: head.method.as_str(),
            source: source.id,
            tenant: source.tenant.id,
            event,
            bytes: seen.bytes,
            lane: seen.lane,
            protocol: if head.version == Version::HTTP_2 { "2" } else { "1.1" },
            status: status.as_u16(),
            started_at: seen.now,
            took,
            error,
        },
    );
}
