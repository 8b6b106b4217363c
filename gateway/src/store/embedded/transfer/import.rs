//! Filling an empty directory. Rows are written as the committer would have left them, so that opening it finds everything again.

use std::collections::HashMap;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;

use super::super::command::counted;
use super::super::disk::{Disk, Tree, Unit};
use super::super::keys::{self, LogKey, kind, lane_index, table_kind};
use super::super::rows::{
    BookmarkUse, Cell, End, First, Front, Ledger, Listed, Mark, Outcome, Place, Remember, Remembered, Spot, Story, Tables, Waiting,
};
use super::super::{Durability, Options};
use super::blocking;
use crate::event::{FORMAT, Lane, Revision, Shard, TenantId, encode, encode_event, encode_with};
use crate::store::bookmark::StoredBookmark;
use crate::store::row::Row;
use crate::store::table::TABLE_ENTRY_OVERHEAD;
use crate::store::transfer::{
    Incoming, Item, MovedBookmark, MovedCall, MovedCell, MovedDedup, MovedEvent, MovedJob, MovedPlace, read_word,
};
use crate::store::{Bookmark, Home, Line, StoreError, Table, TableResult};

/// The number of an imported event's outcome.
const FIRST_OUTCOME: u64 = 1;

/// A directory that is being filled.
pub struct Import {
    filling: Option<Box<Filling>>,
}

struct Filling {
    disk: Disk,
    shards: HashMap<Shard, Tally>,
    queued: HashMap<(Shard, TenantId), u64>,
    tables: HashMap<(Shard, TenantId), Tables>,
    /// The highest number of an outcome or a place in a queue.
    serial: u64,
    left_out: u64,
}

/// What is counted of a shard on the way.
#[derive(Default)]
struct Tally {
    ledger: Ledger,
    lanes: [LaneTally; 3],
}

#[derive(Default)]
struct LaneTally {
    next: u64,
    mark: Mark,
    has_floor: bool,
}

impl Import {
    /// Marks an empty directory, or one that an earlier import did not fill to its end, which is emptied first. It blocks.
    pub fn open(options: &Options) -> Result<Self, StoreError> {
        let options = Options { durability: Durability::Everysec, ..options.clone() };
        let mut disk = Disk::open(&options)?;
        if disk.get(Tree::Index, &keys::single(kind::IMPORTING))?.is_some() {
            drop(disk);
            empty(&options.dir)?;
            disk = Disk::open(&options)?;
        }
        if !is_empty(&disk)? {
            return Err(StoreError::Refused(format!(
                "{} is not empty: an import goes into an empty store, so name another path, or move this one away",
                options.dir.display()
            )));
        }
        let mut unit = disk.unit();
        unit.put(&disk, Tree::Index, keys::single(kind::IMPORTING), encode(&()));
        unit.put(&disk, Tree::Index, keys::single(kind::FORMAT), encode(&()));
        disk.commit(unit)?;
        disk.sync()?;
        let filling = Filling {
            disk,
            shards: HashMap::new(),
            queued: HashMap::new(),
            tables: HashMap::new(),
            serial: FIRST_OUTCOME,
            left_out: 0,
        };
        Ok(Self { filling: Some(Box::new(filling)) })
    }

    fn take(&mut self) -> Result<Box<Filling>, StoreError> {
        self.filling.take().ok_or_else(|| StoreError::Unavailable("the import failed before".into()))
    }
}

#[async_trait]
impl Incoming for Import {
    async fn put(&mut self, items: Vec<Item>) -> Result<(), StoreError> {
        let mut filling = self.take()?;
        let filled = blocking(move || {
            let mut unit = filling.disk.unit();
            for item in items {
                filling.item(&mut unit, item)?;
            }
            filling.disk.commit(unit)?;
            Ok(filling)
        });
        self.filling = Some(filled.await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<u64, StoreError> {
        let filling = self.take()?;
        blocking(move || filling.finish()).await
    }
}

fn empty(dir: &PathBuf) -> Result<(), StoreError> {
    let failed = |error: std::io::Error| StoreError::Unavailable(format!("cannot empty {}: {error}", dir.display()));
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let is_dir = entry.file_type().map_err(failed)?.is_dir();
        if is_dir { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.map_err(failed)?;
    }
    Ok(())
}

/// Whether no gateway has kept anything there.
fn is_empty(disk: &Disk) -> Result<bool, StoreError> {
    let any = |tree: Tree, prefix: Vec<u8>| {
        let end = if prefix.is_empty() { vec![u8::MAX; 64] } else { keys::after(&prefix) };
        disk.keys(tree, prefix, end).next().transpose().map(|key| key.is_some())
    };
    let index = |kind: u8| any(Tree::Index, vec![kind]);
    let kinds = [kind::CONFIG, kind::REVISION, kind::WAITING, kind::DEDUP, kind::REMEMBERED, kind::PURGED];
    for kind in kinds {
        if index(kind)? {
            return Ok(false);
        }
    }
    Ok(!any(Tree::Log, Vec::new())?
        && !any(Tree::Components, Vec::new())?
        && !any(Tree::Tables, vec![table_kind::TABLES])?
        && !any(Tree::Tables, vec![table_kind::BOOKMARK])?)
}

impl Filling {
    fn item(&mut self, unit: &mut Unit, item: Item) -> Result<(), StoreError> {
        let disk = &self.disk;
        match item {
            Item::Revision(revision) => unit.put(disk, Tree::Index, keys::single(kind::REVISION), encode::<Revision>(&revision)),
            Item::Setting { key, value } => unit.put(disk, Tree::Index, keys::config(&key), versioned(&value)),
            Item::Component { version, component } => {
                unit.put(disk, Tree::Components, version.0.to_vec(), versioned(&component));
            }
            Item::Event(moved) => self.event(unit, *moved),
            Item::Job(moved) => self.job(unit, *moved)?,
            Item::Cell(moved) => self.cell(unit, moved)?,
            Item::Call(moved) => self.call(unit, moved)?,
            Item::Dedup(MovedDedup { tenant: Some(tenant), key, event, until, .. }) => {
                let key = keys::dedup(tenant, &key);
                unit.put(disk, Tree::Index, keys::expiry(until, &key), encode(&()));
                unit.put(disk, Tree::Index, key, encode(&First { event, until }));
            }
            // Here dedup keys are their tenants'.
            Item::Dedup(_) => self.left_out += 1,
            Item::Remembered { key, value, until } => self.remember(unit, keys::remembered(&key), value, until),
            Item::Said { topic, node, value, until } => self.remember(unit, keys::said_by(&topic, &node), value, until),
            Item::Purged { shard, tenant, purged } => {
                unit.put(disk, Tree::Index, keys::purged(Home { tenant, shard }), encode(&purged));
            }
            Item::Bookmark(moved) => self.bookmark(unit, *moved)?,
        }
        Ok(())
    }

    fn remember(&self, unit: &mut Unit, key: Vec<u8>, value: Bytes, until: crate::clock::Timestamp) {
        unit.put(&self.disk, Tree::Index, keys::expiry(until, &key), encode(&()));
        unit.put(&self.disk, Tree::Index, key, encode(&Remembered { until, value }));
    }

    fn event(&mut self, unit: &mut Unit, moved: MovedEvent) {
        let MovedEvent { shard, lane, claims, finished, event, rows } = moved;
        let disk = &self.disk;
        let tally = self.shards.entry(shard).or_default();
        let in_lane = &mut tally.lanes[lane_index(lane)];
        let seq = in_lane.next;
        in_lane.next += 1;
        let record = encode_event(&event);
        let listed = Listed {
            source: event.source,
            accepted_at: event.accepted_at,
            shard,
            lane,
            seq,
            bytes: u32::try_from(record.len()).unwrap_or(u32::MAX),
        };
        let mut story = Story { listed: Some(listed), ..Story::default() };
        if finished || !rows.is_empty() {
            let end = if finished { End::Entry } else { End::Nothing };
            let outcome = encode(&Outcome { end, rows: rows.iter().map(Row::of).collect() });
            story.add(FIRST_OUTCOME, &outcome).expect("it was just encoded");
            unit.put(disk, Tree::History, keys::history(event.tenant, event.id, FIRST_OUTCOME), outcome);
        }
        if story.is_terminal() {
            tally.ledger.history_bytes += story.bytes();
        }
        // What was claimed stands before what was not.
        if finished || claims > 0 {
            in_lane.mark.cursor = seq + 1;
        }
        if !finished {
            *self.queued.entry((shard, event.tenant)).or_default() += u64::from(counted(event.request.size()));
            if !in_lane.has_floor {
                (in_lane.has_floor, in_lane.mark.floor) = (true, seq);
            }
            if claims > 1 {
                unit.put(disk, Tree::Index, keys::claims(shard, lane, seq), encode(&claims));
            }
        }
        let at = LogKey { shard, lane, seq, tenant: event.tenant, event: event.id };
        unit.put(disk, Tree::Log, at.encode(), record);
        unit.put(disk, Tree::History, keys::history(event.tenant, event.id, 0), encode(&listed));
    }

    fn job(&mut self, unit: &mut Unit, moved: MovedJob) -> Result<(), StoreError> {
        let MovedJob { shard, place, job } = moved;
        let disk = &self.disk;
        let waits_at = keys::waiting(shard, job.id);
        if unit.raw(disk, Tree::Index, &waits_at)?.is_some() {
            return Ok(());
        }
        let ledger = &mut self.shards.entry(shard).or_default().ledger;
        let (tenant, event, bytes) = (job.tenant(), job.event(), counted(job.size()));
        let mut last = None;
        let place = match place {
            MovedPlace::Scheduled(due) => {
                ledger.scheduled += 1;
                unit.put(disk, Tree::Index, keys::schedule(shard, due, job.id), encode(&()));
                Place::Scheduled(due)
            }
            MovedPlace::Parked(queue, seq) => {
                ledger.parked += 1;
                self.serial = self.serial.max(seq);
                unit.put(disk, Tree::Index, keys::queued(shard, queue, seq), encode(&job.id));
                Place::Parked(queue, seq)
            }
            MovedPlace::Lined { queue, line, place, due } => {
                ledger.parked += 1;
                self.serial = self.serial.max(place / Line::OUTPUTS);
                unit.put(disk, Tree::Index, keys::lined(shard, queue, line, place, job.id), encode(&()));
                let first = keys::front(shard, queue, line);
                let old: Option<Front> = unit.read(disk, Tree::Index, &first)?;
                if old.is_none_or(|old| (place, job.id) < (old.place, old.id)) {
                    if let Some(old) = old {
                        unit.remove(disk, Tree::Index, keys::ready(shard, queue, old.due, line));
                    }
                    unit.put(disk, Tree::Index, keys::ready(shard, queue, due, line), encode(&job.id));
                    unit.put(disk, Tree::Index, first, encode(&Front { due, place, id: job.id }));
                }
                Place::Lined(Spot { queue, line, place, due })
            }
            MovedPlace::Dead { at, reason, last: attempt } => {
                ledger.dead += 1;
                last = attempt;
                unit.put(disk, Tree::Index, keys::dead(shard, tenant, at, job.id), encode(&()));
                unit.put(disk, Tree::Index, keys::dead_age(shard, at, job.id), encode(&()));
                Place::Dead { at, reason }
            }
        };
        let waiting = Waiting { place, tenant, event, attempts: job.attempts, spent: job.spent, since: job.since, bytes };
        if waiting.is_queued() {
            *self.queued.entry((shard, tenant)).or_default() += u64::from(bytes);
        }
        let work = last.map_or_else(|| encode(&job.work), |last| encode_with(&job.work, &last));
        unit.put(disk, Tree::Index, waits_at, encode(&waiting));
        unit.put(disk, Tree::Jobs, keys::job(shard, job.id), work);
        Ok(())
    }

    fn cell(&mut self, unit: &mut Unit, moved: MovedCell) -> Result<(), StoreError> {
        let MovedCell { shard, tenant, plugin, key, value, until } = moved;
        let table = Table { home: Home { tenant, shard }, plugin };
        let at = keys::cell(table, &key);
        if unit.raw(&self.disk, Tree::Tables, &at)?.is_some() {
            return Ok(());
        }
        let tables = self.tables.entry((shard, tenant)).or_default();
        tables.entries += 1;
        tables.bytes += (key.len() + value.len()) as u64 + TABLE_ENTRY_OVERHEAD;
        if let Some(until) = until {
            unit.put(&self.disk, Tree::Tables, keys::cell_end(table, until, &key), encode(&()));
        }
        unit.put(&self.disk, Tree::Tables, at, encode(&Cell { until, value }));
        Ok(())
    }

    fn call(&mut self, unit: &mut Unit, moved: MovedCall) -> Result<(), StoreError> {
        let MovedCall { shard, tenant, at, name, words } = moved;
        let home = Home { tenant, shard };
        let answered_at = keys::answered(home, &name);
        if unit.raw(&self.disk, Tree::Tables, &answered_at)?.is_some() {
            return Ok(());
        }
        let answers: Vec<TableResult> = words.iter().map(|word| read_word(word)).collect::<Result<_, _>>()?;
        let tables = self.tables.entry((shard, tenant)).or_default();
        let number = tables.calls_end;
        tables.calls_end += 1;
        unit.put(&self.disk, Tree::Tables, answered_at, encode(&answers));
        unit.put(&self.disk, Tree::Tables, keys::call(home, number), encode(&Remember { at, name }));
        Ok(())
    }

    fn bookmark(&self, unit: &mut Unit, moved: MovedBookmark) -> Result<(), StoreError> {
        let MovedBookmark { shard, tenant, name, head, event } = moved;
        let (disk, home) = (&self.disk, Home { tenant, shard });
        let (at, counted_at) = (keys::bookmark(home, name.as_str()), keys::bookmark_use(home));
        if unit.raw(disk, Tree::Tables, &at)?.is_some() {
            return Ok(());
        }
        let used: BookmarkUse = unit.read(disk, Tree::Tables, &counted_at)?.unwrap_or_default();
        let stored = StoredBookmark::of(&Bookmark { head, event });
        let now = BookmarkUse { count: used.count + 1, bytes: used.bytes + stored.bytes() };
        unit.put(disk, Tree::Tables, at, stored.head);
        unit.put(disk, Tree::Tables, keys::bookmarked(home, name.as_str()), stored.event);
        unit.put(disk, Tree::Tables, counted_at, encode(&now));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<u64, StoreError> {
        let disk = &self.disk;
        let mut unit = disk.unit();
        for (shard, tally) in &self.shards {
            unit.put(disk, Tree::Index, keys::ledger(*shard), encode(&tally.ledger));
            for lane in Lane::ALL {
                let LaneTally { mark, has_floor, .. } = &tally.lanes[lane_index(lane)];
                let floor = if *has_floor { mark.floor.min(mark.cursor) } else { mark.cursor };
                unit.put(disk, Tree::Index, keys::mark(*shard, lane), encode(&Mark { floor, ..*mark }));
            }
        }
        for ((shard, tenant), bytes) in &self.queued {
            unit.put(disk, Tree::Index, keys::queued_bytes(*shard, *tenant), encode(bytes));
        }
        for ((shard, tenant), tables) in &self.tables {
            unit.put(disk, Tree::Tables, keys::tables(Home { tenant: *tenant, shard: *shard }), encode(tables));
        }
        unit.put(disk, Tree::Index, keys::single(kind::SERIAL), encode(&self.serial));
        // Everything before it reaches the disk before the mark goes.
        disk.sync()?;
        unit.remove(disk, Tree::Index, keys::single(kind::IMPORTING));
        disk.commit(unit)?;
        disk.sync()?;
        Ok(self.left_out)
    }
}

fn versioned(bytes: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(bytes.len() + 1);
    record.push(FORMAT);
    record.extend_from_slice(bytes);
    record
}
