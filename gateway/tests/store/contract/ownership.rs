use std::collections::{BTreeSet, HashSet};

use tidegate::event::Lane;
use tidegate::store::{Lease, Retention};

use crate::world::*;

pub(crate) async fn a_shard_has_one_owner(world: World) {
    let span = world.fixture.span() * 100;
    let lease = world.store().acquire(SHARD, "a", span).await.unwrap().expect("the shard is free");
    assert_eq!((lease.shard, lease.ttl), (SHARD, span));
    assert_eq!(world.store().acquire(SHARD, "b", span).await.unwrap(), None);
    world.store().renew(&lease).await.unwrap();
}

pub(crate) async fn a_lease_that_ran_out_can_be_taken(mut world: World) {
    let first = world.own().await;
    let second = world.take_over("b").await;
    assert!(second.epoch > first.epoch);
    assert_ne!(second.incarnation, first.incarnation);
    assert!(is_fenced(world.store().renew(&first).await));
    world.store().renew(&second).await.unwrap();
}

pub(crate) async fn a_renewed_lease_lives_on(mut world: World) {
    let lease = world.own().await;
    for _ in 0..3 {
        world.fixture.pass(lease.ttl / 2).await;
        world.store().renew(&lease).await.unwrap();
        assert_eq!(world.store().acquire(SHARD, "b", lease.ttl).await.unwrap(), None);
    }
}

pub(crate) async fn a_released_shard_is_free_at_once(mut world: World) {
    let lease = world.own().await;
    let sent = world.accept(1).await;
    world.claim(&lease).await;
    world.store().release(&lease).await.unwrap();
    let next = world.store().acquire(SHARD, "b", lease.ttl).await.unwrap().expect("the shard is free");
    assert!(next.epoch > lease.epoch);
    assert_eq!(claimed_ids(&world.reclaim(&next).await), ids(&sent));
}

pub(crate) async fn a_released_lease_is_fenced(mut world: World) {
    let lease = world.own().await;
    world.accept(1).await;
    world.store().release(&lease).await.unwrap();
    assert!(is_fenced(world.store().claim(&lease, Lane::Normal, ALL).await));
    assert!(is_fenced(world.store().renew(&lease).await));
    assert!(is_fenced(world.store().release(&lease).await));
}

pub(crate) async fn a_node_takes_over_from_itself(world: World) {
    let first = world.own().await;
    let second = world.own().await;
    assert!(second.epoch > first.epoch);
    assert!(is_fenced(world.store().renew(&first).await));
    world.store().renew(&second).await.unwrap();
}

pub(crate) async fn a_lease_that_ran_out_works_until_somebody_takes_the_shard(mut world: World) {
    let lease = world.own().await;
    let claimed = world.claim_one(&lease).await;
    world.fixture.pass(lease.ttl * 2).await;
    world.record(&lease, vec![finish(&claimed, vec![delivered(&claimed.event, 0)])]).await;
    world.store().renew(&lease).await.unwrap();
    assert_eq!(world.store().acquire(SHARD, "b", lease.ttl).await.unwrap(), None);
}

pub(crate) async fn every_owner_call_is_fenced_after_a_takeover(mut world: World) {
    let old = world.own().await;
    let claimed = world.claim_one(&old).await;
    let new = world.take_over("b").await;
    let store = world.store();
    let now = world.now();
    let retention = Retention { age: new.ttl, bytes: 0, dead_letter_age: new.ttl };
    assert!(is_fenced(store.claim(&old, Lane::Normal, ALL).await), "claim");
    assert!(is_fenced(store.reclaim(&old, &HashSet::new(), ALL).await), "reclaim");
    assert!(is_fenced(store.due(&old, now, ALL).await), "due");
    assert!(is_fenced(store.next_due(&old).await), "next_due");
    assert!(is_fenced(store.queues(&old).await), "queues");
    assert!(is_fenced(store.unpark(&old, TENANT_QUEUE, ALL).await), "unpark");
    assert!(is_fenced(store.put_back(&old, &[]).await), "put_back");
    assert!(is_fenced(store.record(&old, &[finish(&claimed, vec![])]).await), "record");
    assert!(is_fenced(store.trim(&old, retention, now).await), "trim");
    assert!(is_fenced(store.purge(&old, TENANT).await), "purge");
    assert!(is_fenced(store.renew(&old).await), "renew");
    assert!(is_fenced(store.release(&old).await), "release");
    store.renew(&new).await.unwrap();
}

pub(crate) async fn a_fenced_record_changes_nothing(mut world: World) {
    let old = world.own().await;
    let claimed = world.claim_one(&old).await;
    let new = world.take_over("b").await;
    let later = world.now();
    let stale = [finish(&claimed, vec![delivered(&claimed.event, 0), scheduled(&claimed.event, 1, later, 1)])];
    assert!(is_fenced(world.store().record(&old, &stale).await));
    assert_eq!(world.counts().await, [1, 0, 0, 0]);
    let summary = world.summary(claimed.event.id).await;
    assert!(!summary.finished && summary.deliveries.is_empty());
    assert_eq!(world.reclaim(&new).await.len(), 1);
}

pub(crate) async fn a_lease_with_another_incarnation_is_fenced(world: World) {
    let lease = world.own().await;
    let forged = Lease { incarnation: lease.incarnation.wrapping_add(1), ..lease.clone() };
    assert!(is_fenced(world.store().claim(&forged, Lane::Normal, ALL).await));
    let forged = Lease { epoch: lease.epoch + 1, ..lease.clone() };
    assert!(is_fenced(world.store().claim(&forged, Lane::Normal, ALL).await));
    let forged = Lease { epoch: lease.epoch - 1, ..lease };
    assert!(is_fenced(world.store().claim(&forged, Lane::Normal, ALL).await));
}

pub(crate) async fn shards_have_owners_of_their_own(world: World) {
    let here = world.own().await;
    let there = world.store().acquire(OTHER_SHARD, "b", here.ttl).await.unwrap().expect("the other shard is free");
    world.store().renew(&here).await.unwrap();
    world.store().renew(&there).await.unwrap();
    let mixed = Lease { shard: OTHER_SHARD, ..here };
    assert!(world.store().claim(&mixed, Lane::Normal, ALL).await.is_err());
}

pub(crate) async fn of_concurrent_challengers_one_wins(world: World) {
    let span = world.fixture.span() * 100;
    let challengers = (0..8).map(|i| {
        let store = world.store();
        tokio::spawn(async move { store.acquire(SHARD, &format!("node-{i}"), span).await.unwrap() })
    });
    let mut leases = Vec::new();
    for challenger in challengers.collect::<Vec<_>>() {
        leases.extend(challenger.await.unwrap());
    }
    assert_eq!(leases.len(), 1);
    assert_eq!(leases.iter().map(|lease| lease.incarnation).collect::<BTreeSet<_>>().len(), 1);
}
