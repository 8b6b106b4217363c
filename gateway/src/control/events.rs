//! What became of events: reading history, and trying again by hand.

use super::homes::Homes;
use super::service::{Control, Error};
use crate::event::{DeliveryId, EventId};
use crate::store::{DeliveryState, EventHistory, EventSummary, Home, Page, PageRequest};

impl Control {
    /// A tenant's events, newest first.
    pub async fn events(&self, homes: &Homes, page: PageRequest<EventId>) -> Result<Page<(Home, EventSummary), EventId>, Error> {
        Ok(homes.events(&*self.store, page).await?)
    }

    /// An event with all that is known of it, and where it is.
    pub async fn event(&self, homes: &Homes, reference: &str) -> Result<(Home, EventHistory), Error> {
        let missing = || Error::NotFound { kind: "event", reference: reference.chars().take(80).collect() };
        let id: EventId = reference.parse().map_err(|_| missing())?;
        homes.event(&*self.store, id).await?.ok_or_else(missing)
    }

    /// Tries dead letters again. Returns how many of them were there.
    pub async fn retry(&self, homes: &Homes, ids: &[DeliveryId]) -> Result<u64, Error> {
        if self.state().tenant(homes.tenant).is_some_and(|tenant| tenant.entry.parts.deleting.is_some()) {
            return Err(Error::BeingDeleted);
        }
        Ok(homes.retry(&*self.store, ids, self.clock.now()).await?)
    }

    /// Tries an event's dead letters again. Returns how many there were.
    pub async fn retry_event(&self, homes: &Homes, reference: &str) -> Result<u64, Error> {
        let (_, history) = self.event(homes, reference).await?;
        let dead = history.summary.deliveries.iter().filter(|row| matches!(row.state, DeliveryState::DeadLettered { .. }));
        let ids: Vec<DeliveryId> = dead.map(|row| row.id).collect();
        if ids.is_empty() { Ok(0) } else { self.retry(homes, &ids).await }
    }
}
