//! What the suite needs of an engine beside its `Store`: restarts, crashes, and time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidegate::clock::{Clock, Timestamp};
use tidegate::store::Store;

use crate::model::Model;

/// An engine under test, with a fresh and empty store.
#[async_trait]
pub(crate) trait Fixture: Send {
    /// The store as the gateway has it since the last restart.
    fn store(&self) -> Arc<dyn Store>;

    /// The store's clock. Events are made with it, so it must move with what `pass` does.
    fn now(&self) -> Timestamp;

    /// Lets this much time pass by the store's clock. An engine on a clock of its own really waits.
    async fn pass(&mut self, time: Duration);

    /// Ends the gateway in good order and starts it again on the same data.
    async fn restart(&mut self);

    /// Ends the gateway's process without any last word to the store, and starts it again on the same data.
    async fn crash(&mut self);

    /// Where the engine's files are, if it has some.
    fn dir(&self) -> Option<&Path> {
        None
    }

    /// A span that is long for the suite's calls and short enough to wait for: leases and windows use it.
    fn span(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// Where fixtures with a manual clock start: a day that is far from the epoch.
pub(crate) const START: Timestamp = Timestamp(1_800_000_000_000);

/// The model, which loses nothing at a restart since it does not restart.
pub(crate) struct InMemory {
    clock: Clock,
    store: Arc<Model>,
}

impl InMemory {
    pub(crate) async fn start() -> Self {
        let clock = Clock::manual(START);
        Self { store: Arc::new(Model::new(clock.clone())), clock }
    }
}

#[async_trait]
impl Fixture for InMemory {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
    }

    async fn restart(&mut self) {}

    async fn crash(&mut self) {}
}
