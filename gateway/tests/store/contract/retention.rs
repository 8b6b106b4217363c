use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tidegate::clock::Timestamp;
use tidegate::event::EventId;
use tidegate::store::{Lease, PageRequest, Retention, Trimmed};

use crate::world::*;

const HOUR: Duration = Duration::from_secs(3600);
const FOR_EVER: Retention =
    Retention { age: Duration::from_secs(1 << 32), bytes: u64::MAX, dead_letter_age: Duration::from_secs(1 << 32) };

/// Trims until there is no more to trim; the sum of it.
async fn trim(world: &World, lease: &Lease, retention: Retention, now: Timestamp) -> Trimmed {
    let mut sum = Trimmed::default();
    for _ in 0..1000 {
        let step = world.store().trim(lease, retention, now).await.unwrap();
        sum.events += step.events;
        sum.dead_letters += step.dead_letters;
        if !step.more {
            return sum;
        }
    }
    panic!("trimming comes to no end");
}

async fn known(world: &World, id: EventId) -> bool {
    world.store().event(HOME, id).await.unwrap().is_some()
}

pub(crate) async fn terminal_events_go_by_age(mut world: World) {
    let lease = world.own().await;
    let start = world.now();
    let old = world.settle(&lease, |event| vec![delivered(event, 0)]).await;
    let retention = Retention { age: HOUR, ..FOR_EVER };
    assert_eq!(trim(&world, &lease, retention, start.after(HOUR / 2)).await.events, 0);
    assert!(known(&world, old.id).await);
    assert_eq!(trim(&world, &lease, retention, start.after(HOUR * 2)).await.events, 1);
    assert!(!known(&world, old.id).await);
    let young = world.settle(&lease, |event| vec![delivered(event, 0)]).await;
    assert_eq!(trim(&world, &lease, retention, start.after(HOUR / 2)).await, Trimmed::default());
    assert!(known(&world, young.id).await);
}

pub(crate) async fn what_is_not_terminal_stays(mut world: World) {
    let lease = world.own().await;
    let far = world.now().after(HOUR * 1000);
    let waiting = world.settle(&lease, |event| vec![delivered(event, 0), scheduled(event, 1, far, 1)]).await;
    let in_queue = world.settle(&lease, |event| vec![parked(event, 0, TENANT_QUEUE)]).await;
    let done = world.settle(&lease, |event| vec![delivered(event, 0)]).await;
    let going_on = world.claim_one(&lease).await;
    world.record(&lease, vec![progress(&going_on, vec![delivered(&going_on.event, 0)])]).await;
    let queued = world.accept_one().await;
    let none = Retention { age: Duration::ZERO, bytes: 0, dead_letter_age: Duration::ZERO };
    assert_eq!(trim(&world, &lease, none, far).await, Trimmed { events: 1, dead_letters: 0, more: false });
    assert!(!known(&world, done.id).await);
    for id in [waiting.id, in_queue.id, going_on.event.id, queued.id] {
        assert!(known(&world, id).await);
        assert!(world.history(id).await.event.is_some());
    }
    assert_eq!(world.counts().await, [2, 1, 1, 0]);
    assert_eq!(trim(&world, &lease, none, far).await, Trimmed::default(), "nothing has ended since");
    world.record(&lease, vec![finish(&going_on, vec![])]).await;
    let taken = world.due(&lease, far).await;
    world.record(&lease, vec![finish_job(&taken[0], vec![delivered(&waiting, 1)])]).await;
    assert_eq!(trim(&world, &lease, none, far).await.events, 2, "now they are terminal");
    assert_eq!(world.unpark(&lease, TENANT_QUEUE).await.len(), 1);
    assert_eq!(claimed_ids(&world.claim(&lease).await), [queued.id]);
}

pub(crate) async fn terminal_events_go_by_bytes_oldest_first(mut world: World) {
    let lease = world.own().await;
    let mut events = Vec::new();
    for _ in 0..10 {
        let event = world.event_of(TENANT, Bytes::from((0..20_000).map(|_| rand::random()).collect::<Vec<u8>>()));
        world.accept_all(std::slice::from_ref(&event)).await;
        let claimed = world.claim(&lease).await;
        world.record(&lease, vec![finish(&claimed[0], vec![delivered(&event, 0)])]).await;
        events.push(event);
    }
    let now = world.now();
    let queued = world.event_of(TENANT, Bytes::from(vec![1; 500_000]));
    world.accept_all(std::slice::from_ref(&queued)).await;
    assert_eq!(trim(&world, &lease, Retention { bytes: 10_000_000, ..FOR_EVER }, now).await.events, 0);
    trim(&world, &lease, Retention { bytes: 110_000, ..FOR_EVER }, now).await;
    let mut kept = Vec::new();
    for event in &events {
        kept.push(known(&world, event.id).await);
    }
    assert!(kept.is_sorted(), "the oldest go first: {kept:?}");
    let count = kept.iter().filter(|kept| **kept).count();
    assert!((4..=5).contains(&count), "history holds at most its budget and not much less, what is queued does not count: {count}");
    assert!(known(&world, queued.id).await);
}

pub(crate) async fn dead_letters_go_by_their_own_age(mut world: World) {
    let lease = world.own().await;
    let now = world.now();
    let old = world.settle(&lease, |event| vec![dead(event, 0, now)]).await;
    let young = world.settle(&lease, |event| vec![dead(event, 0, now.after(HOUR * 2))]).await;
    let retention = Retention { dead_letter_age: HOUR, ..FOR_EVER };
    let trimmed = trim(&world, &lease, retention, now.after(HOUR * 2)).await;
    assert_eq!(trimmed, Trimmed { events: 0, dead_letters: 1, more: false });
    let letters = world.dead().await;
    assert_eq!((letters.len(), letters[0].job.event()), (1, young.id));
    assert_eq!(world.counts().await, [0, 0, 0, 1]);
    assert_eq!(world.store().retry(HOME, &[delivery_id(&old, 0)], now).await.unwrap(), 0);
    assert!(known(&world, old.id).await);
}

pub(crate) async fn a_dead_letter_outlives_its_event(mut world: World) {
    let lease = world.own().await;
    let now = world.now().after(HOUR * 2);
    let event = world.settle(&lease, |event| vec![dead(event, 0, event.accepted_at)]).await;
    assert_eq!(trim(&world, &lease, Retention { age: HOUR, ..FOR_EVER }, now).await.events, 1);
    assert!(!known(&world, event.id).await);
    assert_eq!(world.dead().await[0].job, job(&event, 0, 5));
    assert_eq!(world.store().retry(HOME, &[delivery_id(&event, 0)], now).await.unwrap(), 1);
    let taken = world.due(&lease, now).await;
    world.record(&lease, vec![finish_job(&taken[0], vec![delivered(&event, 0)])]).await;
    assert_eq!(world.counts().await, [0; 4]);
    assert!(!known(&world, event.id).await, "history that is gone does not come back in part");
    let listed = world.store().events(HOME, PageRequest { before: None, limit: 10 }).await.unwrap().items;
    assert!(listed.is_empty());
}

pub(crate) async fn a_retried_event_is_not_terminal(mut world: World) {
    let lease = world.own().await;
    let now = world.now().after(HOUR * 2);
    let event = world.settle(&lease, |event| vec![dead(event, 0, event.accepted_at)]).await;
    world.store().retry(HOME, &[delivery_id(&event, 0)], now).await.unwrap();
    let none = Retention { age: Duration::ZERO, bytes: 0, dead_letter_age: Duration::ZERO };
    assert_eq!(trim(&world, &lease, none, now).await, Trimmed::default());
    assert!(known(&world, event.id).await);
    let taken = world.due(&lease, now).await;
    world.record(&lease, vec![finish_job(&taken[0], vec![delivered(&event, 0)])]).await;
    assert_eq!(trim(&world, &lease, none, now).await.events, 1);
}

pub(crate) async fn steps_are_bounded_and_come_to_an_end(mut world: World) {
    let lease = world.own().await;
    let now = world.now().after(HOUR);
    for _ in 0..3 {
        world.accept(1000).await;
        let claimed = world.claim(&lease).await;
        let done = claimed.iter().map(|entry| finish(entry, vec![delivered(&entry.event, 0)]));
        world.record(&lease, done.collect()).await;
    }
    let none = Retention { age: Duration::ZERO, ..FOR_EVER };
    let step = world.store().trim(&lease, none, now).await.unwrap();
    assert!(step.events > 0);
    let rest = trim(&world, &lease, none, now).await;
    assert_eq!(step.events + rest.events, 3000);
    assert_eq!(trim(&world, &lease, none, now).await, Trimmed::default());
}

pub(crate) async fn what_is_trimmed_is_gone_from_the_listing(mut world: World) {
    let lease = world.own().await;
    let far = world.now().after(HOUR);
    world.settle(&lease, |event| vec![delivered(event, 0)]).await;
    let waiting = world.settle(&lease, |event| vec![scheduled(event, 0, far, 1)]).await;
    world.settle(&lease, |event| vec![delivered(event, 0)]).await;
    trim(&world, &lease, Retention { age: Duration::ZERO, ..FOR_EVER }, far).await;
    let page = world.store().events(HOME, PageRequest { before: None, limit: 10 }).await.unwrap();
    assert_eq!(page.items.iter().map(|row| row.id).collect::<Vec<_>>(), [waiting.id]);
}

/// A reader that finds an event listed and then none of its outcomes took it for one that nobody has worked on yet.
pub(crate) async fn what_goes_is_never_shown_as_queued(mut world: World) {
    const EVENTS: usize = 30;
    const READERS: usize = 12;
    let lease = world.own().await;
    let page = PageRequest { before: None, limit: 200 };
    for round in 0..10 {
        let mut events = Vec::new();
        for _ in 0..EVENTS {
            events.push(world.settle(&lease, |event| vec![delivered(event, 0)]).await.id);
        }
        let far = world.now().after(HOUR * 1000);
        let gone = Cell::new(false);
        let trimming = async {
            // While the readers are at it.
            tokio::task::yield_now().await;
            trim(&world, &lease, Retention { age: HOUR, ..FOR_EVER }, far).await;
            gone.set(true);
        };
        let reading = (0..READERS).map(async |_| {
            while !gone.get() {
                let listed = world.store().events(HOME, page).await.unwrap().items;
                let shown = world.store().event(HOME, events[round]).await.unwrap().map(|history| history.summary);
                let queued = listed.into_iter().chain(shown).find(|event| !event.finished || event.deliveries.is_empty());
                assert_eq!(queued, None);
                tokio::task::yield_now().await;
            }
        });
        tokio::join!(join_all(reading), trimming);
        assert_eq!(world.store().events(HOME, page).await.unwrap().items, []);
    }
}
