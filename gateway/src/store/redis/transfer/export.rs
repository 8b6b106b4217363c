//! Reading everything: the configuration, then each shard's lanes and jobs, then all other keys by their names.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use redis::{Pipeline, Value, cmd};

use super::super::claim::parse_entry;
use super::super::error::{Fault, odd};
use super::super::hold::{stream_id, ticket};
use super::super::jobs::{Stored, split};
use super::super::keys::{KeyName, ShardKeys, parse_queue};
use super::super::piece::{Merged, bucket_of, merge, pages_of, read_page};
use super::super::{Inner, RedisConfig, RedisStore, bookmark};
use super::{check_alone, check_whole, signs};
use crate::clock::{Clock, Timestamp};
use crate::event::{Attempt, EventId, Lane, PluginId, Revision, Shard, TenantId, decode_event, decode_with};
use crate::store::transfer::{
    Item, MovedBookmark, MovedCall, MovedCell, MovedDedup, MovedEvent, MovedJob, MovedPlace, Outgoing, PAGE_BYTES, PAGE_ITEMS,
};
use crate::store::{Bookmark, BookmarkName, Home, Purged, StoreError, Ticket};

/// How many names of keys one step of a scan asks for.
const SCAN_KEYS: usize = 512;
/// A page of a lane. It may hold one entry more than the bytes.
/// KEYS: lane   ARGV: from, most entries, most bytes   Answers entries.
const LANE_PAGE: &str = "local from, page, bytes = ARGV[1], {}, 0
while #page < tonumber(ARGV[2]) and bytes < tonumber(ARGV[3]) do
  local entry = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 1)[1]
  if not entry then break end
  for _, part in ipairs(entry[2]) do bytes = bytes + #part end
  page[#page + 1] = entry
  from = '(' .. entry[1]
end
return page";
/// A page of a hash. It may hold a few fields more than the bytes: those that the hash keeps beside each other.
/// KEYS: hash   ARGV: cursor, most fields, most bytes   Answers the next cursor, and fields with their values.
const HASH_PAGE: &str = "local cursor, page, bytes = ARGV[1], {}, 0
repeat
  local found = redis.call('HSCAN', KEYS[1], cursor, 'COUNT', 1)
  cursor = found[1]
  for _, part in ipairs(found[2]) do
    page[#page + 1] = part
    bytes = bytes + #part
  end
until cursor == '0' or #page >= 2 * tonumber(ARGV[2]) or bytes >= tonumber(ARGV[3])
return {cursor, page}";
/// How many tenants are asked whose an event is in one round trip.
const ASK_TENANTS: usize = 256;

/// A namespace that is being read.
pub struct Export {
    inner: Arc<Inner>,
    // Its tasks keep the connections' state.
    _store: RedisStore,
    now: Timestamp,
    before: Vec<Value>,
    stage: Stage,
}

/// Where it goes on.
enum Stage {
    Settings,
    Lane { shard: u16, lane: usize, after: Option<Ticket> },
    Jobs { shard: u16, cursor: u64 },
    Keys { masters: Vec<Option<(String, u16)>>, cursor: u64, names: VecDeque<String>, is_last: bool },
    Table { then: Box<Stage>, shard: Shard, tenant: TenantId, plugins: Vec<PluginId>, cursor: u64 },
    Calls { then: Box<Stage>, shard: Shard, tenant: TenantId, from: i64 },
    Bookmarks { then: Box<Stage>, home: Home, names: Vec<BookmarkName> },
    Done,
}

impl Export {
    /// Connects to a store that no gateway works on.
    pub async fn connect(config: RedisConfig, clock: Clock) -> Result<Self, StoreError> {
        let now = clock.now();
        let store = RedisStore::open(config, clock).await?;
        let inner = store.inner.clone();
        check_whole(&inner).await?;
        check_alone(&inner).await?;
        let before = signs(&inner).await?;
        Ok(Self { inner, _store: store, now, before, stage: Stage::Settings })
    }

    fn keys(&self, shard: u16) -> &ShardKeys {
        &self.inner.shards[usize::from(shard)]
    }

    async fn ask(&self, command: &redis::Cmd) -> Result<Value, StoreError> {
        self.inner.query.repeat(command).await.map_err(Fault::into_store)
    }

    async fn ask_all(&self, pipe: &Pipeline) -> Result<Vec<Value>, StoreError> {
        self.inner.query.repeat_all(pipe).await.map_err(Fault::into_store)
    }

    /// One step: some items, maybe none.
    async fn step(&mut self) -> Result<Vec<Item>, StoreError> {
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Settings => {
                self.stage = Stage::Lane { shard: 0, lane: 0, after: None };
                let (revision, records) = super::super::registry::config(&self.inner).await?;
                let settings = records.into_iter().map(|(key, value)| Item::Setting { key, value });
                let revision = (revision != Revision(0)).then_some(Item::Revision(revision));
                Ok(revision.into_iter().chain(settings).collect())
            }
            Stage::Lane { shard, .. } if usize::from(shard) >= self.inner.shards.len() => {
                self.stage = Stage::Jobs { shard: 0, cursor: 0 };
                Ok(Vec::new())
            }
            Stage::Lane { shard, lane, .. } if lane >= Lane::ALL.len() => {
                self.stage = Stage::Lane { shard: shard + 1, lane: 0, after: None };
                Ok(Vec::new())
            }
            Stage::Lane { shard, lane, after } => self.lane(shard, lane, after).await,
            Stage::Jobs { shard, .. } if usize::from(shard) >= self.inner.shards.len() => {
                let masters = self.inner.query.masters().await.map_err(Fault::into_store)?;
                self.stage = Stage::Keys { masters, cursor: 0, names: VecDeque::new(), is_last: false };
                Ok(Vec::new())
            }
            Stage::Jobs { shard, cursor } => self.jobs(shard, cursor).await,
            Stage::Keys { masters, cursor, names, is_last } => self.names(masters, cursor, names, is_last).await,
            Stage::Table { then, shard, tenant, plugins, cursor } => self.table(then, shard, tenant, plugins, cursor).await,
            Stage::Calls { then, shard, tenant, from } => self.calls(then, shard, tenant, from).await,
            Stage::Bookmarks { then, home, names } => self.bookmarks(then, home, names).await,
            Stage::Done => Ok(Vec::new()),
        }
    }

    async fn lane(&mut self, shard: u16, lane: usize, after: Option<Ticket>) -> Result<Vec<Item>, StoreError> {
        let (at, keys) = (Lane::ALL[lane], self.keys(shard).clone());
        let from = after.map_or_else(|| "-".to_owned(), |after| format!("({}", stream_id(after)));
        let mut ask = cmd("EVAL");
        ask.arg(LANE_PAGE).arg(1).arg(keys.lane(at)).arg(from).arg(PAGE_ITEMS).arg(PAGE_BYTES);
        let Value::Array(rows) = self.ask(&ask).await? else { return Err(odd("a page of a lane")) };
        let mut entries = Vec::with_capacity(rows.len());
        for row in rows {
            let (ticket, entry) = parse_entry(row, at).ok_or_else(|| odd("a lane entry"))?;
            let event = decode_event(&entry)
                .map_err(|error| StoreError::Damaged(format!("entry {} of lane {}: {error}", stream_id(ticket), at.as_str())))?;
            entries.push((ticket, event));
        }
        let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) else {
            self.stage = Stage::Lane { shard, lane: lane + 1, after: None };
            return Ok(Vec::new());
        };
        let (first, last) = (*first, *last);
        self.stage = Stage::Lane { shard, lane, after: Some(last) };
        let claims = self.claims(&keys, at, (first, last), entries.len()).await?;
        let mut known = self.history(&keys, entries.iter().map(|(_, event)| event.id).collect()).await?;
        let item = |(ticket, event): (Ticket, crate::event::Event)| {
            let Merged { finished, rows, .. } = known.remove(&event.id).unwrap_or_default();
            let claims = claims.get(&ticket).copied().unwrap_or(0);
            let finished = finished.is_some();
            Item::Event(Box::new(MovedEvent { shard: Shard(shard), lane: at, claims, finished, event, rows }))
        };
        Ok(entries.into_iter().map(item).collect())
    }

    /// How often those were claimed that are claimed and not finished.
    async fn claims(
        &self,
        keys: &ShardKeys,
        lane: Lane,
        (first, last): (Ticket, Ticket),
        count: usize,
    ) -> Result<HashMap<Ticket, u32>, StoreError> {
        let mut ask = cmd("XPENDING");
        ask.arg(keys.lane(lane)).arg("g").arg(stream_id(first)).arg(stream_id(last)).arg(count);
        let answer = match self.inner.query.repeat(&ask).await {
            Err(fault) if fault.is("NOGROUP") => return Ok(HashMap::new()),
            answer => answer.map_err(Fault::into_store)?,
        };
        let rows: Vec<(String, String, u64, u32)> = redis::from_redis_value(answer).map_err(|_| odd("XPENDING"))?;
        rows.into_iter()
            .map(|(id, _, _, claims)| Some((ticket(lane, id.as_bytes())?, claims)))
            .collect::<Option<_>>()
            .ok_or_else(|| odd("XPENDING"))
    }

    /// What history says of these events.
    async fn history(&self, keys: &ShardKeys, events: BTreeSet<EventId>) -> Result<HashMap<EventId, Merged>, StoreError> {
        let buckets: BTreeSet<u64> = events.iter().map(|event| bucket_of(*event)).collect();
        let mut known = HashMap::new();
        for bucket in buckets {
            let answer = self.ask(cmd("LRANGE").arg(keys.bucket(bucket)).arg(0).arg(-1)).await?;
            let pieces: Vec<Vec<u8>> = redis::from_redis_value(answer).map_err(|_| odd("a bucket of history"))?;
            known.extend(merge(&pieces, |event| events.contains(&event))?);
        }
        Ok(known)
    }

    async fn jobs(&mut self, shard: u16, cursor: u64) -> Result<Vec<Item>, StoreError> {
        let (next, fields) = self.fields(&self.keys(shard).jobs, cursor).await?;
        self.stage = if next == 0 { Stage::Jobs { shard: shard + 1, cursor: 0 } } else { Stage::Jobs { shard, cursor: next } };
        fields.chunks_exact(2).map(|pair| Ok(Item::Job(Box::new(job(Shard(shard), &pair[1])?)))).collect()
    }

    /// A page of a hash from a cursor on: the next cursor, and fields with their values.
    async fn fields(&self, hash: &str, cursor: u64) -> Result<(u64, Vec<Vec<u8>>), StoreError> {
        let mut ask = cmd("EVAL");
        ask.arg(HASH_PAGE).arg(1).arg(hash).arg(cursor).arg(PAGE_ITEMS).arg(PAGE_BYTES);
        redis::from_redis_value(self.ask(&ask).await?).map_err(|_| odd("a page of a hash"))
    }

    /// Reads the names of keys of one server after the other, and then what they hold.
    async fn names(
        &mut self,
        mut masters: Vec<Option<(String, u16)>>,
        mut cursor: u64,
        mut names: VecDeque<String>,
        is_last: bool,
    ) -> Result<Vec<Item>, StoreError> {
        let Some(name) = names.pop_front() else {
            if is_last {
                masters.pop();
                cursor = 0;
            }
            let Some(master) = masters.last() else { return Ok(Vec::new()) };
            let ask = cmd("SCAN").arg(cursor).arg("COUNT").arg(SCAN_KEYS).to_owned();
            let answer = self.inner.query.ask_at(master.as_ref(), &ask).await.map_err(Fault::into_store)?;
            let (next, found): (u64, Vec<Vec<u8>>) = redis::from_redis_value(answer).map_err(|_| odd("SCAN"))?;
            names.extend(found.into_iter().filter_map(|name| String::from_utf8(name).ok()));
            self.stage = Stage::Keys { masters, cursor: next, names, is_last: next == 0 };
            return Ok(Vec::new());
        };
        let stage = Stage::Keys { masters, cursor, names, is_last };
        let read = self.inner.names.read(&name);
        if let Some(KeyName::OfShard(shard, _)) = read
            && usize::from(shard.0) >= self.inner.shards.len()
        {
            return Err(StoreError::Refused(format!(
                "the store has a shard {}, and dispatch.shards is {}: set it to what the gateways have",
                shard.0,
                self.inner.shards.len()
            )));
        }
        match read {
            Some(KeyName::OfShard(shard, rest)) => match rest.split_once(':') {
                Some(("ku", tenant)) => {
                    let tenant = id(tenant).map(TenantId).ok_or_else(|| odd("a tenant's name"))?;
                    let answer = self.ask(cmd("HKEYS").arg(self.keys(shard.0).table_use(tenant))).await?;
                    let fields: Vec<String> = redis::from_redis_value(answer).map_err(|_| odd("a tenant's tables"))?;
                    let plugins = fields.iter().filter(|field| field.len() == 32).filter_map(|field| id(field).map(PluginId));
                    let plugins = plugins.collect();
                    self.stage = Stage::Table { then: Box::new(stage), shard, tenant, plugins, cursor: 0 };
                    Ok(Vec::new())
                }
                Some(("km", tenant)) => {
                    let tenant = id(tenant).map(TenantId).ok_or_else(|| odd("a tenant's name"))?;
                    self.stage = Stage::Calls { then: Box::new(stage), shard, tenant, from: 0 };
                    Ok(Vec::new())
                }
                Some(("bm", tenant)) => {
                    let home = Home { shard, tenant: id(tenant).map(TenantId).ok_or_else(|| odd("a tenant's name"))? };
                    let names = bookmark::list(&self.inner, home).await?.into_iter().map(|(name, _)| name).collect();
                    self.stage = Stage::Bookmarks { then: Box::new(stage), home, names };
                    Ok(Vec::new())
                }
                other => {
                    self.stage = stage;
                    match other {
                        Some(("dd", key)) => self.dedup(shard, key, &name).await,
                        Some(("pu", tenant)) => self.purged(shard, tenant, &name).await,
                        _ => Ok(Vec::new()),
                    }
                }
            },
            other => {
                self.stage = stage;
                match other {
                    Some(KeyName::Component(version)) => self.component(version, &name).await,
                    Some(KeyName::Memory(key)) => self.remembered(key, &name).await,
                    Some(KeyName::Said(topic)) => self.said(topic, &name).await,
                    _ => Ok(Vec::new()),
                }
            }
        }
    }

    async fn component(&self, version: &str, name: &str) -> Result<Vec<Item>, StoreError> {
        let version = version.parse().map_err(|_| odd("a component's name"))?;
        let Value::BulkString(component) = self.ask(cmd("GET").arg(name)).await? else { return Ok(Vec::new()) };
        Ok(vec![Item::Component { version, component: component.into() }])
    }

    /// A value with the time at which it ends; none if it has.
    async fn ending(&self, name: &str) -> Result<Option<(Vec<u8>, Timestamp)>, StoreError> {
        let mut ask = Pipeline::new();
        ask.cmd("GET").arg(name).cmd("PTTL").arg(name);
        let answers = self.ask_all(&ask).await?;
        let [Value::BulkString(value), Value::Int(left)] = &answers[..] else { return Ok(None) };
        let Ok(left) = u64::try_from(*left) else { return Ok(None) };
        Ok(Some((value.clone(), Timestamp(self.now.0.saturating_add(left)))))
    }

    async fn remembered(&self, key: &str, name: &str) -> Result<Vec<Item>, StoreError> {
        let found = self.ending(name).await?;
        let item = |(value, until): (Vec<u8>, _)| Item::Remembered { key: key.to_owned(), value: value.into(), until };
        Ok(found.map(item).into_iter().collect())
    }

    async fn said(&self, topic: &str, name: &str) -> Result<Vec<Item>, StoreError> {
        let said: Vec<(String, Vec<u8>)> =
            redis::from_redis_value(self.ask(cmd("HGETALL").arg(name)).await?).map_err(|_| odd("what nodes say"))?;
        let mut items = Vec::new();
        for (node, value) in said {
            let colon = value.iter().position(|byte| *byte == b':').ok_or_else(|| odd("what a node says"))?;
            let until = std::str::from_utf8(&value[..colon]).ok().and_then(|until| until.parse().ok()).map(Timestamp);
            let until = until.ok_or_else(|| odd("what a node says"))?;
            if until > self.now {
                let value = Bytes::copy_from_slice(&value[colon + 1..]);
                items.push(Item::Said { topic: topic.to_owned(), node, value, until });
            }
        }
        Ok(items)
    }

    async fn dedup(&self, shard: Shard, key: &str, name: &str) -> Result<Vec<Item>, StoreError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(key, &mut bytes).map_err(|_| odd("a dedup key"))?;
        let Some((event, until)) = self.ending(name).await? else { return Ok(Vec::new()) };
        let event: [u8; 16] = event.try_into().map_err(|_| odd("a dedup key's event"))?;
        let event = EventId(u128::from_be_bytes(event));
        let tenant = self.tenant_of(shard, event).await?;
        Ok(vec![Item::Dedup(MovedDedup { shard: Some(shard), tenant, key: bytes, event, until })])
    }

    /// Whose event it is: as history says, or the index of somebody who has something queued.
    async fn tenant_of(&self, shard: Shard, event: EventId) -> Result<Option<TenantId>, StoreError> {
        let keys = self.keys(shard.0);
        let known = self.history(keys, [event].into()).await?;
        if let Some(tenant) = known.get(&event).and_then(|merged| merged.tenant) {
            return Ok(Some(tenant));
        }
        let names: Vec<String> =
            redis::from_redis_value(self.ask(cmd("HKEYS").arg(&keys.queued_bytes)).await?).map_err(|_| odd("its tenants"))?;
        let tenants: Vec<TenantId> = names.iter().filter_map(|name| id(name).map(TenantId)).collect();
        for tenants in tenants.chunks(ASK_TENANTS) {
            let mut ask = Pipeline::new();
            for tenant in tenants {
                ask.add_command(pages_of(&keys.index(*tenant), bucket_of(event)));
            }
            for (tenant, pages) in tenants.iter().zip(self.ask_all(&ask).await?) {
                let pages: Vec<Vec<u8>> = redis::from_redis_value(pages).map_err(|_| odd("a tenant's index"))?;
                for page in pages {
                    if read_page(&page)?.iter().any(|listed| listed.event == event) {
                        return Ok(Some(*tenant));
                    }
                }
            }
        }
        Ok(None)
    }

    async fn purged(&self, shard: Shard, tenant: &str, name: &str) -> Result<Vec<Item>, StoreError> {
        let tenant = id(tenant).map(TenantId).ok_or_else(|| odd("a tenant's name"))?;
        let fields: BTreeMap<String, u64> =
            redis::from_redis_value(self.ask(cmd("HGETALL").arg(name)).await?).map_err(|_| odd("a purge's counts"))?;
        let field = |name: &str| fields.get(name).copied().unwrap_or(0);
        let (events, given_up, dead_letters) = (field("events"), field("given_up"), field("dead_letters"));
        let purged = Purged { events, given_up, dead_letters, done: field("done") == 1 };
        Ok(vec![Item::Purged { shard, tenant, purged }])
    }

    async fn table(
        &mut self,
        then: Box<Stage>,
        shard: Shard,
        tenant: TenantId,
        mut plugins: Vec<PluginId>,
        cursor: u64,
    ) -> Result<Vec<Item>, StoreError> {
        let Some(plugin) = plugins.last().copied() else {
            self.stage = *then;
            return Ok(Vec::new());
        };
        let base = &self.keys(shard.0).base;
        let (tenant_name, plugin_name) = (format!("{:032x}", tenant.0), format!("{:032x}", plugin.0));
        let rows = format!("{base}kv:{tenant_name}:{plugin_name}");
        let ends = format!("{base}kx:{tenant_name}");
        let (next, fields) = self.fields(&rows, cursor).await?;
        let mut ask = Pipeline::new();
        for pair in fields.chunks_exact(2) {
            ask.cmd("ZSCORE").arg(&ends).arg([plugin_name.as_bytes(), &pair[0]].concat());
        }
        let answers = self.ask_all(&ask).await?;
        if next == 0 {
            plugins.pop();
        }
        self.stage = Stage::Table { then, shard, tenant, plugins, cursor: next };
        let mut items = Vec::new();
        for (pair, until) in fields.chunks_exact(2).zip(answers) {
            let until: Option<f64> = redis::from_redis_value(until).map_err(|_| odd("a table's end"))?;
            let until = until.map(|until| Timestamp(until as u64));
            if until.is_some_and(|until| until <= self.now) {
                continue;
            }
            let key = String::from_utf8(pair[0].clone()).map_err(|_| odd("a table's key"))?;
            let value = Bytes::copy_from_slice(&pair[1]);
            items.push(Item::Cell(MovedCell { shard, tenant, plugin, key, value, until }));
        }
        Ok(items)
    }

    /// One at a time: a copy is as large as an event.
    async fn bookmarks(&mut self, then: Box<Stage>, home: Home, mut names: Vec<BookmarkName>) -> Result<Vec<Item>, StoreError> {
        let Some(name) = names.pop() else {
            self.stage = *then;
            return Ok(Vec::new());
        };
        let found = bookmark::find(&self.inner, home, &name).await?;
        self.stage = Stage::Bookmarks { then, home, names };
        let Home { tenant, shard } = home;
        let item = |Bookmark { head, event }| Item::Bookmark(Box::new(MovedBookmark { shard, tenant, name, head, event }));
        Ok(found.map(item).into_iter().collect())
    }

    async fn calls(&mut self, then: Box<Stage>, shard: Shard, tenant: TenantId, from: i64) -> Result<Vec<Item>, StoreError> {
        let base = &self.keys(shard.0).base;
        let (calls, answered) = (format!("{base}km:{:032x}", tenant.0), format!("{base}ka:{:032x}", tenant.0));
        let page = PAGE_ITEMS as i64;
        let ask = cmd("ZRANGE").arg(calls).arg(from).arg(from + page - 1).arg("WITHSCORES").to_owned();
        let names: Vec<(Vec<u8>, f64)> = redis::from_redis_value(self.ask(&ask).await?).map_err(|_| odd("calls to tables"))?;
        self.stage = if names.is_empty() { *then } else { Stage::Calls { then, shard, tenant, from: from + page } };
        let mut ask = Pipeline::new();
        for (name, _) in &names {
            ask.cmd("HGET").arg(&answered).arg(&name[..]);
        }
        let mut items = Vec::new();
        for ((name, at), words) in names.into_iter().zip(self.ask_all(&ask).await?) {
            let words: Option<String> = redis::from_redis_value(words).map_err(|_| odd("a call to a table"))?;
            let name = name.try_into().map_err(|_| odd("the name of a call to a table"))?;
            let Some(words) = words else { continue };
            let words = words.split_whitespace().map(str::to_owned).collect();
            items.push(Item::Call(MovedCall { shard, tenant, at: Timestamp(at as u64), name, words }));
        }
        Ok(items)
    }
}

#[async_trait]
impl Outgoing for Export {
    async fn next(&mut self) -> Result<Option<Vec<Item>>, StoreError> {
        loop {
            let items = self.step().await?;
            if !items.is_empty() {
                return Ok(Some(items));
            }
            if matches!(self.stage, Stage::Done) {
                return Ok(None);
            }
        }
    }

    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        check_alone(&self.inner).await?;
        if signs(&self.inner).await? != self.before {
            return Err(StoreError::Refused("somebody wrote to the store while it was read: stop all gateways first".into()));
        }
        Ok(())
    }
}

/// Reads a stored job with its place.
fn job(shard: Shard, value: &[u8]) -> Result<MovedJob, StoreError> {
    let odd = || StoreError::Damaged("a job's place".into());
    let (place, record) = split(value)?;
    let (Stored { job, dead }, last): (Stored, Option<Attempt>) = decode_with(record)?;
    let (kind, rest) = place.split_first().ok_or_else(odd)?;
    // How often it was restored stands last.
    let place = match kind {
        b'r' => {
            let due = text(rest)?.split('|').next().ok_or_else(odd)?;
            MovedPlace::Scheduled(Timestamp(due.parse().map_err(|_| odd())?))
        }
        b'q' => {
            let parts: Vec<_> = text(rest)?.split('|').collect();
            let [seq, queue, ..] = parts[..] else { return Err(odd()) };
            MovedPlace::Parked(parse_queue(queue).ok_or_else(odd)?, seq.parse().map_err(|_| odd())?)
        }
        b'o' => {
            let parts: Vec<_> = text(rest)?.split('|').collect();
            let [due, queue, line, place, ..] = parts[..] else { return Err(odd()) };
            MovedPlace::Lined {
                queue: parse_queue(queue).ok_or_else(odd)?,
                line: u128::from_str_radix(line, 16).map_err(|_| odd())?,
                place: place.parse().map_err(|_| odd())?,
                due: Timestamp(due.parse().map_err(|_| odd())?),
            }
        }
        _ => {
            let (at, reason) = dead.ok_or_else(odd)?;
            MovedPlace::Dead { at, reason, last }
        }
    };
    Ok(MovedJob { shard, place, job })
}

fn text(bytes: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(bytes).map_err(|_| StoreError::Damaged("a job's place".into()))
}

fn id(name: &str) -> Option<u128> {
    u128::from_str_radix(name, 16).ok()
}
