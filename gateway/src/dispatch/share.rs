//! How many shards this node should own: a fair share among the nodes that take shards.
//!
//! Each node says every quarter of a lease that it is there. One that holds more than its share ends the surplus in good order, which
//! releases it; one that has its share leaves what was released to others, and only takes over from holders that died. So shards move
//! within one lease when a node joins, leaves or dies, and stay where they are otherwise.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::event::Shard;

/// The shards of this node, and how many it may have.
#[derive(Debug)]
pub(super) struct Share {
    state: Mutex<State>,
    /// Which shards are held, to be asked for each event.
    owned: Box<[AtomicBool]>,
}

#[derive(Debug)]
struct State {
    shards: usize,
    most: usize,
    /// What is owned, and what ends it. A shard that is being given back counts until it is.
    held: BTreeMap<u16, CancellationToken>,
}

impl Share {
    /// All of `shards`, until other nodes are known.
    pub(super) fn of(shards: u16) -> Self {
        let state = State { shards: shards.into(), most: shards.into(), held: BTreeMap::new() };
        Self { state: Mutex::new(state), owned: (0..shards).map(|_| AtomicBool::new(false)).collect() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the node may take a shard that nobody has.
    pub(super) fn has_room(&self) -> bool {
        let state = self.state();
        state.held.len() < state.most
    }

    /// Notes a shard as owned until [`Share::ended`]; cancelling `end` gives it back.
    pub(super) fn took(&self, shard: Shard, end: CancellationToken) {
        self.state().held.insert(shard.0, end);
        self.flag(shard).inspect(|owned| owned.store(true, Ordering::Relaxed));
    }

    /// Notes a shard as owned no more.
    pub(super) fn ended(&self, shard: Shard) {
        self.state().held.remove(&shard.0);
        self.flag(shard).inspect(|owned| owned.store(false, Ordering::Relaxed));
    }

    /// Whether a shard is owned here.
    pub(super) fn owns(&self, shard: Shard) -> bool {
        self.flag(shard).is_some_and(|owned| owned.load(Ordering::Relaxed))
    }

    fn flag(&self, shard: Shard) -> Option<&AtomicBool> {
        self.owned.get(usize::from(shard.0))
    }

    /// So many nodes take shards: gives back what is too much.
    fn among(&self, nodes: usize) {
        let mut state = self.state();
        state.most = state.shards.div_ceil(nodes.max(1));
        let surplus = state.held.len().saturating_sub(state.most);
        for (shard, end) in state.held.iter().rev().take(surplus).filter(|(_, end)| !end.is_cancelled()) {
            tracing::info!(shard, nodes, "more than this node's share, giving it back");
            end.cancel();
        }
    }
}

/// Says that this node is there, and learns its share.
pub(super) async fn look(shared: &Shared) {
    // Gone before a dead node's leases are, so that whoever takes those over keeps them.
    let lasting = shared.config.lease_ttl * 3 / 4;
    match shared.store.present(&shared.config.node, lasting).await {
        Ok(nodes) => shared.share.among(nodes),
        Err(error) => tracing::warn!(%error, "this node's share of the shards is not known, trying again"),
    }
}

/// Looks again and again; says at the stop that this node is gone.
pub(super) async fn keep(shared: Arc<Shared>, stop: CancellationToken) {
    let every = shared.config.lease_ttl / 4;
    while tokio::time::timeout(every, stop.cancelled()).await.is_err() {
        look(&shared).await;
    }
    let leaving = shared.store.present(&shared.config.node, std::time::Duration::ZERO);
    match tokio::time::timeout(every, leaving).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "this node's leaving is not noted, it will be found out"),
        Err(_) => tracing::warn!("this node's leaving is not noted in time, it will be found out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_surplus_is_given_back_and_no_more_is_taken() {
        let share = Share::of(5);
        let ends: Vec<_> = (0..5).map(|_| CancellationToken::new()).collect();
        for (shard, end) in (0..).zip(&ends) {
            assert!(share.has_room());
            share.took(Shard(shard), end.clone());
        }
        let given_back = || ends.iter().map(CancellationToken::is_cancelled).collect::<Vec<_>>();
        share.among(1);
        assert_eq!(given_back(), [false; 5]);
        share.among(2);
        share.among(2);
        assert_eq!(given_back(), [false, false, false, true, true]);
        share.ended(Shard(3));
        share.ended(Shard(4));
        assert!(!share.has_room());
        assert_eq!([0, 2, 3, 5].map(|shard| share.owns(Shard(shard))), [true, true, false, false]);
        share.among(9);
        assert_eq!(given_back(), [false, true, true, true, true], "nobody is left without");
        share.among(1);
        assert!(share.has_room());
    }
}
