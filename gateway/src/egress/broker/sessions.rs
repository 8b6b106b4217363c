//! Connections to brokers, kept for the next message.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::target::PoolKey;
use super::Session;

/// Connections to one broker destination, and so messages that wait for its acknowledgement at once.
pub const MAX_CONNECTIONS: usize = 16;

/// How long the last connection of a destination is kept for a message that is owed on it: as long as it is there, nothing is published to a
/// broker that takes nothing.
const MAX_OWED: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(in crate::egress) struct Sessions {
    idle_timeout: Duration,
    /// Idle connections altogether. Those of HTTP cannot push them out, so they take only a part of all.
    max_idle: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<PoolKey, Entry>,
    idle: usize,
}

struct Entry {
    places: Arc<Semaphore>,
    /// Since when, the one that has been idle longest first.
    idle: Vec<(Instant, Session)>,
}

/// Leave to publish one message.
pub(super) struct Place<'a> {
    sessions: &'a Sessions,
    key: PoolKey,
    _permit: OwnedSemaphorePermit,
}

impl Sessions {
    pub(in crate::egress) fn new(idle_timeout: Duration, connections: usize) -> Self {
        Self { idle_timeout, max_idle: connections / 4, state: Mutex::default() }
    }

    pub(super) async fn admit(&self, key: PoolKey) -> Place<'_> {
        let places = Arc::clone(&self.state().entry(key).places);
        let permit = places.acquire_owned().await.expect("the semaphore is never closed");
        Place { sessions: self, key, _permit: permit }
    }

    /// Closes what has been idle too long, but for the last connection of a destination if a message is owed on it, and forgets destinations
    /// that nobody uses.
    pub(in crate::egress) fn sweep(&self, now: Instant) {
        let (mut closed, mut ended) = (Vec::new(), Vec::new());
        let mut state = self.state();
        let State { entries, idle } = &mut *state;
        for entry in entries.values_mut() {
            let old = entry.idle.iter().take_while(|(since, _)| now.saturating_duration_since(*since) >= self.idle_timeout).count();
            closed.extend(entry.idle.drain(..old));
            let owing = closed.iter().rposition(|(since, session)| {
                session.owes(None) && now.saturating_duration_since(*since) < self.idle_timeout.max(MAX_OWED)
            });
            if entry.idle.is_empty() {
                entry.idle.extend(owing.map(|index| closed.remove(index)));
            }
            ended.append(&mut closed);
        }
        *idle -= ended.len();
        entries.retain(|_, entry| !entry.idle.is_empty() || Arc::strong_count(&entry.places) > 1);
        drop(state);
        drop(ended);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn entry(&mut self, key: PoolKey) -> &mut Entry {
        let places = || Arc::new(Semaphore::new(MAX_CONNECTIONS));
        self.entries.entry(key).or_insert_with(|| Entry { places: places(), idle: Vec::new() })
    }
}

impl Place<'_> {
    /// An idle connection, if there is a living one: the one that owes this message, or one that owes none, if they are there.
    pub(super) fn take(&mut self, message: &str) -> Option<Session> {
        loop {
            let mut state = self.sessions.state();
            let idle = &mut state.entry(self.key).idle;
            let owing = idle.iter().position(|(_, session)| session.owes(Some(message)));
            let free = || idle.iter().rposition(|(_, session)| !session.owes(None));
            let index = owing.or_else(free).or(idle.len().checked_sub(1))?;
            let (_, mut session) = idle.remove(index);
            state.idle -= 1;
            drop(state);
            if session.is_alive() {
                return Some(session);
            }
        }
    }

    /// Keeps a connection for the next message.
    pub(super) fn keep(&mut self, session: Session, now: Instant) {
        let mut state = self.sessions.state();
        if state.idle < self.sessions.max_idle {
            state.idle += 1;
            state.entry(self.key).idle.push((now, session));
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("destinations", &self.entries.len()).field("idle", &self.idle).finish()
    }
}
