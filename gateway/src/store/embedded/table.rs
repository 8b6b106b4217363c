//! Tables of plugins as anybody may read them. The committer writes them.

use bytes::Bytes;

use super::disk::{Disk, Tree};
use super::keys;
use super::rows::{Cell, Tables};
use crate::clock::Timestamp;
use crate::event::decode;
use crate::store::table::SHOWN_TABLE_VALUE;
use crate::store::{Home, MAX_PAGE, Page, StoreError, Table, TableEntry, TableKey, TablePage, TableUse};

/// So many entries that have ended are passed over for one page.
const MAX_ENDED: usize = 1024;

/// The value of an entry that has not ended.
pub(super) fn value(disk: &Disk, table: Table, key: &TableKey, now: Timestamp) -> Result<Option<Bytes>, StoreError> {
    let cell: Option<Cell> = disk.read(Tree::Tables, &keys::cell(table, key.as_str()))?;
    Ok(cell.filter(|cell| cell.is_live(now)).map(|cell| cell.value))
}

pub(super) fn page(disk: &Disk, table: Table, page: &TablePage, now: Timestamp) -> Result<Page<TableEntry, TableKey>, StoreError> {
    let limit = page.limit.clamp(1, MAX_PAGE);
    let prefix = keys::cell(table, &page.prefix);
    let start = keys::cells_of(table.home, Some(table.plugin)).len();
    let from = match &page.after {
        Some(after) => {
            let mut from = keys::cell(table, after.as_str());
            from.push(0);
            from.max(prefix.clone())
        }
        None => prefix.clone(),
    };
    let (mut items, mut last, mut ended) = (Vec::new(), None, 0);
    for row in disk.range(Tree::Tables, from, keys::after(&prefix)) {
        let (key, row) = row?;
        if items.len() == limit || ended == MAX_ENDED {
            return Ok(Page { items, next: last });
        }
        let key = std::str::from_utf8(&key[start..]).ok().and_then(|key| key.parse().ok());
        let key: TableKey = key.ok_or_else(|| StoreError::Damaged("a table's key".into()))?;
        last = Some(key.clone());
        let Cell { until, value } = decode(&row)?;
        if until.is_some_and(|until| until <= now) {
            ended += 1;
            continue;
        }
        let size = value.len() as u64;
        items.push(TableEntry { key, size, until, value: (value.len() <= SHOWN_TABLE_VALUE).then_some(value) });
    }
    Ok(Page { items, next: None })
}

pub(super) fn usage(disk: &Disk, home: Home) -> Result<TableUse, StoreError> {
    let tables: Tables = disk.read(Tree::Tables, &keys::tables(home))?.unwrap_or_default();
    Ok(TableUse { bytes: tables.bytes, entries: tables.entries })
}
