use crate::clock::Timestamp;
use crate::event::decode;
use crate::store::embedded::command::{Cut, CutEvent};
use crate::store::embedded::disk::Tree;
use crate::store::embedded::keys::{self, Parts, kind};
use crate::store::embedded::rows::{First, Remembered};
use crate::store::{Lease, StoreError, Trimmed};

use super::Committer;

/// Expired keys that one step sweeps.
const SWEEP: usize = 512;

impl Committer {
    pub(super) fn trim(&mut self, lease: &Lease, cut: Cut) -> Result<Trimmed, StoreError> {
        let cell = self.cell(lease.shard);
        let mut state = cell.owned(lease)?;
        let swept_all = self.sweep(cut.now) & !self.trim_tables(lease.shard, cut.now);
        let Cut { revivals, events, dead, fronts, more, .. } = cut;
        let mut trimmed = Trimmed { more: more || !swept_all, ..Trimmed::default() };
        for (at, id) in dead {
            trimmed.dead_letters += u64::from(self.bury(&mut state, lease.shard, at, id));
        }
        if state.revivals != revivals {
            // Somebody retried by hand meanwhile: what was found terminal may not be so any more.
            state.walk = None;
            return Ok(Trimmed { more: true, ..trimmed });
        }
        for CutEvent { at, numbers, bytes } in events {
            self.remove(Tree::Log, at.encode());
            self.remove(Tree::History, keys::history(at.tenant, at.event, 0));
            for n in numbers {
                self.remove(Tree::History, keys::history(at.tenant, at.event, n));
            }
            state.ledger.history_bytes = state.ledger.history_bytes.saturating_sub(bytes);
            trimmed.events += 1;
        }
        state.ledger.fronts = fronts;
        Ok(trimmed)
    }

    /// Removes expired dedup keys and remembered values; whether none is left.
    fn sweep(&mut self, now: Timestamp) -> bool {
        let now = now.min(self.shared.clock.now());
        let from = keys::expiry(Timestamp(self.swept), &[]);
        let to = keys::expiry(Timestamp(now.0.saturating_add(1)), &[]);
        let rows: Vec<_> = self.shared.disk.keys(Tree::Index, from, to).take(SWEEP).collect();
        let all = rows.len() < SWEEP;
        for row in rows {
            let Some(row) = self.sound(row) else { continue };
            let mut parts = Parts(&row[1..]);
            let Ok(until) = parts.u64() else { continue };
            self.swept = until;
            self.forget(parts.0, now);
            self.remove(Tree::Index, row.to_vec());
        }
        all
    }

    /// Removes what is under `key` unless it was written anew with a later end.
    fn forget(&mut self, key: &[u8], now: Timestamp) {
        let read = self.unit.unit.raw(&self.shared.disk, Tree::Index, key);
        let Some(Some(value)) = self.sound(read) else { return };
        let until = match key.first() {
            Some(&kind::DEDUP) => decode::<First>(&value).map(|first| first.until),
            Some(&(kind::REMEMBERED | kind::SAID)) => decode::<Remembered>(&value).map(|known| known.until),
            _ => return,
        };
        if until.is_ok_and(|until| until <= now) {
            self.remove(Tree::Index, key.to_vec());
        }
    }
}
