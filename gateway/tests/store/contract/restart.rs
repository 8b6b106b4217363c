use std::time::Duration;

use tidegate::event::{Event, Lane, Revision, VersionHash};
use tidegate::store::{Budget, DeliveryState, Lease};

use crate::world::*;

const HOUR: Duration = Duration::from_secs(3600);

struct Scene {
    queued: Vec<Event>,
    claimed: Event,
    done: Event,
    later: Event,
    parked: Vec<Event>,
    dead: Event,
    first: Event,
}

/// Something in every place of the store.
async fn set_the_scene(world: &mut World, lease: &Lease) -> Scene {
    let now = world.now();
    let window = world.fixture.span() * 1000;
    let store = world.store();
    let done = world.settle(lease, |event| vec![delivered(event, 0)]).await;
    let later = world.settle(lease, |event| vec![scheduled(event, 0, now.after(HOUR), 1)]).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(world.settle(lease, |event| vec![parked(event, 0, TENANT_QUEUE)]).await);
    }
    store.unpark(lease, TENANT_QUEUE, Budget { count: 2, ..ALL }).await.unwrap();
    let given_up = world.settle(lease, |event| vec![dead(event, 0, now)]).await;
    let claimed = world.claim_one(lease).await;
    world.record(lease, vec![progress(&claimed, vec![delivered(&claimed.event, 0)])]).await;
    let first = world.event();
    store.accept(vec![once(&first, 1, window)]).await.unwrap();
    let mut queued = vec![first.clone()];
    queued.extend(world.accept(3).await);
    store.configure(Revision(0), vec![("a".into(), Some("1".into()))]).await.unwrap();
    store.put_component(VersionHash([1; 32]), "wasm".into()).await.unwrap();
    store.remember("key", "value".into(), window).await.unwrap();
    Scene { queued, claimed: claimed.event, done, later, parked: waiting, dead: given_up, first }
}

async fn check_the_scene(world: &mut World, scene: Scene) {
    let store = world.store();
    let now = world.now();
    let window = world.fixture.span() * 1000;
    assert_eq!(world.counts().await, [5, 1, 3, 1]);
    let lease = eventually(async || store.acquire(SHARD, "a", world.fixture.span()).await.unwrap()).await;
    let again = world.reclaim(&lease).await;
    assert_eq!(claimed_ids(&again), [scene.claimed.id]);
    assert_eq!(again[0].claims, 2);
    assert_eq!(again[0].progress.iter().map(|row| row.id).collect::<Vec<_>>(), [delivery_id(&scene.claimed, 0)]);
    let claimed = world.claim(&lease).await;
    assert_eq!(claimed.iter().map(|entry| entry.event.clone()).collect::<Vec<_>>(), scene.queued);
    assert_eq!(store.next_due(&lease).await.unwrap(), Some(scene.later.accepted_at.after(HOUR)));
    assert_eq!(world.due(&lease, now.after(HOUR)).await, [job(&scene.later, 0, 1)]);
    assert_eq!(job_events(&world.unpark(&lease, TENANT_QUEUE).await), ids(&scene.parked));
    assert_eq!(world.dead().await[0].job, job(&scene.dead, 0, 5));
    assert_eq!(world.states(scene.done.id).await, [DeliveryState::Delivered]);
    assert!(world.summary(scene.done.id).await.finished);
    assert_eq!(world.history(scene.done.id).await.event, Some(scene.done));
    let repeat = world.event();
    assert_eq!(repeats(store.accept(vec![once(&repeat, 1, window)]).await.unwrap()), [Some(scene.first.id)]);
    assert_eq!(store.config().await.unwrap(), (Revision(1), vec![("a".into(), "1".into())]));
    assert_eq!(store.component(VersionHash([1; 32])).await.unwrap(), Some("wasm".into()));
    assert_eq!(store.remember("key", "other".into(), window).await.unwrap(), Some("value".into()));
}

pub(crate) async fn everything_survives_a_restart(mut world: World) {
    let lease = world.own().await;
    let scene = set_the_scene(&mut world, &lease).await;
    world.fixture.restart().await;
    check_the_scene(&mut world, scene).await;
}

pub(crate) async fn everything_acknowledged_survives_a_crash(mut world: World) {
    let lease = world.own().await;
    let scene = set_the_scene(&mut world, &lease).await;
    world.fixture.crash().await;
    check_the_scene(&mut world, scene).await;
}

pub(crate) async fn a_crash_keeps_the_order_and_the_count_of_claims(mut world: World) {
    let sent = world.accept(6).await;
    let lease = world.own().await;
    let two = Budget { count: 2, ..ALL };
    assert_eq!(world.store().claim(&lease, Lane::Normal, two).await.unwrap().len(), 2);
    for claims in 2..6 {
        world.fixture.crash().await;
        let lease = world.own().await;
        let again = world.reclaim(&lease).await;
        assert_eq!(claimed_ids(&again), ids(&sent[..2]));
        assert!(again.iter().all(|entry| entry.claims == claims), "{claims}: {:?}", again[0].claims);
    }
    let lease = world.own().await;
    assert_eq!(claimed_ids(&world.claim(&lease).await), ids(&sent[2..]));
}

pub(crate) async fn a_lease_from_before_is_fenced(mut world: World) {
    let old = world.own().await;
    let claimed = world.claim_one(&old).await;
    world.fixture.crash().await;
    let new = world.own().await;
    assert!(new.epoch > old.epoch);
    let late = [finish(&claimed, vec![delivered(&claimed.event, 0)])];
    assert!(is_fenced(world.store().record(&old, &late).await));
    assert_eq!(world.counts().await, [1, 0, 0, 0]);
}

pub(crate) async fn new_entries_go_behind_the_old_ones(mut world: World) {
    let lease = world.own().await;
    for _ in 0..3 {
        world.settle(&lease, |event| vec![delivered(event, 0)]).await;
    }
    let mut sent = world.accept(2).await;
    world.fixture.restart().await;
    sent.extend(world.accept(2).await);
    world.fixture.crash().await;
    sent.extend(world.accept(2).await);
    let lease = world.own().await;
    assert_eq!(claimed_ids(&world.claim(&lease).await), ids(&sent));
    assert_eq!(world.counts().await, [6, 0, 0, 0]);
}
