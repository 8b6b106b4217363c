use crate::clock::Timestamp;
use crate::event::{PluginId, Shard, TenantId, encode};
use crate::store::embedded::command::TableCall;
use crate::store::embedded::disk::Tree;
use crate::store::embedded::keys;
use crate::store::embedded::rows::{Cell, Remember, Tables};
use crate::store::table::{Effect, End, MAX_TABLE_CALLS, TABLE_CALL_AGE, TABLE_ENTRY_OVERHEAD, table_entry_bytes};
use crate::store::{Home, StoreError, Table, TableAnswer, TableFault, TableKey, TableOp, TableResult};

use super::Committer;

/// Entries that have ended, and remembered calls that are too old or too many, which one call takes away.
const SWEEP: usize = 16;
/// What has ended that a call takes away when it finds no room.
const MAKE_ROOM: usize = 512;
/// Entries, or remembered calls, that one step of a drop or of a trim takes away.
const STEP: usize = 512;
/// Tenants that one step of a trim looks at.
const TENANTS: usize = 64;

impl Committer {
    pub(super) fn table(&mut self, call: TableCall) -> Result<Vec<TableResult>, StoreError> {
        let TableCall { table, name, ops, quota, now } = call;
        let answered_at = keys::answered(table.home, &name);
        if let Some(answers) = self.table_row(&answered_at) {
            return Ok(self.answer_again(table, &ops, answers, now));
        }
        if ops.iter().any(|(_, op)| op.may_grow()) {
            self.has_room()?;
        }
        let mut tables: Tables = self.table_row(&keys::tables(table.home)).unwrap_or_default();
        self.sweep_tables(table.home, &mut tables, now, SWEEP);
        let mut work = Work { table, tables, quota, now, has_made_room: false };
        let results: Vec<TableResult> = ops.iter().map(|(key, op)| self.operate(&mut work, key, op)).collect();
        let writes = ops.iter().zip(&results).filter(|((_, op), _)| op.writes());
        let answers: Vec<TableResult> = writes.map(|(_, result)| result.clone()).collect();
        let number = work.tables.calls_end;
        work.tables.calls_end += 1;
        self.put(Tree::Tables, answered_at, encode(&answers));
        self.put(Tree::Tables, keys::call(table.home, number), encode(&Remember { at: now, name }));
        self.forget_calls(table.home, &mut work.tables, now);
        self.put(Tree::Tables, keys::tables(table.home), encode(&work.tables));
        Ok(results)
    }

    /// What a call answered before, with what it reads read anew.
    fn answer_again(
        &mut self,
        table: Table,
        ops: &[(TableKey, TableOp)],
        answers: Vec<TableResult>,
        now: Timestamp,
    ) -> Vec<TableResult> {
        let mut answers = answers.into_iter().peekable();
        let one = |(key, op): &(TableKey, TableOp)| match op {
            TableOp::Get => {
                let cell = self.table_row::<Cell>(&keys::cell(table, key.as_str())).filter(|cell| cell.is_live(now));
                Ok(TableAnswer::Value(cell.map(|cell| cell.value)))
            }
            _ => match op.check() {
                // A call that was moved here does not have it among its answers.
                Err(fault) => {
                    answers.next_if_eq(&Err(fault));
                    Err(fault)
                }
                Ok(()) => match (op, answers.next().expect("the call is named by what it writes")) {
                    // Nor does it tell additions from deletions.
                    (TableOp::Delete, Ok(TableAnswer::Added(done))) => Ok(TableAnswer::Deleted(done)),
                    (_, answer) => answer,
                },
            },
        };
        ops.iter().map(one).collect()
    }

    fn operate(&mut self, work: &mut Work, key: &TableKey, op: &TableOp) -> TableResult {
        let Work { table, now, .. } = *work;
        let at = keys::cell(table, key.as_str());
        let found: Option<Cell> = self.table_row(&at);
        if found.as_ref().is_some_and(|cell| !cell.is_live(now)) {
            self.take_cell(table, key.as_str(), &mut work.tables);
        }
        let before = found.filter(|cell| cell.is_live(now));
        let (answer, effect) = op.apply(before.as_ref().map(|cell| &cell.value), now)?;
        match effect {
            Effect::Nothing => {}
            Effect::Remove => self.take_cell(table, key.as_str(), &mut work.tables),
            Effect::Put { value, end } => {
                let (old, was_until) = before.map_or((0, None), |cell| (table_entry_bytes(key, &cell.value), cell.until));
                let new = table_entry_bytes(key, &value);
                if new > old && !self.fits(work, new - old) {
                    return Err(TableFault::Quota);
                }
                work.tables.bytes = (work.tables.bytes + new).saturating_sub(old);
                work.tables.entries += u64::from(old == 0);
                let until = match end {
                    End::Kept => was_until,
                    End::At(until) => until,
                };
                if until != was_until {
                    self.note_end(table, key.as_str(), was_until, until);
                }
                self.put(Tree::Tables, at, encode(&Cell { until, value }));
            }
        }
        Ok(answer)
    }

    fn fits(&mut self, work: &mut Work, growth: u64) -> bool {
        if !work.has_room(growth) && !work.has_made_room {
            work.has_made_room = true;
            self.sweep_tables(work.table.home, &mut work.tables, work.now, MAKE_ROOM);
        }
        work.has_room(growth)
    }

    fn note_end(&mut self, table: Table, key: &str, before: Option<Timestamp>, after: Option<Timestamp>) {
        if let Some(before) = before {
            self.remove(Tree::Tables, keys::cell_end(table, before, key));
        }
        if let Some(after) = after {
            self.put(Tree::Tables, keys::cell_end(table, after, key), encode(&()));
        }
    }

    fn take_cell(&mut self, table: Table, key: &str, tables: &mut Tables) {
        let at = keys::cell(table, key);
        let Some(Cell { until, value }) = self.table_row(&at) else { return };
        self.note_end(table, key, until, None);
        self.remove(Tree::Tables, at);
        let bytes = (key.len() + value.len()) as u64 + TABLE_ENTRY_OVERHEAD;
        tables.bytes = tables.bytes.saturating_sub(bytes);
        tables.entries = tables.entries.saturating_sub(1);
    }

    /// Takes away what has ended, at most so much of it. Answers how much.
    fn sweep_tables(&mut self, home: Home, tables: &mut Tables, now: Timestamp, most: usize) -> usize {
        let from = keys::cell_ends(home, Timestamp(0));
        let to = keys::cell_ends(home, Timestamp(now.0.saturating_add(1)));
        let rows: Vec<_> = self.shared.disk.keys(Tree::Tables, from, to).take(most).collect();
        let mut swept = 0;
        for row in rows {
            let Some(row) = self.sound(row) else { continue };
            let read = self.unit.unit.raw(&self.shared.disk, Tree::Tables, &row);
            // Another command of this unit took it away or gave it another end.
            if self.sound(read).flatten().is_none() {
                continue;
            }
            match keys::read_cell_end(home, &row) {
                Ok((plugin, key)) => self.take_cell(Table { home, plugin }, &key, tables),
                Err(error) => tracing::error!(%error, "the end of a table's entry cannot be read"),
            }
            self.remove(Tree::Tables, row.to_vec());
            swept += 1;
        }
        swept
    }

    /// Takes remembered calls away, oldest first, while they are too old or too many; some at a time.
    fn forget_calls(&mut self, home: Home, tables: &mut Tables, now: Timestamp) {
        for _ in 0..SWEEP {
            if tables.calls_start == tables.calls_end {
                return;
            }
            let is_over = tables.calls_end - tables.calls_start > MAX_TABLE_CALLS;
            let number = tables.calls_start;
            let call: Option<Remember> = self.table_row(&keys::call(home, number));
            if !is_over && call.as_ref().is_some_and(|call| now.since(call.at) <= TABLE_CALL_AGE) {
                return;
            }
            self.forget_call(home, number, call);
            tables.calls_start += 1;
        }
    }

    fn forget_call(&mut self, home: Home, number: u64, call: Option<Remember>) {
        self.remove(Tree::Tables, keys::call(home, number));
        if let Some(Remember { name, .. }) = call {
            self.remove(Tree::Tables, keys::answered(home, &name));
        }
    }

    /// Takes away what has ended in the shard, tenant by tenant, a bounded step; whether it left some.
    pub(super) fn trim_tables(&mut self, shard: Shard, now: Timestamp) -> bool {
        let from = self.swept_tables.remove(&shard).unwrap_or(TenantId(0));
        let to = keys::after(&keys::tables_in(shard));
        let rows = self.shared.disk.keys(Tree::Tables, keys::tables(Home { tenant: from, shard }), to).take(TENANTS);
        let rows: Vec<_> = rows.collect();
        let has_seen_all = rows.len() < TENANTS;
        let (mut left, mut last) = (STEP, from);
        for row in rows {
            let Some(row) = self.sound(row) else { continue };
            let Ok(tenant) = keys::read_tables(&row) else { continue };
            last = tenant;
            if left == 0 {
                break;
            }
            let home = Home { tenant, shard };
            let Some(before) = self.table_row::<Tables>(&row) else { continue };
            let mut tables = before;
            left -= self.sweep_tables(home, &mut tables, now, left);
            self.forget_calls(home, &mut tables, now);
            if tables != before {
                self.put(Tree::Tables, row.to_vec(), encode(&tables));
            }
        }
        if !has_seen_all || left == 0 {
            self.swept_tables.insert(shard, last);
        }
        left == 0
    }

    /// A bounded step of taking all entries of a plugin away, or of a tenant. Answers how much it took away.
    pub(super) fn drop_tables(&mut self, home: Home, plugin: Option<PluginId>) -> u64 {
        let at = keys::tables(home);
        let Some(mut tables) = self.table_row::<Tables>(&at) else { return 0 };
        let prefix = keys::cells_of(home, plugin);
        let rows: Vec<_> = self.shared.disk.keys(Tree::Tables, prefix.clone(), keys::after(&prefix)).take(STEP).collect();
        let mut gone = rows.len() as u64;
        for row in rows {
            let Some(row) = self.sound(row) else { continue };
            match keys::read_cell(home, &row) {
                Ok((plugin, key)) => self.take_cell(Table { home, plugin }, &key, &mut tables),
                Err(error) => {
                    tracing::error!(%error, "a table's entry cannot be read");
                    self.remove(Tree::Tables, row.to_vec());
                }
            }
        }
        if plugin.is_none() && gone == 0 {
            while tables.calls_start < tables.calls_end && gone < STEP as u64 {
                let call = self.table_row(&keys::call(home, tables.calls_start));
                self.forget_call(home, tables.calls_start, call);
                tables.calls_start += 1;
                gone += 1;
            }
            if gone == 0 {
                self.remove(Tree::Tables, at);
                return 0;
            }
        }
        self.put(Tree::Tables, at, encode(&tables));
        gone
    }

    fn table_row<T: serde::de::DeserializeOwned>(&mut self, key: &[u8]) -> Option<T> {
        let read = self.unit.unit.read(&self.shared.disk, Tree::Tables, key);
        self.sound(read).flatten()
    }
}

/// A call that is being done.
struct Work {
    table: Table,
    tables: Tables,
    quota: u64,
    now: Timestamp,
    has_made_room: bool,
}

impl Work {
    fn has_room(&self, growth: u64) -> bool {
        self.tables.bytes.saturating_add(growth) <= self.quota
    }
}
