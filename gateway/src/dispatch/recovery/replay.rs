//! Jobs that replay events: each event that is meant gets one piece of work on the connection, under an id that follows from the job, the
//! event and the connection. So what a crash has the job put again is known by its id, and left alone.

use std::sync::Arc;

use super::{READ, Work};
use crate::clock::Timestamp;
use crate::control::recovery::Replay;
use crate::control::snapshot::{Snapshot, Source};
use crate::event::{DeliveryId, Event, EventId};
use crate::store::{self, EventHistory, Home, Job, PageRequest, StoreError};

/// Work of about so many bytes is put on the schedule at once.
const PUT_BYTES: usize = 1 << 20;

impl Work<'_> {
    /// Fails once the connection of a replay, or its events' source, is deleted.
    pub(super) async fn check_ends(&self) -> Result<(), StoreError> {
        let Some(replay) = &self.order.replay else { return Ok(()) };
        foreign(&*self.shared.snapshots.at_least(replay.revision).await, replay).map(drop)
    }

    /// Reads on, and makes the next batch of what is meant. Events that are not finished are passed over.
    pub(super) async fn choose_events(&mut self, home: Home, most: usize, replay: &Replay) -> Result<(), StoreError> {
        let newest = EventId::new(self.order.created_at, u128::MAX);
        let before = self.progress.before_event.or_else(|| replay.events.before().into_iter().chain([newest]).min());
        let page = self.shared.store.events(home, PageRequest { before, limit: READ }).await?;
        let mut next = page.next;
        for event in page.items {
            if replay.events.is_past(event.id) {
                next = None;
                break;
            }
            if self.progress.events.len() >= most {
                next = self.progress.before_event;
                break;
            }
            self.progress.examined += 1;
            self.progress.before_event = Some(event.id);
            if event.finished && replay.events.matches(&event) {
                self.progress.matched += 1;
                if !self.order.dry_run {
                    self.progress.events.push(event.id);
                }
            }
        }
        match next {
            Some(next) => self.progress.before_event = Some(next),
            // What is in the batch is in this shard.
            None if self.progress.events.is_empty() => {
                self.progress.shard += 1;
                self.progress.before_event = None;
            }
            None => {}
        }
        Ok(())
    }

    /// Puts the noted events on the schedule. How many were new.
    pub(super) async fn replay(&self, home: Home, replay: &Replay) -> Result<u64, StoreError> {
        let (store, now) = (&self.shared.store, self.shared.clock.now());
        let (mut put, mut jobs, mut bytes) = (0, Vec::new(), 0);
        let foreign = foreign(&self.shared.snapshots.load(), replay)?;
        for id in &self.progress.events {
            let Some(EventHistory { event: Some(mut event), .. }) = store.event(home, *id).await? else { continue };
            bytes += event.request.size();
            if let Some(source) = &foreign {
                source.unsign(&mut event.request);
            }
            jobs.push(self.job(event, replay, now));
            if bytes >= PUT_BYTES {
                put += store.add(home, &std::mem::take(&mut jobs), now).await?;
                bytes = 0;
            }
        }
        Ok(put + store.add(home, &jobs, now).await?)
    }

    fn job(&self, mut event: Event, replay: &Replay, now: Timestamp) -> Job {
        let id = DeliveryId::replay(self.order.id, event.id, replay.connection);
        // The connection's plugins run as it names them by now.
        event.pins.clear();
        event.revision = event.revision.max(replay.revision);
        let work = store::Work::Plan { event: Box::new(event), connection: Some(replay.connection) };
        Job { id, attempts: 0, spent: 0, since: now, work, line: None, claims: 0 }
    }
}

/// The events' source, if the connection belongs to another one, which does not know what their senders signed them with.
fn foreign(snapshot: &Snapshot, replay: &Replay) -> Result<Option<Arc<Source>>, StoreError> {
    let Replay { connection: id, events, .. } = replay;
    let connection = snapshot.connections.get(id).ok_or_else(|| StoreError::Refused(format!("connection {id} is deleted")))?;
    if connection.source == events.source {
        return Ok(None);
    }
    let source = snapshot.sources.get(&events.source).cloned();
    source.map(Some).ok_or_else(|| StoreError::Refused(format!("source {} is deleted", events.source)))
}
