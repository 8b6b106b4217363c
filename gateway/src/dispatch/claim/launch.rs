//! How work begins: in the order in which it came, as far as it keeps one ([`order`]).

use tokio::sync::MutexGuard;

use super::{BACKOFF, ShardLoop};
use crate::clock::Timestamp;
use crate::dispatch::order::{self, Lined};
use crate::dispatch::work::Item;
use crate::store::{Budget, Heads, Job, QueueKey, StoreError, Unparked};

/// See [`ShardLoop::lining`].
pub(in crate::dispatch) type Lining<'a> = MutexGuard<'a, ()>;

impl ShardLoop {
    /// Jobs out of a queue. Until the guard is dropped nothing that came later begins.
    pub(in crate::dispatch) async fn unpark(&self, queue: QueueKey, budget: Budget) -> Result<(Vec<Job>, Lining<'_>), StoreError> {
        let (store, lease) = (&self.shared.store, &self.hold.lease);
        let (Heads { jobs, next, unreadable }, now) = if let QueueKey::Ordered(..) = queue {
            let now = self.shared.clock.now();
            (store.heads(lease, queue, now, budget).await?, now)
        } else {
            let Unparked { jobs, unreadable } = store.unpark(lease, queue, budget).await?;
            (Heads { jobs, next: None, unreadable }, Timestamp(0))
        };
        let lining = self.lining.lock().await;
        let (count, last) = (jobs.len() as u64 + unreadable, jobs.last().map(|job| job.since));
        match queue {
            QueueKey::Ordered(..) => self.windows.took(queue, count, last, next, now),
            _ => self.windows.unparked(queue, count, last),
        }
        Ok((jobs, lining))
    }

    /// Begins a piece of work, but for what has to stand in line.
    pub(in crate::dispatch) async fn launch(&self, mut item: Item) {
        let (worker, origin, turn) = (&self.worker, item.origin, item.turn());
        item.progress.extend(worker.begun.progress(&self.shared, origin, &item.work).await);
        let Lined { lined, begins } = order::line_up(&self.shared, item);
        // Of a job in several writes the next owner must know that it has begun.
        let is_cut = lined.len() > 1;
        while is_cut && !worker.begun.note(&self.shared, origin).await {
            tokio::time::sleep(BACKOFF).await;
        }
        for done in lined {
            worker.send(done).await;
        }
        match begins {
            Some(item) => self.spawn(item),
            None => worker.give_back(turn),
        }
    }
}
