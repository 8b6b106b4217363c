//! What operators set for the gateway's work: the part of the state that belongs to no tenant.
//!
//! A setting and the record of its change are written in the same revision, so that neither is ever without the other. The records of
//! changes are a ring: each takes the place of the one that is [`MAX_CHANGES`] older.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::model::{Change, FORMAT, Knob, Level, MAX_CHANGES, Setting, Who};
use super::snapshot::{Diversion, Diverted, Percent, Traffic};
use super::state::RecordError;
use crate::clock::Timestamp;
use crate::event::{Lane, Shard};
use crate::store::ConfigChange;

/// What the keys of all records here start with.
pub(super) const KEY: &str = "trf/";
const SETTING: &str = "trf/set/";
const CHANGE: &str = "trf/log/";

/// A change to be made.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) knob: Knob,
    /// What the tenant or source is called that this is about.
    pub(super) name: Option<String>,
    /// None ends a diversion.
    pub(super) to: Option<Level>,
    pub(super) by: &'a Who,
    pub(super) reason: Option<&'a str>,
}

/// What was set, and how it came to be so.
#[derive(Clone, Debug, Default)]
pub struct Steering {
    settings: BTreeMap<Knob, Setting>,
    // Oldest first.
    changes: VecDeque<Arc<Change>>,
    traffic: Arc<Traffic>,
}

impl Steering {
    /// Reads its records among those of a revision. What the wings read stays the same one if nothing of it changed.
    pub(super) fn load(before: &Self, records: &[(String, Bytes)]) -> Result<Self, RecordError> {
        let mut settings = BTreeMap::new();
        let mut changes = Vec::new();
        for (key, bytes) in records.iter().filter(|(key, _)| key.starts_with(KEY)) {
            if let Some(knob) = key.strip_prefix(SETTING) {
                let knob = knob.parse().map_err(|error| RecordError::Damaged(key.clone(), format!("{error}")))?;
                settings.insert(knob, read::<Setting>(key, bytes)?);
            } else if key.starts_with(CHANGE) {
                changes.push(Arc::new(read::<Change>(key, bytes)?));
            } else {
                return Err(RecordError::Damaged(key.clone(), "its kind is not known".into()));
            }
        }
        changes.sort_by_key(|change| change.number);
        let traffic = traffic(&settings);
        let traffic = if traffic == *before.traffic { Arc::clone(&before.traffic) } else { Arc::new(traffic) };
        Ok(Self { settings, changes: changes.into(), traffic })
    }

    /// What the wings read.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Everything that was ever set and not taken back.
    pub fn settings(&self) -> &BTreeMap<Knob, Setting> {
        &self.settings
    }

    /// How far a diversion is.
    pub fn diversion(&self, who: Diverted) -> Option<Diversion> {
        self.traffic.diverted.get(&who).copied()
    }

    /// The last changes, newest first.
    pub fn changes(&self) -> impl Iterator<Item = &Arc<Change>> {
        self.changes.iter().rev()
    }

    /// How something is set now.
    pub(super) fn level(&self, knob: Knob) -> Option<Level> {
        let percent = |percent| Some(Level::Percent(percent));
        match knob {
            Knob::Lane(lane) => percent(self.traffic.lane(lane)),
            Knob::Retries => percent(self.traffic.retries),
            Knob::Shard(shard) => percent(self.traffic.shard(shard)),
            Knob::Diversion(who) => self.diversion(who).map(Level::Diversion),
        }
    }

    /// Makes a change. Returns its record for the audit, and what to write.
    pub(super) fn make(&mut self, order: Order<'_>, now: Timestamp) -> (Arc<Change>, [ConfigChange; 2]) {
        let Order { knob, name, to, by, reason } = order;
        let reason = reason.map(str::to_owned);
        let change = Change {
            v: FORMAT,
            number: self.changes.back().map_or(0, |last| last.number + 1),
            at: now,
            by: by.clone(),
            knob,
            name,
            from: self.level(knob),
            to,
            reason: reason.clone(),
        };
        let setting = to.map(|level| Setting::new(level, by.clone(), now, reason));
        let slot = change.number % MAX_CHANGES as u64;
        let writes = [(format!("{SETTING}{knob}"), setting.as_ref().map(write)), (format!("{CHANGE}{slot}"), Some(write(&change)))];
        match setting {
            Some(setting) => drop(self.settings.insert(knob, setting)),
            None => drop(self.settings.remove(&knob)),
        }
        let change = Arc::new(change);
        if self.changes.len() >= MAX_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(Arc::clone(&change));
        self.traffic = Arc::new(traffic(&self.settings));
        (change, writes)
    }

    /// Notes that in a shard nothing is left of who is returning. Returns what to write: nothing for who is not, or if it was known. It
    /// is a step of what an operator began, not a change of its own for the audit.
    pub(super) fn drain(&mut self, who: Diverted, shard: Shard) -> Option<ConfigChange> {
        let knob = Knob::Diversion(who);
        let setting = self.settings.get_mut(&knob).filter(|setting| setting.level == Level::Diversion(Diversion::Returning))?;
        if !setting.drained.insert(shard) {
            return None;
        }
        let change = (format!("{SETTING}{knob}"), Some(write(setting)));
        self.traffic = Arc::new(traffic(&self.settings));
        Some(change)
    }
}

/// What the wings need to know of the settings: what is as it would be without them is left out, so that they look up little.
fn traffic(settings: &BTreeMap<Knob, Setting>) -> Traffic {
    let mut traffic = Traffic::default();
    for (knob, setting) in settings {
        match (*knob, setting.level) {
            (Knob::Lane(Lane::Normal), Level::Percent(percent)) => traffic.normal = percent,
            (Knob::Lane(Lane::Low), Level::Percent(percent)) => traffic.low = percent,
            (Knob::Lane(Lane::Held), Level::Percent(percent)) => traffic.held = percent,
            (Knob::Retries, Level::Percent(percent)) => traffic.retries = percent,
            (Knob::Shard(shard), Level::Percent(percent)) if percent != Percent::ALL => drop(traffic.shards.insert(shard, percent)),
            (Knob::Diversion(who), Level::Diversion(diversion)) => {
                traffic.diverted.insert(who, diversion);
                traffic.drained.extend(setting.drained.iter().map(|shard| (who, *shard)));
            }
            // What changes nothing; a share of a diversion, or the other way round, is never written.
            _ => {}
        }
    }
    traffic
}

/// A record that says its format.
trait Versioned: DeserializeOwned {
    fn version(&self) -> u8;
}

impl Versioned for Setting {
    fn version(&self) -> u8 {
        self.v
    }
}

impl Versioned for Change {
    fn version(&self) -> u8 {
        self.v
    }
}

fn read<T: Versioned>(key: &str, bytes: &Bytes) -> Result<T, RecordError> {
    let record: T = serde_json::from_slice(bytes).map_err(|error| RecordError::Damaged(key.to_owned(), error.to_string()))?;
    if record.version() > FORMAT { Err(RecordError::Newer(key.to_owned(), record.version())) } else { Ok(record) }
}

fn write(record: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(record).expect("records are plain data"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(knob: Knob, to: Option<Level>, by: &Who) -> Order<'_> {
        Order { knob, name: None, to, by, reason: None }
    }

    #[test]
    fn what_is_written_is_what_is_read_and_old_changes_make_room() {
        let mut steering = Steering::default();
        let mut records = BTreeMap::new();
        for round in 0..300_u64 {
            let percent = Percent::new((round % 100) as u8).expect("under 100");
            let (change, writes) =
                steering.make(order(Knob::Lane(Lane::Low), Some(Level::Percent(percent)), &Who::Operator), Timestamp(round));
            assert_eq!(change.number, round);
            records.extend(writes);
        }
        let who = Diverted::Tenant(crate::event::TenantId(1));
        for to in [Some(Level::Diversion(Diversion::Held)), None] {
            records.extend(steering.make(order(Knob::Diversion(who), to, &Who::Gateway), Timestamp(300)).1);
        }
        assert_eq!((steering.traffic().low.get(), steering.diversion(who)), (99, None));
        let stored: Vec<_> = records.into_iter().filter_map(|(key, bytes)| Some((key, bytes?))).collect();
        assert_eq!(stored.len(), MAX_CHANGES + 1);
        let loaded = Steering::load(&steering, &stored).expect("what was written");
        assert!(Arc::ptr_eq(&loaded.traffic, &steering.traffic), "nothing changed for the wings");
        assert_eq!(loaded.settings, steering.settings);
        assert_eq!(loaded.changes, steering.changes);
        assert_eq!(loaded.changes().map(|change| change.number).next(), Some(301));
        assert_eq!(loaded.changes().count(), MAX_CHANGES);
    }
}
