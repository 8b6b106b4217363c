//! A sorted map whose copies share what they have in common, so that a change of a large configuration costs what it touches.
//!
//! Entries stand in pages of at most [`PAGE`]. A copy is a list of pages; a change copies the one page that it is in. Two maps that came
//! of one another are compared without a look into the pages that they share.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// Entries of a page: a change copies up to so many entries, a copy up to a pointer for each half as many.
const PAGE: usize = 128;

type Page<K, V> = Arc<Vec<(K, V)>>;

/// The map. No page is empty.
#[derive(Clone)]
pub struct Sorted<K, V> {
    pages: Vec<Page<K, V>>,
    len: usize,
}

/// What became of an entry: its value before and after; at least one of them is there.
pub type Difference<'a, V> = (Option<&'a V>, Option<&'a V>);

impl<K: Ord, V> Sorted<K, V> {
    /// The value of `key`.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (page, at) = self.find(key).ok()?;
        Some(&self.pages[page][at].1)
    }

    /// Whether `key` has a value.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_ok()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in the order of their keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.pages.iter().flat_map(|page| page.iter().map(|(key, value)| (key, value)))
    }

    /// All keys, in their order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// What is not the `same` in `after`, in the order of the keys. Costs nothing for the pages that both share.
    pub fn differences<'a>(&'a self, after: &'a Self, same: impl Fn(&V, &V) -> bool) -> Vec<Difference<'a, V>> {
        let mut found = Vec::new();
        let (mut old, mut new) = (Cursor::new(&self.pages), Cursor::new(&after.pages));
        loop {
            while let (Some(one), Some(other)) = (old.page(), new.page())
                && Arc::ptr_eq(one, other)
            {
                old.skip();
                new.skip();
            }
            let order = match (old.entry(), new.entry()) {
                (None, None) => return found,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((one, _)), Some((other, _))) => one.cmp(other),
            };
            let before = if order.is_le() { old.step() } else { None };
            let after = if order.is_ge() { new.step() } else { None };
            if !before.zip(after).is_some_and(|(before, after)| same(before, after)) {
                found.push((before, after));
            }
        }
    }

    /// The page and place of `key`, or those where it would stand.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Result<(usize, usize), (usize, usize)>
    where
        K: Borrow<Q>,
    {
        let page = self.pages.partition_point(|page| page[0].0.borrow() <= key).saturating_sub(1);
        let Some(entries) = self.pages.get(page) else { return Err((0, 0)) };
        match entries.binary_search_by(|(other, _)| other.borrow().cmp(key)) {
            Ok(at) => Ok((page, at)),
            Err(at) => Err((page, at)),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Sorted<K, V> {
    /// The value of `key`, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (page, at) = self.find(key).ok()?;
        Some(&mut Arc::make_mut(&mut self.pages[page])[at].1)
    }

    /// Sets the value of `key`; gives the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (page, at) = match self.find(&key) {
            Ok((page, at)) => return Some(std::mem::replace(&mut Arc::make_mut(&mut self.pages[page])[at].1, value)),
            Err(place) => place,
        };
        self.len += 1;
        let full = self.pages.get(page).is_none_or(|entries| entries.len() >= PAGE);
        // New ids are the greatest: a full last page stays as it is, and so every page but the last is full.
        if full && self.pages.get(page).is_none_or(|entries| page + 1 == self.pages.len() && at == entries.len()) {
            self.pages.push(Arc::new(vec![(key, value)]));
            return None;
        }
        let entries = Arc::make_mut(&mut self.pages[page]);
        entries.insert(at, (key, value));
        if full {
            let rest = entries.split_off(PAGE / 2);
            self.pages.insert(page + 1, Arc::new(rest));
        }
        None
    }

    /// Takes `key` away; gives the value that it had.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (page, at) = self.find(key).ok()?;
        let entries = Arc::make_mut(&mut self.pages[page]);
        let (_, value) = entries.remove(at);
        if entries.is_empty() {
            self.pages.remove(page);
        }
        self.len -= 1;
        Some(value)
    }
}

/// A place between two entries.
struct Cursor<'a, K, V> {
    pages: &'a [Page<K, V>],
    at: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn new(pages: &'a [Page<K, V>]) -> Self {
        Self { pages, at: 0 }
    }

    /// The page that begins here.
    fn page(&self) -> Option<&'a Page<K, V>> {
        self.pages.first().filter(|_| self.at == 0)
    }

    fn entry(&self) -> Option<&'a (K, V)> {
        self.pages.first().map(|page| &page[self.at])
    }

    fn skip(&mut self) {
        (self.pages, self.at) = (&self.pages[1..], 0);
    }

    /// Goes over one entry; gives its value.
    fn step(&mut self) -> Option<&'a V> {
        let (_, value) = self.entry()?;
        self.at += 1;
        if self.at == self.pages[0].len() {
            self.skip();
        }
        Some(value)
    }
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self { pages: Vec::new(), len: 0 }
    }
}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for Sorted<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord, V> Index<&K> for Sorted<K, V> {
    type Output = V;

    /// # Panics
    /// When `key` has no value.
    fn index(&self, key: &K) -> &V {
        self.get(key).expect("the key has a value")
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Sorted<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(map: &Sorted<u16, u32>, model: &BTreeMap<u16, u32>) {
        assert!(map.iter().eq(model.iter()));
        assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
        assert!(map.pages.iter().all(|page| !page.is_empty() && page.len() <= PAGE));
    }

    proptest! {
        /// Does what a `BTreeMap` does, never to an earlier copy, and finds all differences to that.
        #[test]
        fn it_is_a_sorted_map(first in changes(), then in changes()) {
            let (mut map, mut model) = (Sorted::default(), BTreeMap::new());
            apply(&first, &mut map, &mut model);
            check(&map, &model);
            let (before, model_before) = (map.clone(), model.clone());
            apply(&then, &mut map, &mut model);
            check(&map, &model);
            check(&before, &model_before);
            let keys: std::collections::BTreeSet<_> = model_before.keys().chain(model.keys()).collect();
            let expected: Vec<_> = keys
                .into_iter()
                .map(|key| (model_before.get(key), model.get(key)))
                .filter(|(old, new)| old != new)
                .collect();
            prop_assert_eq!(before.differences(&map, |a, b| a == b), expected);
            for key in 0..1024 {
                prop_assert_eq!(map.get(&key), model.get(&key));
                prop_assert_eq!(map.contains_key(&key), model.contains_key(&key));
            }
        }
    }

    fn changes() -> impl Strategy<Value = Vec<(u16, Option<u32>)>> {
        let some = prop::collection::vec((0_u16..1024, prop::option::of(0_u32..4)), 0..40);
        // As ids grow, and enough for many pages.
        let ascending = (0_u16..1024, 0_u16..1024).prop_map(|(from, to)| (from..to).map(|key| (key, Some(9))).collect::<Vec<_>>());
        prop_oneof![some.clone(), (ascending, some).prop_map(|(ascending, some)| [ascending, some].concat())]
    }

    fn apply(changes: &[(u16, Option<u32>)], map: &mut Sorted<u16, u32>, model: &mut BTreeMap<u16, u32>) {
        for (key, value) in changes {
            match value {
                Some(value) => {
                    if let Some(old) = map.get_mut(key) {
                        *old = *value;
                        model.insert(*key, *value);
                    } else {
                        assert_eq!(map.insert(*key, *value), model.insert(*key, *value));
                    }
                }
                None => assert_eq!(map.remove(key), model.remove(key)),
            }
        }
    }

    #[test]
    fn a_change_copies_one_page() {
        let before: Sorted<u32, u32> = (0..10_000).map(|key| (key, key)).collect();
        assert_eq!(before.pages.len(), 10_000_usize.div_ceil(PAGE), "ascending keys fill their pages");
        let mut after = before.clone();
        after.insert(5_000, 1);
        let shared = before.pages.iter().zip(&after.pages).filter(|(one, other)| Arc::ptr_eq(one, other)).count();
        assert_eq!(shared, before.pages.len() - 1);
        assert_eq!(before.differences(&after, |a, b| a == b), [(Some(&5_000), Some(&1))]);
    }
}
