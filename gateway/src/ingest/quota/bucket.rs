//! A token bucket. It is one atomic: the time at which it would be full again (the "theoretical arrival time" of GCRA), so that
//! taking a token is one compare-and-swap. What was taken is summed up beside it, as time too, for whoever shares it with others.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Timestamp;

const NANOS_PER_MILLI: u64 = 1_000_000;
const NANOS_PER_SECOND: f64 = 1e9;
/// 146 years: what a rate may come to, so that sums of times don't overflow.
const LONGEST: u64 = u64::MAX / 4;
/// By how many of its depths, and how much longer, a bucket may be overdrawn: far more than gateways do between two tellings.
const OVERDRAWN: u64 = 16;
const OVERDRAWN_NANOS: u64 = 60 * 1_000_000_000;
/// Which part of a bucket may be taken before the others are told.
const UNTOLD: u64 = 64;

/// What a bucket lets through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Throughput {
    /// Events per second.
    pub(super) rate: f64,
    /// Events that may come at once.
    pub(super) burst: u32,
}

/// Times are in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// When it will be full again, since the epoch.
    full_at: AtomicU64,
    /// What was taken and not told yet: how long it takes to fill it again.
    untold: AtomicU64,
    /// Whether somebody is to tell it.
    is_listed: AtomicBool,
}

impl Bucket {
    /// Takes a token, and says whether this must be told to the others now; without one, how long it takes until there is one.
    pub(super) fn take(&self, throughput: Throughput, now: Timestamp) -> Result<Telling, Duration> {
        let Throughput { rate, burst } = throughput;
        if rate.is_nan() || rate <= 0.0 {
            return Err(Duration::from_nanos(LONGEST));
        }
        let now = nanos(now);
        let one = ((NANOS_PER_SECOND / rate) as u64).min(LONGEST);
        let depth = ((NANOS_PER_SECOND / rate * f64::from(burst.max(1))) as u64).min(LONGEST);
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let next = full_at.max(now).saturating_add(one);
            (next - now <= depth).then_some(next)
        });
        if let Err(full_at) = taken {
            let full_in = self.no_longer_than(full_at, now, depth);
            return Err(Duration::from_nanos(full_in.saturating_add(one).saturating_sub(depth)));
        }
        let untold = self.untold.fetch_add(one, Ordering::Relaxed).saturating_add(one);
        let is_due = untold > 0 && untold >= depth / UNTOLD && !self.is_listed.swap(true, Ordering::Relaxed);
        Ok(if is_due { Telling::Due } else { Telling::Later })
    }

    /// In how long the bucket is full. So far as others can't have overdrawn it the clock was set back: then it is empty from now on,
    /// rather than until the clock has come again to where it was.
    fn no_longer_than(&self, full_at: u64, now: u64, depth: u64) -> u64 {
        let full_in = full_at.saturating_sub(now);
        if full_in <= depth.saturating_mul(OVERDRAWN).saturating_add(OVERDRAWN_NANOS) {
            return full_in;
        }
        let empty = now.saturating_add(depth);
        let _changed_meanwhile = self.full_at.compare_exchange(full_at, empty, Ordering::Relaxed, Ordering::Relaxed);
        depth
    }

    /// What is to be told: it counts as told from now on.
    pub(super) fn tell(&self) -> Duration {
        self.is_listed.store(false, Ordering::Relaxed);
        Duration::from_nanos(self.untold.swap(0, Ordering::Relaxed))
    }

    /// At `asked` the others' answer was that it would be full after `full_in`. What was taken here meanwhile comes on top.
    pub(super) fn heard(&self, asked: Timestamp, full_in: Duration) {
        let full_in = u64::try_from(full_in.as_nanos()).unwrap_or(LONGEST).min(LONGEST);
        let full_at = nanos(asked).saturating_add(full_in).saturating_add(self.untold.load(Ordering::Relaxed));
        self.full_at.fetch_max(full_at, Ordering::Relaxed);
    }
}

/// Whether the others must be told that a token was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Telling {
    /// Somebody else does, or it is too little to tell.
    Later,
    /// Whoever took it sees to it.
    Due,
}

fn nanos(at: Timestamp) -> u64 {
    at.0.saturating_mul(NANOS_PER_MILLI).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_700_000_000_000);

    fn admitted(bucket: &Bucket, throughput: Throughput, now: Timestamp, count: usize) -> usize {
        (0..count).filter(|_| bucket.take(throughput, now).is_ok()).count()
    }

    #[test]
    fn takes_a_burst_then_the_rate() {
        let (bucket, throughput) = (Bucket::default(), Throughput { rate: 100.0, burst: 20 });
        assert_eq!(admitted(&bucket, throughput, START, 50), 20);
        assert_eq!(admitted(&bucket, throughput, START.after(Duration::from_millis(100)), 50), 10);
        assert_eq!(admitted(&bucket, throughput, START.after(Duration::from_secs(60)), 50), 20, "never more than the burst");
    }

    #[test]
    fn says_how_long_it_takes_until_there_is_a_token() {
        let (bucket, throughput) = (Bucket::default(), Throughput { rate: 0.5, burst: 1 });
        assert!(bucket.take(throughput, START).is_ok());
        assert_eq!(bucket.take(throughput, START), Err(Duration::from_secs(2)));
        let later = START.after(Duration::from_millis(1500));
        assert_eq!(bucket.take(throughput, later), Err(Duration::from_millis(500)));
        assert!(bucket.take(throughput, START.after(Duration::from_secs(2))).is_ok());
    }

    #[test]
    fn odd_plans_do_not_break_it() {
        for rate in [0.0, -1.0, f64::NAN] {
            assert!(Bucket::default().take(Throughput { rate, burst: 5 }, START).is_err());
        }
        let huge = Throughput { rate: f64::INFINITY, burst: u32::MAX };
        assert_eq!(admitted(&Bucket::default(), huge, START, 1000), 1000);
        let slow = Throughput { rate: 1e-300, burst: 1 };
        assert_eq!(admitted(&Bucket::default(), slow, START, 3), 1);
    }

    #[test]
    fn a_clock_that_steps_back_admits_no_burst_anew() {
        let (bucket, throughput) = (Bucket::default(), Throughput { rate: 10.0, burst: 10 });
        assert_eq!(admitted(&bucket, throughput, START, 10), 10);
        assert_eq!(admitted(&bucket, throughput, START.before(Duration::from_secs(1)), 10), 0);
    }

    #[test]
    fn a_clock_that_is_set_back_far_stops_nobody_for_long() {
        let (bucket, throughput) = (Bucket::default(), Throughput { rate: 10.0, burst: 10 });
        assert_eq!(admitted(&bucket, throughput, START, 10), 10);
        let back = START.before(Duration::from_secs(3600));
        assert_eq!(bucket.take(throughput, back), Err(Duration::from_millis(100)));
        assert_eq!(admitted(&bucket, throughput, back, 10), 0);
        assert_eq!(admitted(&bucket, throughput, back.after(Duration::from_millis(500)), 10), 5);
    }

    #[test]
    fn what_others_took_is_not_there() {
        let (bucket, throughput) = (Bucket::default(), Throughput { rate: 10.0, burst: 10 });
        assert_eq!(admitted(&bucket, throughput, START, 4), 4);
        assert_eq!(bucket.tell(), Duration::from_millis(400));
        assert_eq!(admitted(&bucket, throughput, START, 1), 1);
        // They took 3, and what was told is in it.
        bucket.heard(START, Duration::from_millis(700));
        assert_eq!(admitted(&bucket, throughput, START, 10), 2);
        bucket.heard(START, Duration::ZERO);
        assert_eq!(admitted(&bucket, throughput, START, 10), 0, "nobody gives tokens back");
    }

    #[test]
    fn is_told_once_at_a_time_and_not_for_a_trifle() {
        let (bucket, throughput) = (Bucket::default(), Throughput { rate: 1000.0, burst: 640 });
        let tellings = || (0..100).filter(|_| bucket.take(throughput, START) == Ok(Telling::Due)).count();
        assert_eq!(bucket.take(throughput, START), Ok(Telling::Later));
        assert_eq!(tellings(), 1);
        assert_eq!(bucket.tell(), Duration::from_millis(101));
        assert_eq!(tellings(), 1);
    }
}
