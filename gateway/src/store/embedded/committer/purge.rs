use crate::event::{Failure, TenantId, encode};
use crate::store::embedded::command::CutEvent;
use crate::store::embedded::disk::Tree;
use crate::store::embedded::keys;
use crate::store::embedded::purge::Haul;
use crate::store::embedded::rows::{Place, Waiting};
use crate::store::{Home, Lease, Purged, StoreError};

use super::Committer;

impl Committer {
    pub(super) fn purge(&mut self, lease: &Lease, tenant: TenantId, haul: Haul) -> Result<Purged, StoreError> {
        let cell = self.cell(lease.shard);
        let mut state = cell.owned(lease)?;
        let Haul { revivals, jobs, events, mut walk } = haul;
        let home = Home { tenant, shard: lease.shard };
        let counted_at = keys::purged(home);
        walk.is_clean &= self.drop_tables(home, None) == 0;
        walk.is_clean &= self.drop_bookmarks(home)? == 0;
        let known = self.read::<Purged>(&counted_at);
        let mut purged = known.unwrap_or_default();
        for id in jobs {
            walk.is_clean = false;
            // What is in hand comes back, or ends.
            if !state.is_free(id) {
                continue;
            }
            let waiting = self.read::<Waiting>(&keys::waiting(lease.shard, id)).filter(|waiting| waiting.tenant == tenant);
            let Some(waiting) = waiting else { continue };
            match &waiting.place {
                Place::Dead { reason, .. } if reason.code != Failure::TENANT_DELETED => purged.dead_letters += 1,
                _ => purged.given_up += 1,
            }
            self.take_away(&mut state, id);
        }
        // Somebody who retried by hand meanwhile made work of what was found finished.
        let events = if state.revivals == revivals { events } else { Vec::new() };
        for CutEvent { at, numbers, bytes } in events {
            self.remove(Tree::Log, at.encode());
            self.remove(Tree::History, keys::history(at.tenant, at.event, 0));
            for n in numbers {
                self.remove(Tree::History, keys::history(at.tenant, at.event, n));
            }
            state.ledger.history_bytes = state.ledger.history_bytes.saturating_sub(bytes);
            purged.events += 1;
        }
        if walk.is_over {
            purged.done = walk.is_clean;
            state.purging.remove(&tenant);
        } else {
            state.purging.insert(tenant, walk);
        }
        if known != Some(purged) {
            self.put(Tree::Index, counted_at, encode(&purged));
        }
        Ok(purged)
    }
}
