//! Overload: how fast what can wait may go, so that the normal lane stays quick.
//!
//! Ten times a second it looks at two things: how many of the normal lane's deliveries began later than
//! `dispatch.latency_target`, and how long the store's quickest write of outcomes took, against what is usual. When either is too
//! much, the low lane yields at once, and after it what is parked; when both are well again for a while, they speed up step by step,
//! what is parked first, and no faster than twice what is used: a backlog that is drained must not become the next overload. Each
//! overload that comes back soon after the last doubles the time until the next try. The normal lane, retries, acks and ingest
//! never yield.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::budget::{Allowance, Class};
use crate::clock::monotonic;
use crate::control::snapshot::{Percent, Traffic};

/// Between two looks.
const TICK: Duration = Duration::from_millis(100);
/// A store's write is never called slow below this.
const SLOW_AT_LEAST: Duration = Duration::from_millis(10);
/// A write is slow from this multiple of what is usual on, and well again below the other.
const SLOW: u32 = 4;
const WELL: u32 = 2;
/// Usual is the quickest minute of this many.
const MINUTES: usize = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// Looks in a row that must find the store slow.
const CONFIRMED: u32 = 2;
/// Fewer deliveries than this say nothing about the normal lane.
const ENOUGH: u64 = 5;
/// How long all must be well before the first step up: at first, and at most.
const HOLD: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// An overload within this time of the last step up counts as one that came back.
const SOON: Duration = Duration::from_secs(10);
/// One step down, and one up.
const DOWN: f64 = 0.5;
const UP: f64 = 1.25;
/// What the low lane has at least, in events per second.
const LOW_FLOOR: f64 = 10.0;
/// What is parked has at least this part of the capacity.
const CATCH_UP_FLOOR: f64 = 0.1;
/// With these parts of the capacity the low lane, and what is parked, begin, and begin again after a rest.
const LOW_BEGINS: f64 = 0.25;
const CATCH_UP_BEGINS: f64 = 1.0;
/// The capacity of a node that has not shown it yet, in events per second.
const CAPACITY: f64 = 1_000.0;
/// How much of the capacity that was shown is forgotten in each look.
const FORGOTTEN: f64 = 0.000_5;

/// What is counted between two looks.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    deliveries: AtomicU64,
    late: AtomicU64,
    half_late: AtomicU64,
    /// The quickest write in microseconds, plus one; 0 is none.
    write: AtomicU64,
    writing: AtomicU64,
}

impl Pressure {
    /// A delivery of the normal lane began so long after its acceptance.
    pub(super) fn delivery(&self, latency: Duration, target: Duration) {
        self.deliveries.fetch_add(1, Ordering::Relaxed);
        if latency > target / 2 {
            self.half_late.fetch_add(1, Ordering::Relaxed);
        }
        if latency > target {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A write to the store is under way until the answer is dropped.
    pub(super) fn write(&self) -> Writing<'_> {
        self.writing.fetch_add(1, Ordering::Relaxed);
        Writing(self)
    }

    fn look(&self) -> Seen {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        let (late, half_late, deliveries) = (take(&self.late), take(&self.half_late), take(&self.deliveries));
        let write = Some(take(&self.write)).filter(|micros| *micros > 0).map(Duration::from_micros);
        let stalled = write.is_none() && self.writing.load(Ordering::Relaxed) > 0;
        Seen { deliveries, late, half_late, write, stalled, ..Seen::default() }
    }
}

/// A write to the store that is under way.
pub(super) struct Writing<'a>(&'a Pressure);

impl Writing<'_> {
    /// It was written, and took so long.
    pub(super) fn written(self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let quicker = |least| (least == 0 || took < least).then_some(took);
        let _ = self.0.write.fetch_update(Ordering::Relaxed, Ordering::Relaxed, quicker);
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.writing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one look found.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    deliveries: u64,
    late: u64,
    half_late: u64,
    /// The quickest write, if one ended.
    write: Option<Duration>,
    /// Whether a write was under way and none ended.
    stalled: bool,
    /// Work that ended, and that of the two which can wait that began; each in a second.
    finished: f64,
    low: f64,
    catch_up: f64,
}

/// How a look judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Overloaded,
    /// Neither one nor the other: nothing changes.
    Unsure,
    Well,
}

/// The controller. Pure: time and what was seen are given to it.
#[derive(Debug)]
struct Overload {
    capacity: f64,
    low: f64,
    catch_up: f64,
    /// The quickest write of each minute.
    usual: VecDeque<(Instant, Duration)>,
    slow_looks: u32,
    well_since: Option<Instant>,
    hold: Duration,
    stepped_up: Option<Instant>,
    yielding: bool,
}

impl Overload {
    fn new() -> Self {
        Self {
            capacity: CAPACITY,
            low: CAPACITY * LOW_BEGINS,
            catch_up: CAPACITY * CATCH_UP_BEGINS,
            usual: VecDeque::new(),
            slow_looks: 0,
            well_since: None,
            hold: HOLD.0,
            stepped_up: None,
            yielding: false,
        }
    }

    fn look(&mut self, seen: &Seen, now: Instant) {
        self.capacity = (self.capacity * (1.0 - FORGOTTEN)).max(seen.finished).max(CAPACITY);
        match self.judge(seen, now) {
            Verdict::Overloaded => self.step_down(now),
            Verdict::Unsure => self.well_since = None,
            Verdict::Well => {
                let since = *self.well_since.get_or_insert(now);
                if now.duration_since(since) >= self.hold {
                    self.step_up(seen, now);
                }
            }
        }
    }

    fn judge(&mut self, seen: &Seen, now: Instant) -> Verdict {
        let usual = self.usual.iter().map(|(_, least)| *least).min();
        let slow = usual.map_or(SLOW_AT_LEAST, |usual| (usual * SLOW).max(SLOW_AT_LEAST));
        let well = usual.map_or(SLOW_AT_LEAST, |usual| (usual * WELL).max(SLOW_AT_LEAST / 2));
        self.slow_looks = match seen.write {
            Some(took) if took > slow => self.slow_looks + 1,
            None if seen.stalled => self.slow_looks + 1,
            Some(_) => 0,
            None => self.slow_looks,
        };
        if let Some(took) = seen.write {
            self.remember(took, now);
        }
        let enough = seen.deliveries >= ENOUGH;
        if self.slow_looks >= CONFIRMED || (enough && seen.late * 10 > seen.deliveries) {
            return Verdict::Overloaded;
        }
        let store_is_well = !seen.stalled && seen.write.is_none_or(|took| took <= well) && self.slow_looks == 0;
        let lane_is_well = !enough || seen.half_late * 10 <= seen.deliveries;
        if store_is_well && lane_is_well { Verdict::Well } else { Verdict::Unsure }
    }

    fn remember(&mut self, took: Duration, now: Instant) {
        match self.usual.back_mut() {
            Some((since, least)) if now.duration_since(*since) < MINUTE => *least = (*least).min(took),
            _ => self.usual.push_back((now, took)),
        }
        if self.usual.len() > MINUTES {
            self.usual.pop_front();
        }
    }

    fn step_down(&mut self, now: Instant) {
        self.well_since = None;
        if self.low > LOW_FLOOR {
            self.low = (self.low * DOWN * DOWN).max(LOW_FLOOR);
        } else {
            self.catch_up = (self.catch_up * DOWN).max(self.capacity * CATCH_UP_FLOOR);
        }
        // Once for each overload, however long it lasts.
        if let Some(at) = self.stepped_up.take() {
            let came_back = now.duration_since(at) < SOON;
            self.hold = if came_back { (self.hold * 2).min(HOLD.1) } else { HOLD.0 };
        }
        self.yielding = true;
    }

    fn step_up(&mut self, seen: &Seen, now: Instant) {
        let (low_begins, catch_up_begins) = (self.capacity * LOW_BEGINS, self.capacity * CATCH_UP_BEGINS);
        let up = |rate: f64, used: f64, begins: f64| (rate * UP).min((used * 2.0).max(begins)).max(rate.min(begins));
        let parked_has_enough = seen.catch_up < self.catch_up * 0.8;
        self.catch_up = up(self.catch_up, seen.catch_up, catch_up_begins);
        if parked_has_enough || self.catch_up >= self.capacity {
            self.low = up(self.low, seen.low, low_begins);
        }
        self.stepped_up = Some(now);
        if self.low >= low_begins {
            self.yielding = false;
        }
    }
}

/// Sets what every class and shard is allowed before anything was seen.
pub(super) fn begin(shared: &Shared) {
    allow(shared, &Overload::new());
}

/// Looks again and again, and sets what every class and shard is allowed.
pub(super) async fn keep(shared: Arc<Shared>, stop: CancellationToken) {
    let mut overload = Overload::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut last, mut yielding) = (monotonic(), false);
    let (mut low, mut catch_up) = (0, 0);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let now = monotonic();
        let took = now.duration_since(last).as_secs_f64().max(0.001);
        last = now;
        let seen = Seen {
            finished: shared.in_flight.finished() as f64 / took,
            low: low as f64 / took,
            catch_up: catch_up as f64 / took,
            ..shared.pressure.look()
        };
        overload.look(&seen, now);
        (low, catch_up) = allow(&shared, &overload);
        if yielding != overload.yielding {
            yielding = overload.yielding;
            shared.metrics.yielding(yielding);
            if yielding {
                tracing::warn!(late = seen.late, of = seen.deliveries, store_write = ?seen.write, "overloaded: the low lane yields");
            } else {
                tracing::info!("no longer overloaded: the low lane is served again");
            }
        }
    }
}

/// Answers how much of the low lane, and of what is parked, began since the last time.
fn allow(shared: &Shared, overload: &Overload) -> (u64, u64) {
    let snapshot = shared.snapshots.load();
    let traffic: &Traffic = &snapshot.traffic;
    let budget = &shared.in_flight;
    let part = |percent: Percent| {
        if percent == Percent::ALL {
            return Allowance::EVERYTHING;
        }
        Allowance { at_once: percent.of(budget.whole()), per_second: overload.capacity * f64::from(percent.get()) / 100.0 }
    };
    let at_most = |allowed: Allowance, rate: f64| Allowance { per_second: allowed.per_second.min(rate), ..allowed };
    budget.allow(Class::Normal, part(traffic.normal));
    budget.allow(Class::Held, at_most(part(traffic.held), overload.catch_up));
    budget.allow(Class::Retries, part(traffic.retries));
    let shards: BTreeMap<_, _> = traffic.shards.iter().map(|(shard, percent)| (*shard, part(*percent))).collect();
    budget.allow_shards(&shards);
    let low = budget.allow(Class::Low, at_most(part(traffic.low), overload.low));
    let catch_up = budget.allow(Class::CatchUp, at_most(Allowance::EVERYTHING, overload.catch_up));
    (low, catch_up)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Duration = Duration::from_millis(1);

    struct World {
        overload: Overload,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            Self { overload: Overload::new(), now: monotonic() }
        }

        /// Lets time go by with this to see in each look; everything that may be used is.
        fn pass(&mut self, time: Duration, seen: impl Fn() -> Seen) {
            let end = self.now + time;
            while self.now < end {
                self.now += TICK;
                // The rest of what they are allowed is of no use to them.
                let [low, catch_up] = [self.overload.low, self.overload.catch_up].map(|rate| rate.min(10_000.0));
                let of = seen();
                self.overload.look(&Seen { low, catch_up, finished: of.finished, ..of }, self.now);
            }
        }
    }

    fn well() -> Seen {
        Seen { deliveries: 50, write: Some(USUAL), finished: 10_000.0, ..Seen::default() }
    }

    fn slow() -> Seen {
        Seen { write: Some(USUAL * 30), ..well() }
    }

    #[test]
    fn what_can_wait_speeds_up_while_all_is_well() {
        let mut world = World::new();
        world.pass(Duration::from_secs(1), well);
        let early = world.overload.low;
        world.pass(Duration::from_secs(5), well);
        assert!(world.overload.catch_up >= 10_000.0, "{world:?}", world = world.overload);
        assert!(world.overload.low > early && world.overload.low >= 5_000.0);
    }

    #[test]
    fn the_low_lane_yields_first_and_what_is_parked_keeps_a_part() {
        let mut world = World::new();
        world.pass(Duration::from_secs(10), well);
        let before = world.overload.catch_up;
        world.pass(Duration::from_millis(200), slow);
        assert!(world.overload.low <= 5_000.0 && world.overload.catch_up >= before);
        world.pass(Duration::from_secs(5), slow);
        assert_eq!(world.overload.low, LOW_FLOOR);
        assert!(world.overload.catch_up <= before / 5.0 && world.overload.catch_up >= 900.0);
        assert!(world.overload.yielding);
        world.pass(Duration::from_secs(10), well);
        assert!(!world.overload.yielding && world.overload.low > 2_000.0, "{:?}", world.overload);
    }

    #[test]
    fn late_deliveries_are_an_overload_and_a_single_slow_write_is_none() {
        let mut world = World::new();
        world.pass(Duration::from_secs(2), well);
        world.pass(TICK, slow);
        assert!(!world.overload.yielding);
        world.pass(TICK, || Seen { late: 2, half_late: 2, deliveries: 4, ..well() });
        assert!(!world.overload.yielding, "four say nothing");
        world.pass(TICK, || Seen { late: 6, half_late: 9, ..well() });
        assert!(world.overload.yielding);
    }

    #[test]
    fn a_store_that_answers_nothing_is_slow_and_one_that_nobody_asks_is_not() {
        let mut world = World::new();
        world.pass(Duration::from_secs(2), well);
        world.pass(Duration::from_secs(5), || Seen { write: None, deliveries: 0, ..well() });
        assert!(!world.overload.yielding);
        world.pass(TICK * 2, || Seen { write: None, stalled: true, deliveries: 0, ..well() });
        assert!(world.overload.yielding);
    }

    #[test]
    fn a_write_is_under_way_until_it_ends_in_any_way() {
        let pressure = Pressure::default();
        let looked = || {
            let Seen { write, stalled, .. } = pressure.look();
            (write, stalled)
        };
        let (broken, quick, slow) = (pressure.write(), pressure.write(), pressure.write());
        assert_eq!(looked(), (None, true));
        drop(broken);
        slow.written(Duration::from_millis(5));
        quick.written(Duration::from_millis(3));
        assert_eq!(looked(), (Some(Duration::from_millis(3)), false));
        assert_eq!(looked(), (None, false));
    }

    #[test]
    fn an_overload_that_comes_back_waits_longer_each_time() {
        let mut world = World::new();
        world.pass(Duration::from_secs(5), well);
        let mut waits = Vec::new();
        for _ in 0..5 {
            world.pass(Duration::from_secs(1), slow);
            let began = world.now;
            while world.overload.low <= LOW_FLOOR {
                world.pass(TICK, well);
            }
            waits.push(world.now.duration_since(began));
        }
        assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
        world.pass(SOON * 2, well);
        world.overload.stepped_up = Some(world.now - SOON * 2);
        world.pass(Duration::from_secs(1), slow);
        assert_eq!(world.overload.hold, HOLD.0, "long after the last it is a new one");
    }

    #[test]
    fn a_store_that_stays_slow_is_usual_after_a_while() {
        let mut world = World::new();
        world.pass(Duration::from_secs(60), well);
        world.pass(Duration::from_secs(5), slow);
        assert!(world.overload.yielding);
        world.pass(MINUTE * (MINUTES as u32 + 2), slow);
        assert!(!world.overload.yielding);
    }
}
