//! Keys. All integers are big endian, so that keys sort as their numbers do.

use crate::clock::Timestamp;
use crate::event::{ConnectionId, DeliveryId, DestinationId, EventId, Lane, PluginId, Shard, SourceId, TenantId};
use crate::store::{Home, QueueKey, StoreError, Table};

/// Prefixes in the `index` tree.
pub(super) mod kind {
    pub(in crate::store::embedded) const FORMAT: u8 = b'f';
    pub(in crate::store::embedded) const SERIAL: u8 = b'n';
    pub(in crate::store::embedded) const LEDGER: u8 = b'g';
    pub(in crate::store::embedded) const MARK: u8 = b'w';
    pub(in crate::store::embedded) const CLAIMS: u8 = b'c';
    pub(in crate::store::embedded) const WAITING: u8 = b'p';
    pub(in crate::store::embedded) const SCHEDULE: u8 = b's';
    pub(in crate::store::embedded) const QUEUE: u8 = b'q';
    pub(in crate::store::embedded) const DEAD: u8 = b'd';
    pub(in crate::store::embedded) const DEAD_AGE: u8 = b'o';
    pub(in crate::store::embedded) const DEDUP: u8 = b'k';
    pub(in crate::store::embedded) const REMEMBERED: u8 = b'm';
    pub(in crate::store::embedded) const SAID: u8 = b't';
    pub(in crate::store::embedded) const EXPIRY: u8 = b'e';
    pub(in crate::store::embedded) const REVISION: u8 = b'r';
    pub(in crate::store::embedded) const CONFIG: u8 = b'v';
    pub(in crate::store::embedded) const PROBE: u8 = b'z';
    pub(in crate::store::embedded) const PURGED: u8 = b'u';
    pub(in crate::store::embedded) const QUEUED: u8 = b'b';
    pub(in crate::store::embedded) const LINE: u8 = b'l';
    pub(in crate::store::embedded) const FRONT: u8 = b'h';
    pub(in crate::store::embedded) const READY: u8 = b'a';
    pub(in crate::store::embedded) const TAKEN: u8 = b'x';
    pub(in crate::store::embedded) const IMPORTING: u8 = b'i';
}

/// Prefixes in the `tables` tree.
pub(super) mod table_kind {
    pub(in crate::store::embedded) const CELL: u8 = b'e';
    pub(in crate::store::embedded) const CELL_END: u8 = b'x';
    pub(in crate::store::embedded) const TABLES: u8 = b'u';
    pub(in crate::store::embedded) const ANSWERED: u8 = b'o';
    pub(in crate::store::embedded) const CALL: u8 = b'q';
    pub(in crate::store::embedded) const BOOKMARK: u8 = b'b';
    pub(in crate::store::embedded) const BOOKMARKED: u8 = b'c';
    pub(in crate::store::embedded) const BOOKMARKS: u8 = b'n';
}

/// Appends fixed-width parts.
#[derive(Clone, Default)]
pub(super) struct Key(pub(super) Vec<u8>);

impl Key {
    fn of(kind: u8) -> Self {
        let mut key = Vec::with_capacity(48);
        key.push(kind);
        Self(key)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn u128(self, value: u128) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn shard(self, shard: Shard) -> Self {
        self.bytes(&shard.0.to_be_bytes())
    }

    fn home(self, home: Home) -> Self {
        self.shard(home.shard).u128(home.tenant.0)
    }

    fn lane(self, lane: Lane) -> Self {
        self.bytes(&[lane_index(lane) as u8])
    }

    fn queue(self, queue: QueueKey) -> Self {
        match queue {
            QueueKey::Tenant(tenant) => self.bytes(&[0]).u128(tenant.0),
            QueueKey::Destination(tenant, destination) => self.bytes(&[1]).u128(tenant.0).u128(destination.0),
            QueueKey::Source(tenant, source) => self.bytes(&[2]).u128(tenant.0).u128(source.0),
            QueueKey::Retries(tenant) => self.bytes(&[3]).u128(tenant.0),
            QueueKey::Plugins(tenant) => self.bytes(&[4]).u128(tenant.0),
            QueueKey::Connection(tenant, connection) => self.bytes(&[5]).u128(tenant.0).u128(connection.0),
            QueueKey::Paused(tenant, connection) => self.bytes(&[6]).u128(tenant.0).u128(connection.0),
            QueueKey::Ordered(tenant, destination) => self.bytes(&[7]).u128(tenant.0).u128(destination.0),
        }
    }
}

/// Reads fixed-width parts.
pub(super) struct Parts<'a>(pub(super) &'a [u8]);

impl Parts<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (part, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| StoreError::Damaged("a key is too short".into()))?;
        self.0 = rest;
        Ok(*part)
    }

    pub(super) fn u8(&mut self) -> Result<u8, StoreError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn shard(&mut self) -> Result<Shard, StoreError> {
        self.array().map(u16::from_be_bytes).map(Shard)
    }

    pub(super) fn u64(&mut self) -> Result<u64, StoreError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn u128(&mut self) -> Result<u128, StoreError> {
        self.array().map(u128::from_be_bytes)
    }

    pub(super) fn lane(&mut self) -> Result<Lane, StoreError> {
        let index = usize::from(self.u8()?);
        Lane::ALL.get(index).copied().ok_or_else(|| StoreError::Damaged("a key names no lane".into()))
    }

    pub(super) fn queue(&mut self) -> Result<QueueKey, StoreError> {
        match self.u8()? {
            0 => Ok(QueueKey::Tenant(TenantId(self.u128()?))),
            1 => Ok(QueueKey::Destination(TenantId(self.u128()?), DestinationId(self.u128()?))),
            2 => Ok(QueueKey::Source(TenantId(self.u128()?), SourceId(self.u128()?))),
            3 => Ok(QueueKey::Retries(TenantId(self.u128()?))),
            4 => Ok(QueueKey::Plugins(TenantId(self.u128()?))),
            5 => Ok(QueueKey::Connection(TenantId(self.u128()?), ConnectionId(self.u128()?))),
            6 => Ok(QueueKey::Paused(TenantId(self.u128()?), ConnectionId(self.u128()?))),
            7 => Ok(QueueKey::Ordered(TenantId(self.u128()?), DestinationId(self.u128()?))),
            _ => Err(StoreError::Damaged("a key names no queue".into())),
        }
    }
}

/// Where a lane stands in per-lane arrays, and in keys.
pub(super) fn lane_index(lane: Lane) -> usize {
    match lane {
        Lane::Normal => 0,
        Lane::Low => 1,
        Lane::Held => 2,
    }
}

/// Where an entry stands in the `log` tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogKey {
    pub(super) shard: Shard,
    pub(super) lane: Lane,
    pub(super) seq: u64,
    pub(super) tenant: TenantId,
    pub(super) event: EventId,
}

impl LogKey {
    pub(super) fn encode(self) -> Vec<u8> {
        Key(log_from(self.shard, self.lane, self.seq)).u128(self.tenant.0).u128(self.event.0).0
    }

    pub(super) fn decode(key: &[u8]) -> Result<Self, StoreError> {
        let mut parts = Parts(key);
        Ok(Self {
            shard: parts.shard()?,
            lane: parts.lane()?,
            seq: parts.u64()?,
            tenant: TenantId(parts.u128()?),
            event: EventId(parts.u128()?),
        })
    }
}

/// The least key in `log` of a lane's entry `seq`.
pub(super) fn log_from(shard: Shard, lane: Lane, seq: u64) -> Vec<u8> {
    Key(Vec::with_capacity(48)).shard(shard).lane(lane).u64(seq).0
}

/// The key of an event's row in `history` (`n` is 0), or of one of its outcomes.
pub(super) fn history(tenant: TenantId, event: EventId, n: u64) -> Vec<u8> {
    Key(Vec::with_capacity(40)).u128(tenant.0).u128(event.0).u64(n).0
}

pub(super) fn job(shard: Shard, id: DeliveryId) -> Vec<u8> {
    Key(Vec::with_capacity(18)).shard(shard).u128(id.0).0
}

pub(super) fn waiting(shard: Shard, id: DeliveryId) -> Vec<u8> {
    Key::of(kind::WAITING).shard(shard).u128(id.0).0
}

pub(super) fn schedule(shard: Shard, due: Timestamp, id: DeliveryId) -> Vec<u8> {
    Key(schedule_from(shard, due)).u128(id.0).0
}

pub(super) fn schedule_from(shard: Shard, due: Timestamp) -> Vec<u8> {
    Key::of(kind::SCHEDULE).shard(shard).u64(due.0).0
}

pub(super) fn queues_of(shard: Shard) -> Vec<u8> {
    Key::of(kind::QUEUE).shard(shard).0
}

pub(super) fn queued(shard: Shard, queue: QueueKey, seq: u64) -> Vec<u8> {
    Key(queues_of(shard)).queue(queue).u64(seq).0
}

/// What the places of all lines of a shard start with.
pub(super) fn lines_of(shard: Shard) -> Vec<u8> {
    Key::of(kind::LINE).shard(shard).0
}

/// The least key of a line's places from `place` on.
pub(super) fn line_from(shard: Shard, queue: QueueKey, line: u128, place: u64) -> Vec<u8> {
    Key(lines_of(shard)).queue(queue).u128(line).u64(place).0
}

/// A job's place in its line.
pub(super) fn lined(shard: Shard, queue: QueueKey, line: u128, place: u64, id: DeliveryId) -> Vec<u8> {
    Key(line_from(shard, queue, line, place)).u128(id.0).0
}

/// What is known of a line's first job.
pub(super) fn front(shard: Shard, queue: QueueKey, line: u128) -> Vec<u8> {
    Key::of(kind::FRONT).shard(shard).queue(queue).u128(line).0
}

/// The least key of lines of a queue whose first job is due at `due` or later.
pub(super) fn ready_from(shard: Shard, queue: QueueKey, due: Timestamp) -> Vec<u8> {
    Key::of(kind::READY).shard(shard).queue(queue).u64(due.0).0
}

/// A line by when its first job is due.
pub(super) fn ready(shard: Shard, queue: QueueKey, due: Timestamp, line: u128) -> Vec<u8> {
    Key(ready_from(shard, queue, due)).u128(line).0
}

pub(super) fn dead_of(shard: Shard, tenant: TenantId) -> Vec<u8> {
    Key::of(kind::DEAD).shard(shard).u128(tenant.0).0
}

pub(super) fn dead(shard: Shard, tenant: TenantId, at: Timestamp, id: DeliveryId) -> Vec<u8> {
    Key(dead_of(shard, tenant)).u64(at.0).u128(id.0).0
}

pub(super) fn dead_ages(shard: Shard) -> Vec<u8> {
    Key::of(kind::DEAD_AGE).shard(shard).0
}

pub(super) fn dead_age(shard: Shard, at: Timestamp, id: DeliveryId) -> Vec<u8> {
    Key(dead_ages(shard)).u64(at.0).u128(id.0).0
}

pub(super) fn ledger(shard: Shard) -> Vec<u8> {
    Key::of(kind::LEDGER).shard(shard).0
}

pub(super) fn queued_of(shard: Shard) -> Vec<u8> {
    Key::of(kind::QUEUED).shard(shard).0
}

/// The key of how much a shard has queued of a tenant.
pub(super) fn queued_bytes(shard: Shard, tenant: TenantId) -> Vec<u8> {
    Key(queued_of(shard)).u128(tenant.0).0
}

pub(super) fn mark(shard: Shard, lane: Lane) -> Vec<u8> {
    Key::of(kind::MARK).shard(shard).lane(lane).0
}

pub(super) fn claims(shard: Shard, lane: Lane, seq: u64) -> Vec<u8> {
    Key::of(kind::CLAIMS).shard(shard).lane(lane).u64(seq).0
}

pub(super) fn taken(shard: Shard, id: DeliveryId) -> Vec<u8> {
    Key::of(kind::TAKEN).shard(shard).u128(id.0).0
}

pub(super) fn dedup(tenant: TenantId, key: &[u8; 32]) -> Vec<u8> {
    Key::of(kind::DEDUP).u128(tenant.0).bytes(key).0
}

pub(super) fn remembered(key: &str) -> Vec<u8> {
    Key::of(kind::REMEMBERED).bytes(key.as_bytes()).0
}

/// What comes before every node's name under a topic.
pub(super) fn said(topic: &str) -> Vec<u8> {
    Key::of(kind::SAID).bytes(topic.as_bytes()).bytes(&[0]).0
}

/// What a node says under a topic.
pub(super) fn said_by(topic: &str, node: &str) -> Vec<u8> {
    Key(said(topic)).bytes(node.as_bytes()).0
}

/// The reminder that what is under `key` ends at `until`.
pub(super) fn expiry(until: Timestamp, key: &[u8]) -> Vec<u8> {
    Key::of(kind::EXPIRY).u64(until.0).bytes(key).0
}

pub(super) fn config(key: &str) -> Vec<u8> {
    Key::of(kind::CONFIG).bytes(key.as_bytes()).0
}

/// What a purge has removed of a tenant in a shard.
pub(super) fn purged(home: Home) -> Vec<u8> {
    Key::of(kind::PURGED).u128(home.tenant.0).shard(home.shard).0
}

/// An entry of a plugin's table, or the least key of those that start with `key`.
pub(super) fn cell(table: Table, key: &str) -> Vec<u8> {
    Key(cells_of(table.home, Some(table.plugin))).bytes(key.as_bytes()).0
}

/// What the entries of a table, or of all tables of a tenant, start with.
pub(super) fn cells_of(home: Home, plugin: Option<PluginId>) -> Vec<u8> {
    let tenant = Key::of(table_kind::CELL).home(home);
    plugin.map_or(tenant.clone(), |plugin| tenant.u128(plugin.0)).0
}

/// Reads what [`cell`] made.
pub(super) fn read_cell(home: Home, key: &[u8]) -> Result<(PluginId, String), StoreError> {
    read_named(&key[cells_of(home, None).len()..])
}

/// The reminder that an entry ends at `until`.
pub(super) fn cell_end(table: Table, until: Timestamp, key: &str) -> Vec<u8> {
    Key(cell_ends(table.home, until)).u128(table.plugin.0).bytes(key.as_bytes()).0
}

pub(super) fn cell_ends(home: Home, until: Timestamp) -> Vec<u8> {
    Key::of(table_kind::CELL_END).home(home).u64(until.0).0
}

/// Reads what [`cell_end`] made.
pub(super) fn read_cell_end(home: Home, key: &[u8]) -> Result<(PluginId, String), StoreError> {
    read_named(&key[cell_ends(home, Timestamp(0)).len()..])
}

fn read_named(key: &[u8]) -> Result<(PluginId, String), StoreError> {
    let mut parts = Parts(key);
    let plugin = PluginId(parts.u128()?);
    let key = std::str::from_utf8(parts.0).map_err(|_| StoreError::Damaged("a table's key is no text".into()))?;
    Ok((plugin, key.to_owned()))
}

/// What is known of a tenant's tables.
pub(super) fn tables(home: Home) -> Vec<u8> {
    Key(tables_in(home.shard)).u128(home.tenant.0).0
}

/// What the keys of [`tables`] start with in a shard.
pub(super) fn tables_in(shard: Shard) -> Vec<u8> {
    Key::of(table_kind::TABLES).shard(shard).0
}

/// Whose [`tables`] it is.
pub(super) fn read_tables(key: &[u8]) -> Result<TenantId, StoreError> {
    Parts(key.get(3..).unwrap_or_default()).u128().map(TenantId)
}

/// What a call to a table answered.
pub(super) fn answered(home: Home, name: &[u8; 16]) -> Vec<u8> {
    Key::of(table_kind::ANSWERED).home(home).bytes(name).0
}

/// A call to a table, in order.
pub(super) fn call(home: Home, number: u64) -> Vec<u8> {
    Key::of(table_kind::CALL).home(home).u64(number).0
}

/// What a bookmark says.
pub(super) fn bookmark(home: Home, name: &str) -> Vec<u8> {
    Key(bookmarks_of(home)).bytes(name.as_bytes()).0
}

/// What the keys of [`bookmark`] start with.
pub(super) fn bookmarks_of(home: Home) -> Vec<u8> {
    Key::of(table_kind::BOOKMARK).home(home).0
}

/// A bookmark's copy.
pub(super) fn bookmarked(home: Home, name: &str) -> Vec<u8> {
    Key::of(table_kind::BOOKMARKED).home(home).bytes(name.as_bytes()).0
}

/// What a tenant's bookmarks count.
pub(super) fn bookmark_use(home: Home) -> Vec<u8> {
    Key::of(table_kind::BOOKMARKS).home(home).0
}

pub(super) fn single(kind: u8) -> Vec<u8> {
    vec![kind]
}

/// The least key above all that start with `prefix`.
pub(super) fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}
