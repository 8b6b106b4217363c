//! Instances that wait for the next run of their stage, for stages that ask for it.
//!
//! A guest finds in such an instance whatever it left in memory: so an instance is its stage's alone, and holds only what came of runs that
//! ended well.
//!
//! - **Whose**: the tenant's, of one connection, one place in its chain, one loaded version, with the very configuration and secrets that the
//!   first run had. A change of the connection makes others, and with them other instances.
//! - **How long**: so many runs as the stage says, at most [`MAX_INVOCATIONS`]; not after a trap, a limit that was reached, an answer that
//!   could not be taken, or a question to its table; not with more than three quarters of the memory that a run may have; and not
//!   longer than `idle_time` without a run, or than its version is loaded.
//! - **How many**: all that wait have at most `idle_bytes` and `idle_instances`, where one counts as often as it has memories: each takes
//!   4 GiB of address space. The least recently used go first. What runs has its thread's place.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::MissedTickBehavior;
use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use super::call::Call;
use super::host::State;
use crate::clock::monotonic;
use crate::event::{ConnectionId, TenantId};

/// The most runs of one instance that a stage may ask for.
pub const MAX_INVOCATIONS: u32 = 10_000;

/// Which runs may follow one another in an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// Those of this connection,
    pub connection: ConnectionId,
    /// at this place in its chain,
    pub stage: u32,
    /// and at most so many.
    pub invocations: u32,
}

/// Bounds of what waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdleLimits {
    /// Their memories, each instance having at least one.
    pub(super) instances: u32,
    pub(super) bytes: usize,
    pub(super) time: Duration,
}

/// An instance after a run that ended well.
pub(super) struct Kept {
    pub(super) store: Store<State>,
    pub(super) instance: Instance,
    /// How many it has had.
    pub(super) runs: u32,
}

/// What a node keeps of all versions.
pub(super) struct Idle {
    queue: Mutex<Queue>,
    room: Arc<Semaphore>,
    limits: IdleLimits,
    /// How many versions were loaded: their numbers.
    loaded: AtomicU64,
}

/// The least recently used first.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

struct Waiting {
    key: Key,
    since: Instant,
    bytes: usize,
    kept: Kept,
    _room: OwnedSemaphorePermit,
}

/// The configuration and the secrets are told apart by where they are: an instance that waits holds its own, so nothing else can be there.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    version: u64,
    tenant: TenantId,
    connection: ConnectionId,
    stage: u32,
    config: usize,
    secrets: usize,
}

/// The instances of one loaded version that wait. They go with it.
pub(super) struct Instances {
    idle: Arc<Idle>,
    version: u64,
    /// Of one instance, at least 1.
    memories: u32,
}

impl Idle {
    /// Needs a runtime around it.
    pub(super) fn start(limits: IdleLimits) -> Arc<Self> {
        let room = Arc::new(Semaphore::new(limits.instances as usize));
        let idle = Arc::new(Self { queue: Mutex::default(), room, limits, loaded: AtomicU64::new(0) });
        let (kept, every) = (Arc::downgrade(&idle), (limits.time / 4).max(Duration::from_millis(1)));
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let Some(idle) = kept.upgrade() else { return };
                let late = idle.late(monotonic());
                if !late.is_empty() {
                    // To clean up a memory takes a while.
                    drop(tokio::task::spawn_blocking(move || drop(late)));
                }
            }
        });
        idle
    }

    /// How many instances wait, and the bytes of their memories and tables.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let queue = self.lock();
        (queue.waiting.len(), queue.bytes)
    }

    /// Takes out what has waited for too long.
    fn late(&self, now: Instant) -> Vec<Waiting> {
        let mut queue = self.lock();
        let is_late = |one: &Waiting| now.saturating_duration_since(one.since) >= self.limits.time;
        let late = queue.waiting.iter().take_while(|one| is_late(one)).count();
        (0..late).map_while(|_| queue.pop()).collect()
    }

    /// Takes out what is of a version.
    fn of(&self, version: u64) -> Vec<Waiting> {
        let mut queue = self.lock();
        let mut gone = Vec::new();
        while let Some(at) = queue.waiting.iter().position(|one| one.key.version == version) {
            gone.extend(queue.take(at));
        }
        gone
    }

    /// Room for another one; the least recently used make it.
    fn room(&self, memories: u32) -> Option<OwnedSemaphorePermit> {
        if memories > self.limits.instances {
            return None;
        }
        loop {
            if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(memories) {
                return Some(room);
            }
            let oldest = self.lock().pop();
            drop(oldest?);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn push(&mut self, one: Waiting) {
        self.bytes += one.bytes;
        self.waiting.push_back(one);
    }

    fn pop(&mut self) -> Option<Waiting> {
        self.take(0)
    }

    fn take(&mut self, at: usize) -> Option<Waiting> {
        let one = self.waiting.remove(at)?;
        self.bytes -= one.bytes;
        Some(one)
    }
}

impl Instances {
    /// For a version that was just loaded.
    pub(super) fn new(idle: Arc<Idle>, pre: &InstancePre<State>) -> Self {
        let version = idle.loaded.fetch_add(1, Ordering::Relaxed);
        let memories = pre.component().resources_required().map_or(u32::MAX, |required| required.num_memories.max(1));
        Self { idle, version, memories }
    }

    /// The one of the call's stage that was used last.
    pub(super) fn take(&self, call: &Call) -> Option<Kept> {
        let key = self.key(call, call.reuse?);
        let mut queue = self.idle.lock();
        let at = queue.waiting.iter().rposition(|one| one.key == key)?;
        queue.take(at).map(|one| one.kept)
    }

    /// Keeps one after this call, which ended well, if its stage wants it and there is room.
    pub(super) fn give(&self, call: &Call, mut kept: Kept) {
        let Some(reuse) = call.reuse.filter(|reuse| kept.runs < reuse.invocations.min(MAX_INVOCATIONS)) else { return };
        let state = kept.store.data_mut();
        state.rest();
        let (memory, bytes) = (state.usage.memory, state.usage.bytes());
        if bytes > self.idle.limits.bytes || memory > call.limits.memory / 4 * 3 {
            return;
        }
        let Some(room) = self.idle.room(self.memories) else { return };
        let one = Waiting { key: self.key(call, reuse), since: monotonic(), bytes, kept, _room: room };
        // Dropped without the lock.
        let mut gone = Vec::new();
        let mut queue = self.idle.lock();
        while queue.bytes.saturating_add(bytes) > self.idle.limits.bytes {
            let Some(oldest) = queue.pop() else { break };
            gone.push(oldest);
        }
        queue.push(one);
        drop(queue);
    }

    fn key(&self, call: &Call, reuse: Reuse) -> Key {
        Key {
            version: self.version,
            tenant: call.tenant,
            connection: reuse.connection,
            stage: reuse.stage,
            config: Arc::as_ptr(&call.config).addr(),
            secrets: Arc::as_ptr(&call.secrets).addr(),
        }
    }
}

impl Drop for Instances {
    fn drop(&mut self) {
        drop(self.idle.of(self.version));
    }
}
