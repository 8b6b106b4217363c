//! Events that were parked as a whole, then taken up, and came to something before all of it was done.
//!
//! A lane's entry hands out its progress with itself when its owner went away; a job does not. So before the progress of such a job is
//! written the owner notes in the store (`Store::say`) that it has begun. The next owner reads these notes once, and of a job that is among
//! them it looks up what is recorded, so that nothing of it is made or attempted again. Most jobs are done before progress is written at all.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::Shared;
use crate::event::{DeliveryId, EventId, Shard};
use crate::store::{DeliveryRecord, Home, Origin, StoreError, Work};

/// Notes are spread over so many topics: each note is written in the time that its topic's others take to be looked through.
const TOPICS: u128 = 256;
/// How long a note is kept of what nobody finishes.
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Pause after a read of the store that failed.
const BACKOFF: Duration = Duration::from_millis(100);

/// What has begun in a shard.
#[derive(Debug)]
pub(super) struct Begun {
    shard: Shard,
    /// What earlier owners noted.
    found: OnceLock<HashSet<DeliveryId>>,
    /// What this owner noted, or tried to, and has not finished.
    noted: Mutex<HashSet<DeliveryId>>,
}

impl Begun {
    pub(super) fn new(shard: Shard) -> Self {
        Self { shard, found: OnceLock::new(), noted: Mutex::default() }
    }

    fn topic(&self, number: u128) -> String {
        format!("begun/{}/{}", self.shard.0, number % TOPICS)
    }

    /// Reads what earlier owners have noted.
    pub(super) async fn find(&self, shared: &Shared) -> Result<(), StoreError> {
        let mut found = HashSet::new();
        for number in 0..TOPICS {
            let said = shared.store.said(&self.topic(number)).await?;
            found.extend(said.iter().filter_map(|id| std::str::from_utf8(id).ok()?.parse::<DeliveryId>().ok()));
        }
        // Asked again the answer would be the same: nobody else notes anything by now.
        self.found.get_or_init(|| found);
        Ok(())
    }

    /// Notes that a job has begun; whether its progress may be written. That of a lane's entry may be without a note.
    pub(super) async fn note(&self, shared: &Shared, origin: Origin) -> bool {
        match origin {
            Origin::Entry(_) => true,
            Origin::Job(id) => {
                // First, so that a note is let go whose answer nobody waited for.
                self.noted().insert(id);
                self.say(shared, id, KEPT).await
            }
        }
    }

    /// Answers a job whose end is written if this owner noted that it had begun, once.
    pub(super) fn forget(&self, id: DeliveryId) -> Option<DeliveryId> {
        self.noted().take(&id)
    }

    /// Lets notes go. Before its end is written a job may still be the next owner's.
    pub(super) async fn finished(&self, shared: &Shared, ids: &[DeliveryId]) {
        for id in ids {
            self.say(shared, *id, Duration::ZERO).await;
        }
    }

    async fn say(&self, shared: &Shared, id: DeliveryId, ttl: Duration) -> bool {
        let name = id.to_string();
        let said = shared.store.say(&self.topic(id.0), &name, Bytes::from(name.clone()), ttl).await;
        if let Err(error) = &said {
            tracing::warn!(job = %id, %error, "not noted that a job has begun, its progress is not written");
        }
        said.is_ok()
    }

    /// What is recorded of a job that an earlier owner had begun.
    pub(super) async fn progress(&self, shared: &Shared, origin: Origin, work: &Work) -> Vec<DeliveryRecord> {
        let (Origin::Job(id), Work::Plan { event, connection: None }) = (origin, work) else { return Vec::new() };
        if !self.found.get().is_some_and(|found| found.contains(&id)) {
            return Vec::new();
        }
        let home = Home { tenant: event.tenant, shard: self.shard };
        self.recorded(shared, home, event.id).await.into_iter().filter(|row| row.id != id).collect()
    }

    fn noted(&self) -> MutexGuard<'_, HashSet<DeliveryId>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn recorded(&self, shared: &Shared, home: Home, event: EventId) -> Vec<DeliveryRecord> {
        loop {
            match shared.store.event(home, event).await {
                Ok(history) => return history.map_or_else(Vec::new, |history| history.summary.deliveries),
                // Read again it would be the same.
                Err(error @ (StoreError::Damaged(_) | StoreError::Refused(_))) => {
                    tracing::error!(%event, %error, "what an event has come to can't be read, it begins anew");
                    return Vec::new();
                }
                Err(error) => tracing::warn!(%event, %error, "what an event has come to is not read, trying again"),
            }
            tokio::time::sleep(BACKOFF).await;
        }
    }
}
