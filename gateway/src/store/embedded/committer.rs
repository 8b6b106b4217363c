//! The one thread that writes: it takes what has arrived, puts it into one unit, writes that, and answers. While a unit is being
//! written the next one gathers in the channel, so the size of units follows the disk's speed by itself, and a lone caller waits
//! for nobody.

mod accept;
mod bookmark;
mod lines;
mod purge;
mod record;
mod settings;
mod table;
mod trim;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::command::{Command, Reply};
use super::disk::{Tree, Unit};
use super::keys::{self, kind};
use super::rows::Story;
use super::state::{Cell, Owner};
use super::{Shared, listing};
use crate::clock::monotonic;
use crate::event::{DeliveryId, EventId, Revision, Shard, TenantId, encode};
use crate::store::{Lease, QueueKey, StoreError};

/// A unit is written once it holds this much, even if more has arrived.
const MAX_UNIT: usize = 8 << 20;

/// Numbers are reserved on disk this many at a time.
const SERIALS: u64 = 1 << 20;

/// How often free space is looked at.
const SPACE_CHECK: Duration = Duration::from_secs(1);

/// The committer's own state.
pub(super) struct Committer {
    shared: Arc<Shared>,
    /// The next number for an outcome or a place in a queue, and up to where numbers are reserved.
    serial: u64,
    serial_end: u64,
    revision: Revision,
    /// Expiries before this have been swept.
    swept: u64,
    /// Tenants before this one have been swept of what has ended in their tables.
    swept_tables: HashMap<Shard, TenantId>,
    space: Option<(Instant, Result<(), StoreError>)>,
    unit: Draft,
}

/// A unit that is being put together.
struct Draft {
    unit: Unit,
    /// Outcomes in this unit, by event.
    stories: HashMap<EventId, Vec<(u64, Vec<u8>)>>,
    /// Shards whose ledger changed.
    shards: HashSet<Shard>,
    /// Shards to wake, and jobs whose move is done, once it is written.
    wake: HashSet<Shard>,
    moved: Vec<(Shard, DeliveryId)>,
    /// What it does to lines.
    lines: HashMap<(Shard, QueueKey, u128), lines::Changes>,
    answers: Vec<Answer>,
    probes: Vec<Reply<Duration>>,
    /// A read that failed while it was put together: nothing of it may be written.
    broken: Option<StoreError>,
}

type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, serial: u64, revision: Revision) -> Self {
        let unit = Draft::new(&shared);
        Self { shared, serial, serial_end: serial, revision, swept: 0, swept_tables: HashMap::new(), space: None, unit }
    }

    /// Works until every [`Embedded`] is gone and what it sent is written.
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.blocking_recv() {
            self.apply(command);
            while self.unit.unit.bytes() < MAX_UNIT
                && let Ok(command) = commands.try_recv()
            {
                self.apply(command);
            }
            self.commit();
        }
        if self.shared.is_up().is_ok()
            && let Err(error) = self.shared.disk.sync()
        {
            self.shared.fail(&error);
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Accept(batch, reply) => {
                let result = self.accept(batch);
                self.answer(reply, result);
            }
            Command::Record(lease, batch, reply) => {
                let result = self.record(&lease, batch);
                self.answer(reply, result);
            }
            Command::PutBack(lease, jobs, reply) => {
                let result = self.put_back(&lease, &jobs);
                self.answer(reply, result);
            }
            Command::Acquire(shard, node, ttl, reply) => {
                let result = self.acquire(shard, node, ttl);
                self.answer(reply, Ok(result));
            }
            Command::Retry(home, each, reply) => {
                let result = self.retry(home, each);
                self.answer(reply, Ok(result));
            }
            Command::Add(home, moves, reply) => {
                let result = self.add(home, moves);
                self.answer(reply, Ok(result));
            }
            Command::Trim(lease, cut, reply) => {
                let result = self.trim(&lease, *cut);
                self.answer(reply, result);
            }
            Command::Purge(lease, tenant, haul, reply) => {
                let result = self.purge(&lease, tenant, *haul);
                self.answer(reply, result);
            }
            Command::Configure(expected, changes, reply) => {
                let result = self.configure(expected, changes);
                self.answer(reply, result);
            }
            Command::PutComponent(version, component, reply) => {
                self.put_component(version, &component);
                self.answer(reply, Ok(()));
            }
            Command::Remember(key, value, ttl, reply) => {
                let result = self.remember(&key, value, ttl);
                self.answer(reply, Ok(result));
            }
            Command::Say(key, value, ttl, reply) => {
                self.say(key, value, ttl);
                self.answer(reply, Ok(()));
            }
            Command::Table(call, reply) => {
                let result = self.table(call);
                self.answer(reply, result);
            }
            Command::DropTables(home, plugin, reply) => {
                let result = self.drop_tables(home, plugin);
                self.answer(reply, Ok(result));
            }
            Command::KeepBookmark(home, name, stored, limits, reply) => {
                let result = self.keep_bookmark(home, &name, *stored, limits);
                self.answer(reply, result);
            }
            Command::DropBookmark(home, name, reply) => {
                let result = self.drop_bookmark(home, &name);
                self.answer(reply, result);
            }
            Command::Probe(reply) => {
                self.put(Tree::Index, keys::single(kind::PROBE), encode(&()));
                self.unit.probes.push(reply);
            }
        }
    }

    /// Sends `result` once the unit is written, or why it was not. A refusal promises nothing, so it waits all the same: what it
    /// was refused for may be in this unit.
    fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, result: Result<T, StoreError>) {
        self.unit.answers.push(Box::new(move |written| {
            // Nobody may be waiting any more; what was asked for is done all the same.
            let _ = reply.send(written.and(result));
        }));
    }

    fn commit(&mut self) {
        let mut draft = std::mem::replace(&mut self.unit, Draft::new(&self.shared));
        let started = monotonic();
        let written = self.write(&mut draft);
        if let Err(error) = &written {
            self.shared.fail(error);
        }
        let took = started.elapsed();
        self.settle(&draft);
        for answer in draft.answers {
            answer(written.clone());
        }
        for probe in draft.probes {
            let _ = probe.send(written.clone().map(|()| took));
        }
        for shard in draft.wake {
            self.shared.cell(shard).signal.notify_one();
        }
    }

    fn write(&mut self, draft: &mut Draft) -> Result<(), StoreError> {
        self.shared.is_up()?;
        if let Some(error) = draft.broken.take() {
            return Err(error);
        }
        self.front_lines(draft)?;
        let disk = &self.shared.disk;
        for shard in &draft.shards {
            let (ledger, queued) = {
                let cell = self.shared.cell(*shard);
                let mut state = cell.state();
                (state.ledger, state.queued.changes())
            };
            draft.unit.put(disk, Tree::Index, keys::ledger(*shard), encode(&ledger));
            for (tenant, bytes) in queued {
                let key = keys::queued_bytes(*shard, tenant);
                match bytes {
                    0 => draft.unit.remove(disk, Tree::Index, key),
                    _ => draft.unit.put(disk, Tree::Index, key, encode(&bytes)),
                }
            }
        }
        if draft.unit.is_empty() {
            return Ok(());
        }
        let unit = std::mem::replace(&mut draft.unit, disk.unit());
        self.shared.commit(unit)
    }

    /// Lets readers see what has moved.
    fn settle(&self, draft: &Draft) {
        for shard in &draft.shards {
            self.shared.cell(*shard).state().written();
        }
        for (shard, id) in &draft.moved {
            let cell = self.shared.cell(*shard);
            let mut state = cell.state();
            state.leaving.remove(id);
            state.taken.remove(id);
        }
        self.shared.publish(self.revision);
    }

    fn acquire(&mut self, shard: Shard, node: String, ttl: Duration) -> Option<Lease> {
        let now = self.shared.clock.now();
        let cell = self.shared.cell(shard);
        let mut state = cell.state();
        if state.owner.as_ref().is_some_and(|owner| owner.node != node && now < owner.until) {
            return None;
        }
        state.ledger.epoch += 1;
        let (epoch, incarnation) = (state.ledger.epoch, rand::random());
        state.owner = Some(Owner { node, epoch, incarnation, until: now.after(ttl) });
        state.give_back_all();
        self.unit.shards.insert(shard);
        Some(Lease { shard, epoch, incarnation, ttl })
    }

    fn cell(&mut self, shard: Shard) -> Arc<Cell> {
        self.unit.shards.insert(shard);
        self.shared.cell(shard)
    }

    fn put(&mut self, tree: Tree, key: Vec<u8>, value: Vec<u8>) {
        self.unit.unit.put(&self.shared.disk, tree, key, value);
    }

    fn remove(&mut self, tree: Tree, key: Vec<u8>) {
        self.unit.unit.remove(&self.shared.disk, tree, key);
    }

    /// A number that is above all earlier ones, also after a restart.
    fn serial(&mut self) -> u64 {
        if self.serial == self.serial_end {
            self.serial_end += SERIALS;
            self.put(Tree::Index, keys::single(kind::SERIAL), encode(&self.serial_end));
        }
        self.serial += 1;
        self.serial
    }

    /// A record in `index` as this unit leaves it. One that cannot be read counts as absent, since one damaged record must not
    /// stop the others; a read that fails stops everything.
    fn read<T: serde::de::DeserializeOwned>(&mut self, key: &[u8]) -> Option<T> {
        let read = self.unit.unit.read(&self.shared.disk, Tree::Index, key);
        self.sound(read).flatten()
    }

    /// All that history holds of an event, with what this unit adds.
    fn story(&mut self, tenant: TenantId, event: EventId) -> Story {
        let read = listing::story(&self.shared.disk, tenant, event);
        let mut story = self.sound(read).unwrap_or_default();
        for (n, outcome) in self.unit.stories.get(&event).into_iter().flatten() {
            if let Err(error) = story.add(*n, outcome) {
                tracing::error!(%event, %error, "an outcome cannot be read");
            }
        }
        story
    }

    fn sound<T>(&mut self, read: Result<T, StoreError>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(error @ StoreError::Damaged(_)) => {
                tracing::error!(%error, "a stored record cannot be read");
                None
            }
            Err(error) => {
                self.unit.broken = Some(error);
                None
            }
        }
    }
}

impl Draft {
    fn new(shared: &Shared) -> Self {
        Self {
            unit: shared.disk.unit(),
            stories: HashMap::new(),
            shards: HashSet::new(),
            wake: HashSet::new(),
            moved: Vec::new(),
            lines: HashMap::new(),
            answers: Vec::new(),
            probes: Vec::new(),
            broken: None,
        }
    }
}
