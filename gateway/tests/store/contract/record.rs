use std::time::Duration;

use tidegate::event::{DeliveryId, Lane};
use tidegate::store::{DeliveryRecord, DeliveryState, Origin, Record, StoreError, Ticket};

use crate::world::*;

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) async fn a_finished_entry_is_gone(mut world: World) {
    let lease = world.own().await;
    let claimed = world.claim_one(&lease).await;
    assert_eq!(world.counts().await, [1, 0, 0, 0]);
    world.record(&lease, vec![finish(&claimed, vec![delivered(&claimed.event, 0)])]).await;
    assert_eq!(world.counts().await, [0; 4]);
    assert!(world.claim(&lease).await.is_empty() && world.reclaim(&lease).await.is_empty());
}

pub(crate) async fn a_batch_sent_twice_counts_once(mut world: World) {
    let lease = world.own().await;
    let due = world.now().after(HOUR);
    world.accept(4).await;
    let claimed = world.claim(&lease).await;
    let batch = vec![
        finish(&claimed[0], vec![delivered(&claimed[0].event, 0)]),
        finish(&claimed[1], vec![scheduled(&claimed[1].event, 0, due, 1)]),
        finish(&claimed[2], vec![parked(&claimed[2].event, 0, TENANT_QUEUE)]),
        finish(&claimed[3], vec![dead(&claimed[3].event, 0, due)]),
    ];
    for _ in 0..2 {
        world.store().record(&lease, &batch).await.unwrap();
        assert_eq!(world.counts().await, [0, 1, 1, 1]);
        assert_eq!(world.summary(claimed[1].event.id).await.deliveries[0].attempts.len(), 1);
        assert_eq!(world.dead().await.len(), 1);
    }
    assert_eq!(world.due(&lease, due).await.len(), 1);
    assert_eq!(world.unpark(&lease, TENANT_QUEUE).await.len(), 1);
}

pub(crate) async fn progress_sent_twice_counts_once(mut world: World) {
    let lease = world.own().await;
    let due = world.now().after(HOUR);
    let claimed = world.claim_one(&lease).await;
    let with_run = DeliveryRecord { runs: vec![run(1)], ..scheduled(&claimed.event, 0, due, 1) };
    let batch = vec![progress(&claimed, vec![with_run, parked(&claimed.event, 1, TENANT_QUEUE)])];
    for _ in 0..2 {
        world.store().record(&lease, &batch).await.unwrap();
        assert_eq!(world.counts().await, [1, 1, 1, 0]);
        let rows = world.summary(claimed.event.id).await.deliveries;
        let row = rows.iter().find(|row| row.id == delivery_id(&claimed.event, 0)).unwrap();
        assert_eq!((rows.len(), row.attempts.len(), row.runs.len()), (2, 1, 1));
    }
}

pub(crate) async fn a_rescheduled_job_sent_twice_counts_once(mut world: World) {
    let lease = world.own().await;
    let (first, second) = (world.now().after(HOUR), world.now().after(2 * HOUR));
    let event = world.settle(&lease, |event| vec![scheduled(event, 0, first, 1)]).await;
    let taken = world.due(&lease, first).await;
    let batch = vec![finish_job(&taken[0], vec![scheduled(&event, 0, second, 2)])];
    for _ in 0..2 {
        world.store().record(&lease, &batch).await.unwrap();
        assert_eq!(world.counts().await, [0, 1, 0, 0]);
        assert_eq!(world.summary(event.id).await.deliveries[0].attempts.len(), 2);
    }
    assert_eq!(world.due(&lease, second).await, [job(&event, 0, 2)]);
    world.store().record(&lease, &batch).await.unwrap();
    assert!(world.due(&lease, second).await.is_empty(), "a late repeat does not put back what was taken since");
    assert_eq!(world.counts().await, [0, 1, 0, 0]);
}

pub(crate) async fn a_repeat_does_not_undo_what_came_after(mut world: World) {
    let lease = world.own().await;
    let due = world.now().after(HOUR);
    let claimed = world.claim_one(&lease).await;
    let event = &claimed.event;
    let early = vec![progress(&claimed, vec![scheduled(event, 0, due, 1)])];
    world.store().record(&lease, &early).await.unwrap();
    let taken = world.due(&lease, due).await;
    world.record(&lease, vec![finish_job(&taken[0], vec![delivered(event, 0)])]).await;
    world.store().record(&lease, &early).await.unwrap();
    assert_eq!(world.counts().await, [1, 0, 0, 0]);
    assert_eq!(world.states(event.id).await, [DeliveryState::Delivered]);
}

pub(crate) async fn work_moves_from_place_to_place(mut world: World) {
    let lease = world.own().await;
    let now = world.now();
    let event = world.settle(&lease, |event| vec![parked(event, 0, TENANT_QUEUE)]).await;
    assert_eq!(world.counts().await, [0, 0, 1, 0]);
    let taken = world.unpark(&lease, TENANT_QUEUE).await;
    world.record(&lease, vec![finish_job(&taken[0], vec![parked(&event, 0, DESTINATION_QUEUE)])]).await;
    assert_eq!(world.store().queues(&lease).await.unwrap(), [(DESTINATION_QUEUE, 1)]);
    let taken = world.unpark(&lease, DESTINATION_QUEUE).await;
    world.record(&lease, vec![finish_job(&taken[0], vec![scheduled(&event, 0, now, 1)])]).await;
    assert_eq!(world.counts().await, [0, 1, 0, 0]);
    let taken = world.due(&lease, now).await;
    world.record(&lease, vec![finish_job(&taken[0], vec![dead(&event, 0, now)])]).await;
    assert_eq!(world.counts().await, [0, 0, 0, 1]);
    assert_eq!(world.store().retry(HOME, &[taken[0].id], now).await.unwrap(), 1);
    assert_eq!(world.counts().await, [0, 1, 0, 0]);
    let taken = world.due(&lease, now).await;
    world.record(&lease, vec![finish_job(&taken[0], vec![delivered(&event, 0)])]).await;
    assert_eq!(world.counts().await, [0; 4]);
}

pub(crate) async fn work_put_elsewhere_leaves_its_old_place(mut world: World) {
    let lease = world.own().await;
    let (first, second) = (world.now().after(HOUR), world.now().after(2 * HOUR));
    let claimed = world.claim_one(&lease).await;
    let event = &claimed.event;
    world.record(&lease, vec![progress(&claimed, vec![scheduled(event, 0, first, 1)])]).await;
    world.record(&lease, vec![progress(&claimed, vec![parked(event, 0, TENANT_QUEUE)])]).await;
    assert_eq!(world.counts().await, [1, 0, 1, 0]);
    world.record(&lease, vec![finish(&claimed, vec![scheduled(event, 0, second, 2)])]).await;
    assert_eq!(world.counts().await, [0, 1, 0, 0]);
    assert!(world.store().queues(&lease).await.unwrap().is_empty());
    assert!(world.due(&lease, first).await.is_empty());
    assert_eq!(world.due(&lease, second).await, [job(event, 0, 2)]);
}

pub(crate) async fn what_is_not_in_hand_changes_nothing(mut world: World) {
    let lease = world.own().await;
    let due = world.now().after(HOUR);
    let event = world.settle(&lease, |event| vec![scheduled(event, 0, due, 1)]).await;
    let unclaimed = world.accept_one().await;
    let unknown = Origin::Entry(Ticket { lane: Lane::Normal, major: u64::MAX >> 2, minor: 0 });
    for (origin, event) in [
        (Origin::Job(delivery_id(&event, 0)), &event),
        (Origin::Job(DeliveryId(5)), &event),
        (unknown, &event),
        (unknown, &unclaimed),
    ] {
        let record = Record { origin, event: event.id, tenant: TENANT, finished: true, deliveries: vec![delivered(event, 0)] };
        world.record(&lease, vec![record]).await;
    }
    assert_eq!(world.counts().await, [1, 1, 0, 0]);
    assert_eq!(world.states(event.id).await, [DeliveryState::Scheduled { due }]);
    assert_eq!(world.states(unclaimed.id).await, []);
    assert_eq!(claimed_ids(&world.claim(&lease).await), [unclaimed.id]);
}

pub(crate) async fn a_bad_record_refuses_the_whole_batch(mut world: World) {
    let lease = world.own().await;
    let due = world.now().after(HOUR);
    world.accept(2).await;
    let claimed = world.claim(&lease).await;
    let event = &claimed[1].event;
    let without_queue = DeliveryState::Parked { reason: "tenant_window".into(), queue: None };
    for bad in [
        DeliveryRecord { job: None, ..scheduled(event, 0, due, 1) },
        DeliveryRecord { job: None, ..parked(event, 0, TENANT_QUEUE) },
        DeliveryRecord { job: None, ..dead(event, 0, due) },
        DeliveryRecord { state: without_queue.clone(), ..parked(event, 0, TENANT_QUEUE) },
    ] {
        let good = finish(&claimed[0], vec![delivered(&claimed[0].event, 0)]);
        let refused = world.store().record(&lease, &[good, finish(&claimed[1], vec![bad])]).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
        assert_eq!(world.counts().await, [2, 0, 0, 0]);
        assert_eq!(world.states(claimed[0].event.id).await, []);
    }
}

pub(crate) async fn one_batch_moves_many(mut world: World) {
    let lease = world.own().await;
    let now = world.now();
    world.accept(300).await;
    let claimed = world.claim(&lease).await;
    let batch = claimed.iter().enumerate().map(|(i, entry)| {
        let event = &entry.event;
        let outcome = match i % 4 {
            0 => vec![delivered(event, 0)],
            1 => vec![delivered(event, 0), scheduled(event, 1, now, 1)],
            2 => vec![parked(event, 0, TENANT_QUEUE)],
            _ => vec![dead(event, 0, now)],
        };
        finish(entry, outcome)
    });
    world.record(&lease, batch.collect()).await;
    assert_eq!(world.counts().await, [0, 75, 75, 75]);
    let taken = world.due(&lease, now).await;
    let batch = taken.iter().map(|job| {
        let done = DeliveryRecord { id: job.id, ..delivered(&claimed[0].event, 1) };
        finish_job(job, vec![done])
    });
    world.record(&lease, batch.collect()).await;
    assert_eq!(world.counts().await, [0, 0, 75, 75]);
}

pub(crate) async fn outcomes_of_one_entry_in_one_batch_add_up(mut world: World) {
    let lease = world.own().await;
    let due = world.now().after(HOUR);
    let claimed = world.claim_one(&lease).await;
    let event = &claimed.event;
    let batch = vec![
        progress(&claimed, vec![delivered(event, 0)]),
        progress(&claimed, vec![scheduled(event, 1, due, 1)]),
        finish(&claimed, vec![parked(event, 2, TENANT_QUEUE)]),
        finish(&claimed, vec![parked(event, 2, TENANT_QUEUE)]),
    ];
    world.record(&lease, batch).await;
    assert_eq!(world.counts().await, [0, 1, 1, 0]);
    let summary = world.summary(event.id).await;
    assert_eq!((summary.deliveries.len(), summary.finished), (3, true));
}
