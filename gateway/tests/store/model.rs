//! The simplest store that keeps the contract: plain maps behind one lock, nothing durable. The engines are compared with it.

mod table;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidegate::clock::{Clock, Timestamp};
use tidegate::event::{Attempt, DeliveryId, Event, EventId, Failure, Lane, PluginId, Revision, Shard, TenantId, VersionHash};
use tidegate::store::{
    Acceptance, Accepted, Bookmark, BookmarkHead, BookmarkLimits, BookmarkName, Bookmarked, Budget, Burial, Claimed, ConfigChange,
    DeadLetter, DeliveryRecord, DeliveryState, Depth, EventHistory, EventSummary, Heads, Home, Job, LaneDepth, Lease, Line,
    MAX_PAGE, Once, Origin, Page, PageRequest, Purged, PutBack, QueueKey, Record, Retention, SUSPECT, Store, StoreError, Suspects,
    Table, TableEntry, TableKey, TableOp, TablePage, TableResult, TableUse, Ticket, Trimmed, Unparked, Work,
};
use tokio::sync::Notify;

/// The model. Its clock is the store's clock.
pub(crate) struct Model {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    shards: BTreeMap<Shard, Sharded>,
    dedup: BTreeMap<(TenantId, [u8; 32]), (EventId, Timestamp)>,
    revision: Revision,
    config: BTreeMap<String, Bytes>,
    components: BTreeMap<VersionHash, Bytes>,
    remembered: BTreeMap<String, (Bytes, Timestamp)>,
    said: BTreeMap<(String, String), (Bytes, Timestamp)>,
    signals: BTreeMap<Shard, Arc<Notify>>,
    purged: BTreeMap<(TenantId, Shard), Purged>,
    tables: table::Tables,
    bookmarks: BTreeMap<(TenantId, Shard), BTreeMap<BookmarkName, Bookmark>>,
}

#[derive(Default)]
struct Sharded {
    owner: Option<Owner>,
    epoch: u64,
    /// Orders entries, and jobs within their queue.
    next: u64,
    entries: BTreeMap<Ticket, Entry>,
    finished: BTreeMap<Lane, u64>,
    events: BTreeMap<EventId, Kept>,
    jobs: BTreeMap<DeliveryId, Waiting>,
}

struct Owner {
    node: String,
    lease: Lease,
    until: Timestamp,
}

struct Entry {
    event: EventId,
    claims: u32,
    progress: Vec<DeliveryRecord>,
}

struct Kept {
    event: Event,
    lane: Lane,
    finished: bool,
    rows: Vec<DeliveryRecord>,
    /// Everything recorded, to know what is sent twice.
    log: Vec<DeliveryRecord>,
}

impl Kept {
    fn is_terminal(&self) -> bool {
        self.finished && self.rows.iter().all(|row| row.state.is_terminal())
    }

    fn summary(&self) -> EventSummary {
        EventSummary {
            id: self.event.id,
            source: self.event.source,
            accepted_at: self.event.accepted_at,
            lane: self.lane,
            deliveries: self.rows.clone(),
            finished: self.finished,
        }
    }

    fn merge(&mut self, record: &DeliveryRecord) {
        self.log.push(record.clone());
        let mut next = DeliveryRecord { job: None, ..record.clone() };
        if let DeliveryState::Parked { queue, .. } = &mut next.state {
            *queue = None;
        }
        match self.rows.iter_mut().find(|row| row.id == next.id) {
            None => self.rows.push(next),
            Some(row) => {
                next.attempts.splice(0..0, row.attempts.drain(..));
                next.runs.splice(0..0, row.runs.drain(..));
                *row = next;
            }
        }
    }
}

struct Waiting {
    job: Job,
    place: Place,
    taken: bool,
    /// How often it was handed out.
    claims: u32,
}

#[derive(Clone)]
enum Place {
    Scheduled(Timestamp),
    Parked(QueueKey, u64),
    Dead {
        at: Timestamp,
        reason: Failure,
        last: Option<Attempt>,
    },
    /// When it is due, and the number of its event and output in it.
    Lined {
        queue: QueueKey,
        line: Line,
        due: Timestamp,
        number: (u64, u32),
    },
}

impl Place {
    /// What orders a line: the line, and the job's place in it.
    fn in_line(&self) -> Option<((QueueKey, u128), (u64, u32))> {
        match self {
            Self::Lined { queue, line, number, .. } => Some(((*queue, line.key), *number)),
            _ => None,
        }
    }
}

impl Model {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn owned(&mut self, lease: &Lease) -> Result<&mut Sharded, StoreError> {
        let shard = self.shards.entry(lease.shard).or_default();
        match &shard.owner {
            Some(owner) if owner.lease.epoch == lease.epoch && owner.lease.incarnation == lease.incarnation => Ok(shard),
            _ => Err(StoreError::Fenced(lease.shard)),
        }
    }
}

impl Sharded {
    /// Hands out the jobs of `ids` while the budget lasts.
    fn take(&mut self, shard: Shard, ids: Vec<DeliveryId>, budget: Budget) -> Result<Vec<Job>, StoreError> {
        let mut left = Left::of(budget);
        let mut jobs = Vec::new();
        for id in ids {
            let waiting = self.jobs.get_mut(&id).unwrap();
            let is_suspect = waiting.claims + 1 >= SUSPECT;
            if is_suspect && jobs.is_empty() && budget.suspects == Suspects::Left {
                return Err(StoreError::Suspect(shard));
            }
            if (is_suspect && !jobs.is_empty()) || !left.takes(waiting.job.size()) {
                break;
            }
            waiting.taken = true;
            waiting.claims += 1;
            jobs.push(Job { claims: waiting.claims, ..waiting.job.clone() });
            if is_suspect {
                break;
            }
        }
        Ok(jobs)
    }

    /// Whether the record's origin is in the owner's hands and the record is new.
    fn applies(&self, record: &Record) -> bool {
        let known = |delivery: &DeliveryRecord| self.events.get(&record.event).is_some_and(|kept| kept.log.contains(delivery));
        let all_known = !record.deliveries.is_empty() && record.deliveries.iter().all(known);
        match record.origin {
            Origin::Entry(ticket) => self.entries.get(&ticket).is_some_and(|entry| entry.claims > 0) && !all_known,
            Origin::Job(id) => {
                let Some(waiting) = self.jobs.get(&id).filter(|waiting| waiting.taken) else { return false };
                let own = record.deliveries.iter().find(|delivery| delivery.id == id);
                let last = own.and_then(|delivery| delivery.attempts.iter().map(|attempt| attempt.number).max());
                last.is_none_or(|number| number > waiting.job.attempts) && (record.finished || !all_known)
            }
        }
    }

    fn record(&mut self, record: &Record) {
        if !self.applies(record) {
            return;
        }
        match record.origin {
            Origin::Entry(ticket) if record.finished => {
                self.entries.remove(&ticket);
                *self.finished.entry(ticket.lane).or_default() += 1;
            }
            Origin::Entry(ticket) => {
                self.entries.get_mut(&ticket).unwrap().progress.extend(record.deliveries.iter().cloned());
            }
            Origin::Job(id) if record.finished => drop(self.jobs.remove(&id)),
            Origin::Job(_) => {}
        }
        for delivery in &record.deliveries {
            self.place(delivery);
        }
        let Some(kept) = self.events.get_mut(&record.event) else { return };
        for delivery in &record.deliveries {
            kept.merge(delivery);
        }
        match record.origin {
            Origin::Entry(_) => kept.finished |= record.finished,
            Origin::Job(id) => {
                if record.finished && record.deliveries.iter().all(|delivery| delivery.id != id) {
                    kept.rows.retain(|row| row.id != id);
                }
            }
        }
    }

    fn place(&mut self, delivery: &DeliveryRecord) {
        self.next += 1;
        let place = match &delivery.state {
            _ if delivery.lined().is_some() => {
                let (queue, line, due) = delivery.lined().unwrap();
                Place::Lined { queue, line, due, number: (line.place.unwrap_or(self.next), delivery.output) }
            }
            DeliveryState::Scheduled { due } => Place::Scheduled(*due),
            DeliveryState::Parked { queue, .. } => Place::Parked(queue.unwrap(), self.next),
            DeliveryState::DeadLettered { reason } => {
                Place::Dead { at: delivery.at, reason: reason.clone(), last: delivery.last_attempt() }
            }
            _ => return,
        };
        let job = Job { line: None, claims: 0, ..Job::clone(delivery.job.as_ref().unwrap()) };
        self.jobs.insert(job.id, Waiting { job, place, taken: false, claims: 0 });
    }

    fn dead(&self, tenant: TenantId) -> impl Iterator<Item = DeadLetter> {
        self.jobs.values().filter_map(move |waiting| match &waiting.place {
            Place::Dead { at, reason, last } if waiting.job.tenant() == tenant => {
                Some(DeadLetter { job: waiting.job.clone(), at: *at, reason: reason.clone(), last: last.clone() })
            }
            _ => None,
        })
    }

    fn queued_bytes(&self, tenant: TenantId) -> u64 {
        let entries = self.entries.values().map(|entry| &self.events[&entry.event].event);
        let entries = entries.filter(|event| event.tenant == tenant).map(|event| event.request.size());
        let waits = |waiting: &&Waiting| !matches!(waiting.place, Place::Dead { .. }) && waiting.job.tenant() == tenant;
        let jobs = self.jobs.values().filter(waits).map(|waiting| waiting.job.size());
        entries.chain(jobs).sum::<usize>() as u64
    }

    fn lane(&self, lane: Lane) -> LaneDepth {
        let entries: Vec<_> = self.entries.iter().filter(|(ticket, _)| ticket.lane == lane).collect();
        let oldest = entries.iter().map(|(_, entry)| self.events[&entry.event].event.accepted_at).min();
        LaneDepth { lane, entries: entries.len() as u64, oldest, finished: self.finished.get(&lane).copied().unwrap_or(0) }
    }
}

/// What a budget still allows.
struct Left {
    count: usize,
    bytes: usize,
    first: bool,
}

impl Left {
    fn of(budget: Budget) -> Self {
        Self { count: budget.count, bytes: budget.bytes, first: true }
    }

    fn takes(&mut self, bytes: usize) -> bool {
        if self.count == 0 || (bytes > self.bytes && !self.first) {
            return false;
        }
        self.count -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.first = false;
        true
    }
}

fn check(batch: &[Record]) -> Result<(), StoreError> {
    let lacks = |delivery: &DeliveryRecord| match &delivery.state {
        DeliveryState::Scheduled { .. } | DeliveryState::DeadLettered { .. } => delivery.job.is_none(),
        DeliveryState::Parked { queue, .. } => delivery.job.is_none() || queue.is_none(),
        _ => false,
    };
    match batch.iter().flat_map(|record| &record.deliveries).any(lacks) {
        true => Err(StoreError::Refused("work without its job or queue".into())),
        false => Ok(()),
    }
}

fn page_of<T, P: Copy + Ord>(mut rows: Vec<(P, T)>, page: PageRequest<P>) -> Page<T, P> {
    rows.sort_by(|(a, _), (b, _)| b.cmp(a));
    rows.retain(|(place, _)| page.before.is_none_or(|before| *place < before));
    let limit = page.limit.clamp(1, MAX_PAGE);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|(place, _)| *place);
    Page { items: rows.into_iter().map(|(_, row)| row).collect(), next }
}

#[async_trait]
impl Store for Model {
    async fn accept(&self, batch: Vec<Acceptance>) -> Result<Vec<Accepted>, StoreError> {
        let now = self.clock.now();
        let mut state = self.state();
        let mut answers = Vec::new();
        let homes: Vec<_> = batch.iter().map(|one| Home { tenant: one.event.event().tenant, shard: one.shard }).collect();
        for Acceptance { event, shard, lane, dedup } in batch {
            let event = event.event().clone();
            if let Some(dedup) = dedup {
                let key = (event.tenant, dedup.key);
                if let Some((first, _)) = state.dedup.get(&key).filter(|(_, until)| now < *until) {
                    answers.push(Accepted::Duplicate(*first));
                    continue;
                }
                state.dedup.insert(key, (event.id, now.after(dedup.window)));
            }
            let sharded = state.shards.entry(shard).or_default();
            sharded.next += 1;
            let ticket = Ticket { lane, major: sharded.next, minor: 0 };
            sharded.entries.insert(ticket, Entry { event: event.id, claims: 0, progress: Vec::new() });
            sharded.events.insert(event.id, Kept { event, lane, finished: false, rows: Vec::new(), log: Vec::new() });
            state.signals.entry(shard).or_default().notify_one();
            answers.push(Accepted::New { queued: 0 });
        }
        for (answer, home) in answers.iter_mut().zip(homes) {
            if let Accepted::New { queued } = answer {
                *queued = state.shards[&home.shard].queued_bytes(home.tenant);
            }
        }
        Ok(answers)
    }

    async fn acquire(&self, shard: Shard, node: &str, ttl: Duration) -> Result<Option<Lease>, StoreError> {
        let now = self.clock.now();
        let mut state = self.state();
        let sharded = state.shards.entry(shard).or_default();
        if sharded.owner.as_ref().is_some_and(|owner| owner.node != node && now < owner.until) {
            return Ok(None);
        }
        sharded.epoch += 1;
        let lease = Lease { shard, epoch: sharded.epoch, incarnation: rand::random(), ttl };
        sharded.owner = Some(Owner { node: node.into(), lease: lease.clone(), until: now.after(ttl) });
        sharded.jobs.values_mut().for_each(|waiting| waiting.taken = false);
        Ok(Some(lease))
    }

    async fn renew(&self, lease: &Lease) -> Result<(), StoreError> {
        let until = self.clock.now().after(lease.ttl);
        self.state().owned(lease)?.owner.as_mut().unwrap().until = until;
        Ok(())
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.state().owned(lease)?.owner = None;
        Ok(())
    }

    async fn claim(&self, lease: &Lease, lane: Lane, budget: Budget) -> Result<Vec<Claimed>, StoreError> {
        let mut state = self.state();
        let Sharded { entries, events, .. } = state.owned(lease)?;
        let mut left = Left::of(budget);
        let mut claimed = Vec::new();
        for (ticket, entry) in entries.iter_mut().filter(|(ticket, entry)| ticket.lane == lane && entry.claims == 0) {
            let event = events[&entry.event].event.clone();
            if !left.takes(event.request.size()) {
                break;
            }
            entry.claims = 1;
            claimed.push(Claimed { ticket: *ticket, event, claims: 1, progress: Vec::new() });
        }
        Ok(claimed)
    }

    async fn reclaim(&self, lease: &Lease, held: &HashSet<Ticket>, budget: Budget) -> Result<Vec<Claimed>, StoreError> {
        let mut state = self.state();
        let Sharded { entries, events, .. } = state.owned(lease)?;
        let mut left = Left::of(budget);
        let mut claimed = Vec::new();
        for (ticket, entry) in entries.iter_mut().filter(|(ticket, entry)| entry.claims > 0 && !held.contains(ticket)) {
            let event = events[&entry.event].event.clone();
            let is_suspect = entry.claims + 1 >= SUSPECT;
            if is_suspect && claimed.is_empty() && budget.suspects == Suspects::Left {
                return Err(StoreError::Suspect(lease.shard));
            }
            if (is_suspect && !claimed.is_empty()) || !left.takes(event.request.size()) {
                break;
            }
            entry.claims += 1;
            claimed.push(Claimed { ticket: *ticket, event, claims: entry.claims, progress: entry.progress.clone() });
            if is_suspect {
                break;
            }
        }
        Ok(claimed)
    }

    async fn due(&self, lease: &Lease, now: Timestamp, budget: Budget) -> Result<Vec<Job>, StoreError> {
        let mut state = self.state();
        let sharded = state.owned(lease)?;
        let mut ids: Vec<_> = sharded
            .jobs
            .values()
            .filter_map(|waiting| match waiting.place {
                Place::Scheduled(due) if due <= now && !waiting.taken => Some((due, waiting.job.id)),
                _ => None,
            })
            .collect();
        ids.sort();
        sharded.take(lease.shard, ids.into_iter().map(|(_, id)| id).collect(), budget)
    }

    async fn next_due(&self, lease: &Lease) -> Result<Option<Timestamp>, StoreError> {
        let mut state = self.state();
        let due = |waiting: &Waiting| match waiting.place {
            Place::Scheduled(due) if !waiting.taken => Some(due),
            _ => None,
        };
        Ok(state.owned(lease)?.jobs.values().filter_map(due).min())
    }

    async fn queues(&self, lease: &Lease) -> Result<Vec<(QueueKey, u64)>, StoreError> {
        let mut state = self.state();
        let mut queues = BTreeMap::new();
        for waiting in state.owned(lease)?.jobs.values().filter(|waiting| !waiting.taken) {
            if let Place::Parked(queue, _) | Place::Lined { queue, .. } = waiting.place {
                *queues.entry(queue).or_default() += 1;
            }
        }
        Ok(queues.into_iter().collect())
    }

    async fn unpark(&self, lease: &Lease, queue: QueueKey, budget: Budget) -> Result<Unparked, StoreError> {
        let mut state = self.state();
        let sharded = state.owned(lease)?;
        let mut ids: Vec<_> = sharded
            .jobs
            .values()
            .filter_map(|waiting| match waiting.place {
                Place::Parked(key, order) if key == queue && !waiting.taken => Some((order, waiting.job.id)),
                _ => None,
            })
            .collect();
        ids.sort();
        let jobs = sharded.take(lease.shard, ids.into_iter().map(|(_, id)| id).collect(), budget)?;
        Ok(Unparked { jobs, unreadable: 0 })
    }

    async fn heads(&self, lease: &Lease, queue: QueueKey, now: Timestamp, budget: Budget) -> Result<Heads, StoreError> {
        let mut state = self.state();
        let sharded = state.owned(lease)?;
        let mut fronts = BTreeMap::new();
        for waiting in sharded.jobs.values() {
            if let (Some((line, number)), Place::Lined { due, .. }) = (waiting.place.in_line(), &waiting.place)
                && line.0 == queue
            {
                let front = fronts.entry(line).or_insert((number, *due, waiting.job.id));
                *front = (*front).min((number, *due, waiting.job.id));
            }
        }
        let free = fronts.into_values().filter(|(.., id)| !sharded.jobs[id].taken);
        let mut fronts: Vec<_> = free.map(|(_, due, id)| (due, id)).collect();
        fronts.sort_by_key(|(due, _)| *due);
        let ready = fronts.iter().take_while(|(due, _)| *due <= now).map(|(_, id)| *id).collect();
        let mut jobs = sharded.take(lease.shard, ready, budget)?;
        for job in &mut jobs {
            if let Place::Lined { line, due, number, .. } = sharded.jobs[&job.id].place {
                job.line = Some(Line { place: Some(number.0), due, ..line });
            }
        }
        let next = fronts.get(jobs.len()).map(|(due, _)| *due);
        Ok(Heads { jobs, next, unreadable: 0 })
    }

    async fn put_back(&self, lease: &Lease, jobs: &[PutBack]) -> Result<(), StoreError> {
        let mut state = self.state();
        let sharded = state.owned(lease)?;
        for job in jobs {
            let Some(waiting) = sharded.jobs.get_mut(&job.id).filter(|waiting| waiting.taken) else { continue };
            match &mut waiting.place {
                Place::Lined { due, .. } if *due == job.from => *due = job.due,
                Place::Parked(..) => {}
                _ => continue,
            }
            (waiting.taken, waiting.claims) = (false, 0);
        }
        Ok(())
    }

    async fn record(&self, lease: &Lease, batch: &[Record]) -> Result<(), StoreError> {
        let mut state = self.state();
        let sharded = state.owned(lease)?;
        check(batch)?;
        batch.iter().for_each(|record| sharded.record(record));
        Ok(())
    }

    async fn trim(&self, lease: &Lease, retention: Retention, now: Timestamp) -> Result<Trimmed, StoreError> {
        let mut state = self.state();
        let sharded = state.owned(lease)?;
        let size = |kept: &Kept| kept.event.request.size() as u64;
        let mut history: u64 = sharded.events.values().filter(|kept| kept.is_terminal()).map(size).sum();
        let mut trimmed = Trimmed::default();
        sharded.events.retain(|_, kept| {
            let old = now.since(kept.event.accepted_at) > retention.age || history > retention.bytes;
            if kept.is_terminal() && old {
                history -= size(kept);
                trimmed.events += 1;
                return false;
            }
            true
        });
        sharded.jobs.retain(|_, waiting| match waiting.place {
            Place::Dead { at, .. } if now.since(at) > retention.dead_letter_age => {
                trimmed.dead_letters += 1;
                false
            }
            _ => true,
        });
        state.tables.trim(lease.shard, now);
        Ok(trimmed)
    }

    async fn purge(&self, lease: &Lease, tenant: TenantId) -> Result<Purged, StoreError> {
        let mut state = self.state();
        let mut purged = state.purged.get(&(tenant, lease.shard)).copied().unwrap_or_default();
        state.owned(lease)?;
        let mut is_clean = state.tables.drop_tables(Home { tenant, shard: lease.shard }, None) == 0;
        is_clean &= state.bookmarks.remove(&(tenant, lease.shard)).is_none();
        let Sharded { events, jobs, .. } = state.owned(lease)?;
        jobs.retain(|_, waiting| {
            if waiting.job.tenant() != tenant {
                return true;
            }
            is_clean = false;
            match &waiting.place {
                _ if waiting.taken => return true,
                Place::Dead { reason, .. } if reason.code != Failure::TENANT_DELETED => purged.dead_letters += 1,
                _ => purged.given_up += 1,
            }
            false
        });
        events.retain(|id, kept| {
            if kept.event.tenant != tenant {
                return true;
            }
            is_clean = false;
            let goes = kept.finished && jobs.values().all(|waiting| waiting.job.event() != *id);
            purged.events += u64::from(goes);
            !goes
        });
        purged.done = is_clean;
        state.purged.insert((tenant, lease.shard), purged);
        Ok(purged)
    }

    async fn purged(&self, home: Home) -> Result<Option<Purged>, StoreError> {
        Ok(self.state().purged.get(&(home.tenant, home.shard)).copied())
    }

    fn signal(&self, shard: Shard) -> Arc<Notify> {
        self.state().signals.entry(shard).or_default().clone()
    }

    async fn queued_by_tenant(&self, shard: Shard) -> Result<Vec<(TenantId, u64)>, StoreError> {
        let mut state = self.state();
        let shard = state.shards.entry(shard).or_default();
        let entries = shard.entries.values().map(|entry| shard.events[&entry.event].event.tenant);
        let tenants: BTreeSet<TenantId> = entries.chain(shard.jobs.values().map(|waiting| waiting.job.tenant())).collect();
        let queued = tenants.into_iter().map(|tenant| (tenant, shard.queued_bytes(tenant)));
        Ok(queued.filter(|(_, bytes)| *bytes > 0).collect())
    }

    async fn queued_bytes(&self, home: Home) -> Result<u64, StoreError> {
        Ok(self.state().shards.entry(home.shard).or_default().queued_bytes(home.tenant))
    }

    async fn depth(&self, shard: Shard) -> Result<Depth, StoreError> {
        let mut state = self.state();
        let sharded = state.shards.entry(shard).or_default();
        let count = |wanted: fn(&Place) -> bool| sharded.jobs.values().filter(|waiting| wanted(&waiting.place)).count() as u64;
        Ok(Depth {
            lanes: Lane::ALL.map(|lane| sharded.lane(lane)).into(),
            scheduled: count(|place| matches!(place, Place::Scheduled(_))),
            parked: count(|place| matches!(place, Place::Parked(..) | Place::Lined { .. })),
            dead_letters: count(|place| matches!(place, Place::Dead { .. })),
        })
    }

    async fn event(&self, home: Home, id: EventId) -> Result<Option<EventHistory>, StoreError> {
        let mut state = self.state();
        let kept = state.shards.entry(home.shard).or_default().events.get(&id).filter(|kept| kept.event.tenant == home.tenant);
        Ok(kept.map(|kept| EventHistory { summary: kept.summary(), event: Some(kept.event.clone()) }))
    }

    async fn events(&self, home: Home, page: PageRequest<EventId>) -> Result<Page<EventSummary, EventId>, StoreError> {
        let mut state = self.state();
        let events = &state.shards.entry(home.shard).or_default().events;
        let rows = events.values().filter(|kept| kept.event.tenant == home.tenant).map(|kept| (kept.event.id, kept.summary()));
        Ok(page_of(rows.collect(), page))
    }

    async fn dead_letters(&self, home: Home, page: PageRequest<Burial>) -> Result<Page<DeadLetter, Burial>, StoreError> {
        let mut state = self.state();
        let rows = state.shards.entry(home.shard).or_default().dead(home.tenant);
        let rows = rows.map(|letter| (letter.place(), letter));
        Ok(page_of(rows.collect(), page))
    }

    async fn oldest_dead_letters(
        &self,
        home: Home,
        after: Option<Burial>,
        limit: usize,
    ) -> Result<Page<DeadLetter, Burial>, StoreError> {
        let mut state = self.state();
        let rows = state.shards.entry(home.shard).or_default().dead(home.tenant);
        let rows = rows.map(|letter| (Reverse(letter.place()), letter));
        let Page { items, next } = page_of(rows.collect(), PageRequest { before: after.map(Reverse), limit });
        Ok(Page { items, next: next.map(|Reverse(place)| place) })
    }

    async fn dead_letters_of(&self, home: Home, ids: &[DeliveryId]) -> Result<Vec<DeadLetter>, StoreError> {
        let mut state = self.state();
        let letters = state.shards.entry(home.shard).or_default().dead(home.tenant);
        Ok(letters.filter(|letter| ids.contains(&letter.job.id)).collect())
    }

    async fn retry_each(&self, home: Home, each: &[(DeliveryId, Timestamp)]) -> Result<u64, StoreError> {
        let mut state = self.state();
        let Sharded { events, jobs, .. } = state.shards.entry(home.shard).or_default();
        let mut moved = 0;
        for (id, due) in each {
            let Some(waiting) = jobs.get_mut(id).filter(|waiting| waiting.job.tenant() == home.tenant) else { continue };
            if !matches!(waiting.place, Place::Dead { .. }) {
                continue;
            }
            moved += 1;
            waiting.place = Place::Scheduled(*due);
            waiting.job = waiting.job.clone().afresh(*due);
            let row = events.get_mut(&waiting.job.event()).and_then(|kept| kept.rows.iter_mut().find(|row| row.id == *id));
            if let Some(row) = row {
                row.at = *due;
                row.state = DeliveryState::Scheduled { due: *due };
            }
        }
        state.signals.entry(home.shard).or_default().notify_one();
        Ok(moved)
    }

    async fn add(&self, home: Home, added: &[Job], now: Timestamp) -> Result<u64, StoreError> {
        let mut state = self.state();
        let Sharded { events, jobs, .. } = state.shards.entry(home.shard).or_default();
        let mut put = 0;
        for job in added.iter().filter(|job| job.tenant() == home.tenant) {
            let Some(kept) = events.get_mut(&job.event()).filter(|kept| kept.event.tenant == home.tenant) else { continue };
            if !kept.finished || jobs.contains_key(&job.id) || kept.rows.iter().any(|row| row.id == job.id) {
                continue;
            }
            put += 1;
            let connection = match &job.work {
                Work::Attempt(delivery) => Some(delivery.connection),
                Work::Plan { connection, .. } => *connection,
            };
            let (destination, output) = match &job.work {
                Work::Attempt(delivery) => (Some(delivery.destination), delivery.output),
                Work::Plan { .. } => (None, 0),
            };
            kept.rows.push(DeliveryRecord {
                id: job.id,
                connection,
                destination,
                output,
                at: now,
                state: DeliveryState::Scheduled { due: now },
                attempts: Vec::new(),
                runs: Vec::new(),
                job: None,
            });
            jobs.insert(job.id, Waiting { job: job.clone(), place: Place::Scheduled(now), taken: false, claims: 0 });
        }
        state.signals.entry(home.shard).or_default().notify_one();
        Ok(put)
    }

    async fn config(&self) -> Result<(Revision, Vec<(String, Bytes)>), StoreError> {
        let state = self.state();
        Ok((state.revision, state.config.clone().into_iter().collect()))
    }

    async fn config_revision(&self) -> Result<Revision, StoreError> {
        Ok(self.state().revision)
    }

    async fn configure(&self, expected: Revision, changes: Vec<ConfigChange>) -> Result<Revision, StoreError> {
        let mut state = self.state();
        if state.revision != expected {
            return Err(StoreError::Conflict(state.revision));
        }
        for (key, value) in changes {
            match value {
                Some(value) => state.config.insert(key, value),
                None => state.config.remove(&key),
            };
        }
        state.revision.0 += 1;
        Ok(state.revision)
    }

    async fn put_component(&self, version: VersionHash, component: Bytes) -> Result<(), StoreError> {
        self.state().components.insert(version, component);
        Ok(())
    }

    async fn component(&self, version: VersionHash) -> Result<Option<Bytes>, StoreError> {
        Ok(self.state().components.get(&version).cloned())
    }

    async fn remember(&self, key: &str, value: Bytes, ttl: Duration) -> Result<Option<Bytes>, StoreError> {
        let now = self.clock.now();
        let mut state = self.state();
        if let Some((value, _)) = state.remembered.get(key).filter(|(_, until)| now < *until) {
            return Ok(Some(value.clone()));
        }
        state.remembered.insert(key.into(), (value, now.after(ttl)));
        Ok(None)
    }

    async fn say(&self, topic: &str, node: &str, value: Bytes, ttl: Duration) -> Result<(), StoreError> {
        let until = self.clock.now().after(ttl);
        self.state().said.insert((topic.into(), node.into()), (value, until));
        Ok(())
    }

    async fn said(&self, topic: &str) -> Result<Vec<Bytes>, StoreError> {
        let now = self.clock.now();
        let state = self.state();
        let said = state.said.iter().filter(|((of, _), (_, until))| of == topic && now < *until);
        Ok(said.map(|(_, (value, _))| value.clone()).collect())
    }

    async fn table(
        &self,
        table: Table,
        once: Option<Once>,
        ops: &[(TableKey, TableOp)],
        quota: u64,
        now: Timestamp,
    ) -> Result<Vec<TableResult>, StoreError> {
        self.state().tables.call(table, once, ops, quota, now)
    }

    async fn table_page(&self, table: Table, page: &TablePage, now: Timestamp) -> Result<Page<TableEntry, TableKey>, StoreError> {
        Ok(self.state().tables.page(table, page, now))
    }

    async fn table_use(&self, home: Home) -> Result<TableUse, StoreError> {
        Ok(self.state().tables.usage(home))
    }

    async fn drop_tables(&self, home: Home, plugin: Option<PluginId>) -> Result<u64, StoreError> {
        Ok(self.state().tables.drop_tables(home, plugin))
    }

    async fn keep_bookmark(
        &self,
        home: Home,
        name: &BookmarkName,
        bookmark: &Bookmark,
        limits: BookmarkLimits,
    ) -> Result<Bookmarked, StoreError> {
        let mut state = self.state();
        let kept = state.bookmarks.entry((home.tenant, home.shard)).or_default();
        if let Some(known) = kept.get(name) {
            return Ok(if known.head == bookmark.head { Bookmarked::Kept } else { Bookmarked::Taken });
        }
        let bytes: u64 = kept.values().map(|one| one.head.bytes).sum();
        if kept.len() as u64 >= limits.count {
            return Ok(Bookmarked::TooMany);
        }
        if bytes + bookmark.head.bytes > limits.bytes {
            return Ok(Bookmarked::TooLarge);
        }
        kept.insert(name.clone(), bookmark.clone());
        Ok(Bookmarked::Kept)
    }

    async fn bookmarks(&self, home: Home) -> Result<Vec<(BookmarkName, BookmarkHead)>, StoreError> {
        let state = self.state();
        let kept = state.bookmarks.get(&(home.tenant, home.shard)).into_iter().flatten();
        Ok(kept.map(|(name, one)| (name.clone(), one.head.clone())).collect())
    }

    async fn bookmark(&self, home: Home, name: &BookmarkName) -> Result<Option<Bookmark>, StoreError> {
        Ok(self.state().bookmarks.get(&(home.tenant, home.shard)).and_then(|kept| kept.get(name)).cloned())
    }

    async fn drop_bookmark(&self, home: Home, name: &BookmarkName) -> Result<bool, StoreError> {
        let mut state = self.state();
        Ok(state.bookmarks.get_mut(&(home.tenant, home.shard)).is_some_and(|kept| kept.remove(name).is_some()))
    }

    fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn probe(&self) -> Result<Duration, StoreError> {
        Ok(Duration::ZERO)
    }
}
