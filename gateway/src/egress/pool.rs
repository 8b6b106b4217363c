//! Open connections, kept for the next request.
//!
//! # What is bounded
//! - requests at once for each key (and with them its HTTP/1.1 connections): a permit is taken before the work;
//! - requests at once of each tenant, with its connections to brokers, idle or not: half of the connections that there are, so that one whose
//!   destinations all hang leaves the other half to others; when it has all of them, its connection to a broker that has been idle longest makes room;
//! - open connections altogether: each holds a permit for as long as its driver runs; when there is none, the connection that has been idle
//!   longest, whoever's it is and whatever it speaks, makes room;
//! - idle time.
//!
//! # What is shared
//! Nothing between keys. Under one key an HTTP/1.1 connection is out with one request at a time, an HTTP/2 connection with any number. One
//! lock guards the whole; it is held for a few map operations and never across an await.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use super::broker::{Idle, Rank, Sessions};
use super::metered::Allowance;
use super::target::PoolKey;
use crate::clock::monotonic;
use crate::event::TenantId;

/// What the server of an HTTP/2 connection may still send when all requests have ended: the rest of bodies that were cut.
const H2_AT_REST: usize = 16 << 20;

/// The pool's limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) requests_per_key: usize,
    pub(super) requests_per_tenant: usize,
    pub(super) connections: usize,
    pub(super) idle_timeout: Duration,
}

/// A connection that a request may use.
pub(super) enum Connection {
    Http1(Http1),
    Http2(Http2),
}

/// An HTTP/1.1 connection; dropping it closes it.
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<Full<Bytes>>,
    pub(super) allowance: Allowance,
    pub(super) _driver: Driver,
}

/// A part in an HTTP/2 connection.
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<Full<Bytes>>,
    pub(super) allowance: Allowance,
    /// Held so that the connection lasts as long as this part in it.
    _driver: Arc<Driver>,
    pool: Arc<Pool>,
    key: PoolKey,
    serial: u64,
}

/// The tasks that move a connection's bytes; they end with this.
pub(super) struct Driver(Vec<AbortHandle>);

impl Driver {
    pub(super) fn new(tasks: impl IntoIterator<Item = AbortHandle>) -> Self {
        Self(tasks.into_iter().collect())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// What is known about how a key's server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Spoken {
    #[default]
    Unknown,
    Http1,
    Http2,
}

/// Leave to make one request.
pub(super) struct Admission {
    /// Held until the request has ended: its key's and its tenant's.
    pub(super) permits: [OwnedSemaphorePermit; 2],
    pub(super) spoken: Spoken,
    pub(super) gate: Arc<Gate>,
    /// An idle connection, if there was one.
    pub(super) connection: Option<Connection>,
}

/// Held by whoever opens a connection that others may be able to share.
#[derive(Debug, Default)]
pub(super) struct Gate {
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Whether who has it, or had it last, waits for leave to open one.
    pub(super) lacks_connection: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Pool {
    limits: Limits,
    open: Arc<Semaphore>,
    /// Whose idle connections make room like the pool's own.
    brokers: Arc<Sessions>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<PoolKey, Entry>,
    tenants: HashMap<TenantId, Share>,
    /// Idle connections by the order in which they became idle.
    idle: BTreeMap<u64, (PoolKey, Instant)>,
    next_serial: u64,
    /// Requests that wait for leave to open a connection.
    waiting: usize,
}

/// What a tenant may use.
#[derive(Debug)]
struct Share {
    places: Arc<Semaphore>,
    /// Its requests that wait for one.
    waiting: usize,
}

#[derive(Debug)]
struct Entry {
    requests: Arc<Semaphore>,
    tenant: Arc<Semaphore>,
    gate: Arc<Gate>,
    spoken: Spoken,
    http1: Vec<(u64, Http1)>,
    http2: Option<Shared>,
}

struct Shared {
    sender: http2::SendRequest<Full<Bytes>>,
    allowance: Allowance,
    driver: Arc<Driver>,
    serial: u64,
    in_flight: usize,
    /// Its place among the idle, while it has no requests.
    idle: Option<u64>,
}

impl Pool {
    pub(super) fn new(limits: Limits, brokers: Arc<Sessions>) -> Self {
        Self { limits, open: places(limits.connections), brokers, state: Mutex::default() }
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        self.limits.idle_timeout
    }

    /// Waits until a request for this key may be made, and looks for an idle connection.
    pub(super) async fn admit(self: &Arc<Self>, key: PoolKey) -> Admission {
        let (requests, tenant) = {
            let mut state = self.state();
            let entry = state.entry(key, &self.limits);
            let places = [&entry.requests, &entry.tenant].map(|places| Arc::clone(places).try_acquire_owned());
            match places {
                [Ok(request), Ok(turn)] => return self.admission(&mut state, key, [request, turn]),
                _ => (Arc::clone(&entry.requests), Arc::clone(&entry.tenant)),
            }
        };
        let request = requests.acquire_owned().await.expect("the semaphore is never closed");
        let turn = self.place(key.tenant, tenant).await;
        self.admission(&mut self.state(), key, [request, turn])
    }

    /// Waits until a tenant may use another connection that is not one of the pool's.
    pub(super) async fn turn(&self, tenant: TenantId) -> OwnedSemaphorePermit {
        let places = self.state().tenant(tenant, &self.limits);
        self.place(tenant, places).await
    }

    /// Waits for a place in a tenant's share. When none is left, its connection to a broker that has been idle longest is closed to make room.
    async fn place(&self, tenant: TenantId, places: Arc<Semaphore>) -> OwnedSemaphorePermit {
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            return place;
        }
        let _waiting = Waiting::new(self, Some(tenant));
        drop(self.brokers.take_first_of(tenant));
        places.acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Has what was idle before, or a connection to a broker that has become idle now, make room for those who wait for it.
    pub(super) fn idled(&self, tenant: TenantId) {
        let mut state = self.state();
        let closed = if state.tenants.get(&tenant).is_some_and(|share| share.waiting > 0) {
            self.brokers.take_first_of(tenant).map(Closed::Broker)
        } else if state.waiting > 0 {
            self.take_oldest(&mut state)
        } else {
            None
        };
        drop(state);
        drop(closed);
    }

    /// Takes the connection that has been idle longest, whatever it speaks; dropping it closes it.
    fn take_oldest(&self, state: &mut State) -> Option<Closed> {
        let http = state.idle.first_key_value().map(|(_, (_, since))| Rank::idle_since(*since));
        let broker = self.brokers.take_first_before(http);
        broker.map(Closed::Broker).or_else(|| state.close_oldest())
    }

    fn admission(self: &Arc<Self>, state: &mut State, key: PoolKey, permits: [OwnedSemaphorePermit; 2]) -> Admission {
        let connection = self.take(state, key);
        let entry = state.entry(key, &self.limits);
        Admission { permits, spoken: entry.spoken, gate: Arc::clone(&entry.gate), connection }
    }

    /// An idle connection, if there is one.
    pub(super) fn checkout(self: &Arc<Self>, key: PoolKey) -> Option<Connection> {
        self.take(&mut self.state(), key)
    }

    fn take(self: &Arc<Self>, state: &mut State, key: PoolKey) -> Option<Connection> {
        let State { entries, idle, .. } = state;
        let entry = entries.get_mut(&key)?;
        if let Some(shared) = &mut entry.http2 {
            if let Some(serial) = shared.idle.take() {
                idle.remove(&serial);
            }
            if !shared.sender.is_closed() {
                shared.in_flight += 1;
                return Some(Connection::Http2(self.lease(key, shared)));
            }
            entry.http2 = None;
        }
        // The last one back is the likeliest to be alive, and leaves the others to grow old together.
        while let Some((serial, connection)) = entry.http1.pop() {
            idle.remove(&serial);
            if !connection.sender.is_closed() {
                return Some(Connection::Http1(connection));
            }
        }
        None
    }

    fn lease(self: &Arc<Self>, key: PoolKey, shared: &Shared) -> Http2 {
        Http2 {
            sender: shared.sender.clone(),
            allowance: shared.allowance.clone(),
            _driver: Arc::clone(&shared.driver),
            pool: Arc::clone(self),
            key,
            serial: shared.serial,
        }
    }

    /// Leave to open a connection. When none is left, the one idle longest is closed to make room.
    pub(super) async fn may_open(&self) -> OwnedSemaphorePermit {
        if let Ok(permit) = Arc::clone(&self.open).try_acquire_owned() {
            return permit;
        }
        let _waiting = Waiting::new(self, None);
        let oldest = self.take_oldest(&mut self.state());
        drop(oldest);
        Arc::clone(&self.open).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Takes back a connection that is ready for another request.
    pub(super) fn checkin(&self, key: PoolKey, connection: Http1) {
        let mut state = self.state();
        let serial = state.idle_from(key);
        let entry = state.entry(key, &self.limits);
        entry.spoken = Spoken::Http1;
        entry.http1.push((serial, connection));
        drop(state.make_room());
    }

    /// Lets others use this new connection too, and returns a part in it for the request that opened it.
    pub(super) fn share(
        self: &Arc<Self>,
        key: PoolKey,
        sender: http2::SendRequest<Full<Bytes>>,
        allowance: Allowance,
        driver: Driver,
    ) -> Http2 {
        let mut state = self.state();
        state.next_serial += 1;
        let shared = Shared { sender, allowance, driver: Arc::new(driver), serial: state.next_serial, in_flight: 1, idle: None };
        let lease = self.lease(key, &shared);
        let entry = state.entry(key, &self.limits);
        entry.spoken = Spoken::Http2;
        // An older one goes on until the requests that it is out with have ended.
        let older = entry.http2.replace(shared);
        if let Some(serial) = older.and_then(|older| older.idle) {
            state.idle.remove(&serial);
        }
        lease
    }

    /// Closes what has been idle too long and forgets keys that nobody uses.
    pub(super) fn sweep(&self, now: Instant) {
        let mut closed = Vec::new();
        let mut state = self.state();
        while let Some((_, since)) = state.idle.first_key_value().map(|(_, idle)| *idle)
            && now.saturating_duration_since(since) >= self.limits.idle_timeout
        {
            closed.extend(state.close_oldest());
        }
        state.entries.retain(|_, entry| entry.is_used());
        state.tenants.retain(|_, share| share.waiting > 0 || Arc::strong_count(&share.places) > 1);
        drop(state);
        drop(closed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request that waits: for a place in a tenant's share, or else for leave to open a connection.
struct Waiting<'a> {
    pool: &'a Pool,
    tenant: Option<TenantId>,
}

impl<'a> Waiting<'a> {
    fn new(pool: &'a Pool, tenant: Option<TenantId>) -> Self {
        if let Some(count) = pool.state().waiting(tenant) {
            *count += 1;
        }
        Self { pool, tenant }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.pool.state().waiting(self.tenant) {
            *count -= 1;
        }
    }
}

impl State {
    fn entry(&mut self, key: PoolKey, limits: &Limits) -> &mut Entry {
        if !self.entries.contains_key(&key) {
            let tenant = self.tenant(key.tenant, limits);
            let requests = places(limits.requests_per_key);
            let entry = Entry { requests, tenant, gate: Arc::default(), spoken: Spoken::Unknown, http1: Vec::new(), http2: None };
            self.entries.insert(key, entry);
        }
        self.entries.get_mut(&key).expect("it is there or was just made")
    }

    fn tenant(&mut self, tenant: TenantId, limits: &Limits) -> Arc<Semaphore> {
        let share = || Share { places: places(limits.requests_per_tenant), waiting: 0 };
        Arc::clone(&self.tenants.entry(tenant).or_insert_with(share).places)
    }

    /// How many wait for a place in a tenant's share, which is there while any does, or for leave to open a connection.
    fn waiting(&mut self, tenant: Option<TenantId>) -> Option<&mut usize> {
        match tenant {
            None => Some(&mut self.waiting),
            Some(tenant) => self.tenants.get_mut(&tenant).map(|share| &mut share.waiting),
        }
    }

    fn idle_from(&mut self, key: PoolKey) -> u64 {
        self.next_serial += 1;
        self.idle.insert(self.next_serial, (key, monotonic()));
        self.next_serial
    }

    /// What becomes idle while others wait to open a connection costs the oldest one its place.
    fn make_room(&mut self) -> Option<Closed> {
        if self.waiting > 0 { self.close_oldest() } else { None }
    }

    /// Takes the connection that has been idle longest; dropping it closes it.
    fn close_oldest(&mut self) -> Option<Closed> {
        let (serial, (key, _)) = self.idle.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        if entry.http2.as_ref().is_some_and(|shared| shared.idle == Some(serial)) {
            return entry.http2.take().map(Closed::Http2);
        }
        // The oldest is at the front.
        let index = entry.http1.iter().position(|(own, _)| *own == serial)?;
        Some(Closed::Http1(entry.http1.remove(index).1))
    }
}

fn places(count: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)))
}

#[allow(dead_code, clippy::large_enum_variant, reason = "held only to be dropped outside the lock")]
enum Closed {
    Http1(Http1),
    Http2(Shared),
    Broker(Idle),
}

impl Entry {
    fn is_used(&self) -> bool {
        !self.http1.is_empty() || self.http2.is_some() || Arc::strong_count(&self.requests) > 1 || Arc::strong_count(&self.gate) > 1
    }
}

impl Http2 {
    /// Keeps new requests off this connection; those under way go on.
    pub(super) fn retire(&self) {
        let mut state = self.pool.state();
        let State { entries, .. } = &mut *state;
        if let Some(entry) = entries.get_mut(&self.key)
            && entry.http2.as_ref().is_some_and(|shared| shared.serial == self.serial)
        {
            entry.http2 = None;
        }
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        let State { entries, idle, next_serial, .. } = &mut *state;
        let Some(shared) = entries.get_mut(&self.key).and_then(|entry| entry.http2.as_mut()) else { return };
        if shared.serial != self.serial {
            return;
        }
        shared.in_flight -= 1;
        if shared.in_flight == 0 {
            shared.allowance.cap(H2_AT_REST);
            *next_serial += 1;
            idle.insert(*next_serial, (self.key, monotonic()));
            shared.idle = Some(*next_serial);
            drop(state.make_room());
        }
    }
}

impl std::fmt::Debug for Http1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Http1")
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2").field("in_flight", &self.in_flight).finish()
    }
}
