//! Entries that are claimed and in nobody's hands: an earlier owner left them, or the answer to their claim was lost.

use std::sync::atomic::Ordering;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{BATCH, BATCH_BYTES, CRASHES, ShardLoop, Solo, THROTTLED, budget, entry, with_suspects};
use crate::dispatch::budget::Class;
use crate::dispatch::record::Held;
use crate::dispatch::wait;
use crate::dispatch::work::{Item, crashed};
use crate::event::{EventId, Lane};
use crate::store::{Budget, Claimed, SUSPECT, StoreError};

impl ShardLoop {
    /// The next entries of a lane, in this owner's hands from now on. An error may have taken entries all the same.
    pub(in crate::dispatch) async fn claim_of(&self, lane: Lane, budget: Budget) -> Result<Vec<Claimed>, StoreError> {
        let _claiming = self.claiming.read().await;
        let claimed = self.shared.store.claim(&self.hold.lease, lane, budget).await;
        let claimed = claimed.inspect_err(|_| self.is_torn.store(true, Ordering::Release))?;
        self.table.note(&claimed);
        Ok(claimed)
    }

    /// Takes up what a claim took that ended in an error. Whether nothing of it is left: until then nothing is claimed that came later.
    pub(in crate::dispatch) async fn mend(&self, throttled: &mut bool) -> Result<bool, StoreError> {
        Ok(!self.is_torn.load(Ordering::Acquire) || self.reclaim(throttled).await? == 0)
    }

    /// Takes up what is in nobody's hands. Returns how much that was; 0 means that there is nothing.
    pub(super) async fn reclaim(&self, throttled: &mut bool) -> Result<usize, StoreError> {
        let mut solo = None;
        loop {
            match self.reclaim_with(solo.take(), throttled).await {
                Err(StoreError::Suspect(_)) => solo = Some(self.shared.solos.turn().await),
                taken_up => return taken_up,
            }
        }
    }

    /// The same, with a suspect only if it has its turn.
    async fn reclaim_with(&self, mut solo: Option<Solo>, throttled: &mut bool) -> Result<usize, StoreError> {
        let Some(mut grant) = self.take(Class::Reclaimed, BATCH, BATCH_BYTES, throttled) else {
            // Nothing is free, or the shard is paused.
            drop(solo);
            let _either = tokio::time::timeout(THROTTLED, self.shared.in_flight.freed()).await;
            return Ok(1);
        };
        let _alone = self.claiming.write().await;
        let held = self.table.entries().clone();
        let budget = if solo.is_some() { with_suspects(&grant) } else { budget(&grant) };
        let claimed = self.shared.store.reclaim(&self.hold.lease, &held, budget).await?;
        self.table.note(&claimed);
        if claimed.is_empty() {
            self.is_torn.store(false, Ordering::Release);
        }
        let count = claimed.len();
        let _lining = self.lining.lock().await;
        for claimed in claimed {
            let own = Held::of(grant.split(claimed.event.request.size()), None);
            let held = Held { solo: solo.take_if(|_| claimed.claims >= SUSPECT), ..own };
            match claimed.claims {
                CRASHES.. => self.give_up(entry(claimed, held)).await,
                SUSPECT.. => {
                    // It came by itself: what it does not need is others'.
                    drop(grant);
                    self.alone((claimed.event.id, claimed.claims), held.over(), self.start(claimed, held)).await;
                    return Ok(count);
                }
                _ => self.start(claimed, held).await,
            }
        }
        Ok(count)
    }

    /// Gives up what is not done yet of work that gateways went away with.
    pub(super) async fn give_up(&self, mut item: Item) {
        let (event, claims) = (item.event(), item.claims);
        tracing::error!(%event, claims, "work given up: each gateway that took it went away");
        self.worker.give_back(item.turn());
        item.progress.extend(self.worker.begun.progress(&self.shared, item.origin, &item.work).await);
        self.worker.send(wait::given_up(&self.shared, item, crashed(claims))).await;
    }

    /// Begins a suspect with nothing else of its shard beside it, and waits until its turn is over. On the heap: there are few.
    pub(super) fn alone<'a>(
        &'a self,
        (event, claims): (EventId, u32),
        over: Option<CancellationToken>,
        begin: impl Future<Output = ()> + Send + 'a,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            tracing::warn!(%event, claims, "work runs alone: gateways that took it went away");
            self.settle_all().await;
            begin.await;
            self.settle_all().await;
            if let Some(over) = over {
                over.cancelled().await;
            }
        })
    }

    /// Waits until nothing is in flight.
    pub(super) async fn settle_all(&self) {
        // Nothing comes to join what gathers.
        self.worker.batches.hurry(true);
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
        self.worker.batches.hurry(false);
    }
}
