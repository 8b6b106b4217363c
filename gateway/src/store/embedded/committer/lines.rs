//! Lines: which job of each is the first, and when that is due.
//!
//! A line has a row for each place, in order, and while it is not empty one row that tells its first job, and one in the order of when
//! that is due. What a unit does to a line is gathered, and the last two rows are brought up to date when the unit is complete.

use std::collections::{BTreeSet, HashSet};

use crate::event::{DeliveryId, Shard, encode};
use crate::store::embedded::disk::Tree;
use crate::store::embedded::keys::{self, Parts};
use crate::store::embedded::rows::{Front, Place, Spot, Waiting};
use crate::store::{Lease, PutBack, QueueKey, StoreError};

use super::{Committer, Draft};

/// What a unit does to a line.
#[derive(Default)]
pub(super) struct Changes {
    came: BTreeSet<(u64, DeliveryId)>,
    left: HashSet<(u64, DeliveryId)>,
}

impl Changes {
    pub(super) fn came(&mut self, place: u64, id: DeliveryId) {
        self.left.remove(&(place, id));
        self.came.insert((place, id));
    }

    pub(super) fn left(&mut self, place: u64, id: DeliveryId) {
        self.came.remove(&(place, id));
        self.left.insert((place, id));
    }
}

impl Committer {
    /// Puts first jobs of lines, and parked jobs, back to their places.
    pub(super) fn put_back(&mut self, lease: &Lease, jobs: &[PutBack]) -> Result<(), StoreError> {
        let cell = self.cell(lease.shard);
        let mut state = cell.owned(lease)?;
        for PutBack { id, from, due } in jobs.iter().copied() {
            if !state.taken.contains_key(&id) || state.leaving.contains(&id) {
                continue;
            }
            let key = keys::waiting(lease.shard, id);
            let Some(waiting) = self.read::<Waiting>(&key) else { continue };
            match waiting.place {
                Place::Lined(spot) if spot.due == from => {
                    self.put(Tree::Index, key, encode(&Waiting { place: Place::Lined(Spot { due, ..spot }), ..waiting }));
                    self.unit.lines.entry((lease.shard, spot.queue, spot.line)).or_default().came(spot.place, id);
                    state.wait(spot.queue, 0);
                }
                Place::Parked(queue, seq) => state.wait(queue, seq),
                _ => continue,
            }
            self.remove(Tree::Index, keys::taken(lease.shard, id));
            state.leaving.insert(id);
            self.unit.moved.push((lease.shard, id));
        }
        Ok(())
    }

    /// Adds to the unit what its changes make of the lines' fronts.
    pub(super) fn front_lines(&self, draft: &mut Draft) -> Result<(), StoreError> {
        let disk = &self.shared.disk;
        for ((shard, queue, line), changes) in std::mem::take(&mut draft.lines) {
            let key = keys::front(shard, queue, line);
            let old: Option<Front> = disk.read(Tree::Index, &key)?;
            let new = self.first((shard, queue, line), old, &changes)?;
            let new = match new {
                Some((place, id)) => self.due_of(draft, shard, id)?.map(|due| Front { due, place, id }),
                None => None,
            };
            if old == new {
                continue;
            }
            if let Some(old) = old {
                draft.unit.remove(disk, Tree::Index, keys::ready(shard, queue, old.due, line));
            }
            match new {
                Some(new) => {
                    draft.unit.put(disk, Tree::Index, keys::ready(shard, queue, new.due, line), encode(&new.id));
                    draft.unit.put(disk, Tree::Index, key, encode(&new));
                    self.shared.cell(shard).state().ready(queue).insert(new.due);
                }
                None => draft.unit.remove(disk, Tree::Index, key),
            }
        }
        Ok(())
    }

    /// The first of a line with these changes. Nothing that is written stands before its old front.
    fn first(
        &self,
        (shard, queue, line): (Shard, QueueKey, u128),
        old: Option<Front>,
        changes: &Changes,
    ) -> Result<Option<(u64, DeliveryId)>, StoreError> {
        let mut first = changes.came.first().copied();
        let Some(old) = old else { return Ok(first) };
        let from = keys::line_from(shard, queue, line, old.place);
        let prefix = from.len() - 8;
        let to = keys::after(&from[..prefix]);
        for key in self.shared.disk.keys(Tree::Index, from, to) {
            let key = key?;
            let mut parts = Parts(&key[prefix..]);
            let stored = (parts.u64()?, DeliveryId(parts.u128()?));
            if !changes.left.contains(&stored) {
                first = Some(first.map_or(stored, |first| first.min(stored)));
                break;
            }
        }
        Ok(first)
    }

    /// When a job is due in its line. One that can't be read is never due: it stops its line, so that nothing overtakes it.
    fn due_of(&self, draft: &Draft, shard: Shard, id: DeliveryId) -> Result<Option<crate::clock::Timestamp>, StoreError> {
        match draft.unit.read::<Waiting>(&self.shared.disk, Tree::Index, &keys::waiting(shard, id)) {
            Ok(Some(Waiting { place: Place::Lined(Spot { due, .. }), .. })) => Ok(Some(due)),
            Ok(_) => Ok(None),
            Err(StoreError::Damaged(error)) => {
                tracing::error!(delivery = %id, %error, "a job cannot be read and stops its line");
                Ok(Some(crate::clock::Timestamp(u64::MAX)))
            }
            Err(error) => Err(error),
        }
    }
}
