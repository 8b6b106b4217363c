//! What an operator set for the work of the whole gateway: how much each kind of it may use, and who is diverted.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::event::{Lane, Shard, SourceId, TenantId};

/// Part of the capacity (`dispatch.in_flight`) that work of a kind may use, in percent. 0 pauses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Percent(u8);

impl Percent {
    /// Everything: nothing is held back.
    pub const ALL: Self = Self(100);
    /// Paused.
    pub const NONE: Self = Self(0);

    /// None above 100.
    pub fn new(percent: u8) -> Option<Self> {
        (percent <= 100).then_some(Self(percent))
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }

    /// So much of `whole`; at least 1 unless paused.
    pub fn of(self, whole: usize) -> usize {
        if self.0 == 0 { 0 } else { (whole.saturating_mul(usize::from(self.0)) / 100).max(1) }
    }
}

/// Who is diverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Diverted {
    /// All of a tenant's work.
    Tenant(TenantId),
    /// What came in by one source.
    Source(SourceId),
}

/// How far a diversion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Diversion {
    /// New events go to the held lane, and nothing of it is delivered.
    Held,
    /// It is delivered again. New events still go to the held lane, behind what is held, until nothing of it is left there.
    Returning,
}

/// What an operator set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// The normal lane.
    pub normal: Percent,
    /// The low lane.
    pub low: Percent,
    /// The work of who is diverted. Paused unless an operator drains it.
    pub held: Percent,
    /// Deliveries that failed before.
    pub retries: Percent,
    /// Shards that may not use everything.
    pub shards: HashMap<Shard, Percent>,
    /// Who is diverted.
    pub diverted: HashMap<Diverted, Diversion>,
    /// Shards in which nothing is left of who is returning: there its diversion is over.
    pub drained: HashSet<(Diverted, Shard)>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            normal: Percent::ALL,
            low: Percent::ALL,
            held: Percent::NONE,
            retries: Percent::ALL,
            shards: HashMap::new(),
            diverted: HashMap::new(),
            drained: HashSet::new(),
        }
    }
}

impl Traffic {
    /// What a lane may use.
    pub fn lane(&self, lane: Lane) -> Percent {
        match lane {
            Lane::Normal => self.normal,
            Lane::Low => self.low,
            Lane::Held => self.held,
        }
    }

    /// What a shard may use.
    pub fn shard(&self, shard: Shard) -> Percent {
        self.shards.get(&shard).copied().unwrap_or(Percent::ALL)
    }

    /// Whether work of this tenant that came in by this source is diverted in a shard, and how far that is. A diversion that holds wins.
    pub fn diversion(&self, tenant: TenantId, source: SourceId, shard: Shard) -> Option<Diversion> {
        if self.diverted.is_empty() {
            return None;
        }
        let both = [Diverted::Tenant(tenant), Diverted::Source(source)].map(|who| self.diversion_of(who, shard));
        both.into_iter().flatten().reduce(|a, b| if a == Diversion::Held { a } else { b })
    }

    /// How far somebody's diversion is in a shard.
    pub fn diversion_of(&self, who: Diverted, shard: Shard) -> Option<Diversion> {
        self.diverted.get(&who).copied().filter(|_| !self.drained.contains(&(who, shard)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_something_is_never_nothing_unless_it_is_paused() {
        let share = |percent| Percent::new(percent).expect("at most 100");
        assert_eq!([0, 1, 50, 100].map(|percent| share(percent).of(10)), [0, 1, 5, 10]);
        assert_eq!(Percent::new(101), None);
    }

    #[test]
    fn who_is_held_in_one_way_is_held() {
        let (tenant, source) = (TenantId(1), SourceId(2));
        let mut traffic = Traffic::default();
        let diversion = |traffic: &Traffic, source, shard| traffic.diversion(tenant, source, Shard(shard));
        assert_eq!(diversion(&traffic, source, 0), None);
        traffic.diverted.insert(Diverted::Tenant(tenant), Diversion::Returning);
        assert_eq!(diversion(&traffic, source, 0), Some(Diversion::Returning));
        traffic.diverted.insert(Diverted::Source(source), Diversion::Held);
        assert_eq!(diversion(&traffic, source, 0), Some(Diversion::Held));
        assert_eq!(diversion(&traffic, SourceId(3), 0), Some(Diversion::Returning));
        traffic.drained.insert((Diverted::Tenant(tenant), Shard(1)));
        assert_eq!(diversion(&traffic, SourceId(3), 0), Some(Diversion::Returning));
        assert_eq!(diversion(&traffic, SourceId(3), 1), None, "it is over there");
        assert_eq!(diversion(&traffic, source, 1), Some(Diversion::Held));
    }
}
