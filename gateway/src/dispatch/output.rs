//! What plugins made and nobody has recorded yet, in bytes, over all events in flight on this node.
//!
//! How much a run will make is not known before it ends, so what is made always counts, even beyond the budget; but while it is used
//! up, no event begins to make any. Those that hold some go on, so that they end and give it back. Beyond the budget there is at most
//! what the runs that were under way make.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Bytes of plugins' outputs. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Outputs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    budget: usize,
    used: AtomicUsize,
    freed: Notify,
}

/// What one event's outputs use. Dropping it gives that back.
#[derive(Debug)]
pub(super) struct Made {
    outputs: Outputs,
    bytes: usize,
}

impl Outputs {
    pub(super) fn new(budget: usize) -> Self {
        Self(Arc::new(Inner { budget: budget.max(1), used: AtomicUsize::new(0), freed: Notify::new() }))
    }

    /// For an event that has made nothing yet.
    pub(super) fn none(&self) -> Made {
        Made { outputs: self.clone(), bytes: 0 }
    }

    fn is_used_up(&self) -> bool {
        self.0.used.load(Ordering::Acquire) >= self.0.budget
    }
}

impl Made {
    /// Waits until the event may make something: at once if it holds some already.
    pub(super) async fn room(&self) {
        let inner = &self.outputs.0;
        while self.bytes == 0 && self.outputs.is_used_up() {
            let freed = inner.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.outputs.is_used_up() {
                freed.await;
            }
        }
    }

    /// Counts what was made.
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.outputs.0.used.fetch_add(bytes, Ordering::AcqRel);
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.outputs.0.used.fetch_sub(self.bytes, Ordering::AcqRel);
            self.outputs.0.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn who_holds_some_goes_on_and_newcomers_wait() {
        let outputs = Outputs::new(100);
        let (mut first, second) = (outputs.none(), outputs.none());
        assert!(first.room().now_or_never().is_some());
        first.add(150);
        assert!(first.room().now_or_never().is_some());
        let mut waiting = Box::pin(second.room());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        assert!(waiting.now_or_never().is_some());
        assert_eq!(outputs.0.used.load(Ordering::Relaxed), 0);
    }
}
