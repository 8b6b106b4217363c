//! Whose component is compiled next.
//!
//! A few compilers run at once, and one tenant has at most all but one of them. The next turn goes to the tenant that has used compilers
//! least, newcomers included, so that a tenant's queue of uploads delays its own alone. What several tenants wait for is
//! compiled at the first turn of any of them. Uploads hold their component in memory while they wait and are bounded, see [`Size`];
//! events that wait hold nothing, and are bounded by what their tenant may have in flight.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::clock::monotonic;
use crate::event::{TenantId, VersionHash};
use crate::plugin::error::LoadError;

/// Bounds of what runs and waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Compilers at once.
    pub(super) at_once: usize,
    /// Uploads of one tenant that wait or are compiled.
    pub(super) uploads: usize,
    /// Bytes of these.
    pub(super) bytes: usize,
    /// Bytes of all tenants' uploads.
    pub(super) total_bytes: usize,
}

/// The line for compilers.
pub(super) struct Turns {
    line: Mutex<Line>,
    size: Size,
}

#[derive(Default)]
struct Line {
    tickets: u64,
    /// In the order of arrival.
    waiting: Vec<Waiting>,
    running: Vec<Running>,
    uploads: Vec<Upload>,
    /// What each tenant has used, in milliseconds from where it joined; who is behind the others is brought up to `now`.
    used: HashMap<TenantId, u64>,
    /// What the tenant of the last turn had used before it.
    now: u64,
}

struct Waiting {
    ticket: u64,
    version: VersionHash,
    /// Everyone who wants it.
    tenants: Vec<TenantId>,
    granted: oneshot::Sender<()>,
}

struct Running {
    ticket: u64,
    tenant: TenantId,
    since: Instant,
}

struct Upload {
    ticket: u64,
    tenant: TenantId,
    bytes: usize,
}

/// Room for an upload's component, until it is dropped.
pub(in crate::plugin) struct Room<'a> {
    turns: &'a Turns,
    ticket: u64,
}

/// A place in the line and then the right to compile, until it is dropped.
pub(in crate::plugin) struct Turn<'a> {
    turns: &'a Turns,
    ticket: u64,
}

impl Turns {
    pub(super) fn new(size: Size) -> Self {
        Self { line: Mutex::default(), size }
    }

    /// Makes room for an upload.
    pub(super) fn admit(&self, tenant: TenantId, bytes: usize) -> Result<Room<'_>, LoadError> {
        let mut line = self.line();
        line.check(tenant, bytes, self.size)?;
        let ticket = line.ticket();
        line.uploads.push(Upload { ticket, tenant, bytes });
        Ok(Room { turns: self, ticket })
    }

    /// Waits for a turn.
    pub(super) async fn take(&self, tenant: TenantId, version: VersionHash) -> Turn<'_> {
        let (turn, granted) = self.stand(tenant, version);
        // Fails never: the line lives as long as the turn.
        let _ = granted.await;
        turn
    }

    fn stand(&self, tenant: TenantId, version: VersionHash) -> (Turn<'_>, oneshot::Receiver<()>) {
        let (granted, turn) = oneshot::channel();
        let mut line = self.line();
        let ticket = line.ticket();
        line.waiting.push(Waiting { ticket, version, tenants: vec![tenant], granted });
        line.grant(self.size.at_once);
        (Turn { turns: self, ticket }, turn)
    }

    /// Says that this tenant too waits for a version, if it is in the line.
    pub(super) fn join(&self, tenant: TenantId, version: VersionHash) {
        let mut line = self.line();
        let Some(waiting) = line.waiting.iter_mut().find(|waiting| waiting.version == version) else { return };
        if !waiting.tenants.contains(&tenant) {
            waiting.tenants.push(tenant);
            line.grant(self.size.at_once);
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.turns.line().uploads.retain(|upload| upload.ticket != self.ticket);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut line = self.turns.line();
        line.waiting.retain(|waiting| waiting.ticket != self.ticket);
        line.end(self.ticket);
        line.grant(self.turns.size.at_once);
    }
}

impl Line {
    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    fn check(&self, tenant: TenantId, bytes: usize, size: Size) -> Result<(), LoadError> {
        let own = || self.uploads.iter().filter(|upload| upload.tenant == tenant);
        let sum = |uploads: &mut dyn Iterator<Item = &Upload>| bytes + uploads.map(|upload| upload.bytes).sum::<usize>();
        let full = |limit, max| Err(LoadError::QueueFull { limit, max });
        if own().count() >= size.uploads {
            return full("uploads of this tenant", size.uploads);
        }
        if sum(&mut own()) > size.bytes {
            return full("bytes of this tenant's uploads", size.bytes);
        }
        if sum(&mut self.uploads.iter()) > size.total_bytes {
            return full("bytes of all tenants' uploads", size.total_bytes);
        }
        Ok(())
    }

    fn grant(&mut self, at_once: usize) {
        while self.running.len() < at_once {
            let Some((place, tenant, used)) = self.next(at_once.saturating_sub(1).max(1)) else { return };
            let Waiting { ticket, granted, .. } = self.waiting.remove(place);
            self.now = self.now.max(used);
            self.running.push(Running { ticket, tenant, since: monotonic() });
            // Who left the line meanwhile gives the turn back.
            let _ = granted.send(());
        }
    }

    /// The place in the line, the tenant, and what it has used.
    fn next(&self, of_one: usize) -> Option<(usize, TenantId, u64)> {
        let everyone =
            self.waiting.iter().enumerate().flat_map(|(place, one)| one.tenants.iter().map(move |tenant| (place, *tenant)));
        let may = everyone.filter(|(_, tenant)| self.running.iter().filter(|one| one.tenant == *tenant).count() < of_one);
        may.map(|(place, tenant)| (place, tenant, self.used(tenant))).min_by_key(|(place, _, used)| (*used, *place))
    }

    fn used(&self, tenant: TenantId) -> u64 {
        self.used.get(&tenant).copied().unwrap_or(0).max(self.now)
    }

    fn end(&mut self, ticket: u64) {
        let Some(place) = self.running.iter().position(|one| one.ticket == ticket) else { return };
        let Running { tenant, since, .. } = self.running.swap_remove(place);
        let took = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used.insert(tenant, self.used(tenant).saturating_add(took.max(1)));
        if self.running.is_empty() && self.waiting.is_empty() {
            self.used.clear();
        }
    }
}

#[cfg(test)]
mod tests;
