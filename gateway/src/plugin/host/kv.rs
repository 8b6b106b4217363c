//! The plugin's table, as a guest sees it. See [`super::super::table`] for how a question is answered.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, LinkerInstance, Lower, WasmList, WasmStr};

use super::{State, charge, count};
use crate::plugin::error::Stop;
use crate::plugin::table::{MAX_KEY, MAX_VALUE, Table, TableAction, TableAnswer, TableFault, TableOp, TableResult};

/// Where a guest is in what it asks.
pub(in crate::plugin) struct Asking {
    exists: bool,
    answers: Arc<Vec<(TableOp, TableResult)>>,
    next: usize,
    /// Bytes that these moved.
    traffic: usize,
    /// What it was stopped for.
    pub(in crate::plugin) asked: Option<TableOp>,
}

impl Asking {
    pub(super) fn new(table: &Table) -> Self {
        Self { exists: table.place.is_some(), answers: Arc::clone(&table.answers), next: 0, traffic: 0, asked: None }
    }
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
enum Error {
    #[component(name = "quota-exceeded")]
    QuotaExceeded,
    #[component(name = "not-a-number")]
    NotANumber,
    #[component(name = "too-large")]
    TooLarge,
    #[component(name = "no-table")]
    NoTable,
}

impl From<TableFault> for Error {
    fn from(fault: TableFault) -> Self {
        match fault {
            TableFault::Quota => Self::QuotaExceeded,
            TableFault::NotANumber => Self::NotANumber,
            TableFault::TooLarge => Self::TooLarge,
            TableFault::NoTable => Self::NoTable,
        }
    }
}

type Guest<'a> = StoreContextMut<'a, State>;
type Answer<T> = wasmtime::Result<(Result<T, Error>,)>;

pub(super) fn link(instance: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    instance.func_wrap("get", get)?;
    instance.func_wrap("set", set)?;
    instance.func_wrap("add", add)?;
    instance.func_wrap("delete", delete)?;
    instance.func_wrap("increment", increment)
}

fn get(mut store: Guest<'_>, (key,): (WasmStr,)) -> Answer<Option<Vec<u8>>> {
    ask(
        &mut store,
        key,
        |_| Ok(Some(TableAction::Get)),
        |answer| match answer {
            TableAnswer::Value(value) => Some(value.map(|value| value.to_vec())),
            _ => None,
        },
    )
}

fn set(mut store: Guest<'_>, (key, value, ttl): (WasmStr, WasmList<u8>, Option<u32>)) -> Answer<()> {
    let action = |store: &mut Guest<'_>| Ok(copy(store, value)?.map(|value| TableAction::Set { value, ttl }));
    ask(&mut store, key, action, |answer| matches!(answer, TableAnswer::Done).then_some(()))
}

fn add(mut store: Guest<'_>, (key, value, ttl): (WasmStr, WasmList<u8>, Option<u32>)) -> Answer<bool> {
    let action = |store: &mut Guest<'_>| Ok(copy(store, value)?.map(|value| TableAction::Add { value, ttl }));
    ask(&mut store, key, action, changed)
}

fn delete(mut store: Guest<'_>, (key,): (WasmStr,)) -> Answer<bool> {
    ask(&mut store, key, |_| Ok(Some(TableAction::Delete)), changed)
}

fn increment(mut store: Guest<'_>, (key, by, ttl): (WasmStr, i64, Option<u32>)) -> Answer<i64> {
    let action = |_: &mut Guest<'_>| Ok(Some(TableAction::Increment { by, ttl }));
    ask(&mut store, key, action, |answer| match answer {
        TableAnswer::Number(number) => Some(number),
        _ => None,
    })
}

fn changed(answer: TableAnswer) -> Option<bool> {
    match answer {
        TableAnswer::Changed(changed) => Some(changed),
        _ => None,
    }
}

/// A value out of the guest's memory; none if it is too large.
fn copy(store: &mut Guest<'_>, value: WasmList<u8>) -> wasmtime::Result<Option<Bytes>> {
    if value.len() > MAX_VALUE {
        return Ok(None);
    }
    charge(store, value.len() as u64)?;
    Ok(Some(Bytes::copy_from_slice(value.as_le_slice(&*store))))
}

/// The answer that is at hand, or a stop until there is one. `action` gives none for a value that is too large; `read` none for an
/// answer to something else.
fn ask<T>(
    store: &mut Guest<'_>,
    key: WasmStr,
    action: impl FnOnce(&mut Guest<'_>) -> wasmtime::Result<Option<TableAction>>,
    read: impl FnOnce(TableAnswer) -> Option<T>,
) -> Answer<T> {
    count(store)?;
    if !store.data().table.exists {
        return Ok((Err(Error::NoTable),));
    }
    let key = key.to_str(&*store)?.into_owned();
    charge(store, key.len() as u64)?;
    let Some(action) = action(store)?.filter(|_| (1..=MAX_KEY).contains(&key.len())) else {
        return Ok((Err(Error::TooLarge),));
    };
    let op = TableOp { key, action };
    let State { table, limits, .. } = store.data_mut();
    if table.next >= limits.table_ops as usize {
        return Err(Stop::TableOps(limits.table_ops).into());
    }
    table.traffic = table.traffic.saturating_add(op.bytes());
    let answer = match table.answers.get(table.next) {
        _ if table.traffic > limits.table_traffic => return Err(Stop::TableTraffic(limits.table_traffic).into()),
        Some((known, answer)) if *known == op => answer.clone(),
        Some(_) => return Err(Stop::Trap("it asked its table for something else than when it ran before".into()).into()),
        None => {
            table.asked = Some(op);
            return Err(Stop::Asks.into());
        }
    };
    table.next += 1;
    let answer = match answer {
        Ok(answer) => answer,
        Err(fault) => return Ok((Err(fault.into()),)),
    };
    if let TableAnswer::Value(Some(value)) = &answer {
        store.data_mut().table.traffic += value.len();
        charge(store, value.len() as u64)?;
    }
    Ok((read(answer).ok_or(Error::NoTable),))
}
