//! Threads that run guests, and nothing else.
//!
//! - One queue a tenant, served by deficit round-robin in microseconds of measured work: a tenant with slow plugins gets as
//!   much time as one with quick ones, not as many calls.
//! - A thread takes many calls at once, since waking it costs about as much as a small call; but no more than its share, so
//!   that no thread is idle while another has a pile.
//! - Calls that are known to be long have threads of their own, which the operating system preempts; short calls never wait
//!   behind them.
//! - Room in a queue is an owned permit that is taken before the call is queued and goes when it is done: first the tenant's,
//!   then the pool's. Who has no room waits; nothing grows.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::event::TenantId;

/// Stack of a worker. Must exceed the guest's and the host's frames below it, or a guest's recursion ends the process.
const THREAD_STACK: usize = 2 << 20;
/// What one hand-off to a thread may cost, by what its calls cost so far.
const HAND_OFF: Duration = Duration::from_millis(1);
const HAND_OFF_CALLS: usize = 64;
/// What a tenant is given in each round.
const QUANTUM_US: u64 = 200;
/// A version whose calls take longer than this on average is long.
pub(super) const LONG_US: u64 = 5_000;

/// How large the pool is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) threads: usize,
    pub(super) long_threads: usize,
    pub(super) queue: usize,
    pub(super) tenant_queue: usize,
}

/// Handle to the pool; the threads end when the last one is dropped and the queues are empty.
pub(super) struct Pool {
    short: Arc<Lane>,
    long: Arc<Lane>,
    room: Arc<Semaphore>,
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
    tenant_queue: usize,
}

type Work = Box<dyn FnOnce() + Send>;

struct Job {
    cost_us: u64,
    work: Work,
    _room: [OwnedSemaphorePermit; 2],
}

struct Lane {
    queues: Mutex<Queues>,
    wake: Condvar,
    threads: usize,
}

#[derive(Default)]
struct Queues {
    tenants: HashMap<TenantId, Queue>,
    /// Tenants that have calls waiting, in the order in which they are served.
    ring: VecDeque<TenantId>,
    waiting: usize,
    closed: bool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    deficit_us: u64,
}

impl Pool {
    pub(super) fn start(size: Size) -> io::Result<Self> {
        Ok(Self {
            short: Lane::start("plugin", size.threads)?,
            long: Lane::start("plugin-long", size.long_threads)?,
            room: Arc::new(Semaphore::new(size.queue)),
            tenants: Mutex::default(),
            tenant_queue: size.tenant_queue,
        })
    }

    /// Queues work for a tenant once there is room. `cost_us` is what such work cost so far.
    pub(super) async fn submit(&self, tenant: TenantId, cost_us: u64, work: Work) {
        let own = self.tenant(tenant).acquire_owned().await;
        let common = Arc::clone(&self.room).acquire_owned().await;
        // The semaphores are never closed.
        let (Ok(own), Ok(common)) = (own, common) else { return };
        let lane = if cost_us > LONG_US { &self.long } else { &self.short };
        lane.push(tenant, Job { cost_us, work, _room: [own, common] });
    }

    fn tenant(&self, tenant: TenantId) -> Arc<Semaphore> {
        let mut tenants = lock(&self.tenants);
        if tenants.len() > 1024 {
            // Nobody holds, and so nobody waits for, what only the map knows.
            tenants.retain(|_, room| Arc::strong_count(room) > 1);
        }
        Arc::clone(tenants.entry(tenant).or_insert_with(|| Arc::new(Semaphore::new(self.tenant_queue))))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for lane in [&self.short, &self.long] {
            lock(&lane.queues).closed = true;
            lane.wake.notify_all();
        }
    }
}

impl Lane {
    fn start(name: &str, threads: usize) -> io::Result<Arc<Self>> {
        let lane = Arc::new(Self { queues: Mutex::default(), wake: Condvar::new(), threads });
        for number in 0..threads {
            let lane = Arc::clone(&lane);
            thread::Builder::new().name(format!("{name}-{number}")).stack_size(THREAD_STACK).spawn(move || lane.work())?;
        }
        Ok(lane)
    }

    fn push(&self, tenant: TenantId, job: Job) {
        lock(&self.queues).push(tenant, job);
        self.wake.notify_one();
    }

    fn work(&self) {
        loop {
            let mut queues = lock(&self.queues);
            while queues.waiting == 0 {
                if queues.closed {
                    return;
                }
                queues = self.wake.wait(queues).unwrap_or_else(PoisonError::into_inner);
            }
            let jobs = queues.hand_off(self.threads);
            drop(queues);
            for job in jobs {
                // Whoever waits for the answer learns of a panic by the dropped channel; the thread is needed for the next call.
                let _ = catch_unwind(AssertUnwindSafe(job.work));
            }
        }
    }
}

impl Queues {
    fn push(&mut self, tenant: TenantId, job: Job) {
        let queue = self.tenants.entry(tenant).or_default();
        if queue.jobs.is_empty() {
            self.ring.push_back(tenant);
        }
        queue.jobs.push_back(job);
        self.waiting += 1;
    }

    /// What one of `threads` takes now: its share of what waits, up to the cost of a hand-off.
    fn hand_off(&mut self, threads: usize) -> Vec<Job> {
        let share = self.waiting.div_ceil(threads.max(1)).min(HAND_OFF_CALLS);
        let mut budget_us = u64::try_from(HAND_OFF.as_micros()).unwrap_or(u64::MAX);
        let mut jobs = Vec::with_capacity(share);
        while jobs.len() < share && (jobs.is_empty() || budget_us > 0) {
            let Some(tenant) = self.ring.pop_front() else { break };
            let Some(queue) = self.tenants.get_mut(&tenant) else { continue };
            queue.deficit_us = queue.deficit_us.saturating_add(QUANTUM_US);
            while jobs.len() < share && budget_us > 0 {
                let Some(job) = queue.jobs.pop_front_if(|job| job.cost_us.max(1) <= queue.deficit_us) else { break };
                queue.deficit_us -= job.cost_us.max(1);
                budget_us = budget_us.saturating_sub(job.cost_us.max(1));
                self.waiting -= 1;
                jobs.push(job);
            }
            if queue.jobs.is_empty() {
                // Who leaves takes no credit along.
                self.tenants.remove(&tenant);
            } else {
                self.ring.push_back(tenant);
            }
        }
        jobs
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
