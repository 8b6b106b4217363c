//! Random operation sequences on an engine and on the model at once: after each step what can be seen of both is the same.
//!
//! The engine chooses how much it hands out; the model follows, and the choice must be a legal one. A failure names its seed:
//! `TIDEGATE_STORE_SEED=n` replays it alone. `TIDEGATE_STORE_TRIALS` and `TIDEGATE_STORE_STEPS` make longer runs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate::clock::{Clock, Timestamp};
use tidegate::event::{ConnectionId, DeliveryId, DestinationId, Event, EventId, JobId, Lane, PluginId, Shard, SourceId, TenantId};
use tidegate::store::{
    Acceptance, Budget, Claimed, DeadLetter, DeliveryRecord, DeliveryState, EventSummary, Home, Job, Lease, Line, Once, Origin,
    PageRequest, Purged, PutBack, QueueKey, Record, Retention, SUSPECT, Store, StoreError, Table, TableKey, TableOp, TablePage,
    Ticket, Trimmed, Work,
};

use crate::fixture::Fixture;
use crate::model::Model;
use crate::world::*;

/// Runs trials with seeds of their own on fresh stores.
pub(crate) async fn trials<F: Fixture + 'static>(start: impl AsyncFn() -> F) {
    let setting = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let steps = setting("TIDEGATE_STORE_STEPS").unwrap_or(120);
    let seeds = match setting("TIDEGATE_STORE_SEED") {
        Some(seed) => vec![seed],
        None => (1..=setting("TIDEGATE_STORE_TRIALS").unwrap_or(6)).collect(),
    };
    for seed in seeds {
        let mut trial = Trial::new(start().await, seed);
        for step in 0..steps {
            trial.context = format!("TIDEGATE_STORE_SEED={seed}, step {step}");
            trial.step().await;
            trial.compare().await;
        }
    }
}

const SHARDS: [Shard; 2] = [SHARD, OTHER_SHARD];
const TENANTS: [TenantId; 2] = [TENANT, OTHER_TENANT];

/// A tenant's shard: each tenant has one.
fn home(tenant: TenantId) -> Home {
    Home { tenant, shard: if tenant == TENANT { SHARD } else { OTHER_SHARD } }
}

/// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>): small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn index(&mut self, len: usize) -> usize {
        self.roll(len as u64) as usize
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

/// The same right on both sides.
#[derive(Clone)]
struct Leases {
    real: Lease,
    model: Lease,
    node: &'static str,
}

/// A record on both sides: they differ in their tickets alone.
struct Spec {
    origin: SpecOrigin,
    event: EventId,
    tenant: TenantId,
    finished: bool,
    deliveries: Vec<DeliveryRecord>,
}

enum SpecOrigin {
    Entry(EventId),
    Job(DeliveryId),
}

struct Trial {
    real: Box<dyn Fixture>,
    model: Arc<Model>,
    clock: Clock,
    dice: Dice,
    context: String,
    /// Time as the dispatcher would say it, in steps that are never equal.
    time: u64,
    made: u64,
    leases: BTreeMap<Shard, Leases>,
    fenced: Vec<Leases>,
    tickets: HashMap<EventId, (Ticket, Ticket)>,
    events: HashMap<EventId, Event>,
    /// Claimed and unfinished, in order, for each shard and lane.
    open: BTreeMap<(Shard, Lane), Vec<EventId>>,
    jobs: Vec<(Shard, Job)>,
    /// Places in lines that were handed out, on the real side and in the model.
    places: HashMap<(Shard, u64), u64>,
    last: Option<(Shard, Vec<Spec>)>,
    buried: Vec<(Home, DeliveryId)>,
    asked: Option<Asked>,
}

/// A call to a plugin's table.
type Asked = (Table, Option<Once>, Vec<(TableKey, TableOp)>);

impl Trial {
    fn new(real: impl Fixture + 'static, seed: u64) -> Self {
        let clock = Clock::manual(real.now());
        let time = real.now().0;
        Self {
            real: Box::new(real),
            model: Arc::new(Model::new(clock.clone())),
            clock,
            dice: Dice(seed),
            context: String::new(),
            time,
            made: 0,
            leases: BTreeMap::new(),
            fenced: Vec::new(),
            tickets: HashMap::new(),
            events: HashMap::new(),
            open: BTreeMap::new(),
            jobs: Vec::new(),
            places: HashMap::new(),
            last: None,
            buried: Vec::new(),
            asked: None,
        }
    }

    fn store(&self) -> Arc<dyn Store> {
        self.real.store()
    }

    fn tick(&mut self) -> Timestamp {
        self.time += 1;
        Timestamp(self.time)
    }

    fn shard(&mut self) -> Shard {
        SHARDS[self.dice.index(SHARDS.len())]
    }

    fn budget(&mut self) -> Budget {
        let bytes = if self.dice.chance(30) { 300 + self.dice.index(3000) } else { 1 << 20 };
        Budget::new(1 + self.dice.index(6), bytes)
    }

    async fn step(&mut self) {
        let shard = self.shard();
        if !self.leases.contains_key(&shard) {
            return self.acquire(shard).await;
        }
        match self.dice.roll(100) {
            0..17 => self.accept().await,
            17..20 => self.table().await,
            20..38 => self.claim(shard).await,
            38..62 => self.record(shard).await,
            62..70 => self.due(shard).await,
            70..74 => self.unpark(shard).await,
            74..77 => self.heads(shard).await,
            77..82 => self.reclaim(shard).await,
            82..85 => self.retry().await,
            85..86 => self.add().await,
            86..89 => self.trim(shard).await,
            89..90 => self.purge(shard).await,
            90..92 => self.send_again().await,
            92..94 => self.try_a_fenced_lease().await,
            94..97 => self.acquire(shard).await,
            97..98 => self.release(shard).await,
            98..99 => self.end(true).await,
            _ => self.end(false).await,
        }
    }

    /// New work of any event, sometimes the same again.
    async fn add(&mut self) {
        let mut known: Vec<EventId> = self.events.keys().copied().collect();
        known.sort();
        if known.is_empty() {
            return;
        }
        let now = self.tick();
        let event = self.events[&known[self.dice.index(known.len())]].clone();
        let home = home(event.tenant);
        let id = DeliveryId::replay(JobId(self.dice.roll(2).into()), event.id, ConnectionId(2));
        let work = Work::Plan { event: Box::new(event), connection: Some(ConnectionId(2)) };
        let jobs = [Job { id, attempts: 0, spent: 0, since: now, work, line: None, claims: 0 }];
        let real = self.store().add(home, &jobs, now).await.unwrap();
        assert_eq!(real, self.model.add(home, &jobs, now).await.unwrap(), "{}", self.context);
    }

    async fn accept(&mut self) {
        let mut both = [Vec::new(), Vec::new()];
        for _ in 0..1 + self.dice.index(5) {
            let tenant = TENANTS[self.dice.index(2)];
            self.made += 1;
            let now = self.tick();
            let event = event(self.made, tenant, now, Bytes::from(vec![7; self.dice.index(900)]));
            let lane = Lane::ALL[self.dice.index(6).saturating_sub(3)];
            let shard = home(tenant).shard;
            let key = self.dice.chance(30).then(|| self.dice.roll(20) as u8);
            for batch in &mut both {
                let acceptance = match key {
                    Some(key) => once(&event, key, self.real.span() * 100_000),
                    None => acceptance(&event),
                };
                batch.push(Acceptance { shard, lane, ..acceptance });
            }
            self.events.insert(event.id, event);
        }
        let [real, model] = both;
        let real = self.store().accept(real).await.unwrap();
        assert_eq!(real, self.model.accept(model).await.unwrap(), "{}", self.context);
    }

    async fn acquire(&mut self, shard: Shard) {
        let span = self.real.span();
        let node = ["a", "b"][self.dice.index(2)];
        if self.leases.get(&shard).is_some_and(|leases| leases.node != node) {
            self.real.pass(span).await;
            self.clock.advance(span);
        }
        let store = self.store();
        let real = eventually(async || store.acquire(shard, node, span).await.unwrap()).await;
        let model = self.model.acquire(shard, node, span).await.unwrap().expect("the model has the same leases");
        self.forget(shard);
        self.leases.insert(shard, Leases { real, model, node });
    }

    async fn release(&mut self, shard: Shard) {
        let Leases { real, model, .. } = self.leases[&shard].clone();
        self.store().release(&real).await.unwrap();
        self.model.release(&model).await.unwrap();
        self.forget(shard);
    }

    /// The owner is gone, and what it had in its hands.
    fn forget(&mut self, shard: Shard) {
        self.fenced.extend(self.leases.remove(&shard));
        self.jobs.retain(|(at, _)| *at != shard);
        self.last = self.last.take().filter(|(at, _)| *at != shard);
    }

    async fn end(&mut self, in_good_order: bool) {
        if in_good_order {
            self.real.restart().await;
        } else {
            self.real.crash().await;
        }
        let span = self.real.span();
        for (shard, Leases { node, .. }) in self.leases.clone() {
            self.forget(shard);
            let store = self.store();
            let real = eventually(async || store.acquire(shard, node, span).await.unwrap()).await;
            let model = self.model.acquire(shard, node, span).await.unwrap().expect("a node takes over from itself");
            self.leases.insert(shard, Leases { real, model, node });
        }
    }

    async fn claim(&mut self, shard: Shard) {
        let lane = Lane::ALL[self.dice.index(6).saturating_sub(3)];
        let budget = self.budget();
        let Leases { real, model, .. } = self.leases[&shard].clone();
        let real = self.store().claim(&real, lane, budget).await.unwrap();
        self.is_legal(&real.iter().map(|claimed| claimed.event.request.size()).collect::<Vec<_>>(), budget);
        let follow = Budget::new(real.len().max(1), usize::MAX);
        let model = self.model.claim(&model, lane, follow).await.unwrap();
        self.take_in(shard, real, model);
    }

    async fn reclaim(&mut self, shard: Shard) {
        let budget = self.budget();
        let Leases { real, model, .. } = self.leases[&shard].clone();
        let open: Vec<_> = self.open.iter().filter(|((at, _), _)| *at == shard).flat_map(|(_, open)| open.clone()).collect();
        let held: HashSet<_> = open.iter().copied().filter(|_| self.dice.chance(40)).collect();
        let real_held = held.iter().map(|event| self.tickets[event].0).collect();
        let real = self.store().reclaim(&real, &real_held, budget).await.unwrap();
        self.is_legal(&real.iter().map(|claimed| claimed.event.request.size()).collect::<Vec<_>>(), budget);
        assert!(real.len() < 2 || real.iter().all(|claimed| claimed.claims < SUSPECT), "{}", self.context);
        let found: HashSet<_> = real.iter().map(|claimed| claimed.event.id).collect();
        assert_eq!(found.is_empty(), open.iter().all(|event| held.contains(event)), "{}", self.context);
        for ((at, lane), open) in &self.open {
            let wanted: Vec<_> = open.iter().filter(|event| *at == shard && !held.contains(event)).collect();
            let got: Vec<_> = real.iter().filter(|claimed| *at == shard && claimed.ticket.lane == *lane).collect();
            assert!(got.iter().map(|claimed| &claimed.event.id).eq(wanted.into_iter().take(got.len())), "{}", self.context);
        }
        let model_held = open.iter().filter(|event| !found.contains(event)).map(|event| self.tickets[event].1).collect();
        let mut model = self.model.reclaim(&model, &model_held, Budget::new(usize::MAX, usize::MAX)).await.unwrap();
        let mut real = real;
        real.sort_by_key(|claimed| claimed.event.id);
        model.sort_by_key(|claimed| claimed.event.id);
        self.take_in(shard, real, model);
    }

    fn take_in(&mut self, shard: Shard, real: Vec<Claimed>, model: Vec<Claimed>) {
        let seen = |claimed: &Claimed| {
            let progress: HashSet<_> = claimed.progress.iter().map(|row| row.id).collect();
            (claimed.event.clone(), claimed.claims, claimed.ticket.lane, progress)
        };
        let (left, right): (Vec<_>, Vec<_>) = (real.iter().map(seen).collect(), model.iter().map(seen).collect());
        assert!(left == right, "{}: {left:?} is not {right:?}", self.context);
        for (real, model) in real.into_iter().zip(model) {
            let event = real.event.id;
            self.tickets.insert(event, (real.ticket, model.ticket));
            let open = self.open.entry((shard, real.ticket.lane)).or_default();
            if !open.contains(&event) {
                open.push(event);
            }
        }
    }

    async fn due(&mut self, shard: Shard) {
        let now = Timestamp(self.time + self.dice.roll(200_000));
        let budget = self.budget();
        let Leases { real, model, .. } = self.leases[&shard].clone();
        let real = self.store().due(&real, now, budget).await.unwrap();
        self.is_legal(&real.iter().map(Job::size).collect::<Vec<_>>(), budget);
        self.comes_alone(&real);
        let follow = Budget::new(real.len().max(1), usize::MAX);
        assert_eq!(real, self.model.due(&model, now, follow).await.unwrap(), "{}", self.context);
        self.jobs.extend(real.into_iter().map(|job| (shard, job)));
    }

    async fn unpark(&mut self, shard: Shard) {
        let budget = self.budget();
        let queue = self.queue(if shard == SHARD { TENANT } else { OTHER_TENANT });
        let Leases { real, model, .. } = self.leases[&shard].clone();
        let real = self.store().unpark(&real, queue, budget).await.unwrap().jobs;
        self.is_legal(&real.iter().map(Job::size).collect::<Vec<_>>(), budget);
        self.comes_alone(&real);
        let follow = Budget::new(real.len().max(1), usize::MAX);
        assert_eq!(real, self.model.unpark(&model, queue, follow).await.unwrap().jobs, "{}", self.context);
        let (back, kept): (Vec<_>, Vec<_>) = real.into_iter().partition(|_| self.dice.chance(20));
        self.jobs.extend(kept.into_iter().map(|job| (shard, job)));
        self.give_back(shard, &back.iter().map(|job| PutBack::parked(job.id)).collect::<Vec<_>>()).await;
    }

    async fn heads(&mut self, shard: Shard) {
        let budget = self.budget();
        let now = Timestamp(self.time + self.dice.roll(200_000));
        let tenant = if shard == SHARD { TENANT } else { OTHER_TENANT };
        let queue = QueueKey::Ordered(tenant, DestinationId(self.dice.roll(2).into()));
        let Leases { real, model, .. } = self.leases[&shard].clone();
        let real = self.store().heads(&real, queue, now, budget).await.unwrap();
        self.is_legal(&real.jobs.iter().map(Job::size).collect::<Vec<_>>(), budget);
        self.comes_alone(&real.jobs);
        let follow = Budget::new(real.jobs.len().max(1), usize::MAX);
        let model = self.model.heads(&model, queue, now, follow).await.unwrap();
        let without_place = |job: &Job| Job { line: job.line.map(|line| Line { place: None, ..line }), ..job.clone() };
        let (left, right): (Vec<_>, Vec<_>) =
            (real.jobs.iter().map(without_place).collect(), model.jobs.iter().map(without_place).collect());
        assert_eq!((left, real.next), (right, model.next), "{}", self.context);
        for (real, model) in real.jobs.iter().zip(&model.jobs) {
            let place = |job: &Job| job.line.and_then(|line| line.place).unwrap();
            self.places.insert((shard, place(real)), place(model));
        }
        self.jobs.extend(real.jobs.into_iter().map(|job| (shard, job)));
        if self.dice.chance(40) {
            self.put_back(shard).await;
        }
    }

    fn comes_alone(&self, jobs: &[Job]) {
        assert!(jobs.len() < 2 || jobs.iter().all(|job| job.claims < SUSPECT), "{}", self.context);
    }

    /// Some of what is in hand goes back to its lines, sometimes twice.
    async fn put_back(&mut self, shard: Shard) {
        let mut back: Vec<PutBack> = Vec::new();
        for at in 0..self.jobs.len() {
            let (of, job) = &self.jobs[at];
            if let (true, Some(line)) = (*of == shard, job.line)
                && self.dice.chance(50)
            {
                // Never two that are due at once.
                let due = Timestamp(line.due.0 + 100_000 * (1 + self.dice.roll(2)));
                back.push(PutBack { id: job.id, from: line.due, due });
            }
        }
        self.jobs.retain(|(of, job)| *of != shard || !back.iter().any(|back| back.id == job.id));
        self.give_back(shard, &back).await;
    }

    async fn give_back(&mut self, shard: Shard, back: &[PutBack]) {
        let Leases { real, model, .. } = self.leases[&shard].clone();
        for _ in 0..1 + self.dice.index(2) {
            self.store().put_back(&real, back).await.unwrap();
            self.model.put_back(&model, back).await.unwrap();
        }
    }

    fn queue(&mut self, tenant: TenantId) -> QueueKey {
        match self.dice.roll(5) {
            0 => QueueKey::Tenant(tenant),
            1 => QueueKey::Retries(tenant),
            2 => QueueKey::Source(tenant, SourceId(7)),
            n => QueueKey::Destination(tenant, DestinationId(n.into())),
        }
    }

    fn is_legal(&self, sizes: &[usize], budget: Budget) {
        let bytes: usize = sizes.iter().sum();
        assert!(sizes.len() <= budget.count, "{}: more than {}", self.context, budget.count);
        assert!(bytes <= budget.bytes || sizes.len() == 1, "{}: {bytes} bytes, not {}", self.context, budget.bytes);
    }

    async fn record(&mut self, shard: Shard) {
        let mut batch = Vec::new();
        for _ in 0..1 + self.dice.index(4) {
            let spec = if self.dice.chance(60) { self.entry_record(shard) } else { self.job_record(shard) };
            batch.extend(spec);
        }
        self.send(shard, &batch).await;
        if self.dice.chance(20) {
            self.send(shard, &batch).await;
        }
        if self.dice.chance(30) {
            self.last = Some((shard, batch));
        }
    }

    async fn send(&mut self, shard: Shard, batch: &[Spec]) {
        let Leases { real, model, .. } = self.leases[&shard].clone();
        let (for_real, for_model) = self.records(batch);
        self.store().record(&real, &for_real).await.unwrap();
        self.model.record(&model, &for_model).await.unwrap();
    }

    fn records(&self, batch: &[Spec]) -> (Vec<Record>, Vec<Record>) {
        let in_model = |mut delivery: DeliveryRecord| {
            if let Some(job) = &mut delivery.job {
                let shard = home(job.tenant()).shard;
                if let Some(Line { place: Some(place), .. }) = &mut job.line {
                    *place = self.places[&(shard, *place)];
                }
            }
            delivery
        };
        let record = |spec: &Spec, pick: fn(&(Ticket, Ticket)) -> Ticket| Record {
            origin: match spec.origin {
                SpecOrigin::Entry(event) => Origin::Entry(pick(&self.tickets[&event])),
                SpecOrigin::Job(id) => Origin::Job(id),
            },
            event: spec.event,
            tenant: spec.tenant,
            finished: spec.finished,
            deliveries: spec.deliveries.clone(),
        };
        let real = batch.iter().map(|spec| record(spec, |tickets| tickets.0)).collect();
        let model = batch.iter().map(|spec| record(spec, |tickets| tickets.1)).map(|mut record| {
            record.deliveries = record.deliveries.into_iter().map(in_model).collect();
            record
        });
        (real, model.collect())
    }

    fn entry_record(&mut self, shard: Shard) -> Option<Spec> {
        let lane = Lane::ALL[self.dice.index(3)];
        let finished = self.dice.chance(75);
        let open = self.open.get_mut(&(shard, lane)).filter(|open| !open.is_empty())?;
        let at = self.dice.index(open.len());
        let event = if finished { open.remove(at) } else { open[at] };
        let event = self.events[&event].clone();
        let deliveries = if finished && self.dice.chance(10) {
            let (at, queue) = (self.tick(), QueueKey::Tenant(event.tenant));
            vec![DeliveryRecord { at, ..parked_plan(&event, queue) }]
        } else {
            let outputs = self.dice.roll(3) as u32;
            (0..outputs).map(|output| self.delivery(&event, output, 0, None)).collect()
        };
        Some(Spec { origin: SpecOrigin::Entry(event.id), event: event.id, tenant: event.tenant, finished, deliveries })
    }

    fn job_record(&mut self, shard: Shard) -> Option<Spec> {
        let here: Vec<_> = (0..self.jobs.len()).filter(|at| self.jobs[*at].0 == shard).collect();
        let at = *here.get(self.dice.index(here.len().max(1)))?;
        let (_, job) = self.jobs.swap_remove(at);
        let event = self.events[&job.event()].clone();
        let deliveries = match &job.work {
            Work::Attempt(delivery) => vec![self.delivery(&event, delivery.output, job.attempts, job.line)],
            Work::Plan { .. } if self.dice.chance(30) => {
                let (at, queue) = (self.tick(), QueueKey::Tenant(event.tenant));
                vec![DeliveryRecord { at, ..parked_plan(&event, queue) }]
            }
            Work::Plan { .. } => (0..2).map(|output| self.delivery(&event, output, 0, job.line)).collect(),
        };
        Some(Spec { origin: SpecOrigin::Job(job.id), event: event.id, tenant: event.tenant, finished: true, deliveries })
    }

    /// What becomes of a delivery that had so many attempts, and stood in this line.
    fn delivery(&mut self, event: &Event, output: u32, attempts: u32, line: Option<Line>) -> DeliveryRecord {
        let at = self.tick();
        let next = attempts + 1;
        let with_attempt = |record: DeliveryRecord| DeliveryRecord { at, attempts: vec![attempt(event, next)], ..record };
        match self.dice.roll(8) {
            0 => with_attempt(delivered(event, output)),
            1 => DeliveryRecord { at, ..outcome(event, output, DeliveryState::Filtered { by: "filter".into() }) },
            2 | 3 => {
                // Never two that are due at once: engines may order those as they like.
                let due = Timestamp((self.time + self.dice.roll(150_000)) / 100_000 * 100_000 + self.time % 100_000);
                with_attempt(scheduled(event, output, due, next))
            }
            4 => {
                let queue = self.queue(event.tenant);
                let record = parked(event, output, queue);
                DeliveryRecord { at, job: Some(Box::new(job(event, output, attempts))), ..record }
            }
            5 | 6 => {
                let to = DestinationId(self.dice.roll(2).into());
                let line = line.unwrap_or(Line::end(to, self.dice.roll(3).into(), at));
                let due = Timestamp((self.time + self.dice.roll(150_000)) / 100_000 * 100_000 + self.time % 100_000);
                let record = match self.dice.chance(50) {
                    true => with_attempt(scheduled(event, output, due, next)),
                    false => {
                        let queue = QueueKey::Ordered(event.tenant, line.destination);
                        let record = parked(event, output, queue);
                        DeliveryRecord { at, job: Some(Box::new(job(event, output, attempts))), ..record }
                    }
                };
                let job = Job { line: Some(Line { due: at, ..line }), ..*record.job.unwrap() };
                DeliveryRecord { job: Some(Box::new(job)), ..record }
            }
            _ => {
                self.buried.push((home(event.tenant), delivery_id(event, output)));
                let record = with_attempt(dead(event, output, at));
                DeliveryRecord { job: Some(Box::new(job(event, output, next))), ..record }
            }
        }
    }

    /// Operations on a plugin's table, now and then as they were asked for before.
    async fn table(&mut self) {
        for _ in 0..1 + self.dice.index(3) {
            let asked = match self.asked.clone() {
                Some(asked) if self.dice.chance(25) => asked,
                _ => self.table_ops(),
            };
            let (table, once, ops) = &asked;
            let quota = if self.dice.chance(50) { 700 } else { 1 << 20 };
            let now = self.tick();
            let real = self.store().table(*table, *once, ops, quota, now).await.unwrap();
            assert_eq!(real, self.model.table(*table, *once, ops, quota, now).await.unwrap(), "{}: {asked:?}", self.context);
            if self.dice.chance(40) {
                self.asked = Some(asked);
            }
        }
    }

    fn table_ops(&mut self) -> Asked {
        let table = Table { home: home(TENANTS[self.dice.index(2)]), plugin: PluginId(self.dice.roll(2).into()) };
        let mut ops = Vec::new();
        for _ in 0..self.dice.index(5) {
            let key = ["a", "b", "ba", "c", "d", "é"][self.dice.index(6)].parse().unwrap();
            let ttl = self.dice.chance(50).then(|| Duration::from_millis(1 + self.dice.roll(100)));
            let value = Bytes::from(match self.dice.roll(3) {
                0 => self.dice.roll(1000).to_string(),
                _ => "x".repeat(self.dice.index(300)),
            });
            let op = match self.dice.roll(7) {
                0 | 1 => TableOp::Get,
                2 => TableOp::Set { value, ttl },
                3 => TableOp::Add { value, ttl },
                4 => TableOp::Delete,
                _ => TableOp::Increment { by: self.dice.roll(2000) as i64 - 1000, ttl },
            };
            ops.push((key, op));
        }
        let number = self.dice.roll(1000) as u32;
        let once = Once { event: EventId(1), connection: ConnectionId(1), stage: 0, output: 0, number };
        (table, self.dice.chance(60).then_some(once), ops)
    }

    /// An earlier batch once more, as after an answer that was lost.
    async fn send_again(&mut self) {
        if let Some((shard, batch)) = self.last.take() {
            self.send(shard, &batch).await;
        }
    }

    async fn try_a_fenced_lease(&mut self) {
        let Some(Leases { real, .. }) = self.fenced.last().cloned() else { return };
        let claim = self.store().claim(&real, Lane::Normal, ALL).await;
        assert!(matches!(claim, Err(StoreError::Fenced(_))), "{}", self.context);
        let (records, _) = self.last.as_ref().map(|(_, batch)| self.records(batch)).unwrap_or_default();
        let record = self.store().record(&real, &records).await;
        assert!(matches!(record, Err(StoreError::Fenced(_))), "{}", self.context);
    }

    async fn retry(&mut self) {
        if self.buried.is_empty() {
            return;
        }
        let (home, id) = self.buried[self.dice.index(self.buried.len())];
        let now = self.tick();
        let moved = self.store().retry(home, &[id], now).await.unwrap();
        assert_eq!(moved, self.model.retry(home, &[id], now).await.unwrap(), "{}", self.context);
    }

    async fn trim(&mut self, shard: Shard) {
        let mut age =
            || if self.dice.chance(50) { Duration::from_millis(self.dice.roll(60)) } else { Duration::from_secs(1 << 30) };
        let (age, dead_letter_age) = (age(), age());
        let bytes = if self.dice.chance(10) { 0 } else { u64::MAX };
        let retention = Retention { age, bytes, dead_letter_age };
        let now = Timestamp(self.time);
        let Leases { real, model, .. } = self.leases[&shard].clone();
        let mut sum = Trimmed { more: true, ..Trimmed::default() };
        while sum.more {
            let step = self.store().trim(&real, retention, now).await.unwrap();
            sum = Trimmed { events: sum.events + step.events, dead_letters: sum.dead_letters + step.dead_letters, more: step.more };
        }
        assert_eq!(sum, self.model.trim(&model, retention, now).await.unwrap(), "{}", self.context);
    }

    /// Takes all of a tenant that nobody has in hand; the tenant goes on as if it were a new one.
    async fn purge(&mut self, shard: Shard) {
        let tenant = if shard == SHARD { TENANT } else { OTHER_TENANT };
        let Leases { real, model, .. } = self.leases[&shard].clone();
        let counts = |purged: Purged| (purged.events, purged.given_up, purged.dead_letters);
        let mut found = None;
        let mut in_vain = 0;
        // More steps than two passes take here.
        while in_vain < 10 {
            let now = Some(counts(self.store().purge(&real, tenant).await.unwrap()));
            in_vain = if now == found { in_vain + 1 } else { 0 };
            found = now;
        }
        let model = self.model.purge(&model, tenant).await.unwrap();
        assert_eq!(found, Some(counts(model)), "{}", self.context);
    }

    /// Everything that can be seen.
    async fn compare(&mut self) {
        let (real, model) = (self.store(), self.model.clone());
        for shard in SHARDS {
            let (left, right) = (real.depth(shard).await.unwrap(), model.depth(shard).await.unwrap());
            assert_eq!(format!("{left:?}"), format!("{right:?}"), "{}", self.context);
            let Some(leases) = self.leases.get(&shard) else { continue };
            let mut queues = real.queues(&leases.real).await.unwrap();
            queues.sort();
            assert_eq!(queues, model.queues(&leases.model).await.unwrap(), "{}", self.context);
            let due = real.next_due(&leases.real).await.unwrap();
            assert_eq!(due, model.next_due(&leases.model).await.unwrap(), "{}", self.context);
        }
        for tenant in TENANTS {
            let queued = real.queued_bytes(home(tenant)).await.unwrap();
            assert_eq!(queued, model.queued_bytes(home(tenant)).await.unwrap(), "{}", self.context);
            let limit = 1 + self.dice.index(40);
            let left = pages(&*real, home(tenant), limit).await;
            let right = pages(&*model, home(tenant), 200).await;
            assert_eq!(left, right, "{}", self.context);
            let tables = (real.table_use(home(tenant)).await.unwrap(), model.table_use(home(tenant)).await.unwrap());
            assert_eq!(tables.0, tables.1, "{}", self.context);
            for plugin in [PluginId(0), PluginId(1)] {
                let (table, now) = (Table { home: home(tenant), plugin }, Timestamp(self.time));
                let page = TablePage { prefix: String::new(), after: None, limit: 200 };
                let (left, right) =
                    (real.table_page(table, &page, now).await.unwrap(), model.table_page(table, &page, now).await.unwrap());
                assert_eq!(left.items, right.items, "{}", self.context);
            }
            let (left, right) = (letters(&*real, home(tenant), limit).await, letters(&*model, home(tenant), 200).await);
            assert_eq!(left, right, "{}", self.context);
        }
        if let Some(event) = self.events.values().nth(self.dice.index(self.events.len().max(1))) {
            let left = real.event(home(event.tenant), event.id).await.unwrap();
            let right = model.event(home(event.tenant), event.id).await.unwrap();
            assert_eq!(left.is_some(), right.is_some(), "{}", self.context);
            if let (Some(left), Some(right)) = (left, right) {
                assert_eq!(sorted(left.summary), sorted(right.summary), "{}", self.context);
                assert!(left.event == right.event, "{}", self.context);
            }
        }
    }
}

fn sorted(mut summary: EventSummary) -> EventSummary {
    summary.deliveries.sort_by_key(|row| row.id);
    summary
}

async fn pages(store: &dyn Store, home: Home, limit: usize) -> Vec<EventSummary> {
    let mut rows = Vec::new();
    let mut before = None;
    loop {
        let page = store.events(home, PageRequest { before, limit }).await.unwrap();
        rows.extend(page.items.into_iter().map(sorted));
        before = page.next;
        if before.is_none() {
            return rows;
        }
    }
}

/// All dead letters, newest first, after a look that they are the same the other way round.
async fn letters(store: &dyn Store, home: Home, limit: usize) -> Vec<(Job, Timestamp)> {
    let (mut rows, mut oldest) = (Vec::new(), Vec::new());
    let (mut before, mut after) = (None, None);
    let row = |letter: DeadLetter| (letter.job, letter.at);
    loop {
        let page = store.dead_letters(home, PageRequest { before, limit }).await.unwrap();
        rows.extend(page.items.into_iter().map(row));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    loop {
        let page = store.oldest_dead_letters(home, after, limit).await.unwrap();
        oldest.extend(page.items.into_iter().map(row));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    oldest.reverse();
    assert_eq!(rows, oldest);
    rows
}
