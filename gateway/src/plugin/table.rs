//! Tables that plugins keep: `kv` of `sdk/wit`.
//!
//! A guest runs to its end on a thread, and what keeps the tables answers later. So a guest that asks for what is not at hand is stopped,
//! the question is put to [`Tables`], and the guest runs again from its start with one answer more at hand. It asks the same again: its
//! clock, its random numbers and its input are the same. No thread waits, and what is asked counts up to `table_ops`.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::event::{ConnectionId, EventId, PluginId, TenantId};

/// Bytes of a key.
pub const MAX_KEY: usize = 256;
/// Bytes of a value.
pub const MAX_VALUE: usize = 64 << 10;

/// Which table a call may use, and what makes its changes happen once. The default is none.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub(super) place: Option<Place>,
    pub(super) trial: bool,
    /// What was asked so far, in order.
    pub(super) answers: Arc<Vec<(TableOp, TableResult)>>,
}

/// A run of a plugin in a plan: the same place asks for the same, however often the plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Whose table.
    pub tenant: TenantId,
    /// Which of its tables.
    pub plugin: PluginId,
    /// The event that is planned.
    pub event: EventId,
    /// The connection that it is planned for.
    pub connection: ConnectionId,
    /// The plugin's place in the connection's chain.
    pub stage: u32,
    /// Which of the requests that this stage is given.
    pub input: u32,
}

impl Table {
    /// Changes are made, once for this place.
    pub fn live(place: Place) -> Self {
        Self { place: Some(place), ..Self::default() }
    }

    /// Nothing is changed: the call reads what is there, and what it would have written.
    pub fn trial(place: Place) -> Self {
        Self { trial: true, ..Self::live(place) }
    }

    /// The same table for a run beside the one that counts: as a trial, from the start.
    pub fn beside(&self) -> Self {
        self.place.map_or_else(Self::default, Self::trial)
    }
}

/// One operation on an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableOp {
    /// The entry: 1 to [`MAX_KEY`] bytes.
    pub key: String,
    /// What is done.
    pub action: TableAction,
}

impl TableOp {
    /// Bytes that it hands over.
    pub(super) fn bytes(&self) -> usize {
        let value = match &self.action {
            TableAction::Set { value, .. } | TableAction::Add { value, .. } => value.len(),
            TableAction::Get | TableAction::Delete | TableAction::Increment { .. } => 0,
        };
        self.key.len().saturating_add(value)
    }
}

/// What is done to an entry. Values have at most [`MAX_VALUE`] bytes; times to live are in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableAction {
    /// Read it.
    Get,
    /// Make or replace it.
    Set {
        /// Its new value.
        value: Bytes,
        /// When it goes; never without one.
        ttl: Option<u32>,
    },
    /// Make it unless it is there.
    Add {
        /// Its value.
        value: Bytes,
        /// When it goes; never without one.
        ttl: Option<u32>,
    },
    /// Take it away.
    Delete,
    /// Add to the number in it.
    Increment {
        /// What is added.
        by: i64,
        /// When it goes if this makes it; never without one.
        ttl: Option<u32>,
    },
}

/// What an operation gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableAnswer {
    /// Of `Get`: the value, if there is an entry.
    Value(Option<Bytes>),
    /// Of `Set`.
    Done,
    /// Of `Add` and `Delete`: whether it changed anything.
    Changed(bool),
    /// Of `Increment`: the sum.
    Number(i64),
}

impl TableAnswer {
    /// Bytes that it brings back.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Value(value) => value.as_ref().map_or(0, Bytes::len),
            Self::Done | Self::Changed(_) | Self::Number(_) => 0,
        }
    }
}

/// Why an operation was not done: the plugin's affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFault {
    /// The tenant's tables are full.
    Quota,
    /// `Increment` of what is no number.
    NotANumber,
    /// The key or the value is larger than it may be.
    TooLarge,
    /// This call has no table.
    NoTable,
}

/// An answer, or why there is none.
pub type TableResult = Result<TableAnswer, TableFault>;

/// What keeps the tables.
#[async_trait]
pub trait Tables: Send + Sync {
    /// Does an operation, at once and for all. The same place and number give the same answer again, and change nothing a second time.
    async fn ask(&self, place: &Place, number: u32, op: &TableOp) -> Result<TableResult, Box<dyn Error + Send + Sync>>;
}

/// For a runtime whose plugins keep nothing.
#[derive(Debug)]
pub struct NoTables;

#[async_trait]
impl Tables for NoTables {
    async fn ask(&self, _: &Place, _: u32, _: &TableOp) -> Result<TableResult, Box<dyn Error + Send + Sync>> {
        Ok(Err(TableFault::NoTable))
    }
}

/// What a trial would have written: none for what it took away.
#[derive(Default)]
pub(super) struct Overlay(BTreeMap<String, Option<Bytes>>);

impl Overlay {
    /// Does an operation on what is there, with the changes so far, and changes nothing but them.
    pub(super) async fn ask(
        &mut self,
        tables: &dyn Tables,
        place: &Place,
        op: &TableOp,
    ) -> Result<TableResult, Box<dyn Error + Send + Sync>> {
        let known = match self.0.get(&op.key) {
            Some(known) => known.clone(),
            None => {
                let read = TableOp { key: op.key.clone(), action: TableAction::Get };
                match tables.ask(place, 0, &read).await? {
                    Ok(TableAnswer::Value(value)) => value,
                    other => return Ok(other),
                }
            }
        };
        let mut put = |value: Option<Bytes>| drop(self.0.insert(op.key.clone(), value));
        Ok(Ok(match &op.action {
            TableAction::Get => TableAnswer::Value(known),
            TableAction::Set { value, .. } => {
                put(Some(value.clone()));
                TableAnswer::Done
            }
            TableAction::Add { value, .. } => {
                if known.is_none() {
                    put(Some(value.clone()));
                }
                TableAnswer::Changed(known.is_none())
            }
            TableAction::Delete => {
                put(None);
                TableAnswer::Changed(known.is_some())
            }
            TableAction::Increment { by, .. } => {
                let number = known.map_or(Some(0), |value| std::str::from_utf8(&value).ok()?.parse::<i64>().ok());
                let Some(number) = number else { return Ok(Err(TableFault::NotANumber)) };
                let Some(sum) = number.checked_add(*by) else { return Ok(Err(TableFault::NotANumber)) };
                put(Some(sum.to_string().into()));
                TableAnswer::Number(sum)
            }
        }))
    }
}
