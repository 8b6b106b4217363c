//! Threads that run guests, and nothing else.
//!
//! - One queue a tenant, served by deficit round-robin in microseconds of measured work: a tenant with slow plugins gets as
//!   much time as one with quick ones, not as many calls.
//! - A thread takes many calls at once, since waking it costs about as much as a small call; but no more than its share, so
//!   that no thread is idle while another has a pile. It is woken once the runtime has nothing else to do right now, when all that
//!   becomes ready together is queued; and it tells of many calls at once, so that the runtime is woken once for all of them.
//! - Calls that are known to be long have threads of their own, which the operating system preempts for whatever else becomes ready; short
//!   calls never wait behind them. A call that turns out to be long leaves its thread's place among the short ones to a new thread, which
//!   takes what was to follow, and has the place of a long call until it ends. There are few such places: while another call or two could
//!   take the last of them, only calls that are known to be short run among the short ones, or they could all be held up.
//! - [`Room`] in a queue is taken before the call is queued and goes when it is done. Who has no room waits; nothing grows.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use super::cost::{Cost, LONG_US, TakingLong};
use crate::background::{NICE, step_back};
use crate::clock::{monotonic, thread_cpu};
use crate::event::TenantId;
use crate::room::{Held, Room};

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
/// A call that has taken so much of the processor when it is looked at gives way to what follows it.
const GIVE_WAY: Duration = Duration::from_millis(2);

/// How many calls at once may have given way to those of a lane with so many threads: one more than it takes to hold up all of them.
pub(super) fn may_give_way(threads: usize) -> usize {
    threads + 1
}

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
    room: Room,
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
    tenant: TenantId,
    /// What it was expected to take when it was queued.
    cost_us: u64,
    cost: Arc<Cost>,
    work: Box<dyn Work>,
    _room: Held,
}

struct Lane {
    name: &'static str,
    queues: Mutex<Queues>,
    wake: Condvar,
    /// Set when a thread has to be woken.
    called: Notify,
    threads: usize,
    done: mpsc::Sender<Vec<Job>>,
    /// Where calls go on that turn out to be long.
    long: Option<Arc<Lane>>,
    /// Calls of another lane that have the place of one of this lane's; changed while the queues are locked.
    guests: AtomicUsize,
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
        let long = Lane::start("plugin-long", size.long_threads, size.queue, None)?;
        Ok(Self {
            short: Lane::start("plugin", size.threads, size.queue, Some(Arc::clone(&long)))?,
            long,
            room: Room::new(size.queue, size.tenant_queue),
            least_us: size.least_us,
        })
    }

    /// Queues work for a tenant once there is room. `cost` is what such work took so far.
    pub(super) async fn submit(&self, tenant: TenantId, cost: Arc<Cost>, work: Box<dyn Work>) {
        let room = self.room.take(tenant).await;
        let job = Job { tenant, cost_us: cost.us().max(self.least_us), cost, work, _room: room };
        if job.cost.is_long() { self.long.push_long(job) } else { self.short.push(job) }
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
    fn start(name: &'static str, threads: usize, calls: usize, long: Option<Arc<Lane>>) -> io::Result<Arc<Self>> {
        // Room for all that are under way, so that a thread never waits here.
        let (done, finished) = mpsc::channel(calls);
        let (queues, guests) = (Mutex::default(), AtomicUsize::default());
        let lane = Self { name, queues, wake: Condvar::new(), called: Notify::new(), threads, done, long, guests };
        let lane = Arc::new(lane);
        for _ in 0..threads {
            lane.thread()?;
        }
        tokio::spawn(Arc::clone(&lane).wake_threads());
        tokio::spawn(tell(finished));
        Ok(lane)
    }

    fn thread(self: &Arc<Self>) -> io::Result<()> {
        let lane = Arc::clone(self);
        let work = move || {
            if lane.long.is_none() {
                step_back(NICE);
            }
            lane.work();
        };
        thread::Builder::new().name(self.name.into()).stack_size(THREAD_STACK).spawn(work)?;
        Ok(())
    }

    /// A call that is long, whatever it was expected to take: no thread has two at once.
    fn push_long(&self, job: Job) {
        let cost_us = job.cost.us().max(job.cost_us).max(LONG_US);
        self.push(Job { cost_us, ..job });
    }

    fn push(&self, job: Job) {
        let mut queues = lock(&self.queues);
        queues.push(job);
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

    fn work(self: Arc<Self>) {
        while let Some(jobs) = self.next_jobs() {
            let now = monotonic();
            let lane = Arc::clone(&self);
            let cost = Arc::default();
            let used = thread_cpu();
            POST.set(Some(Post { lane, jobs, finished: Vec::new(), cost, long: None, told: now, used, has_left: false }));
            while let Some(mut job) = at_post(Post::next) {
                // Whoever waits for the answer learns of a panic; the thread is needed for the next call.
                let _ = catch_unwind(AssertUnwindSafe(|| job.work.run()));
                at_post(|post| {
                    post.finished(job);
                    Some(())
                });
            }
            let Some(mut post) = POST.take() else { return };
            post.tell();
            if post.has_left {
                return self.long.iter().for_each(|long| long.leave());
            }
        }
    }

    /// Gives a call of another lane the place of one of this lane's, though at first it is one more. No more than `most` have one.
    fn enter(&self, most: usize) -> bool {
        let queues = lock(&self.queues);
        let has_room = self.guests() < most && !queues.closed;
        self.guests.fetch_add(usize::from(has_room), Ordering::Relaxed);
        has_room
    }

    fn leave(&self) {
        let queues = lock(&self.queues);
        self.guests.fetch_sub(1, Ordering::Relaxed);
        drop(queues);
        self.wake.notify_one();
    }

    fn guests(&self) -> usize {
        self.guests.load(Ordering::Relaxed)
    }

    /// Whether each of this lane's threads could still leave the call that it is about to run.
    fn may_try(&self) -> bool {
        self.long.as_ref().is_none_or(|long| long.guests() + self.threads <= may_give_way(self.threads))
    }

    /// What a thread does next, once there is something; none at the end.
    fn next_jobs(&self) -> Option<VecDeque<Job>> {
        let mut queues = lock(&self.queues);
        while queues.waiting == 0 || self.guests().min(self.threads - 1) > queues.idle_threads {
            if queues.closed && queues.waiting == 0 {
                return None;
            }
            queues.idle_threads += 1;
            queues = self.wake.wait(queues).unwrap_or_else(PoisonError::into_inner);
            queues.idle_threads -= 1;
        }
        Some(queues.hand_off(self.threads).into())
    }
}

/// What a thread has in hand.
struct Post {
    lane: Arc<Lane>,
    /// What follows.
    jobs: VecDeque<Job>,
    /// What is done, and not told yet.
    finished: Vec<Job>,
    /// What calls like the one at hand take.
    cost: Arc<Cost>,
    /// Whether the call at hand has turned out to be long.
    long: Option<TakingLong>,
    /// Since when it keeps that to itself.
    told: Instant,
    /// What the thread had taken of the processor when the call at hand began.
    used: Duration,
    /// Another thread has its place in the lane.
    has_left: bool,
}

thread_local! {
    static POST: RefCell<Option<Post>> = const { RefCell::new(None) };
}

/// Tells that the call on this thread is still running; to be called now and then while it does.
pub(super) fn still_running() {
    at_post(|post| {
        // Who was kept waiting for the processor is not long by that.
        if thread_cpu().saturating_sub(post.used) >= GIVE_WAY {
            // First, so that what follows of its kind goes to the long ones.
            post.long.get_or_insert_with(|| post.cost.is_taking_long());
            post.leave();
        }
        Some(())
    });
}

/// Nothing on a thread that is none of a pool's.
fn at_post<T>(act: impl FnOnce(&mut Post) -> Option<T>) -> Option<T> {
    POST.with_borrow_mut(|post| post.as_mut().and_then(act))
}

impl Post {
    fn next(&mut self) -> Option<Job> {
        loop {
            let job = self.jobs.pop_front()?;
            match &self.lane.long {
                // Its version has had a long call since it was queued, or could have one now that holds up the others.
                Some(long) if job.cost.is_long() || !job.cost.is_short() && !self.lane.may_try() => long.push_long(job),
                _ => {
                    self.cost = Arc::clone(&job.cost);
                    return Some(job);
                }
            }
        }
    }

    fn finished(&mut self, job: Job) {
        let used = thread_cpu();
        job.cost.took(u64::try_from(used.saturating_sub(self.used).as_micros()).unwrap_or(u64::MAX));
        self.used = used;
        self.long = None;
        self.finished.push(job);
        let now = monotonic();
        if now.saturating_duration_since(self.told) > TELL_AFTER {
            self.tell();
            self.told = now;
        }
    }

    fn tell(&mut self) {
        if !self.finished.is_empty() {
            // Fails when the runtime is gone, and with it who waits.
            let _ = self.lane.done.blocking_send(std::mem::take(&mut self.finished));
        }
    }

    /// Has another thread go on with what follows, if there is room for one.
    fn leave(&mut self) {
        let Some(long) = self.lane.long.clone().filter(|long| !self.has_left && long.enter(may_give_way(self.lane.threads))) else {
            return;
        };
        self.has_left = true;
        self.tell();
        lock(&self.lane.queues).push_back(std::mem::take(&mut self.jobs));
        self.lane.called.notify_one();
        if let Err(error) = self.lane.thread() {
            // The others of the lane do its work; this one comes back to it.
            tracing::warn!(%error, "no thread in the place of one that runs a long call");
            self.has_left = false;
            return long.leave();
        }
        step_back(NICE);
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
    fn push(&mut self, job: Job) {
        self.queue(&job).jobs.push_back(job);
    }

    /// Takes back what was handed off, and not begun.
    fn push_back(&mut self, jobs: VecDeque<Job>) {
        for job in jobs.into_iter().rev() {
            let queue = self.queue(&job);
            queue.deficit_us = queue.deficit_us.saturating_add(job.cost_us.max(1));
            queue.jobs.push_front(job);
        }
    }

    /// The queue that this job is about to be in.
    fn queue(&mut self, job: &Job) -> &mut Queue {
        self.waiting += 1;
        self.waiting_us += job.cost_us.max(1);
        let queue = self.tenants.entry(job.tenant).or_default();
        if queue.jobs.is_empty() {
            self.ring.push_back(job.tenant);
        }
        queue
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
