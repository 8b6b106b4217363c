//! How the gateway's queues stand, how fast they drain, and how many gateways that asks for.
//!
//! All of it is read from the store, so that every node can tell it of all shards. The store counts what was accepted into each lane and
//! what was finished of it; a rate is the difference between the readings of the last [`WINDOW`], which this node keeps.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::Mutex;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::service::{Control, Error};
use super::snapshot::{Percent, Traffic};
use crate::clock::Timestamp;
use crate::event::{Lane, Shard, TenantId};
use crate::store::{Depth, LaneDepth};

/// How far back a rate looks.
const WINDOW: Duration = Duration::from_secs(120);
/// Readings of a window; the last is one more.
const READINGS: u32 = 16;
/// A reading younger than this is used again.
const FRESH: Duration = Duration::from_secs(1);
/// Two readings closer than this make no rate.
const APART: Duration = Duration::from_secs(1);
/// So many tenants are told of.
pub const TOP: usize = 10;
/// Shards that are read at once.
const AT_ONCE: usize = 16;

/// The last readings.
#[derive(Debug, Default)]
pub(super) struct Signals(Mutex<VecDeque<Arc<Reading>>>);

/// Each shard at a time, in the order of their numbers.
#[derive(Debug, Default)]
struct Reading {
    at: Timestamp,
    shards: Vec<Depth>,
    queued: Queued,
}

/// The bytes that are queued.
#[derive(Debug, Default)]
struct Queued {
    /// In each shard.
    shards: Vec<u64>,
    /// Who has most of them, in all shards together; at most [`TOP`].
    top: Vec<(TenantId, u64)>,
}

impl Queued {
    /// Out of what each tenant has in each shard.
    fn of(shards: &[Vec<(TenantId, u64)>]) -> Self {
        let mut sums = HashMap::new();
        for (tenant, bytes) in shards.iter().flatten() {
            *sums.entry(*tenant).or_default() += bytes;
        }
        let mut top: Vec<(TenantId, u64)> = sums.into_iter().collect();
        top.sort_unstable_by_key(|(tenant, bytes)| (Reverse(*bytes), *tenant));
        top.truncate(TOP);
        Self { shards: shards.iter().map(|shard| shard.iter().map(|(_, bytes)| bytes).sum()).collect(), top }
    }
}

/// How the gateway's queues stand.
#[derive(Debug)]
pub struct Measured {
    /// When they were read.
    pub at: Timestamp,
    /// All shards together.
    pub whole: Queues,
    /// Each shard, in the order of their numbers.
    pub shards: Vec<Queues>,
    /// Who has most bytes queued, most first; at most [`TOP`].
    pub top: Vec<(TenantId, u64)>,
}

/// How the queues of a shard stand, or of all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Queues {
    /// Each lane.
    pub lanes: Vec<LaneQueue>,
    /// Jobs that wait for their time.
    pub scheduled: u64,
    /// Jobs that wait for a window, a destination or an operator.
    pub parked: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Bytes of the requests in the lanes, scheduled and parked.
    pub bytes: u64,
}

/// How a lane stands.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneQueue {
    /// Which.
    pub lane: Lane,
    /// Events accepted and not finished nor parked.
    pub events: u64,
    /// Those of them that an operator has not paused.
    pub running: u64,
    /// When the oldest was accepted.
    pub oldest: Option<Timestamp>,
    /// How fast it fills and is worked off. None before there are two readings.
    pub rates: Option<Rates>,
}

/// Events a second, over the last [`WINDOW`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// That were accepted.
    pub accepted: f64,
    /// That were finished or parked.
    pub finished: f64,
}

impl Rates {
    fn between(before: &LaneDepth, after: &LaneDepth, span: Duration) -> Self {
        // A store that lost its last second counts it again.
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / span.as_secs_f64();
        Self { accepted: rate(before.accepted(), after.accepted()), finished: rate(before.finished, after.finished) }
    }

    /// How long it takes to finish so many; none if nothing is finished.
    fn time_for(self, events: u64) -> Option<Duration> {
        Some(self.finished).filter(|rate| *rate > 0.0).and_then(|rate| Duration::try_from_secs_f64(events as f64 / rate).ok())
    }
}

impl std::ops::Add for Rates {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { accepted: self.accepted + other.accepted, finished: self.finished + other.finished }
    }
}

impl LaneQueue {
    /// How long it takes until all that is in it now is finished, at the present rate; none if it is paused or nothing is finished.
    pub fn drain(&self) -> Option<Duration> {
        match self.rates {
            _ if self.events == 0 => Some(Duration::ZERO),
            Some(rates) if self.running > 0 => rates.time_for(self.events),
            _ => None,
        }
    }
}

/// What asks for more or fewer gateways.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// Events in lanes that are not paused.
    pub backlog: u64,
    /// How old the oldest of them is.
    pub oldest_age: Duration,
    /// How fast their lanes fill and are worked off. None before there are two readings.
    pub rates: Option<Rates>,
    /// Gateways that deliver.
    pub nodes: usize,
}

impl Scaling {
    /// How long it takes until the backlog of now is finished, at the present rate; none if nothing is finished.
    pub fn drain(&self) -> Option<Duration> {
        if self.backlog == 0 { Some(Duration::ZERO) } else { self.rates?.time_for(self.backlog) }
    }

    /// How many gateways would have the backlog drained within `target` while as much comes in as now. While nothing has waited that long
    /// there are enough, and while nothing has waited half as long, one more than needed. Where nothing is finished one more is asked for,
    /// and at most twice as many at once; more than shards would have nothing to do.
    pub fn replicas(&self, target: Duration, shards: usize) -> usize {
        let nodes = self.nodes.max(1);
        let wanted = match self.rates.filter(|rates| rates.finished > 0.0) {
            _ if self.oldest_age <= target / 2 => nodes - 1,
            _ if self.oldest_age <= target => nodes,
            None => nodes + 1,
            Some(Rates { accepted, finished }) => {
                let needed = accepted + self.backlog as f64 / target.as_secs_f64().max(1.0);
                (nodes as f64 * (needed / finished).clamp(1.0, 2.0)).ceil() as usize
            }
        };
        wanted.clamp(1, shards.max(1))
    }
}

impl Control {
    /// How the queues of the whole gateway stand.
    pub async fn signals(&self) -> Result<Measured, Error> {
        self.measured(&self.snapshots().current().traffic).await
    }

    async fn measured(&self, traffic: &Traffic) -> Result<Measured, Error> {
        let (first, last) = self.read_signals().await?;
        Ok(measure(&first, &last, traffic))
    }

    /// What asks for more or fewer gateways, and how many of them it asks for.
    pub async fn scaling(&self, target: Duration) -> Result<(Scaling, usize), Error> {
        let snapshot = self.snapshots().current();
        let measured = self.measured(&snapshot.traffic).await?;
        // Nobody by this name is there, so that saying that it is gone only counts the others.
        let nodes = self.store.present("", Duration::ZERO).await?;
        let scaling = scaling(&measured, &snapshot.traffic, nodes);
        Ok((scaling, scaling.replicas(target, measured.shards.len())))
    }

    /// The first reading of the window and the last, which is fresh.
    async fn read_signals(&self) -> Result<(Arc<Reading>, Arc<Reading>), Error> {
        // Held during the reading, so that who asks at the same time shares it.
        let mut readings = self.signals.0.lock().await;
        let now = self.clock.now();
        if readings.back().is_none_or(|last| now.since(last.at) >= FRESH) {
            let depths = stream::iter(0..self.shards()).map(|shard| self.store.depth(Shard(shard)));
            let shards = depths.buffered(AT_ONCE).try_collect().await?;
            let queued = stream::iter(0..self.shards()).map(|shard| self.store.queued_by_tenant(Shard(shard)));
            let queued = Queued::of(&queued.buffered(AT_ONCE).try_collect::<Vec<_>>().await?);
            keep(&mut readings, Arc::new(Reading { at: now, shards, queued }));
        }
        let ends = readings.front().zip(readings.back()).map(|(first, last)| (Arc::clone(first), Arc::clone(last)));
        Ok(ends.expect("one was just made"))
    }
}

/// Reads the queues now and then until `stop`, and tells how long each lane takes to drain.
pub async fn run(control: Arc<Control>, told: impl Fn(Lane, Option<Duration>) + Send, stop: CancellationToken) {
    // However many shards there are, the store is asked for no more than 20 a second.
    let every = Duration::from_secs(10).max(Duration::from_millis(50) * u32::from(control.shards()));
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match control.signals().await {
            Ok(measured) => measured.whole.lanes.iter().for_each(|lane| told(lane.lane, lane.drain())),
            Err(error) => tracing::debug!(%error, "queues not read, trying again"),
        }
    }
}

/// Keeps a reading. What is beyond the window goes, and the last one too if it stands closer to the one before it than the window's
/// readings need to: so they are few, and the first is old.
fn keep(readings: &mut VecDeque<Arc<Reading>>, new: Arc<Reading>) {
    while readings.front().is_some_and(|first| new.at.since(first.at) > WINDOW) {
        readings.pop_front();
    }
    if let [.., before, last] = readings.make_contiguous()
        && last.at.since(before.at) < WINDOW / READINGS
    {
        readings.pop_back();
    }
    readings.push_back(new);
}

fn measure(first: &Reading, last: &Reading, traffic: &Traffic) -> Measured {
    let span = last.at.since(first.at);
    let mut whole = Queues { lanes: Lane::ALL.map(|lane| empty(lane, span)).into(), ..Queues::default() };
    let mut shards = Vec::with_capacity(last.shards.len());
    for (number, depth) in (0..).zip(&last.shards) {
        let mut lanes = Vec::with_capacity(Lane::ALL.len());
        for (lane, sum) in Lane::ALL.into_iter().zip(&mut whole.lanes) {
            let mut queue = empty(lane, span);
            if let Some(now) = of_lane(depth, lane) {
                queue.events = now.entries;
                queue.oldest = now.oldest;
                queue.running = if is_paused(traffic, number, lane) { 0 } else { now.entries };
                let before = first.shards.get(usize::from(number)).and_then(|depth| of_lane(depth, lane)).unwrap_or(now);
                queue.rates = queue.rates.map(|_| Rates::between(before, now, span));
            }
            sum.events += queue.events;
            sum.running += queue.running;
            sum.oldest = [sum.oldest, queue.oldest].into_iter().flatten().min();
            sum.rates = sum.rates.zip(queue.rates).map(|(sum, rates)| sum + rates);
            lanes.push(queue);
        }
        whole.scheduled += depth.scheduled;
        whole.parked += depth.parked;
        whole.dead_letters += depth.dead_letters;
        let Depth { scheduled, parked, dead_letters, .. } = *depth;
        let bytes = last.queued.shards.get(usize::from(number)).copied().unwrap_or(0);
        whole.bytes += bytes;
        shards.push(Queues { lanes, scheduled, parked, dead_letters, bytes });
    }
    Measured { at: last.at, whole, shards, top: last.queued.top.clone() }
}

fn empty(lane: Lane, span: Duration) -> LaneQueue {
    LaneQueue { lane, events: 0, running: 0, oldest: None, rates: (span >= APART).then(Rates::default) }
}

fn is_paused(traffic: &Traffic, shard: u16, lane: Lane) -> bool {
    traffic.shard(Shard(shard)) == Percent::NONE || traffic.lane(lane) == Percent::NONE
}

fn of_lane(depth: &Depth, lane: Lane) -> Option<&LaneDepth> {
    depth.lanes.iter().find(|row| row.lane == lane)
}

fn scaling(measured: &Measured, traffic: &Traffic, nodes: usize) -> Scaling {
    let lanes = (0..).zip(&measured.shards).flat_map(|(shard, queues)| queues.lanes.iter().map(move |lane| (shard, lane)));
    let running: Vec<&LaneQueue> =
        lanes.filter(|(shard, lane)| !is_paused(traffic, *shard, lane.lane)).map(|(_, lane)| lane).collect();
    let backlog = running.iter().map(|lane| lane.events).sum();
    let oldest = running.iter().filter_map(|lane| lane.oldest).min();
    let rates = running.iter().filter_map(|lane| lane.rates).reduce(|sum, rates| sum + rates);
    Scaling { backlog, oldest_age: oldest.map_or(Duration::ZERO, |oldest| measured.at.since(oldest)), rates, nodes }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shard of which this much of the normal and of the held lane is queued, and so much of the normal one was finished.
    fn depth(normal: u64, held: u64, finished: u64) -> Depth {
        let lane =
            |lane, entries: u64, finished| LaneDepth { lane, entries, oldest: (entries > 0).then_some(Timestamp(1_000)), finished };
        let lanes = vec![lane(Lane::Normal, normal, finished), lane(Lane::Low, 0, 0), lane(Lane::Held, held, 7)];
        Depth { lanes, scheduled: 1, parked: 2, dead_letters: 3 }
    }

    fn reading(seconds: u64, shards: Vec<Depth>) -> Reading {
        let mine = |number: usize| vec![(TenantId(9), 5), (TenantId(number as u128), 10 * number as u64)];
        let queued = Queued::of(&(0..shards.len()).map(mine).collect::<Vec<_>>());
        Reading { at: Timestamp(seconds * 1_000), queued, shards }
    }

    #[test]
    fn rates_and_times_come_of_two_readings() {
        let first = reading(10, vec![depth(900, 50, 5_000), depth(100, 0, 0)]);
        let last = reading(20, vec![depth(700, 60, 5_500), depth(150, 0, 100)]);
        let measured = measure(&first, &last, &Traffic::default());
        let lane = |queues: &Queues, lane: usize| (queues.lanes[lane].events, queues.lanes[lane].rates, queues.lanes[lane].drain());
        let rates = |accepted, finished| Some(Rates { accepted, finished });
        let seconds = |seconds: f64| Some(Duration::from_secs_f64(seconds));
        assert_eq!(lane(&measured.shards[0], 0), (700, rates(30.0, 50.0), seconds(14.0)));
        assert_eq!(
            lane(&measured.shards[1], 0),
            (150, rates(15.0, 10.0), seconds(15.0)),
            "it grows, and is worked off all the same"
        );
        assert_eq!(lane(&measured.whole, 0), (850, rates(45.0, 60.0), seconds(850.0 / 60.0)));
        assert_eq!(lane(&measured.whole, 1), (0, rates(0.0, 0.0), seconds(0.0)), "nothing is drained at once");
        assert_eq!(lane(&measured.whole, 2), (60, rates(1.0, 0.0), None));
        assert_eq!((measured.whole.scheduled, measured.whole.parked, measured.whole.dead_letters), (2, 4, 6));
        let bytes: Vec<u64> = measured.shards.iter().chain([&measured.whole]).map(|queues| queues.bytes).collect();
        assert_eq!(bytes, [5, 15, 20]);
        let top = [(TenantId(1), 10), (TenantId(9), 10), (TenantId(0), 0)];
        assert_eq!(measured.top, top, "most first, one in two shards once");
        let alone = measure(&last, &last, &Traffic::default());
        assert_eq!(lane(&alone.whole, 0), (850, None, None), "one reading makes no rate");
        let lost = measure(&last, &Reading { at: Timestamp(30_000), ..first }, &Traffic::default());
        assert_eq!(lane(&lost.shards[0], 0), (900, rates(0.0, 0.0), None), "what a store lost was not finished");
    }

    #[test]
    fn what_is_paused_asks_for_no_gateways() {
        let first = reading(10, vec![depth(900, 50, 0), depth(100, 0, 0)]);
        let last = reading(20, vec![depth(700, 60, 300), depth(100, 0, 100)]);
        let scaling = |traffic: &Traffic| scaling(&measure(&first, &last, traffic), traffic, 2);
        let open = scaling(&Traffic::default());
        let rates = Some(Rates { accepted: 20.0, finished: 40.0 });
        let expected = Scaling { backlog: 800, oldest_age: Duration::from_secs(19), rates, nodes: 2 };
        assert_eq!((open, open.drain()), (expected, Some(Duration::from_secs(20))), "what is held does not count");
        let mut traffic = Traffic::default();
        traffic.shards.insert(Shard(0), Percent::NONE);
        let rates = Some(Rates { accepted: 10.0, finished: 10.0 });
        assert_eq!(scaling(&traffic), Scaling { backlog: 100, rates, ..expected });
        traffic.normal = Percent::NONE;
        let nothing = Scaling { backlog: 0, oldest_age: Duration::ZERO, rates: Some(Rates::default()), nodes: 2 };
        let paused = scaling(&traffic);
        assert_eq!((paused, paused.drain()), (nothing, Some(Duration::ZERO)));
    }

    #[test]
    fn replicas_follow_what_comes_in_and_what_is_to_be_drained() {
        let ask = |age: u64, backlog: u64, rates: Option<(f64, f64)>, nodes| {
            let rates = rates.map(|(accepted, finished)| Rates { accepted, finished });
            Scaling { backlog, oldest_age: Duration::from_secs(age), rates, nodes }.replicas(Duration::from_secs(60), 8)
        };
        for (age, backlog, rates, nodes, wanted) in [
            (0, 0, None, 1, 1),
            (0, 0, Some((100.0, 100.0)), 3, 2),
            (31, 10, Some((0.0, 1.0)), 3, 3),
            (60, 10, None, 3, 3),
            (61, 10, None, 3, 4),
            (61, 10, Some((5.0, 0.0)), 3, 4),
            (61, 300, Some((0.0, 10.0)), 3, 3),
            (61, 900, Some((0.0, 10.0)), 2, 3),
            (61, 900, Some((4.0, 10.0)), 2, 4),
            (61, 300, Some((10.0, 10.0)), 2, 3),
            (61, 60_000, Some((0.0, 10.0)), 3, 6),
            (61, 60_000, Some((0.0, 10.0)), 6, 8),
            (61, 60_000, None, 0, 2),
        ] {
            assert_eq!(ask(age, backlog, rates, nodes), wanted, "{age} s old, {backlog} events, {rates:?} a second, {nodes} nodes");
        }
    }

    #[test]
    fn readings_are_few_and_young() {
        let mut readings = VecDeque::new();
        for second in 0..1_000 {
            keep(&mut readings, Arc::new(reading(second, Vec::new())));
            let (first, last) = (readings.front().expect("one").at, readings.back().expect("one").at);
            assert!(readings.len() <= READINGS as usize + 2 && last.since(first) <= WINDOW, "{first} {last}");
            assert!(second < 120 || last.since(first) >= WINDOW * 3 / 4, "{first} {last}: a rate needs a span");
        }
    }
}
