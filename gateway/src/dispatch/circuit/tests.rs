use proptest::prelude::*;

use super::*;
use crate::event::Party;

const START: Timestamp = Timestamp(1_800_000_000_000);

fn breaker() -> Breaker {
    Breaker {
        failures: 5,
        percent: 50,
        min_attempts: 20,
        window_ms: 60_000,
        pause_ms: 5000,
        max_pause_ms: 60_000,
        probes: 3,
        disable_after_ms: None,
        timeout_ms: 30_000,
    }
}

fn failure() -> Failure {
    Failure { party: Party::Destination, code: "status".into(), detail: "the destination answered 500".into(), retryable: true }
}

fn circuit() -> Circuit {
    Circuit::new(failure(), START)
}

fn later(ms: u64) -> Timestamp {
    START.after(Duration::from_millis(ms))
}

/// The time that is to pass until it lets somebody in.
fn pause(circuit: &Circuit, now: Timestamp) -> u64 {
    match circuit.standing(&breaker(), now) {
        Standing::Open(until) => until.0 - now.0,
        other => panic!("{other:?}"),
    }
}

fn opened(now: Timestamp) -> Circuit {
    let mut circuit = circuit();
    circuit.open(&breaker(), now);
    circuit
}

#[test]
fn a_probe_that_was_not_used_makes_room_for_another_at_once() {
    let (mut circuit, breaker) = (opened(START), breaker());
    let now = later(breaker.pause_ms);
    assert_eq!(circuit.begin(&breaker, now), Some(true));
    assert_eq!(circuit.begin(&breaker, now), None);
    circuit.unused();
    assert_eq!(circuit.begin(&breaker, now), Some(true));
    circuit.succeeded(&breaker, true, now);
    circuit.unused();
    assert_eq!(circuit.standing(&breaker, now), Standing::Probing(2), "what has passed has passed");
}

#[test]
fn failures_in_a_row_open_it() {
    let (mut circuit, breaker) = (circuit(), breaker());
    for round in 0..2 {
        for _ in 0..4 {
            assert_eq!(circuit.failed(&breaker, false, &failure(), START), Change::None);
        }
        if round == 0 {
            circuit.succeeded(&breaker, false, START);
        }
    }
    assert_eq!(circuit.standing(&breaker, START), Standing::Closed);
    assert_eq!(circuit.failed(&breaker, false, &failure(), START), Change::Opened);
    assert_eq!(circuit.standing(&breaker, START), Standing::Open(later(5000)));
    assert_eq!((circuit.phase(), circuit.until()), (Phase::Open, Some(later(5000))));
    assert_eq!(circuit.begin(&breaker, START), None);
}

#[test]
fn a_share_of_failures_opens_it_once_there_are_enough_attempts() {
    let breaker = Breaker { failures: 0, ..breaker() };
    let mut one = circuit();
    // One in two, over half a minute.
    let changes: Vec<_> = (0..20_u64)
        .map(|at| match at % 2 {
            0 => one.succeeded(&breaker, false, later(at * 1500)),
            _ => one.failed(&breaker, false, &failure(), later(at * 1500)),
        })
        .collect();
    assert!(changes[..19].iter().all(|change| *change == Change::None) && changes[19] == Change::Opened, "{changes:?}");
    // The same over half an hour is too little at any time; and one in three is not enough.
    let (mut slow, mut few) = (circuit(), circuit());
    for at in 0..60 {
        let failed = at % 2 == 1;
        let change = if failed {
            slow.failed(&breaker, false, &failure(), later(at * 30_000))
        } else {
            slow.succeeded(&breaker, false, later(at * 30_000))
        };
        assert_eq!(change, Change::None);
        let failed = at % 3 == 2;
        let change = if failed {
            few.failed(&breaker, false, &failure(), later(at * 100))
        } else {
            few.succeeded(&breaker, false, later(at * 100))
        };
        assert_eq!(change, Change::None);
    }
}

#[test]
fn one_probe_then_a_few_close_it() {
    let (mut circuit, breaker) = (opened(START), breaker());
    let now = later(5000);
    assert_eq!(circuit.standing(&breaker, now), Standing::Probing(1));
    assert_eq!(circuit.begin(&breaker, now), Some(true));
    assert_eq!((circuit.begin(&breaker, now), circuit.phase()), (None, Phase::HalfOpen), "one at a time");
    assert_eq!(circuit.succeeded(&breaker, false, now), Change::None, "what began before says nothing");
    assert_eq!(circuit.succeeded(&breaker, true, now), Change::HalfOpened);
    assert_eq!(circuit.standing(&breaker, now), Standing::Probing(2));
    assert_eq!(
        [circuit.begin(&breaker, now), circuit.begin(&breaker, now), circuit.begin(&breaker, now)],
        [Some(true), Some(true), None]
    );
    assert_eq!(circuit.succeeded(&breaker, true, now), Change::None);
    assert_eq!(circuit.succeeded(&breaker, true, now), Change::Closed);
    assert_eq!((circuit.begin(&breaker, now), circuit.since()), (Some(false), now));
}

#[test]
fn a_probe_that_fails_doubles_the_pause_up_to_a_limit() {
    let (mut circuit, breaker) = (opened(START), breaker());
    let (mut now, mut pauses) = (START, Vec::new());
    for _ in 0..7 {
        let wait = pause(&circuit, now);
        pauses.push(wait);
        now = now.after(Duration::from_millis(wait));
        assert_eq!(circuit.begin(&breaker, now), Some(true));
        assert_eq!(circuit.failed(&breaker, false, &failure(), now), Change::None, "what began before says nothing");
        assert_eq!(circuit.failed(&breaker, true, &failure(), now), Change::Opened);
    }
    assert_eq!(pauses, [5000, 10_000, 20_000, 40_000, 60_000, 60_000, 60_000]);
    assert_eq!(circuit.since(), START);
}

#[test]
fn of_several_probes_that_fail_one_counts() {
    let (mut circuit, breaker) = (opened(START), breaker());
    let now = later(5000);
    circuit.begin(&breaker, now);
    circuit.succeeded(&breaker, true, now);
    circuit.begin(&breaker, now);
    circuit.begin(&breaker, now);
    assert_eq!(circuit.failed(&breaker, true, &failure(), now), Change::Opened);
    assert_eq!(circuit.failed(&breaker, true, &failure(), now), Change::None);
    assert_eq!(circuit.succeeded(&breaker, true, now), Change::None);
    assert_eq!(pause(&circuit, now), 10_000);
}

#[test]
fn a_probe_that_is_never_heard_of_makes_room_for_another() {
    let (mut circuit, breaker) = (opened(START), breaker());
    assert_eq!(circuit.begin(&breaker, later(5000)), Some(true));
    assert_eq!(circuit.standing(&breaker, later(39_999)), Standing::Open(later(40_000)), "its time-out, and a little");
    assert_eq!(circuit.begin(&breaker, later(40_000)), Some(true));
    assert_eq!(circuit.begin(&breaker, later(40_000)), None);
}

#[test]
fn one_that_opens_again_soon_goes_on_with_its_pause() {
    let breaker = Breaker { probes: 1, ..breaker() };
    let mut circuit = opened(START);
    circuit.begin(&breaker, later(5000));
    assert_eq!(circuit.succeeded(&breaker, true, later(5000)), Change::Closed);
    assert!(!circuit.is_over(later(64_999)) && circuit.is_over(later(65_000)));
    let mut again = circuit.clone();
    again.open(&breaker, later(60_000));
    assert_eq!(pause(&again, later(60_000)), 10_000);
    circuit.open(&breaker, later(70_000));
    assert_eq!(pause(&circuit, later(70_000)), 5000);
}

#[test]
fn says_since_when_nothing_but_failures_came() {
    let (mut circuit, breaker) = (circuit(), breaker());
    assert_eq!(circuit.failing(), None);
    for at in 0..8 {
        circuit.failed(&breaker, false, &failure(), later(at * 1000));
    }
    assert_eq!(circuit.failing(), Some((START, 8)), "whatever else it does");
    circuit.succeeded(&breaker, false, later(9000));
    assert_eq!(circuit.failing(), None);
}

proptest! {
    /// Over any history: what is open lets nobody in before its pause is over, no more probes are under way than may be, and one that is heard of
    /// in the end is never shut for longer than the longest pause.
    #[test]
    fn open_is_shut_and_not_for_ever(history in prop::collection::vec((0u64..20_000, 0u8..3, any::<bool>()), 1..300)) {
        let (mut circuit, breaker) = (circuit(), breaker());
        let mut now = START;
        // Attempts under way: whether each is a probe.
        let mut under_way: Vec<bool> = Vec::new();
        for (wait, action, succeeds) in history {
            now = now.after(Duration::from_millis(wait));
            let standing = circuit.standing(&breaker, now);
            if action > 0 {
                let begun = circuit.begin(&breaker, now);
                match standing {
                    Standing::Closed => prop_assert_eq!(begun, Some(false)),
                    Standing::Probing(room) => prop_assert!(begun == Some(true) && room <= breaker.probes as usize),
                    Standing::Open(until) => {
                        prop_assert!(begun.is_none() && until > now);
                        let longest = breaker.max_pause_ms.max(breaker.timeout_ms + 5000);
                        prop_assert!(until.0 - now.0 <= longest);
                    }
                }
                under_way.extend(begun);
            } else if let Some(is_probe) = under_way.pop() {
                let before = circuit.phase();
                let change = match succeeds {
                    true => circuit.succeeded(&breaker, is_probe, now),
                    false => circuit.failed(&breaker, is_probe, &failure(), now),
                };
                prop_assert_eq!(change == Change::Closed, before != Phase::Closed && circuit.phase() == Phase::Closed);
                prop_assert!(change != Change::Opened || circuit.standing(&breaker, now) != Standing::Closed);
                prop_assert_eq!(circuit.failing().is_some(), circuit.failing().is_some() && !succeeds);
            }
        }
    }
}
