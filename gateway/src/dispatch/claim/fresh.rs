//! What is new: the normal lane, and the held lane while somebody returns from there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Notify;

use super::{BATCH, Round, SLOW_POLL, ShardLoop, THROTTLED};
use crate::control::snapshot::Traffic;
use crate::dispatch::budget::Class;
use crate::event::Lane;
use crate::store::StoreError;

/// The state of the round over what is new.
pub(super) struct Fresh {
    signal: Arc<Notify>,
    /// What an operator had set when it was last looked.
    traffic: Arc<Traffic>,
    throttled: bool,
}

impl Fresh {
    pub(super) fn new(signal: Arc<Notify>) -> Self {
        Self { signal, traffic: Arc::default(), throttled: false }
    }
}

impl Round for Fresh {
    async fn pass(&mut self, of: &ShardLoop) -> Result<usize, StoreError> {
        self.throttled = false;
        if !of.mend(&mut self.throttled).await? {
            return Ok(1);
        }
        let normal = of.claim(Lane::Normal, Class::Normal, BATCH, &mut self.throttled).await?;
        // What was held before is older than what has just been read, so it begins first.
        let returned = of.returning(&mut self.traffic, &mut self.throttled).await;
        let count = normal.len();
        of.start_all(normal).await;
        of.is_quiet.store(count == 0, Ordering::Relaxed);
        of.stirred.notify_one();
        Ok(count + returned?)
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
