use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn failure(code: &str, retryable: bool) -> Failure {
    Failure { party: Party::Destination, code: code.to_owned(), detail: "it said no".to_owned(), retryable }
}

fn rng() -> StdRng {
    StdRng::seed_from_u64(1)
}

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn failed(failure: &Failure) -> Outcome<'_> {
    Outcome::Failed { failure, status: None, not_before: None }
}

fn first() -> History {
    History { attempts: 1, since: NOW }
}

#[test]
fn delivered_is_done() {
    assert_eq!(RetryPolicy::default().next(first(), Outcome::Delivered, NOW, &mut rng()), Next::Done);
}

#[test]
fn gone_and_hopeless_failures_are_given_up_at_once() {
    let policy = RetryPolicy::default();
    let gone = failure(Failure::GONE, false);
    assert_eq!(policy.next(first(), failed(&gone), NOW, &mut rng()), Next::DeadLetter(Reason::Gone));
    let hopeless = failure("path_refused", false);
    assert_eq!(policy.next(first(), failed(&hopeless), NOW, &mut rng()), Next::DeadLetter(Reason::NotRetryable));
}

#[test]
fn attempts_run_out() {
    let policy = RetryPolicy { max_attempts: 3, ..RetryPolicy::default() };
    let status = failure("status", true);
    let at = |attempts| policy.next(History { attempts, since: NOW }, failed(&status), NOW, &mut rng());
    assert!(matches!(at(2), Next::RetryAt(_)));
    assert_eq!(at(3), Next::DeadLetter(Reason::AttemptsExhausted));
}

#[test]
fn the_last_attempt_is_moved_up_to_the_age_limit() {
    let policy = RetryPolicy { max_age_ms: 10_000, ..RetryPolicy::default() };
    let status = failure("status", true);
    let asked = Outcome::Failed { failure: &status, status: None, not_before: Some(Timestamp(NOW.0 + 60_000)) };
    assert_eq!(policy.next(first(), asked, NOW, &mut rng()), Next::RetryAt(Timestamp(NOW.0 + 10_000)));
    let late = Timestamp(NOW.0 + 10_000);
    assert_eq!(policy.next(first(), failed(&status), late, &mut rng()), Next::DeadLetter(Reason::TooOld));
}

#[test]
fn retry_after_is_obeyed_and_clamped() {
    let policy = RetryPolicy { base_ms: 100, max_delay_ms: 100, max_retry_after_ms: 60_000, ..RetryPolicy::default() };
    let status = failure("status", true);
    let asking = |ms| Outcome::Failed { failure: &status, status: None, not_before: Some(Timestamp(NOW.0 + ms)) };
    let Next::RetryAt(at) = policy.next(first(), asking(30_000), NOW, &mut rng()) else { panic!() };
    assert!((30_000..=30_100).contains(&(at.0 - NOW.0)), "{at}");
    let Next::RetryAt(at) = policy.next(first(), asking(u64::MAX / 2), NOW, &mut rng()) else { panic!() };
    assert!((60_000..=60_100).contains(&(at.0 - NOW.0)), "{at}");
    let past = Outcome::Failed { failure: &status, status: None, not_before: Some(Timestamp(5)) };
    let Next::RetryAt(at) = policy.next(first(), past, NOW, &mut rng()) else { panic!() };
    assert!(at.0 - NOW.0 <= 100);
}

#[test]
fn the_default_lasts_a_weekend() {
    let policy = RetryPolicy::default();
    assert_eq!(policy.problems(), []);
    let ceilings: u64 = (1..policy.max_attempts).map(|attempts| policy.ceiling_ms(attempts)).sum();
    let mean = Duration::from_millis(ceilings / 2);
    assert!(mean > Duration::from_hours(48) && mean < Duration::from_hours(72), "{mean:?}");
}

#[test]
fn jitter_is_full() {
    let policy = RetryPolicy { base_ms: 1000, ..RetryPolicy::default() };
    let status = failure("status", true);
    let mut rng = rng();
    let delays: Vec<u64> = (0..1000)
        .map(|_| match policy.next(first(), failed(&status), NOW, &mut rng) {
            Next::RetryAt(at) => at.0 - NOW.0,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(delays.iter().any(|delay| *delay < 100) && delays.iter().any(|delay| *delay > 900));
}

#[test]
fn a_policy_is_checked_and_unknown_fields_are_refused() {
    let policy = RetryPolicy {
        max_attempts: 0,
        base_ms: 0,
        max_delay_ms: u64::MAX,
        jitter: 1001,
        max_retry_after_ms: 1,
        max_age_ms: 1,
        ..RetryPolicy::default()
    };
    let fields: Vec<&str> = policy.problems().iter().map(|problem| problem.field).collect();
    assert_eq!(fields, ["max_attempts", "jitter", "base_ms", "max_delay_ms", "max_age_ms"]);
    assert!(serde_json::from_str::<RetryPolicy>(r#"{"attempts": 3}"#).is_err());
    assert_eq!(serde_json::from_str::<RetryPolicy>(r#"{"max_attempts": 3}"#).unwrap().max_attempts, 3);
}

#[test]
fn a_dead_letter_tells_the_last_failure() {
    let last = failure("status", true);
    let reason = Reason::AttemptsExhausted.over(&last);
    assert_eq!(reason.code, "attempts_exhausted");
    assert!(reason.detail.contains("status") && !reason.retryable);
    assert_eq!(Reason::Gone.over(&failure(Failure::GONE, false)).code, Failure::GONE);
}

#[test]
fn delays_grow_as_the_policy_says() {
    let delays = |policy: RetryPolicy| -> Vec<u64> {
        let status = failure("status", true);
        let at = |attempts| policy.next(History { attempts, since: NOW }, failed(&status), NOW, &mut rng());
        let delay = |attempts| match at(attempts) {
            Next::RetryAt(at) => Some(at.0 - NOW.0),
            Next::DeadLetter(Reason::AttemptsExhausted) => None,
            other => panic!("{other:?}"),
        };
        (1..).map_while(delay).collect()
    };
    let plain = RetryPolicy { max_attempts: 6, base_ms: 100, max_delay_ms: 450, jitter: 0, ..RetryPolicy::default() };
    assert_eq!(delays(plain.clone()), [100, 200, 400, 450, 450]);
    assert_eq!(delays(RetryPolicy { backoff: Backoff::Linear, ..plain.clone() }), [100, 200, 300, 400, 450]);
    let list = RetryPolicy { backoff: Backoff::List(vec![5, 1000, 7]), ..plain };
    assert_eq!(delays(list.clone()), [5, 1000, 7]);
    assert_eq!(delays(RetryPolicy { max_attempts: 2, ..list.clone() }), [5]);
    assert!(
        delays(RetryPolicy { jitter: 200, ..list })
            .iter()
            .zip([5, 1000, 7])
            .all(|(got, whole)| *got <= whole && *got >= whole * 4 / 5)
    );
}

#[test]
fn the_first_rule_that_fits_says_what_a_status_means() {
    let rule = |from, to, then| Rule { from, to, then };
    let rules = vec![rule(409, 409, Then::Deliver), rule(410, 410, Then::Retry), rule(400, 499, Then::DeadLetter)];
    let policy = RetryPolicy { rules, ..RetryPolicy::default() };
    let answered = |status: Option<u16>, code, retryable| {
        policy.next(first(), Outcome::Failed { failure: &failure(code, retryable), status, not_before: None }, NOW, &mut rng())
    };
    assert_eq!(answered(Some(409), "status", true), Next::Done);
    assert!(matches!(answered(Some(410), Failure::GONE, false), Next::RetryAt(_)), "a rule for it comes before what it means");
    assert_eq!(answered(Some(404), "status", true), Next::DeadLetter(Reason::Ruled));
    assert!(matches!(answered(Some(500), "status", true), Next::RetryAt(_)));
    assert!(matches!(answered(None, "reset", true), Next::RetryAt(_)));
    assert_eq!(Reason::Ruled.over(&failure("status", true)), failure("status", false));
}

#[test]
fn the_timetable_shows_each_attempt_and_ends_at_the_age_limit() {
    let policy = RetryPolicy { base_ms: 1000, max_attempts: 6, jitter: 500, max_age_ms: 12_000, ..RetryPolicy::default() };
    let rows: Vec<_> = policy.timetable().iter().map(|due| (due.attempt, due.earliest_ms, due.nominal_ms, due.latest_ms)).collect();
    let expected = [
        (1, 0, 0, 0),
        (2, 500, 750, 1000),
        (3, 1500, 2250, 3000),
        (4, 3500, 5250, 7000),
        (5, 7500, 11_250, 12_000),
        (6, 12_000, 12_000, 12_000),
    ];
    assert_eq!(rows, expected);
    assert_eq!(RetryPolicy::default().timetable().len(), 18);
}

fn backoffs() -> impl Strategy<Value = Backoff> {
    prop_oneof![
        Just(Backoff::Exponential),
        Just(Backoff::Linear),
        prop::collection::vec(0u64..=7 * DAY_MS, 1..=RetryPolicy::MAX_DELAYS).prop_map(Backoff::List),
    ]
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let then = prop_oneof![Just(Then::Retry), Just(Then::DeadLetter), Just(Then::Deliver)];
    let rule = (300u16..=599, 0u16..=99, then).prop_map(|(from, more, then)| Rule { from, to: from + more, then });
    prop::collection::vec(rule, 0..4)
}

fn policies() -> impl Strategy<Value = RetryPolicy> {
    let numbers = (1u32..=50, 1u64..=3_600_000, 0u64..=7 * DAY_MS, 0u16..=1000, 0u64..=7 * DAY_MS, 1000u64..=30 * DAY_MS);
    (numbers, backoffs(), rules()).prop_map(|((max_attempts, base_ms, more, jitter, after, age), backoff, rules)| RetryPolicy {
        max_attempts,
        backoff,
        base_ms,
        max_delay_ms: (base_ms + more).min(7 * DAY_MS),
        jitter,
        max_retry_after_ms: after,
        max_age_ms: age,
        rules,
    })
}

/// What a destination answers: a status or none, and for how long it asks to be left alone.
fn answers() -> impl Strategy<Value = (Option<u16>, Option<u64>)> {
    (prop::option::of(300u16..=599), prop::option::of(0u64..=60 * DAY_MS))
}

proptest! {
    /// Whatever a destination answers, a delivery ends: inside its attempts, inside its age, never before the destination asked, never in
    /// the past, and as the first rule that fits says.
    #[test]
    fn every_delivery_ends(policy in policies(), seed: u64, answers in prop::collection::vec(answers(), 50)) {
        prop_assert_eq!(policy.problems(), []);
        let mut rng = StdRng::seed_from_u64(seed);
        let longest = (1..=50).map(|attempts| policy.ceiling_ms(attempts)).max().unwrap_or(0);
        let mut now = NOW;
        let mut attempts = 0;
        loop {
            attempts += 1;
            prop_assert!(attempts <= policy.max_attempts);
            prop_assert!(now.since(NOW) <= Duration::from_millis(policy.max_age_ms));
            let (status, asked) = answers[attempts as usize - 1];
            let failure = if status == Some(410) { failure(Failure::GONE, false) } else { failure("status", true) };
            let not_before = asked.map(|ms| now.after(Duration::from_millis(ms)));
            let outcome = Outcome::Failed { failure: &failure, status, not_before };
            let rule = status.and_then(|status| policy.rules.iter().find(|rule| rule.from <= status && status <= rule.to));
            match policy.next(History { attempts, since: NOW }, outcome, now, &mut rng) {
                Next::RetryAt(at) => {
                    prop_assert!(rule.is_none_or(|rule| rule.then == Then::Retry) && (status != Some(410) || rule.is_some()));
                    prop_assert!(at >= now);
                    let farthest = policy.max_retry_after_ms.max(longest).saturating_add(policy.spread_ms());
                    prop_assert!(at.since(now) <= Duration::from_millis(farthest));
                    let at_limit = at.since(NOW) == Duration::from_millis(policy.max_age_ms);
                    let asked = not_before.map_or(now, |asked| asked.min(now.after(Duration::from_millis(policy.max_retry_after_ms))));
                    prop_assert!(at >= asked || at_limit);
                    prop_assert!(at.since(now) >= Duration::from_millis(policy.floor_ms(policy.ceiling_ms(attempts))) || at_limit);
                    now = at;
                }
                Next::DeadLetter(reason) => {
                    match reason {
                        Reason::Ruled => prop_assert_eq!(rule.map(|rule| rule.then), Some(Then::DeadLetter)),
                        Reason::Gone => prop_assert!(status == Some(410) && rule.is_none()),
                        Reason::AttemptsExhausted => prop_assert!(attempts == policy.most_attempts()),
                        Reason::TooOld => prop_assert!(now.since(NOW) >= Duration::from_millis(policy.max_age_ms)),
                        Reason::NotRetryable => prop_assert!(false, "all of them can be retried"),
                    }
                    break;
                }
                Next::Done => {
                    prop_assert_eq!(rule.map(|rule| rule.then), Some(Then::Deliver));
                    break;
                }
            }
        }
    }

    /// What really happens lies inside what the timetable shows, and the timetable only goes forward.
    #[test]
    fn the_timetable_is_true(policy in policies(), seed: u64) {
        let policy = RetryPolicy { rules: Vec::new(), ..policy };
        let mut rng = StdRng::seed_from_u64(seed);
        let rows = policy.timetable();
        for pair in rows.windows(2) {
            prop_assert!(pair[0].earliest_ms <= pair[1].earliest_ms && pair[0].nominal_ms <= pair[1].nominal_ms);
            prop_assert!(pair[0].latest_ms <= pair[1].latest_ms && pair[1].attempt == pair[0].attempt + 1);
        }
        prop_assert!(rows.iter().all(|due| due.earliest_ms <= due.nominal_ms && due.nominal_ms <= due.latest_ms));
        let status = failure("status", true);
        let (mut now, mut attempts) = (NOW, 0);
        loop {
            attempts += 1;
            let due = rows.get(attempts as usize - 1).copied();
            let at = now.0 - NOW.0;
            prop_assert!(due.is_some_and(|due| due.attempt == attempts && due.earliest_ms <= at && at <= due.latest_ms), "{attempts} at {at}: {due:?}");
            match policy.next(History { attempts, since: NOW }, failed(&status), now, &mut rng) {
                Next::RetryAt(at) => now = at,
                _ => break,
            }
        }
    }
}
