//! Which versions are kept ready, and which go when there are too many.
//!
//! The least recently used goes first, but of a tenant that has more than its share, which is the whole divided by the tenants that have
//! any: so one that runs through many versions pushes out its own, and leaves others theirs. A version that several tenants use counts for
//! the one that used it last.

use std::collections::{BTreeMap, HashMap};

use crate::event::{TenantId, VersionHash};

/// Of the least recently used so many are looked at for one of a tenant over its share; then one of the largest tenant's goes.
const LOOKED_AT: usize = 64;

/// The cache's bounds.
#[derive(Clone, Copy, Debug)]
pub(in crate::plugin) struct CacheSize {
    pub(in crate::plugin) versions: usize,
    pub(in crate::plugin) bytes: u64,
}

/// Entries by version; `S` is what an entry holds.
pub(super) struct Cache<S> {
    entries: HashMap<VersionHash, Entry<S>>,
    /// By their last use, the longest ago first.
    by_use: BTreeMap<u64, VersionHash>,
    tenants: HashMap<TenantId, Part>,
    uses: u64,
    /// Of all entries.
    bytes: u64,
    size: CacheSize,
}

struct Entry<S> {
    slot: S,
    used: u64,
    by: TenantId,
    /// Known once it is loaded.
    bytes: u64,
}

/// What a tenant has of the cache.
#[derive(Default)]
struct Part {
    by_use: BTreeMap<u64, VersionHash>,
    bytes: u64,
}

impl<S: Clone + Default> Cache<S> {
    pub(super) fn new(size: CacheSize) -> Self {
        Self { entries: HashMap::new(), by_use: BTreeMap::new(), tenants: HashMap::new(), uses: 0, bytes: 0, size }
    }

    /// The entry for a version that this tenant uses now.
    pub(super) fn used(&mut self, version: VersionHash, by: TenantId) -> S {
        if let Some(latest) = self.entries.get(&version).filter(|entry| entry.used == self.uses && entry.by == by) {
            return latest.slot.clone();
        }
        let (slot, bytes) = self.take(version).map_or_else(|| (S::default(), 0), |entry| (entry.slot, entry.bytes));
        self.uses += 1;
        self.put(version, Entry { slot: slot.clone(), used: self.uses, by, bytes });
        slot
    }

    pub(super) fn get(&self, version: VersionHash) -> Option<&S> {
        self.entries.get(&version).map(|entry| &entry.slot)
    }

    pub(super) fn remove(&mut self, version: VersionHash) {
        drop(self.take(version));
    }

    /// Notes the size of a version, and lets others go while there are too many; what is running keeps its own handle.
    pub(super) fn loaded(&mut self, version: VersionHash, bytes: u64) {
        if let Some(entry) = self.take(version) {
            self.put(version, Entry { bytes, ..entry });
        }
        while self.entries.len() > self.size.versions || self.bytes > self.size.bytes {
            let Some(first) = self.first_to_go(version) else { break };
            self.remove(first);
        }
    }

    fn first_to_go(&self, in_hand: VersionHash) -> Option<VersionHash> {
        let tenants = self.tenants.len();
        let is_over = |tenant: &TenantId| {
            let part = self.tenants.get(tenant);
            part.is_some_and(|part| match self.bytes > self.size.bytes {
                true => u128::from(part.bytes) * tenants as u128 >= self.bytes.into(),
                // There are too many small ones.
                false => part.by_use.len() * tenants >= self.entries.len(),
            })
        };
        let mut oldest = self.by_use.values().filter(|version| **version != in_hand).take(LOOKED_AT);
        let by_use = oldest.find(|version| self.entries.get(*version).is_some_and(|entry| is_over(&entry.by)));
        let of_largest = || {
            let largest = self.tenants.values().max_by_key(|part| (part.bytes, part.by_use.len()))?;
            largest.by_use.values().find(|version| **version != in_hand)
        };
        by_use.or_else(of_largest).or_else(|| self.by_use.values().find(|version| **version != in_hand)).copied()
    }

    fn put(&mut self, version: VersionHash, entry: Entry<S>) {
        let part = self.tenants.entry(entry.by).or_default();
        part.by_use.insert(entry.used, version);
        part.bytes += entry.bytes;
        self.by_use.insert(entry.used, version);
        self.bytes += entry.bytes;
        self.entries.insert(version, entry);
    }

    fn take(&mut self, version: VersionHash) -> Option<Entry<S>> {
        let entry = self.entries.remove(&version)?;
        self.by_use.remove(&entry.used);
        self.bytes -= entry.bytes;
        if let Some(part) = self.tenants.get_mut(&entry.by) {
            part.by_use.remove(&entry.used);
            part.bytes -= entry.bytes;
            if part.by_use.is_empty() {
                self.tenants.remove(&entry.by);
            }
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u32) -> VersionHash {
        VersionHash::of(&number.to_be_bytes())
    }

    fn cache(versions: usize, bytes: u64) -> Cache<()> {
        Cache::new(CacheSize { versions, bytes })
    }

    fn load(cache: &mut Cache<()>, tenant: u128, number: u32) {
        cache.used(version(number), TenantId(tenant));
        cache.loaded(version(number), 10);
    }

    fn kept(cache: &Cache<()>, numbers: std::ops::Range<u32>) -> Vec<u32> {
        numbers.filter(|number| cache.get(version(*number)).is_some()).collect()
    }

    #[test]
    fn the_least_recently_used_goes_first_among_equals() {
        let mut cache = cache(100, 50);
        (0..5).for_each(|number| load(&mut cache, number.into(), number));
        load(&mut cache, 0, 0);
        load(&mut cache, 9, 9);
        assert_eq!(kept(&cache, 0..10), [0, 2, 3, 4, 9]);
    }

    #[test]
    fn a_tenant_with_many_versions_pushes_out_its_own() {
        for mut cache in [cache(100, 100), cache(10, 1000)] {
            (0..3).for_each(|number| load(&mut cache, number.into(), number));
            (100..200).for_each(|number| load(&mut cache, 7, number));
            assert_eq!(kept(&cache, 0..10), [0, 1, 2], "others keep theirs, however long they were not used");
            assert_eq!(kept(&cache, 100..200), (193..200).collect::<Vec<_>>());
            (10..13).for_each(|number| load(&mut cache, number.into(), number));
            assert_eq!(kept(&cache, 0..20), [0, 1, 2, 10, 11, 12], "who comes next takes from the one that has most");
        }
    }

    #[test]
    fn a_shared_version_counts_for_who_used_it_last() {
        let mut cache = cache(100, 30);
        load(&mut cache, 1, 0);
        (1..3).for_each(|number| load(&mut cache, 1, number));
        cache.used(version(0), TenantId(2));
        load(&mut cache, 1, 3);
        assert_eq!(kept(&cache, 0..4), [0, 2, 3]);
        assert_eq!((cache.tenants[&TenantId(1)].bytes, cache.tenants[&TenantId(2)].bytes, cache.bytes), (20, 10, 30));
    }

    #[test]
    fn what_is_in_hand_stays_even_alone_over_the_bound() {
        let mut cache = cache(1, 5);
        load(&mut cache, 1, 0);
        load(&mut cache, 1, 1);
        assert_eq!(kept(&cache, 0..2), [1]);
        cache.remove(version(1));
        assert_eq!((cache.bytes, cache.tenants.len(), cache.by_use.len()), (0, 0, 0));
    }
}
