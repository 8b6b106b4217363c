//! What became of events: reading history, and trying again by hand.

use std::collections::BTreeSet;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::homes::Homes;
use super::service::{Control, Error};
use super::waiting::{Circuits, waits_for_circuit};
use crate::event::{DeliveryId, DestinationId, EventId};
use crate::store::{DeliveryState, EventHistory, EventSummary, Home, Page, PageRequest};

/// Destinations whose circuits are asked for at once.
const AT_ONCE: usize = 16;

impl Control {
    /// The circuits that these events' deliveries may wait for.
    pub async fn circuits<'a>(&self, events: impl IntoIterator<Item = &'a EventSummary>) -> Result<Circuits, Error> {
        let rows = events.into_iter().flat_map(|event| &event.deliveries);
        let destinations: BTreeSet<DestinationId> = rows.filter_map(waits_for_circuit).collect();
        let asked = destinations.into_iter().map(async |id| Ok::<_, Error>((id, self.circuit(id).await?)));
        let found: Vec<_> = stream::iter(asked).buffered(AT_ONCE).try_collect().await?;
        Ok(found.into_iter().filter_map(|(id, note)| Some((id, note?))).collect())
    }

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

    /// Tries dead letters again, in order if a destination may keep one. Returns how many of them were there.
    pub async fn retry(&self, homes: &Homes, ids: &[DeliveryId]) -> Result<u64, Error> {
        let state = self.state();
        let tenant = state.tenant(homes.tenant);
        if tenant.is_some_and(|tenant| tenant.entry.parts.deleting.is_some()) {
            return Err(Error::BeingDeleted);
        }
        let keeps_order = tenant.is_some_and(|tenant| tenant.destinations.iter().any(|one| one.parts.destination.order.is_some()));
        let (store, now) = (&*self.store, self.clock.now());
        Ok(match keeps_order && ids.len() > 1 {
            true => homes.retry_in_order(store, ids, now).await?,
            false => homes.retry(store, ids, now).await?,
        })
    }

    /// Tries an event's dead letters again. Returns how many there were.
    pub async fn retry_event(&self, homes: &Homes, reference: &str) -> Result<u64, Error> {
        let (_, history) = self.event(homes, reference).await?;
        let dead = history.summary.deliveries.iter().filter(|row| matches!(row.state, DeliveryState::DeadLettered { .. }));
        let ids: Vec<DeliveryId> = dead.map(|row| row.id).collect();
        if ids.is_empty() { Ok(0) } else { self.retry(homes, &ids).await }
    }
}
