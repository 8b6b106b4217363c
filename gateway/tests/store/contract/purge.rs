use std::time::Duration;

use tidegate::event::{Failure, TenantId};
use tidegate::store::{Acceptance, DeliveryRecord, DeliveryState, Home, Lease, Origin, PageRequest, Purged, QueueKey, Record};

use super::lines;
use crate::world::*;

const HOUR: Duration = Duration::from_secs(3600);
const OTHER_HOME: Home = Home { tenant: OTHER_TENANT, shard: SHARD };

/// Purges until it is done; what was removed, and in how many steps.
async fn purge(world: &World, lease: &Lease, tenant: TenantId) -> (Purged, usize) {
    for steps in 1..1000 {
        let purged = world.store().purge(lease, tenant).await.unwrap();
        assert_eq!(world.store().purged(Home { tenant, shard: SHARD }).await.unwrap(), Some(purged));
        if purged.done {
            return (purged, steps);
        }
    }
    panic!("the purge comes to no end");
}

/// Steps of a purge that can't end.
async fn purge_in_vain(world: &World, lease: &Lease) -> Purged {
    let mut purged = Purged::default();
    for _ in 0..12 {
        purged = world.store().purge(lease, TENANT).await.unwrap();
        assert!(!purged.done, "{purged:?}");
    }
    purged
}

/// One event of the tenant in each state that it can be in without anybody having it in hand: a dead letter from before, one for
/// the deletion, scheduled, parked, done.
async fn one_of_each(world: &mut World, lease: &Lease, tenant: TenantId) {
    let far = world.now().after(HOUR);
    let queue = QueueKey::Tenant(tenant);
    for state in 0..5 {
        let event = world.event_of(tenant, "body".into());
        world.accept_all(std::slice::from_ref(&event)).await;
        let claimed = world.claim(lease).await;
        let deleted = Failure { code: Failure::TENANT_DELETED.into(), ..failure() };
        let row = match state {
            0 => dead(&event, 0, event.accepted_at),
            1 => DeliveryRecord { state: DeliveryState::DeadLettered { reason: deleted }, ..dead(&event, 0, event.accepted_at) },
            2 => scheduled(&event, 0, far, 1),
            3 => parked(&event, 0, queue),
            _ => delivered(&event, 0),
        };
        world.record(lease, vec![finish(&claimed[0], vec![row])]).await;
    }
}

async fn listed(world: &World, home: Home) -> (usize, usize) {
    let events = world.store().events(home, PageRequest { before: None, limit: 200 }).await.unwrap().items;
    let letters = world.store().dead_letters(home, PageRequest { before: None, limit: 200 }).await.unwrap().items;
    (events.len(), letters.len())
}

pub(crate) async fn takes_all_of_a_tenant_and_nothing_of_another(mut world: World) {
    let lease = world.own().await;
    one_of_each(&mut world, &lease, TENANT).await;
    one_of_each(&mut world, &lease, OTHER_TENANT).await;
    assert_eq!(world.store().purged(HOME).await.unwrap(), None);
    let (purged, _) = purge(&world, &lease, TENANT).await;
    assert_eq!(purged, Purged { events: 5, given_up: 3, dead_letters: 1, done: true });
    assert_eq!(listed(&world, HOME).await, (0, 0));
    assert_eq!(listed(&world, OTHER_HOME).await, (5, 2));
    assert_eq!(world.counts().await, [0, 1, 1, 2]);
    let queues = world.store().queues(&lease).await.unwrap();
    assert_eq!(queues, [(QueueKey::Tenant(OTHER_TENANT), 1)]);
    assert_eq!(world.due(&lease, world.now().after(HOUR)).await.len(), 1);
    assert_eq!(world.unpark(&lease, queues[0].0).await.len(), 1);
    assert_eq!(world.store().purged(OTHER_HOME).await.unwrap(), None);
    // Once more finds nothing, and changes nothing.
    assert_eq!(purge(&world, &lease, TENANT).await.0, purged);
}

/// A tenant that is spread over shards: each has a purge, and counts, of its own.
pub(crate) async fn takes_nothing_of_another_shard(mut world: World) {
    let lease = world.own().await;
    one_of_each(&mut world, &lease, TENANT).await;
    let elsewhere = Home { shard: OTHER_SHARD, ..HOME };
    let event = world.event();
    world.store().accept(vec![Acceptance { shard: OTHER_SHARD, ..acceptance(&event) }]).await.unwrap();
    let other = world.store().acquire(OTHER_SHARD, "a", world.fixture.span()).await.unwrap().unwrap();
    let claimed = world.claim(&other).await;
    world.record(&other, vec![finish(&claimed[0], vec![scheduled(&event, 0, world.now(), 1)])]).await;
    let (purged, _) = purge(&world, &lease, TENANT).await;
    assert_eq!(purged, Purged { events: 5, given_up: 3, dead_letters: 1, done: true });
    assert_eq!((listed(&world, HOME).await, listed(&world, elsewhere).await), ((0, 0), (1, 0)));
    assert_eq!(world.store().purged(elsewhere).await.unwrap(), None);
    let mut rest = Purged::default();
    while !rest.done {
        rest = world.store().purge(&other, TENANT).await.unwrap();
    }
    assert_eq!(rest, Purged { events: 1, given_up: 1, dead_letters: 0, done: true });
    assert_eq!(world.store().purged(elsewhere).await.unwrap(), Some(rest));
    assert_eq!(world.store().purged(HOME).await.unwrap(), Some(purged));
}

pub(crate) async fn takes_what_stands_in_lines(mut world: World) {
    let lease = world.own().await;
    let first = lines::line_up(&mut world, &lease, 1, 3).await;
    let second = lines::line_up(&mut world, &lease, 2, 1).await;
    let others = QueueKey::Ordered(OTHER_TENANT, lines::TO);
    let event = world.event_of(OTHER_TENANT, "body".into());
    world.accept_all(std::slice::from_ref(&event)).await;
    let claimed = world.claim(&lease).await;
    world.record(&lease, vec![finish(&claimed[0], vec![lines::in_line(1, 1_000, parked(&event, 0, others))])]).await;
    let taken = lines::heads(&world, &lease, lines::NOW).await.jobs;
    assert_eq!(job_events(&taken), [first[0].id, second[0].id]);
    assert_eq!(purge_in_vain(&world, &lease).await, Purged { events: 2, given_up: 2, ..Purged::default() });
    // One in hand is done, the other goes back to its place.
    let again = lines::again(&taken[1], scheduled(&second[0], 0, lines::NOW, 1));
    world.record(&lease, vec![finish_job(&taken[0], vec![delivered(&first[0], 0)]), finish_job(&taken[1], vec![again])]).await;
    assert_eq!(purge(&world, &lease, TENANT).await.0, Purged { events: 4, given_up: 3, dead_letters: 0, done: true });
    assert_eq!((listed(&world, HOME).await, world.queued().await), ((0, 0), 0));
    let left = lines::heads(&world, &lease, lines::NOW).await;
    assert!(left.jobs.is_empty() && left.next.is_none(), "{left:?}");
    assert_eq!(world.store().queues(&lease).await.unwrap(), [(others, 1)]);
    assert_eq!(world.store().heads(&lease, others, lines::NOW, ALL).await.unwrap().jobs.len(), 1);
    // What comes to the line later stands in it alone.
    let later = lines::line_up(&mut world, &lease, 1, 1).await;
    assert_eq!(job_events(&lines::heads(&world, &lease, lines::NOW).await.jobs), [later[0].id]);
}

pub(crate) async fn leaves_what_is_in_hand_until_it_is_recorded(mut world: World) {
    let lease = world.own().await;
    let now = world.now();
    world.settle(&lease, |event| vec![scheduled(event, 0, now, 1)]).await;
    let job = world.due(&lease, now).await.remove(0);
    let parked = world.settle(&lease, |event| vec![parked(event, 0, TENANT_QUEUE)]).await;
    let unparked = world.unpark(&lease, TENANT_QUEUE).await.remove(0);
    let claimed = world.claim_one(&lease).await;
    let waiting = world.accept_one().await;
    assert_eq!(purge_in_vain(&world, &lease).await, Purged::default());
    // What is recorded meanwhile goes, and what it makes of itself too.
    let again = DeliveryRecord { attempts: vec![attempt(&parked, 2)], ..scheduled(&parked, 0, now.after(HOUR), 2) };
    world.record(&lease, vec![finish_job(&job, vec![]), finish_job(&unparked, vec![again])]).await;
    world.record(&lease, vec![finish(&claimed, vec![dead(&claimed.event, 0, now)])]).await;
    let purged = purge_in_vain(&world, &lease).await;
    assert_eq!(purged, Purged { events: 3, given_up: 1, dead_letters: 1, done: false });
    let last = world.claim(&lease).await.remove(0);
    assert_eq!(last.event.id, waiting.id, "what was never claimed is still to be had");
    world.record(&lease, vec![finish(&last, vec![])]).await;
    assert_eq!(purge(&world, &lease, TENANT).await.0, Purged { events: 4, done: true, ..purged });
    assert_eq!(world.counts().await, [0; 4]);
    // An outcome that comes late brings nothing back.
    let late = Record { origin: Origin::Entry(last.ticket), ..finish(&last, vec![dead(&last.event, 0, now)]) };
    world.record(&lease, vec![late]).await;
    assert_eq!((listed(&world, HOME).await, world.counts().await), ((0, 0), [0; 4]));
}

/// A job that is in hand while its delivery has ended by a record of the event's entry: the event was removed from under it.
pub(crate) async fn leaves_an_event_while_a_job_of_it_is_in_hand(mut world: World) {
    let lease = world.own().await;
    let now = world.now();
    let claimed = world.claim_one(&lease).await;
    world.record(&lease, vec![progress(&claimed, vec![scheduled(&claimed.event, 0, now, 1)])]).await;
    let job = world.due(&lease, now).await.remove(0);
    world.record(&lease, vec![finish(&claimed, vec![delivered(&claimed.event, 0)])]).await;
    assert_eq!(purge_in_vain(&world, &lease).await, Purged::default());
    assert_eq!(listed(&world, HOME).await, (1, 0));
    world.record(&lease, vec![finish_job(&job, vec![])]).await;
    assert_eq!(purge(&world, &lease, TENANT).await.0, Purged { events: 1, done: true, ..Purged::default() });
}

pub(crate) async fn goes_on_after_a_restart_with_its_counts(mut world: World) {
    let lease = world.own().await;
    one_of_each(&mut world, &lease, TENANT).await;
    let mut lease = lease;
    let mut purged = Purged::default();
    // However often it is interrupted: each start begins a pass anew, and a pass comes further each time.
    for steps in 1..8 {
        for _ in 0..steps {
            purged = world.store().purge(&lease, TENANT).await.unwrap();
        }
        world.fixture.crash().await;
        lease = world.take_over("a").await;
        assert_eq!(world.store().purged(HOME).await.unwrap(), Some(purged), "counted once each");
    }
    let (purged, _) = purge(&world, &lease, TENANT).await;
    assert_eq!(purged, Purged { events: 5, given_up: 3, dead_letters: 1, done: true });
    assert_eq!(listed(&world, HOME).await, (0, 0));
}

pub(crate) async fn steps_are_bounded_and_come_to_an_end(mut world: World) {
    let lease = world.own().await;
    let far = world.now().after(HOUR);
    for _ in 0..3 {
        world.accept(1000).await;
        let claimed = world.claim(&lease).await;
        let waits = claimed.iter().map(|entry| finish(entry, vec![scheduled(&entry.event, 0, far, 1)]));
        world.record(&lease, waits.collect()).await;
    }
    let (purged, _) = purge(&world, &lease, TENANT).await;
    assert_eq!(purged, Purged { events: 3000, given_up: 3000, dead_letters: 0, done: true });
    assert_eq!(world.counts().await, [0; 4]);
}
