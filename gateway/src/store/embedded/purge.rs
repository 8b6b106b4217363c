//! Finds what is left of a tenant: first its jobs, then its events, a bounded step at a time. The committer removes it, and with each
//! step some of what its plugins have in tables.
//!
//! A pass looks at all of it once; a purge is done after a pass that found nothing. What is in somebody's hands is left to a later
//! pass.

use super::Shared;
use super::command::CutEvent;
use super::disk::Tree;
use super::keys::{self, LogKey, Parts};
use super::rows::{Story, Waiting};
use crate::event::{DeliveryId, EventId, TenantId, decode};
use crate::store::{Lease, StoreError};

/// Jobs, or rows of history, that one step looks at.
const STEP: usize = 1024;

/// How far a pass has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    stage: Stage,
    /// Whether the pass has found nothing so far.
    pub(super) is_clean: bool,
    /// Whether it has looked at everything.
    pub(super) is_over: bool,
}

/// Where it goes on.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Jobs(DeliveryId),
    Events(EventId),
}

impl Default for Walk {
    fn default() -> Self {
        Self { stage: Stage::Jobs(DeliveryId(0)), is_clean: true, is_over: false }
    }
}

/// What a step found.
pub(super) struct Haul {
    /// The shard's revivals when it was found: any more, and events must be looked at again.
    pub(super) revivals: u64,
    /// The tenant's jobs, wherever they are.
    pub(super) jobs: Vec<DeliveryId>,
    /// Finished events without a job.
    pub(super) events: Vec<CutEvent>,
    /// Where the next step goes on.
    pub(super) walk: Walk,
}

pub(super) fn find(shared: &Shared, lease: &Lease, tenant: TenantId) -> Result<Haul, StoreError> {
    let cell = shared.cell(lease.shard);
    let (revivals, walk) = {
        let state = cell.owned(lease)?;
        (state.revivals, state.purging.get(&tenant).copied().unwrap_or_default())
    };
    let mut haul = Haul { revivals, jobs: Vec::new(), events: Vec::new(), walk };
    match walk.stage {
        Stage::Jobs(from) => haul.jobs_of(shared, lease, tenant, from)?,
        Stage::Events(from) => haul.events_of(shared, lease, tenant, from)?,
    }
    Ok(haul)
}

impl Haul {
    /// The shard's jobs are not in order of tenants, so that all of them are looked at.
    fn jobs_of(&mut self, shared: &Shared, lease: &Lease, tenant: TenantId, from: DeliveryId) -> Result<(), StoreError> {
        let from = keys::waiting(lease.shard, from);
        let to = keys::after(&from[..3]);
        let mut looked_at = 0;
        let mut last = None;
        for row in shared.disk.range(Tree::Index, from, to).take(STEP) {
            let (key, value) = row?;
            let id = DeliveryId(Parts(&key[3..]).u128()?);
            (looked_at, last) = (looked_at + 1, Some(id));
            if decode::<Waiting>(&value)?.tenant == tenant {
                self.jobs.push(id);
            }
        }
        self.walk.stage = match last {
            Some(DeliveryId(last)) if looked_at == STEP && last < u128::MAX => Stage::Jobs(DeliveryId(last + 1)),
            _ => Stage::Events(EventId(0)),
        };
        Ok(())
    }

    fn events_of(&mut self, shared: &Shared, lease: &Lease, tenant: TenantId, from: EventId) -> Result<(), StoreError> {
        let from = keys::history(tenant, from, 0);
        let to = keys::after(&from[..16]);
        let mut story: Option<(EventId, Story)> = None;
        for (looked_at, row) in shared.disk.range(Tree::History, from, to).enumerate() {
            let (key, value) = row?;
            let mut parts = Parts(&key[16..]);
            let (event, n) = (EventId(parts.u128()?), parts.u64()?);
            if story.as_ref().is_some_and(|(known, _)| *known != event) {
                if let Some((known, story)) = story.take() {
                    self.take(shared, lease, tenant, known, story)?;
                }
                if looked_at >= STEP {
                    self.walk.stage = Stage::Events(event);
                    return Ok(());
                }
            }
            story.get_or_insert_with(|| (event, Story::default())).1.add(n, &value)?;
        }
        if let Some((event, story)) = story {
            self.take(shared, lease, tenant, event, story)?;
        }
        self.walk.is_over = true;
        Ok(())
    }

    /// Takes an event unless a job of it is still there. That one may be in hand although its delivery has ended: an outcome can come
    /// with another record than the job's own.
    fn take(&mut self, shared: &Shared, lease: &Lease, tenant: TenantId, event: EventId, story: Story) -> Result<(), StoreError> {
        if story.listed.is_some_and(|listed| listed.shard != lease.shard) {
            return Ok(());
        }
        self.walk.is_clean = false;
        let Some(listed) = story.listed.filter(|_| story.finished) else { return Ok(()) };
        for row in &story.rows {
            if shared.disk.get(Tree::Index, &keys::waiting(lease.shard, row.id))?.is_some() {
                return Ok(());
            }
        }
        let at = LogKey { shard: listed.shard, lane: listed.lane, seq: listed.seq, tenant, event };
        let bytes = if story.is_terminal() { story.bytes() } else { 0 };
        self.events.push(CutEvent { at, numbers: story.numbers, bytes });
        Ok(())
    }
}
