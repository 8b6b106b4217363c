//! Fixtures over servers of the test's own.

mod checks;
mod faults;
mod proxy;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidegate::clock::{Clock, Timestamp};
use tidegate::store::Store;
use tidegate::store::redis::{Durability, RedisConfig, RedisStore};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use crate::fixture::Fixture;

/// The engine on a server of its own. Keys and leases live by real time here, so passing time means waiting for it; the events are
/// made by a clock that stands still meanwhile.
pub(crate) struct OnRedis {
    server: Server,
    events: Clock,
    store: Option<Arc<RedisStore>>,
}

impl OnRedis {
    pub(crate) async fn redis() -> Self {
        Self::on(Flavor::Redis).await
    }

    pub(crate) async fn valkey() -> Self {
        Self::on(Flavor::Valkey).await
    }

    async fn on(flavor: Flavor) -> Self {
        let server = Server::start(Config::new(flavor, Fsync::EverySec)).await;
        let mut fixture = Self { server, events: Clock::manual(Clock::system().now()), store: None };
        fixture.connect().await;
        fixture
    }

    async fn connect(&mut self) {
        let url = self.server.url().parse().expect("a Redis URL");
        let config = RedisConfig { durability: Durability::EverySec, shards: 8, ..RedisConfig::standalone(url) };
        let store = RedisStore::connect(config, Clock::system()).await.expect("the server is as the engine demands");
        self.store = Some(Arc::new(store));
    }
}

#[async_trait]
impl Fixture for OnRedis {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().expect("connected")
    }

    fn now(&self) -> Timestamp {
        self.events.now()
    }

    async fn pass(&mut self, time: Duration) {
        tokio::time::sleep(time).await;
        self.events.advance(time);
    }

    /// The gateway ends and starts again; the server, which is another process, runs on.
    async fn restart(&mut self) {
        self.store = None;
        self.connect().await;
    }

    /// The engine keeps nothing that it would write at its end, so a crash differs from a restart only in the server: it ends with
    /// its connections cut and starts again on what it kept.
    async fn crash(&mut self) {
        self.store = None;
        let server = &mut self.server;
        // The server's own futures are not `Send`, which those of a fixture must be.
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                server.stop().await;
                server.restart().await;
            });
        });
        self.connect().await;
    }

    fn span(&self) -> Duration {
        Duration::from_millis(600)
    }
}
