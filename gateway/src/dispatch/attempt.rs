//! Attempts a delivery: exactly one HTTP request, or one message to a broker, and what follows from its answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

use super::Shared;
use super::admission::{Answer, Turn};
use super::batch;
use super::gate::Stay;
use super::order;
use super::schedule::{History, Next, Outcome, Reason};
use super::visit::Visits;
use super::wait::Wait;
use super::work::Worker;
use crate::clock::Timestamp;
use crate::control::snapshot::{Connection, Destination};
use crate::egress::{Labels, OutRequest, Sent};
use crate::event::{
    Attempt, Delivery, DeliveryId, Event, EventId, Failure, Lane, Party, PluginRun, SharedRequest, TenantId, TraceContext,
};
use crate::store::{DeliveryRecord, DeliveryState, Job, Line, QueueKey, Work};
use crate::telemetry::metrics::TenantClass;
use crate::telemetry::trace::{AttemptOf, AttemptSpan, Peer, Settled};

/// A request that a plan decided on. It is frozen for the store only if it does not succeed at once.
pub(super) struct Planned {
    pub(super) id: DeliveryId,
    pub(super) connection: Arc<Connection>,
    /// Plugin runs of the plan, recorded with the first outcome.
    pub(super) runs: Vec<PluginRun>,
    pub(super) event: EventId,
    pub(super) tenant: TenantId,
    pub(super) accepted_at: Timestamp,
    pub(super) request: SharedRequest,
    pub(super) trace: Option<TraceContext>,
    output: u32,
}

/// What was tried before, for all deliveries of one piece of work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    pub(super) attempts: u32,
    pub(super) spent: u32,
    pub(super) since: Timestamp,
    /// Whether the work has a place in its destination's window already.
    pub(super) admitted: bool,
    /// When the attempt may begin, if that was settled when the work left its destination's queue.
    pub(super) turn: Option<Turn>,
    /// Whether it waited for fuel, and has been let through.
    pub(super) fuelled: bool,
    /// Whether it waited in a sub-queue, or on the schedule.
    pub(super) parked: bool,
    /// The lane that it came from; jobs count as normal.
    pub(super) lane: Lane,
    /// The line that it is the first of.
    pub(super) line: Option<Line>,
}

impl Planned {
    pub(super) fn new(event: &Event, connection: Arc<Connection>, (id, output): (DeliveryId, u32), request: SharedRequest) -> Self {
        Self {
            id,
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

    /// Whether it is of a replay: its event was accepted long before.
    fn is_replay(&self) -> bool {
        self.id != DeliveryId::derive(self.event, self.connection.id, self.output)
    }

    /// The row that puts it on the schedule at once, unattempted.
    pub(super) fn scheduled(&self, past: Past, now: Timestamp) -> DeliveryRecord {
        self.going_on(DeliveryState::Scheduled { due: now }, past, now)
    }

    /// Waits for what its destination's plugins need, or never goes out.
    pub(super) fn stays(&self, worker: &Worker, stay: Stay, past: Past) -> DeliveryRecord {
        let (shared, now) = (&worker.shared, worker.shared.clock.now());
        let state = match stay {
            Stay::In(_, wait) if past.line.is_some() => return self.stays_in_line(worker, wait, past),
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

    /// Keeps its place in its line.
    fn stays_in_line(&self, worker: &Worker, wait: Wait, past: Past) -> DeliveryRecord {
        let Some(line) = past.line else { return self.scheduled(past, worker.shared.clock.now()) };
        let (state, line) = order::stay(&worker.shared, self.tenant, line, past, wait);
        if let DeliveryState::DeadLettered { reason } = &state {
            let now = worker.shared.clock.now();
            worker.shared.spans.dead_lettered(self.trace, Some(self.connection.id), self.id, now, reason);
        }
        self.going_on(state, Past { line: Some(line), ..past }, worker.shared.clock.now())
    }

    /// What spans tell of it.
    pub(super) fn of(&self) -> AttemptOf<'_> {
        AttemptOf {
            id: self.id,
            event: self.event,
            tenant: self.tenant,
            connection: self.connection.id,
            destination: self.connection.destination.id,
            accepted_at: self.accepted_at,
            method: &self.request.method,
            bytes: self.request.body.len(),
            trace: self.trace,
        }
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

/// Makes one attempt, unless the destination has no room, is disabled, over its rate, or its circuit is open.
pub(super) async fn deliver(worker: &Worker, planned: &Planned, past: Past) -> DeliveryRecord {
    let shared = &worker.shared;
    let destination = &planned.connection.destination;
    if !destination.enabled {
        return park(worker, planned, past, Wait::of_disabled(destination));
    }
    let queue = QueueKey::Destination(planned.tenant, destination.id);
    let permit = if past.admitted { None } else { worker.windows.enter_destination(queue, planned.connection.window).await };
    if !past.admitted && permit.is_none() {
        return park(worker, planned, past, worker.admission.wait_of(destination, shared.clock.now()));
    }
    if let Some(batching) = &destination.batch {
        // On the heap: most destinations have none, and all would carry its room along.
        let row = Box::pin(batch::deliver(worker, batching, planned, past)).await;
        drop(permit);
        return row;
    }
    let visits = match Visits::enter(worker, planned, past) {
        Ok(visits) => visits,
        Err(stay) => {
            worker.admission.unused(destination, past.turn.is_some_and(|turn| turn.is_probe));
            return planned.stays(worker, stay, past);
        }
    };
    let (started_at, is_probe) = match begin(worker, &planned.connection, past.turn).await {
        Ok(begun) => begun,
        Err(wait) => return park(worker, planned, past, wait),
    };
    if past.attempts == 0 && !(past.parked && planned.is_replay()) {
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
            let (sent, ran) = Box::pin(visits.attempt(request, number, started_at, span)).await;
            runs = ran;
            sent
        }
        (Err(failure), _) => unsent(failure),
    };
    drop(permit);
    if sent.found_no_connection() {
        worker.admission.found_no_connection(destination, is_probe, started_at, shared.clock.now());
        return park(worker, planned, past, Wait::NoCapacity);
    }
    let now = shared.clock.now();
    let past = past.one_more();
    let attempt = attempt_of(past.attempts, started_at, &sent);
    let (row, answer) = decide(planned, past, &sent, now);
    tell(shared, planned, span, &attempt, &row);
    if let Some(note) = worker.admission.ended(shared, destination, answer, is_probe, now) {
        worker.say(destination.id, &note, now).await;
    }
    let mut row = DeliveryRecord { attempts: vec![attempt], ..row };
    row.runs.append(&mut runs);
    row
}

/// Waits until the attempt may begin. Says when that is, and whether it tries an open circuit; or for what it has to wait in the store.
pub(super) async fn begin(worker: &Worker, connection: &Connection, turn: Option<Turn>) -> Result<(Timestamp, bool), Wait> {
    let shared = &worker.shared;
    if turn.is_none() && !worker.admission.concerns(connection) {
        worker.hold.valid().await;
        return Ok((shared.clock.now(), false));
    }
    let mut settled = turn;
    loop {
        let turn = match settled.take() {
            Some(turn) => turn,
            None => worker.admission.enter(&connection.destination, shared.clock.now())?,
        };
        loop {
            let left = turn.slot.at.since(shared.clock.now());
            if left.is_zero() {
                break;
            }
            tokio::time::sleep(left).await;
        }
        worker.hold.valid().await;
        let now = shared.clock.now();
        if now <= turn.slot.until {
            return Ok((now, turn.is_probe));
        }
        worker.admission.unused(&connection.destination, turn.is_probe);
    }
}

/// Puts a delivery behind what waits for its destination.
pub(super) fn park(worker: &Worker, planned: &Planned, past: Past, wait: Wait) -> DeliveryRecord {
    if past.line.is_some() {
        return planned.stays_in_line(worker, wait, past);
    }
    let queue = QueueKey::Destination(planned.tenant, planned.connection.destination.id);
    worker.windows.park(queue, past.since);
    if wait != Wait::DestinationWindow {
        worker.admission.park(queue);
        worker.shared.metrics.destination_waits(wait.as_str());
    }
    let state = DeliveryState::Parked { reason: wait.as_str().to_owned(), queue: Some(queue) };
    planned.going_on(state, past, worker.shared.clock.now())
}

/// The request with everything that is made afresh for each attempt: credentials, signature, trace context.
fn prepare(planned: &Planned, span: &AttemptSpan, now: Timestamp) -> Result<OutRequest, Failure> {
    let destination = &planned.connection.destination;
    let labels = Labels { delivery: planned.id, event: planned.event, accepted_at: planned.accepted_at };
    let request = OutRequest::new(&destination.target, &planned.request, destination.timeout);
    let mut request = request.map_err(|error| error.failure())?;
    // Before they get names under which nobody would know them.
    for name in &planned.connection.withheld {
        request.headers.remove(name);
    }
    let request = request.labelled(labels).map_err(|error| error.failure())?;
    dressed(request, destination, planned.id.to_string(), span, now)
}

/// A request with all that its destination adds to it. `id` is its `webhook-id`.
pub(super) fn dressed(
    request: OutRequest,
    destination: &Destination,
    id: String,
    span: &AttemptSpan,
    now: Timestamp,
) -> Result<OutRequest, Failure> {
    let mut request = request.with_credentials(destination.credentials.as_ref());
    for (name, value) in &destination.headers {
        request.headers.insert(name.clone(), value.clone());
    }
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
    let target = &planned.connection.destination.target;
    let peer = Peer { host: target.host(), port: target.port(), scheme: target.scheme() };
    shared.spans.attempt(span, planned.of(), peer, attempt, settled(&row.state).unwrap_or(Settled::Delivered));
}

/// Where a delivery stands, as spans tell it; none if it only waits.
pub(super) fn settled(state: &DeliveryState) -> Option<Settled<'_>> {
    match state {
        DeliveryState::Scheduled { due } => Some(Settled::Scheduled { due: *due }),
        DeliveryState::DeadLettered { reason } => Some(Settled::DeadLettered { reason }),
        DeliveryState::Parked { .. } => None,
        _ => Some(Settled::Delivered),
    }
}

/// What follows from the answer, for the delivery and for what is thought of its destination.
pub(super) fn decide<'a>(planned: &Planned, past: Past, sent: &'a Sent, now: Timestamp) -> (DeliveryRecord, Answer<'a>) {
    let Some(failure) = &sent.failure else {
        return (planned.row(DeliveryState::Delivered, now), Answer::Taken);
    };
    if sent.token_ended && past.spent < planned.connection.retry.max_attempts {
        return (planned.going_on(DeliveryState::Scheduled { due: now }, past, now), Answer::Nothing);
    }
    let history = History { attempts: past.spent, since: past.since };
    let outcome = Outcome::Failed { failure, status: sent.status, not_before: sent.retry_after };
    let next = planned.connection.retry.next(history, outcome, now, &mut rand::rng());
    let answer = answer_of(&next, failure);
    let row = match next {
        Next::Done => planned.row(DeliveryState::Delivered, now),
        Next::RetryAt(due) => planned.going_on(DeliveryState::Scheduled { due }, past, now),
        Next::DeadLetter(reason) => planned.going_on(DeliveryState::DeadLettered { reason: reason.over(failure) }, past, now),
    };
    (row, answer)
}

/// What a failed attempt says about its destination.
pub(super) fn answer_of<'a>(next: &Next, failure: &'a Failure) -> Answer<'a> {
    match next {
        _ if failure.party == Party::Gateway => Answer::Nothing,
        Next::DeadLetter(Reason::Gone) => Answer::Gone(failure),
        // Its policy knows this status: it is about the delivery, not about the destination.
        Next::Done | Next::DeadLetter(Reason::Ruled) => Answer::Taken,
        Next::DeadLetter(_) if failure.code == Failure::MESSAGE_TOO_LARGE => Answer::Taken,
        Next::RetryAt(_) | Next::DeadLetter(_) => Answer::Failed(failure),
    }
}

pub(super) fn attempt_of(number: u32, started_at: Timestamp, sent: &Sent) -> Attempt {
    Attempt {
        number,
        started_at,
        took_us: u64::try_from(sent.took.as_micros()).unwrap_or(u64::MAX),
        status: sent.status,
        response: sent.response.clone(),
        response_cut: sent.response_cut,
        failure: sent.failure.clone(),
        batch: None,
    }
}
