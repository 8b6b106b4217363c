//! What shadows gave: counted on each node, kept in the store by each, added up here.
//!
//! A node says under a topic of its own for each shadow what it has counted since it started. What it said stays for [`KEPT`] after its
//! last word, a restart or not, so the sum is of all nodes and of the last day at least. Nothing of a request is in it but what
//! [`Comparison::without_values`] leaves.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::homes::Homes;
use super::model::{Plugins, PortionRecord};
use super::service::{Control, Error};
use crate::clock::Timestamp;
use crate::event::{EventId, PluginId};
use crate::plugin::compare::{Comparison, Difference};

/// How long what a node said stays.
pub const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Events that are listed.
pub const MAX_LISTED: usize = 100;
/// Differences of one event that are listed.
const MAX_EACH: usize = 5;
/// The format of what is kept.
const FORMAT: u8 = 1;

/// What a shadow gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Runs that were compared.
    pub runs: u64,
    /// Gave the same.
    pub same: u64,
    /// Gave the same JSON, written in another way.
    pub formatting: u64,
    /// Gave something else.
    pub different: u64,
    /// Failed where the other did not.
    pub failed: u64,
    /// Were not run for want of room.
    pub dropped: u64,
    /// The last that were not the same, oldest first.
    pub last: VecDeque<Observed>,
}

/// An event of which a shadow made something else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// The event.
    pub event: EventId,
    /// When it was compared.
    pub at: Timestamp,
    /// How the alias' own version failed, if it did.
    pub live: Option<String>,
    /// How the shadow failed, if it did.
    pub shadow: Option<String>,
    /// What differs: the first few, without values.
    pub differences: Vec<Difference>,
    /// Whether more differs.
    pub more: bool,
}

impl Observed {
    /// Of a comparison, without values.
    pub fn new(event: EventId, at: Timestamp, codes: (Option<String>, Option<String>), comparison: Comparison) -> Self {
        let Comparison { mut differences, more, .. } = comparison.without_values();
        let more = more || differences.len() > MAX_EACH;
        differences.truncate(MAX_EACH);
        Self { event, at, live: codes.0, shadow: codes.1, differences, more }
    }
}

#[derive(Serialize, Deserialize)]
struct Note {
    v: u8,
    #[serde(flatten)]
    tally: Tally,
}

impl Tally {
    /// Lists an event; the oldest makes room.
    pub fn list(&mut self, observed: Observed) {
        if self.last.len() >= MAX_LISTED {
            self.last.pop_front();
        }
        self.last.push_back(observed);
    }

    /// As it is kept.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(&Note { v: FORMAT, tally: self.clone() }).expect("plain data")
    }

    /// What was kept; none of what a newer release wrote.
    fn decode(note: &[u8]) -> Option<Self> {
        let note: Note = serde_json::from_slice(note).ok()?;
        (note.v <= FORMAT).then_some(note.tally)
    }

    /// The sum of what nodes counted, with the last of what they listed.
    fn sum(tallies: impl Iterator<Item = Self>) -> Self {
        let mut sum = tallies.fold(Self::default(), |mut sum, one| {
            sum.runs += one.runs;
            sum.same += one.same;
            sum.formatting += one.formatting;
            sum.different += one.different;
            sum.failed += one.failed;
            sum.dropped += one.dropped;
            sum.last.extend(one.last);
            sum
        });
        sum.last.make_contiguous().sort_by_key(|observed| observed.at);
        sum.last.drain(..sum.last.len().saturating_sub(MAX_LISTED));
        sum
    }
}

/// Where a shadow's tallies are kept: another one of the same alias has another place.
pub fn topic(plugin: PluginId, alias: &str, since: Timestamp) -> String {
    format!("shadow/{plugin}/{alias}/{}", since.0)
}

impl Control {
    /// An alias' shadow, with what all nodes count of it.
    pub async fn shadow(&self, homes: &Homes, plugin: &str, alias: &str) -> Result<(PortionRecord, Tally), Error> {
        let plugin = self.get::<Plugins>(homes.tenant, plugin)?;
        let missing = || Error::NotFound { kind: "shadow of the alias", reference: alias.chars().take(80).collect() };
        let shadow = plugin.parts.splits.get(alias).and_then(|split| split.shadow).ok_or_else(missing)?;
        let said = self.store.said(&topic(plugin.id, alias, shadow.since)).await?;
        Ok((shadow, Tally::sum(said.iter().filter_map(|note| Tally::decode(note)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_counted_adds_up_and_the_last_are_listed() {
        let node = |first: u64| {
            let mut tally = Tally { runs: 80, same: 3, different: 77, ..Tally::default() };
            for at in first..first + 80 {
                tally.list(Observed::new(EventId(at.into()), Timestamp(at), (None, None), Comparison::default()));
            }
            tally
        };
        let kept = [node(0), node(1000)].map(|tally| tally.encode());
        let newer = br#"{"v": 2, "runs": 1}"#.to_vec();
        let sum = Tally::sum(kept.iter().chain([&newer]).filter_map(|note| Tally::decode(note)));
        assert_eq!((sum.runs, sum.same, sum.different, sum.last.len()), (160, 6, 154, MAX_LISTED));
        assert_eq!(sum.last.iter().map(|one| one.at.0).collect::<Vec<_>>(), (60..80).chain(1000..1080).collect::<Vec<_>>());
    }
}
