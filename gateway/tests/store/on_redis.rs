//! Fixtures over servers of the test's own.

mod addresses;
mod away;
mod checks;
mod faults;
mod nodes;
#[allow(dead_code, reason = "the dispatcher's own tests need more of it")]
mod proxy;
mod queued;
mod room;
mod said;
mod sentinel;
mod share;
mod table;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidegate::clock::{Clock, Timestamp};
use tidegate::store::Store;
use tidegate::store::redis::{Durability, RedisConfig, RedisStore, Topology};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use crate::fixture::Fixture;

/// The engine on a server of its own. Keys and leases live by real time here, so passing time means waiting for it; the events are
/// made by a clock that stands still meanwhile.
pub(crate) struct OnRedis {
    server: Server,
    topology: Topology,
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

    /// On a cluster of one node.
    pub(crate) async fn cluster() -> Self {
        let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec).whole_cluster()).await;
        let url = server.url().parse().expect("a Redis URL");
        Self::over(server, Topology::Cluster(vec![url])).await
    }

    async fn on(flavor: Flavor) -> Self {
        let server = Server::start(Config::new(flavor, Fsync::EverySec)).await;
        let url = server.url().parse().expect("a Redis URL");
        Self::over(server, Topology::Standalone(url)).await
    }

    async fn over(server: Server, topology: Topology) -> Self {
        let mut fixture = Self { server, topology, events: Clock::manual(Clock::system().now()), store: None };
        fixture.connect().await;
        fixture
    }

    async fn connect(&mut self) {
        let url = self.server.url().parse().expect("a Redis URL");
        let config = RedisConfig {
            topology: self.topology.clone(),
            durability: Durability::EverySec,
            shards: 8,
            ..RedisConfig::standalone(url)
        };
        // On the heap: nested in the tests' futures its layout is too deep for the compiler.
        let store = Box::pin(RedisStore::connect(config, Clock::system())).await.expect("the server is as the engine demands");
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
