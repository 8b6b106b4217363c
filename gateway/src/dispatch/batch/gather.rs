//! Where deliveries gather until their batch goes out.
//!
//! Of each destination at most one batch is open. It closes when it is full, when what comes next does not fit, and when what comes next knows the
//! destination by another configuration. Whoever opens it leads it: its task waits for the others, makes the request, and tells each what came of
//! it. A leader that goes away lets go of all that it led, which is then work in hand that was not attempted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::element::{Element, framed};
use super::{Batching, Told, Try};
use crate::control::snapshot::{Connection, Destination};
use crate::event::{DeliveryId, DestinationId, TraceContext};

/// Deliveries of which it is known that they went out in a batch that was refused; of more it is found out anew.
const PORTIONS: usize = 16_384;

/// The batches of one shard. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in crate::dispatch) struct Batches(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    places: HashMap<DestinationId, Place>,
    /// How large a batch may be that a delivery goes out in, if a larger one was refused.
    portions: HashMap<DeliveryId, usize>,
    /// Whether batches go out as they are.
    is_hurried: bool,
}

#[derive(Debug, Default)]
struct Place {
    open: Option<Arc<Gathering>>,
    /// Deliveries that wait in batches, closed ones too.
    waiting: usize,
    /// Requests under way.
    sending: usize,
    freed: Arc<Notify>,
}

/// A batch that is not on its way yet.
#[derive(Debug)]
struct Gathering {
    destination: Arc<Destination>,
    members: Mutex<Members>,
    closed: Notify,
}

#[derive(Debug)]
struct Members {
    list: Vec<Member>,
    bytes: usize,
    most: usize,
    is_closed: bool,
}

/// A delivery in a batch.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: DeliveryId,
    pub(super) connection: Arc<Connection>,
    pub(super) trace: Option<TraceContext>,
    pub(super) element: Element,
    /// What was tried so far.
    pub(super) tries: Vec<Try>,
    pub(super) tell: oneshot::Sender<Told>,
}

/// The lead of a batch.
#[derive(Debug)]
pub(super) struct Lead {
    batches: Batches,
    gathering: Arc<Gathering>,
    pub(super) connection: Arc<Connection>,
}

/// A request's place among those of its destination. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Sending {
    batches: Batches,
    destination: DestinationId,
}

impl Batches {
    /// Puts a delivery into its destination's batch, of at most so many. Gives the lead to whoever opens one.
    pub(super) fn join(&self, batching: &Batching, most: usize, member: Member) -> Option<Lead> {
        let mut state = self.state();
        let most = state.portions.get(&member.id).map_or(most, |portion| most.min(*portion)).max(1);
        let (connection, is_hurried) = (member.connection.clone(), state.is_hurried);
        let destination = &connection.destination;
        let place = state.places.entry(destination.id).or_default();
        place.waiting += 1;
        let left = match &place.open {
            Some(open) if Arc::ptr_eq(&open.destination, destination) => open.add(batching, most, member),
            Some(open) => {
                open.close();
                Some(member)
            }
            None => Some(member),
        };
        let lead = left.map(|member| {
            let bytes = member.element.size();
            let members = Members { list: vec![member], bytes, most, is_closed: most == 1 || is_hurried };
            let gathering = Gathering { destination: destination.clone(), members: Mutex::new(members), closed: Notify::new() };
            let gathering = Arc::new(gathering);
            place.open = Some(gathering.clone());
            Lead { batches: self.clone(), gathering, connection: connection.clone() }
        });
        if place.open.as_ref().is_some_and(|open| open.members().is_closed) {
            place.open = None;
        }
        lead
    }

    /// While this is on no batch waits to be filled.
    pub(in crate::dispatch) fn hurry(&self, on: bool) {
        let mut state = self.state();
        state.is_hurried = on;
        let open = state.places.values_mut().filter(|_| on).filter_map(|place| place.open.take());
        open.for_each(|open| open.close());
    }

    /// How many wait in batches for a destination.
    pub(in crate::dispatch) fn waiting(&self, destination: DestinationId) -> usize {
        self.state().places.get(&destination).map_or(0, |place| place.waiting)
    }

    /// From now on these go out in batches of at most so many.
    pub(super) fn divide(&self, members: &[Member], most: usize) {
        let mut state = self.state();
        if state.portions.len() + members.len() > PORTIONS {
            state.portions.clear();
        }
        state.portions.extend(members.iter().map(|member| (member.id, most)));
    }

    /// Forgets a delivery that has come to its end.
    pub(super) fn settled(&self, delivery: DeliveryId) {
        let mut state = self.state();
        if !state.portions.is_empty() {
            state.portions.remove(&delivery);
        }
    }

    /// Takes a place among so many requests, if one is free.
    fn begin(&self, destination: DestinationId, most: usize) -> bool {
        let mut state = self.state();
        let place = state.places.entry(destination).or_default();
        let is_free = place.sending < most;
        place.sending += usize::from(is_free);
        is_free
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, destination: DestinationId) {
        let is_idle = |place: &Place| place.open.is_none() && place.waiting == 0 && place.sending == 0;
        if self.places.get(&destination).is_some_and(is_idle) {
            self.places.remove(&destination);
        }
    }
}

impl Gathering {
    /// Gives the member back if it does not fit; then nothing more does.
    fn add(&self, batching: &Batching, most: usize, member: Member) -> Option<Member> {
        let mut members = self.members();
        let most = members.most.min(most);
        let bytes = members.bytes + member.element.size();
        let count = members.list.len() + 1;
        if members.is_closed || count > most || framed(count, bytes) > batching.max_bytes {
            drop(members);
            self.close();
            return Some(member);
        }
        members.list.push(member);
        (members.most, members.bytes) = (most, bytes);
        let is_full = count == most || framed(count, bytes) == batching.max_bytes;
        drop(members);
        if is_full {
            self.close();
        }
        None
    }

    fn close(&self) {
        self.members().is_closed = true;
        self.closed.notify_one();
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lead {
    /// Waits until the batch is closed, or for so long.
    pub(super) async fn fill(&self, time: Duration) {
        let filled = async {
            while !self.gathering.members().is_closed {
                self.gathering.closed.notified().await;
            }
        };
        // What is not full by then goes out as it is.
        let _in_time = tokio::time::timeout(time, filled).await;
    }

    /// Waits for a place among so many requests. Until then the batch takes in more.
    pub(super) async fn turn(&self, most: usize) -> Sending {
        let destination = self.gathering.destination.id;
        let freed = self.batches.state().places.entry(destination).or_default().freed.clone();
        loop {
            // Asked for before it is looked, so that nothing is missed.
            let freed = freed.notified();
            if self.batches.begin(destination, most.max(1)) {
                return Sending { batches: self.batches.clone(), destination };
            }
            freed.await;
        }
    }

    /// Closes the batch, and takes what is in it.
    pub(super) fn take(&self) -> Vec<Member> {
        let mut state = self.batches.state();
        let taken = {
            let mut members = self.gathering.members();
            members.is_closed = true;
            std::mem::take(&mut members.list)
        };
        let destination = self.gathering.destination.id;
        if let Some(place) = state.places.get_mut(&destination) {
            place.waiting = place.waiting.saturating_sub(taken.len());
            if place.open.as_ref().is_some_and(|open| Arc::ptr_eq(open, &self.gathering)) {
                place.open = None;
            }
        }
        state.forget(destination);
        taken
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.take();
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut state = self.batches.state();
        if let Some(place) = state.places.get_mut(&self.destination) {
            place.sending = place.sending.saturating_sub(1);
            place.freed.notify_waiters();
        }
        state.forget(self.destination);
    }
}
