//! The shards of a tenant, and which of them an event goes to.

use crate::event::{EventId, Shard};

/// The shards of a tenant, in the order in which it got them. The first is its home; they only become more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    home: Shard,
    // Empty for almost every tenant.
    further: Vec<Shard>,
}

impl From<Shard> for Shards {
    fn from(home: Shard) -> Self {
        Self { home, further: Vec::new() }
    }
}

impl Shards {
    /// These.
    pub fn new(home: Shard, further: Vec<Shard>) -> Self {
        Self { home, further }
    }

    /// The first.
    pub fn home(&self) -> Shard {
        self.home
    }

    /// All, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Shard> {
        (0..self.count()).map(|number| self.nth(number))
    }

    /// How many there are; at least one.
    pub fn count(&self) -> usize {
        1 + self.further.len()
    }

    /// Whether this is one of them.
    pub fn contains(&self, shard: Shard) -> bool {
        shard == self.home || self.further.contains(&shard)
    }

    /// The part of each shard in what all of them together may have at once: at least 1.
    pub fn part(&self, whole: usize) -> usize {
        whole.div_ceil(self.count()).max(1)
    }

    /// Where an event goes: by its id, or by its dedup key, so that duplicates meet. A shard more takes its share of ids and keys from
    /// all the others; what it doesn't take stays where it is.
    pub fn place(&self, event: EventId, dedup: Option<&[u8; 32]>) -> Shard {
        let key = match dedup {
            Some(&[a, b, c, d, e, f, g, h, ..]) => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            None => (event.0 ^ (event.0 >> 64)) as u64,
        };
        self.nth(jump(key, self.count()))
    }

    fn nth(&self, number: usize) -> Shard {
        number.checked_sub(1).map_or(self.home, |number| self.further[number])
    }
}

/// The jump consistent hash of Lamping and Veach (arXiv:1406.2294): which of `buckets` a key is in.
fn jump(mut key: u64, buckets: usize) -> usize {
    let (mut bucket, mut next) = (0, 0);
    while next < buckets {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * (f64::from(1_u32 << 31) / ((key >> 33) + 1) as f64)) as usize;
    }
    bucket
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn shards(count: u16) -> Shards {
        Shards::new(Shard(7), (1..count).map(|number| Shard(100 + number)).collect())
    }

    fn event(number: u64) -> EventId {
        EventId::new(Timestamp(1_700_000_000_000 + number / 3), u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    #[test]
    fn are_the_home_and_the_others_in_order() {
        assert_eq!(shards(3).iter().collect::<Vec<_>>(), [Shard(7), Shard(101), Shard(102)]);
        assert_eq!((shards(3).home(), shards(3).count()), (Shard(7), 3));
        assert_eq!(Shards::from(Shard(7)), shards(1));
        let known = [7, 101, 102, 103].map(|shard| shards(3).contains(Shard(shard)));
        assert_eq!(known, [true, true, true, false]);
        assert_eq!([0, 1, 3, 4, 512].map(|whole| shards(3).part(whole)), [1, 1, 1, 2, 171]);
    }

    #[test]
    fn events_are_spread_evenly_and_always_alike() {
        for count in [1, 2, 4, 7] {
            let shards = shards(count);
            let mut found = std::collections::BTreeMap::<Shard, u32>::new();
            for number in 0..20_000 {
                *found.entry(shards.place(event(number), None)).or_default() += 1;
            }
            let fair = 20_000 / u32::from(count);
            assert!(shards.iter().all(|shard| found[&shard].abs_diff(fair) < fair / 10), "{count}: {found:?}");
        }
        // Gateways of several releases may place events of one tenant: this must never change.
        let placed: Vec<u16> = (0..12).map(|number| shards(5).place(event(number), None).0).collect();
        assert_eq!(placed, [102, 101, 7, 7, 102, 7, 7, 102, 103, 103, 102, 101]);
        assert_eq!(shards(5).place(event(1), Some(&[3; 32])), Shard(101));
    }

    #[test]
    fn hashes_as_others_do() {
        // Out of the tests of Guava's `Hashing.consistentHash`.
        for (key, buckets, bucket) in [
            (10_863_919_174_838_991, 11, 6),
            (2_016_238_256_797_177_309, 11, 3),
            (1_673_758_223_894_951_030, 11, 5),
            (2, 100_001, 80_343),
            (2_201, 100_001, 22_152),
            (2_202, 100_001, 15_018),
        ] {
            assert_eq!(jump(key, buckets), bucket, "{key}");
        }
    }

    #[test]
    fn a_shard_more_takes_its_share_and_moves_nothing_else() {
        for count in 1..9 {
            let (before, after) = (shards(count), shards(count + 1));
            let new = Shard(100 + count);
            let mut moved = 0;
            for number in 0..9_000 {
                let (from, to) = (before.place(event(number), None), after.place(event(number), None));
                assert!(to == from || to == new, "{from:?} {to:?}");
                moved += usize::from(to == new);
            }
            let fair = 9_000 / (usize::from(count) + 1);
            assert!(moved.abs_diff(fair) < fair / 8, "{count}: {moved}");
        }
    }

    #[test]
    fn events_with_one_dedup_key_meet() {
        let shards = shards(6);
        let key = |byte| [byte; 32];
        let places: std::collections::BTreeSet<_> = (0..100).map(|number| shards.place(event(number), Some(&key(9)))).collect();
        assert_eq!(places.len(), 1);
        let places: std::collections::BTreeSet<_> = (0..100).map(|byte| shards.place(event(1), Some(&key(byte)))).collect();
        assert_eq!(places.len(), 6, "by the key and not by the event");
    }
}
