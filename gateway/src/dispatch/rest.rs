//! For how long a destination's queue rests that found none of the gateway's connections, in one shard. Pure.
//!
//! The first rest is [`FIRST`] long, and one after which there is none again twice as long as the one before, up to [`LONGEST`]: so
//! that what waits for a connection does not ask for one again and again. The first attempt that gets one ends it.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::event::DestinationId;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// How long a rest is known after its end: longer than an attempt may wait for a connection.
const KNOWN: Duration = Duration::from_secs(600);

/// The destinations of one shard that found no connection when they last looked.
#[derive(Debug, Default)]
pub(super) struct Rests(HashMap<DestinationId, Rest>);

#[derive(Debug, Default)]
struct Rest {
    time: Duration,
    until: Timestamp,
}

impl Rests {
    /// Notes that an attempt found no connection that had begun to look for one at `since`.
    pub(super) fn missed(&mut self, destination: DestinationId, since: Timestamp, now: Timestamp) {
        // Those that looked together rest together.
        if self.until(destination, now).is_some_and(|until| since < until) {
            return;
        }
        self.0.retain(|_, rest| rest.is_known(now));
        let rest = self.0.entry(destination).or_default();
        rest.time = (rest.time * 2).clamp(FIRST, LONGEST);
        rest.until = now.after(rest.time);
    }

    /// Notes that one got a connection.
    pub(super) fn found(&mut self, destination: DestinationId) {
        self.0.remove(&destination);
    }

    /// Until when a destination rests, or rested when it last looked; none if it then found a connection.
    pub(super) fn until(&self, destination: DestinationId, now: Timestamp) -> Option<Timestamp> {
        self.0.get(&destination).filter(|rest| rest.is_known(now)).map(|rest| rest.until)
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

impl Rest {
    /// Not one of long ago, nor, of a clock that was set back, one that is far ahead.
    fn is_known(&self, now: Timestamp) -> bool {
        now < self.until.after(KNOWN) && self.until <= now.after(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);
    const OURS: DestinationId = DestinationId(1);

    /// Looks in vain as soon as it may again, so many times: how long the rests are, in seconds.
    fn rests(rests: &mut Rests, mut now: Timestamp, times: usize) -> Vec<u64> {
        let mut lengths = Vec::new();
        for _ in 0..times {
            rests.missed(OURS, now, now);
            let until = rests.until(OURS, now).expect("it rests");
            lengths.push(until.since(now).as_secs());
            now = until;
        }
        lengths
    }

    #[test]
    fn rests_double_until_one_gets_a_connection() {
        let mut known = Rests::default();
        assert_eq!(rests(&mut known, START, 7), [1, 2, 4, 8, 16, 30, 30]);
        known.found(OURS);
        assert_eq!((known.until(OURS, START), known.count()), (None, 0));
        assert_eq!(rests(&mut known, START, 2), [1, 2]);
    }

    #[test]
    fn those_that_look_together_rest_together_and_others_do_not() {
        let mut rests = Rests::default();
        for late in 0..3000 {
            rests.missed(OURS, START, START.after(Duration::from_millis(late)));
        }
        assert_eq!(rests.until(OURS, START), Some(START.after(FIRST)));
        assert_eq!(rests.until(DestinationId(2), START), None);
    }

    #[test]
    fn a_rest_is_known_after_its_end_but_not_for_ever_nor_by_a_clock_that_was_set_back() {
        let mut known = Rests::default();
        known.missed(OURS, START, START);
        let end = START.after(FIRST);
        assert_eq!(known.until(OURS, end.after(KNOWN).before(Duration::from_millis(1))), Some(end));
        assert_eq!(known.until(OURS, end.after(KNOWN)), None);
        let hour = Duration::from_secs(3600);
        assert_eq!(known.until(OURS, START.before(hour)), None);
        assert_eq!(rests(&mut known, START.before(hour), 1), [1]);
        known.missed(DestinationId(2), START.after(hour), START.after(hour));
        assert_eq!(known.count(), 1);
    }
}
