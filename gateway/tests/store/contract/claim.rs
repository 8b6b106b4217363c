use std::collections::HashSet;

use bytes::Bytes;
use tidegate::event::Lane;
use tidegate::store::{Acceptance, Budget};

use crate::world::*;

pub(crate) async fn each_entry_is_handed_out_once(mut world: World) {
    let lease = world.own().await;
    assert!(world.claim(&lease).await.is_empty());
    let sent = world.accept(5).await;
    let claimed = world.claim(&lease).await;
    assert_eq!(claimed_ids(&claimed), ids(&sent));
    assert!(claimed.iter().all(|entry| entry.claims == 1 && entry.progress.is_empty() && entry.ticket.lane == Lane::Normal));
    assert_eq!(claimed.iter().map(|entry| entry.ticket).collect::<HashSet<_>>().len(), 5);
    assert!(world.claim(&lease).await.is_empty());
    let later = world.accept(2).await;
    assert_eq!(claimed_ids(&world.claim(&lease).await), ids(&later));
}

pub(crate) async fn keeps_to_the_count(mut world: World) {
    let sent = world.accept(5).await;
    let lease = world.own().await;
    let budget = Budget { count: 2, ..ALL };
    let mut seen = Vec::new();
    for expected in [2, 2, 1, 0] {
        let claimed = world.store().claim(&lease, Lane::Normal, budget).await.unwrap();
        assert_eq!(claimed.len(), expected);
        seen.extend(claimed_ids(&claimed));
    }
    assert_eq!(seen, ids(&sent));
}

pub(crate) async fn keeps_to_the_bytes(mut world: World) {
    let events: Vec<_> = (0..6).map(|_| world.event_of(TENANT, Bytes::from(vec![1; 10_000]))).collect();
    world.accept_all(&events).await;
    let lease = world.own().await;
    let budget = Budget { bytes: 25_000, ..ALL };
    let mut seen = Vec::new();
    while seen.len() < 6 {
        let claimed = world.store().claim(&lease, Lane::Normal, budget).await.unwrap();
        let bytes: usize = claimed.iter().map(|entry| entry.event.request.size()).sum();
        assert!(!claimed.is_empty() && bytes <= budget.bytes, "{} entries with {bytes} bytes", claimed.len());
        seen.extend(claimed_ids(&claimed));
    }
    assert_eq!(seen, ids(&events));
}

pub(crate) async fn a_larger_one_is_handed_out_alone(mut world: World) {
    let sizes = [10, 50_000, 10, 10];
    let events = sizes.map(|size| world.event_of(TENANT, Bytes::from(vec![1; size])));
    world.accept_all(&events).await;
    let lease = world.own().await;
    let budget = Budget { bytes: 1000, ..ALL };
    for expected in [&events[..1], &events[1..2], &events[2..]] {
        let claimed = world.store().claim(&lease, Lane::Normal, budget).await.unwrap();
        assert_eq!(claimed_ids(&claimed), ids(expected));
    }
}

pub(crate) async fn lanes_are_apart(mut world: World) {
    let (normal, low) = (world.event(), world.event());
    let batch = vec![acceptance(&normal), Acceptance { lane: Lane::Low, ..acceptance(&low) }];
    world.store().accept(batch).await.unwrap();
    let lease = world.own().await;
    assert!(world.store().claim(&lease, Lane::Held, ALL).await.unwrap().is_empty());
    let claimed = world.store().claim(&lease, Lane::Low, ALL).await.unwrap();
    assert_eq!(claimed_ids(&claimed), [low.id]);
    assert_eq!(claimed[0].ticket.lane, Lane::Low);
    world.record(&lease, vec![finish(&claimed[0], vec![delivered(&low, 0)])]).await;
    assert_eq!(claimed_ids(&world.claim(&lease).await), [normal.id], "an ack in one lane leaves the other alone");
    assert_eq!((world.summary(normal.id).await.lane, world.summary(low.id).await.lane), (Lane::Normal, Lane::Low));
}

pub(crate) async fn shards_are_apart(mut world: World) {
    world.accept(2).await;
    let lease = world.store().acquire(OTHER_SHARD, "a", world.fixture.span()).await.unwrap().unwrap();
    assert!(world.claim(&lease).await.is_empty());
    assert!(world.reclaim(&lease).await.is_empty());
    assert_eq!(world.store().depth(OTHER_SHARD).await.unwrap().lanes.iter().map(|lane| lane.entries).sum::<u64>(), 0);
}

pub(crate) async fn a_reclaim_finds_what_the_last_owner_left(mut world: World) {
    let sent = world.accept(4).await;
    let first = world.own().await;
    let before = world.claim(&first).await;
    let second = world.take_over("b").await;
    assert!(world.claim(&second).await.is_empty(), "what was claimed is not in the lane any more");
    let after = world.reclaim(&second).await;
    assert_eq!(claimed_ids(&after), ids(&sent));
    assert!(after.iter().zip(&before).all(|(after, before)| after.event == before.event && after.ticket == before.ticket));
    world.record(&second, after.iter().map(|entry| finish(entry, vec![delivered(&entry.event, 0)])).collect()).await;
    assert!(world.reclaim(&second).await.is_empty());
    assert_eq!(world.counts().await, [0; 4]);
}

pub(crate) async fn a_reclaim_skips_what_is_held(mut world: World) {
    world.accept(5).await;
    let lease = world.own().await;
    let claimed = world.claim(&lease).await;
    let held: HashSet<_> = claimed[1..4].iter().map(|entry| entry.ticket).collect();
    let again = world.store().reclaim(&lease, &held, ALL).await.unwrap();
    assert_eq!(claimed_ids(&again), [claimed[0].event.id, claimed[4].event.id]);
    let all = claimed.iter().map(|entry| entry.ticket).collect();
    assert!(world.store().reclaim(&lease, &all, ALL).await.unwrap().is_empty());
}

pub(crate) async fn a_reclaim_leaves_what_was_never_claimed(mut world: World) {
    let sent = world.accept(3).await;
    let lease = world.own().await;
    assert!(world.reclaim(&lease).await.is_empty());
    let claimed = world.store().claim(&lease, Lane::Normal, Budget { count: 1, ..ALL }).await.unwrap();
    let lease = world.take_over("b").await;
    assert_eq!(claimed_ids(&world.reclaim(&lease).await), claimed_ids(&claimed));
    assert_eq!(claimed_ids(&world.claim(&lease).await), ids(&sent[1..]));
}

pub(crate) async fn a_reclaim_leaves_what_is_finished(mut world: World) {
    world.accept(5).await;
    let lease = world.own().await;
    let claimed = world.claim(&lease).await;
    let done = [0, 2, 3].map(|i| finish(&claimed[i], vec![delivered(&claimed[i].event, 0)]));
    world.record(&lease, done.into()).await;
    assert_eq!(world.counts().await, [2, 0, 0, 0]);
    let lease = world.take_over("b").await;
    assert_eq!(claimed_ids(&world.reclaim(&lease).await), [claimed[1].event.id, claimed[4].event.id]);
}

pub(crate) async fn a_reclaim_keeps_to_the_budget(mut world: World) {
    let events: Vec<_> = (0..5).map(|_| world.event_of(TENANT, Bytes::from(vec![1; 10_000]))).collect();
    world.accept_all(&events).await;
    let lease = world.own().await;
    world.claim(&lease).await;
    let lease = world.take_over("b").await;
    let mut held = HashSet::new();
    let mut seen = Vec::new();
    for budget in [Budget { count: 1, ..ALL }, Budget { bytes: 25_000, ..ALL }, Budget { bytes: 10, ..ALL }, ALL] {
        let claimed = world.store().reclaim(&lease, &held, budget).await.unwrap();
        let bytes: usize = claimed.iter().map(|entry| entry.event.request.size()).sum();
        assert!(!claimed.is_empty() && claimed.len() <= budget.count);
        assert!(bytes <= budget.bytes || claimed.len() == 1);
        held.extend(claimed.iter().map(|entry| entry.ticket));
        seen.extend(claimed_ids(&claimed));
    }
    assert_eq!(seen, ids(&events));
}

pub(crate) async fn claims_are_counted_across_owners(mut world: World) {
    world.accept(1).await;
    let lease = world.own().await;
    assert_eq!(world.claim(&lease).await[0].claims, 1);
    for (claims, node) in [(2, "b"), (3, "c"), (4, "a"), (5, "b")] {
        let lease = world.take_over(node).await;
        assert_eq!(world.reclaim(&lease).await[0].claims, claims);
    }
}

/// So that nothing is counted with one that a gateway goes away with.
pub(crate) async fn a_suspect_is_reclaimed_by_itself(mut world: World) {
    let first = world.accept(2).await;
    let lease = world.own().await;
    world.claim(&lease).await;
    let lease = world.take_over("b").await;
    assert_eq!(world.reclaim(&lease).await.len(), 2);
    let later = world.accept(1).await;
    world.claim(&lease).await;
    let lease = world.take_over("c").await;
    let mut held = HashSet::new();
    for (event, claims) in [(&first[0], 3), (&first[1], 3), (&later[0], 2)] {
        let found = world.store().reclaim(&lease, &held, ALL).await.unwrap();
        assert_eq!(found.iter().map(|claimed| (claimed.event.id, claimed.claims)).collect::<Vec<_>>(), [(event.id, claims)]);
        held.extend(found.iter().map(|claimed| claimed.ticket));
    }
    let lease = world.take_over("a").await;
    let found = world.store().reclaim(&lease, &HashSet::new(), ALL).await.unwrap();
    assert_eq!(found.iter().map(|claimed| (claimed.event.id, claimed.claims)).collect::<Vec<_>>(), [(first[0].id, 4)]);
    let lease = world.take_over("b").await;
    let claims: Vec<_> = world.reclaim(&lease).await.iter().map(|claimed| claimed.claims).collect();
    assert_eq!(claims, [5, 4, 3], "what was behind it was not counted");
}

pub(crate) async fn progress_comes_back(mut world: World) {
    let lease = world.own().await;
    let claimed = world.claim_one(&lease).await;
    let event = &claimed.event;
    let later = world.now().after(world.fixture.span());
    world.record(&lease, vec![progress(&claimed, vec![delivered(event, 0)])]).await;
    world.record(&lease, vec![progress(&claimed, vec![scheduled(event, 1, later, 1)])]).await;
    assert_eq!(world.counts().await, [1, 1, 0, 0], "progress leaves the entry where it is");
    let lease = world.take_over("b").await;
    let again = world.reclaim(&lease).await.remove(0);
    let mut rows: Vec<_> = again.progress.iter().map(|row| (row.id, row.state.is_terminal())).collect();
    rows.sort();
    let mut expected = [(delivery_id(event, 0), true), (delivery_id(event, 1), false)];
    expected.sort();
    assert_eq!(rows, expected);
    world.record(&lease, vec![finish(&again, vec![delivered(event, 2)])]).await;
    assert_eq!(world.summary(event.id).await.deliveries.len(), 3);
    assert_eq!(world.counts().await, [0, 1, 0, 0]);
}

pub(crate) async fn a_suspect_is_left_and_not_counted_until_somebody_takes_it(mut world: World) {
    let first = world.accept_one().await;
    let mut lease = world.own().await;
    world.claim(&lease).await;
    let none = HashSet::new();
    lease = world.take_over("b").await;
    assert_eq!(world.store().reclaim(&lease, &none, NO_SUSPECTS).await.unwrap().len(), 1);
    let later = world.accept_one().await;
    world.claim(&lease).await;
    for node in ["c", "a"] {
        lease = world.take_over(node).await;
        assert!(is_suspect(world.store().reclaim(&lease, &none, NO_SUSPECTS).await));
    }
    let taken = world.store().reclaim(&lease, &none, ALL).await.unwrap();
    assert_eq!(taken.iter().map(|one| (one.event.id, one.claims)).collect::<Vec<_>>(), [(first.id, 3)]);
    let held = taken.iter().map(|one| one.ticket).collect();
    let rest = world.store().reclaim(&lease, &held, NO_SUSPECTS).await.unwrap();
    assert_eq!(rest.iter().map(|one| (one.event.id, one.claims)).collect::<Vec<_>>(), [(later.id, 2)]);
}
