use crate::clock::monotonic;
use crate::event::{EventId, encode};
use crate::store::embedded::command::Entry;
use crate::store::embedded::disk::Tree;
use crate::store::embedded::keys::{self, LogKey};
use crate::store::embedded::rows::{First, Listed};
use crate::store::{Accepted, Home, StoreError};

use super::{Committer, SPACE_CHECK};

impl Committer {
    pub(super) fn accept(&mut self, batch: Vec<Entry>) -> Result<Vec<Accepted>, StoreError> {
        self.has_room()?;
        let homes: Vec<Home> = batch.iter().map(|entry| Home { tenant: entry.tenant, shard: entry.shard }).collect();
        let mut answers: Vec<Accepted> = batch.into_iter().map(|entry| self.accept_one(entry)).collect();
        for (answer, home) in answers.iter_mut().zip(homes) {
            if let Accepted::New { queued } = answer {
                *queued = self.shared.cell(home.shard).state().queued.of(home.tenant);
            }
        }
        Ok(answers)
    }

    fn accept_one(&mut self, entry: Entry) -> Accepted {
        if let Some(first) = self.first_with_its_key(&entry) {
            return Accepted::Duplicate(first);
        }
        let Entry { shard, lane, tenant, event, source, accepted_at, size, record, .. } = entry;
        let cell = self.cell(shard);
        let seq = {
            let mut state = cell.state();
            state.queued.add(tenant, size);
            let lane = state.lane(lane);
            lane.next += 1;
            lane.next - 1
        };
        let bytes = u32::try_from(record.len()).unwrap_or(u32::MAX);
        let listed = Listed { source, accepted_at, shard, lane, seq, bytes };
        self.put(Tree::Log, LogKey { shard, lane, seq, tenant, event }.encode(), record);
        self.put(Tree::History, keys::history(tenant, event, 0), encode(&listed));
        self.unit.wake.insert(shard);
        Accepted::New { queued: 0 }
    }

    /// The event that has the entry's dedup key, if its window is still open; otherwise the entry becomes that event.
    fn first_with_its_key(&mut self, entry: &Entry) -> Option<EventId> {
        let dedup = entry.dedup.as_ref()?;
        let now = self.shared.clock.now();
        let key = keys::dedup(entry.tenant, &dedup.key);
        if let Some(first) = self.read::<First>(&key).filter(|first| now < first.until) {
            return Some(first.event);
        }
        let until = now.after(dedup.window);
        self.put(Tree::Index, keys::expiry(until, &key), encode(&()));
        self.put(Tree::Index, key, encode(&First { event: entry.event, until }));
        None
    }

    /// Refuses events before the disk is full, so that acks and retries still find room.
    pub(super) fn has_room(&mut self) -> Result<(), StoreError> {
        let now = monotonic();
        if let Some((at, answer)) = &self.space
            && now.duration_since(*at) < SPACE_CHECK
        {
            return answer.clone();
        }
        let answer = self.shared.has_room();
        self.space = Some((now, answer.clone()));
        answer
    }
}
