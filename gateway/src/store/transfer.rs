//! A whole installation on its way from one store to another, or into a file ([`mod@file`]) and back.
//!
//! An engine gives all that it holds as [`Item`]s, which no engine's layout shows in, and takes them into an empty store. Nobody else
//! may use the store meanwhile: the embedded one is locked, and on Redis an export looks for running gateways before it begins
//! and for changes when it ends.
//!
//! # What a move keeps
//! - Configuration, components, bookmarks, plugins' tables with the calls that are remembered, history with its bodies, dead letters, dedup
//!   keys, and what is remembered or said for a while and has not ended.
//! - **Work stays where it was**: a lane's unfinished entries in their order, with how often each was claimed and the progress that
//!   was recorded; jobs on the schedule, in their queues at their place, or dead. So what was recorded as delivered is not delivered again.
//! - What was in somebody's hands when the gateways ended stands at its old place, as for a new owner.
//!
//! Left behind is what belongs to running gateways: leases, presence, the fill of shared token buckets, how much was finished in all.
//!
//! # An import that does not come to its end
//! The store is marked before the first write, and the mark goes with the last. No gateway starts on a store that has it, and the next
//! import into it takes everything away and begins anew.

pub mod file;

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{BookmarkHead, BookmarkName, DeliveryRecord, Job, Purged, QueueKey, StoreError, TableAnswer, TableFault, TableResult};
use crate::clock::Timestamp;
use crate::event::{Attempt, Event, EventId, Failure, Lane, PluginId, Revision, Shard, TenantId, VersionHash};

/// A page of items is given once it holds so many, or so many bytes.
pub const PAGE_ITEMS: usize = 256;
/// See [`PAGE_ITEMS`]; a single larger item is a page of its own.
pub const PAGE_BYTES: usize = 1 << 20;

/// One thing that a store holds. At its end a variant may be added; those that are there stand in files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Item {
    /// The configuration's revision.
    Revision(Revision),
    /// A record of the configuration.
    Setting {
        /// Its key.
        key: String,
        /// The record; secrets in it are sealed.
        value: Bytes,
    },
    /// A plugin's component.
    Component {
        /// Its hash.
        version: VersionHash,
        /// Its bytes.
        component: Bytes,
    },
    /// An event, queued or finished. Those of a lane come in its order.
    Event(Box<MovedEvent>),
    /// Scheduled, parked or dead.
    Job(Box<MovedJob>),
    /// An entry of a plugin's table.
    Cell(MovedCell),
    /// A call to a table that is remembered. Those of a tenant come in order.
    Call(MovedCall),
    /// A dedup key.
    Dedup(MovedDedup),
    /// What is remembered under a key.
    Remembered {
        /// The key.
        key: String,
        /// What.
        value: Bytes,
        /// Until when.
        until: Timestamp,
    },
    /// What a node says under a topic.
    Said {
        /// The topic.
        topic: String,
        /// The node, or whatever else it is said by.
        node: String,
        /// What.
        value: Bytes,
        /// Until when.
        until: Timestamp,
    },
    /// What the purge of a deleted tenant has removed so far.
    Purged {
        /// In which shard.
        shard: Shard,
        /// Whose.
        tenant: TenantId,
        /// How much.
        purged: Purged,
    },
    /// A bookmark.
    Bookmark(Box<MovedBookmark>),
}

/// See [`Item::Bookmark`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MovedBookmark {
    /// The tenant's home shard.
    pub shard: Shard,
    /// Whose.
    pub tenant: TenantId,
    /// Its name.
    pub name: BookmarkName,
    /// What it says.
    pub head: BookmarkHead,
    /// The copy.
    pub event: Event,
}

/// See [`Item::Event`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MovedEvent {
    /// Its shard.
    pub shard: Shard,
    /// Its lane.
    pub lane: Lane,
    /// How often its entry was claimed; 0 if it is still to be claimed for the first time.
    pub claims: u32,
    /// Whether the entry is finished.
    pub finished: bool,
    /// The event.
    pub event: Event,
    /// The outcomes so far, merged.
    #[serde(with = "rows")]
    pub rows: Vec<DeliveryRecord>,
}

/// See [`Item::Job`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MovedJob {
    /// Its shard.
    pub shard: Shard,
    /// Where it stands.
    pub place: MovedPlace,
    /// The work.
    pub job: Job,
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MovedPlace {
    /// Due then.
    Scheduled(Timestamp),
    /// In this queue, in order of these numbers.
    Parked(QueueKey, u64),
    /// In this ordered queue, in this line of it.
    Lined {
        /// The queue.
        queue: QueueKey,
        /// The line.
        line: u128,
        /// Its place there; an event has 4,096.
        place: u64,
        /// When it is due.
        due: Timestamp,
    },
    /// A dead letter.
    Dead {
        /// When it was given up.
        at: Timestamp,
        /// Why.
        reason: Failure,
        /// After which attempt.
        last: Option<Attempt>,
    },
}

/// See [`Item::Cell`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedCell {
    /// The tenant's home shard.
    pub shard: Shard,
    /// Whose.
    pub tenant: TenantId,
    /// Of which plugin.
    pub plugin: PluginId,
    /// Its key.
    pub key: String,
    /// What it holds.
    pub value: Bytes,
    /// When it ends, if it does.
    pub until: Option<Timestamp>,
}

/// See [`Item::Call`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedCall {
    /// The tenant's home shard.
    pub shard: Shard,
    /// Whose.
    pub tenant: TenantId,
    /// When it was made.
    pub at: Timestamp,
    /// The name that it is known by.
    pub name: [u8; 16],
    /// What its writes answered, a word each.
    pub words: Vec<String>,
}

/// See [`Item::Dedup`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedDedup {
    /// The shard that it counts in; none if the store can't tell, and then it may count in all.
    pub shard: Option<Shard>,
    /// Whose; none if the store can't tell, since the event is gone.
    pub tenant: Option<TenantId>,
    /// The key.
    pub key: [u8; 32],
    /// The first event that had it.
    pub event: EventId,
    /// Until when that is remembered.
    pub until: Timestamp,
}

impl Item {
    /// The name that its kind is counted by.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Revision(_) => "revisions",
            Self::Setting { .. } => "settings",
            Self::Component { .. } => "components",
            Self::Event(moved) if moved.finished => "finished_events",
            Self::Event(_) => "queued_events",
            Self::Job(moved) => match moved.place {
                MovedPlace::Scheduled(_) => "scheduled",
                MovedPlace::Parked(..) | MovedPlace::Lined { .. } => "parked",
                MovedPlace::Dead { .. } => "dead_letters",
            },
            Self::Cell(_) => "table_entries",
            Self::Call(_) => "table_calls",
            Self::Dedup(_) => "dedup_keys",
            Self::Remembered { .. } => "remembered",
            Self::Said { .. } => "said",
            Self::Purged { .. } => "purged",
            Self::Bookmark(_) => "bookmarks",
        }
    }

    /// The shard that it must go to.
    pub fn shard(&self) -> Option<Shard> {
        match self {
            Self::Event(moved) => Some(moved.shard),
            Self::Job(moved) => Some(moved.shard),
            Self::Cell(moved) => Some(moved.shard),
            Self::Call(moved) => Some(moved.shard),
            Self::Dedup(moved) => moved.shard,
            Self::Purged { shard, .. } => Some(*shard),
            Self::Bookmark(moved) => Some(moved.shard),
            _ => None,
        }
    }

    /// About how many bytes it holds.
    pub fn size(&self) -> usize {
        let small = 256;
        small
            + match self {
                Self::Setting { value, .. } | Self::Remembered { value, .. } | Self::Said { value, .. } => value.len(),
                Self::Component { component, .. } => component.len(),
                Self::Event(moved) => moved.event.request.size() + small * moved.rows.len(),
                Self::Job(moved) => moved.job.size(),
                Self::Cell(moved) => moved.key.len() + moved.value.len(),
                Self::Bookmark(moved) => moved.event.request.size(),
                _ => 0,
            }
    }
}

/// How many items there are of each kind.
pub type Counts = BTreeMap<String, u64>;

/// A store that is being read. Nobody else uses it meanwhile.
#[async_trait]
pub trait Outgoing: Send {
    /// The next items; none after the last. The configuration comes first.
    async fn next(&mut self) -> Result<Option<Vec<Item>>, StoreError>;

    /// Checks that the store is as it was when it began to be read.
    async fn finish(self: Box<Self>) -> Result<(), StoreError>;
}

/// A store that is being filled. It was empty, and no gateway starts on it before [`Incoming::finish`].
#[async_trait]
pub trait Incoming: Send {
    /// Takes items, in the order in which [`Outgoing::next`] gave them. What comes twice counts once.
    async fn put(&mut self, items: Vec<Item>) -> Result<(), StoreError>;

    /// Makes it durable, and the store one to start on. Answers how many items the engine has no place for.
    async fn finish(self: Box<Self>) -> Result<u64, StoreError>;
}

/// The answer of a write to a table as a word. None for one that the operation itself is the reason of: it is found again without asking.
pub(super) fn word(result: &TableResult) -> Option<String> {
    let word = match result {
        Ok(TableAnswer::Done) => "done",
        Ok(TableAnswer::Added(true) | TableAnswer::Deleted(true)) => "yes",
        Ok(TableAnswer::Added(false) | TableAnswer::Deleted(false)) => "no",
        Ok(TableAnswer::Number(number)) => return Some(number.to_string()),
        Ok(TableAnswer::Value(_)) => return None,
        Err(TableFault::Quota) => "quota",
        Err(TableFault::NotANumber) => "not_a_number",
        Err(TableFault::OutOfRange) => "out_of_range",
        Err(TableFault::TooLarge | TableFault::TimeToLive) => return None,
    };
    Some(word.to_owned())
}

/// Reads what [`word`] wrote. What it says of a deletion is said as of an addition.
pub(super) fn read_word(word: &str) -> Result<TableResult, StoreError> {
    Ok(match word {
        "done" => Ok(TableAnswer::Done),
        "yes" | "no" => Ok(TableAnswer::Added(word == "yes")),
        "quota" => Err(TableFault::Quota),
        "not_a_number" => Err(TableFault::NotANumber),
        "out_of_range" => Err(TableFault::OutOfRange),
        number => {
            let number = number.parse().map_err(|_| StoreError::Damaged("the answer of a call to a table".into()))?;
            Ok(TableAnswer::Number(number))
        }
    })
}

/// Outcomes in the form that needs no field names.
mod rows {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::store::DeliveryRecord;
    use crate::store::row::Row;

    pub(super) fn serialize<S: Serializer>(rows: &[DeliveryRecord], serializer: S) -> Result<S::Ok, S::Error> {
        rows.iter().map(Row::of).collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<DeliveryRecord>, D::Error> {
        Ok(Vec::<Row<'static>>::deserialize(deserializer)?.into_iter().map(Row::into_record).collect())
    }
}
