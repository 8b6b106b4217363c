//! What is new: the normal lane, and the held lane while somebody returns from there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Notify;

use super::{BATCH, BATCH_BYTES, Round, SLOW_POLL, ShardLoop, THROTTLED};
use crate::dispatch::budget::{Class, Grant};
use crate::dispatch::diversion::{Read, Returns};
use crate::event::Lane;
use crate::store::{Claimed, StoreError};

/// The state of the round over what is new.
pub(super) struct Fresh {
    signal: Arc<Notify>,
    returns: Returns,
    /// What is new of who came back, until the held lane is read to its end. With a batch of it nobody waits: others' would wait behind it.
    waiting: Vec<(Claimed, Grant)>,
    throttled: bool,
}

impl Fresh {
    pub(super) fn new(signal: Arc<Notify>) -> Self {
        Self { signal, returns: Returns::default(), waiting: Vec::new(), throttled: false }
    }

    /// What of the new begins now, and of what waited.
    fn that_begins(&mut self, new: Vec<(Claimed, Grant)>, is_at_end: bool) -> Vec<(Claimed, Grant)> {
        if is_at_end && self.waiting.is_empty() {
            return new;
        }
        let all = std::mem::take(&mut self.waiting).into_iter().chain(new);
        let (waiting, mut begins) = all.partition::<Vec<_>, _>(|(new, _)| !is_at_end && self.returns.are_older(&new.event));
        let bytes: usize = waiting.iter().map(|(new, _)| new.event.request.size()).sum();
        if waiting.len() < BATCH && bytes < BATCH_BYTES {
            self.waiting = waiting;
        } else {
            begins.extend(waiting);
        }
        begins
    }
}

impl Round for Fresh {
    async fn pass(&mut self, of: &ShardLoop) -> Result<usize, StoreError> {
        self.throttled = false;
        if !of.mend(&mut self.throttled).await? {
            return Ok(1);
        }
        let new = of.claim(Lane::Normal, Class::Normal, BATCH, &mut self.throttled).await?;
        // What was held before is older than what has just been read, so it begins first.
        let returned = of.returning(&mut self.returns, &mut self.throttled).await;
        let is_at_end = matches!(returned, Ok(Read { is_at_end: true, .. }));
        let normal = self.that_begins(new, is_at_end);
        let count = normal.len();
        of.start_all(normal).await;
        of.is_quiet.store(count == 0, Ordering::Relaxed);
        of.stirred.notify_one();
        Ok(count + returned?.count)
    }

    async fn wait(&self, of: &ShardLoop) {
        let budget = &of.shared.in_flight;
        tokio::select! {
            () = self.signal.notified() => {}
            () = budget.freed(), if budget.is_exhausted() => {}
            () = tokio::time::sleep(if self.throttled { THROTTLED } else { SLOW_POLL }) => {}
        }
    }
}
