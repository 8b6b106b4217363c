//! Batching on demand: several deliveries to a destination in one request, each with its own outcome.
//!
//! A delivery comes here when all else is settled: it is planned and has its place in its destination's window. It joins the batch that gathers for
//! its destination (`gather`), in memory, and waits for what its leader tells it (`send`). From then on it goes its own way again: its record, its
//! retry policy and its dead letter are its own, and when it is tried again it may go out with others. So the store knows nothing of batches, and
//! what waits in one is work in hand like any other: put back at a stop, and found where it was after a crash.
//!
//! A batch is one attempt: it takes one slot of the destination's rate, one place among its requests (`in_flight`), and says one thing about its
//! circuit. What all of it was refused for may be about one of its events alone, so it is sent again in halves, down to that one; how small the batches
//! of what is left may be is remembered here until it has come to its end.

mod answer;
mod element;
mod gather;
mod send;
mod settings;

use tokio::sync::oneshot;

use self::element::{Element, Source};
pub(super) use self::gather::Batches;
use self::gather::Member;
pub use self::settings::{BatchFormat, Batching};
use super::attempt::{Past, Planned, attempt_of, decide, park, settled};
use super::gate::Stay;
use super::wait::Wait;
use super::work::Worker;
use crate::clock::Timestamp;
use crate::egress::Sent;
use crate::event::{Attempt, BatchPart, Failure};
use crate::store::DeliveryRecord;
use crate::telemetry::metrics::TenantClass;
use crate::telemetry::trace::AttemptSpan;

/// What a leader tells a delivery of its batch.
#[derive(Debug)]
struct Told {
    /// The requests that it was in.
    tries: Vec<Try>,
    end: End,
}

/// How it ended.
#[derive(Debug)]
enum End {
    /// With the last request.
    Attempted,
    /// It has to wait for this.
    Waits(Wait),
    /// What it was planned by has changed.
    Back,
}

/// One request that a delivery was in.
#[derive(Debug)]
struct Try {
    started_at: Timestamp,
    sent: Sent,
    /// What the answer says of the delivery, where it tells of each.
    own: Option<Own>,
    part: BatchPart,
    span: AttemptSpan,
    /// Whether it was refused together with others, and sent again with fewer.
    is_divided: bool,
}

/// A delivery's own outcome.
#[derive(Debug)]
struct Own {
    status: Option<u16>,
    failure: Option<Failure>,
}

impl Try {
    /// The request's end as this delivery's.
    fn sent(&self) -> Sent {
        match &self.own {
            None => self.sent.clone(),
            Some(own) => {
                let status = own.status.or(self.sent.status);
                Sent { status, failure: own.failure.clone(), ..self.sent.clone() }
            }
        }
    }

    fn attempt(&self, number: u32) -> Attempt {
        Attempt { batch: Some(self.part), ..attempt_of(number, self.started_at, &self.sent()) }
    }
}

/// Sends a delivery with others. It has its place in its destination's window.
pub(super) async fn deliver(worker: &Worker, batching: &Batching, planned: &Planned, past: Past) -> DeliveryRecord {
    let shared = &worker.shared;
    let destination = &planned.connection.destination;
    // It was let out for a turn of its own, before there were batches.
    worker.admission.unused(destination, past.turn.is_some_and(|turn| turn.is_probe));
    if worker.admission.is_shut(destination, shared.clock.now()) {
        return park(worker, planned, past, worker.admission.wait_of(destination, shared.clock.now()));
    }
    let source = Source {
        delivery: planned.id,
        event: planned.event,
        accepted_at: planned.accepted_at,
        request: &planned.request,
        withheld: &planned.connection.withheld,
    };
    let element = match Element::new(batching, source) {
        Ok(element) => element,
        Err(reason) => return planned.stays(worker, Stay::Out(reason), past),
    };
    let (tell, told) = oneshot::channel();
    let (connection, trace) = (planned.connection.clone(), planned.trace);
    let member = Member { id: planned.id, connection, trace, element, tries: Vec::new(), tell };
    let most = batching.max_events.min(planned.connection.window);
    if let Some(lead) = worker.batches.join(batching, most, member) {
        send::lead(worker, batching, lead).await;
    }
    match told.await {
        Ok(told) => record(worker, planned, past, &told),
        // Its leader is gone.
        Err(_) => planned.scheduled(past, shared.clock.now()),
    }
}

fn record(worker: &Worker, planned: &Planned, mut past: Past, told: &Told) -> DeliveryRecord {
    let (shared, now) = (&worker.shared, worker.shared.clock.now());
    if let (0, Some(first)) = (past.attempts, told.tries.first()) {
        let class = if past.admitted { TenantClass::Noisy } else { TenantClass::Quiet };
        shared.metrics.delivery_latency(past.lane, class, first.started_at.since(planned.accepted_at));
    }
    let mut attempts = Vec::with_capacity(told.tries.len());
    for tried in &told.tries {
        // What is refused together with others is not held against it.
        let spent = past.spent.saturating_add(u32::from(!tried.is_divided));
        past = Past { spent, ..past.one_more() };
        attempts.push(tried.attempt(past.attempts));
    }
    let row = match (&told.end, told.tries.last()) {
        (End::Attempted, Some(last)) => {
            let mut sent = last.sent();
            if let Some(own) = &last.own {
                // The batch's is not about it.
                sent.status = own.status;
            }
            decide(planned, past, &sent, now).0
        }
        (End::Waits(wait), _) => park(worker, planned, past, *wait),
        (End::Attempted | End::Back, _) => planned.scheduled(past, now),
    };
    for (place, (tried, attempt)) in told.tries.iter().zip(&attempts).enumerate() {
        let state = (place + 1 == attempts.len()).then(|| settled(&row.state)).flatten();
        shared.spans.batched(tried.span, tried.part, planned.of(), attempt, state);
    }
    if row.state.is_terminal() {
        worker.batches.settled(planned.id);
    }
    DeliveryRecord { attempts, ..row }
}
