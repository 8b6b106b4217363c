//! Tables of plugins: what is asked of them, and what an operation makes of an entry. What engines promise is in the contract.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{Home, StoreError};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, EventId, PluginId, encode};

/// The longest key, in bytes.
pub const MAX_TABLE_KEY: usize = 256;
/// The longest value, in bytes.
pub const MAX_TABLE_VALUE: usize = 64 << 10;
/// The most operations in one call.
pub const MAX_TABLE_OPS: usize = 64;
/// The longest time that an entry may be given.
pub const MAX_TABLE_TTL: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// What an entry counts beside its key and its value, in bytes.
pub const TABLE_ENTRY_OVERHEAD: u64 = 128;
/// A listing shows values up to this many bytes.
pub const SHOWN_TABLE_VALUE: usize = 1024;
/// How long the answers of a call that wrote are remembered.
pub const TABLE_CALL_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How many calls that wrote are remembered of a tenant; the oldest go first.
pub const MAX_TABLE_CALLS: u64 = 16_384;

/// A plugin's table of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// The tenant, and its home shard.
    pub home: Home,
    /// The plugin.
    pub plugin: PluginId,
}

/// A key of a table: 1 to [`MAX_TABLE_KEY`] bytes of UTF-8 without control characters. Keys are in order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TableKey(String);

/// A text that is no key of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key must be 1 to {MAX_TABLE_KEY} bytes of UTF-8 without control characters")]
pub struct TableKeyError;

impl TableKey {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TableKey {
    type Err = TableKeyError;

    fn from_str(text: &str) -> Result<Self, TableKeyError> {
        let is_key = (1..=MAX_TABLE_KEY).contains(&text.len()) && !text.chars().any(char::is_control);
        is_key.then(|| Self(text.to_owned())).ok_or(TableKeyError)
    }
}

impl fmt::Display for TableKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What to do with an entry. A time to live begins with the call's `now`; none is for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum TableOp {
    /// Reads it.
    Get,
    /// Writes it, with another end than it had.
    Set {
        /// What it holds from now on.
        value: Bytes,
        /// For how long.
        ttl: Option<Duration>,
    },
    /// Writes it if there is none.
    Add {
        /// What it holds from now on.
        value: Bytes,
        /// For how long.
        ttl: Option<Duration>,
    },
    /// Takes it away.
    Delete,
    /// Adds to the number that it holds, written in decimal digits; where there is no entry, to 0.
    Increment {
        /// How much; may be negative.
        by: i64,
        /// For how long, if this makes the entry; otherwise it keeps its end.
        ttl: Option<Duration>,
    },
}

/// What an operation answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TableAnswer {
    /// Of [`TableOp::Get`]: the value, if there is an entry.
    Value(Option<Bytes>),
    /// Of [`TableOp::Set`].
    Done,
    /// Of [`TableOp::Add`]: whether there was no entry before.
    Added(bool),
    /// Of [`TableOp::Delete`]: whether there was one.
    Deleted(bool),
    /// Of [`TableOp::Increment`]: the number now.
    Number(i64),
}

/// Why an operation changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum TableFault {
    /// The tenant's tables would be larger than its plan allows.
    #[error("the tables of the tenant are full: delete entries, give them a time to live, or have plan.table_bytes raised")]
    Quota,
    /// An increment of what is no number.
    #[error("the entry holds no number: a whole number in decimal digits that fits into 64 bits, with no zeros before it")]
    NotANumber,
    /// An increment that leads out of 64 bits.
    #[error("the number would not fit into 64 bits any more")]
    OutOfRange,
    /// The value is too long.
    #[error("a value is at most {MAX_TABLE_VALUE} bytes")]
    TooLarge,
    /// The time to live is none.
    #[error("a time to live is 1 ms to 3650 days")]
    TimeToLive,
}

/// What becomes of one operation.
pub type TableResult = Result<TableAnswer, TableFault>;

/// What makes the operations of a call happen once: whatever stands for the call when it is made again, after a crash or by a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Once {
    /// The event that is worked on.
    pub event: EventId,
    /// On which connection.
    pub connection: ConnectionId,
    /// The plugin's place in the chain.
    pub stage: u8,
    /// Which input of the stage.
    pub output: u32,
    /// The place of the call's first operation among all of this run.
    pub number: u32,
}

/// An entry in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// Its key.
    pub key: TableKey,
    /// Bytes of its value.
    pub size: u64,
    /// When it ends, if it does.
    pub until: Option<Timestamp>,
    /// The value, if it is at most [`SHOWN_TABLE_VALUE`] bytes.
    pub value: Option<Bytes>,
}

/// A page of a table, in order of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePage {
    /// Only keys that start with this.
    pub prefix: String,
    /// Only keys behind this one, the `next` of the page before.
    pub after: Option<TableKey>,
    /// At most this many; engines take 0 for 1 and cap it at [`MAX_PAGE`](super::MAX_PAGE).
    pub limit: usize,
}

/// What all tables of a tenant take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableUse {
    /// Bytes of keys and values, and [`TABLE_ENTRY_OVERHEAD`] for each entry.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

/// Bytes that an entry counts.
pub fn table_entry_bytes(key: &TableKey, value: &[u8]) -> u64 {
    (key.0.len() + value.len()) as u64 + TABLE_ENTRY_OVERHEAD
}

/// What an operation makes of an entry.
pub(crate) enum Effect {
    Nothing,
    Remove,
    Put { value: Bytes, end: End },
}

/// When an entry ends.
pub(crate) enum End {
    /// As before.
    Kept,
    At(Option<Timestamp>),
}

impl TableOp {
    /// Whether it may change something.
    pub fn writes(&self) -> bool {
        !matches!(self, Self::Get)
    }

    /// Whether it may need room.
    pub(super) fn may_grow(&self) -> bool {
        matches!(self, Self::Set { .. } | Self::Add { .. } | Self::Increment { .. })
    }

    /// What is wrong with it, whatever it finds.
    pub(crate) fn check(&self) -> Result<(), TableFault> {
        let (value, ttl): (&[u8], _) = match self {
            Self::Get | Self::Delete => return Ok(()),
            Self::Set { value, ttl } | Self::Add { value, ttl } => (value, ttl),
            Self::Increment { ttl, .. } => (&[], ttl),
        };
        if value.len() > MAX_TABLE_VALUE {
            return Err(TableFault::TooLarge);
        }
        match ttl {
            Some(ttl) if ttl.as_millis() == 0 || *ttl > MAX_TABLE_TTL => Err(TableFault::TimeToLive),
            _ => Ok(()),
        }
    }

    /// What it answers and does where `before` is.
    pub(crate) fn apply(&self, before: Option<&Bytes>, now: Timestamp) -> Result<(TableAnswer, Effect), TableFault> {
        self.check()?;
        let end = |ttl: &Option<Duration>| End::At(ttl.map(|ttl| now.after(ttl)));
        Ok(match self {
            Self::Get => (TableAnswer::Value(before.cloned()), Effect::Nothing),
            Self::Set { value, ttl } => (TableAnswer::Done, Effect::Put { value: value.clone(), end: end(ttl) }),
            Self::Add { .. } if before.is_some() => (TableAnswer::Added(false), Effect::Nothing),
            Self::Add { value, ttl } => (TableAnswer::Added(true), Effect::Put { value: value.clone(), end: end(ttl) }),
            Self::Delete if before.is_some() => (TableAnswer::Deleted(true), Effect::Remove),
            Self::Delete => (TableAnswer::Deleted(false), Effect::Nothing),
            Self::Increment { by, ttl } => {
                let present = before.map_or(Ok(0), |value| number(value))?;
                let sum = present.checked_add(*by).ok_or(TableFault::OutOfRange)?;
                let end = if before.is_some() { End::Kept } else { end(ttl) };
                (TableAnswer::Number(sum), Effect::Put { value: sum.to_string().into(), end })
            }
        })
    }
}

/// A number as an increment writes it, and as Redis reads it.
fn number(value: &[u8]) -> Result<i64, TableFault> {
    let text = std::str::from_utf8(value).map_err(|_| TableFault::NotANumber)?;
    let number: i64 = text.parse().map_err(|_| TableFault::NotANumber)?;
    if number.to_string() == text { Ok(number) } else { Err(TableFault::NotANumber) }
}

/// Under what the answers of a call that writes are remembered: 16 bytes that stand for the run, the place in it, and what is asked for.
/// A run that asks for something else at the same place asks anew. A call that nobody would make again gets a name of its own, so that
/// the engine itself can send it again.
pub(super) fn call_name(plugin: PluginId, once: Option<&Once>, ops: &[(TableKey, TableOp)]) -> [u8; 16] {
    let Some(once) = once else { return rand::random() };
    let writes: Vec<_> = ops.iter().filter(|(_, op)| op.writes()).collect();
    let mut name = [0; 16];
    name.copy_from_slice(&digest(&SHA256, &encode(&(plugin, once, writes))).as_ref()[..16]);
    name
}

pub(super) fn check_count(ops: &[(TableKey, TableOp)]) -> Result<(), StoreError> {
    if ops.len() > MAX_TABLE_OPS {
        return Err(StoreError::Refused(format!("{} operations in one call: at most {MAX_TABLE_OPS} are taken", ops.len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_short_texts_without_control_characters() {
        for key in ["a", "user:7/é", " ", &"k".repeat(MAX_TABLE_KEY)] {
            assert_eq!(key.parse::<TableKey>().map(|key| key.to_string()), Ok(key.to_owned()));
        }
        for text in ["", "a\nb", "\0", "\u{7f}", "\u{85}", &"k".repeat(MAX_TABLE_KEY + 1)] {
            assert_eq!(text.parse::<TableKey>(), Err(TableKeyError), "{text:?}");
        }
    }

    #[test]
    fn numbers_are_what_redis_takes_for_numbers() {
        for (text, expected) in [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX), ("-9223372036854775808", i64::MIN)] {
            assert_eq!(number(text.as_bytes()), Ok(expected));
        }
        for text in ["", "-", "+1", "01", "-0", " 1", "1 ", "1.0", "9223372036854775808", "-9223372036854775809", "\u{0661}"] {
            assert_eq!(number(text.as_bytes()), Err(TableFault::NotANumber), "{text:?}");
        }
    }

    #[test]
    fn a_call_is_known_by_its_run_its_place_and_what_it_writes() {
        let once = Once { event: EventId(1), connection: ConnectionId(2), stage: 0, output: 0, number: 3 };
        let add = |by| ("k".parse().unwrap(), TableOp::Increment { by, ttl: None });
        let name = |once: Once, ops: &[_]| call_name(PluginId(4), Some(&once), ops);
        let get = ("k".parse().unwrap(), TableOp::Get);
        assert_eq!(name(once, &[add(1)]), name(once, &[get, add(1)]));
        let others = [
            name(once, &[add(2)]),
            name(Once { number: 4, ..once }, &[add(1)]),
            name(Once { output: 1, ..once }, &[add(1)]),
            name(Once { stage: 1, ..once }, &[add(1)]),
            call_name(PluginId(5), Some(&once), &[add(1)]),
            call_name(PluginId(4), None, &[add(1)]),
        ];
        assert!(others.iter().all(|other| *other != name(once, &[add(1)])));
        assert_ne!(call_name(PluginId(4), None, &[add(1)]), call_name(PluginId(4), None, &[add(1)]));
    }
}
