//! Tables of plugins: each a hash, with its keys in order beside it. A call is one script, and so one atomic unit and one round trip.
//!
//! A call that writes is sent again after a lost answer: under its name it is done once, and answers what it did.

use bytes::Bytes;
use redis::Cmd;

use super::error::{Fault, odd};
use super::hold::Pen;
use super::keys::{ShardKeys, tenant_name};
use super::{Inner, scripts};
use crate::clock::Timestamp;
use crate::event::PluginId;
use crate::store::table::{MAX_TABLE_CALLS, SHOWN_TABLE_VALUE, TABLE_CALL_AGE, call_name, check_count};
use crate::store::{
    Home, MAX_PAGE, Once, Page, StoreError, Table, TableAnswer, TableEntry, TableFault, TableKey, TableOp, TablePage, TableResult,
    TableUse,
};

/// How many entries one step takes away.
const STEP: usize = 512;

pub(super) async fn table(
    inner: &Inner,
    table: Table,
    once: Option<Once>,
    ops: &[(TableKey, TableOp)],
    quota: u64,
    now: Timestamp,
) -> Result<Vec<TableResult>, StoreError> {
    check_count(ops)?;
    let checked: Vec<Result<(), TableFault>> = ops.iter().map(|(_, op)| op.check()).collect();
    let sound = ops.iter().zip(&checked).filter(|(_, checked)| checked.is_ok()).map(|(op, _)| op);
    let keys = inner.keys(table.home.shard)?;
    let call = match sound.clone().any(|(_, op)| op.writes()) {
        _ if sound.clone().next().is_none() => None,
        true => Some(write(keys, table, call_name(table.plugin, once.as_ref(), ops), sound, quota, now)),
        false => Some(read(keys, table, sound, now)),
    };
    let mut answers = match call {
        None => Vec::new(),
        Some(call) => {
            let answer = inner.tables.repeat(&call).await.map_err(Fault::into_store)?;
            redis::from_redis_value::<Vec<Option<Vec<u8>>>>(answer).map_err(|_| odd("a table's call"))?
        }
    }
    .into_iter();
    let one = |((_, op), checked): (&(TableKey, TableOp), Result<(), TableFault>)| match checked {
        Err(fault) => Ok(Err(fault)),
        Ok(()) => answers.next().and_then(|answer| result(op, answer)).ok_or_else(|| odd("a table's call")),
    };
    ops.iter().zip(checked).map(one).collect()
}

fn call(script: &scripts::Loaded, keys: &ShardKeys, home: Home) -> Cmd {
    let mut call = script.call(&[&keys.table_use(home.tenant)]);
    call.arg(tenant_name(home.tenant));
    call
}

fn read<'a>(keys: &ShardKeys, table: Table, ops: impl Iterator<Item = &'a (TableKey, TableOp)>, now: Timestamp) -> Cmd {
    let mut call = call(&scripts::TABLE_READ, keys, table.home);
    call.arg(plugin_name(table.plugin)).arg(now.0);
    for (key, _) in ops {
        call.arg(key.as_str());
    }
    call
}

fn write<'a>(
    keys: &ShardKeys,
    table: Table,
    name: [u8; 16],
    ops: impl Iterator<Item = &'a (TableKey, TableOp)>,
    quota: u64,
    now: Timestamp,
) -> Cmd {
    let mut call = call(&scripts::TABLE, keys, table.home);
    call.arg(plugin_name(table.plugin)).arg(now.0).arg(quota).arg(&name[..]);
    call.arg(TABLE_CALL_AGE.as_millis() as u64).arg(MAX_TABLE_CALLS);
    for (key, op) in ops {
        let kind = match op {
            TableOp::Get => "get",
            TableOp::Set { .. } => "set",
            TableOp::Add { .. } => "add",
            TableOp::Delete => "delete",
            TableOp::Increment { .. } => "increment",
        };
        call.arg(kind).arg(key.as_str());
        let ttl = match op {
            TableOp::Get | TableOp::Delete => {
                call.arg("");
                None
            }
            TableOp::Set { value, ttl } | TableOp::Add { value, ttl } => {
                call.arg(&value[..]);
                *ttl
            }
            TableOp::Increment { by, ttl } => {
                call.arg(by);
                *ttl
            }
        };
        call.arg(ttl.map(|ttl| now.after(ttl).0.to_string()).unwrap_or_default());
    }
    call
}

/// What a script's answer says of an operation.
fn result(op: &TableOp, answer: Option<Vec<u8>>) -> Option<TableResult> {
    if let TableOp::Get = op {
        return Some(Ok(TableAnswer::Value(answer.map(Bytes::from))));
    }
    let answer = String::from_utf8(answer?).ok()?;
    Some(match (answer.as_str(), op) {
        ("quota", _) => Err(TableFault::Quota),
        ("not_a_number", _) => Err(TableFault::NotANumber),
        ("out_of_range", _) => Err(TableFault::OutOfRange),
        ("done", TableOp::Set { .. }) => Ok(TableAnswer::Done),
        ("yes" | "no", TableOp::Add { .. }) => Ok(TableAnswer::Added(answer == "yes")),
        ("yes" | "no", TableOp::Delete) => Ok(TableAnswer::Deleted(answer == "yes")),
        (number, TableOp::Increment { .. }) => Ok(TableAnswer::Number(number.parse().ok()?)),
        _ => return None,
    })
}

pub(super) async fn page(
    inner: &Inner,
    table: Table,
    page: &TablePage,
    now: Timestamp,
) -> Result<Page<TableEntry, TableKey>, StoreError> {
    let keys = inner.keys(table.home.shard)?;
    let limit = page.limit.clamp(1, MAX_PAGE);
    let from = match &page.after {
        Some(after) if after.as_str() >= page.prefix.as_str() => format!("({after}"),
        _ => format!("[{}", page.prefix),
    };
    let mut call = call(&scripts::TABLE_PAGE, keys, table.home);
    call.arg(plugin_name(table.plugin)).arg(now.0).arg(from).arg(&page.prefix).arg(limit + 1).arg(SHOWN_TABLE_VALUE);
    let answer = inner.query.repeat(&call).await.map_err(Fault::into_store)?;
    let fields: Vec<Option<Vec<u8>>> = redis::from_redis_value(answer).map_err(|_| odd("a table"))?;
    let mut fields = fields.into_iter();
    let (mut items, mut last, mut seen) = (Vec::new(), None, 0);
    while let (Some(key), Some(size), Some(until), Some(value)) = (fields.next(), fields.next(), fields.next(), fields.next()) {
        if seen == limit {
            return Ok(Page { items, next: last });
        }
        seen += 1;
        let key: TableKey = text(key).and_then(|key| key.parse().ok()).ok_or_else(|| odd("a table's key"))?;
        last = Some(key.clone());
        let Some(size) = text(size).and_then(|size| size.parse().ok()) else { continue };
        let until = text(until).and_then(|until| until.parse().ok()).map(Timestamp);
        items.push(TableEntry { key, size, until, value: value.map(Bytes::from) });
    }
    Ok(Page { items, next: None })
}

fn text(field: Option<Vec<u8>>) -> Option<String> {
    String::from_utf8(field?).ok()
}

pub(super) async fn usage(inner: &Inner, home: Home) -> Result<TableUse, StoreError> {
    let keys = inner.keys(home.shard)?;
    let ask = redis::cmd("HMGET").arg(keys.table_use(home.tenant)).arg(&["b", "n"]).to_owned();
    let answer = inner.query.repeat(&ask).await.map_err(Fault::into_store)?;
    let (bytes, entries): (Option<u64>, Option<u64>) = redis::from_redis_value(answer).map_err(|_| odd("a tenant's tables"))?;
    Ok(TableUse { bytes: bytes.unwrap_or(0), entries: entries.unwrap_or(0) })
}

/// Takes entries away; sent again it takes others away.
pub(super) async fn drop_tables(inner: &Inner, home: Home, plugin: Option<PluginId>) -> Result<u64, StoreError> {
    let keys = inner.keys(home.shard)?;
    let mut call = call(&scripts::TABLE_DROP, keys, home);
    call.arg(plugin.map(plugin_name).unwrap_or_default()).arg(STEP);
    let answer = inner.query.repeat(&call).await.map_err(Fault::into_store)?;
    redis::from_redis_value(answer).map_err(|_| odd("dropped tables"))
}

/// Takes away what has ended; whether there may be more.
pub(super) async fn sweep(pen: &Pen, now: Timestamp) -> Result<bool, StoreError> {
    let Pen { inner, hold, .. } = pen;
    let mut call = scripts::TABLE_SWEEP.call(&[&hold.keys.own]);
    call.arg(&hold.token).arg(now.0).arg(STEP);
    let answer = inner.owner.repeat(&call).await.map_err(|fault| inner.fault(hold, fault))?;
    let gone: usize = redis::from_redis_value(answer).map_err(|_| odd("a sweep of tables"))?;
    Ok(gone >= STEP)
}

/// A plugin in the names of keys and fields.
fn plugin_name(plugin: PluginId) -> String {
    format!("{:032x}", plugin.0)
}
