//! Fixtures over servers of the test's own.

mod checks;
mod faults;
mod proxy;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidegate::clock::{Clock, Timestamp};
use tidegate::store::redis::{Durability, RedisConfig, RedisStore, Topology};
use tidegate::store::{Store, StoreError};
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

    /// A cluster of one node, which has all slots: commands are routed, and those that cross slots refused, as in a large one.
    pub(crate) async fn cluster() -> Self {
        let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec).with("cluster-enabled", "yes")).await;
        server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
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
        // A node that starts takes a moment to call its cluster well.
        // On the heap: nested in the tests' futures its layout is too deep for the compiler.
        let connecting = Box::pin(async {
            loop {
                match Box::pin(RedisStore::connect(config.clone(), Clock::system())).await {
                    Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                    answer => return answer.expect("the server is as the engine demands"),
                }
            }
        });
        let store = tokio::time::timeout(Duration::from_secs(30), connecting).await.expect("the server serves within 30 seconds");
        // Waits as well until a node that starts calls its cluster well.
        store.probe().await.expect("the server takes a write");
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
