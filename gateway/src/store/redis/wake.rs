//! Wake-ups: one subscription for all shards. What is missed while it is down is found by the slow poll, and everybody is woken when
//! it is back.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use redis::RedisResult;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Inner;
use super::link::Connector;

const PAUSE: Duration = Duration::from_secs(1);
/// How long silence may last before the connection is tried.
const SILENCE: Duration = Duration::from_secs(10);

/// Runs as long as the engine does.
pub(super) async fn listen(connector: Arc<Connector>, pattern: String, signals: Arc<[Arc<Notify>]>, engine: Weak<Inner>) {
    while engine.strong_count() > 0 {
        // Whatever ends the subscription: the next one starts by waking everybody. It is the first to see the server go: unlike the
        // other connections it listens all the time.
        let _ended = subscription(&connector, &pattern, &signals).await;
        connector.reach.doubt();
        tokio::time::sleep(PAUSE).await;
    }
}

async fn subscription(connector: &Connector, pattern: &str, signals: &[Arc<Notify>]) -> RedisResult<()> {
    let mut subscriber = connector.subscriber().await?;
    subscriber.psubscribe(pattern).await?;
    signals.iter().for_each(|signal| signal.notify_one());
    let (mut sink, mut messages) = subscriber.split();
    loop {
        let Ok(message) = timeout(SILENCE, messages.next()).await else {
            match timeout(SILENCE, sink.ping::<redis::Value>()).await {
                Ok(pong) => drop(pong?),
                Err(_) => return Ok(()),
            }
            continue;
        };
        let Some(message) = message else { return Ok(()) };
        let shard = shard_of(message.get_channel_name());
        if let Some(signal) = shard.and_then(|shard| signals.get(shard)) {
            signal.notify_one();
        }
    }
}

/// The shard in `{ns:S}:wake`.
fn shard_of(channel: &str) -> Option<usize> {
    channel.strip_suffix("}:wake")?.rsplit(':').next()?.parse().ok()
}
