//! Opens the directory and finds again what is kept in memory, without reading bodies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::watch;

use super::disk::{Disk, Tree};
use super::keys::{self, LogKey, Parts, kind};
use super::rows::{Ledger, Mark, Waiting};
use super::state::{Cell, InHand, Queued, State};
use super::{Options, Shared, listing, transfer};
use crate::event::{DeliveryId, FORMAT, Lane, Revision, Shard, TenantId, decode, encode};
use crate::store::StoreError;

/// What opening gives.
pub(super) struct Opened {
    pub(super) shared: Shared,
    /// Numbers up to this one may be in use.
    pub(super) serial: u64,
    pub(super) revision: Revision,
}

pub(super) fn open(options: Options) -> Result<Opened, StoreError> {
    let disk = Disk::open(&options)?;
    check_format(&disk, &options)?;
    transfer::check_whole(&disk, &options.dir)?;
    let serial = disk.read(Tree::Index, &keys::single(kind::SERIAL))?.unwrap_or_default();
    let revision: Revision = disk.read(Tree::Index, &keys::single(kind::REVISION))?.unwrap_or_default();
    let mut states = ledgers(&disk)?;
    for (shard, lane) in lanes(&disk)? {
        let state = states.entry(shard).or_insert_with(|| State::new(shard, Ledger::default()));
        load_lane(&disk, state, lane)?;
    }
    for state in states.values_mut() {
        load_queues(&disk, state)?;
        load_queued(&disk, state)?;
    }
    let cells = states.into_iter().map(|(shard, state)| (shard, Arc::new(Cell::new(state)))).collect();
    let shared = Shared {
        disk,
        dir: options.dir,
        reserve_bytes: options.reserve_bytes,
        clock: options.clock,
        cells: RwLock::new(cells),
        revision: AtomicU64::new(revision.0),
        unsynced: AtomicBool::new(false),
        committing: Mutex::new(None),
        failure: watch::Sender::new(None),
    };
    Ok(Opened { shared, serial, revision })
}

/// The directory's format is in a record of that format: one that a newer release wrote is refused before anything else is read.
fn check_format(disk: &Disk, options: &Options) -> Result<(), StoreError> {
    let key = keys::single(kind::FORMAT);
    let found = disk.get(Tree::Index, &key)?;
    match found.as_deref() {
        Some([version, ..]) if *version > FORMAT => Err(StoreError::Refused(format!(
            "{} has format version {version}, this release reads up to {FORMAT}: upgrade this node",
            options.dir.display()
        ))),
        Some(_) => Ok(()),
        None => {
            let mut unit = disk.unit();
            unit.put(disk, Tree::Index, key, encode(&()));
            disk.commit(unit)?;
            disk.sync()
        }
    }
}

fn ledgers(disk: &Disk) -> Result<HashMap<Shard, State>, StoreError> {
    let prefix = keys::single(kind::LEDGER);
    let mut states = HashMap::new();
    for row in disk.range(Tree::Index, prefix.clone(), keys::after(&prefix)) {
        let (key, value) = row?;
        let shard = Parts(&key[1..]).shard()?;
        states.insert(shard, State::new(shard, decode(&value)?));
    }
    Ok(states)
}

/// Lanes that have a log or were claimed from: one look at each.
fn lanes(disk: &Disk) -> Result<Vec<(Shard, Lane)>, StoreError> {
    let mut lanes = Vec::new();
    let mut from = vec![0];
    let end = keys::log_from(Shard(u16::MAX), Lane::Held, u64::MAX);
    while let Some(key) = disk.keys(Tree::Log, from, end.clone()).next() {
        let at = LogKey::decode(&key?)?;
        lanes.push((at.shard, at.lane));
        from = keys::after(&keys::log_from(at.shard, at.lane, 0)[..3]);
    }
    let prefix = keys::single(kind::MARK);
    for key in disk.keys(Tree::Index, prefix.clone(), keys::after(&prefix)) {
        let key = key?;
        let mut parts = Parts(&key[1..]);
        let lane = (parts.shard()?, parts.lane()?);
        if !lanes.contains(&lane) {
            lanes.push(lane);
        }
    }
    Ok(lanes)
}

fn load_lane(disk: &Disk, state: &mut State, lane: Lane) -> Result<(), StoreError> {
    let shard = state.shard;
    let from = keys::log_from(shard, lane, 0);
    let last = disk.keys(Tree::Log, from.clone(), keys::after(&from[..3])).next_back().transpose()?;
    let end = last.map(|key| LogKey::decode(&key)).transpose()?.map_or(0, |at| at.seq + 1);
    let mark: Mark = disk.read(Tree::Index, &keys::mark(shard, lane))?.unwrap_or_default();
    let front = state.ledger.fronts[keys::lane_index(lane)];
    let loaded = state.lane(lane);
    loaded.cursor = mark.cursor;
    loaded.next = end.max(mark.cursor);
    let from = keys::log_from(shard, lane, mark.floor.max(front));
    for key in disk.keys(Tree::Log, from, keys::log_from(shard, lane, mark.cursor)) {
        let at = LogKey::decode(&key?)?;
        let story = listing::story(disk, at.tenant, at.event)?;
        if story.finished {
            continue;
        }
        let claims = disk.read(Tree::Index, &keys::claims(shard, lane, at.seq))?.unwrap_or(1);
        let bytes = story.listed.map_or(0, |listed| listed.bytes);
        let entry = InHand { event: at.event, tenant: at.tenant, claims, bytes, size: None, progressed: !story.numbers.is_empty() };
        loaded.claimed.insert(at.seq, entry);
    }
    Ok(())
}

fn load_queues(disk: &Disk, state: &mut State) -> Result<(), StoreError> {
    let prefix = keys::lines_of(state.shard);
    for key in disk.keys(Tree::Index, prefix.clone(), keys::after(&prefix)) {
        state.wait(Parts(&key?[prefix.len()..]).queue()?, 0);
    }
    let prefix = keys::queues_of(state.shard);
    for key in disk.keys(Tree::Index, prefix.clone(), keys::after(&prefix)) {
        let key = key?;
        let mut parts = Parts(&key[prefix.len()..]);
        let queue = parts.queue()?;
        let seq = parts.u64()?;
        state.wait(queue, seq);
    }
    Ok(())
}

/// How much is queued of each tenant. Where no lane holds anything it is counted anew from the jobs, so that a count that went wrong
/// (by a release that does not count) does not stay so for ever.
fn load_queued(disk: &Disk, state: &mut State) -> Result<(), StoreError> {
    let prefix = keys::queued_of(state.shard);
    let mut stored = HashMap::new();
    for row in disk.range(Tree::Index, prefix.clone(), keys::after(&prefix)) {
        let (key, value) = row?;
        stored.insert(TenantId(Parts(&key[prefix.len()..]).u128()?), decode(&value)?);
    }
    if state.lanes.iter().any(|lane| lane.entries() > 0) {
        state.queued = Queued::stored(stored);
        return Ok(());
    }
    let mut counted: HashMap<TenantId, u64> = HashMap::new();
    let from = keys::waiting(state.shard, DeliveryId(0));
    let to = keys::after(&from[..3]);
    for row in disk.range(Tree::Index, from, to) {
        // One that can't be read is reported when it comes up.
        let Ok(waiting) = decode::<Waiting>(&row?.1) else { continue };
        if waiting.is_queued() {
            *counted.entry(waiting.tenant).or_default() += u64::from(waiting.bytes);
        }
    }
    state.queued = Queued::counted(counted, &stored);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::rows::Place;
    use super::*;
    use crate::clock::Timestamp;
    use crate::event::EventId;

    #[test]
    fn a_count_that_is_wrong_is_put_right_where_no_lane_holds_anything() {
        let dir = tempfile::tempdir().expect("a directory");
        let (shard, tenant, done) = (Shard(1), TenantId(7), TenantId(8));
        let job = Waiting {
            place: Place::Scheduled(Timestamp(1)),
            tenant,
            event: EventId(1),
            attempts: 0,
            spent: 0,
            since: Timestamp(1),
            bytes: 50,
        };
        {
            let disk = Disk::open(&Options::new(dir.path())).expect("it opens");
            let mut unit = disk.unit();
            unit.put(&disk, Tree::Index, keys::ledger(shard), encode(&Ledger { scheduled: 1, ..Ledger::default() }));
            unit.put(&disk, Tree::Index, keys::waiting(shard, DeliveryId(1)), encode(&job));
            unit.put(&disk, Tree::Index, keys::queued_bytes(shard, done), encode(&1000_u64));
            disk.commit(unit).expect("it is written");
        }
        let opened = open(Options::new(dir.path())).expect("it opens");
        let cell = opened.shared.cell(shard);
        let mut state = cell.state();
        assert_eq!((state.queued.of(tenant), state.queued.of(done)), (50, 0));
        let mut changes = state.queued.changes();
        changes.sort();
        assert_eq!(changes, [(tenant, 50), (done, 0)], "and is written so with the next unit");
    }
}
