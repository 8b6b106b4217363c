use bytes::Bytes;
use tidegate::event::{DestinationId, Event};
use tidegate::store::{Budget, Lease, PutBack, QueueKey};

use crate::world::*;

async fn park(world: &mut World, lease: &Lease, queue: QueueKey, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..count {
        events.push(world.settle(lease, |event| vec![parked(event, 0, queue)]).await);
    }
    events
}

pub(crate) async fn jobs_come_in_order_of_parking(mut world: World) {
    let lease = world.own().await;
    let events = park(&mut world, &lease, DESTINATION_QUEUE, 5).await;
    let jobs = world.unpark(&lease, DESTINATION_QUEUE).await;
    assert_eq!(jobs, events.iter().map(|event| job(event, 0, 0)).collect::<Vec<_>>());
}

pub(crate) async fn queues_are_apart_and_counted(mut world: World) {
    let lease = world.own().await;
    assert!(world.store().queues(&lease).await.unwrap().is_empty());
    let other = QueueKey::Destination(TENANT, DestinationId(0xe));
    for (queue, count) in [(DESTINATION_QUEUE, 3), (other, 1), (TENANT_QUEUE, 2)] {
        park(&mut world, &lease, queue, count).await;
    }
    let mut queues = world.store().queues(&lease).await.unwrap();
    queues.sort();
    assert_eq!(queues, [(TENANT_QUEUE, 2), (DESTINATION_QUEUE, 3), (other, 1)]);
    assert_eq!(world.counts().await, [0, 0, 6, 0]);
    world.store().unpark(&lease, DESTINATION_QUEUE, Budget { count: 2, ..ALL }).await.unwrap();
    assert_eq!(world.unpark(&lease, other).await.len(), 1);
    let mut queues = world.store().queues(&lease).await.unwrap();
    queues.sort();
    assert_eq!(queues, [(TENANT_QUEUE, 2), (DESTINATION_QUEUE, 1)], "what is taken does not wait");
    assert_eq!(world.counts().await, [0, 0, 6, 0], "taken counts where it was taken from");
}

pub(crate) async fn a_taken_job_is_not_handed_out_again(mut world: World) {
    let lease = world.own().await;
    let events = park(&mut world, &lease, TENANT_QUEUE, 3).await;
    let two = world.store().unpark(&lease, TENANT_QUEUE, Budget { count: 2, ..ALL }).await.unwrap().jobs;
    assert_eq!(job_events(&two), ids(&events[..2]));
    assert_eq!(job_events(&world.unpark(&lease, TENANT_QUEUE).await), ids(&events[2..]));
    assert!(world.unpark(&lease, TENANT_QUEUE).await.is_empty());
}

pub(crate) async fn a_new_owner_finds_taken_jobs_at_their_old_place(mut world: World) {
    let lease = world.own().await;
    let events = park(&mut world, &lease, TENANT_QUEUE, 4).await;
    let taken = world.store().unpark(&lease, TENANT_QUEUE, Budget { count: 3, ..ALL }).await.unwrap().jobs;
    world.record(&lease, vec![finish_job(&taken[1], vec![delivered(&events[1], 0)])]).await;
    let lease = world.take_over("b").await;
    let later = park(&mut world, &lease, TENANT_QUEUE, 1).await;
    let again = world.unpark(&lease, TENANT_QUEUE).await;
    assert_eq!(job_events(&again), [events[0].id, events[2].id, events[3].id, later[0].id]);
}

pub(crate) async fn what_is_parked_again_goes_behind(mut world: World) {
    let lease = world.own().await;
    let events = park(&mut world, &lease, TENANT_QUEUE, 3).await;
    let one = world.store().unpark(&lease, TENANT_QUEUE, Budget { count: 1, ..ALL }).await.unwrap().jobs;
    world.record(&lease, vec![finish_job(&one[0], vec![parked(&events[0], 0, TENANT_QUEUE)])]).await;
    assert_eq!(world.counts().await, [0, 0, 3, 0]);
    let rest = world.unpark(&lease, TENANT_QUEUE).await;
    assert_eq!(job_events(&rest), [events[1].id, events[2].id, events[0].id]);
}

pub(crate) async fn keeps_to_the_budget(mut world: World) {
    let lease = world.own().await;
    let mut events = Vec::new();
    for _ in 0..5 {
        let event = world.event_of(TENANT, Bytes::from(vec![1; 10_000]));
        world.accept_all(std::slice::from_ref(&event)).await;
        let claimed = world.claim(&lease).await;
        world.record(&lease, vec![finish(&claimed[0], vec![parked(&event, 0, TENANT_QUEUE)])]).await;
        events.push(event);
    }
    let mut taken = Vec::new();
    for (budget, expected) in [(Budget { bytes: 25_000, ..ALL }, 2), (Budget { bytes: 1, ..ALL }, 1), (ALL, 2)] {
        let jobs = world.store().unpark(&lease, TENANT_QUEUE, budget).await.unwrap().jobs;
        assert_eq!(jobs.len(), expected);
        taken.extend(job_events(&jobs));
    }
    assert_eq!(taken, ids(&events));
}

pub(crate) async fn a_plan_is_parked_with_its_event(mut world: World) {
    let lease = world.own().await;
    let event = world.settle(&lease, |event| vec![parked_plan(event, TENANT_QUEUE)]).await;
    assert_eq!(world.states(event.id).await, [shown_parked("tenant_window")]);
    let lease = world.take_over("b").await;
    assert_eq!(world.unpark(&lease, TENANT_QUEUE).await, [plan(&event)]);
}

pub(crate) async fn hand_outs_are_counted_until_one_is_recorded(mut world: World) {
    let mut lease = world.own().await;
    let event = park(&mut world, &lease, TENANT_QUEUE, 1).await.remove(0);
    for (count, node) in [(1, "b"), (2, "c")] {
        assert_eq!(counts_of(&world.store().unpark(&lease, TENANT_QUEUE, ALL).await.unwrap().jobs), [(event.id, count)]);
        lease = world.take_over(node).await;
    }
    world.fixture.crash().await;
    lease = world.take_over("c").await;
    let taken = world.store().unpark(&lease, TENANT_QUEUE, ALL).await.unwrap().jobs;
    assert_eq!(counts_of(&taken), [(event.id, 3)]);
    world.record(&lease, vec![finish_job(&taken[0], vec![parked(&event, 0, TENANT_QUEUE)])]).await;
    let taken = world.store().unpark(&lease, TENANT_QUEUE, ALL).await.unwrap().jobs;
    assert_eq!(counts_of(&taken), [(event.id, 1)], "it was recorded");
}

pub(crate) async fn a_suspect_is_handed_out_by_itself(mut world: World) {
    let mut lease = world.own().await;
    let events = park(&mut world, &lease, TENANT_QUEUE, 2).await;
    for node in ["b", "c"] {
        assert_eq!(world.unpark(&lease, TENANT_QUEUE).await.len(), 2);
        lease = world.take_over(node).await;
    }
    let later = park(&mut world, &lease, TENANT_QUEUE, 1).await.remove(0);
    for expected in [(events[0].id, 3), (events[1].id, 3), (later.id, 1)] {
        assert_eq!(counts_of(&world.store().unpark(&lease, TENANT_QUEUE, ALL).await.unwrap().jobs), [expected]);
    }
}

/// What is taken to be looked at and not to run: its queue is not counted down, nothing overtakes it, and it is not counted.
pub(crate) async fn what_is_put_back_stands_where_it_stood(mut world: World) {
    let mut lease = world.own().await;
    let events = park(&mut world, &lease, TENANT_QUEUE, 3).await;
    let one = Budget { count: 1, ..ALL };
    for node in ["b", "c", "a"] {
        let front = world.store().unpark(&lease, TENANT_QUEUE, one).await.unwrap().jobs;
        assert_eq!(counts_of(&front), [(events[0].id, 1)]);
        for _ in 0..2 {
            world.store().put_back(&lease, &[PutBack::parked(front[0].id)]).await.unwrap();
        }
        assert_eq!(world.store().queues(&lease).await.unwrap(), [(TENANT_QUEUE, 3)]);
        lease = world.take_over(node).await;
    }
    let all = world.store().unpark(&lease, TENANT_QUEUE, ALL).await.unwrap().jobs;
    assert_eq!(counts_of(&all), [(events[0].id, 1), (events[1].id, 1), (events[2].id, 1)]);
    assert_eq!(world.counts().await, [0, 0, 3, 0]);
}

pub(crate) async fn a_suspect_is_left_and_not_counted_until_somebody_takes_it(mut world: World) {
    let mut lease = world.own().await;
    let event = park(&mut world, &lease, TENANT_QUEUE, 1).await.remove(0);
    for node in ["b", "c"] {
        assert_eq!(world.store().unpark(&lease, TENANT_QUEUE, NO_SUSPECTS).await.unwrap().jobs.len(), 1);
        lease = world.take_over(node).await;
    }
    for node in ["b", "c"] {
        assert!(is_suspect(world.store().unpark(&lease, TENANT_QUEUE, NO_SUSPECTS).await));
        assert_eq!(world.store().queues(&lease).await.unwrap(), [(TENANT_QUEUE, 1)]);
        lease = world.take_over(node).await;
    }
    let taken = world.store().unpark(&lease, TENANT_QUEUE, ALL).await.unwrap().jobs;
    assert_eq!(counts_of(&taken), [(event.id, 3)]);
}
