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
    Outcome::Failed { failure, not_before: None }
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
    let asked = Outcome::Failed { failure: &status, not_before: Some(Timestamp(NOW.0 + 60_000)) };
    assert_eq!(policy.next(first(), asked, NOW, &mut rng()), Next::RetryAt(Timestamp(NOW.0 + 10_000)));
    let late = Timestamp(NOW.0 + 10_000);
    assert_eq!(policy.next(first(), failed(&status), late, &mut rng()), Next::DeadLetter(Reason::TooOld));
}

#[test]
fn retry_after_is_obeyed_and_clamped() {
    let policy = RetryPolicy { base_ms: 100, max_delay_ms: 100, max_retry_after_ms: 60_000, ..RetryPolicy::default() };
    let status = failure("status", true);
    let asking = |ms| Outcome::Failed { failure: &status, not_before: Some(Timestamp(NOW.0 + ms)) };
    let Next::RetryAt(at) = policy.next(first(), asking(30_000), NOW, &mut rng()) else { panic!() };
    assert!((30_000..=30_100).contains(&(at.0 - NOW.0)), "{at}");
    let Next::RetryAt(at) = policy.next(first(), asking(u64::MAX / 2), NOW, &mut rng()) else { panic!() };
    assert!((60_000..=60_100).contains(&(at.0 - NOW.0)), "{at}");
    let past = Outcome::Failed { failure: &status, not_before: Some(Timestamp(5)) };
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
    let policy = RetryPolicy { max_attempts: 0, base_ms: 0, max_delay_ms: u64::MAX, max_retry_after_ms: 1, max_age_ms: 1 };
    let fields: Vec<&str> = policy.problems().iter().map(|problem| problem.field).collect();
    assert_eq!(fields, ["max_attempts", "base_ms", "max_delay_ms", "max_age_ms"]);
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

fn policies() -> impl Strategy<Value = RetryPolicy> {
    (1u32..=50, 1u64..=3_600_000, 0u64..=7 * DAY_MS, 0u64..=7 * DAY_MS, 1000u64..=30 * DAY_MS).prop_map(
        |(max_attempts, base_ms, more, after, age)| RetryPolicy {
            max_attempts,
            base_ms,
            max_delay_ms: (base_ms + more).min(7 * DAY_MS),
            max_retry_after_ms: after,
            max_age_ms: age,
        },
    )
}

proptest! {
    /// Whatever a destination answers, a delivery ends: inside its attempts, inside its age, and never in the past.
    #[test]
    fn every_delivery_ends(policy in policies(), seed: u64, asks in prop::collection::vec(prop::option::of(0u64..=60 * DAY_MS), 50)) {
        prop_assert_eq!(policy.problems(), []);
        let mut rng = StdRng::seed_from_u64(seed);
        let status = failure("status", true);
        let mut now = NOW;
        let mut attempts = 0;
        loop {
            attempts += 1;
            prop_assert!(attempts <= policy.max_attempts);
            prop_assert!(now.since(NOW) <= Duration::from_millis(policy.max_age_ms));
            let not_before = asks[attempts as usize - 1].map(|ms| now.after(Duration::from_millis(ms)));
            let outcome = Outcome::Failed { failure: &status, not_before };
            match policy.next(History { attempts, since: NOW }, outcome, now, &mut rng) {
                Next::RetryAt(at) => {
                    prop_assert!(at >= now);
                    let farthest = policy.max_retry_after_ms.max(policy.max_delay_ms) + policy.base_ms;
                    prop_assert!(at.since(now) <= Duration::from_millis(farthest));
                    let at_limit = at.since(NOW) == Duration::from_millis(policy.max_age_ms);
                    let asked = not_before.map_or(now, |asked| asked.min(now.after(Duration::from_millis(policy.max_retry_after_ms))));
                    prop_assert!(at >= asked || at_limit);
                    now = at;
                }
                Next::DeadLetter(reason) => {
                    prop_assert!(matches!(reason, Reason::AttemptsExhausted | Reason::TooOld));
                    break;
                }
                Next::Done => prop_assert!(false, "a failure is never done"),
            }
        }
    }
}
