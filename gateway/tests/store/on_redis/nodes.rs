//! Several nodes on one store: who is there, and who takes what.

use std::time::Duration;

use tidegate::clock::Clock;
use tidegate::store::Store;
use tidegate::store::redis::{RedisConfig, RedisStore};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use crate::world::*;

const SPAN: Duration = Duration::from_millis(400);
const LONG: Duration = Duration::from_secs(60);

async fn connect(server: &Server) -> RedisStore {
    let config = RedisConfig { shards: 8, ..RedisConfig::standalone(server.url().parse().expect("a Redis URL")) };
    RedisStore::connect(config, Clock::system()).await.expect("the server is as the engine demands")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_counted_while_they_are_there() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let (one, other) = (connect(&server).await, connect(&server).await);
    assert_eq!(one.present("a", LONG).await.unwrap(), 1);
    assert_eq!(one.present("a", LONG).await.unwrap(), 1);
    assert_eq!(other.present("b", LONG).await.unwrap(), 2);
    assert_eq!(other.present("b", Duration::ZERO).await.unwrap(), 1, "it is gone");
    assert_eq!(other.present("b", SPAN).await.unwrap(), 2);
    eventually(async || (one.present("a", LONG).await.unwrap() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_over_leaves_what_nobody_holds() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let (one, other) = (connect(&server).await, connect(&server).await);
    assert_eq!(other.take_over(SHARD, "b", SPAN).await.unwrap(), None, "never taken");
    let lease = one.acquire(SHARD, "a", SPAN).await.unwrap().unwrap();
    one.release(&lease).await.unwrap();
    assert_eq!(other.take_over(SHARD, "b", SPAN).await.unwrap(), None, "given up");
    one.acquire(SHARD, "a", SPAN).await.unwrap().unwrap();
    eventually(async || other.take_over(SHARD, "b", SPAN).await.unwrap()).await;
}
