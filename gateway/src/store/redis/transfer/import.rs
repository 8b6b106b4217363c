//! Filling an empty namespace. What is written is what accept, record and the others would have left.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use redis::{Cmd, Pipeline, Value, cmd};

use super::super::error::{Fault, odd};
use super::super::hold::stream_id;
use super::super::jobs::{Dead, counted, grave, rest};
use super::super::keys::{ShardKeys, lane_index, queue_name, tenant_name};
use super::super::piece::{End, Finished, Listed, Outcome, Piece, bucket_of, page};
use super::super::{Inner, RedisConfig, RedisStore, scripts};
use super::vacancy::{empty, is_empty};
use super::{check_alone, is_importing};
use crate::clock::{Clock, Timestamp};
use crate::event::{Lane, PluginId, Revision, Shard, TenantId, encode_event};
use crate::store::bookmark::StoredBookmark;
use crate::store::row::Row;
use crate::store::table::{TABLE_CALL_AGE, TABLE_ENTRY_OVERHEAD};
use crate::store::transfer::{Incoming, Item, MovedBookmark, MovedCall, MovedCell, MovedDedup, MovedEvent, MovedJob, MovedPlace};
use crate::store::{Bookmark, Line, QueueKey, StoreError, Ticket};

/// A namespace that is being filled.
pub struct Import {
    inner: Arc<Inner>,
    // Its tasks keep the connections' state.
    _store: RedisStore,
    now: Timestamp,
    shards: HashMap<Shard, Tally>,
    /// Written last: gateways that are there already, and take no shards, see no configuration before.
    revision: Option<Revision>,
}

/// What is counted of a shard on the way.
#[derive(Default)]
struct Tally {
    lanes: [LaneTally; 3],
    /// The highest place in a queue.
    sequence: u64,
    queues: HashSet<QueueKey>,
    /// Jobs in the lines of ordered queues.
    lined: HashMap<QueueKey, u64>,
    queued: HashMap<TenantId, u64>,
    tables: HashMap<TenantId, TableTally>,
}

#[derive(Default)]
struct LaneTally {
    last: Option<Ticket>,
    claimed: Option<Ticket>,
    /// Those that nobody has claimed, behind all that somebody has.
    unclaimed: Vec<Run>,
    unfinished: u64,
}

impl LaneTally {
    fn is_unclaimed(&mut self, ticket: Ticket) {
        match self.unclaimed.last_mut() {
            Some(run) if run.count < MAX_PASSED => (run.last, run.count) = (ticket, run.count + 1),
            _ => self.unclaimed.push(Run { first: ticket, last: ticket, count: 1 }),
        }
    }
}

/// Entries that stand behind each other in a lane.
struct Run {
    first: Ticket,
    last: Ticket,
    count: usize,
}

#[derive(Default)]
struct TableTally {
    bytes: u64,
    entries: BTreeMap<PluginId, u64>,
}

/// What a field counts, if it was not there before.
enum Counted {
    Queued(Shard, TenantId, u64),
    Entry(Shard, TenantId, PluginId, u64),
}

/// Commands, put together by the slot that their keys are in.
#[derive(Default)]
struct Batch {
    by_tag: BTreeMap<String, (Pipeline, Vec<(usize, Counted)>)>,
    is_cluster: bool,
}

impl Batch {
    fn add(&mut self, key: &str, command: Cmd) {
        self.pipe(key).0.add_command(command);
    }

    /// Adds a command whose answer is 1 if it made a field.
    fn count(&mut self, key: &str, command: Cmd, counted: Counted) {
        let (pipe, counts) = self.pipe(key);
        counts.push((pipe.len(), counted));
        pipe.add_command(command);
    }

    fn pipe(&mut self, key: &str) -> &mut (Pipeline, Vec<(usize, Counted)>) {
        let tag = match (self.is_cluster, key.split_once('{').and_then(|(_, rest)| rest.split_once('}'))) {
            (false, _) => "",
            (true, Some((tag, _))) => tag,
            (true, None) => key,
        };
        self.by_tag.entry(tag.to_owned()).or_default()
    }
}

impl Import {
    /// Marks an empty namespace, or one that an earlier import did not fill to its end, which is emptied first.
    pub async fn connect(config: RedisConfig, clock: Clock) -> Result<Self, StoreError> {
        let now = clock.now();
        let store = RedisStore::open(config, clock).await?;
        let inner = store.inner.clone();
        check_alone(&inner).await?;
        if is_importing(&inner).await? {
            empty(&inner).await?;
        }
        if !is_empty(&inner).await? {
            return Err(StoreError::Refused(format!(
                "the namespace `{}` is not empty: an import goes into an empty store, so name another one in store.namespace",
                inner.config.namespace
            )));
        }
        let mark = cmd("SET").arg(inner.names.importing()).arg(1).to_owned();
        inner.query.repeat(&mark).await.map_err(Fault::into_store)?;
        Ok(Self { inner, _store: store, now, shards: HashMap::new(), revision: None })
    }

    fn batch(&self) -> Batch {
        Batch { is_cluster: self.inner.connector.is_cluster(), ..Batch::default() }
    }

    async fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        for (pipe, counts) in batch.by_tag.into_values() {
            let answers = self.inner.query.repeat_all(&pipe).await.map_err(Fault::into_store)?;
            for (position, counted) in counts {
                if answers.get(position) != Some(&Value::Int(1)) {
                    continue;
                }
                match counted {
                    Counted::Queued(shard, tenant, bytes) => {
                        *self.shards.entry(shard).or_default().queued.entry(tenant).or_default() += bytes;
                    }
                    Counted::Entry(shard, tenant, plugin, bytes) => {
                        let tables = self.shards.entry(shard).or_default().tables.entry(tenant).or_default();
                        tables.bytes += bytes;
                        *tables.entries.entry(plugin).or_default() += 1;
                    }
                }
            }
        }
        Ok(())
    }

    fn item(&mut self, batch: &mut Batch, item: Item) -> Result<(), StoreError> {
        let names = &self.inner.names;
        match item {
            Item::Revision(revision) => self.revision = Some(revision),
            Item::Setting { key, value } => {
                batch.add(&names.config(), cmd("HSET").arg(names.config()).arg(key).arg(&value[..]).to_owned());
            }
            Item::Component { version, component } => {
                let key = names.component(&version.to_string());
                batch.add(&key, cmd("SET").arg(&key).arg(&component[..]).to_owned());
            }
            Item::Event(_) => unreachable!("events are written together"),
            Item::Job(moved) => self.job(batch, *moved)?,
            Item::Cell(moved) => self.cell(batch, moved)?,
            Item::Call(moved) => self.call(batch, moved)?,
            Item::Dedup(moved) => self.dedup(batch, &moved)?,
            Item::Remembered { key, value, until } => {
                let key = names.memory(&key);
                self.lasting(batch, key, &value, until);
            }
            Item::Said { topic, node, value, until } => {
                let key = names.said(&topic);
                let left = until.since(self.now).as_millis().max(1);
                let mut call = scripts::SAY.call(&[&key]);
                call.arg(node).arg(&value[..]).arg(left.to_string());
                batch.add(&key, call);
            }
            Item::Purged { shard, tenant, purged } => {
                let key = self.inner.keys(shard)?.purged(tenant);
                let mut set = cmd("HSET");
                set.arg(&key).arg("events").arg(purged.events).arg("given_up").arg(purged.given_up);
                set.arg("dead_letters").arg(purged.dead_letters).arg("done").arg(u8::from(purged.done));
                batch.add(&key, set);
            }
            Item::Bookmark(moved) => self.bookmark(batch, *moved)?,
        }
        Ok(())
    }

    fn lasting(&self, batch: &mut Batch, key: String, value: &[u8], until: Timestamp) {
        let left = until.since(self.now).as_millis().max(1).to_string();
        batch.add(&key, cmd("SET").arg(&key).arg(value).arg("PX").arg(left).to_owned());
    }

    /// Where no shard is named it counts in all: the keys of other sources are others.
    fn dedup(&self, batch: &mut Batch, moved: &MovedDedup) -> Result<(), StoreError> {
        let shards: Vec<&ShardKeys> = match moved.shard {
            Some(shard) => vec![self.inner.keys(shard)?],
            None => self.inner.shards.iter().collect(),
        };
        for keys in shards {
            self.lasting(batch, keys.dedup(&moved.key), &moved.event.0.to_be_bytes(), moved.until);
        }
        Ok(())
    }

    fn events(&mut self, batch: &mut Batch, events: &[MovedEvent]) -> Result<(), StoreError> {
        let mut listed: BTreeMap<(Shard, TenantId, u64), Vec<Listed>> = BTreeMap::new();
        let mut history: BTreeMap<(Shard, u64), (Vec<Outcome<'_>>, usize)> = BTreeMap::new();
        for moved in events {
            let MovedEvent { shard, lane, claims, finished, event, rows } = moved;
            let keys = self.inner.keys(*shard)?;
            let tally = self.shards.entry(*shard).or_default();
            let in_lane = &mut tally.lanes[lane_index(*lane)];
            let key = keys.lane(*lane);
            if in_lane.last.is_none() {
                batch.add(key, cmd("XGROUP").arg("CREATE").arg(key).arg("g").arg(0).arg("MKSTREAM").to_owned());
            }
            // An entry is looked for at the time of its event.
            let ticket = after(in_lane.last, *lane, event.id.made_at());
            in_lane.last = Some(ticket);
            let entry = encode_event(event);
            batch.add(key, cmd("XADD").arg(key).arg(stream_id(ticket)).arg("e").arg(&entry[..]).to_owned());
            let size = counted(event.request.size());
            if *finished || *claims > 0 {
                in_lane.claimed = Some(ticket);
                for Run { first, last, .. } in in_lane.unclaimed.drain(..) {
                    let mut passed = cmd("EVAL");
                    passed.arg(PASSED).arg(1).arg(key).arg(stream_id(first)).arg(stream_id(last));
                    batch.add(key, passed);
                }
            } else {
                in_lane.is_unclaimed(ticket);
            }
            if !finished {
                in_lane.unfinished += 1;
                *tally.queued.entry(event.tenant).or_default() += size;
                if *claims > 0 {
                    let mut claim = cmd("XCLAIM");
                    claim.arg(key).arg("g").arg("o").arg(0).arg(stream_id(ticket));
                    claim.arg("RETRYCOUNT").arg(*claims).arg("FORCE").arg("JUSTID");
                    batch.add(key, claim);
                }
            }
            let bucket = bucket_of(event.id);
            listed.entry((*shard, event.tenant, bucket)).or_default().push(Listed::of(event, *lane));
            if *finished || !rows.is_empty() {
                let (outcomes, bytes) = history.entry((*shard, bucket)).or_default();
                let bytes_of_it = u32::try_from(size).unwrap_or(u32::MAX);
                let ended = Finished { ticket, accepted_at: event.accepted_at, source: event.source, bytes: bytes_of_it };
                let end = if *finished { End::Entry(ended) } else { End::Open };
                *bytes += if *finished { bytes_of_it as usize } else { 0 };
                let rows = rows.iter().map(Row::of).collect();
                outcomes.push(Outcome { event: event.id, tenant: event.tenant, end, rows });
            }
        }
        for ((shard, tenant, bucket), rows) in listed {
            let key = self.inner.keys(shard)?.index(tenant);
            batch.add(&key, cmd("ZADD").arg(&key).arg(0).arg(page(bucket, &rows)).to_owned());
        }
        for ((shard, bucket), (outcomes, bytes)) in history {
            let keys = self.inner.keys(shard)?;
            let piece = Piece { outcomes }.encode();
            let bytes = bytes + piece.len();
            batch.add(&keys.base, cmd("RPUSH").arg(keys.bucket(bucket)).arg(piece).to_owned());
            batch.add(&keys.base, cmd("ZADD").arg(&keys.buckets).arg(bucket).arg(bucket).to_owned());
            batch.add(&keys.base, cmd("INCRBY").arg(&keys.history_bytes).arg(bytes).to_owned());
        }
        Ok(())
    }

    fn job(&mut self, batch: &mut Batch, moved: MovedJob) -> Result<(), StoreError> {
        let MovedJob { shard, place, job } = moved;
        let keys = self.inner.keys(shard)?;
        let tally = self.shards.entry(shard).or_default();
        let (id, tenant) = (job.id.0.to_be_bytes(), job.tenant());
        let add = |key: &str, score: u64, member: &[u8]| cmd("ZADD").arg(key).arg(score).arg(member).to_owned();
        let (place, dead) = match &place {
            MovedPlace::Scheduled(due) => {
                batch.add(&keys.base, add(&keys.schedule, due.0, &id));
                (format!("r{}", due.0).into_bytes(), None)
            }
            MovedPlace::Parked(queue, sequence) => {
                let name = queue_name(*queue);
                tally.sequence = tally.sequence.max(*sequence);
                tally.queues.insert(*queue);
                batch.add(&keys.base, add(&format!("{}q:{name}", keys.base), *sequence, &id));
                (format!("q{sequence}|{name}").into_bytes(), None)
            }
            MovedPlace::Lined { queue, line, place, due } => {
                let name = queue_name(*queue);
                tally.sequence = tally.sequence.max(*place / Line::OUTPUTS);
                *tally.lined.entry(*queue).or_default() += 1;
                let mut stand = cmd("EVAL");
                stand.arg(STAND).arg(2).arg(format!("{}l:{name}:{line:032x}", keys.base)).arg(format!("{}q:{name}", keys.base));
                batch.add(&keys.base, stand.arg(*place).arg(&id[..]).arg(due.0).arg(format!("{line:032x}")).to_owned());
                (format!("o{}|{name}|{line:032x}|{place}", due.0).into_bytes(), None)
            }
            MovedPlace::Dead { at, reason, last } => {
                let member = [&at.0.to_be_bytes()[..], &id].concat();
                batch.add(&keys.base, add(&keys.dead_of(tenant), 0, &member));
                batch.add(&keys.base, add(&keys.dead, 0, &[&member[..], tenant_name(tenant).as_bytes()].concat()));
                (grave(*at, tenant), Some(Dead { at: *at, reason, last: last.clone() }))
            }
        };
        let queued = if dead.is_some() { 0 } else { counted(job.size()) };
        let length = u8::try_from(place.len()).map_err(|_| odd("a job's place"))?;
        let value = [&[length][..], &place, &rest(&job, dead)].concat();
        let set = cmd("HSETNX").arg(&keys.jobs).arg(&id[..]).arg(value).to_owned();
        batch.count(&keys.base, set, Counted::Queued(shard, tenant, queued));
        Ok(())
    }

    fn cell(&mut self, batch: &mut Batch, moved: MovedCell) -> Result<(), StoreError> {
        let MovedCell { shard, tenant, plugin, key, value, until } = moved;
        let base = &self.inner.keys(shard)?.base;
        let (whose, which) = (tenant_name(tenant), format!("{:032x}", plugin.0));
        let bytes = (key.len() + value.len()) as u64 + TABLE_ENTRY_OVERHEAD;
        let index = format!("{base}kk:{whose}:{which}");
        batch.add(base, cmd("ZADD").arg(index).arg(0).arg(&key).to_owned());
        if let Some(until) = until {
            let ends = format!("{base}kx:{whose}");
            batch.add(base, cmd("ZADD").arg(ends).arg(until.0).arg(format!("{which}{key}")).to_owned());
            batch.add(base, cmd("ZADD").arg(format!("{base}ke")).arg("LT").arg(until.0).arg(&whose).to_owned());
        }
        let set = cmd("HSETNX").arg(format!("{base}kv:{whose}:{which}")).arg(&key).arg(&value[..]).to_owned();
        batch.count(base, set, Counted::Entry(shard, tenant, plugin, bytes));
        Ok(())
    }

    fn bookmark(&mut self, batch: &mut Batch, moved: MovedBookmark) -> Result<(), StoreError> {
        let MovedBookmark { shard, tenant, name, head, event } = moved;
        let keys = self.inner.keys(shard)?;
        let stored = StoredBookmark::of(&Bookmark { head, event });
        let mut keep =
            scripts::BOOKMARK_KEEP.call(&[&keys.bookmarks(tenant), &keys.bookmarked(tenant), &keys.bookmark_bytes(tenant)]);
        // Room was made for it where it comes from.
        keep.arg(name.as_str()).arg(stored.head).arg(stored.event).arg(u32::MAX).arg(1_u64 << 50);
        batch.add(&keys.base, keep);
        Ok(())
    }

    fn call(&mut self, batch: &mut Batch, moved: MovedCall) -> Result<(), StoreError> {
        let MovedCall { shard, tenant, at, name, words } = moved;
        let base = &self.inner.keys(shard)?.base;
        let (calls, answered) = (format!("{base}km:{}", tenant_name(tenant)), format!("{base}ka:{}", tenant_name(tenant)));
        let age = TABLE_CALL_AGE.as_millis().to_string();
        batch.add(base, cmd("ZADD").arg(&calls).arg(at.0).arg(&name[..]).to_owned());
        batch.add(base, cmd("HSET").arg(&answered).arg(&name[..]).arg(words.join(" ")).to_owned());
        batch.add(base, cmd("PEXPIRE").arg(&calls).arg(&age).to_owned());
        batch.add(base, cmd("PEXPIRE").arg(&answered).arg(&age).to_owned());
        Ok(())
    }

    /// What is known of a shard only now that all of it is there.
    fn counts(&self, batch: &mut Batch, shard: Shard, tally: &Tally) -> Result<(), StoreError> {
        let keys = self.inner.keys(shard)?;
        let base = &keys.base;
        for lane in Lane::ALL {
            let LaneTally { claimed, unfinished, .. } = &tally.lanes[lane_index(lane)];
            if let Some(claimed) = claimed {
                let set = cmd("XGROUP").arg("SETID").arg(keys.lane(lane)).arg("g").arg(stream_id(*claimed)).to_owned();
                batch.add(base, set);
            }
            batch.add(base, cmd("HSET").arg(&keys.unfinished).arg(lane.as_str()).arg(*unfinished).to_owned());
        }
        if tally.sequence > 0 {
            batch.add(base, cmd("SET").arg(format!("{base}sq")).arg(tally.sequence).to_owned());
        }
        for (tenant, bytes) in tally.queued.iter().filter(|(_, bytes)| **bytes > 0) {
            batch.add(base, cmd("HSET").arg(&keys.queued_bytes).arg(tenant_name(*tenant)).arg(*bytes).to_owned());
        }
        for (tenant, TableTally { bytes, entries }) in &tally.tables {
            let mut set = cmd("HSET");
            set.arg(keys.table_use(*tenant)).arg("b").arg(*bytes).arg("n").arg(entries.values().sum::<u64>());
            for (plugin, entries) in entries {
                set.arg(format!("{:032x}", plugin.0)).arg(*entries);
            }
            batch.add(base, set);
        }
        Ok(())
    }

    async fn lengths(&self, shard: Shard, tally: &Tally) -> Result<(), StoreError> {
        let keys = self.inner.keys(shard)?;
        for (queue, length) in &tally.lined {
            let set = cmd("HSET").arg(&keys.queues).arg(queue_name(*queue)).arg(*length).to_owned();
            self.inner.query.repeat(&set).await.map_err(Fault::into_store)?;
        }
        for queue in &tally.queues {
            let name = queue_name(*queue);
            let ask = cmd("ZCARD").arg(format!("{}q:{name}", keys.base)).to_owned();
            let length: u64 = redis::from_redis_value(self.inner.query.repeat(&ask).await.map_err(Fault::into_store)?)
                .map_err(|_| odd("a queue's length"))?;
            let set = cmd("HSET").arg(&keys.queues).arg(name).arg(length).to_owned();
            self.inner.query.repeat(&set).await.map_err(Fault::into_store)?;
        }
        Ok(())
    }
}

/// Puts a job at its place in a line. KEYS: the line, its queue   ARGV: place, id, due, the line's name
const STAND: &str = "redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
if redis.call('ZRANGE', KEYS[1], 0, 0)[1] == ARGV[2] then redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4]) end
return 0";

/// The most entries that one call passes: the server does nothing else meanwhile.
const MAX_PASSED: usize = 1024;

/// Counts entries that nobody has claimed as claimed no time: the group does not hand out what stands before an entry that was claimed.
/// KEYS: lane   ARGV: the first entry, the last
const PASSED: &str = "local from = ARGV[1]
while true do
  local found = redis.call('XRANGE', KEYS[1], from, ARGV[2], 'COUNT', 8)
  for _, entry in ipairs(found) do
    redis.call('XCLAIM', KEYS[1], 'g', 'o', 0, entry[1], 'RETRYCOUNT', 0, 'FORCE', 'JUSTID')
    from = '(' .. entry[1]
  end
  if #found == 0 then return 0 end
end";

/// Makes the store one to start on. KEYS: the mark, the revision   ARGV: the revision, if there is one
const UNMARK: &str = "if ARGV[1] ~= '' then redis.call('SET', KEYS[2], ARGV[1]) end
return redis.call('DEL', KEYS[1])";

/// The next place in a lane: of this time, or right behind the last.
fn after(last: Option<Ticket>, lane: Lane, at: Timestamp) -> Ticket {
    let first = Ticket { lane, major: at.0.max(1), minor: 0 };
    match last {
        Some(last) if last.major >= first.major => Ticket { minor: last.minor + 1, ..last },
        _ => first,
    }
}

#[async_trait]
impl Incoming for Import {
    async fn put(&mut self, items: Vec<Item>) -> Result<(), StoreError> {
        let mut batch = self.batch();
        let mut events = Vec::new();
        for item in items {
            match item {
                Item::Event(moved) => events.push(*moved),
                other => self.item(&mut batch, other)?,
            }
        }
        self.events(&mut batch, &events)?;
        self.write(batch).await
    }

    async fn finish(mut self: Box<Self>) -> Result<u64, StoreError> {
        let mut batch = self.batch();
        for (shard, tally) in &self.shards {
            self.counts(&mut batch, *shard, tally)?;
            self.lengths(*shard, tally).await?;
        }
        self.write(batch).await?;
        check_alone(&self.inner).await?;
        let names = &self.inner.names;
        let mut unmark = cmd("EVAL");
        unmark.arg(UNMARK).arg(2).arg(names.importing()).arg(names.revision());
        unmark.arg(self.revision.map(|revision| revision.0.to_string()).unwrap_or_default());
        self.inner.query.repeat(&unmark).await.map_err(Fault::into_store)?;
        Ok(0)
    }
}
