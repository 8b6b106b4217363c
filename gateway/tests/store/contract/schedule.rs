use std::time::Duration;

use bytes::Bytes;
use tidegate::store::{Budget, Job, Lease};

use crate::world::*;

const SECOND: Duration = Duration::from_secs(1);

/// One job due after each of these seconds, in this order of scheduling.
async fn schedule(world: &mut World, lease: &Lease, seconds: &[u32]) -> Vec<Job> {
    let start = world.now();
    let mut jobs = Vec::new();
    for seconds in seconds {
        let due = start.after(SECOND * *seconds);
        let event = world.settle(lease, |event| vec![scheduled(event, 0, due, 1)]).await;
        jobs.push(job(&event, 0, 1));
    }
    jobs
}

pub(crate) async fn jobs_come_when_they_are_due_earliest_first(mut world: World) {
    let lease = world.own().await;
    let start = world.now();
    let jobs = schedule(&mut world, &lease, &[30, 10, 20]).await;
    assert!(world.due(&lease, start.after(SECOND * 10).before(Duration::from_millis(1))).await.is_empty());
    assert_eq!(world.due(&lease, start.after(SECOND * 10)).await, [jobs[1].clone()]);
    assert_eq!(world.due(&lease, start.after(SECOND * 40)).await, [jobs[2].clone(), jobs[0].clone()]);
}

pub(crate) async fn a_taken_job_is_not_handed_out_again(mut world: World) {
    let lease = world.own().await;
    let start = world.now();
    schedule(&mut world, &lease, &[1, 2]).await;
    assert_eq!(world.due(&lease, start.after(SECOND * 5)).await.len(), 2);
    assert!(world.due(&lease, start.after(SECOND * 5)).await.is_empty());
    assert_eq!(world.counts().await, [0, 2, 0, 0], "taken counts where it was taken from");
}

pub(crate) async fn next_due_is_the_earliest_that_is_not_taken(mut world: World) {
    let lease = world.own().await;
    let start = world.now();
    assert_eq!(world.store().next_due(&lease).await.unwrap(), None);
    schedule(&mut world, &lease, &[30, 10]).await;
    assert_eq!(world.store().next_due(&lease).await.unwrap(), Some(start.after(SECOND * 10)));
    world.due(&lease, start.after(SECOND * 10)).await;
    assert_eq!(world.store().next_due(&lease).await.unwrap(), Some(start.after(SECOND * 30)));
    world.due(&lease, start.after(SECOND * 30)).await;
    assert_eq!(world.store().next_due(&lease).await.unwrap(), None);
}

pub(crate) async fn a_new_owner_finds_what_was_taken(mut world: World) {
    let lease = world.own().await;
    let start = world.now();
    let jobs = schedule(&mut world, &lease, &[2, 1, 3]).await;
    let taken = world.due(&lease, start.after(SECOND * 5)).await;
    world.record(&lease, vec![finish_job(&taken[1], vec![])]).await;
    let lease = world.take_over("b").await;
    assert_eq!(world.store().next_due(&lease).await.unwrap(), Some(start.after(SECOND)));
    let again = world.due(&lease, start.after(SECOND * 5)).await;
    assert_eq!(again, [jobs[1].clone(), jobs[2].clone()]);
}

pub(crate) async fn a_failed_job_is_scheduled_again(mut world: World) {
    let lease = world.own().await;
    let start = world.now();
    let event = world.settle(&lease, |event| vec![scheduled(event, 0, start.after(SECOND), 1)]).await;
    let taken = world.due(&lease, start.after(SECOND)).await;
    let due = start.after(SECOND * 60);
    world.record(&lease, vec![finish_job(&taken[0], vec![scheduled(&event, 0, due, 2)])]).await;
    assert!(world.due(&lease, start.after(SECOND * 59)).await.is_empty());
    assert_eq!(world.counts().await, [0, 1, 0, 0]);
    let taken = world.due(&lease, due).await;
    assert_eq!(taken, [job(&event, 0, 2)]);
    world.record(&lease, vec![finish_job(&taken[0], vec![delivered(&event, 0)])]).await;
    assert!(world.due(&lease, start.after(SECOND * 6000)).await.is_empty());
    assert_eq!(world.counts().await, [0; 4]);
}

pub(crate) async fn keeps_to_the_budget(mut world: World) {
    let lease = world.own().await;
    let start = world.now();
    for i in 0..6 {
        let event = world.event_of(TENANT, Bytes::from(vec![1; 10_000]));
        world.accept_all(std::slice::from_ref(&event)).await;
        let claimed = world.claim(&lease).await;
        world.record(&lease, vec![finish(&claimed[0], vec![scheduled(&event, 0, start.after(SECOND * i), 1)])]).await;
    }
    let mut taken = Vec::new();
    for (budget, expected) in
        [(Budget { count: 1, ..ALL }, 1), (Budget { bytes: 25_000, ..ALL }, 2), (Budget { bytes: 1, ..ALL }, 1), (ALL, 2)]
    {
        let jobs = world.store().due(&lease, start.after(SECOND * 60), budget).await.unwrap();
        assert_eq!(jobs.len(), expected);
        taken.extend(job_events(&jobs));
    }
    assert!(taken.is_sorted(), "ids grow with the due time here");
    assert_eq!(taken.len(), 6);
}

pub(crate) async fn jobs_come_back_byte_exact(mut world: World) {
    let lease = world.own().await;
    let start = world.now();
    let event = world.event_of(TENANT, (0..1 << 20).map(|i: u32| (i % 251) as u8).collect());
    world.accept_all(std::slice::from_ref(&event)).await;
    let claimed = world.claim(&lease).await;
    world.record(&lease, vec![finish(&claimed[0], vec![scheduled(&event, 0, start, 1)])]).await;
    assert!(world.due(&lease, start).await == [job(&event, 0, 1)]);
}

pub(crate) async fn hand_outs_are_counted_until_one_is_recorded(mut world: World) {
    let mut lease = world.own().await;
    let due = world.now();
    let event = world.settle(&lease, |event| vec![scheduled(event, 0, due, 1)]).await;
    for (count, node) in [(1, "b"), (2, "c")] {
        assert_eq!(counts_of(&world.store().due(&lease, due, ALL).await.unwrap()), [(event.id, count)]);
        lease = world.take_over(node).await;
    }
    world.fixture.crash().await;
    lease = world.take_over("c").await;
    let taken = world.store().due(&lease, due, ALL).await.unwrap();
    assert_eq!(counts_of(&taken), [(event.id, 3)]);
    world.record(&lease, vec![finish_job(&taken[0], vec![scheduled(&event, 0, due, 2)])]).await;
    assert_eq!(counts_of(&world.store().due(&lease, due, ALL).await.unwrap()), [(event.id, 1)], "it was recorded");
}

pub(crate) async fn a_suspect_is_handed_out_by_itself(mut world: World) {
    let mut lease = world.own().await;
    let start = world.now();
    let mut events = Vec::new();
    for seconds in [2, 3] {
        events.push(world.settle(&lease, |event| vec![scheduled(event, 0, start.after(SECOND * seconds), 1)]).await);
    }
    let now = start.after(SECOND * 5);
    for node in ["b", "c"] {
        assert_eq!(world.due(&lease, now).await.len(), 2);
        lease = world.take_over(node).await;
    }
    let first = world.settle(&lease, |event| vec![scheduled(event, 0, start.after(SECOND), 1)]).await;
    for expected in [(first.id, 1), (events[0].id, 3)] {
        assert_eq!(counts_of(&world.store().due(&lease, now, ALL).await.unwrap()), [expected]);
    }
    lease = world.take_over("b").await;
    for expected in [(first.id, 2), (events[0].id, 4), (events[1].id, 3)] {
        let found = counts_of(&world.store().due(&lease, now, ALL).await.unwrap());
        assert_eq!(found, [expected], "what was behind it was not counted");
    }
}

pub(crate) async fn a_suspect_is_left_and_not_counted_until_somebody_takes_it(mut world: World) {
    let mut lease = world.own().await;
    let start = world.now();
    let event = world.settle(&lease, |event| vec![scheduled(event, 0, start.after(SECOND * 2), 1)]).await;
    let now = start.after(SECOND * 5);
    for node in ["b", "c"] {
        assert_eq!(world.store().due(&lease, now, NO_SUSPECTS).await.unwrap().len(), 1);
        lease = world.take_over(node).await;
    }
    let first = world.settle(&lease, |event| vec![scheduled(event, 0, start.after(SECOND), 1)]).await;
    assert_eq!(counts_of(&world.store().due(&lease, now, NO_SUSPECTS).await.unwrap()), [(first.id, 1)], "it came before it");
    for node in ["b", "c"] {
        assert!(is_suspect(world.store().due(&lease, now, NO_SUSPECTS).await));
        assert_eq!(world.store().next_due(&lease).await.unwrap(), Some(start.after(SECOND * 2)));
        lease = world.take_over(node).await;
        assert_eq!(world.due(&lease, start.after(SECOND)).await.len(), 1);
    }
    assert_eq!(counts_of(&world.store().due(&lease, now, ALL).await.unwrap()), [(event.id, 3)]);
}
