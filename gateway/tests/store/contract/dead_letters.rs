use std::time::Duration;

use bytes::Bytes;
use tidegate::clock::Timestamp;
use tidegate::event::{Attempt, DeliveryId, Event};
use tidegate::store::{Acceptance, DeadLetter, DeliveryRecord, DeliveryState, Home, Job, Lease, MAX_LAST_RESPONSE, PageRequest};

use crate::world::*;

const SECOND: Duration = Duration::from_secs(1);

/// Dead letters that were given up one second apart.
async fn bury(world: &mut World, lease: &Lease, count: u32) -> Vec<Event> {
    let start = world.now();
    let mut events = Vec::new();
    for i in 0..count {
        events.push(world.settle(lease, |event| vec![dead(event, 0, start.after(SECOND * i))]).await);
    }
    events
}

fn letter_events(letters: &[DeadLetter]) -> Vec<tidegate::event::EventId> {
    letters.iter().map(|letter| letter.job.event()).collect()
}

pub(crate) async fn are_listed_newest_first(mut world: World) {
    let lease = world.own().await;
    let start = world.now();
    let events = bury(&mut world, &lease, 3).await;
    let letters = world.dead().await;
    assert_eq!(letter_events(&letters), [events[2].id, events[1].id, events[0].id]);
    assert_eq!(letters[0].job, job(&events[2], 0, 5));
    assert_eq!((letters[0].at, &letters[0].reason), (start.after(SECOND * 2), &failure()));
    assert_eq!(world.states(events[0].id).await, [DeliveryState::DeadLettered { reason: failure() }]);
}

pub(crate) async fn carry_their_last_attempt(mut world: World) {
    let lease = world.own().await;
    let now = world.now().after(SECOND * 1000);
    let long = Bytes::from(vec![b'x'; MAX_LAST_RESPONSE + 1]);
    let attempts = |event: &Event| vec![attempt(event, 1), Attempt { response: long.clone(), ..attempt(event, 2) }];
    let event =
        world.settle(&lease, |event| vec![DeliveryRecord { attempts: attempts(event), ..dead(event, 0, event.accepted_at) }]).await;
    let last = Attempt { response: long.slice(..MAX_LAST_RESPONSE), response_cut: true, ..attempt(&event, 2) };
    let letters = world.dead().await;
    assert_eq!((&letters[0].job, &letters[0].last), (&job(&event, 0, 5), &Some(last)));
    assert_eq!(world.summary(event.id).await.deliveries[0].attempts, attempts(&event), "the history has all of them");
    let without = world.settle(&lease, |event| vec![dead(event, 0, now)]).await;
    let letters = world.dead().await;
    assert_eq!((letters[0].job.event(), &letters[0].last), (without.id, &None));

    world.store().retry(HOME, &[delivery_id(&event, 0)], now).await.unwrap();
    let taken = world.due(&lease, now).await;
    assert_eq!(taken, [Job { spent: 0, since: now, ..job(&event, 0, 5) }]);
    world.record(&lease, vec![finish_job(&taken[0], vec![dead(&event, 0, now.after(SECOND))])]).await;
    let letters = world.dead().await;
    assert_eq!((letters[0].job.event(), &letters[0].last), (event.id, &None), "of the last time");
}

pub(crate) async fn pages_are_complete_and_stable(mut world: World) {
    let lease = world.own().await;
    let events = bury(&mut world, &lease, 7).await;
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = world.store().dead_letters(HOME, PageRequest { before, limit: 3 }).await.unwrap();
        assert!(page.items.len() <= 3);
        seen.extend(letter_events(&page.items));
        before = page.next;
        if before.is_none() {
            break;
        }
        let at = world.now().after(SECOND * 100);
        world.settle(&lease, |event| vec![dead(event, 0, at)]).await;
    }
    assert_eq!(seen, events.iter().rev().map(|event| event.id).collect::<Vec<_>>());
}

pub(crate) async fn tenants_are_apart(mut world: World) {
    let lease = world.own().await;
    let now = world.now();
    let theirs = world.event_of(OTHER_TENANT, "theirs".into());
    world.store().accept(vec![Acceptance { ..acceptance(&theirs) }]).await.unwrap();
    let claimed = world.claim(&lease).await;
    world.record(&lease, vec![finish(&claimed[0], vec![dead(&theirs, 0, now)])]).await;
    let ours = bury(&mut world, &lease, 1).await;
    assert_eq!(letter_events(&world.dead().await), ids(&ours));
    assert_eq!(world.store().retry(HOME, &[delivery_id(&theirs, 0)], now).await.unwrap(), 0);
    let other = Home { tenant: OTHER_TENANT, shard: SHARD };
    let page = world.store().dead_letters(other, PageRequest { before: None, limit: 10 }).await.unwrap();
    assert_eq!(letter_events(&page.items), [theirs.id]);
    assert_eq!(world.counts().await, [0, 0, 0, 2]);
}

pub(crate) async fn are_found_by_their_ids(mut world: World) {
    let lease = world.own().await;
    let now = world.now();
    let events = bury(&mut world, &lease, 3).await;
    let waiting = world.settle(&lease, |event| vec![scheduled(event, 0, now, 1)]).await;
    let ids = [delivery_id(&events[2], 0), DeliveryId(9), delivery_id(&waiting, 0), delivery_id(&events[0], 0)];
    let mut found = world.store().dead_letters_of(HOME, &ids).await.unwrap();
    found.sort_by_key(DeadLetter::age);
    assert_eq!(letter_events(&found), [events[0].id, events[2].id]);
    assert_eq!((&found[0].job, found[0].at), (&job(&events[0], 0, 5), now));
    assert!(world.store().dead_letters_of(HOME, &[]).await.unwrap().is_empty());
    let elsewhere = Home { tenant: OTHER_TENANT, ..HOME };
    assert!(world.store().dead_letters_of(elsewhere, &ids).await.unwrap().is_empty());
}

pub(crate) async fn a_retry_moves_them_back_to_the_schedule(mut world: World) {
    let lease = world.own().await;
    let events = bury(&mut world, &lease, 3).await;
    let now = world.now().after(SECOND * 1000);
    let ids: Vec<_> = events[..2].iter().map(|event| delivery_id(event, 0)).collect();
    assert_eq!(world.store().retry(HOME, &ids, now).await.unwrap(), 2);
    assert_eq!(world.counts().await, [0, 2, 0, 1]);
    assert_eq!(letter_events(&world.dead().await), [events[2].id]);
    assert_eq!(world.states(events[0].id).await, [DeliveryState::Scheduled { due: now }]);
    assert_eq!(world.store().next_due(&lease).await.unwrap(), Some(now));
    let mut due = job_events(&world.due(&lease, now).await);
    due.sort();
    assert_eq!(due, [events[0].id, events[1].id]);
}

pub(crate) async fn a_retried_job_starts_afresh(mut world: World) {
    let lease = world.own().await;
    let now = world.now().after(SECOND * 1000);
    let event = bury(&mut world, &lease, 1).await.remove(0);
    world.store().retry(HOME, &[delivery_id(&event, 0)], now).await.unwrap();
    assert_eq!(world.due(&lease, now).await, [Job { spent: 0, since: now, ..job(&event, 0, 5) }]);
}

pub(crate) async fn a_retry_counts_what_was_there(mut world: World) {
    let lease = world.own().await;
    let now: Timestamp = world.now();
    let event = bury(&mut world, &lease, 1).await.remove(0);
    let waiting = world.settle(&lease, |event| vec![scheduled(event, 0, now, 1)]).await;
    let id = delivery_id(&event, 0);
    assert_eq!(world.store().retry(HOME, &[], now).await.unwrap(), 0);
    let ids = [DeliveryId(9), delivery_id(&waiting, 0), id, id];
    assert_eq!(world.store().retry(HOME, &ids, now).await.unwrap(), 1);
    assert_eq!(world.store().retry(HOME, &[id], now).await.unwrap(), 0);
    assert_eq!(world.counts().await, [0, 2, 0, 0]);
}

pub(crate) async fn go_back_each_at_its_own_time(mut world: World) {
    let lease = world.own().await;
    let events = bury(&mut world, &lease, 5).await;
    let now = world.now().after(SECOND * 1000);
    let mut each: Vec<_> = (0..).zip(&events).map(|(n, event)| (delivery_id(event, 0), now.after(SECOND * n))).collect();
    each.swap(0, 3);
    assert_eq!(world.store().retry_each(HOME, &each).await.unwrap(), 5);
    assert_eq!(world.due(&lease, now).await, [Job { spent: 0, since: now, ..job(&events[0], 0, 5) }]);
    let rest = world.due(&lease, now.after(SECOND * 5)).await;
    assert_eq!(rest.iter().map(Job::event).collect::<Vec<_>>(), events[1..].iter().map(|event| event.id).collect::<Vec<_>>());
    assert_eq!(world.states(events[4].id).await, [DeliveryState::Scheduled { due: now.after(SECOND * 4) }]);
}

pub(crate) async fn a_retried_delivery_goes_on_to_its_end(mut world: World) {
    let lease = world.own().await;
    let now = world.now().after(SECOND * 1000);
    let event = world
        .settle(&lease, |event| vec![DeliveryRecord { attempts: vec![attempt(event, 1)], ..dead(event, 0, event.accepted_at) }])
        .await;
    world.store().retry(HOME, &[delivery_id(&event, 0)], now).await.unwrap();
    let taken = world.due(&lease, now).await;
    let again = DeliveryRecord { at: now, attempts: vec![attempt(&event, 6)], ..dead(&event, 0, now) };
    world.record(&lease, vec![finish_job(&taken[0], vec![again])]).await;
    assert_eq!(world.counts().await, [0, 0, 0, 1]);
    world.store().retry(HOME, &[delivery_id(&event, 0)], now).await.unwrap();
    let taken = world.due(&lease, now).await;
    let done = DeliveryRecord { at: now, attempts: vec![attempt(&event, 7)], ..delivered(&event, 0) };
    world.record(&lease, vec![finish_job(&taken[0], vec![done])]).await;
    assert_eq!(world.counts().await, [0; 4]);
    let summary = world.summary(event.id).await;
    assert_eq!(summary.deliveries.len(), 1);
    assert_eq!(summary.deliveries[0].state, DeliveryState::Delivered);
    assert_eq!(summary.deliveries[0].attempts, [1, 6, 7].map(|number| attempt(&event, number)));
}
