//! A gateway's process that is killed with SIGKILL in the middle of its work, and one whose disk fails: nothing that it said was
//! done is undone. The tests run their own binary as that process, which says on its standard output what was acknowledged.

use std::collections::{BTreeSet, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tidegate::clock::{Clock, Timestamp};
use tidegate::event::{ConnectionId, EventId, Lane, PluginId};
use tidegate::store::embedded::{Durability, Embedded, Options};
use tidegate::store::{Budget, Claimed, DeliveryState, Lease, Once, Store, StoreError, Table, TableAnswer, TableOp};

use crate::world::*;

/// Set in the child: the directory to work on.
const DIR: &str = "TIDEGATE_STORE_CHILD";

const NODE: &str = "a";
const TTL: Duration = Duration::from_secs(3600);

/// What the child may say of an event, once it is durable.
const ACCEPTED: &str = "accepted";
const CLAIMED: &str = "claimed";
const DELIVERED: &str = "delivered";
const SCHEDULED: &str = "scheduled";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_nothing_that_it_acknowledged() {
    if let Ok(dir) = std::env::var(DIR) {
        return work(options(Path::new(&dir), Durability::Fsync)).await;
    }
    kill_and_compare("crash::a_killed_process_loses_nothing_that_it_acknowledged", Durability::Fsync).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_nothing_under_everysec_either() {
    if let Ok(dir) = std::env::var(DIR) {
        return work(options(Path::new(&dir), Durability::Everysec)).await;
    }
    kill_and_compare("crash::a_killed_process_loses_nothing_under_everysec_either", Durability::Everysec).await;
}

/// The disk refuses a write: the store answers no more, says so, and what it had acknowledged is there after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_stops_the_store_for_good() {
    if let Ok(dir) = std::env::var(DIR) {
        return work_until_refused(options(Path::new(&dir), Durability::Fsync)).await;
    }
    let dir = TempDir::new().unwrap();
    let (mut child, lines) = start("crash::a_failed_write_stops_the_store_for_good", dir.path());
    let mut said = Vec::new();
    for line in lines {
        if said.is_empty() {
            // From here on no file may be written past its first bytes, as on a disk that fails.
            let limited = Command::new("prlimit").args([&format!("--pid={}", child.id()), "--fsize=512"]).status();
            assert!(limited.expect("prlimit is part of util-linux").success());
        }
        said.push(line);
    }
    assert!(child.wait().unwrap().success(), "the child found what it should: {:?}", said.last());
    assert_eq!(said.pop().as_deref(), Some("stopped -"));
    let accepted: BTreeSet<EventId> = said.iter().map(|line| parse(line).1).collect();
    assert!(!accepted.is_empty());
    let store = Embedded::open(options(dir.path(), Durability::Fsync)).unwrap();
    let lease = store.acquire(SHARD, NODE, TTL).await.unwrap().unwrap();
    let queued: BTreeSet<_> = drain(&store, &lease).await.into_iter().map(|entry| entry.event.id).collect();
    assert!(accepted.is_subset(&queued), "lost: {:?}", accepted.difference(&queued).collect::<Vec<_>>());
}

/// What is counted in a plugin's table is there after a kill, and a call that is made again is not counted again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_counts_each_call_once() {
    if let Ok(dir) = std::env::var(DIR) {
        return count(options(Path::new(&dir), Durability::Fsync)).await;
    }
    let dir = TempDir::new().unwrap();
    let mut counted: Vec<(Once, i64)> = Vec::new();
    for lines_until_killed in [1, 40, 300] {
        let (mut child, lines) = start("crash::a_killed_process_counts_each_call_once", dir.path());
        for (count, line) in lines.enumerate() {
            let [run, number, sum] = line.split(' ').skip(1).collect::<Vec<_>>().try_into().unwrap();
            counted.push((call(run.parse().unwrap(), number.parse().unwrap()), sum.parse().unwrap()));
            if count == lines_until_killed {
                child.kill().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success(), "it was killed");
    }
    let store = Embedded::open(options(dir.path(), Durability::Fsync)).unwrap();
    let now = Clock::system().now();
    let present = plus(&store, None, 0, now).await;
    let sums: BTreeSet<i64> = counted.iter().map(|(_, sum)| *sum).collect();
    assert_eq!(sums.len(), counted.len(), "each number once");
    assert!(*sums.last().unwrap() <= present);
    for (once, sum) in counted {
        assert_eq!(plus(&store, Some(once), 1, now).await, sum, "{once:?}");
    }
    assert_eq!(plus(&store, None, 0, now).await, present);
}

/// A call of one process' run.
fn call(run: u32, number: u32) -> Once {
    Once { event: EventId(run.into()), connection: ConnectionId(1), stage: 0, output: 0, number }
}

async fn plus(store: &Embedded, once: Option<Once>, by: i64, now: Timestamp) -> i64 {
    let ops = [("n".parse().unwrap(), TableOp::Increment { by, ttl: None })];
    let answers = store.table(Table { home: HOME, plugin: PluginId(1) }, once, &ops, 1 << 20, now).await.unwrap();
    let [Ok(TableAnswer::Number(sum))] = answers[..] else { panic!("{answers:?}") };
    sum
}

/// Counts from several tasks, for ever.
async fn count(options: Options) {
    let clock = options.clock.clone();
    let store = Arc::new(Embedded::open(options).unwrap());
    let run = std::process::id();
    let tasks = (0..4).map(|task| {
        let (store, clock) = (store.clone(), clock.clone());
        tokio::spawn(async move {
            for number in (task..).step_by(4) {
                let sum = plus(&store, Some(call(run, number)), 1, clock.now()).await;
                say("counted", format!("{run} {number} {sum}"));
            }
        })
    });
    futures_util::future::join_all(tasks).await;
}

fn options(dir: &Path, durability: Durability) -> Options {
    Options { durability, reserve_bytes: 0, clock: Clock::system(), ..Options::new(dir) }
}

/// Runs one test of this binary as a child, and gives the whole lines that it says until it ends.
fn start(test: &str, dir: &Path) -> (Child, impl Iterator<Item = String> + use<>) {
    let mut child = Command::new("sh")
        // A write past the limit shall fail with an error, not with a signal.
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let lines = std::iter::from_fn(move || {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line.strip_suffix('\n').map(str::to_owned)
    });
    (child, lines.filter_map(|line| line.strip_prefix("child: ").map(str::to_owned)))
}

fn say(what: &str, event: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "child: {what} {event}").unwrap();
    out.flush().unwrap();
}

fn parse(line: &str) -> (&str, EventId) {
    let (what, event) = line.split_once(' ').unwrap();
    (what, event.parse().unwrap())
}

/// Accepts from several tasks, and delivers or schedules what it claims, for ever.
async fn work(options: Options) {
    let clock = options.clock.clone();
    let store = Arc::new(Embedded::open(options).unwrap());
    let number = Arc::new(AtomicU64::new(u64::from(std::process::id()) << 32));
    for size in [1, 1, 3, 40] {
        let (store, clock, number) = (store.clone(), clock.clone(), number.clone());
        tokio::spawn(async move {
            loop {
                let make = |_| event(number.fetch_add(1, Ordering::Relaxed), TENANT, clock.now(), Bytes::from(vec![1; 700]));
                let events: Vec<_> = (0..size).map(make).collect();
                store.accept(events.iter().map(acceptance).collect()).await.unwrap();
                events.iter().for_each(|event| say(ACCEPTED, event.id));
            }
        });
    }
    let lease = store.acquire(SHARD, NODE, TTL).await.unwrap().unwrap();
    let signal = store.signal(SHARD);
    loop {
        let claimed = store.claim(&lease, Lane::Normal, Budget::new(16, 1 << 20)).await.unwrap();
        if claimed.is_empty() {
            signal.notified().await;
            continue;
        }
        claimed.iter().for_each(|entry| say(CLAIMED, entry.event.id));
        // Every fourth is left unfinished.
        let done: Vec<_> = claimed.iter().enumerate().filter(|(i, _)| i % 4 != 0).collect();
        let later = clock.now().after(TTL);
        let record = |(i, entry): &(usize, &_)| match i % 4 {
            1 => finish(entry, vec![scheduled(&entry.event, 0, later, 1)]),
            _ => finish(entry, vec![delivered(&entry.event, 0)]),
        };
        store.record(&lease, &done.iter().map(record).collect::<Vec<_>>()).await.unwrap();
        for (i, entry) in done {
            say(if i % 4 == 1 { SCHEDULED } else { DELIVERED }, entry.event.id);
        }
    }
}

async fn work_until_refused(options: Options) {
    let clock = options.clock.clone();
    let store = Embedded::open(options).unwrap();
    for number in 0.. {
        let event = event(number, TENANT, clock.now(), Bytes::from(vec![1; 700]));
        match store.accept(vec![acceptance(&event)]).await {
            Ok(_) => say(ACCEPTED, event.id),
            Err(error) => {
                assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
                break;
            }
        }
    }
    assert!(matches!(store.ready(), Err(StoreError::Unavailable(_))));
    assert!(matches!(store.failed().await, StoreError::Unavailable(_)));
    assert!(matches!(store.accept(Vec::new()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.acquire(SHARD, NODE, TTL).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.depth(SHARD).await, Err(StoreError::Unavailable(_))));
    say("stopped", "-");
}

#[derive(Default)]
struct Said {
    accepted: BTreeSet<EventId>,
    claimed: HashSet<EventId>,
    delivered: BTreeSet<EventId>,
    scheduled: BTreeSet<EventId>,
}

impl Said {
    fn hear(&mut self, line: &str) {
        let (what, event) = parse(line);
        match what {
            ACCEPTED => drop(self.accepted.insert(event)),
            CLAIMED => drop(self.claimed.insert(event)),
            DELIVERED => drop(self.delivered.insert(event)),
            SCHEDULED => drop(self.scheduled.insert(event)),
            other => panic!("the child says {other}"),
        }
    }
}

/// Kills the child at several points of one store's life, and then compares what it said with what is there, as sets.
async fn kill_and_compare(test: &str, durability: Durability) {
    let dir = TempDir::new().unwrap();
    let mut said = Said::default();
    for lines_until_killed in [1, 37, 400, 2500] {
        let (mut child, lines) = start(test, dir.path());
        for (count, line) in lines.enumerate() {
            said.hear(&line);
            if count == lines_until_killed {
                child.kill().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success(), "it was killed");
    }
    let store = Embedded::open(options(dir.path(), durability)).unwrap();
    let lease = store.acquire(SHARD, NODE, TTL).await.unwrap().unwrap();
    let depth = store.depth(SHARD).await.unwrap();
    let counted = store.queued_bytes(HOME).await.unwrap();
    let queued = drain(&store, &lease).await;
    let queued_ids: BTreeSet<_> = queued.iter().map(|entry| entry.event.id).collect();
    assert_eq!(depth.lanes[0].entries, queued.len() as u64);
    assert_eq!(queued.len(), queued_ids.len(), "each once");
    for Claimed { event, claims, .. } in &queued {
        assert!(*claims > 1 || !said.claimed.contains(&event.id), "{} was claimed before, and that is forgotten", event.id);
    }
    let far = Clock::system().now().after(TTL * 100);
    let jobs = store.due(&lease, far, Budget::new(1 << 20, 1 << 30)).await.unwrap();
    let bytes = queued.iter().map(|entry| entry.event.request.size()).chain(jobs.iter().map(|job| job.size()));
    assert_eq!(counted, bytes.sum::<usize>() as u64, "what is counted as queued is what is there");
    let scheduled: BTreeSet<_> = jobs.iter().map(|job| job.event()).collect();
    assert_eq!(depth.scheduled, scheduled.len() as u64);
    assert!(said.scheduled.is_subset(&scheduled), "lost jobs: {:?}", said.scheduled.difference(&scheduled).collect::<Vec<_>>());
    assert!(said.delivered.is_disjoint(&queued_ids), "what is recorded is not queued again");
    assert!(said.scheduled.is_disjoint(&queued_ids) && scheduled.is_disjoint(&queued_ids));
    let mut delivered = BTreeSet::new();
    for event in said.accepted.iter().chain(&said.delivered) {
        let history = store.event(HOME, *event).await.unwrap().expect("an acknowledged event is known");
        assert!(history.event.is_some());
        let state = history.summary.deliveries.first().map(|row| row.state.clone());
        assert_eq!(history.summary.finished, !queued_ids.contains(event));
        delivered.extend((state == Some(DeliveryState::Delivered)).then_some(*event));
    }
    assert!(said.delivered.is_subset(&delivered));
    let found: BTreeSet<_> = queued_ids.union(&scheduled).chain(&delivered).copied().collect();
    let lost: Vec<_> = said.accepted.difference(&found).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), said.accepted.len());
}

/// Every unfinished entry of the normal lane.
async fn drain(store: &Embedded, lease: &Lease) -> Vec<Claimed> {
    let budget = Budget::new(1 << 20, 1 << 30);
    let mut entries = store.reclaim(lease, &HashSet::new(), budget).await.unwrap();
    entries.extend(store.claim(lease, Lane::Normal, budget).await.unwrap());
    entries
}
