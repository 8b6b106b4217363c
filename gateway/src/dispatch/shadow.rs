//! Runs shadows: versions that see what an alias' own version saw, and whose answers are only compared.
//!
//! No delivery waits for it: an event's run is offered to a queue that is bounded by count and by bytes, and what finds no room is counted
//! and dropped. One run at a time on a node, in its tenant's turn like any other,
//! and paid for out of its tenant's fuel.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{Shared, gate};
use crate::clock::Timestamp;
use crate::control::inspect::Inspector;
use crate::control::shadow::{KEPT, Observed, Tally, topic};
use crate::control::snapshot::{Portion, Split};
use crate::event::{Failure, PluginId, Request};
use crate::plugin::Call;
use crate::plugin::compare::Comparison;
use crate::plugin::fuel::Fuel;
use crate::telemetry::metrics::{PluginOutcome, Shadowed, Track};

/// Runs that may wait.
const MAX_WAITING: usize = 256;
/// Bytes of what waits: requests, and what the alias' own version made of them.
const MAX_BYTES: usize = 8 << 20;
/// Shadows that are counted at once; events of more are dropped.
const MAX_COUNTED: usize = 1000;
/// How often what was counted is written to the store.
const SAID_EVERY: Duration = Duration::from_secs(2);

/// Shadows of one node.
#[derive(Debug)]
pub(super) struct Shadows {
    queue: mpsc::Sender<Run>,
    waiting: Mutex<Option<mpsc::Receiver<Run>>>,
    room: Arc<Semaphore>,
    counted: Mutex<HashMap<Key, Counted>>,
}

/// Which shadow: of which alias of which plugin, and since when.
type Key = (PluginId, String, Timestamp);

#[derive(Debug, Default)]
struct Counted {
    tally: Tally,
    touched: Timestamp,
    is_said: bool,
}

/// What a plugin made of a request: none keeps it as it is.
pub(super) type Answer = Result<Option<Vec<Request>>, Failure>;

/// A run to be made and compared.
#[derive(Debug)]
struct Run {
    split: Arc<Split>,
    portion: Portion,
    call: Call,
    live: Answer,
    /// Out of which it is paid.
    fuel: Fuel,
    _room: OwnedSemaphorePermit,
}

impl Shadows {
    pub(super) fn new() -> Self {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let room = Arc::new(Semaphore::new(MAX_BYTES));
        Self { queue, waiting: Mutex::new(Some(waiting)), room, counted: Mutex::default() }
    }

    /// Has a shadow run on what the alias' own version just ran on, if there is room. Never waits.
    pub(super) fn offer(&self, shared: &Shared, fuel: &Fuel, split: (&Arc<Split>, Portion), call: Call, live: &Answer) {
        let (split, portion) = split;
        let made: usize = live.as_ref().ok().and_then(Option::as_ref).into_iter().flatten().map(Request::size).sum();
        let size = u32::try_from(call.request.size() + made).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(size);
        let slot = self.queue.try_reserve();
        if let (Ok(room), Ok(slot)) = (room, slot) {
            let call = Call { version: portion.version, table: call.table.beside(), reuse: None, ..call };
            return slot.send(Run { split: Arc::clone(split), portion, call, live: live.clone(), fuel: fuel.clone(), _room: room });
        }
        self.count(shared, split, &portion, Shadowed::Dropped, None);
    }

    fn count(&self, shared: &Shared, split: &Split, portion: &Portion, shadowed: Shadowed, observed: Option<Observed>) {
        shared.metrics.plugin_shadow(shadowed);
        let key = (split.plugin, split.alias.clone(), portion.since);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.len() >= MAX_COUNTED && !counted.contains_key(&key) {
            return;
        }
        let one = counted.entry(key).or_default();
        (one.touched, one.is_said) = (shared.clock.now(), false);
        let tally = &mut one.tally;
        let number = match shadowed {
            Shadowed::Same => &mut tally.same,
            Shadowed::Formatting => &mut tally.formatting,
            Shadowed::Different => &mut tally.different,
            Shadowed::Failed => &mut tally.failed,
            Shadowed::Dropped => &mut tally.dropped,
        };
        *number += 1;
        if shadowed != Shadowed::Dropped {
            tally.runs += 1;
        }
        if let Some(observed) = observed {
            tally.list(observed);
        }
    }

    /// What was counted since it was said last; forgets what the store has forgotten too.
    fn to_say(&self, now: Timestamp) -> Vec<(Key, Bytes)> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.retain(|_, one| now.since(one.touched) < KEPT);
        let news = counted.iter_mut().filter(|(_, one)| !one.is_said);
        news.map(|(key, one)| {
            one.is_said = true;
            (key.clone(), one.tally.encode().into())
        })
        .collect()
    }

    /// The store did not take it.
    fn not_said(&self, key: &Key) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = counted.get_mut(key) {
            one.is_said = false;
        }
    }
}

/// Runs what is offered and says what was counted, until `stop`.
pub(super) async fn keep(shared: Arc<Shared>, stop: CancellationToken) {
    let waiting = shared.shadows.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut waiting) = waiting else { return };
    let mut ticks = tokio::time::interval(SAID_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => say(&shared).await,
            // A stop does not wait for what is only compared.
            Some(run) = waiting.recv() => drop(stop.run_until_cancelled(compare(&shared, run)).await),
        }
    }
    say(&shared).await;
}

async fn say(shared: &Shared) {
    for (key, tally) in shared.shadows.to_say(shared.clock.now()) {
        let topic = topic(key.0, &key.1, key.2);
        if let Err(error) = shared.store.say(&topic, &shared.config.node, tally, KEPT).await {
            shared.shadows.not_said(&key);
            tracing::warn!(%error, topic, "what a shadow gave is not kept, trying again");
        }
    }
}

async fn compare(shared: &Shared, run: Run) {
    let Run { split, portion, call, live, fuel, _room } = run;
    let (event, tenant, input) = (call.event, call.tenant, call.request.clone());
    let report = shared.plugins.ask(portion.kind, call).await;
    fuel.pay(tenant, gate::rate(&shared.snapshots.load(), tenant), report.price(), shared.clock.now());
    shared.metrics.plugin_run(PluginOutcome { track: Track::Shadow, ..(&report.run).into() });
    let shadow: Answer = report.result.map_err(|error| error.to_failure());
    let comparison = Comparison::of(&requests(&live, &input), &requests(&shadow, &input));
    let code = |made: &Answer| made.as_ref().err().map(|failure| failure.code.clone());
    let codes = (code(&live), code(&shadow));
    let shadowed = match &codes {
        (live, shadow) if live == shadow && comparison.is_same() && comparison.formatting => Shadowed::Formatting,
        (live, shadow) if live == shadow && comparison.is_same() => Shadowed::Same,
        (None, Some(_)) => Shadowed::Failed,
        _ => Shadowed::Different,
    };
    let is_listed = matches!(shadowed, Shadowed::Different | Shadowed::Failed);
    let observed = is_listed.then(|| Observed::new(event, shared.clock.now(), codes, comparison));
    shared.shadows.count(shared, &split, &portion, shadowed, observed);
}

/// The requests that an answer to `input` stands for.
fn requests<'a>(answer: &'a Answer, input: &'a Request) -> Vec<&'a Request> {
    match answer {
        Ok(None) => vec![input],
        Ok(Some(outputs)) => outputs.iter().collect(),
        Err(_) => Vec::new(),
    }
}
