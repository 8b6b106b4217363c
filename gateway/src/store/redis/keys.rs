//! The names of keys. All of a shard's keys carry its hash tag, so that they share a Cluster slot.

use crate::event::{ConnectionId, DestinationId, Lane, Shard, SourceId, TenantId};
use crate::store::{Allowance, QueueKey};

/// How wide a bucket of history is.
pub(super) const BUCKET_MS: u64 = 32;

/// Names that belong to no shard.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    namespace: String,
}

impl Keys {
    pub(super) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    pub(super) fn shard(&self, shard: Shard) -> ShardKeys {
        ShardKeys::new(&self.namespace, shard)
    }

    /// The last committed sequence of one committer, on a standalone server.
    pub(super) fn committed(&self, committer: u64) -> String {
        format!("{{{}:c}}:seq:{committer:016x}", self.namespace)
    }

    /// ZSET: the nodes that take shards, by when that ends.
    pub(super) fn nodes(&self) -> String {
        format!("{{{}:c}}:nodes", self.namespace)
    }

    /// Hash: the configuration's records.
    pub(super) fn config(&self) -> String {
        format!("{{{}:c}}:cfg", self.namespace)
    }

    /// String: the configuration's revision.
    pub(super) fn revision(&self) -> String {
        format!("{{{}:c}}:rev", self.namespace)
    }

    /// String: a component.
    pub(super) fn component(&self, version: &str) -> String {
        format!("{{{}:w:{version}}}", self.namespace)
    }

    /// String: something remembered.
    pub(super) fn memory(&self, key: &str) -> String {
        format!("{}:m:{key}", self.namespace)
    }

    /// Hash: what nodes say under a topic, each with when it ends.
    pub(super) fn said(&self, topic: &str) -> String {
        format!("{}:t:{topic}", self.namespace)
    }

    /// String: there while an import fills the store.
    pub(super) fn importing(&self) -> String {
        format!("{{{}:c}}:imp", self.namespace)
    }

    /// What a key is, if it is one of ours.
    pub(super) fn read<'a>(&self, key: &'a str) -> Option<KeyName<'a>> {
        let own = |key: &'a str, braced: bool| {
            let rest = if braced { key.strip_prefix('{')? } else { key };
            rest.strip_prefix(&self.namespace)?.strip_prefix(':')
        };
        if let Some(rest) = own(key, false) {
            let (kind, name) = rest.split_once(':')?;
            return match kind {
                "m" => Some(KeyName::Memory(name)),
                "t" => Some(KeyName::Said(name)),
                _ => None,
            };
        }
        let rest = own(key, true)?;
        if let Some(version) = rest.strip_prefix("w:") {
            return Some(KeyName::Component(version.strip_suffix('}')?));
        }
        let (owner, name) = rest.split_once("}:")?;
        match owner {
            "c" => Some(KeyName::Common),
            shard => Some(KeyName::OfShard(Shard(shard.parse().ok()?), name)),
        }
    }

    /// Written by the probe.
    pub(super) fn probe(&self) -> String {
        format!("{{{}:c}}:probe", self.namespace)
    }

    /// Channels that wake owners. They carry the shard's tag because a cluster's client routes by it.
    pub(super) fn wake_pattern(&self) -> String {
        format!("{{{}:*}}:wake", self.namespace)
    }
}

/// What a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyName<'a> {
    Component(&'a str),
    Memory(&'a str),
    Said(&'a str),
    /// Of the configuration, committers or nodes.
    Common,
    OfShard(Shard, &'a str),
}

/// The names of one shard's keys.
#[derive(Clone, Debug)]
pub(super) struct ShardKeys {
    /// `{ns:S}:`
    pub(super) base: String,
    /// Hash: who owns the shard.
    pub(super) own: String,
    /// String: the owner's token once more, by itself, so that it can be watched.
    pub(super) token: String,
    /// Hash: how many entries of each lane are not finished.
    pub(super) unfinished: String,
    /// Hash: how many entries of each lane have been finished.
    pub(super) finished: String,
    /// Hash: bytes of what is queued, by tenant.
    pub(super) queued_bytes: String,
    /// Hash: every job by its id.
    pub(super) jobs: String,
    /// ZSET: scheduled jobs by due time.
    pub(super) schedule: String,
    /// ZSET: jobs taken from the schedule, by the write that took them.
    pub(super) taken_due: String,
    /// Hash: lengths of the parked queues.
    pub(super) queues: String,
    /// ZSET: dead letters of all tenants, by time.
    pub(super) dead: String,
    /// ZSET: buckets that hold history.
    pub(super) buckets: String,
    /// String: bytes of history.
    pub(super) history_bytes: String,
    /// Channel that wakes the owner.
    pub(super) wake: String,
    lanes: [String; 3],
}

impl ShardKeys {
    fn new(namespace: &str, shard: Shard) -> Self {
        let base = format!("{{{namespace}:{}}}:", shard.0);
        let key = |name: &str| format!("{base}{name}");
        Self {
            own: key("own"),
            token: key("tok"),
            unfinished: key("n"),
            finished: key("f"),
            queued_bytes: key("qb"),
            jobs: key("j"),
            schedule: key("rt"),
            taken_due: key("tr"),
            queues: key("qs"),
            dead: key("dl"),
            buckets: key("hb"),
            history_bytes: key("hs"),
            wake: key("wake"),
            lanes: Lane::ALL.map(|lane| key(&format!("in:{}", lane.as_str()))),
            base,
        }
    }

    /// Stream: the entries of a lane.
    pub(super) fn lane(&self, lane: Lane) -> &str {
        &self.lanes[lane_index(lane)]
    }

    /// ZSET in order of its members: pages of a tenant's events.
    pub(super) fn index(&self, tenant: TenantId) -> String {
        format!("{}ix:{:032x}", self.base, tenant.0)
    }

    /// ZSET in order of its members: a tenant's dead letters.
    pub(super) fn dead_of(&self, tenant: TenantId) -> String {
        format!("{}dl:{:032x}", self.base, tenant.0)
    }

    /// Hash: what a purge has removed of a tenant.
    pub(super) fn purged(&self, tenant: TenantId) -> String {
        format!("{}pu:{:032x}", self.base, tenant.0)
    }

    /// Hash: what a tenant's tables take.
    pub(super) fn table_use(&self, tenant: TenantId) -> String {
        format!("{}ku:{:032x}", self.base, tenant.0)
    }

    /// Hash: what a tenant's bookmarks say, by their names.
    pub(super) fn bookmarks(&self, tenant: TenantId) -> String {
        format!("{}bm:{:032x}", self.base, tenant.0)
    }

    /// Hash: the copies of a tenant's bookmarks, by their names.
    pub(super) fn bookmarked(&self, tenant: TenantId) -> String {
        format!("{}bc:{:032x}", self.base, tenant.0)
    }

    /// Number: bytes of a tenant's bookmarks.
    pub(super) fn bookmark_bytes(&self, tenant: TenantId) -> String {
        format!("{}bb:{:032x}", self.base, tenant.0)
    }

    /// List: pieces of history of the events made in one stretch of time.
    pub(super) fn bucket(&self, bucket: u64) -> String {
        format!("{}h:{bucket}", self.base)
    }

    /// String with a lifetime: the first event with this dedup key.
    pub(super) fn dedup(&self, key: &[u8; 32]) -> String {
        format!("{}dd:{}", self.base, hex::encode(key))
    }

    /// String with a lifetime: when a shared bucket will be full.
    pub(super) fn bucket_of(&self, tenant: TenantId, allowance: Allowance) -> String {
        let which = match allowance {
            Allowance::Normal => 'n',
            Allowance::Ceiling => 'c',
        };
        format!("{}tb:{which}:{:032x}", self.base, tenant.0)
    }

    /// The last committed sequence of one committer, on a cluster.
    pub(super) fn committed(&self, committer: u64) -> String {
        format!("{}seq:{committer:016x}", self.base)
    }
}

/// Where a lane stands in [`Lane::ALL`].
pub(super) fn lane_index(lane: Lane) -> usize {
    match lane {
        Lane::Normal => 0,
        Lane::Low => 1,
        Lane::Held => 2,
    }
}

/// A tenant in the names of keys and fields.
pub(super) fn tenant_name(tenant: TenantId) -> String {
    format!("{:032x}", tenant.0)
}

/// The name of a queue inside its shard: hex ids, so that it can be part of a key.
pub(super) fn queue_name(queue: QueueKey) -> String {
    match queue {
        QueueKey::Tenant(tenant) => format!("t:{:032x}", tenant.0),
        QueueKey::Destination(tenant, destination) => format!("d:{:032x}:{:032x}", tenant.0, destination.0),
        QueueKey::Source(tenant, source) => format!("s:{:032x}:{:032x}", tenant.0, source.0),
        QueueKey::Retries(tenant) => format!("r:{:032x}", tenant.0),
        QueueKey::Plugins(tenant) => format!("p:{:032x}", tenant.0),
        QueueKey::Connection(tenant, connection) => format!("c:{:032x}:{:032x}", tenant.0, connection.0),
        QueueKey::Paused(tenant, connection) => format!("h:{:032x}:{:032x}", tenant.0, connection.0),
        QueueKey::Ordered(tenant, destination) => format!("o:{:032x}:{:032x}", tenant.0, destination.0),
    }
}

/// Reads what [`queue_name`] wrote.
pub(super) fn parse_queue(name: &str) -> Option<QueueKey> {
    let id = |text: &str| u128::from_str_radix(text, 16).ok();
    let mut parts = name.split(':');
    let queue = match (parts.next()?, parts.next()?, parts.next()) {
        ("t", tenant, None) => QueueKey::Tenant(TenantId(id(tenant)?)),
        ("d", tenant, Some(destination)) => QueueKey::Destination(TenantId(id(tenant)?), DestinationId(id(destination)?)),
        ("s", tenant, Some(source)) => QueueKey::Source(TenantId(id(tenant)?), SourceId(id(source)?)),
        ("r", tenant, None) => QueueKey::Retries(TenantId(id(tenant)?)),
        ("p", tenant, None) => QueueKey::Plugins(TenantId(id(tenant)?)),
        ("c", tenant, Some(connection)) => QueueKey::Connection(TenantId(id(tenant)?), ConnectionId(id(connection)?)),
        ("h", tenant, Some(connection)) => QueueKey::Paused(TenantId(id(tenant)?), ConnectionId(id(connection)?)),
        ("o", tenant, Some(destination)) => QueueKey::Ordered(TenantId(id(tenant)?), DestinationId(id(destination)?)),
        _ => return None,
    };
    Some(queue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_names_come_back() {
        let queues = [
            QueueKey::Tenant(TenantId(7)),
            QueueKey::Destination(TenantId(u128::MAX), DestinationId(3)),
            QueueKey::Source(TenantId(7), SourceId(u128::MAX)),
            QueueKey::Retries(TenantId(7)),
            QueueKey::Plugins(TenantId(7)),
            QueueKey::Connection(TenantId(7), ConnectionId(u128::MAX)),
            QueueKey::Paused(TenantId(7), ConnectionId(u128::MAX)),
            QueueKey::Ordered(TenantId(7), DestinationId(u128::MAX)),
        ];
        for queue in queues {
            assert_eq!(parse_queue(&queue_name(queue)), Some(queue));
        }
        assert_eq!(parse_queue("x:1"), None);
    }

    #[test]
    fn keys_are_told_apart_by_their_names() {
        let keys = Keys::new("tg");
        let shard = keys.shard(Shard(5));
        for (key, name) in [
            (keys.component("ab"), KeyName::Component("ab")),
            (keys.memory("a:b"), KeyName::Memory("a:b")),
            (keys.said("a/b"), KeyName::Said("a/b")),
            (keys.revision(), KeyName::Common),
            (shard.jobs, KeyName::OfShard(Shard(5), "j")),
            (format!("{}dd:00", shard.base), KeyName::OfShard(Shard(5), "dd:00")),
        ] {
            assert_eq!(keys.read(&key), Some(name), "{key}");
            assert_eq!(Keys::new("t").read(&key), None, "{key}");
        }
    }

    #[test]
    fn all_keys_of_a_shard_share_its_tag() {
        let keys = Keys::new("tg").shard(Shard(5));
        let all = [
            keys.own.clone(),
            keys.index(TenantId(1)),
            keys.bucket(9),
            keys.dedup(&[0; 32]),
            keys.lane(Lane::Held).into(),
            keys.table_use(TenantId(1)),
        ];
        assert!(all.iter().all(|key| key.starts_with("{tg:5}:")), "{all:?}");
    }
}
