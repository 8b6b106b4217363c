use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate::clock::Timestamp;
use tidegate::event::{DeliveryId, Event, Lane};
use tidegate::store::{Budget, DeliveryRecord, DeliveryState, Job, Lease, Store, Work};
use tokio::task::JoinSet;

use crate::world::*;

/// Events that go the whole way while everything goes on at once.
const EVENTS: usize = 400;

const FEW: Budget = Budget::new(7, 1 << 20);

/// Claims until all are claimed, and finishes each with what `outcome` says, several batches at once.
async fn claim_all(store: Arc<dyn Store>, lease: Lease, outcome: fn(&Event, usize) -> DeliveryRecord) {
    let mut recording = Vec::new();
    let mut count = 0;
    let signal = store.signal(SHARD);
    while count < EVENTS {
        let claimed = store.claim(&lease, Lane::Normal, FEW).await.unwrap();
        if claimed.is_empty() {
            // A signal may be somebody else's, and a missed one is made up for by the poll.
            let _ = tokio::time::timeout(Duration::from_millis(20), signal.notified()).await;
            continue;
        }
        let records: Vec<_> =
            claimed.iter().enumerate().map(|(i, entry)| finish(entry, vec![outcome(&entry.event, count + i)])).collect();
        count += claimed.len();
        let (store, lease) = (store.clone(), lease.clone());
        recording.push(tokio::spawn(async move { store.record(&lease, &records).await.unwrap() }));
    }
    for record in recording {
        record.await.unwrap();
    }
}

/// Takes jobs until all came to their end: each is put back the first time that it is handed out, and delivered the second.
async fn work_off(store: Arc<dyn Store>, lease: Lease, take: impl AsyncFn() -> Vec<Job>, again: fn(&Job) -> DeliveryState) {
    let mut times: HashMap<DeliveryId, u32> = HashMap::new();
    let mut recording = JoinSet::new();
    let mut finished = 0;
    while finished < EVENTS {
        let jobs = take().await;
        if jobs.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        let mut records = Vec::new();
        for job in &jobs {
            let times = times.entry(job.id).or_default();
            *times += 1;
            let state = match *times {
                1 => again(job),
                2 => DeliveryState::Delivered,
                _ => panic!("{} is handed out a third time", job.id),
            };
            finished += usize::from(state == DeliveryState::Delivered);
            records.push(finish_job(job, vec![settled(job, state)]));
        }
        let (store, lease) = (store.clone(), lease.clone());
        recording.spawn(async move { store.record(&lease, &records).await.unwrap() });
    }
    while let Some(recorded) = recording.join_next().await {
        recorded.unwrap();
    }
}

fn settled(job: &Job, state: DeliveryState) -> DeliveryRecord {
    let Work::Attempt(delivery) = &job.work else { panic!("these are all attempts") };
    DeliveryRecord {
        id: job.id,
        connection: Some(delivery.connection),
        destination: Some(delivery.destination),
        output: delivery.output,
        at: delivery.accepted_at,
        job: Some(Box::new(job.clone())),
        state,
        attempts: Vec::new(),
        runs: Vec::new(),
    }
}

/// Accepts, claims, schedules and takes, all at once.
async fn run(mut world: World, first: fn(&Event, usize) -> DeliveryRecord, again: fn(&Job) -> DeliveryState) {
    let lease = world.own().await;
    let store = world.store();
    let batches: Vec<Vec<_>> = (0..EVENTS / 8).map(|_| (0..8).map(|_| world.event()).collect()).collect();
    let accepting = tokio::spawn({
        let store = store.clone();
        async move {
            for batch in batches {
                store.accept(batch.iter().map(acceptance).collect()).await.unwrap();
            }
        }
    });
    let claiming = tokio::spawn(claim_all(store.clone(), lease.clone(), first));
    let far = world.now().after(Duration::from_secs(1 << 20));
    let take = async || {
        let mut jobs = store.due(&lease, far, FEW).await.unwrap();
        for (queue, _) in store.queues(&lease).await.unwrap() {
            jobs.extend(store.unpark(&lease, queue, FEW).await.unwrap().jobs);
        }
        jobs
    };
    let working = work_off(store.clone(), lease.clone(), take, again);
    tokio::time::timeout(Duration::from_secs(60), working).await.expect("all comes to its end within a minute");
    accepting.await.unwrap();
    claiming.await.unwrap();
    assert_eq!(world.counts().await, [0; 4]);
    assert!(world.store().queues(&lease).await.unwrap().is_empty());
}

fn due_of(number: usize) -> Timestamp {
    // Neither in order nor all apart.
    Timestamp(1_000_000 + (number as u64 * 7919) % 97)
}

pub(crate) async fn each_scheduled_job_is_handed_out_once_at_a_time(world: World) {
    let first = |event: &Event, number: usize| scheduled(event, 0, due_of(number), 0);
    run(world, first, |job| DeliveryState::Scheduled { due: due_of(job.id.0 as usize % 1000) }).await;
}

pub(crate) async fn each_parked_job_is_handed_out_once_at_a_time(world: World) {
    let first =
        |event: &Event, number: usize| parked(event, 0, if number.is_multiple_of(3) { TENANT_QUEUE } else { DESTINATION_QUEUE });
    let again = |_: &Job| DeliveryState::Parked { reason: "destination_window".into(), queue: Some(DESTINATION_QUEUE) };
    run(world, first, again).await;
}

pub(crate) async fn jobs_that_change_places_are_handed_out_once_at_a_time(world: World) {
    let first = |event: &Event, number: usize| match number % 2 {
        0 => parked(event, 0, TENANT_QUEUE),
        _ => scheduled(event, 0, due_of(number), 0),
    };
    let again = |job: &Job| match job.id.0 % 2 {
        0 => DeliveryState::Parked { reason: "destination_window".into(), queue: Some(DESTINATION_QUEUE) },
        _ => DeliveryState::Scheduled { due: due_of(job.id.0 as usize % 1000) },
    };
    run(world, first, again).await;
}
