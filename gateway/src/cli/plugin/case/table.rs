//! The tables that cases ask: in memory, one for each run of a case, and otherwise as the gateway's store keeps them.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;

use super::{Data, Wanted};
use crate::app::tables::{asked, fault, told};
use crate::cli::plugin::differences::shown;
use crate::clock::Timestamp;
use crate::event::PluginId;
use crate::plugin::table::{Place, TableAction, TableAnswer, TableFault, TableOp, TableResult, Tables};
use crate::store::TableKey;
use crate::store::table::{Effect, End, table_entry_bytes};

/// An entry that is there before.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields, expecting = "expected data, or an object with `value` and `ttl`")]
pub(super) enum GivenEntry {
    /// For so many seconds.
    Ending { value: Data, ttl: u32 },
    /// For good.
    Lasting(Data),
}

impl GivenEntry {
    pub(super) fn data(&mut self) -> &mut Data {
        match self {
            Self::Ending { value, .. } | Self::Lasting(value) => value,
        }
    }
}

/// An entry that must be there afterwards.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields, expecting = "expected data, or an object with `value` and `ttl`")]
pub(in super::super) enum WantedEntry {
    /// For so many seconds; none: for good.
    Ending { value: Wanted, ttl: Option<u32> },
    /// However long.
    Any(Wanted),
}

impl WantedEntry {
    pub(in super::super) fn value(&self) -> &Wanted {
        match self {
            Self::Ending { value, .. } | Self::Any(value) => value,
        }
    }

    pub(super) fn resolve(&mut self, directory: &Path) -> anyhow::Result<()> {
        match self {
            Self::Ending { value, .. } | Self::Any(value) => value.resolve(directory),
        }
    }
}

/// What a run has made of its table.
#[derive(Clone, Debug, Default)]
pub struct TableUse {
    /// The entries afterwards, each with its time to live in seconds.
    pub entries: BTreeMap<String, (Bytes, Option<u64>)>,
    /// What was asked, in order: `increment orders by 1: 2`.
    pub ops: Vec<String>,
}

/// The tables of the runs that are going on.
#[derive(Clone, Debug, Default)]
pub struct CaseTables(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    last: u128,
    tables: BTreeMap<PluginId, Kept>,
}

#[derive(Debug)]
struct Kept {
    entries: BTreeMap<TableKey, (Bytes, Option<Timestamp>)>,
    quota: u64,
    now: Timestamp,
    ops: Vec<String>,
}

impl CaseTables {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A table with these entries in it, for one run.
    pub(super) fn begin<'a>(
        &self,
        entries: impl Iterator<Item = (&'a String, &'a GivenEntry)>,
        quota: u64,
        now: Timestamp,
    ) -> PluginId {
        let entries = entries.map(|(key, entry)| {
            let (value, until) = match entry {
                GivenEntry::Ending { value, ttl } => (value, Some(now.after(Duration::from_secs((*ttl).into())))),
                GivenEntry::Lasting(value) => (value, None),
            };
            (key.parse().expect("keys are checked when a case is read"), (value.bytes().into(), until))
        });
        let kept = Kept { entries: entries.collect(), quota, now, ops: Vec::new() };
        let mut open = self.open();
        open.last += 1;
        let plugin = PluginId(open.last);
        open.tables.insert(plugin, kept);
        plugin
    }

    /// What the run has made of it.
    pub(in super::super) fn end(&self, plugin: PluginId) -> TableUse {
        let Some(Kept { entries, now, ops, .. }) = self.open().tables.remove(&plugin) else { return TableUse::default() };
        let left = |until: Option<Timestamp>| until.map(|until| until.since(now).as_secs());
        let entries = entries.into_iter().map(|(key, (value, until))| (key.to_string(), (value, left(until))));
        TableUse { entries: entries.collect(), ops }
    }
}

#[async_trait]
impl Tables for CaseTables {
    async fn ask(&self, place: &Place, _: u32, op: &TableOp) -> Result<TableResult, Box<dyn Error + Send + Sync>> {
        let mut open = self.open();
        let Some(kept) = open.tables.get_mut(&place.plugin) else { return Ok(Err(TableFault::NoTable)) };
        let result = kept.operate(op);
        kept.ops.push(line(op, &result));
        Ok(result)
    }
}

impl Kept {
    fn operate(&mut self, op: &TableOp) -> TableResult {
        let key: TableKey = op.key.parse().map_err(|_| TableFault::TooLarge)?;
        let before = self.entries.get(&key);
        let (answer, effect) = asked(&op.action).apply(before.map(|(value, _)| value), self.now).map_err(fault)?;
        match effect {
            Effect::Nothing => {}
            Effect::Remove => drop(self.entries.remove(&key)),
            Effect::Put { value, end } => {
                let (old, was_until) = before.map_or((0, None), |(value, until)| (table_entry_bytes(&key, value), *until));
                let taken: u64 = self.entries.iter().map(|(key, (value, _))| table_entry_bytes(key, value)).sum();
                let new = table_entry_bytes(&key, &value);
                if new > old && taken - old + new > self.quota {
                    return Err(TableFault::Quota);
                }
                let until = match end {
                    End::Kept => was_until,
                    End::At(until) => until,
                };
                self.entries.insert(key, (value, until));
            }
        }
        Ok(told(answer))
    }
}

/// An operation and its answer, in a line.
fn line(op: &TableOp, result: &TableResult) -> String {
    let lasts = |ttl: &Option<u32>| ttl.map(|ttl| format!(" for {ttl} s")).unwrap_or_default();
    let what = match &op.action {
        TableAction::Get => format!("get {}", op.key),
        TableAction::Set { value, ttl } => format!("set {} to {}{}", op.key, shown(value), lasts(ttl)),
        TableAction::Add { value, ttl } => format!("add {} with {}{}", op.key, shown(value), lasts(ttl)),
        TableAction::Delete => format!("delete {}", op.key),
        TableAction::Increment { by, ttl } => format!("increment {} by {by}{}", op.key, lasts(ttl)),
    };
    let answer = match result {
        Ok(TableAnswer::Value(None)) => "nothing".into(),
        Ok(TableAnswer::Value(Some(value))) => shown(value),
        Ok(TableAnswer::Done) => "done".into(),
        Ok(TableAnswer::Changed(changed)) => changed.to_string(),
        Ok(TableAnswer::Number(number)) => number.to_string(),
        Err(TableFault::Quota) => "quota-exceeded".into(),
        Err(TableFault::NotANumber) => "not-a-number".into(),
        Err(TableFault::TooLarge) => "too-large".into(),
        Err(TableFault::NoTable) => "no-table".into(),
    };
    format!("{what}: {answer}")
}
