use std::time::Duration;

use bytes::Bytes;
use tidegate::event::{Event, Failure};
use tidegate::store::{Accepted, DeliveryRecord, DeliveryState, Home, Purged};

use crate::world::*;

const HOUR: Duration = Duration::from_secs(3600);

fn size(event: &Event) -> u64 {
    event.request.size() as u64
}

/// The size of the frozen request that `scheduled`, `parked` and `dead` make of the event.
fn frozen(event: &Event) -> u64 {
    job(event, 0, 0).size() as u64
}

pub(crate) async fn counts_unfinished_entries(mut world: World) {
    assert_eq!(world.queued().await, 0);
    let events: Vec<_> = (1..=3).map(|n| world.event_of(TENANT, Bytes::from(vec![0; 100 * n]))).collect();
    let answers = world.store().accept(events[..2].iter().map(acceptance).collect()).await.unwrap();
    let two = size(&events[0]) + size(&events[1]);
    assert_eq!(answers, [Accepted::New { queued: two }; 2], "what was written together counts for each");
    let answers = world.store().accept(vec![acceptance(&events[2])]).await.unwrap();
    assert_eq!(answers, [Accepted::New { queued: two + size(&events[2]) }]);
    let lease = world.own().await;
    let claimed = world.claim(&lease).await;
    assert_eq!(world.queued().await, two + size(&events[2]), "what is in hand is still queued");
    world.record(&lease, vec![finish(&claimed[0], vec![delivered(&events[0], 0)]), progress(&claimed[1], vec![])]).await;
    assert_eq!(world.queued().await, size(&events[1]) + size(&events[2]));
    world.record(&lease, claimed[1..].iter().map(|entry| finish(entry, vec![])).collect()).await;
    assert_eq!(world.queued().await, 0);
}

pub(crate) async fn a_duplicate_adds_nothing(mut world: World) {
    let (first, repeat, other) = (world.event(), world.event(), world.event());
    let window = world.fixture.span() * 100;
    let once = |event| once(event, 1, window);
    let answers = world.store().accept(vec![once(&first)]).await.unwrap();
    assert_eq!(answers, [Accepted::New { queued: size(&first) }]);
    assert_eq!(repeats(world.store().accept(vec![once(&repeat)]).await.unwrap()), [Some(first.id)]);
    assert_eq!(world.queued().await, size(&first));
    let answers = world.store().accept(vec![acceptance(&other), once(&repeat)]).await.unwrap();
    let queued = size(&first) + size(&other);
    assert_eq!(answers, [Accepted::New { queued }, Accepted::Duplicate(first.id)]);
}

pub(crate) async fn tenants_and_shards_are_apart(mut world: World) {
    let (ours, theirs) = (world.event(), world.event_of(OTHER_TENANT, Bytes::from_static(b"another's")));
    let answers = world.store().accept(vec![acceptance(&ours), acceptance(&theirs)]).await.unwrap();
    assert_eq!(answers, [Accepted::New { queued: size(&ours) }, Accepted::New { queued: size(&theirs) }]);
    assert_eq!(world.queued().await, size(&ours));
    assert_eq!(world.store().queued_bytes(Home { tenant: OTHER_TENANT, shard: SHARD }).await.unwrap(), size(&theirs));
    assert_eq!(world.store().queued_bytes(Home { tenant: TENANT, shard: OTHER_SHARD }).await.unwrap(), 0);
    let lease = world.own().await;
    let claimed = world.claim(&lease).await;
    world
        .record(&lease, claimed.iter().map(|entry| finish(entry, vec![scheduled(&entry.event, 0, world.now(), 1)])).collect())
        .await;
    assert_eq!(world.queued().await, frozen(&ours));
    assert_eq!(world.store().queued_bytes(Home { tenant: OTHER_TENANT, shard: SHARD }).await.unwrap(), frozen(&theirs));
}

pub(crate) async fn counts_work_where_it_goes(mut world: World) {
    let lease = world.own().await;
    let now = world.now();
    let claimed = world.claim_one(&lease).await;
    let event = &claimed.event;
    // Both the entry and what came of it, as long as the entry is not finished.
    world.record(&lease, vec![progress(&claimed, vec![scheduled(event, 0, now, 1)])]).await;
    assert_eq!(world.queued().await, size(event) + frozen(event));
    world.record(&lease, vec![finish(&claimed, vec![parked(event, 1, TENANT_QUEUE)])]).await;
    assert_eq!(world.queued().await, 2 * frozen(event));
    let retry = world.due(&lease, now).await.remove(0);
    let waiting = world.unpark(&lease, TENANT_QUEUE).await.remove(0);
    assert_eq!(world.queued().await, 2 * frozen(event), "what is in hand is still queued");
    let again = DeliveryRecord { attempts: vec![attempt(event, 2)], ..scheduled(event, 0, now, 2) };
    world.record(&lease, vec![finish_job(&retry, vec![again]), finish_job(&waiting, vec![delivered(event, 1)])]).await;
    assert_eq!(world.queued().await, frozen(event));
    let retry = world.due(&lease, now).await.remove(0);
    world.record(&lease, vec![finish_job(&retry, vec![])]).await;
    assert_eq!(world.queued().await, 0);
    // A plan is as large as its event, and becomes what it planned.
    let event = world.settle(&lease, |event| vec![parked_plan(event, TENANT_QUEUE)]).await;
    assert_eq!(world.queued().await, size(&event));
    let plan = world.unpark(&lease, TENANT_QUEUE).await.remove(0);
    world.record(&lease, vec![finish_job(&plan, vec![scheduled(&event, 0, now, 0), scheduled(&event, 1, now, 0)])]).await;
    assert_eq!(world.queued().await, 2 * frozen(&event));
}

pub(crate) async fn work_that_is_done_twice_is_taken_away_once(mut world: World) {
    let lease = world.own().await;
    let now = world.now();
    let other = world.claim_one(&lease).await;
    let claimed = world.claim_one(&lease).await;
    for _ in 0..2 {
        world.record(&lease, vec![finish(&claimed, vec![scheduled(&claimed.event, 0, now, 1)])]).await;
        assert_eq!(world.queued().await, size(&other.event) + frozen(&claimed.event));
    }
    let job = world.due(&lease, now).await.remove(0);
    for _ in 0..2 {
        world.record(&lease, vec![finish_job(&job, vec![delivered(&claimed.event, 0)])]).await;
        assert_eq!(world.queued().await, size(&other.event));
    }
}

pub(crate) async fn a_dead_letter_is_not_queued_until_it_is_retried(mut world: World) {
    let lease = world.own().await;
    let now = world.now();
    let event = world.settle(&lease, |event| vec![scheduled(event, 0, now, 1), dead(event, 1, now)]).await;
    assert_eq!(world.queued().await, frozen(&event));
    let job = world.due(&lease, now).await.remove(0);
    let given_up = DeliveryRecord { attempts: vec![attempt(&event, 2)], ..dead(&event, 0, now) };
    world.record(&lease, vec![finish_job(&job, vec![given_up])]).await;
    assert_eq!(world.queued().await, 0);
    let both = [delivery_id(&event, 0), delivery_id(&event, 1)];
    assert_eq!(world.store().retry(HOME, &both, now).await.unwrap(), 2);
    assert_eq!(world.queued().await, 2 * frozen(&event));
    assert_eq!(world.store().retry(HOME, &both, now).await.unwrap(), 0, "they are dead letters no more");
    assert_eq!(world.queued().await, 2 * frozen(&event));
}

pub(crate) async fn a_purge_takes_it_away(mut world: World) {
    let lease = world.own().await;
    let far = world.now().after(HOUR);
    let deleted = Failure { code: Failure::TENANT_DELETED.into(), ..failure() };
    world.settle(&lease, |event| vec![scheduled(event, 0, far, 1), parked(event, 1, TENANT_QUEUE)]).await;
    world
        .settle(&lease, |event| {
            vec![DeliveryRecord { state: DeliveryState::DeadLettered { reason: deleted }, ..dead(event, 0, far) }]
        })
        .await;
    let theirs = world.event_of(OTHER_TENANT, Bytes::from_static(b"another's"));
    world.accept_all(std::slice::from_ref(&theirs)).await;
    let mut purged = Purged::default();
    for _ in 0..100 {
        purged = world.store().purge(&lease, TENANT).await.unwrap();
        if purged.done {
            break;
        }
    }
    assert!(purged.done && purged.given_up == 3, "{purged:?}");
    assert_eq!(world.queued().await, 0);
    assert_eq!(world.store().queued_bytes(Home { tenant: OTHER_TENANT, shard: SHARD }).await.unwrap(), size(&theirs));
}

pub(crate) async fn survives_a_restart_and_a_crash(mut world: World) {
    let lease = world.own().await;
    let far = world.now().after(HOUR);
    let event = world.settle(&lease, |event| vec![scheduled(event, 0, far, 1)]).await;
    let claimed = world.claim_one(&lease).await;
    let waiting = world.accept_one().await;
    let all = frozen(&event) + size(&claimed.event) + size(&waiting);
    assert_eq!(world.queued().await, all);
    world.fixture.restart().await;
    assert_eq!(world.queued().await, all);
    world.fixture.crash().await;
    assert_eq!(world.queued().await, all);
    let lease = world.take_over("b").await;
    let mut entries = world.reclaim(&lease).await;
    entries.extend(world.claim(&lease).await);
    world.record(&lease, entries.iter().map(|entry| finish(entry, vec![])).collect()).await;
    assert_eq!(world.queued().await, frozen(&event));
    world.fixture.crash().await;
    assert_eq!(world.queued().await, frozen(&event));
}
