//! Shares of a common budget: what one peer, or one source, may hold of it.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

const SHARDS: usize = 64;
/// A map that grew to this forgets whoever holds nothing before it grows on.
const CROWDED: usize = 256;

/// Counts what each key holds, up to a cap.
#[derive(Debug)]
pub(super) struct Shares<K> {
    cap: usize,
    shards: Vec<RwLock<HashMap<K, Arc<AtomicUsize>>>>,
    hasher: RandomState,
}

/// One key's count, to take from without looking it up again.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    held: Arc<AtomicUsize>,
    cap: usize,
}

/// What is held; given back when dropped.
#[derive(Debug)]
#[must_use = "given back when dropped"]
pub(super) struct Share {
    held: Option<Arc<AtomicUsize>>,
    amount: usize,
}

impl<K: Copy + Eq + Hash> Shares<K> {
    pub(super) fn new(cap: usize) -> Self {
        Self { cap, shards: (0..SHARDS).map(|_| RwLock::default()).collect(), hasher: RandomState::new() }
    }

    /// The key's count.
    pub(super) fn of(&self, key: K) -> Holder {
        let shard = &self.shards[self.hasher.hash_one(key) as usize % SHARDS];
        if let Some(held) = shard.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Holder { held: held.clone(), cap: self.cap };
        }
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= CROWDED {
            shard.retain(|_, held| Arc::strong_count(held) > 1);
        }
        Holder { held: shard.entry(key).or_default().clone(), cap: self.cap }
    }

    /// Takes `amount`, unless that exceeds the cap.
    pub(super) fn take(&self, key: K, amount: usize) -> Option<Share> {
        self.of(key).take(amount)
    }
}

impl Holder {
    /// Takes `amount`, unless that exceeds the cap.
    pub(super) fn take(&self, amount: usize) -> Option<Share> {
        let before = self.held.fetch_add(amount, Ordering::Relaxed);
        let share = Share { held: Some(self.held.clone()), amount };
        (before.saturating_add(amount) <= self.cap).then_some(share)
    }
}

impl Share {
    /// Of no budget.
    pub(super) fn none() -> Self {
        Self { held: None, amount: 0 }
    }

    /// Takes over what `other` holds of the same count.
    pub(super) fn merge(&mut self, mut other: Self) {
        self.amount += std::mem::take(&mut other.amount);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(held) = &self.held {
            held.fetch_sub(self.amount, Ordering::Relaxed);
        }
    }
}

/// Who counts as one peer: an IPv4 address, or an IPv6 /64, since that is what one machine has.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_taken_again() {
        let shares = Shares::new(10);
        let first = shares.take(1, 7).expect("room");
        assert!(shares.take(1, 4).is_none());
        assert!(shares.take(2, 10).is_some(), "another key has its own share");
        let second = shares.take(1, 3).expect("a refusal holds nothing");
        drop((first, second));
        assert!(shares.take(1, 10).is_some());
    }

    #[test]
    fn forgets_who_holds_nothing() {
        let shares = Shares::new(1);
        let held = shares.take(0u64, 1);
        for key in 1..100_000u64 {
            drop(shares.take(key, 1));
        }
        let kept: usize = shares.shards.iter().map(|shard| shard.read().unwrap().len()).sum();
        assert!(kept <= SHARDS * CROWDED, "{kept}");
        assert!(shares.take(0, 1).is_none(), "who holds something is remembered");
        drop(held);
    }

    #[test]
    fn one_machine_is_one_peer() {
        let network = |text: &str| super::network(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
