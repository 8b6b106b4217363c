//! Plugins' tables on a server of their own: lost answers, keys that stay, a full server.

use std::time::Duration;

use redis::Value;
use tidegate::clock::{Clock, Timestamp};
use tidegate::event::{PluginId, Shard};
use tidegate::store::redis::{RedisConfig, RedisStore};
use tidegate::store::{Home, Store, StoreError, Table, TableAnswer, TableOp, TableResult};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use super::proxy::{Fault, Proxy};
use crate::contract::table::{key, once, plus, set, set_for};
use crate::world::*;

const TABLE: Table = Table { home: HOME, plugin: PluginId(1) };
const MUCH: u64 = 1 << 30;

async fn connect(url: &str) -> RedisStore {
    let config = RedisConfig { shards: 8, ..RedisConfig::standalone(url.parse().expect("a Redis URL")) };
    RedisStore::connect(config, Clock::system()).await.expect("the server is as the engine demands")
}

async fn one(store: &RedisStore, name: &str, op: TableOp) -> Result<TableResult, StoreError> {
    Ok(store.table(TABLE, None, &[(key(name), op)], MUCH, Timestamp(1)).await?.remove(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_answer_is_lost_is_done_once() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let proxy = Proxy::before(server.port()).await;
    let store = connect(&proxy.url()).await;
    for (number, fault) in [Fault::DropAnswer, Fault::DropRequest, Fault::None, Fault::DropAnswer].into_iter().enumerate() {
        assert_eq!(one(&store, "connected", TableOp::Get).await.unwrap(), Ok(TableAnswer::Value(None)));
        proxy.arm(fault);
        assert_eq!(one(&store, "n", plus(1)).await.unwrap(), Ok(TableAnswer::Number(number as i64 + 1)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_tables_leave_no_key() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let store = connect(&server.url()).await;
    let second = Duration::from_secs(1);
    for shard in [SHARD, OTHER_SHARD] {
        let table = Table { home: Home { shard, ..HOME }, ..TABLE };
        let ops = [(key("a"), set_for("1", second)), (key("b"), set("1")), (key("c"), plus(1))];
        store.table(table, Some(once(0)), &ops, MUCH, Timestamp(1)).await.unwrap();
    }
    let keys = async |shard: Shard| match server.command(&["KEYS", &format!("{{tg:{}}}:k*", shard.0)]).await {
        Value::Array(keys) => keys.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!((keys(SHARD).await, keys(OTHER_SHARD).await), (7, 7));
    while store.drop_tables(HOME, None).await.unwrap() > 0 {}
    assert_eq!((keys(SHARD).await, keys(OTHER_SHARD).await), (0, 7));
    // What is remembered of calls goes with the server's own time if nobody calls any more.
    let left = server.command(&["PTTL", &format!("{{tg:{}}}:ka:{:032x}", OTHER_SHARD.0, TENANT.0)]).await;
    assert!(redis::from_redis_value::<i64>(left).unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_takes_no_more_and_lets_go() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let store = connect(&server.url()).await;
    assert_eq!(one(&store, "a", set("1")).await.unwrap(), Ok(TableAnswer::Done));
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert!(matches!(one(&store, "b", set("1")).await, Err(StoreError::Full(_))));
    assert_eq!(one(&store, "a", TableOp::Get).await.unwrap(), Ok(TableAnswer::Value(Some("1".into()))));
    assert_eq!(store.drop_tables(HOME, Some(TABLE.plugin)).await.unwrap(), 1);
    assert_eq!(one(&store, "a", TableOp::Get).await.unwrap(), Ok(TableAnswer::Value(None)));
}
