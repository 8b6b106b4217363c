//! Tables of plugins, as plainly as they can be kept.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tidegate::clock::Timestamp;
use tidegate::event::{PluginId, Shard, TenantId};
use tidegate::store::table::{
    MAX_TABLE_CALLS, MAX_TABLE_OPS, MAX_TABLE_TTL, MAX_TABLE_VALUE, SHOWN_TABLE_VALUE, TABLE_CALL_AGE, TABLE_ENTRY_OVERHEAD,
};
use tidegate::store::{
    Home, MAX_PAGE, Once, Page, StoreError, Table, TableAnswer, TableEntry, TableFault, TableKey, TableOp, TablePage, TableResult,
    TableUse,
};

type Entries = BTreeMap<(PluginId, TableKey), (Bytes, Option<Timestamp>)>;

/// Everybody's tables.
#[derive(Default)]
pub(super) struct Tables {
    tenants: BTreeMap<(Shard, TenantId), Tenant>,
}

#[derive(Default)]
struct Tenant {
    entries: Entries,
    calls: VecDeque<(String, Timestamp, Vec<TableResult>)>,
}

impl Tables {
    fn of(&mut self, home: Home) -> &mut Tenant {
        self.tenants.entry((home.shard, home.tenant)).or_default()
    }

    pub(super) fn call(
        &mut self,
        Table { home, plugin }: Table,
        once: Option<Once>,
        ops: &[(TableKey, TableOp)],
        quota: u64,
        now: Timestamp,
    ) -> Result<Vec<TableResult>, StoreError> {
        if ops.len() > MAX_TABLE_OPS {
            return Err(StoreError::Refused("too many operations".into()));
        }
        let tenant = self.of(home);
        let writes: Vec<_> = ops.iter().filter(|(_, op)| op.writes()).collect();
        if writes.is_empty() {
            return Ok(ops.iter().map(|(key, op)| tenant.operate((plugin, key.clone()), op, quota, now)).collect());
        }
        let name = format!("{plugin} {once:?} {writes:?}");
        let known = tenant.calls.iter().find(|(known, ..)| once.is_some() && *known == name);
        if let Some((.., answers)) = known.cloned() {
            let mut answers = answers.into_iter();
            let again = |(key, op): &(TableKey, TableOp)| match op {
                TableOp::Get => tenant.operate((plugin, key.clone()), op, quota, now),
                _ => answers.next().unwrap(),
            };
            return Ok(ops.iter().map(again).collect());
        }
        tenant.sweep(now);
        let answers: Vec<_> = ops.iter().map(|(key, op)| tenant.operate((plugin, key.clone()), op, quota, now)).collect();
        let of_writes = answers.iter().zip(ops).filter(|(_, (_, op))| op.writes()).map(|(answer, _)| answer.clone());
        tenant.calls.push_back((name, now, of_writes.collect()));
        while tenant.calls.len() as u64 > MAX_TABLE_CALLS
            || tenant.calls.front().is_some_and(|(_, at, _)| now.since(*at) > TABLE_CALL_AGE)
        {
            tenant.calls.pop_front();
        }
        Ok(answers)
    }

    pub(super) fn page(&mut self, table: Table, page: &TablePage, now: Timestamp) -> Page<TableEntry, TableKey> {
        let limit = page.limit.clamp(1, MAX_PAGE);
        let entries = self.of(table.home).entries.iter().filter(|((plugin, key), (_, until))| {
            *plugin == table.plugin
                && key.as_str().starts_with(&page.prefix)
                && page.after.as_ref().is_none_or(|after| key > after)
                && until.is_none_or(|until| now < until)
        });
        let mut items: Vec<TableEntry> = entries
            .map(|((_, key), (value, until))| TableEntry {
                key: key.clone(),
                size: value.len() as u64,
                until: *until,
                value: (value.len() <= SHOWN_TABLE_VALUE).then(|| value.clone()),
            })
            .collect();
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|entry| entry.key.clone());
        Page { items, next }
    }

    pub(super) fn usage(&mut self, home: Home) -> TableUse {
        let entries = &self.of(home).entries;
        TableUse { bytes: bytes(entries), entries: entries.len() as u64 }
    }

    pub(super) fn drop_tables(&mut self, home: Home, plugin: Option<PluginId>) -> u64 {
        let tenant = self.of(home);
        let before = tenant.entries.len() + tenant.calls.len();
        tenant.entries.retain(|(of, _), _| plugin.is_some_and(|plugin| plugin != *of));
        if plugin.is_none() {
            tenant.calls.clear();
        }
        (before - tenant.entries.len() - tenant.calls.len()) as u64
    }

    pub(super) fn trim(&mut self, shard: Shard, now: Timestamp) {
        self.tenants.iter_mut().filter(|((at, _), _)| *at == shard).for_each(|(_, tenant)| tenant.sweep(now));
    }
}

fn bytes(entries: &Entries) -> u64 {
    let entry = |((_, key), (value, _)): (&(PluginId, TableKey), &(Bytes, _))| (key.as_str().len() + value.len()) as u64;
    entries.iter().map(entry).sum::<u64>() + TABLE_ENTRY_OVERHEAD * entries.len() as u64
}

impl Tenant {
    fn sweep(&mut self, now: Timestamp) {
        self.entries.retain(|_, (_, until)| until.is_none_or(|until| now < until));
    }

    fn operate(&mut self, key: (PluginId, TableKey), op: &TableOp, quota: u64, now: Timestamp) -> TableResult {
        let before = self.entries.get(&key).filter(|(_, until)| until.is_none_or(|until| now < until)).cloned();
        let (value, ttl, answer) = match op {
            TableOp::Get => return Ok(TableAnswer::Value(before.map(|(value, _)| value))),
            TableOp::Delete => {
                return Ok(TableAnswer::Deleted(before.is_some() && self.entries.remove(&key).is_some()));
            }
            TableOp::Set { value, ttl } => (value.clone(), *ttl, TableAnswer::Done),
            TableOp::Add { value, ttl } => (value.clone(), *ttl, TableAnswer::Added(before.is_none())),
            TableOp::Increment { by, ttl } => {
                let text = before.as_ref().map_or("0", |(value, _)| std::str::from_utf8(value).unwrap_or("?"));
                let number: i64 = text.parse().map_err(|_| TableFault::NotANumber)?;
                if number.to_string() != text {
                    return Err(TableFault::NotANumber);
                }
                let sum = number.checked_add(*by).ok_or(TableFault::OutOfRange)?;
                (sum.to_string().into(), *ttl, TableAnswer::Number(sum))
            }
        };
        if value.len() > MAX_TABLE_VALUE {
            return Err(TableFault::TooLarge);
        }
        if ttl.is_some_and(|ttl| ttl.as_millis() == 0 || ttl > MAX_TABLE_TTL) {
            return Err(TableFault::TimeToLive);
        }
        if answer == TableAnswer::Added(false) {
            return Ok(answer);
        }
        let until = match (&before, op) {
            (Some((_, until)), TableOp::Increment { .. }) => *until,
            _ => ttl.map(|ttl| now.after(ttl)),
        };
        let used = bytes(&self.entries);
        let is_larger = before.as_ref().is_none_or(|(before, _)| value.len() > before.len());
        self.entries.insert(key.clone(), (value, until));
        if is_larger && bytes(&self.entries) > quota {
            match before {
                Some(before) => drop(self.entries.insert(key, before)),
                None => drop(self.entries.remove(&key)),
            }
            assert_eq!(bytes(&self.entries), used);
            return Err(TableFault::Quota);
        }
        Ok(answer)
    }
}
