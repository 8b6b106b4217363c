//! Connections to brokers, kept for the next message, and what became of messages whose attempts ended before the broker answered.
//!
//! A connection may owe a message: it was published to a broker that was blocked then, which delivers it later. No other attempt publishes that
//! message before it is settled, whichever connection it gets: it takes the one that owes it, fails while that is in use, or takes what was
//! confirmed meanwhile. What is owed on a connection that breaks is forgotten, and published again.
//!
//! An idle connection keeps its place in its tenant's share of the connections, and makes room when somebody needs it
//! ([`Pool`](super::super::pool::Pool)).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::fault::Fault;
use super::super::pool::Pool;
use super::super::target::PoolKey;
use super::{Answer, Message, Session, Settled};
use crate::clock::monotonic;
use crate::event::{DeliveryId, TenantId};

/// Connections to one broker destination, and so messages that wait for its acknowledgement at once.
pub const MAX_CONNECTIONS: usize = 16;

/// How long a connection is kept for a message that is owed on it, and how long it is known that one was confirmed: as long as the default retry
/// policy's longest delay.
const MAX_OWED: Duration = Duration::from_secs(24 * 3600);
/// For how long other messages wait for the one that is owed on a connection, and it outlives others that are idle. The broker may be gone without a word.
const MAX_WAITED: Duration = Duration::from_secs(300);
/// Messages of one destination that are known as confirmed after their attempts; the oldest are forgotten first.
const MAX_CONFIRMED: usize = 128;

#[derive(Debug)]
pub(in crate::egress) struct Sessions {
    idle_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<PoolKey, Entry>,
}

struct Entry {
    places: Arc<Semaphore>,
    /// The one that has been idle longest first.
    idle: Vec<Idle>,
    /// Messages that are owed on connections in use.
    owed: Vec<DeliveryId>,
    /// Messages that were confirmed after their attempts, with the broker's words; the oldest first.
    confirmed: VecDeque<(Instant, DeliveryId, String)>,
}

/// A connection that waits for its next message. Dropping it closes it.
pub(in crate::egress) struct Idle {
    since: Instant,
    session: Session,
    /// Its place in its tenant's share.
    turn: OwnedSemaphorePermit,
}

/// Which of the idle connections makes room first: the one idle longest, but what owes a message after all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::egress) struct Rank {
    owes: bool,
    since: Instant,
}

/// Leave to publish one message.
pub(super) struct Place<'a> {
    sessions: &'a Sessions,
    pool: &'a Pool,
    key: PoolKey,
    message: DeliveryId,
    _permit: OwnedSemaphorePermit,
}

/// What there is for a message.
pub(super) enum Found<'a> {
    /// A living connection.
    Idle(Box<InUse<'a>>),
    /// The broker's words on it: it was confirmed after an earlier attempt.
    Confirmed(String),
    /// It is owed on a connection in use.
    Owed,
    Nothing(Place<'a>),
}

/// A connection in use. Dropped, it is kept for the next message if it is sound.
pub(super) struct InUse<'a> {
    place: Place<'a>,
    /// There until this is dropped.
    session: Option<Session>,
    turn: Option<OwnedSemaphorePermit>,
    /// The message that was owed on it when it was taken, until that is settled.
    owed: Option<DeliveryId>,
    is_sound: bool,
}

impl Sessions {
    pub(in crate::egress) fn new(idle_timeout: Duration) -> Self {
        Self { idle_timeout, state: Mutex::default() }
    }

    pub(super) async fn admit<'a>(&'a self, pool: &'a Pool, key: PoolKey, message: DeliveryId) -> Place<'a> {
        let places = Arc::clone(&self.state().entry(key).places);
        let permit = places.acquire_owned().await.expect("the semaphore is never closed");
        Place { sessions: self, pool, key, message, _permit: permit }
    }

    /// Closes what has been idle too long and owes nothing, and forgets destinations that nobody uses.
    pub(in crate::egress) fn sweep(&self, now: Instant) {
        let is_old = |since: Instant, most: Duration| now.saturating_duration_since(since) >= most;
        let mut closed = Vec::new();
        let mut state = self.state();
        for entry in state.entries.values_mut() {
            closed.extend(entry.idle.extract_if(.., |idle| {
                idle.session.owed().map_or_else(|| is_old(idle.since, self.idle_timeout), |owed| is_old(owed.since, MAX_OWED))
            }));
            entry.confirmed.retain(|(since, ..)| !is_old(*since, MAX_OWED));
        }
        state.entries.retain(|_, entry| entry.is_used());
        drop(state);
        drop(closed);
    }

    /// Takes the connection that makes room first of this tenant's, if there is one.
    pub(in crate::egress) fn take_first_of(&self, tenant: TenantId) -> Option<Idle> {
        self.state().take_first(Some(tenant), None)
    }

    /// Takes the one that makes room first of all, unless the other comes before it.
    pub(in crate::egress) fn take_first_before(&self, other: Option<Rank>) -> Option<Idle> {
        self.state().take_first(None, other)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn entry(&mut self, key: PoolKey) -> &mut Entry {
        self.entries.entry(key).or_insert_with(|| Entry {
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            idle: Vec::new(),
            owed: Vec::new(),
            confirmed: VecDeque::new(),
        })
    }
}

impl State {
    fn first(&self, tenant: Option<TenantId>) -> Option<(Rank, PoolKey, usize)> {
        let entries = self.entries.iter().filter(|(key, _)| tenant.is_none_or(|tenant| key.tenant == tenant));
        let ranked =
            entries.flat_map(|(key, entry)| entry.idle.iter().enumerate().map(move |(index, idle)| (idle.rank(), *key, index)));
        // For its own requests no tenant has copies published.
        ranked.filter(|(rank, ..)| tenant.is_none() || !rank.owes).min()
    }

    fn take_first(&mut self, tenant: Option<TenantId>, other: Option<Rank>) -> Option<Idle> {
        let (_, key, index) = self.first(tenant).filter(|(rank, ..)| other.is_none_or(|other| *rank < other))?;
        Some(self.entries.get_mut(&key)?.idle.remove(index))
    }
}

impl Idle {
    fn rank(&self) -> Rank {
        Rank { owes: self.is_waited_for(), since: self.since }
    }

    /// Whether something is owed on it that may still be settled soon.
    fn is_waited_for(&self) -> bool {
        self.session.owed().is_some_and(|owed| owed.since.elapsed() < MAX_WAITED)
    }
}

impl Rank {
    /// Of a connection that owes nothing.
    pub(in crate::egress) fn idle_since(since: Instant) -> Self {
        Self { owes: false, since }
    }
}

impl Entry {
    fn is_used(&self) -> bool {
        !self.idle.is_empty() || !self.confirmed.is_empty() || Arc::strong_count(&self.places) > 1
    }

    /// The connection that owes this message, one that owes none, or else one on which another is waited for, or the last that there may be.
    fn best_for(&self, message: DeliveryId) -> Option<usize> {
        let owed = |idle: &Idle| idle.session.owed().map(|owed| owed.message);
        let owing = self.idle.iter().position(|idle| owed(idle) == Some(message));
        let free = || self.idle.iter().rposition(|idle| owed(idle).is_none());
        let waited_for = || self.idle.iter().rposition(Idle::is_waited_for);
        let last = || self.idle.len().checked_sub(1).filter(|_| self.idle.len() >= MAX_CONNECTIONS);
        owing.or_else(free).or_else(waited_for).or_else(last)
    }

    fn confirmed(&mut self, message: DeliveryId) -> Option<String> {
        let index = self.confirmed.iter().position(|(_, id, _)| *id == message)?;
        self.confirmed.remove(index).map(|(.., words)| words)
    }
}

impl<'a> Place<'a> {
    pub(super) fn find(self) -> Found<'a> {
        let mut dead = Vec::new();
        let mut state = self.sessions.state();
        let Some(entry) = state.entries.get_mut(&self.key) else { return Found::Nothing(self) };
        if let Some(words) = entry.confirmed(self.message) {
            return Found::Confirmed(words);
        }
        if entry.owed.contains(&self.message) {
            return Found::Owed;
        }
        while let Some(index) = entry.best_for(self.message) {
            let mut idle = entry.idle.remove(index);
            if idle.session.is_alive() {
                entry.owed.extend(idle.session.owed().map(|owed| owed.message));
                drop(state);
                return Found::Idle(Box::new(self.with(idle.session, idle.turn)));
            }
            dead.push(idle);
        }
        drop(state);
        Found::Nothing(self)
    }

    /// Uses a connection, which has a place in its tenant's share.
    pub(super) fn with(self, session: Session, turn: OwnedSemaphorePermit) -> InUse<'a> {
        let owed = session.owed().map(|owed| owed.message);
        // Who gives up waiting for what another message is owed leaves the connection to that.
        let is_sound = owed.is_some_and(|owed| owed != self.message);
        InUse { place: self, session: Some(session), turn: Some(turn), owed, is_sound }
    }
}

impl InUse<'_> {
    /// Publishes a message, unless what is heard of an earlier attempt answers for it.
    pub(super) async fn publish(mut self, message: &Message<'_>) -> Answer {
        let outcome = self.outcome(message).await;
        self.is_sound = outcome.is_ok();
        outcome?
    }

    async fn outcome(&mut self, message: &Message<'_>) -> Result<Answer, Fault> {
        loop {
            let was_owed = self.session().owed().is_some();
            let Settled { own, other } = self.session().settle(message).await?;
            let is_owed = self.session().owed().is_some();
            if !is_owed {
                self.settled(other);
            }
            if let Some(answer) = own {
                return Ok(answer);
            }
            // What was heard of another is noted before anything else can fail.
            if !was_owed || is_owed {
                break;
            }
        }
        self.is_sound = false;
        self.session().publish(message).await
    }

    /// Nothing is owed on it any more; with what the broker said if that was confirmed, and is another message.
    fn settled(&mut self, confirmed: Option<String>) {
        let Some(owed) = self.owed.take() else { return };
        let mut state = self.place.sessions.state();
        let entry = state.entry(self.place.key);
        entry.owed.retain(|id| *id != owed);
        entry.confirmed.extend(confirmed.map(|words| (monotonic(), owed, words)));
        if entry.confirmed.len() > MAX_CONFIRMED {
            entry.confirmed.pop_front();
        }
    }

    fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("it is there until this is dropped")
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        let session = self.session.take().filter(|session| self.is_sound && session.is_at_rest());
        let idle = session.zip(self.turn.take()).map(|(session, turn)| Idle { since: monotonic(), session, turn });
        let Place { sessions, pool, key, .. } = self.place;
        let is_kept = idle.is_some();
        {
            // At once: whoever looks for what is owed finds it in one place or the other.
            let mut state = sessions.state();
            let entry = state.entry(key);
            entry.owed.retain(|id| Some(*id) != self.owed);
            entry.idle.extend(idle);
        }
        if is_kept {
            pool.idled(key.tenant);
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("destinations", &self.entries.len()).finish()
    }
}
