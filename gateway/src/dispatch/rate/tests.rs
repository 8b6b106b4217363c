use proptest::prelude::*;

use super::*;

const START: Timestamp = Timestamp(1_800_000_000_000);
const OURS: DestinationId = DestinationId(1);

fn paces(limit: u32, per: Unit) -> Paces {
    Paces { destination: Some((OURS, Rate { limit, per }.pace(1))), tenant: None }
}

/// A row that has been there for a while.
fn settled() -> Slots {
    Slots::new(START.before(Duration::from_secs(7200)))
}

/// How many of these begin in the fullest span of one unit.
fn fullest(begun: &[Timestamp], per: Unit) -> usize {
    let within = |from: usize| begun[from..].iter().take_while(|at| at.0 - begun[from].0 < per.millis()).count();
    (0..begun.len()).map(within).max().unwrap_or(0)
}

#[test]
fn slots_are_spread_evenly_and_given_a_little_ahead() {
    let (mut slots, paces) = (settled(), paces(100, Unit::Second));
    assert_eq!(slots.free(&paces, START, AHEAD), 8);
    let given: Vec<u64> = std::iter::from_fn(|| slots.take(&paces, START, AHEAD).ok()).map(|slot| slot.at.0 - START.0).collect();
    assert_eq!(given, [0, 11, 21, 31, 41, 51, 61, 71]);
    assert_eq!((slots.free(&paces, START, AHEAD), slots.when(&paces, START).next.0 - START.0), (0, 81));
    let slot = slots.take(&paces, START.after(Duration::from_millis(6)), AHEAD).expect("within reach by now");
    assert_eq!((slot.at.0 - START.0, slot.until.0 - slot.at.0), (81, 10));
}

#[test]
fn a_new_owner_goes_on_where_the_one_before_it_was() {
    let paces = paces(10, Unit::Minute);
    let mut slots = Slots::new(START);
    let full = slots.take(&paces, START, AHEAD).expect_err("the one before it may have used this slot");
    assert_eq!(full.next.0 - START.0, 6061);
    assert_eq!(slots.take(&paces, full.next, AHEAD).map(|slot| slot.at), Ok(full.next));
}

#[test]
fn a_clock_that_is_set_back_and_a_limit_that_is_raised_stop_nobody_for_long() {
    let mut slots = settled();
    slots.take(&paces(1, Unit::Hour), START, AHEAD).expect("the first");
    assert!(slots.when(&paces(1, Unit::Hour), START).next.since(START) > Duration::from_secs(3600));
    assert_eq!(slots.when(&paces(60, Unit::Minute), START).next.since(START), Duration::from_millis(1011));
    let back = START.before(Duration::from_secs(86_400));
    assert_eq!(slots.when(&paces(60, Unit::Minute), back).next.since(back), Duration::from_millis(1011));
}

#[test]
fn a_tenants_limit_holds_for_all_of_its_destinations() {
    let tenant = (TenantId(7), Rate { limit: 10, per: Unit::Second }.pace(1));
    let of =
        |id| Paces { destination: Some((DestinationId(id), Rate { limit: 8, per: Unit::Second }.pace(1))), tenant: Some(tenant) };
    let mut slots = settled();
    let mut begun = Vec::new();
    let mut now = START;
    while now < START.after(Duration::from_secs(5)) {
        for id in 0..3 {
            begun.extend(slots.take(&of(id), now, Duration::ZERO).map(|slot| slot.at));
        }
        now = now.after(Duration::from_millis(1));
    }
    assert!(fullest(&begun, Unit::Second) <= 10 && begun.len() >= 49, "{} in all", begun.len());
    assert!(slots.take(&of(0), now, Duration::ZERO).is_err_and(|full| full.by_tenant));
}

#[test]
fn shards_share_a_limit_and_never_exceed_it() {
    for (limit, shards) in [(10, 3), (100, 7), (9, 9)] {
        let rate = Rate { limit, per: Unit::Second };
        let paces = Paces { destination: Some((OURS, rate.pace(shards))), tenant: None };
        let mut begun = Vec::new();
        for _ in 0..shards {
            let mut slots = settled();
            let times = (0..3000).map(|ms| START.after(Duration::from_millis(ms)));
            begun.extend(times.filter_map(|now| slots.take(&paces, now, Duration::ZERO).ok()).map(|slot| slot.at));
        }
        begun.sort_unstable();
        assert!(fullest(&begun, Unit::Second) <= limit as usize, "{limit} over {shards}");
    }
}

#[test]
fn rows_that_are_not_used_are_forgotten() {
    let mut slots = settled();
    for id in 0..5000 {
        let paces = Paces { destination: Some((DestinationId(id), Rate { limit: 1000, per: Unit::Second }.pace(1))), tenant: None };
        slots.take(&paces, START.after(Duration::from_secs(id as u64)), AHEAD).expect("its first");
    }
    assert!(slots.next.len() <= SWEEP, "{}", slots.next.len());
}

fn units() -> impl Strategy<Value = Unit> {
    prop_oneof![Just(Unit::Second), Just(Unit::Minute), Just(Unit::Hour)]
}

proptest! {
    /// Whoever asks, whenever, however late they begin, and however often the owner changes: never more than the limit in any
    /// span of one unit.
    #[test]
    fn never_more_than_the_limit(
        limit in 1u32..300, per in units(),
        steps in prop::collection::vec((0u64..1000, 0u64..100, 0u32..40, any::<bool>()), 1..200),
    ) {
        let paces = paces(limit, per);
        let mut slots = settled();
        let mut now = START;
        let mut begun = Vec::new();
        for (wait, late, asks, is_new_owner) in steps {
            now = now.after(Duration::from_millis(wait * per.millis() / 20_000));
            if is_new_owner && wait % 7 == 0 {
                // The one before it has begun all that it gave slots to.
                now = begun.iter().copied().max().unwrap_or(now).max(now);
                slots = Slots::new(now);
            }
            for _ in 0..asks {
                let ahead = if late % 2 == 0 { AHEAD } else { PATIENCE };
                let Ok(slot) = slots.take(&paces, now, ahead) else { break };
                prop_assert!(slot.at >= now && slot.at <= now.after(ahead));
                begun.push(Timestamp(slot.at.0 + (slot.until.0 - slot.at.0) * late / 99));
            }
        }
        begun.sort_unstable();
        prop_assert!(fullest(&begun, per) <= limit as usize);
    }

    /// Who always has work uses nearly all of the limit.
    #[test]
    fn nearly_all_of_the_limit_is_used(limit in 1u32..2000, per in units(), look in 1u64..50) {
        let paces = paces(limit, per);
        let mut slots = settled();
        let mut used = 0_u64;
        let units = 5_u64.max(2000 / u64::from(limit)).min(200);
        let end = units * per.millis();
        let mut at = 0;
        while at < end {
            let now = START.after(Duration::from_millis(at));
            while slots.take(&paces, now, AHEAD).is_ok_and(|slot| slot.at.0 < START.0 + end) {
                used += 1;
            }
            // Nothing comes up before that.
            at = (at + look).max(slots.when(&paces, now).next.before(AHEAD).since(START).as_millis() as u64);
        }
        prop_assert!(used as f64 >= 0.98 * f64::from(limit) * units as f64 - 1.0, "{used} of {}", u64::from(limit) * units);
    }
}
