use tidegate::clock::Timestamp;
use tidegate::event::{DestinationId, Event};
use tidegate::store::{Budget, DeliveryRecord, DeliveryState, Heads, Job, Lease, Line, PutBack, QueueKey};

use crate::world::*;

pub(super) const TO: DestinationId = DestinationId(0xd);
const QUEUE: QueueKey = QueueKey::Ordered(TENANT, TO);
pub(super) const NOW: Timestamp = Timestamp(5_000);

pub(super) fn in_line(key: u128, due: u64, record: DeliveryRecord) -> DeliveryRecord {
    let job = Job { line: Some(Line::end(TO, key, Timestamp(due))), ..*record.job.unwrap() };
    DeliveryRecord { job: Some(Box::new(job)), ..record }
}

/// What goes on from a job that was handed out, in its place.
pub(super) fn again(job: &Job, record: DeliveryRecord) -> DeliveryRecord {
    DeliveryRecord { job: Some(Box::new(Job { line: job.line, ..*record.job.unwrap() })), ..record }
}

/// Puts new events into the line, due at once.
pub(super) async fn line_up(world: &mut World, lease: &Lease, key: u128, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..count {
        events.push(world.settle(lease, |event| vec![in_line(key, 1_000, parked(event, 0, QUEUE))]).await);
    }
    events
}

pub(super) async fn heads(world: &World, lease: &Lease, now: Timestamp) -> Heads {
    world.store().heads(lease, QUEUE, now, ALL).await.unwrap()
}

pub(crate) async fn only_the_first_of_each_line_is_handed_out(mut world: World) {
    let lease = world.own().await;
    let (a, b) = (line_up(&mut world, &lease, 1, 3).await, line_up(&mut world, &lease, 2, 2).await);
    assert_eq!(world.store().queues(&lease).await.unwrap(), [(QUEUE, 5)]);
    assert_eq!(world.counts().await, [0, 0, 5, 0]);
    let Heads { jobs, next, .. } = heads(&world, &lease, NOW).await;
    assert_eq!((job_events(&jobs), next), (vec![a[0].id, b[0].id], None));
    assert_eq!(jobs[0].line.map(|line| (line.destination, line.key)), Some((TO, 1)));
    assert!(heads(&world, &lease, NOW).await.jobs.is_empty(), "what is behind them waits");
    // Newcomers of a line that has something taken wait too.
    let later = line_up(&mut world, &lease, 2, 1).await;
    assert!(heads(&world, &lease, NOW).await.jobs.is_empty());
    world.record(&lease, vec![finish_job(&jobs[1], vec![delivered(&b[0], 0)])]).await;
    let Heads { jobs: second, .. } = heads(&world, &lease, NOW).await;
    assert_eq!(job_events(&second), [b[1].id]);
    world
        .record(&lease, vec![finish_job(&second[0], vec![dead(&b[1], 0, NOW)]), finish_job(&jobs[0], vec![delivered(&a[0], 0)])])
        .await;
    let Heads { jobs, .. } = heads(&world, &lease, NOW).await;
    assert_eq!(job_events(&jobs), [a[1].id, later[0].id], "what is given up lets the next go");
    assert_eq!(world.counts().await, [0, 0, 3, 1]);
}

pub(crate) async fn one_that_is_to_wait_keeps_its_place(mut world: World) {
    let lease = world.own().await;
    let (a, b) = (line_up(&mut world, &lease, 1, 3).await, line_up(&mut world, &lease, 2, 1).await);
    let Heads { jobs, .. } = heads(&world, &lease, NOW).await;
    let due = Timestamp(NOW.0 + 100);
    let failed = again(&jobs[0], scheduled(&a[0], 0, due, 1));
    let put_off = again(&jobs[1], parked(&b[0], 0, QUEUE));
    let put_off = in_line_until(put_off, due.0 + 50);
    world.record(&lease, vec![finish_job(&jobs[0], vec![failed]), finish_job(&jobs[1], vec![put_off])]).await;
    let Heads { jobs, next, .. } = heads(&world, &lease, NOW).await;
    assert_eq!((jobs.len(), next), (0, Some(due)), "it holds up those behind it");
    assert_eq!(world.store().next_due(&lease).await.unwrap(), None, "and stands on no schedule");
    let Heads { jobs, next, .. } = heads(&world, &lease, due).await;
    assert_eq!((job_events(&jobs), next), (vec![a[0].id], Some(Timestamp(due.0 + 50))));
    assert_eq!((jobs[0].attempts, jobs[0].line.map(|line| line.due)), (1, Some(due)));
    world.record(&lease, vec![finish_job(&jobs[0], vec![delivered(&a[0], 0)])]).await;
    assert_eq!(job_events(&heads(&world, &lease, due).await.jobs), [a[1].id]);
    assert_eq!(world.states(b[0].id).await, [shown_parked("destination_window")]);
}

fn in_line_until(record: DeliveryRecord, due: u64) -> DeliveryRecord {
    let mut job = *record.job.unwrap();
    job.line = job.line.map(|line| Line { due: Timestamp(due), ..line });
    DeliveryRecord { job: Some(Box::new(job)), ..record }
}

pub(crate) async fn one_that_is_put_back_stands_as_it_stood(mut world: World) {
    let lease = world.own().await;
    let (a, b) = (line_up(&mut world, &lease, 1, 2).await, line_up(&mut world, &lease, 2, 1).await);
    let before = world.history(a[0].id).await;
    let Heads { jobs, .. } = heads(&world, &lease, NOW).await;
    let due = Timestamp(NOW.0 + 100);
    let back = jobs[..1].iter().map(|job| PutBack { id: job.id, from: job.line.unwrap().due, due }).collect::<Vec<_>>();
    world.store().put_back(&lease, &back).await.unwrap();
    world.store().put_back(&lease, &back).await.unwrap();
    assert_eq!(world.store().queues(&lease).await.unwrap(), [(QUEUE, 2)]);
    assert_eq!((world.counts().await, world.history(a[0].id).await.summary), ([0, 0, 3, 0], before.summary), "nothing is recorded");
    let Heads { jobs: none, next, .. } = heads(&world, &lease, NOW).await;
    assert_eq!((none.len(), next), (0, Some(due)), "it holds up those behind it");
    let Heads { jobs: again, .. } = heads(&world, &lease, due).await;
    assert_eq!(job_events(&again), [a[0].id]);
    let place = |job: &Job| job.line.map(|line| (line.place, line.due));
    assert_eq!(place(&again[0]), Some((jobs[0].line.unwrap().place, due)));
    assert_eq!(Job { line: None, ..again[0].clone() }, Job { line: None, ..jobs[0].clone() });
    // Sent once more by whoever does not know that it was done: it is in hand again.
    world.store().put_back(&lease, &back).await.unwrap();
    assert!(heads(&world, &lease, due).await.jobs.is_empty());
    world
        .record(&lease, vec![finish_job(&again[0], vec![delivered(&a[0], 0)]), finish_job(&jobs[1], vec![delivered(&b[0], 0)])])
        .await;
    assert_eq!(job_events(&heads(&world, &lease, due).await.jobs), [a[1].id]);
}

pub(crate) async fn outputs_take_the_place_of_their_event(mut world: World) {
    let lease = world.own().await;
    let events = line_up(&mut world, &lease, 7, 2).await;
    let Heads { jobs, .. } = heads(&world, &lease, NOW).await;
    let outputs = [2, 0, 1].map(|output| again(&jobs[0], scheduled(&events[0], output, NOW, 0)));
    world.record(&lease, vec![finish_job(&jobs[0], outputs.into())]).await;
    assert_eq!(world.counts().await, [0, 0, 4, 0]);
    for output in 0..3 {
        let Heads { jobs, .. } = heads(&world, &lease, NOW).await;
        assert_eq!((jobs.len(), jobs[0].id), (1, delivery_id(&events[0], output)));
        world.record(&lease, vec![finish_job(&jobs[0], vec![delivered(&events[0], output)])]).await;
    }
    assert_eq!(job_events(&heads(&world, &lease, NOW).await.jobs), [events[1].id]);
}

pub(crate) async fn a_new_owner_finds_lines_as_they_were(mut world: World) {
    let lease = world.own().await;
    let (a, b) = (line_up(&mut world, &lease, 1, 3).await, line_up(&mut world, &lease, 2, 2).await);
    let Heads { jobs, .. } = heads(&world, &lease, NOW).await;
    world.record(&lease, vec![finish_job(&jobs[1], vec![delivered(&b[0], 0)])]).await;
    let lease = world.take_over("b").await;
    assert_eq!(world.store().queues(&lease).await.unwrap(), [(QUEUE, 4)], "what was taken waits again");
    let later = line_up(&mut world, &lease, 1, 1).await;
    let mut left = vec![a[0].id, a[1].id, a[2].id, later[0].id];
    let Heads { jobs, .. } = heads(&world, &lease, NOW).await;
    assert_eq!(job_events(&jobs), [a[0].id, b[1].id]);
    let mut first = jobs.into_iter().next();
    while let Some(job) = first {
        assert_eq!(job.event(), left.remove(0));
        world.record(&lease, vec![finish_job(&job, vec![])]).await;
        first = heads(&world, &lease, NOW).await.jobs.into_iter().next();
    }
    assert!(left.is_empty(), "{left:?}");
}

pub(crate) async fn lines_outlive_a_restart_and_a_crash(mut world: World) {
    let lease = world.own().await;
    let a = line_up(&mut world, &lease, 1, 3).await;
    let Heads { jobs, .. } = heads(&world, &lease, NOW).await;
    world.record(&lease, vec![finish_job(&jobs[0], vec![again(&jobs[0], scheduled(&a[0], 0, NOW, 1))])]).await;
    world.fixture.restart().await;
    let lease = world.take_over("a").await;
    assert_eq!(job_events(&heads(&world, &lease, NOW).await.jobs), [a[0].id]);
    world.fixture.crash().await;
    let lease = world.take_over("a").await;
    let Heads { jobs, .. } = heads(&world, &lease, NOW).await;
    assert_eq!(job_events(&jobs), [a[0].id]);
    world.record(&lease, vec![finish_job(&jobs[0], vec![delivered(&a[0], 0)])]).await;
    assert_eq!(job_events(&heads(&world, &lease, NOW).await.jobs), [a[1].id]);
}

pub(crate) async fn hand_outs_of_a_line_are_counted_until_it_is_recorded(mut world: World) {
    let mut lease = world.own().await;
    let events = line_up(&mut world, &lease, 1, 2).await;
    let claims = |heads: &Heads| heads.jobs.iter().map(|job| job.claims).collect::<Vec<_>>();
    for count in 1..=3 {
        assert_eq!(claims(&heads(&world, &lease, NOW).await), [count]);
        lease = world.take_over(if count == 1 { "b" } else { "c" }).await;
    }
    world.fixture.crash().await;
    lease = world.take_over("c").await;
    let taken = heads(&world, &lease, NOW).await;
    assert_eq!(claims(&taken), [4]);
    let again = again(&taken.jobs[0], scheduled(&events[0], 0, NOW, 1));
    world.record(&lease, vec![finish_job(&taken.jobs[0], vec![again])]).await;
    let taken = heads(&world, &lease, NOW).await;
    assert_eq!(claims(&taken), [1], "it was recorded");
    lease = world.take_over("b").await;
    let taken = heads(&world, &lease, NOW).await;
    assert_eq!(claims(&taken), [2]);
    let (id, from) = (taken.jobs[0].id, taken.jobs[0].line.unwrap().due);
    world.store().put_back(&lease, &[PutBack { id, from, due: Timestamp(NOW.0 + 1) }]).await.unwrap();
    let taken = heads(&world, &lease, Timestamp(NOW.0 + 1)).await;
    assert_eq!((job_events(&taken.jobs), claims(&taken)), (vec![events[0].id], vec![1]), "it was given back");
}

pub(crate) async fn a_suspect_of_a_line_is_handed_out_by_itself(mut world: World) {
    let mut lease = world.own().await;
    let events = [line_up(&mut world, &lease, 1, 1).await.remove(0), line_up(&mut world, &lease, 2, 1).await.remove(0)];
    let found = |heads: &Heads| counts_of(&heads.jobs);
    for (count, node) in [(1, "b"), (2, "c")] {
        assert_eq!(found(&heads(&world, &lease, NOW).await), [(events[0].id, count), (events[1].id, count)]);
        lease = world.take_over(node).await;
    }
    // One that is due before them, and no suspect.
    let fresh = world.settle(&lease, |event| vec![in_line(3, 500, parked(event, 0, QUEUE))]).await;
    let taken = heads(&world, &lease, NOW).await;
    assert_eq!((found(&taken), taken.next), (vec![(fresh.id, 1)], Some(Timestamp(1_000))));
    let taken = heads(&world, &lease, NOW).await;
    assert_eq!((found(&taken), taken.next), (vec![(events[0].id, 3)], Some(Timestamp(1_000))));
    lease = world.take_over("a").await;
    let counts: Vec<_> = [heads(&world, &lease, NOW).await, heads(&world, &lease, NOW).await, heads(&world, &lease, NOW).await]
        .iter()
        .map(&found)
        .collect();
    assert_eq!(counts, [[(fresh.id, 2)], [(events[0].id, 4)], [(events[1].id, 3)]], "what was behind it was not counted");
}

pub(crate) async fn lines_keep_to_the_budget_the_longest_due_first(mut world: World) {
    let lease = world.own().await;
    let mut events = Vec::new();
    for (key, due) in [(1, 40), (2, 20), (3, 30), (4, 10)] {
        events.push(world.settle(&lease, |event| vec![in_line(key, due, parked(event, 0, QUEUE))]).await);
    }
    let budget = Budget { count: 3, ..ALL };
    let Heads { jobs, next, .. } = world.store().heads(&lease, QUEUE, NOW, budget).await.unwrap();
    assert_eq!(job_events(&jobs), [events[3].id, events[1].id, events[2].id]);
    assert_eq!(next, Some(Timestamp(40)), "one more is due");
    let Heads { jobs, .. } = world.store().heads(&lease, QUEUE, NOW, Budget { bytes: 1, ..ALL }).await.unwrap();
    assert_eq!(job_events(&jobs), [events[0].id], "a single one is handed out, however large it is");
}

pub(crate) async fn a_dead_letter_stands_in_no_line(mut world: World) {
    let lease = world.own().await;
    let events = line_up(&mut world, &lease, 1, 2).await;
    let Heads { jobs, .. } = heads(&world, &lease, NOW).await;
    let given_up = again(&jobs[0], dead(&events[0], 0, NOW));
    world.record(&lease, vec![finish_job(&jobs[0], vec![given_up])]).await;
    let id = delivery_id(&events[0], 0);
    assert_eq!(world.store().retry(HOME, &[id], NOW).await.unwrap(), 1);
    let due = world.due(&lease, NOW).await;
    assert_eq!((due.len(), due[0].id, due[0].line), (1, id, None));
    let behind = DeliveryRecord {
        state: DeliveryState::Parked { reason: "order".into(), queue: Some(QUEUE) },
        ..parked(&events[0], 0, QUEUE)
    };
    world.record(&lease, vec![finish_job(&due[0], vec![in_line(1, 1, behind)])]).await;
    let Heads { jobs, .. } = heads(&world, &lease, NOW).await;
    assert_eq!(job_events(&jobs), [events[1].id], "it comes behind");
    world.record(&lease, vec![finish_job(&jobs[0], vec![delivered(&events[1], 0)])]).await;
    assert_eq!(job_events(&heads(&world, &lease, NOW).await.jobs), [events[0].id]);
}

pub(crate) async fn a_suspect_is_left_and_not_counted_until_somebody_takes_it(mut world: World) {
    let mut lease = world.own().await;
    let event = line_up(&mut world, &lease, 1, 1).await.remove(0);
    for node in ["b", "c"] {
        assert_eq!(world.store().heads(&lease, QUEUE, NOW, NO_SUSPECTS).await.unwrap().jobs.len(), 1);
        lease = world.take_over(node).await;
    }
    for node in ["b", "c"] {
        assert!(is_suspect(world.store().heads(&lease, QUEUE, NOW, NO_SUSPECTS).await));
        lease = world.take_over(node).await;
    }
    assert_eq!(counts_of(&heads(&world, &lease, NOW).await.jobs), [(event.id, 3)]);
}
