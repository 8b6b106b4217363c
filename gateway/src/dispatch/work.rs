//! One piece of work from plan to outcome: an event with all its deliveries, or one delivery that was scheduled or parked.
//!
//! Its deliveries run side by side; a slow one holds up none of the others, and after about a second what is known is written as
//! progress.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::admission::{Admission, Turn};
use super::attempt::{self, Planned};
use super::batch::Batches;
use super::begun::Begun;
use super::gate::{Gate, Gates, Pass};
use super::order::{self, Looks};
use super::owner::Hold;
use super::plan::{self, Plan};
use super::record::{Done, Held};
use super::wait::{Wait, deleted, given_up, moved, paused};
use super::window::Windows;
use crate::clock::Timestamp;
use crate::control::condition::{CircuitNote, KEPT};
use crate::event::{ConnectionId, DeliveryId, DestinationId, EventId, Failure, Lane, Party, SourceId, TenantId};
use crate::store::{DeliveryRecord, DeliveryState, Line, Origin, Record, Work};

/// Work that was taken out of the store, with what it holds of the budget.
pub(super) struct Item {
    pub(super) origin: Origin,
    pub(super) attempts: u32,
    pub(super) spent: u32,
    pub(super) since: Timestamp,
    pub(super) work: Work,
    pub(super) progress: Vec<DeliveryRecord>,
    pub(super) held: Held,
    /// What it waited for. Out of its destination's sub-queue it has a place in that destination's window already.
    pub(super) wait: Wait,
    /// What its plugins were let through with.
    pub(super) pass: Pass,
    /// The line that it is the first of.
    pub(super) line: Option<Line>,
    /// How often it was handed out, this time included.
    pub(super) claims: u32,
}

impl Item {
    pub(super) fn event(&self) -> EventId {
        event_of(&self.work)
    }

    /// The turn of its attempt that it left its destination's queue with.
    pub(super) fn turn(&self) -> Option<(DestinationId, Turn)> {
        let Pass::Turn(turn) = self.pass else { return None };
        match (&self.work, self.line) {
            (_, Some(line)) => Some((line.destination, turn)),
            (Work::Attempt(delivery), None) => Some((delivery.destination, turn)),
            (Work::Plan { .. }, None) => None,
        }
    }
}

/// What the tasks of one shard share.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) hold: Arc<Hold>,
    pub(super) windows: Windows,
    pub(super) gates: Gates,
    pub(super) admission: Admission,
    pub(super) begun: Arc<Begun>,
    looks: Looks,
    pub(super) batches: Batches,
    records: mpsc::Sender<Done>,
    winding_up: CancellationToken,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, hold: Arc<Hold>, windows: Windows, records: mpsc::Sender<Done>) -> Self {
        let shard = hold.lease.shard;
        let gates = Gates::new(shard, shared.plugins.own_fuel(shard));
        let admission = Admission::new(shard, shared.clock.now());
        shared.standings.began(hold.clone(), admission.clone());
        let (begun, looks, batches) = (Arc::new(Begun::new(shard)), Looks::default(), Batches::default());
        Self { shared, hold, windows, gates, admission, begun, looks, batches, records, winding_up: CancellationToken::new() }
    }

    /// Asks every task to write its progress and end.
    pub(super) fn wind_up(&self) {
        self.winding_up.cancel();
    }

    /// Hands a record to the writer. Fails only when the writer is gone, and with it the lease.
    pub(super) async fn send(&self, mut done: Done) {
        self.looks.settle(&mut done);
        for delivery in &done.record.deliveries {
            if let Some((queue, ..)) = delivery.lined() {
                self.windows.park(queue, delivery.job.as_ref().map_or(delivery.at, |job| job.since));
                self.admission.found(&self.shared.snapshots.load(), queue);
            }
        }
        if self.records.send(done).await.is_err() {
            tracing::debug!(shard = self.hold.lease.shard.0, "outcome dropped: the lease is gone");
        }
    }

    /// Says how a destination's circuit stands, for whoever asks any node.
    pub(super) async fn say(&self, destination: DestinationId, note: &CircuitNote, now: Timestamp) {
        let ttl = note.until.map_or(Duration::ZERO, |until| until.since(now)) + KEPT;
        let shard = format!("shard-{}", self.hold.lease.shard.0);
        let said = self.shared.store.say(&CircuitNote::topic(destination), &shard, note.encode().into(), ttl).await;
        if let Err(error) = said {
            tracing::warn!(%destination, %error, "how a circuit stands was not said");
        }
    }

    /// Lets others have the turn of an attempt that is not made.
    pub(super) fn give_back(&self, turn: Option<(DestinationId, Turn)>) {
        if let Some((destination, turn)) = turn
            && let Some(destination) = self.shared.snapshots.load().destinations.get(&destination)
        {
            self.admission.unused(destination, turn.is_probe);
        }
    }

    /// Plans if need be, attempts, and records.
    pub(super) async fn run(&self, item: Item) {
        let over = item.wait.over_for(&self.shared, item.spent, item.since, self.shared.clock.now());
        if let Some(reason) = over.or_else(|| deleted(&self.shared, tenant_of(&item.work))) {
            self.give_back(item.turn());
            return self.send(given_up(&self.shared, item, reason)).await;
        }
        if let Some(queue) = paused(&self.shared, &item.work) {
            self.give_back(item.turn());
            if let Some(line) = item.line {
                return self.send(order::stays(&self.shared, item, line, Wait::ConnectionPaused)).await;
            }
            self.windows.park(queue, item.since);
            let state = DeliveryState::Parked { reason: Wait::ConnectionPaused.as_str().to_owned(), queue: Some(queue) };
            return self.send(moved(item, state, self.shared.clock.now())).await;
        }
        let unused = item.turn();
        let Item { origin, attempts, spent, since, work, progress, held, wait, pass, line, claims: _ } = item;
        let admitted = wait.is_for_destination();
        let fuelled = matches!(pass, Pass::Fuel { .. });
        let turn = unused.map(|(_, turn)| turn);
        let (event, tenant) = (event_of(&work), tenant_of(&work));
        let parked = matches!(origin, Origin::Job(_));
        let past = attempt::Past { attempts, spent, since, admitted, turn, fuelled, parked, lane: lane_of(origin), line };
        let Plan { settled, planned, made } = match work {
            Work::Plan { event, connection } => {
                let only = connection.map(|connection| (connection, first_of(origin, event.id, connection)));
                let (shared, gates, windows) = (&*self.shared, &self.gates, &self.windows);
                let gate = Gate { shared, gates, windows, wait, in_line: line.is_some(), pass: &pass, tenant, since };
                plan::plan(gate, Arc::from(event), only, &progress, past).await
            }
            Work::Attempt(delivery) => plan::resume(&self.shared, *delivery, past),
        };
        // What it did not use of its fuel is for others.
        drop(pass);
        if planned.is_empty() {
            self.give_back(unused);
        }
        let records = Records { worker: self, origin, event, tenant };
        records.attempt_all(settled, planned, past, Held { _made: Some(made), ..held }).await;
    }
}

/// Makes the records of one piece of work.
struct Records<'a> {
    worker: &'a Worker,
    origin: Origin,
    event: EventId,
    tenant: TenantId,
}

impl Records<'_> {
    /// Attempts everything that was planned, side by side. What is still on its way when the worker winds up is scheduled for the
    /// next owner.
    async fn attempt_all(&self, settled: Vec<DeliveryRecord>, planned: Vec<Planned>, past: attempt::Past, held: Held) {
        let worker = self.worker;
        let parts = settled.len() + planned.len();
        let mut ready = settled;
        let attempt = |planned| attempt::deliver(worker, planned, past);
        // Most events have one delivery, which needs no set.
        let running = match &planned[..] {
            [only] => Either::Left(stream::once(attempt(only))),
            _ => Either::Right(planned.iter().map(attempt).collect::<FuturesUnordered<_>>()),
        };
        tokio::pin!(running);
        let mut ended = Vec::with_capacity(planned.len());
        let progress = async {
            tokio::time::sleep(worker.shared.config.progress_after).await;
            // A single delivery comes to its end or not: there is no progress of it.
            parts > 1 && Box::pin(worker.begun.note(&worker.shared, self.origin)).await
        };
        tokio::pin!(progress);
        let (mut is_due, mut reported) = (true, false);
        loop {
            tokio::select! {
                biased;
                next = running.next() => match next {
                    None => break,
                    Some(record) => {
                        ended.push(record.id);
                        ready.push(record);
                        if reported && ended.len() < planned.len() {
                            self.write(std::mem::take(&mut ready), false, None).await;
                        }
                    }
                },
                may_report = &mut progress, if is_due => {
                    (is_due, reported) = (false, may_report);
                    if reported {
                        self.write(std::mem::take(&mut ready), false, None).await;
                    }
                }
                () = worker.winding_up.cancelled() => {
                    let now = worker.shared.clock.now();
                    ready.extend(planned.iter().filter(|planned| !ended.contains(&planned.id)).map(|planned| planned.scheduled(past, now)));
                    break;
                }
            }
        }
        self.write(ready, true, Some(held)).await;
    }

    async fn write(&self, deliveries: Vec<DeliveryRecord>, finished: bool, held: Option<Held>) {
        if deliveries.is_empty() && !finished {
            return;
        }
        let record = Record { origin: self.origin, event: self.event, tenant: self.tenant, finished, deliveries };
        self.worker.send(Done::new(record, held)).await;
    }
}

/// The reason of work that is given up because gateways that worked on it went away.
pub(super) fn crashed(claims: u32) -> Failure {
    Failure {
        party: Party::Gateway,
        code: "gateway_crashed".to_owned(),
        detail: format!("{claims} gateways in a row took this and none of them finished it"),
        retryable: false,
    }
}

/// The id of the first delivery of a plan on one connection: its job's own, which is a replay's if that is what it is.
fn first_of(origin: Origin, event: EventId, connection: ConnectionId) -> DeliveryId {
    match origin {
        Origin::Job(id) => id,
        Origin::Entry(_) => DeliveryId::derive(event, connection, 0),
    }
}

fn event_of(work: &Work) -> EventId {
    match work {
        Work::Attempt(delivery) => delivery.event,
        Work::Plan { event, .. } => event.id,
    }
}

/// The source that work which is not planned yet came in by.
pub(super) fn source_of(work: &Work) -> Option<SourceId> {
    match work {
        Work::Attempt(_) => None,
        Work::Plan { event, .. } => Some(event.source),
    }
}

pub(super) fn tenant_of(work: &Work) -> TenantId {
    match work {
        Work::Attempt(delivery) => delivery.tenant,
        Work::Plan { event, .. } => event.tenant,
    }
}

fn lane_of(origin: Origin) -> Lane {
    match origin {
        Origin::Entry(ticket) => ticket.lane,
        Origin::Job(_) => Lane::Normal,
    }
}
