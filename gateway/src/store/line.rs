//! Lines: how a job stands in an ordered queue.

use super::Job;
use crate::clock::Timestamp;
use crate::event::{DeliveryId, DestinationId};

/// Where a job stands in an ordered queue ([`QueueKey::Ordered`](super::QueueKey::Ordered) of its tenant and this destination).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// Whose queue.
    pub destination: DestinationId,
    /// Which line: jobs of one key leave one at a time, in order.
    pub key: u128,
    /// The place that it was handed out from, to be given back with what goes on from there: several jobs at one place stand in the order
    /// of their outputs. None for what is new, which goes behind. Opaque outside the store.
    pub place: Option<u64>,
    /// A parked job is not handed out before that; a scheduled one, not before its state's.
    pub due: Timestamp,
}

impl Line {
    /// Outputs of one event that have places of their own; those beyond share the last.
    pub(super) const OUTPUTS: u64 = 4096;

    /// The end of a line for a job that is new to it.
    pub fn end(destination: DestinationId, key: u128, due: Timestamp) -> Self {
        Self { destination, key, place: None, due }
    }

    /// The place of an output in the number that an engine gave its event, or in the place that the event had.
    pub(super) fn place_of(self, output: u32, next: impl FnOnce() -> u64) -> u64 {
        let first = self.place.map_or_else(|| next() * Self::OUTPUTS, |place| place - place % Self::OUTPUTS);
        first + u64::from(output).min(Self::OUTPUTS - 1)
    }
}

/// A job that goes back to its place as it is ([`Store::put_back`](super::Store::put_back)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutBack {
    /// The job.
    pub id: DeliveryId,
    /// When it was due in its line, as it was handed out. A queue has no such times.
    pub from: Timestamp,
    /// When it is due in its line again: later than that.
    pub due: Timestamp,
}

impl PutBack {
    /// For a job that was parked.
    pub fn parked(id: DeliveryId) -> Self {
        Self { id, from: Timestamp(0), due: Timestamp(0) }
    }
}

/// What [`Store::unpark`](super::Store::unpark) hands out.
#[derive(Debug, Default)]
pub struct Unparked {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// How many more left the queue that can't be read: they stay taken.
    pub unreadable: u64,
}

/// What [`Store::heads`](super::Store::heads) hands out.
#[derive(Debug, Default)]
pub struct Heads {
    /// One job of each line, each with its line.
    pub jobs: Vec<Job>,
    /// When the next line is due that has nothing taken, if there is one; it may have come already.
    pub next: Option<Timestamp>,
    /// How many more left the queue that can't be read: they stay taken, and stop their lines.
    pub unreadable: u64,
}
