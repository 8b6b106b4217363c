//! The only place that knows fjall: six trees in one database, reads, and units that are written all or nothing.
//!
//! fjall 3.1.13 reports an error of its journal's write or fsync from the commit and refuses all writes after it; a failed
//! background flush shows at the next commit. Either way the store stops for good: after a failed fsync the kernel may have
//! dropped the pages, so trying again would call lost data durable.

use std::collections::HashMap;
use std::ops::Bound;
use std::path::Path;

use fjall::{Database, Guard, Iter, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable, Slice};
use serde::de::DeserializeOwned;

use super::{Durability, Options};
use crate::event::decode;
use crate::store::StoreError;

/// Which tree a key is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Tree {
    /// Events, by shard, lane and place.
    Log,
    /// Listing rows and outcomes, by tenant and event.
    History,
    /// Requests of jobs, by shard and delivery.
    Jobs,
    /// Everything small.
    Index,
    /// Plugins' components, by hash.
    Components,
    /// Plugins' tables, by shard and tenant.
    Tables,
}

const MIB: u64 = 1 << 20;

/// fjall holds a journal until every tree has flushed what is in it, and replays journals when it opens.
const MAX_JOURNALS: u64 = 128 * MIB;

/// Descriptors that fjall keeps open.
const MAX_FILES: usize = 256;

/// The database.
pub(super) struct Disk {
    db: Database,
    log: Keyspace,
    history: Keyspace,
    jobs: Keyspace,
    index: Keyspace,
    components: Keyspace,
    tables: Keyspace,
    durability: Durability,
}

impl Disk {
    pub(super) fn open(options: &Options) -> Result<Self, StoreError> {
        let db = Database::builder(&options.dir)
            .cache_size(options.cache_bytes)
            .max_journaling_size(MAX_JOURNALS)
            .max_cached_files(Some(MAX_FILES))
            .worker_threads(2)
            .open()
            .map_err(|error| opening(&options.dir, error))?;
        let tree = |name: &str, memtable: u64| {
            db.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(memtable))
                .map_err(|error| opening(&options.dir, error))
        };
        Ok(Self {
            log: tree("log", 8 * MIB)?,
            history: tree("history", 4 * MIB)?,
            jobs: tree("jobs", 4 * MIB)?,
            index: tree("index", 4 * MIB)?,
            components: tree("components", 4 * MIB)?,
            tables: tree("tables", 4 * MIB)?,
            db,
            durability: options.durability,
        })
    }

    fn tree(&self, tree: Tree) -> &Keyspace {
        match tree {
            Tree::Log => &self.log,
            Tree::History => &self.history,
            Tree::Jobs => &self.jobs,
            Tree::Index => &self.index,
            Tree::Components => &self.components,
            Tree::Tables => &self.tables,
        }
    }

    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        self.tree(tree).get(key).map_err(reading)
    }

    /// A record, if it is there.
    pub(super) fn read<T: DeserializeOwned>(&self, tree: Tree, key: &[u8]) -> Result<Option<T>, StoreError> {
        self.get(tree, key)?.map(|value| Ok(decode(&value)?)).transpose()
    }

    /// The keys and values from `from` up to but not `to`, as they stand now.
    pub(super) fn range(&self, tree: Tree, from: Vec<u8>, to: Vec<u8>) -> impl DoubleEndedIterator<Item = Row> + use<> {
        self.guards(tree, from, to).map(pair)
    }

    /// The same without reading values.
    pub(super) fn keys(&self, tree: Tree, from: Vec<u8>, to: Vec<u8>) -> impl DoubleEndedIterator<Item = KeyRow> + use<> {
        self.guards(tree, from, to).map(|guard| guard.key().map_err(reading))
    }

    /// Of a snapshot: a range of the tree itself shows the part of a unit that is written so far.
    fn guards(&self, tree: Tree, from: Vec<u8>, to: Vec<u8>) -> Iter {
        self.db.snapshot().range::<Vec<u8>, _>(self.tree(tree), (Bound::Included(from), Bound::Excluded(to)))
    }

    /// One key and a range of `index`, both as of one moment.
    pub(super) fn index_at_once(&self, key: &[u8], from: Vec<u8>, to: Vec<u8>) -> Result<(Option<Slice>, Vec<Pair>), StoreError> {
        let snapshot = self.db.snapshot();
        let value = snapshot.get(&self.index, key).map_err(reading)?;
        let range = (Bound::Included(from), Bound::Excluded(to));
        let rows = snapshot.range::<Vec<u8>, _>(&self.index, range).map(pair).collect::<Result<_, _>>()?;
        Ok((value, rows))
    }

    /// A write that survives the process, not the machine: it is in the journal before this returns, and not fsynced.
    pub(super) fn note(&self, rows: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), StoreError> {
        let mut batch = self.db.batch().durability(Some(PersistMode::Buffer));
        for (key, value) in rows {
            batch.insert(&self.index, key, value);
        }
        batch.commit().map_err(writing)
    }

    pub(super) fn unit(&self) -> Unit {
        Unit { batch: self.db.batch(), written: HashMap::new(), bytes: 0 }
    }

    /// Writes a unit, as durable as the mode says.
    pub(super) fn commit(&self, unit: Unit) -> Result<(), StoreError> {
        let mode = match self.durability {
            Durability::Fsync => PersistMode::SyncData,
            Durability::Everysec => PersistMode::Buffer,
        };
        unit.batch.durability(Some(mode)).commit().map_err(writing)
    }

    /// Makes everything that was written durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.db.persist(PersistMode::SyncData).map_err(writing)
    }
}

/// A key and its value.
pub(super) type Pair = (Slice, Slice);
type Row = Result<Pair, StoreError>;
type KeyRow = Result<Slice, StoreError>;

fn pair(guard: Guard) -> Row {
    guard.into_inner().map_err(reading)
}

/// Writes that become visible and durable together. What later commands of the same unit must see is kept beside.
pub(super) struct Unit {
    batch: OwnedWriteBatch,
    written: HashMap<(Tree, Slice), Option<Slice>>,
    bytes: usize,
}

impl Unit {
    pub(super) fn put(&mut self, disk: &Disk, tree: Tree, key: Vec<u8>, value: Vec<u8>) {
        let (key, value) = (Slice::from(key), Slice::from(value));
        self.bytes += key.len() + value.len();
        if Self::is_read_again(tree) {
            self.written.insert((tree, key.clone()), Some(value.clone()));
        }
        self.batch.insert(disk.tree(tree), key, value);
    }

    pub(super) fn remove(&mut self, disk: &Disk, tree: Tree, key: Vec<u8>) {
        let key = Slice::from(key);
        self.bytes += key.len();
        if Self::is_read_again(tree) {
            self.written.insert((tree, key.clone()), None);
        }
        self.batch.remove(disk.tree(tree), key);
    }

    /// What is under a key of `index` or `tables` as this unit leaves it.
    pub(super) fn raw(&self, disk: &Disk, tree: Tree, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        debug_assert!(Self::is_read_again(tree));
        match self.written.get(&(tree, Slice::from(key))) {
            Some(written) => Ok(written.clone()),
            None => disk.get(tree, key),
        }
    }

    pub(super) fn read<T: DeserializeOwned>(&self, disk: &Disk, tree: Tree, key: &[u8]) -> Result<Option<T>, StoreError> {
        self.raw(disk, tree, key)?.map(|value| Ok(decode(&value)?)).transpose()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    fn is_read_again(tree: Tree) -> bool {
        matches!(tree, Tree::Index | Tree::Tables)
    }
}

fn opening(dir: &Path, error: fjall::Error) -> StoreError {
    let dir = dir.display();
    match error {
        fjall::Error::Locked => StoreError::Refused(format!("another process has {dir} open: one gateway per directory")),
        fjall::Error::InvalidVersion(_) => {
            StoreError::Refused(format!("{dir} was written by a newer release, or by something else: upgrade this node"))
        }
        fjall::Error::Io(error) => StoreError::Unavailable(format!("cannot open {dir}: {error}")),
        error => StoreError::Damaged(format!("{dir}: {error}")),
    }
}

fn reading(error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Io(error) => StoreError::Unavailable(format!("a read failed: {error}")),
        error => StoreError::Damaged(error.to_string()),
    }
}

fn writing(error: fjall::Error) -> StoreError {
    StoreError::Unavailable(format!("a write failed, so nothing more is accepted until a restart: {error}"))
}
