//! Group commit.

use std::sync::Arc;

use bytes::Bytes;
use tidegate::event::{Event, EventId, Lane, Request, Revision, Shard, SourceId, TenantId};
use tidegate::ingest::accept::{AcceptError, Acceptor, Limits};
use tidegate::ingest::verify::Verifier;
use tidegate::store::{Acceptance, Accepted, StoreError};
use tidegate::telemetry::metrics::Metrics;

use crate::stub::{Mode, Stub};
use crate::world::DEADLINE;

fn acceptance(id: u128, size: usize) -> Acceptance {
    let request = Request { body: Bytes::from(vec![0; size]), ..Request::default() };
    let event = Event {
        id: EventId(id),
        tenant: TenantId(1),
        source: SourceId(1),
        revision: Revision(1),
        accepted_at: tidegate::clock::Timestamp(0),
        request,
        pins: Vec::new(),
        trace: None,
    };
    let event = Verifier::none().verify(event, tidegate::clock::Timestamp(0)).unwrap();
    Acceptance { event, shard: Shard(0), lane: Lane::Normal, dedup: None }
}

fn acceptor(store: &Arc<Stub>, limits: Limits) -> Acceptor {
    Acceptor::new(store.clone(), limits, Arc::default(), Metrics::default())
}

#[tokio::test]
async fn what_arrives_during_a_write_is_the_next_batch() {
    let store = Stub::new(Mode::Hold);
    let acceptor = acceptor(&store, Limits::default());
    let spawn = |id| {
        let acceptor = acceptor.clone();
        tokio::spawn(async move { acceptor.accept(acceptance(id, 10)).await })
    };
    let first = spawn(1);
    store.asked(1).await;
    let rest: Vec<_> = (2..=50).map(spawn).collect();
    tokio::task::yield_now().await;
    store.set(Mode::Keep);
    assert!(matches!(first.await.unwrap(), Ok((EventId(1), Accepted::New { .. }))));
    for (at, task) in rest.into_iter().enumerate() {
        let (id, accepted) = task.await.unwrap().expect("kept");
        assert_eq!(id, EventId(at as u128 + 2));
        assert!(matches!(accepted, Accepted::New { .. }));
    }
    assert_eq!(store.batches(), [1, 49]);
}

#[tokio::test]
async fn a_batch_is_bounded_by_count_and_bytes_and_keeps_order() {
    let store = Stub::new(Mode::Hold);
    let limits = Limits { batch_count: 4, batch_bytes: 100, ..Limits::default() };
    let acceptor = acceptor(&store, limits);
    let sizes = [10, 30, 30, 50, 500, 10, 1, 1, 1, 1, 1];
    let tasks: Vec<_> = sizes
        .iter()
        .enumerate()
        .map(|(id, size)| {
            let (acceptor, acceptance) = (acceptor.clone(), acceptance(id as u128, *size));
            tokio::spawn(async move { acceptor.accept(acceptance).await })
        })
        .collect();
    store.asked(1).await;
    tokio::task::yield_now().await;
    store.set(Mode::Keep);
    for task in tasks {
        task.await.unwrap().expect("kept");
    }
    let ids: Vec<u128> = store.events().iter().map(|event| event.id.0).collect();
    assert_eq!(ids, (0..sizes.len() as u128).collect::<Vec<_>>());
    let batches = store.batches();
    assert!(batches.iter().all(|count| *count <= 4), "{batches:?}");
    let mut at = 0;
    for count in batches {
        let bytes: usize = sizes[at..at + count].iter().sum();
        assert!(bytes <= 100 || count == 1, "{bytes} bytes in one write of {count}");
        at += count;
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_changes_nothing() {
    let store = Stub::new(Mode::Hold);
    let acceptor = acceptor(&store, Limits::default());
    let caller = {
        let acceptor = acceptor.clone();
        tokio::spawn(async move { acceptor.accept(acceptance(9, 10)).await })
    };
    store.asked(1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    store.set(Mode::Keep);
    tokio::time::timeout(DEADLINE, acceptor.stop()).await.expect("stops");
    assert_eq!(store.events()[0].id, EventId(9));
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_has_room_again_after_the_write() {
    for limits in [Limits { queue_count: 2, batch_count: 1, ..Limits::default() }, Limits { queue_bytes: 30, ..Limits::default() }]
    {
        let store = Stub::new(Mode::Hold);
        let acceptor = acceptor(&store, limits);
        let mut waiting = Vec::new();
        for id in 0..3 {
            let acceptor = acceptor.clone();
            waiting.push(tokio::spawn(async move { acceptor.accept(acceptance(id, 10)).await }));
            // The first is in the write, the others wait.
            store.asked(1).await;
            tokio::task::yield_now().await;
        }
        assert!(matches!(acceptor.accept(acceptance(4, 10)).await, Err(AcceptError::QueueFull)));
        store.set(Mode::Keep);
        for task in waiting {
            task.await.unwrap().expect("kept");
        }
        acceptor.accept(acceptance(5, 10)).await.expect("there is room again");
        assert_eq!(store.events().len(), 4);
    }
}

#[tokio::test]
async fn an_event_larger_than_the_queue_is_refused() {
    let store = Stub::new(Mode::Keep);
    let acceptor = acceptor(&store, Limits { queue_bytes: 100, ..Limits::default() });
    assert!(matches!(acceptor.accept(acceptance(1, 101)).await, Err(AcceptError::QueueFull)));
}

#[tokio::test]
async fn a_failure_or_a_panic_costs_its_batch_alone() {
    let store = Stub::new(Mode::Fail(StoreError::Unavailable("down".into())));
    let acceptor = acceptor(&store, Limits::default());
    assert!(matches!(acceptor.accept(acceptance(1, 1)).await, Err(AcceptError::Store(StoreError::Unavailable(_)))));
    store.set(Mode::Panic);
    assert!(matches!(acceptor.accept(acceptance(2, 1)).await, Err(AcceptError::Store(StoreError::Unavailable(_)))));
    store.set(Mode::Keep);
    acceptor.accept(acceptance(3, 1)).await.expect("kept");
}

#[tokio::test]
async fn stop_writes_what_is_queued_and_takes_nothing_more() {
    let store = Stub::new(Mode::Hold);
    let acceptor = acceptor(&store, Limits { writers: 2, batch_count: 1, ..Limits::default() });
    let tasks: Vec<_> = (0..5)
        .map(|id| {
            let acceptor = acceptor.clone();
            tokio::spawn(async move { acceptor.accept(acceptance(id, 1)).await })
        })
        .collect();
    store.asked(2).await;
    let stopping = {
        let acceptor = acceptor.clone();
        tokio::spawn(async move { acceptor.stop().await })
    };
    tokio::task::yield_now().await;
    store.set(Mode::Keep);
    tokio::time::timeout(DEADLINE, stopping).await.expect("stops").unwrap();
    for task in tasks {
        task.await.unwrap().expect("kept");
    }
    assert_eq!(store.events().len(), 5);
    assert!(matches!(acceptor.accept(acceptance(9, 1)).await, Err(AcceptError::Stopping)));
}
