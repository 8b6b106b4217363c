//! The embedded engine as the suite starts, restarts and crashes it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use tidegate::clock::{Clock, Timestamp};
use tidegate::store::Store;
use tidegate::store::embedded::{Durability, Embedded, Options};

use crate::fixture::{Fixture, START};

pub(crate) struct OnDisk {
    dir: TempDir,
    clock: Clock,
    durability: Durability,
    store: Option<Arc<Embedded>>,
}

impl OnDisk {
    pub(crate) async fn start() -> Self {
        Self::with(Durability::Fsync)
    }

    pub(crate) async fn everysec() -> Self {
        Self::with(Durability::Everysec)
    }

    fn with(durability: Durability) -> Self {
        let mut fixture = Self { dir: TempDir::new().unwrap(), clock: Clock::manual(START), durability, store: None };
        fixture.open();
        fixture
    }

    fn open(&mut self) {
        self.store = Some(Arc::new(Embedded::open(self.options()).unwrap()));
    }

    pub(crate) fn options(&self) -> Options {
        let (durability, clock) = (self.durability, self.clock.clone());
        Options { durability, clock, reserve_bytes: 0, ..Options::new(self.dir.path()) }
    }
}

#[async_trait]
impl Fixture for OnDisk {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().unwrap()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
    }

    async fn restart(&mut self) {
        close(self.store.take().unwrap()).await;
        self.open();
    }

    /// Goes on with a copy of the files as the kernel has them now: what a killed process leaves.
    async fn crash(&mut self) {
        let copy = TempDir::new().unwrap();
        copy_dir(self.dir.path(), copy.path());
        close(self.store.take().unwrap()).await;
        self.dir = copy;
        self.open();
    }
}

/// Drops the store for good: nobody else may hold it.
async fn close(store: Arc<Embedded>) {
    let store = Arc::into_inner(store).expect("the test holds no other reference to the store");
    tokio::task::spawn_blocking(move || drop(store)).await.unwrap();
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_dir(&entry.path(), &to);
        } else if let Err(error) = std::fs::copy(entry.path(), &to) {
            // A file that was removed since it was listed.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}
