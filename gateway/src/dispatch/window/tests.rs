use futures_util::FutureExt;

use super::*;
use crate::event::{DestinationId, SourceId};

const A: TenantId = TenantId(1);
const B: TenantId = TenantId(2);
const OWN: QueueKey = QueueKey::Tenant(A);

fn limit(events: usize) -> Limit {
    Limit { events, bytes: 1000, turn: 1 }
}

fn all(events: usize) -> impl Fn(QueueKey) -> Limit {
    move |_| limit(events)
}

fn enter(windows: &Windows, tenant: TenantId, events: usize) -> Result<Permit, QueueKey> {
    windows.enter(tenant, &[], limit(events), 1)
}

#[test]
fn newcomers_queue_up_behind_parked_work() {
    let windows = Windows::default();
    let first = enter(&windows, A, 1).expect("room");
    assert_eq!(enter(&windows, A, 1).err(), Some(OWN), "full");
    windows.park(OWN, Timestamp(7));
    windows.park(OWN, Timestamp(8));
    assert_eq!(windows.oldest(), Some(Timestamp(7)));
    drop(first);
    assert!(enter(&windows, A, 1).is_err(), "older work is on its way to the store");
    assert!(windows.next(&all(1)).is_none(), "and cannot be read yet");
    assert!(enter(&windows, B, 1).is_ok(), "others never feel it");
    windows.parked(OWN, 2);
    let Turn { queue, permits, .. } = windows.next(&all(1)).expect("ready");
    assert_eq!((queue, permits.len()), (OWN, 1));
    windows.unparked(OWN, 1, Some(Timestamp(7)));
    assert_eq!(windows.oldest(), Some(Timestamp(7)), "what is left is no older");
    assert!(windows.next(&all(1)).is_none(), "full");
    drop(permits);
    let Turn { permits, .. } = windows.next(&all(1)).expect("ready");
    windows.unparked(OWN, 1, Some(Timestamp(8)));
    assert_eq!(windows.oldest(), None);
    drop(permits);
    assert!(enter(&windows, A, 1).is_ok());
}

#[test]
fn tenants_are_served_in_turn_whatever_the_number_of_their_queues() {
    let windows = Windows::default();
    for destination in 0..5 {
        windows.found(QueueKey::Destination(A, DestinationId(destination)), 2);
    }
    windows.found(QueueKey::Tenant(B), 3);
    let mut order = Vec::new();
    while let Some(turn) = windows.next(&all(8)) {
        order.push(turn.queue.tenant());
        windows.unparked(turn.queue, turn.permits.len() as u64, None);
    }
    assert_eq!(order[..7], [A, B, A, B, A, B, A]);
    assert_eq!(order.len(), 13);
}

#[test]
fn a_turn_is_as_long_as_the_weight_says() {
    let windows = Windows::default();
    windows.found(QueueKey::Tenant(A), 9);
    windows.found(QueueKey::Tenant(B), 9);
    let weighted = |key: QueueKey| Limit { turn: if key.tenant() == A { 3 } else { 1 }, ..limit(100) };
    let mut taken = Vec::new();
    for _ in 0..4 {
        let turn = windows.next(&weighted).expect("work");
        taken.push((turn.queue.tenant(), turn.permits.len()));
        windows.unparked(turn.queue, turn.permits.len() as u64, None);
    }
    assert_eq!(taken, [(A, 3), (B, 1), (A, 3), (B, 1)]);
}

#[test]
fn a_full_destination_waits_for_its_own_room_and_holds_up_no_other() {
    let windows = Windows::default();
    let (full, free) = (QueueKey::Destination(A, DestinationId(1)), QueueKey::Destination(A, DestinationId(2)));
    windows.found(full, 1);
    windows.found(free, 1);
    let limits = |key| limit(if key == full { 1 } else { 8 });
    let one = windows.next(&limits).expect("ready");
    assert_eq!(one.queue, full);
    windows.unparked(full, 1, None);
    windows.found(full, 5);
    let other = windows.next(&limits).expect("ready");
    assert_eq!(other.queue, free);
    windows.unparked(free, 1, None);
    assert!(windows.next(&limits).is_none(), "full");
    assert_eq!(windows.enter_destination(full, 8).now_or_never().map(|place| place.is_none()), Some(true), "older work waits");
    drop(one.permits);
    assert_eq!(windows.next(&limits).map(|turn| turn.queue), Some(full));
}

#[tokio::test]
async fn a_place_goes_from_one_attempt_to_the_next() {
    let windows = Windows::default();
    let queue = QueueKey::Destination(A, DestinationId(1));
    let first = windows.enter_destination(queue, 1).await.expect("room");
    let mut second = Box::pin(windows.enter_destination(queue, 1));
    assert!(second.as_mut().now_or_never().is_none());
    assert!(windows.enter_destination(queue, 1).await.is_none(), "it stays full");
    let mut third = Box::pin(windows.enter_destination(queue, 1));
    assert!(third.as_mut().now_or_never().is_none());
    // The second gave up meanwhile, as its time was over too.
    drop(second);
    drop(first);
    let third = third.await.expect("its turn");
    assert!(windows.enter_destination(queue, 1).await.is_none(), "there is one place only");
    drop(third);
    assert!(windows.state().queues.is_empty());
}

#[test]
fn a_tenant_is_bounded_in_bytes_too_but_for_a_single_large_one() {
    let windows = Windows::default();
    let large = windows.enter(A, &[], limit(9), 5000).expect("alone");
    assert!(windows.enter(A, &[], limit(9), 1).is_err());
    windows.found(OWN, 1);
    assert!(windows.next(&all(9)).is_none());
    drop(large);
    let mut turn = windows.next(&all(9)).expect("ready");
    windows.unparked(turn.queue, 1, None);
    turn.permits[0].weigh(800);
    assert!(windows.enter(A, &[], limit(9), 300).is_err());
    assert!(windows.enter(A, &[], limit(9), 200).is_ok());
}

#[test]
fn who_is_allowed_nothing_waits_until_somebody_looks_again() {
    let windows = Windows::default();
    let source = QueueKey::Source(A, SourceId(7));
    windows.found(source, 2);
    let held = |key| limit(if key == source { 0 } else { 9 });
    assert!(windows.next(&held).is_none());
    assert!(windows.next(&all(9)).is_none(), "nobody looked again");
    assert_eq!(windows.waiting_since(Timestamp(0)), [source], "how old it is is not known");
    windows.look_again();
    assert_eq!(windows.enter(A, &[source], limit(9), 1).err(), Some(source));
    assert!(enter(&windows, A, 9).is_ok(), "what came in elsewhere is not held");
    let turn = windows.next(&all(9)).expect("ready");
    windows.unparked(source, turn.permits.len() as u64, None);
    assert_eq!(windows.enter(A, &[source], limit(9), 1).err(), Some(source), "one is left");
}

#[test]
fn an_ordered_queue_sleeps_until_a_line_may_go_on() {
    let windows = Windows::default();
    let queue = QueueKey::Ordered(A, DestinationId(1));
    let (now, later) = (Timestamp(10), Timestamp(20));
    for since in 1..=3 {
        windows.park(queue, Timestamp(since));
    }
    assert!(windows.next(&all(8)).is_none(), "nothing is in the store yet");
    windows.lined(queue, now, now);
    let turn = windows.next(&|_| Limit { turn: 8, ..limit(8) }).expect("ready");
    assert_eq!(turn.permits.len(), 3);
    windows.took(queue, 1, Some(Timestamp(1)), None, now);
    assert!(windows.next(&all(8)).is_none(), "the others are behind what was taken");
    windows.stir(queue);
    let second = windows.next(&all(8)).expect("somebody stirred");
    windows.stir(queue);
    windows.took(queue, 0, None, Some(later), now);
    assert!(windows.next(&all(8)).is_some(), "what was stirred meanwhile is not forgotten");
    windows.took(queue, 0, None, Some(later), now);
    drop((turn, second));
    assert!(windows.next(&all(8)).is_none());
    assert_eq!((windows.ring(now), windows.ring(later)), (Some(later), None));
    assert!(windows.next(&all(8)).is_some());
    windows.took(queue, 2, None, None, later);
    assert!(windows.state().queues.is_empty() && windows.state().alarms.is_empty());
}

#[test]
fn both_ways_to_a_destination_share_its_window() {
    let windows = Windows::default();
    let (ordered, other) = (QueueKey::Ordered(A, DestinationId(1)), QueueKey::Destination(A, DestinationId(1)));
    windows.found(ordered, 2);
    let wide = |key| Limit { turn: 8, ..limit(if matches!(key, QueueKey::Tenant(_)) { 8 } else { 1 }) };
    let turn = windows.next(&wide).expect("ready");
    assert_eq!((turn.queue, turn.permits.len()), (ordered, 1));
    windows.took(ordered, 1, None, Some(Timestamp(0)), Timestamp(0));
    assert!(windows.next(&wide).is_none(), "full");
    windows.found(other, 1);
    windows.look_again();
    assert!(windows.next(&wide).is_none(), "full for what keeps no order too");
    drop(turn);
    assert!(windows.next(&wide).is_some());
}

#[test]
fn a_queue_that_turns_out_empty_is_forgotten() {
    let windows = Windows::default();
    windows.found(OWN, 3);
    let turn = windows.next(&all(8)).expect("ready");
    windows.unparked(OWN, 0, None);
    drop(turn.permits);
    assert!(windows.next(&all(8)).is_none());
    assert!(enter(&windows, A, 1).is_ok());
    let state = windows.state();
    assert!(state.queues.is_empty(), "{:?}", state.queues);
}

#[test]
fn of_a_tenant_that_was_purged_nothing_waits() {
    let windows = Windows::default();
    let (ordered, later) = (QueueKey::Ordered(A, DestinationId(1)), QueueKey::Ordered(A, DestinationId(2)));
    let now = Timestamp(10);
    for queue in [OWN, ordered, later, QueueKey::Tenant(B)] {
        windows.park(queue, Timestamp(1));
        windows.park(queue, Timestamp(1));
    }
    windows.parked(OWN, 2);
    windows.lined(ordered, now, now);
    windows.lined(later, Timestamp(20), now);
    let held = windows.next(&all(8)).expect("ready");
    assert!(windows.next(&all(0)).is_none());
    windows.emptied(A);
    assert_eq!([OWN, ordered, later, QueueKey::Tenant(B)].map(|queue| windows.waiting(queue)), [0, 0, 0, 2]);
    drop(held);
    windows.look_again();
    assert!(windows.next(&all(8)).is_none());
    assert_eq!(windows.ring(Timestamp(30)), None);
    let state = windows.state();
    assert_eq!(state.queues.keys().collect::<Vec<_>>(), [&QueueKey::Tenant(B)]);
    assert!(state.tenants.is_empty(), "{:?}", state.tenants);
}
