//! Attempts a delivery: exactly one HTTP request, and what follows from its answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

use super::Shared;
use super::gate::Stay;
use super::schedule::{History, Next, Outcome};
use super::visit::Visits;
use super::wait::Wait;
use super::work::Worker;
use crate::clock::Timestamp;
use crate::control::snapshot::Connection;
use crate::egress::{OutRequest, Sent};
use crate::event::{
    Attempt, Delivery, DeliveryId, Event, EventId, Failure, Lane, Party, PluginRun, SharedRequest, TenantId, TraceContext,
};
use crate::store::{DeliveryRecord, DeliveryState, Job, QueueKey, Work};
use crate::telemetry::metrics::TenantClass;
use crate::telemetry::trace::{AttemptOf, AttemptSpan, Peer, Settled};

/// How often a delivery to a disabled destination is looked at again.
const DISABLED_POLL: Duration = Duration::from_secs(60);

/// A request that a plan decided on. It is frozen for the store only if it does not succeed at once.
pub(super) struct Planned {
    pub(super) id: DeliveryId,
    pub(super) connection: Arc<Connection>,
    /// Plugin runs of the plan, recorded with the first outcome.
    pub(super) runs: Vec<PluginRun>,
    pub(super) event: EventId,
    pub(super) tenant: TenantId,
    output: u32,
    accepted_at: Timestamp,
    request: SharedRequest,
    trace: Option<TraceContext>,
}

/// What was tried before, for all deliveries of one piece of work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    pub(super) attempts: u32,
    pub(super) spent: u32,
    pub(super) since: Timestamp,
    /// Whether the work has a place in its destination's window already.
    pub(super) admitted: bool,
    /// Whether it waited for fuel, and has been let through.
    pub(super) fuelled: bool,
    /// Whether it waited in a sub-queue, or on the schedule.
    pub(super) parked: bool,
    /// The lane that it came from; jobs count as normal.
    pub(super) lane: Lane,
}

impl Planned {
    pub(super) fn new(event: &Event, connection: Arc<Connection>, output: u32, request: SharedRequest) -> Self {
        Self {
            id: DeliveryId::derive(event.id, connection.id, output),
            connection,
            runs: Vec::new(),
            event: event.id,
            tenant: event.tenant,
            output,
            accepted_at: event.accepted_at,
            request,
            trace: event.trace,
        }
    }

    /// A delivery that comes back from the store.
    pub(super) fn frozen(delivery: Delivery, connection: Arc<Connection>) -> Self {
        let Delivery { id, event, tenant, output, accepted_at, request, trace, connection: _, destination: _ } = delivery;
        let request = SharedRequest::Made(Arc::new(request));
        Self { id, connection, runs: Vec::new(), event, tenant, output, accepted_at, request, trace }
    }

    /// The row that puts it on the schedule at once, unattempted.
    pub(super) fn scheduled(&self, past: Past, now: Timestamp) -> DeliveryRecord {
        self.going_on(DeliveryState::Scheduled { due: now }, past, now)
    }

    /// Waits for what its destination's plugins need, or never goes out.
    fn stays(&self, worker: &Worker, stay: Stay, past: Past) -> DeliveryRecord {
        let (shared, now) = (&worker.shared, worker.shared.clock.now());
        let state = match stay {
            Stay::In(queue, wait) => {
                worker.gates.park(shared, &worker.windows, (queue, wait), past.since);
                DeliveryState::Parked { reason: wait.as_str().to_owned(), queue: Some(queue) }
            }
            Stay::Out(reason) => {
                shared.spans.dead_lettered(self.trace, Some(self.connection.id), self.id, now, &reason);
                DeliveryState::DeadLettered { reason }
            }
        };
        self.going_on(state, past, now)
    }

    fn going_on(&self, state: DeliveryState, past: Past, now: Timestamp) -> DeliveryRecord {
        DeliveryRecord { job: Some(Box::new(self.job(past))), ..self.row(state, now) }
    }

    fn row(&self, state: DeliveryState, now: Timestamp) -> DeliveryRecord {
        DeliveryRecord {
            id: self.id,
            connection: Some(self.connection.id),
            destination: Some(self.connection.destination.id),
            output: self.output,
            at: now,
            state,
            attempts: Vec::new(),
            runs: self.runs.clone(),
            job: None,
        }
    }

    fn job(&self, past: Past) -> Job {
        let delivery = Delivery {
            id: self.id,
            event: self.event,
            tenant: self.tenant,
            connection: self.connection.id,
            destination: self.connection.destination.id,
            output: self.output,
            accepted_at: self.accepted_at,
            request: self.request.clone().into_request(),
            trace: self.trace,
        };
        past.job(self.id, Work::Attempt(Box::new(delivery)))
    }
}

/// Makes one attempt, unless the destination has no room or is disabled.
pub(super) async fn deliver(worker: &Worker, planned: &Planned, past: Past) -> DeliveryRecord {
    let shared = &worker.shared;
    let destination = &planned.connection.destination;
    let queue = QueueKey::Destination(planned.tenant, destination.id);
    let permit = if past.admitted { None } else { worker.windows.enter_destination(queue, planned.connection.window).await };
    if !past.admitted && permit.is_none() {
        worker.windows.park(queue, past.since);
        let state = DeliveryState::Parked { reason: Wait::DestinationWindow.as_str().to_owned(), queue: Some(queue) };
        return planned.going_on(state, past, shared.clock.now());
    }
    if !destination.enabled {
        return wait_for_enabled(shared, planned, past);
    }
    let visits = match Visits::enter(worker, planned, past) {
        Ok(visits) => visits,
        Err(stay) => return planned.stays(worker, stay, past),
    };
    worker.hold.valid().await;
    let started_at = shared.clock.now();
    if past.attempts == 0 {
        let class = if past.admitted { TenantClass::Noisy } else { TenantClass::Quiet };
        let latency = started_at.since(planned.accepted_at);
        shared.metrics.delivery_latency(past.lane, class, latency);
        if past.lane == Lane::Normal && !past.parked {
            shared.pressure.delivery(latency, shared.config.latency_target);
        }
    }
    let span = AttemptSpan::start(planned.trace);
    let mut runs = Vec::new();
    let sent = match (prepare(planned, &span, started_at), visits) {
        (Ok(request), None) => shared.egress.send(request, &shared.clock).await,
        // On the heap: most attempts have none, and all would carry its room along.
        (Ok(request), Some(visits)) => {
            let number = past.attempts.saturating_add(1);
            let (sent, ran) = Box::pin(visits.attempt(request, number, started_at)).await;
            runs = ran;
            sent
        }
        (Err(failure), _) => unsent(failure),
    };
    drop(permit);
    let now = shared.clock.now();
    let past = past.one_more();
    let attempt = attempt_of(past.attempts, started_at, &sent);
    let row = decide(planned, past, &sent, now);
    tell(shared, planned, span, &attempt, &row);
    let mut row = DeliveryRecord { attempts: vec![attempt], ..row };
    row.runs.append(&mut runs);
    row
}

/// The request with everything that is made afresh for each attempt: credentials, signature, trace context.
fn prepare(planned: &Planned, span: &AttemptSpan, now: Timestamp) -> Result<OutRequest, Failure> {
    let destination = &planned.connection.destination;
    let mut request =
        OutRequest::new(&destination.target, &planned.request, destination.timeout).map_err(|error| error.failure())?;
    for name in &planned.connection.withheld {
        request.headers.remove(name);
    }
    for (name, value) in &destination.headers {
        request.headers.insert(name.clone(), value.clone());
    }
    let id = planned.id.to_string();
    match &destination.signer {
        Some(signer) => signer.sign(&mut request.headers, &id, now, &request.body).map_err(|error| Failure {
            party: Party::Gateway,
            code: "not_signed".to_owned(),
            detail: error.to_string(),
            retryable: false,
        })?,
        // Receivers tell a repeated delivery by its id, signed or not.
        None => {
            request.headers.insert("webhook-id", HeaderValue::try_from(id).expect("ids are ASCII"));
        }
    }
    if let Some(value) = span.traceparent().and_then(|text| HeaderValue::try_from(text).ok()) {
        request.headers.insert("traceparent", value);
    }
    request.gzip = destination.gzip;
    request.credentials.clone_from(&destination.credentials);
    Ok(request)
}

/// What an attempt that could not be made looks like.
pub(super) fn unsent(failure: Failure) -> Sent {
    Sent {
        status: None,
        answer_headers: None,
        retry_after: None,
        response: Bytes::new(),
        response_cut: false,
        took: Duration::ZERO,
        resent: false,
        token_ended: false,
        failure: Some(failure),
    }
}

fn tell(shared: &Shared, planned: &Planned, span: AttemptSpan, attempt: &Attempt, row: &DeliveryRecord) {
    let party = attempt.failure.as_ref().map(|failure| failure.party);
    shared.metrics.attempt(attempt.status, party, Duration::from_micros(attempt.took_us));
    let settled = match &row.state {
        DeliveryState::Scheduled { due } => Settled::Scheduled { due: *due },
        DeliveryState::DeadLettered { reason } => Settled::DeadLettered { reason },
        _ => Settled::Delivered,
    };
    let target = &planned.connection.destination.target;
    let peer = Peer { host: target.host(), port: target.port(), scheme: target.scheme() };
    let of = AttemptOf {
        id: planned.id,
        event: planned.event,
        tenant: planned.tenant,
        connection: planned.connection.id,
        destination: planned.connection.destination.id,
        accepted_at: planned.accepted_at,
        method: &planned.request.method,
        bytes: planned.request.body.len(),
        trace: planned.trace,
    };
    shared.spans.attempt(span, of, peer, attempt, settled);
}

/// What follows from the answer.
fn decide(planned: &Planned, past: Past, sent: &Sent, now: Timestamp) -> DeliveryRecord {
    let Some(failure) = &sent.failure else {
        return planned.row(DeliveryState::Delivered, now);
    };
    if sent.token_ended && past.spent < planned.connection.retry.max_attempts {
        return planned.going_on(DeliveryState::Scheduled { due: now }, past, now);
    }
    let history = History { attempts: past.spent, since: past.since };
    let outcome = Outcome::Failed { failure, not_before: sent.retry_after };
    match planned.connection.retry.next(history, outcome, now, &mut rand::rng()) {
        Next::Done => planned.row(DeliveryState::Delivered, now),
        Next::RetryAt(due) => planned.going_on(DeliveryState::Scheduled { due }, past, now),
        Next::DeadLetter(reason) => planned.going_on(DeliveryState::DeadLettered { reason: reason.over(failure) }, past, now),
    }
}

/// A delivery to a disabled destination costs no attempt; it waits, but not for ever.
fn wait_for_enabled(shared: &Shared, planned: &Planned, past: Past) -> DeliveryRecord {
    let now = shared.clock.now();
    let wait = Wait::DestinationDisabled;
    match wait.over(shared, past.since, now) {
        Some(reason) => {
            shared.spans.dead_lettered(planned.trace, Some(planned.connection.id), planned.id, now, &reason);
            planned.going_on(DeliveryState::DeadLettered { reason }, past, now)
        }
        None => {
            let due = now.after(DISABLED_POLL).min(wait.ends(shared, past.since));
            planned.going_on(DeliveryState::Scheduled { due }, past, now)
        }
    }
}

fn attempt_of(number: u32, started_at: Timestamp, sent: &Sent) -> Attempt {
    Attempt {
        number,
        started_at,
        took_us: u64::try_from(sent.took.as_micros()).unwrap_or(u64::MAX),
        status: sent.status,
        response: sent.response.clone(),
        response_cut: sent.response_cut,
        failure: sent.failure.clone(),
    }
}
