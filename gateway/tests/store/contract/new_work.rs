use std::time::Duration;

use tidegate::clock::Timestamp;
use tidegate::event::{ConnectionId, DeliveryId, Event, EventId, JobId};
use tidegate::store::{DeliveryRecord, DeliveryState, Home, Job, Lease, Retention, Work};

use crate::world::*;

/// The work of a replay of this event.
fn replay(event: &Event, now: Timestamp) -> Job {
    let id = DeliveryId::replay(JobId(1), event.id, ConnectionId(2));
    let work = Work::Plan { event: Box::new(event.clone()), connection: Some(ConnectionId(2)) };
    Job { id, attempts: 0, spent: 0, since: now, work, line: None, claims: 0 }
}

pub(crate) async fn new_work_of_a_finished_event_goes_on_the_schedule(mut world: World) {
    let lease = world.own().await;
    let event = world.settle(&lease, |event| vec![delivered(event, 0)]).await;
    let (now, queued) = (world.now(), world.queued().await);
    let job = replay(&event, now);
    assert_eq!(world.store().add(HOME, std::slice::from_ref(&job), now).await.unwrap(), 1);
    assert_eq!(world.counts().await, [0, 1, 0, 0]);
    assert_eq!(world.queued().await, queued + job.size() as u64);
    let mut states = world.summary(event.id).await.deliveries;
    states.sort_by_key(|row| row.connection);
    assert_eq!(states.len(), 2);
    assert_eq!((states[0].id, &states[0].state), (delivery_id(&event, 0), &DeliveryState::Delivered));
    assert_eq!((states[1].id, &states[1].state), (job.id, &DeliveryState::Scheduled { due: now }));
    assert_eq!(states[1].connection, Some(ConnectionId(2)));

    let due = world.due(&lease, now).await;
    assert_eq!(due, std::slice::from_ref(&job));
    let row = DeliveryRecord { state: DeliveryState::Delivered, ..states[1].clone() };
    world.record(&lease, vec![finish_job(&due[0], vec![row])]).await;
    assert_eq!(world.counts().await, [0, 0, 0, 0]);
    assert_eq!(world.queued().await, queued);
    assert!(world.summary(event.id).await.deliveries.iter().all(|row| row.state == DeliveryState::Delivered));
}

pub(crate) async fn new_work_that_is_known_is_left_alone(mut world: World) {
    let lease = world.own().await;
    let events = [world.settle(&lease, |event| vec![delivered(event, 0)]).await, world.settle(&lease, |_| vec![]).await];
    let now = world.now();
    let jobs: Vec<Job> = events.iter().map(|event| replay(event, now)).collect();
    let store = world.store();
    assert_eq!(store.add(HOME, &jobs[..1], now).await.unwrap(), 1);
    // On the schedule, in somebody's hands, parked, dead, done.
    assert_eq!(store.add(HOME, &jobs, now).await.unwrap(), 1, "what is new of a batch is put");
    assert_eq!(store.add(HOME, &jobs, now).await.unwrap(), 0);
    let due = world.due(&lease, now).await;
    assert_eq!(due.len(), 2);
    assert_eq!(store.add(HOME, &jobs, now).await.unwrap(), 0);
    for job in &due {
        let event = events.iter().find(|event| event.id == job.event()).unwrap();
        let row = |state| DeliveryRecord {
            id: job.id,
            connection: Some(ConnectionId(2)),
            job: Some(Box::new(job.clone())),
            ..outcome(event, 0, state)
        };
        let record = if event.id == events[0].id {
            finish_job(job, vec![DeliveryRecord { job: None, ..row(DeliveryState::Delivered) }])
        } else {
            finish_job(job, vec![row(DeliveryState::DeadLettered { reason: failure() })])
        };
        world.record(&lease, vec![record]).await;
    }
    drop(store);
    world.fixture.restart().await;
    assert_eq!(world.store().add(HOME, &jobs, now).await.unwrap(), 0);
    assert_eq!(world.counts().await, [0, 0, 0, 1]);
}

pub(crate) async fn new_work_needs_an_event_of_this_tenant_and_shard(mut world: World) {
    let lease = world.own().await;
    let event = world.settle(&lease, |event| vec![delivered(event, 0)]).await;
    let now = world.now();
    let job = replay(&event, now);
    for home in [Home { shard: OTHER_SHARD, ..HOME }, Home { tenant: OTHER_TENANT, ..HOME }] {
        assert_eq!(world.store().add(home, std::slice::from_ref(&job), now).await.unwrap(), 0, "{home:?}");
    }
    let queued = world.accept_one().await;
    assert_eq!(world.store().add(HOME, &[replay(&queued, now)], now).await.unwrap(), 0);
    let claimed = world.claim(&lease).await;
    world.record(&lease, vec![finish(&claimed[0], vec![])]).await;
    let mut unknown = event.clone();
    unknown.id = EventId(event.id.0 + 1);
    assert_eq!(world.store().add(HOME, &[replay(&unknown, now)], now).await.unwrap(), 0);
    assert_eq!(world.counts().await, [0, 0, 0, 0]);
}

pub(crate) async fn an_event_with_new_work_outlives_retention_until_it_is_done(mut world: World) {
    let lease = world.own().await;
    let event = world.settle(&lease, |event| vec![delivered(event, 0)]).await;
    let now = world.now();
    world.store().add(HOME, &[replay(&event, now)], now).await.unwrap();
    let none = Duration::ZERO;
    let retention = Retention { age: none, bytes: 0, dead_letter_age: none };
    let later = now.after(Duration::from_secs(60));
    let trim = async |lease: &Lease| {
        let mut gone = 0;
        loop {
            let trimmed = world.store().trim(lease, retention, later).await.unwrap();
            gone += trimmed.events;
            if !trimmed.more {
                return gone;
            }
        }
    };
    assert_eq!(trim(&lease).await, 0);
    let due = world.due(&lease, now).await;
    let row = DeliveryRecord { id: due[0].id, connection: Some(ConnectionId(2)), ..delivered(&event, 0) };
    world.record(&lease, vec![finish_job(&due[0], vec![row])]).await;
    assert_eq!(trim(&lease).await, 1);
    assert!(world.store().event(HOME, event.id).await.unwrap().is_none());
}
