//! How many attempts begin in a second, a minute or an hour: of one destination, and of one tenant, in one shard. Pure.
//!
//! Attempts are spread evenly, as by the generic cell rate algorithm without a burst: each gets a slot, one interval behind the slot before
//! it, and begins at the slot's time or at most a hundredth of the unit later. Who is later than that needs another slot. The interval is
//! the unit, that hundredth and a millisecond for rounding, divided by the limit; so in no span of one unit do more attempts begin
//! than the limit says, and with work enough 98.9 % of it are used.
//!
//! An owner of a shard does not know what the one before it let through. It begins with the first slot an interval away, which continues the
//! other's row.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::event::{DestinationId, TenantId};

/// How far ahead slots are given to what waits in the store.
pub const AHEAD: Duration = Duration::from_millis(75);
/// How far ahead slots are given to newcomers. Less, so that those who wait already come first.
pub const PATIENCE: Duration = Duration::from_millis(25);
/// With more than so many rows, those without a slot in use are forgotten.
const SWEEP: usize = 1024;
const MILLI: u64 = 1_000_000;

/// A limit of attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Attempts that begin in any span of one unit, at most: from 1 to 1000000. They are spread evenly over it.
    #[schema(minimum = 1, maximum = 1_000_000, example = 100)]
    pub limit: u32,
    /// The unit.
    pub per: Unit,
}

/// What a [`Rate`] is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// 1 s.
    Second,
    /// 60 s.
    Minute,
    /// 3600 s.
    Hour,
}

impl Rate {
    /// The highest limit.
    pub const MAX: u32 = 1_000_000;

    /// The pace of one of so many shards that share the limit. Each has the same part of it, rounded down, at least 1.
    pub fn pace(self, shards: usize) -> Pace {
        let part = (u64::from(self.limit) / shards.max(1) as u64).max(1);
        let unit = self.per.millis();
        let late = unit / 100;
        Pace { interval: ((unit + late + 1) * MILLI).div_ceil(part), late }
    }
}

impl Unit {
    fn millis(self) -> u64 {
        match self {
            Self::Second => 1000,
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
        }
    }
}

/// How slots follow each other; the slower one is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pace {
    /// Between two slots, nanoseconds.
    interval: u64,
    /// How long after its slot's time an attempt may begin, milliseconds.
    late: u64,
}

/// The paces that hold for a destination's attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paces {
    /// The destination's own.
    pub destination: Option<(DestinationId, Pace)>,
    /// Its tenant's, for all of its destinations together.
    pub tenant: Option<(TenantId, Pace)>,
}

impl Paces {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.destination.is_none() && self.tenant.is_none()
    }

    fn iter(&self) -> impl Iterator<Item = (Row, Pace)> {
        let destination = self.destination.map(|(id, pace)| (Row::Destination(id), pace));
        destination.into_iter().chain(self.tenant.map(|(id, pace)| (Row::Tenant(id), pace)))
    }
}

/// When an attempt may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Not before.
    pub at: Timestamp,
    /// And not after.
    pub until: Timestamp,
}

/// There is no slot within reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// When the next one is.
    pub next: Timestamp,
    /// Whether it is the tenant's limit that makes it late.
    pub by_tenant: bool,
}

/// The rows of slots of one shard.
#[derive(Debug)]
pub struct Slots {
    /// When this owner began, nanoseconds since the Unix epoch.
    since: u64,
    /// When the next slot is.
    next: HashMap<Row, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Row {
    Destination(DestinationId),
    Tenant(TenantId),
}

impl Slots {
    /// For an owner that begins now.
    pub fn new(now: Timestamp) -> Self {
        Self { since: nanos(now), next: HashMap::new() }
    }

    /// How many slots there are from now on until `ahead` of it.
    pub fn free(&self, paces: &Paces, now: Timestamp, ahead: Duration) -> usize {
        let end = nanos(now.after(ahead));
        let free = |(row, pace): (Row, Pace)| {
            let next = self.next(row, pace, now);
            end.checked_sub(next).map_or(0, |left| usize::try_from(left / pace.interval).unwrap_or(usize::MAX).saturating_add(1))
        };
        paces.iter().map(free).min().unwrap_or(usize::MAX)
    }

    /// Gives the next slot away, if it is no further than `ahead`.
    pub fn take(&mut self, paces: &Paces, now: Timestamp, ahead: Duration) -> Result<Slot, Full> {
        let next = self.when(paces, now);
        if next.next > now.after(ahead) {
            return Err(next);
        }
        let at = next.next;
        let mut until = Timestamp(u64::MAX);
        for (row, pace) in paces.iter() {
            // Together with another pace it may come later than this row's next slot.
            let begun = self.next(row, pace, now).max(nanos(at).saturating_sub(MILLI));
            self.forget(now);
            self.next.insert(row, begun.saturating_add(pace.interval));
            until = until.min(Timestamp(at.0.saturating_add(pace.late)));
        }
        Ok(Slot { at, until })
    }

    /// When the next slot is.
    pub fn when(&self, paces: &Paces, now: Timestamp) -> Full {
        let of = |(row, pace): (Row, Pace)| (self.next(row, pace, now).div_ceil(MILLI), matches!(row, Row::Tenant(_)));
        let (next, by_tenant) = paces.iter().map(of).max().unwrap_or((now.0, false));
        Full { next: Timestamp(next), by_tenant }
    }

    fn next(&self, row: Row, pace: Pace, now: Timestamp) -> u64 {
        let now = nanos(now);
        let next = self.next.get(&row).copied().unwrap_or(self.since.saturating_add(pace.interval));
        // A clock that was set back, or a limit that was raised, stops nobody for longer than an interval.
        let furthest = now.saturating_add(nanos_of(AHEAD)).saturating_add(pace.interval);
        if next > furthest { now.saturating_add(pace.interval) } else { next.max(now) }
    }

    fn forget(&mut self, now: Timestamp) {
        if self.next.len() >= SWEEP && self.next.len().is_power_of_two() {
            let now = nanos(now);
            self.next.retain(|_, next| *next > now);
        }
    }
}

fn nanos(at: Timestamp) -> u64 {
    at.0.saturating_mul(MILLI)
}

fn nanos_of(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
