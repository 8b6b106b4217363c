//! Threads that run guests, and nothing else.
//!
//! - One queue a tenant, served by deficit round-robin in microseconds of measured work: a tenant with slow plugins gets as
//!   much time as one with quick ones, not as many calls.
//! - A thread takes many calls at once, since waking it costs about as much as a small call; but no more than its share, so
//!   that no thread is idle while another has a pile. It is woken once the runtime has nothing else to do right now, when all that
//!   becomes ready together is queued; and it tells of many calls at once, so that the runtime is woken once for all of them.
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

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::clock::monotonic;
use crate::event::TenantId;

/// Stack of a worker. Must exceed the guest's and the host's frames below it, or a guest's recursion ends the process.
const THREAD_STACK: usize = 2 << 20;
/// What one hand-off to a thread may cost, by what its calls cost so far.
pub(super) const HAND_OFF: Duration = Duration::from_millis(1);
const HAND_OFF_CALLS: usize = 64;
/// For how long a thread keeps to itself what it has done, while it has more to do.
const TELL_AFTER: Duration = Duration::from_micros(200);
/// As much work as this that waits is worth another thread.
const WORTH_A_THREAD_US: u64 = 100;
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
    /// What a call is taken to cost at least. With [`HAND_OFF`] no call waits behind another's that was handed off with it.
    pub(super) least_us: u64,
}

/// Handle to the pool; the threads end when the last one is dropped and the queues are empty.
pub(super) struct Pool {
    short: Arc<Lane>,
    long: Arc<Lane>,
    room: Arc<Semaphore>,
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
    tenant_queue: usize,
    least_us: u64,
}

/// What a thread does for somebody who waits.
pub(super) trait Work: Send {
    /// On a thread of the pool.
    fn run(&mut self);

    /// Back on the runtime's threads, also after a panic.
    fn tell(self: Box<Self>);
}

struct Job {
    cost_us: u64,
    work: Box<dyn Work>,
    _room: [OwnedSemaphorePermit; 2],
}

struct Lane {
    queues: Mutex<Queues>,
    wake: Condvar,
    /// Set when a thread has to be woken.
    called: Notify,
    threads: usize,
}

#[derive(Default)]
struct Queues {
    tenants: HashMap<TenantId, Queue>,
    /// Tenants that have calls waiting, in the order in which they are served.
    ring: VecDeque<TenantId>,
    waiting: usize,
    waiting_us: u64,
    idle_threads: usize,
    closed: bool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    deficit_us: u64,
}

impl Pool {
    /// Needs a runtime around it.
    pub(super) fn start(size: Size) -> io::Result<Self> {
        Ok(Self {
            short: Lane::start("plugin", size.threads, size.queue)?,
            long: Lane::start("plugin-long", size.long_threads, size.queue)?,
            room: Arc::new(Semaphore::new(size.queue)),
            tenants: Mutex::default(),
            tenant_queue: size.tenant_queue,
            least_us: size.least_us,
        })
    }

    /// Queues work for a tenant once there is room. `cost_us` is what such work cost so far.
    pub(super) async fn submit(&self, tenant: TenantId, cost_us: u64, work: Box<dyn Work>) {
        let own = self.tenant(tenant).acquire_owned().await;
        let common = Arc::clone(&self.room).acquire_owned().await;
        // The semaphores are never closed.
        let (Ok(own), Ok(common)) = (own, common) else { return };
        let lane = if cost_us > LONG_US { &self.long } else { &self.short };
        lane.push(tenant, Job { cost_us: cost_us.max(self.least_us), work, _room: [own, common] });
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
            lane.called.notify_one();
        }
    }
}

impl Lane {
    /// `calls` is how many may wait or run.
    fn start(name: &str, threads: usize, calls: usize) -> io::Result<Arc<Self>> {
        let lane = Arc::new(Self { queues: Mutex::default(), wake: Condvar::new(), called: Notify::new(), threads });
        // Room for all that are under way, so that a thread never waits here.
        let (done, finished) = mpsc::channel(calls);
        for number in 0..threads {
            let (lane, done) = (Arc::clone(&lane), done.clone());
            thread::Builder::new().name(format!("{name}-{number}")).stack_size(THREAD_STACK).spawn(move || lane.work(&done))?;
        }
        tokio::spawn(Arc::clone(&lane).wake_threads());
        tokio::spawn(tell(finished));
        Ok(lane)
    }

    fn push(&self, tenant: TenantId, job: Job) {
        let mut queues = lock(&self.queues);
        queues.push(tenant, job);
        let is_thread_idle = queues.idle_threads > 0;
        drop(queues);
        if is_thread_idle {
            self.called.notify_one();
        }
    }

    /// Wakes threads for what was pushed, until the pool is dropped.
    async fn wake_threads(self: Arc<Self>) {
        loop {
            self.called.notified().await;
            // A thread that wakes at once takes the processor from whoever has more to push.
            tokio::task::yield_now().await;
            let queues = lock(&self.queues);
            if queues.closed {
                return;
            }
            let worth = usize::try_from(1 + queues.waiting_us / WORTH_A_THREAD_US).unwrap_or(usize::MAX);
            let threads = worth.min(queues.waiting).min(queues.idle_threads);
            drop(queues);
            for _ in 0..threads {
                self.wake.notify_one();
            }
        }
    }

    fn work(&self, done: &mpsc::Sender<Vec<Job>>) {
        while let Some(jobs) = self.next_jobs() {
            let mut finished = Vec::with_capacity(jobs.len());
            let mut since = monotonic();
            for mut job in jobs {
                // Whoever waits for the answer learns of a panic; the thread is needed for the next call.
                let _ = catch_unwind(AssertUnwindSafe(|| job.work.run()));
                finished.push(job);
                if since.elapsed() > TELL_AFTER {
                    // Fails when the runtime is gone, and with it who waits.
                    let _ = done.blocking_send(std::mem::take(&mut finished));
                    since = monotonic();
                }
            }
            if !finished.is_empty() {
                let _ = done.blocking_send(finished);
            }
        }
    }

    /// What a thread does next, once there is something; none at the end.
    fn next_jobs(&self) -> Option<Vec<Job>> {
        let mut queues = lock(&self.queues);
        while queues.waiting == 0 {
            if queues.closed {
                return None;
            }
            queues.idle_threads += 1;
            queues = self.wake.wait(queues).unwrap_or_else(PoisonError::into_inner);
            queues.idle_threads -= 1;
        }
        Some(queues.hand_off(self.threads))
    }
}

/// Tells those who wait, and frees the room of what is done.
async fn tell(mut finished: mpsc::Receiver<Vec<Job>>) {
    while let Some(jobs) = finished.recv().await {
        for job in jobs {
            job.work.tell();
        }
    }
}

impl Queues {
    fn push(&mut self, tenant: TenantId, job: Job) {
        let queue = self.tenants.entry(tenant).or_default();
        if queue.jobs.is_empty() {
            self.ring.push_back(tenant);
        }
        self.waiting += 1;
        self.waiting_us += job.cost_us.max(1);
        queue.jobs.push_back(job);
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
                self.waiting_us -= job.cost_us.max(1);
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
