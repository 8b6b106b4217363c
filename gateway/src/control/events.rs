//! What became of events: reading history, and trying again by hand.

use super::service::{Control, Error};
use crate::event::{DeliveryId, EventId};
use crate::store::{DeadLetter, DeliveryState, EventHistory, EventSummary, Home, Page, PageRequest};

impl Control {
    /// A tenant's events, newest first.
    pub async fn events(&self, home: Home, page: PageRequest) -> Result<Page<EventSummary>, Error> {
        Ok(self.store.events(home, page).await?)
    }

    /// An event with all that is known of it.
    pub async fn event(&self, home: Home, reference: &str) -> Result<EventHistory, Error> {
        let missing = || Error::NotFound { kind: "event", reference: reference.chars().take(80).collect() };
        let id: EventId = reference.parse().map_err(|_| missing())?;
        self.store.event(home, id).await?.ok_or_else(missing)
    }

    /// A tenant's dead letters, newest first.
    pub async fn dead_letters(&self, home: Home, page: PageRequest) -> Result<Page<DeadLetter>, Error> {
        Ok(self.store.dead_letters(home, page).await?)
    }

    /// Tries dead letters again. Returns how many of them were there.
    pub async fn retry(&self, home: Home, ids: &[DeliveryId]) -> Result<u64, Error> {
        if self.state().tenant(home.tenant).is_some_and(|tenant| tenant.entry.parts.deleting.is_some()) {
            return Err(Error::BeingDeleted);
        }
        Ok(self.store.retry(home, ids, self.clock.now()).await?)
    }

    /// Tries an event's dead letters again. Returns how many there were.
    pub async fn retry_event(&self, home: Home, reference: &str) -> Result<u64, Error> {
        let history = self.event(home, reference).await?;
        let dead = history.summary.deliveries.iter().filter(|row| matches!(row.state, DeliveryState::DeadLettered { .. }));
        let ids: Vec<DeliveryId> = dead.map(|row| row.id).collect();
        if ids.is_empty() { Ok(0) } else { self.retry(home, &ids).await }
    }
}
