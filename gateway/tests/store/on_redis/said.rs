//! What nodes say under a topic that many speak of.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::from_redis_value;
use tidegate::clock::Clock;
use tidegate::store::Store;
use tidegate::store::redis::{RedisConfig, RedisStore};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use crate::world::eventually;

const HOUR: Duration = Duration::from_secs(3600);
const AT_ONCE: Duration = Duration::from_millis(1);

async fn start() -> (Server, Arc<dyn Store>) {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let config = RedisConfig::standalone(server.url().parse().expect("a Redis URL"));
    let store = Box::pin(RedisStore::connect(config, Clock::system())).await.expect("the server is as the engine demands");
    (server, Arc::new(store))
}

async fn number(server: &Server, command: &[&str]) -> u64 {
    from_redis_value(server.command(command).await).expect("a number")
}

async fn say(store: &Arc<dyn Store>, node: &str, ttl: Duration) {
    store.say("topic", node, Bytes::from_static(b"something"), ttl).await.unwrap();
}

/// Each that speaks takes some of it away, whoever said it.
#[tokio::test]
async fn what_has_ended_never_becomes_much() {
    let (server, store) = start().await;
    say(&store, "stays", HOUR).await;
    for number in 0..500 {
        say(&store, &format!("goes-{number}"), AT_ONCE).await;
    }
    assert!(number(&server, &["HLEN", "tg:t:topic"]).await < 50);
    eventually(async || (store.said("topic").await.unwrap().len() == 1).then_some(())).await;
}

#[tokio::test]
async fn a_topic_lives_as_long_as_the_longest_of_what_is_said() {
    let (server, store) = start().await;
    say(&store, "long", HOUR).await;
    say(&store, "short", AT_ONCE).await;
    assert!(number(&server, &["PTTL", "tg:t:topic"]).await > 3_500_000);
    say(&store, "longer", 2 * HOUR).await;
    assert!(number(&server, &["PTTL", "tg:t:topic"]).await > 7_100_000);
}

/// A note more costs what the first did: the server looks at no more of what is there.
#[tokio::test]
async fn a_large_topic_costs_no_more_than_a_small_one() {
    let (server, store) = start().await;
    for number in 0..2000 {
        say(&store, &format!("node-{number}"), HOUR).await;
    }
    assert_eq!(store.said("topic").await.unwrap().len(), 2000);
    // What a script reads of a hash counts as a command: all of it, or some fields.
    let stats: String = from_redis_value(server.command(&["INFO", "commandstats"]).await).expect("INFO is text");
    assert!(!stats.contains("cmdstat_hgetall"), "{stats}");
}
