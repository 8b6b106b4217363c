//! What an operator sets for the work of the whole gateway, with who set it, as it is stored.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{FORMAT, Faults};
use crate::clock::Timestamp;
use crate::control::snapshot::{Diversion, Diverted, Percent};
use crate::event::{KeyId, Lane, Shard};

/// Changes that are kept for the audit.
pub const MAX_CHANGES: usize = 256;

/// The longest reason, in characters.
pub const MAX_REASON: usize = 500;

/// Tenants and sources that may be diverted at once.
pub const MAX_DIVERTED: usize = 1000;

/// One thing that can be set. Written `lanes.low`, `retries`, `shards.2`, or as the id of who is diverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Knob {
    /// What a lane may use.
    Lane(Lane),
    /// What deliveries may use that failed before.
    Retries,
    /// What a shard may use.
    Shard(Shard),
    /// Whether somebody is diverted.
    Diversion(Diverted),
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lane(lane) => write!(f, "lanes.{}", lane.as_str()),
            Self::Retries => f.write_str("retries"),
            Self::Shard(shard) => write!(f, "shards.{}", shard.0),
            Self::Diversion(Diverted::Tenant(id)) => id.fmt(f),
            Self::Diversion(Diverted::Source(id)) => id.fmt(f),
        }
    }
}

/// A text that names nothing that can be set.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is nothing that can be set")]
pub struct UnknownKnob(String);

impl FromStr for Knob {
    type Err = UnknownKnob;

    fn from_str(text: &str) -> Result<Self, UnknownKnob> {
        let lane = |name: &str| Lane::ALL.into_iter().find(|lane| lane.as_str() == name).map(Self::Lane);
        let known = match text.split_once('.') {
            Some(("lanes", name)) => lane(name),
            Some(("shards", number)) => number.parse().ok().map(|number| Self::Shard(Shard(number))),
            Some(_) => None,
            None if text == "retries" => Some(Self::Retries),
            None => text.parse().map(Diverted::Tenant).or_else(|_| text.parse().map(Diverted::Source)).ok().map(Self::Diversion),
        };
        known.ok_or_else(|| UnknownKnob(text.chars().take(64).collect()))
    }
}

impl From<Knob> for String {
    fn from(knob: Knob) -> Self {
        knob.to_string()
    }
}

impl TryFrom<String> for Knob {
    type Error = UnknownKnob;

    fn try_from(text: String) -> Result<Self, UnknownKnob> {
        text.parse()
    }
}

/// What it can be set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A share of the capacity.
    Percent(Percent),
    /// How far a diversion is.
    Diversion(Diversion),
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{}%", percent.get()),
            Self::Diversion(Diversion::Held) => f.write_str("held"),
            Self::Diversion(Diversion::Returning) => f.write_str("returning"),
        }
    }
}

/// Who changed something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Who {
    /// Whoever has the key that `tidegate init` made.
    Operator,
    /// Whoever has this API key.
    Key {
        /// Its id.
        id: KeyId,
        /// What it was called then.
        name: String,
    },
    /// The gateway itself, as the consequence of something else.
    Gateway,
}

impl Who {
    /// What people call them.
    pub fn name(&self) -> &str {
        match self {
            Self::Operator => "operator",
            Self::Key { name, .. } => name,
            Self::Gateway => "gateway",
        }
    }
}

/// Something that was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The record's format.
    pub v: u8,
    /// To what.
    pub level: Level,
    /// By whom.
    pub by: Who,
    /// When.
    pub at: Timestamp,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of who is returning: the shards in which nothing is left of it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub drained: BTreeSet<Shard>,
}

/// A change as the audit keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The record's format.
    pub v: u8,
    /// Counts the changes.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: Who,
    /// Of what.
    pub knob: Knob,
    /// What the tenant or source that it is about was called then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it was before; none for who was not diverted.
    pub from: Option<Level>,
    /// What it is since.
    pub to: Option<Level>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Setting {
    /// It as it is written by this release.
    pub fn new(level: Level, by: Who, at: Timestamp, reason: Option<String>) -> Self {
        Self { v: FORMAT, level, by, at, reason, drained: BTreeSet::new() }
    }
}

/// A share of the capacity as a caller gives it.
pub fn check_percent(percent: i64, faults: &mut Faults) -> Option<Percent> {
    faults.range("percent", percent, 0, 100);
    u8::try_from(percent).ok().and_then(Percent::new)
}

/// A reason as a caller gives it.
pub fn check_reason(reason: Option<&str>, faults: &mut Faults) {
    if reason.is_some_and(|reason| reason.chars().count() > MAX_REASON) {
        faults.add("reason", format!("may have at most {MAX_REASON} characters"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_set_is_read_as_it_is_written() {
        let sides = [Diverted::Tenant(crate::event::TenantId(7)), Diverted::Source(crate::event::SourceId(7))];
        let knobs = Lane::ALL.map(Knob::Lane).into_iter().chain([Knob::Retries, Knob::Shard(Shard(12))]);
        for knob in knobs.chain(sides.map(Knob::Diversion)) {
            assert_eq!(knob.to_string().parse::<Knob>().expect("what was written"), knob);
        }
        for text in ["", "lanes", "lanes.fast", "shards.-1", "shards.70000", "retries.x", "ten_", "dst_01j9zzzzzzzzzzzzzzzzzzzzzz"]
        {
            assert!(text.parse::<Knob>().is_err(), "{text}");
        }
    }
}
