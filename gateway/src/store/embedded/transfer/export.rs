//! Reading everything, a page at a time, tree by tree.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::super::disk::{Disk, Tree};
use super::super::keys::{self, LogKey, Parts, kind, table_kind};
use super::super::rows::{Cell, First, Mark, Place, Remember, Remembered, Spot, Waiting};
use super::super::{Options, listing};
use super::{blocking, check_whole};
use crate::clock::Timestamp;
use crate::event::{
    Attempt, DeliveryId, EventId, FORMAT, PluginId, Revision, Shard, TenantId, VersionHash, decode, decode_event, decode_with,
};
use crate::store::transfer::{
    Item, MovedBookmark, MovedCall, MovedCell, MovedDedup, MovedEvent, MovedJob, MovedPlace, Outgoing, PAGE_BYTES, PAGE_ITEMS, word,
};
use crate::store::{Bookmark, Home, Purged, StoreError, TableResult, Work};

/// A directory that is being read.
pub struct Export {
    source: Arc<Source>,
    stage: usize,
    /// Where the stage goes on.
    from: Vec<u8>,
}

struct Source {
    disk: Disk,
    now: Timestamp,
}

/// One part of what is stored: the keys of a tree that start with this, and what a row of it stands for.
struct Stage {
    tree: Tree,
    prefix: &'static [u8],
    item: Convert,
}

/// What a key and its value stand for; none for what has ended.
type Convert = fn(&Source, &[u8], &[u8]) -> Result<Option<Item>, StoreError>;

const STAGES: [Stage; 12] = [
    Stage { tree: Tree::Index, prefix: &[kind::REVISION], item: revision },
    Stage { tree: Tree::Index, prefix: &[kind::CONFIG], item: setting },
    Stage { tree: Tree::Components, prefix: &[], item: component },
    Stage { tree: Tree::Log, prefix: &[], item: event },
    Stage { tree: Tree::Index, prefix: &[kind::WAITING], item: job },
    Stage { tree: Tree::Tables, prefix: &[table_kind::CELL], item: cell },
    Stage { tree: Tree::Tables, prefix: &[table_kind::CALL], item: call },
    Stage { tree: Tree::Index, prefix: &[kind::DEDUP], item: dedup },
    Stage { tree: Tree::Index, prefix: &[kind::REMEMBERED], item: remembered },
    Stage { tree: Tree::Index, prefix: &[kind::SAID], item: said },
    Stage { tree: Tree::Index, prefix: &[kind::PURGED], item: purged },
    Stage { tree: Tree::Tables, prefix: &[table_kind::BOOKMARK], item: bookmark },
];

impl Export {
    /// Opens a directory that a gateway has made and none has open. It blocks.
    pub fn open(options: &Options) -> Result<Self, StoreError> {
        let missing = |dir: &PathBuf| StoreError::Refused(format!("there is no store in {}", dir.display()));
        if !options.dir.is_dir() {
            return Err(missing(&options.dir));
        }
        let disk = Disk::open(options)?;
        match disk.get(Tree::Index, &keys::single(kind::FORMAT))?.as_deref() {
            None => return Err(missing(&options.dir)),
            Some([version, ..]) if *version > FORMAT => return Err(StoreError::Refused(format!("format {version} is newer"))),
            Some(_) => {}
        }
        check_whole(&disk, &options.dir)?;
        let source = Arc::new(Source { disk, now: options.clock.now() });
        Ok(Self { source, stage: 0, from: STAGES[0].prefix.to_vec() })
    }
}

#[async_trait]
impl Outgoing for Export {
    async fn next(&mut self) -> Result<Option<Vec<Item>>, StoreError> {
        while let Some(stage) = STAGES.get(self.stage) {
            let (source, from) = (self.source.clone(), self.from.clone());
            let (items, next) = blocking(move || page(&source, stage, from)).await?;
            match next {
                Some(next) => self.from = next,
                None => {
                    self.stage += 1;
                    self.from = STAGES.get(self.stage).map_or(Vec::new(), |stage| stage.prefix.to_vec());
                }
            }
            if !items.is_empty() {
                return Ok(Some(items));
            }
        }
        Ok(None)
    }

    /// The directory was locked all the time.
    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Some items from a key on, and the key to go on from.
fn page(source: &Source, stage: &Stage, from: Vec<u8>) -> Result<(Vec<Item>, Option<Vec<u8>>), StoreError> {
    // Longer than any key, for trees that are read whole.
    let end = if stage.prefix.is_empty() { vec![u8::MAX; 64] } else { keys::after(stage.prefix) };
    let (mut items, mut bytes, mut rows) = (Vec::new(), 0, 0);
    for row in source.disk.range(stage.tree, from, end) {
        let (key, value) = row?;
        if let Some(item) = (stage.item)(source, &key, &value)? {
            bytes += item.size();
            items.push(item);
        }
        rows += 1;
        if rows >= PAGE_ITEMS || bytes >= PAGE_BYTES {
            let mut next = key.to_vec();
            next.push(0);
            return Ok((items, Some(next)));
        }
    }
    Ok((items, None))
}

fn revision(_: &Source, _: &[u8], value: &[u8]) -> Result<Option<Item>, StoreError> {
    Ok(Some(Item::Revision(decode::<Revision>(value)?)))
}

fn setting(_: &Source, key: &[u8], value: &[u8]) -> Result<Option<Item>, StoreError> {
    Ok(Some(Item::Setting { key: text(&key[1..])?, value: unversioned(value)? }))
}

fn component(_: &Source, key: &[u8], value: &[u8]) -> Result<Option<Item>, StoreError> {
    let version = VersionHash(key.try_into().map_err(|_| StoreError::Damaged("a component's key".into()))?);
    Ok(Some(Item::Component { version, component: unversioned(value)? }))
}

fn event(source: &Source, key: &[u8], value: &[u8]) -> Result<Option<Item>, StoreError> {
    let disk = &source.disk;
    let LogKey { shard, lane, seq, tenant, event } = LogKey::decode(key)?;
    let story = listing::story(disk, tenant, event)?;
    let mark: Mark = disk.read(Tree::Index, &keys::mark(shard, lane))?.unwrap_or_default();
    let claims = match disk.read(Tree::Index, &keys::claims(shard, lane, seq))? {
        _ if seq >= mark.cursor => 0,
        claims => claims.unwrap_or(1),
    };
    let (finished, rows) = (story.finished, story.rows);
    let event = decode_event(&Bytes::copy_from_slice(value))?;
    Ok(Some(Item::Event(Box::new(MovedEvent { shard, lane, claims, finished, event, rows }))))
}

fn job(source: &Source, key: &[u8], value: &[u8]) -> Result<Option<Item>, StoreError> {
    let mut parts = Parts(&key[1..]);
    let (shard, id) = (parts.shard()?, DeliveryId(parts.u128()?));
    let waiting: Waiting = decode(value)?;
    let stored = source.disk.get(Tree::Jobs, &keys::job(shard, id))?;
    let stored = stored.ok_or_else(|| StoreError::Damaged(format!("the request of {id} is not there")))?;
    let (work, last): (Work, Option<Attempt>) = decode_with(&stored)?;
    let job = waiting.job(id, work, 0);
    let place = match waiting.place {
        Place::Scheduled(due) => MovedPlace::Scheduled(due),
        Place::Parked(queue, seq) => MovedPlace::Parked(queue, seq),
        Place::Lined(Spot { queue, line, place, due }) => MovedPlace::Lined { queue, line, place, due },
        Place::Dead { at, reason } => MovedPlace::Dead { at, reason, last },
    };
    Ok(Some(Item::Job(Box::new(MovedJob { shard, place, job }))))
}

fn cell(source: &Source, key: &[u8], value: &[u8]) -> Result<Option<Item>, StoreError> {
    let mut parts = Parts(&key[1..]);
    let (shard, tenant, plugin) = (parts.shard()?, TenantId(parts.u128()?), PluginId(parts.u128()?));
    let cell: Cell = decode(value)?;
    let key = text(parts.0)?;
    let is_live = cell.is_live(source.now);
    Ok(is_live.then_some(Item::Cell(MovedCell { shard, tenant, plugin, key, value: cell.value, until: cell.until })))
}

fn call(source: &Source, key: &[u8], value: &[u8]) -> Result<Option<Item>, StoreError> {
    let mut parts = Parts(&key[1..]);
    let (shard, tenant) = (parts.shard()?, TenantId(parts.u128()?));
    let Remember { at, name } = decode(value)?;
    let home = Home { tenant, shard };
    let answers: Option<Vec<TableResult>> = source.disk.read(Tree::Tables, &keys::answered(home, &name))?;
    let words = |answers: Vec<TableResult>| answers.iter().filter_map(word).collect();
    Ok(answers.map(|answers| Item::Call(MovedCall { shard, tenant, at, name, words: words(answers) })))
}

fn dedup(source: &Source, key: &[u8], value: &[u8]) -> Result<Option<Item>, StoreError> {
    let mut parts = Parts(&key[1..]);
    let tenant = TenantId(parts.u128()?);
    let key = parts.0.try_into().map_err(|_| StoreError::Damaged("a dedup key".into()))?;
    let First { event, until } = decode(value)?;
    if until <= source.now {
        return Ok(None);
    }
    let shard = shard_of(source, tenant, event)?;
    Ok(Some(Item::Dedup(MovedDedup { shard, tenant: Some(tenant), key, event, until })))
}

fn shard_of(source: &Source, tenant: TenantId, event: EventId) -> Result<Option<Shard>, StoreError> {
    let listed = source.disk.read::<super::super::rows::Listed>(Tree::History, &keys::history(tenant, event, 0))?;
    Ok(listed.map(|listed| listed.shard))
}

fn remembered(source: &Source, key: &[u8], value: &[u8]) -> Result<Option<Item>, StoreError> {
    let Remembered { until, value } = decode(value)?;
    let key = text(&key[1..])?;
    Ok((until > source.now).then_some(Item::Remembered { key, value, until }))
}

fn said(source: &Source, key: &[u8], value: &[u8]) -> Result<Option<Item>, StoreError> {
    let Remembered { until, value } = decode(value)?;
    let name = text(&key[1..])?;
    let (topic, node) = name.split_once('\0').ok_or_else(|| StoreError::Damaged("a topic".into()))?;
    let (topic, node) = (topic.to_owned(), node.to_owned());
    Ok((until > source.now).then_some(Item::Said { topic, node, value, until }))
}

fn purged(_: &Source, key: &[u8], value: &[u8]) -> Result<Option<Item>, StoreError> {
    let mut parts = Parts(&key[1..]);
    let (tenant, shard) = (TenantId(parts.u128()?), parts.shard()?);
    Ok(Some(Item::Purged { shard, tenant, purged: decode::<Purged>(value)? }))
}

fn bookmark(source: &Source, key: &[u8], value: &[u8]) -> Result<Option<Item>, StoreError> {
    let mut parts = Parts(&key[1..]);
    let (shard, tenant) = (parts.shard()?, TenantId(parts.u128()?));
    let name = super::super::bookmark::name(parts.0)?;
    let stored = source.disk.get(Tree::Tables, &keys::bookmarked(Home { tenant, shard }, name.as_str()))?;
    let stored = stored.ok_or_else(|| StoreError::Damaged(format!("the copy of the bookmark {name} is not there")))?;
    let Bookmark { head, event } = Bookmark::read(value, Bytes::copy_from_slice(&stored))?;
    Ok(Some(Item::Bookmark(Box::new(MovedBookmark { shard, tenant, name, head, event }))))
}

fn text(bytes: &[u8]) -> Result<String, StoreError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| StoreError::Damaged("a key is no text".into()))
}

/// Bytes that stand behind the format version alone.
fn unversioned(value: &[u8]) -> Result<Bytes, StoreError> {
    match value.split_first() {
        Some((&FORMAT, rest)) => Ok(Bytes::copy_from_slice(rest)),
        _ => Err(StoreError::Damaged("a record has another format version".into())),
    }
}
