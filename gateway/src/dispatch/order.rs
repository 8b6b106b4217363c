//! Order on demand: what goes to a destination that keeps an order stands in a line of the store
//! ([`QueueKey::Ordered`]), one line for each key, and leaves it one at a time.
//!
//! The shard's loop puts an event's part for such a destination into its line unplanned, in the order in which it meets events: that of the
//! lane. The line is known by the event as it was accepted, so plugins have no say in it, and it is planned and attempted when it is the
//! first of its line. Until it is delivered, given up or dropped it keeps its place, whatever it waits for, and whoever owns the shard. An
//! event without a key keeps no order, and goes the way of all others.
//!
//! Nothing is kept in memory of a line, but how its first was found if that waits ([`Looks`]): the store knows the first job, and whether it is
//! in somebody's hands.

mod key;
mod looks;

use std::sync::Arc;

use self::key::{PARSED, key};
pub(super) use self::looks::Looks;
use super::Shared;
use super::attempt::Past;
use super::filter::View;
use super::gate;
use super::record::Done;
use super::wait::{Wait, given_up, moved};
use super::work::{Item, Worker};
use crate::clock::Timestamp;
use crate::control::snapshot::{Connection, Destination, Order, Snapshot, Source};
use crate::event::{ConnectionId, DeliveryId, Event, Request, TenantId};
use crate::store::{DeliveryRecord, DeliveryState, Job, Line, Origin, QueueKey, Record, Work};

/// An event that stands in several lines is written with at most so many bytes of requests at once.
const RECORD_BYTES: usize = 8 * 1024 * 1024;

/// What becomes of a piece of work that is about to begin.
pub(super) struct Lined {
    /// What goes into lines, each a write by itself.
    pub(super) lined: Vec<Done>,
    /// What begins: it keeps no order, or is the first of its line.
    pub(super) begins: Option<Item>,
}

impl Lined {
    fn none(item: Item) -> Self {
        Self { lined: Vec::new(), begins: Some(item) }
    }

    fn all(lined: Vec<Done>) -> Self {
        Self { lined, begins: None }
    }
}

/// Puts into lines what belongs there. Must be asked in the order in which work came.
pub(super) fn line_up(shared: &Shared, mut item: Item) -> Lined {
    if item.line.is_some() {
        return Lined::none(item);
    }
    let snapshot = shared.snapshots.load();
    let now = shared.clock.now();
    let line = match &item.work {
        Work::Plan { event, connection: None } => {
            let is_ordered = snapshot.sources.get(&event.source).is_some_and(|source| source.is_ordered);
            return if is_ordered { divide(&snapshot, item, now) } else { Lined::none(item) };
        }
        Work::Plan { event, connection: Some(connection) } => {
            let connection = snapshot.connections.get(connection);
            connection.and_then(|connection| end_of_line(connection, &View::new(&event.request), &event.request, now))
        }
        Work::Attempt(delivery) => {
            let connection = snapshot.connections.get(&delivery.connection);
            connection.and_then(|connection| end_of_line(connection, &View::new(&delivery.request), &delivery.request, now))
        }
    };
    item.line = line;
    match line {
        None => Lined::none(item),
        Some(line) => {
            let state = parked(tenant_of(&item), line, Wait::Order);
            Lined::all(vec![moved(item, state, now)])
        }
    }
}

/// Whether work goes into a line when it begins, if it has a key.
pub(super) fn keeps_order(snapshot: &Snapshot, work: &Work) -> bool {
    let connection = match work {
        Work::Plan { event, connection: None } => {
            return snapshot.sources.get(&event.source).is_some_and(|source| source.is_ordered);
        }
        Work::Plan { connection: Some(connection), .. } => connection,
        Work::Attempt(delivery) => &delivery.connection,
    };
    snapshot.connections.get(connection).is_some_and(|connection| connection.destination.order.is_some())
}

/// The end of the line that a request stands in on a connection; none if it keeps no order there.
pub(super) fn end_of_line(connection: &Connection, view: &View<'_>, request: &Request, now: Timestamp) -> Option<Line> {
    let Order { by, .. } = connection.destination.order.as_ref()?;
    Some(Line::end(connection.destination.id, key(by, view, request)?, now))
}

/// A state in which the first of a line keeps its place, and the job's line ([`Looks`] says when it is looked at again); or it is given up.
pub(super) fn stay(shared: &Shared, tenant: TenantId, line: Line, past: Past, wait: Wait) -> (DeliveryState, Line) {
    let now = shared.clock.now();
    if let Some(reason) = wait.over_for(shared, past.spent, past.since, now) {
        return (DeliveryState::DeadLettered { reason }, line);
    }
    let line = Line { due: now, ..line };
    (parked(tenant, line, wait), line)
}

/// The same for a whole piece of work.
pub(super) fn stays(shared: &Shared, item: Item, line: Line, wait: Wait) -> Done {
    let now = shared.clock.now();
    if let Some(reason) = wait.over_for(shared, item.spent, item.since, now) {
        return given_up(shared, item, reason);
    }
    let line = Line { due: now, ..line };
    let state = parked(tenant_of(&item), line, wait);
    moved(Item { line: Some(line), ..item }, state, now)
}

/// Moves what is left to do of a piece of work elsewhere, unattempted: as a whole, or if it has begun each part by itself, so that what is done
/// is not done again.
pub(super) fn apart(shared: &Shared, item: Item, state: DeliveryState) -> Done {
    let snapshot = shared.snapshots.load();
    let now = shared.clock.now();
    let (Work::Plan { event, connection: None }, false) = (&item.work, item.progress.is_empty()) else {
        return moved(item, state, now);
    };
    // Whoever plans the event waits for its configuration, or tells why there is no plan.
    let known = snapshot.sources.get(&event.source).filter(|_| snapshot.revision >= event.revision);
    let Some(source) = known else { return moved(item, state, now) };
    let left = left_of(&item, event, source);
    let rows = left.map(|connection| part(&item, event, connection, (state.clone(), None), now)).collect();
    finished(item, rows)
}

/// Puts the parts of an event into their lines that belong there.
fn divide(snapshot: &Snapshot, mut item: Item, now: Timestamp) -> Lined {
    let Work::Plan { event, connection: None } = &item.work else { return Lined::none(item) };
    let Some(source) = snapshot.sources.get(&event.source) else { return Lined::none(item) };
    let view = View::new(&event.request);
    let (mut rows, mut rest) = (Vec::new(), Vec::new());
    for connection in left_of(&item, event, source) {
        let Some(line) = end_of_line(connection, &view, &event.request, now) else {
            rest.push(connection);
            continue;
        };
        // A filter may parse the body; its plan asks it, too.
        let filter = connection.filter.as_ref().filter(|_| event.request.body.len() <= PARSED);
        match filter.map_or(Ok(true), |filter| filter.matches(&view)) {
            Ok(true) => {
                let state = parked(event.tenant, line, Wait::Order);
                rows.push(part(&item, event, connection, (state, Some(line)), now));
            }
            Ok(false) => {
                let state = DeliveryState::Filtered { by: "filter".to_owned() };
                rows.push(part(&item, event, connection, (state, None), now));
            }
            // Its plan tells why.
            Err(_) => rest.push(connection),
        }
    }
    // A later configuration may have more connections than this one: whoever plans the event waits for that.
    let is_old = snapshot.revision < event.revision;
    if rows.is_empty() || (is_old && matches!(item.origin, Origin::Job(_))) {
        return Lined::none(item);
    }
    if let Origin::Job(_) = item.origin {
        let due = DeliveryState::Scheduled { due: now };
        rows.extend(rest.drain(..).map(|connection| part(&item, event, connection, (due.clone(), None), now)));
    }
    let is_all = rest.is_empty() && !is_old;
    let known: Vec<_> = rows.iter().map(|row| DeliveryRecord { job: None, ..row.clone() }).collect();
    let (origin, event, tenant) = (item.origin, event.id, event.tenant);
    let mut lined = Vec::new();
    let last = in_parts(rows, |deliveries| {
        lined.push(Done::new(Record { origin, event, tenant, finished: false, deliveries }, None));
    });
    if is_all {
        lined.push(finished(item, last));
        return Lined::all(lined);
    }
    lined.push(Done::new(Record { origin, event, tenant, finished: false, deliveries: last }, None));
    item.progress.extend(known);
    Lined { lined, begins: Some(item) }
}

/// Hands on what is too much for one write, and gives back the last part.
fn in_parts(rows: Vec<DeliveryRecord>, mut hand_on: impl FnMut(Vec<DeliveryRecord>)) -> Vec<DeliveryRecord> {
    let (mut part, mut bytes) = (Vec::new(), 0);
    for row in rows {
        let size = row.job.as_ref().map_or(0, |job| job.size());
        if bytes + size > RECORD_BYTES && !part.is_empty() {
            hand_on(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += size;
        part.push(row);
    }
    part
}

/// The connections that an event still has to go over.
fn left_of<'a>(item: &Item, event: &Event, source: &'a Source) -> impl Iterator<Item = &'a Arc<Connection>> {
    source.connections.iter().filter(|connection| event.goes_over(connection.id) && !is_recorded(item, event, connection.id))
}

fn is_recorded(item: &Item, event: &Event, connection: ConnectionId) -> bool {
    let first = DeliveryId::derive(event.id, connection, 0);
    item.progress.iter().any(|row| row.id == first)
}

/// An event's part on one connection, unplanned.
fn part(
    item: &Item,
    event: &Event,
    connection: &Connection,
    (state, line): (DeliveryState, Option<Line>),
    at: Timestamp,
) -> DeliveryRecord {
    let id = DeliveryId::derive(event.id, connection.id, 0);
    let Item { attempts, spent, since, .. } = *item;
    let goes_on = !state.is_terminal() || matches!(state, DeliveryState::DeadLettered { .. });
    let job = goes_on.then(|| {
        let work = Work::Plan { event: Box::new(event.clone()), connection: Some(connection.id) };
        Box::new(Job { id, attempts, spent, since, work, line, claims: 0 })
    });
    DeliveryRecord {
        id,
        connection: Some(connection.id),
        destination: line.map(|line| line.destination),
        output: 0,
        at,
        state,
        attempts: Vec::new(),
        runs: Vec::new(),
        job,
    }
}

fn finished(item: Item, deliveries: Vec<DeliveryRecord>) -> Done {
    let Item { origin, work, held, .. } = item;
    let (event, tenant) = match &work {
        Work::Plan { event, .. } => (event.id, event.tenant),
        Work::Attempt(delivery) => (delivery.event, delivery.tenant),
    };
    Done::new(Record { origin, event, tenant, finished: true, deliveries }, Some(held))
}

fn parked(tenant: TenantId, line: Line, wait: Wait) -> DeliveryState {
    let queue = Some(QueueKey::Ordered(tenant, line.destination));
    DeliveryState::Parked { reason: wait.as_str().to_owned(), queue }
}

/// How many may leave an ordered queue now, as far as the connections to its destination are asked: all, one to try a plugin out, or none
/// while each of them is paused or holds its events for a plugin that is poisoned.
pub(super) fn tries(shared: &Shared, snapshot: &Snapshot, order: &Order, now: Timestamp) -> usize {
    let connections = order.connections.iter().filter_map(|id| snapshot.connections.get(id));
    let tries = connections.map(|connection| if connection.paused { 0 } else { gate::tries(shared, connection, now) });
    tries.max().unwrap_or(usize::MAX)
}

/// For what the lines of an ordered queue wait beside their turn, as far as that is the same for all.
pub(super) fn wait_of(worker: &Worker, snapshot: &Snapshot, destination: &Destination, now: Timestamp) -> Wait {
    match &destination.order {
        Some(order) if order.is_paused => Wait::ConnectionPaused,
        Some(order) if tries(&worker.shared, snapshot, order, now) == 0 => Wait::PluginPoisoned,
        Some(order) if order.runs_plugins && worker.gates.chains(snapshot, destination.tenant, now) == 0 => Wait::PluginFuel,
        _ => Wait::Order,
    }
}

fn tenant_of(item: &Item) -> TenantId {
    super::work::tenant_of(&item.work)
}
