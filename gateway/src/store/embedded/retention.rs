//! Finds what retention may take: looks at the log from its front, in the order of acceptance, and leaves what is not terminal.
//! The committer removes it.

use super::Shared;
use super::command::{Cut, CutEvent};
use super::disk::Tree;
use super::keys::{self, LogKey, Parts, lane_index};
use super::listing;
use super::state::Cell;
use crate::clock::Timestamp;
use crate::event::{DeliveryId, Lane};
use crate::store::{Lease, Retention, StoreError};

/// Events, and dead letters, that one step looks at.
pub(super) const STEP: usize = 256;

pub(super) fn find(shared: &Shared, lease: &Lease, retention: Retention, now: Timestamp) -> Result<Cut, StoreError> {
    let cell = shared.cell(lease.shard);
    let (mut cut, mut walk) = start(&cell, lease, now)?;
    find_dead(shared, lease, retention, &mut cut)?;
    let mut is_done = false;
    for _ in 0..STEP {
        let Some(at) = walk.next(shared, lease)? else {
            is_done = true;
            break;
        };
        let is_old = now.since(at.event.made_at()) > retention.age;
        if !is_old && walk.history_bytes <= retention.bytes {
            // All that follow are younger.
            is_done = true;
            break;
        }
        walk.pass(at);
        if cell.state().lane(at.lane).claimed.contains_key(&at.seq) {
            walk.keep(at);
            continue;
        }
        let story = listing::story(&shared.disk, at.tenant, at.event)?;
        if !story.is_terminal() {
            walk.keep(at);
            continue;
        }
        let bytes = story.bytes();
        walk.history_bytes = walk.history_bytes.saturating_sub(bytes);
        cut.events.push(CutEvent { at, numbers: story.numbers, bytes });
    }
    cut.more |= !is_done;
    cut.fronts = walk.fronts();
    cell.owned(lease)?.walk = (!is_done).then_some(walk.at);
    Ok(cut)
}

fn start(cell: &Cell, lease: &Lease, now: Timestamp) -> Result<(Cut, Walk), StoreError> {
    let state = cell.owned(lease)?;
    let fronts = state.ledger.fronts;
    let walk = Walk {
        at: state.walk.unwrap_or(fronts),
        ends: Lane::ALL.map(|lane| state.lanes[lane_index(lane)].cursor),
        history_bytes: state.ledger.history_bytes,
        fronts,
        kept: [state.walk.is_some(); 3],
    };
    Ok((Cut { revivals: state.revivals, now, ..Cut::default() }, walk))
}

/// A pass over the lanes, merged by time. It may take many steps.
struct Walk {
    at: [u64; 3],
    /// Nothing from here on was ever claimed.
    ends: [u64; 3],
    history_bytes: u64,
    fronts: [u64; 3],
    /// Whether something was kept below, so that the front stays.
    kept: [bool; 3],
}

impl Walk {
    /// The oldest entry that this pass has not passed yet.
    fn next(&self, shared: &Shared, lease: &Lease) -> Result<Option<LogKey>, StoreError> {
        let mut oldest: Option<LogKey> = None;
        for lane in Lane::ALL {
            let (at, end) = (self.at[lane_index(lane)], self.ends[lane_index(lane)]);
            let from = keys::log_from(lease.shard, lane, at);
            let to = keys::log_from(lease.shard, lane, end);
            let Some(key) = (at < end).then(|| shared.disk.keys(Tree::Log, from, to).next()).flatten() else { continue };
            let key = LogKey::decode(&key?)?;
            if oldest.is_none_or(|oldest| key.event < oldest.event) {
                oldest = Some(key);
            }
        }
        Ok(oldest)
    }

    fn pass(&mut self, at: LogKey) {
        self.at[lane_index(at.lane)] = at.seq + 1;
    }

    fn keep(&mut self, at: LogKey) {
        let lane = lane_index(at.lane);
        if !self.kept[lane] {
            self.kept[lane] = true;
            self.fronts[lane] = at.seq;
        }
    }

    fn fronts(&self) -> [u64; 3] {
        [0, 1, 2].map(|lane| if self.kept[lane] { self.fronts[lane] } else { self.at[lane] })
    }
}

fn find_dead(shared: &Shared, lease: &Lease, retention: Retention, cut: &mut Cut) -> Result<(), StoreError> {
    let prefix = keys::dead_ages(lease.shard);
    let end = cut.now.before(retention.dead_letter_age);
    let to = keys::dead_age(lease.shard, end, DeliveryId(0));
    for key in shared.disk.keys(Tree::Index, prefix.clone(), to).take(STEP) {
        let key = key?;
        let mut parts = Parts(&key[prefix.len()..]);
        cut.dead.push((Timestamp(parts.u64()?), DeliveryId(parts.u128()?)));
    }
    cut.more |= cut.dead.len() == STEP;
    Ok(())
}
