use std::time::Duration;

use tidegate::clock::Timestamp;
use tidegate::event::{EventId, Lane};
use tidegate::store::{Acceptance, DeliveryRecord, DeliveryState, Home, PageRequest, Retention};

use crate::world::*;

const HOUR: Duration = Duration::from_secs(3600);

fn page(before: Option<EventId>, limit: usize) -> PageRequest<EventId> {
    PageRequest { before, limit }
}

async fn listed(world: &World, home: Home, limit: usize) -> Vec<EventId> {
    world.store().events(home, page(None, limit)).await.unwrap().items.iter().map(|row| row.id).collect()
}

pub(crate) async fn says_where_an_event_stands_at_every_step(mut world: World) {
    let lease = world.own().await;
    let due = world.now().after(HOUR);
    let event = world.accept_one().await;
    let queued = world.summary(event.id).await;
    assert_eq!((queued.id, queued.source, queued.accepted_at), (event.id, event.source, event.accepted_at));
    assert!(queued.deliveries.is_empty() && !queued.finished, "queued");
    let claimed = world.claim(&lease).await.remove(0);
    assert_eq!(world.summary(event.id).await, queued, "claimed is not a status");

    let filtered = outcome(&event, 3, DeliveryState::Filtered { by: "filter".into() });
    world.record(&lease, vec![progress(&claimed, vec![delivered(&event, 0), filtered.clone()])]).await;
    let going_on = world.summary(event.id).await;
    assert_eq!((going_on.deliveries.len(), going_on.finished), (2, false), "in progress");

    let rest = vec![scheduled(&event, 1, due, 1), parked(&event, 2, TENANT_QUEUE)];
    world.record(&lease, vec![finish(&claimed, rest)]).await;
    let state = async |output| {
        let rows = world.summary(event.id).await.deliveries;
        rows.into_iter().find(|row| row.id == delivery_id(&event, output)).expect("a row for each delivery").state
    };
    assert!(world.summary(event.id).await.finished);
    assert_eq!(state(0).await, DeliveryState::Delivered);
    assert_eq!(state(1).await, DeliveryState::Scheduled { due });
    assert_eq!(state(2).await, shown_parked("destination_window"));
    assert_eq!(state(3).await, filtered.state);

    let taken = world.due(&lease, due).await;
    assert_eq!(state(1).await, DeliveryState::Scheduled { due }, "taken is not a status");
    world.record(&lease, vec![finish_job(&taken[0], vec![dead(&event, 1, due)])]).await;
    assert_eq!(state(1).await, DeliveryState::DeadLettered { reason: failure() });
    let taken = world.unpark(&lease, TENANT_QUEUE).await;
    world.record(&lease, vec![finish_job(&taken[0], vec![delivered(&event, 2)])]).await;
    assert_eq!(state(2).await, DeliveryState::Delivered);
    let in_list = world.store().events(HOME, page(None, 10)).await.unwrap().items;
    assert_eq!(in_list, [world.summary(event.id).await], "the listing and the event agree");
}

pub(crate) async fn attempts_and_runs_add_up(mut world: World) {
    let lease = world.own().await;
    let now = world.now();
    let event =
        world.settle(&lease, |event| vec![DeliveryRecord { runs: vec![run(1), run(2)], ..scheduled(event, 0, now, 1) }]).await;
    for attempts in 2..4 {
        let taken = world.due(&lease, now).await;
        world.record(&lease, vec![finish_job(&taken[0], vec![scheduled(&event, 0, now, attempts)])]).await;
    }
    let taken = world.due(&lease, now).await;
    let last = DeliveryRecord { attempts: vec![attempt(&event, 4)], runs: vec![run(0)], ..delivered(&event, 0) };
    world.record(&lease, vec![finish_job(&taken[0], vec![last])]).await;
    let row = world.summary(event.id).await.deliveries.remove(0);
    assert_eq!(row.attempts, [1, 2, 3, 4].map(|number| attempt(&event, number)));
    assert_eq!(row.runs, [run(1), run(2), run(0)]);
    assert_eq!((row.connection, row.destination, row.output), {
        let first = delivered(&event, 0);
        (first.connection, first.destination, first.output)
    });
}

pub(crate) async fn a_plan_that_became_deliveries_leaves_the_rows(mut world: World) {
    let lease = world.own().await;
    let event = world.settle(&lease, |event| vec![parked_plan(event, TENANT_QUEUE)]).await;
    let taken = world.unpark(&lease, TENANT_QUEUE).await;
    world.record(&lease, vec![finish_job(&taken[0], vec![delivered(&event, 0), delivered(&event, 1)])]).await;
    assert_eq!(world.states(event.id).await, [DeliveryState::Delivered, DeliveryState::Delivered]);
    assert!(world.summary(event.id).await.finished);
}

pub(crate) async fn an_event_that_matched_nothing_says_so(mut world: World) {
    let lease = world.own().await;
    let unmatched =
        |event: &_| vec![DeliveryRecord { connection: None, destination: None, ..outcome(event, 0, DeliveryState::Unmatched) }];
    let event = world.settle(&lease, unmatched).await;
    let summary = world.summary(event.id).await;
    assert_eq!((summary.deliveries[0].connection, summary.finished), (None, true));
    assert_eq!(world.states(event.id).await, [DeliveryState::Unmatched]);
}

pub(crate) async fn events_are_listed_newest_first(mut world: World) {
    assert!(listed(&world, HOME, 10).await.is_empty());
    let mut events = world.accept(3).await;
    world.fixture.pass(Duration::from_millis(2)).await;
    events.extend(world.accept(2).await);
    assert_eq!(listed(&world, HOME, 10).await, events.iter().rev().map(|event| event.id).collect::<Vec<_>>());
    assert_eq!(listed(&world, HOME, 0).await.len(), 1);
}

pub(crate) async fn pages_are_complete_and_stable_under_inserts(mut world: World) {
    let events = world.accept(10).await;
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let next = world.store().events(HOME, page(cursor, 3)).await.unwrap();
        seen.extend(next.items.iter().map(|row| row.id));
        cursor = next.next;
        if cursor.is_none() {
            break;
        }
        world.accept(2).await;
    }
    assert_eq!(seen, events.iter().rev().map(|event| event.id).collect::<Vec<_>>());
}

pub(crate) async fn pages_are_capped(mut world: World) {
    world.accept(230).await;
    let first = world.store().events(HOME, page(None, 100_000)).await.unwrap();
    assert_eq!(first.items.len(), 200);
    let second = world.store().events(HOME, page(first.next, 100_000)).await.unwrap();
    assert_eq!((second.items.len(), second.next), (30, None));
}

pub(crate) async fn shards_are_apart(mut world: World) {
    let elsewhere = Home { shard: OTHER_SHARD, ..HOME };
    let mut events = Vec::new();
    for number in 0..8 {
        let event = world.event();
        let shard = if number % 2 == 0 { SHARD } else { elsewhere.shard };
        world.store().accept(vec![Acceptance { shard, ..acceptance(&event) }]).await.unwrap();
        events.push(event.id);
    }
    for (home, first) in [(HOME, 0), (elsewhere, 1)] {
        let expected: Vec<_> = events.iter().skip(first).step_by(2).rev().copied().collect();
        assert_eq!(listed(&world, home, 10).await, expected);
        // A place of one shard is one of the other, too.
        for (at, before) in events.iter().enumerate() {
            let rest = world.store().events(home, page(Some(*before), 10)).await.unwrap().items;
            let older: Vec<_> =
                events[..at].iter().enumerate().filter(|(at, _)| at % 2 == first).map(|(_, id)| *id).rev().collect();
            assert_eq!(rest.iter().map(|row| row.id).collect::<Vec<_>>(), older);
        }
        let one = world.store().events(home, page(None, 3)).await.unwrap();
        assert_eq!((one.items.len(), one.next), (3, Some(expected[2])));
    }
    assert!(world.store().event(elsewhere, events[0]).await.unwrap().is_none());
}

/// However many there are of another shard, each page ends, and all pages together are complete.
pub(crate) async fn few_events_of_a_shard_are_found_among_many_of_another(mut world: World) {
    let elsewhere = Home { shard: OTHER_SHARD, ..HOME };
    let mut few = Vec::new();
    for _ in 0..3 {
        let event = world.event();
        world.store().accept(vec![Acceptance { shard: OTHER_SHARD, ..acceptance(&event) }]).await.unwrap();
        few.push(event.id);
        world.accept(1100).await;
    }
    let (mut seen, mut before, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = world.store().events(elsewhere, page(before, 2)).await.unwrap();
        assert!(page.items.len() <= 2 && page.next.is_none_or(|next| before.is_none_or(|before| next < before)));
        seen.extend(page.items.iter().map(|row| row.id));
        (before, pages) = (page.next, pages + 1);
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen, few.into_iter().rev().collect::<Vec<_>>());
    assert!(pages < 8, "{pages}");
}

pub(crate) async fn tenants_are_apart(mut world: World) {
    let ours = world.event();
    let theirs = world.event_of(OTHER_TENANT, "theirs".into());
    world.store().accept(vec![acceptance(&ours), acceptance(&theirs)]).await.unwrap();
    let other = Home { tenant: OTHER_TENANT, shard: SHARD };
    assert_eq!(listed(&world, HOME, 10).await, [ours.id]);
    assert_eq!(listed(&world, other, 10).await, [theirs.id]);
    assert!(world.store().event(HOME, theirs.id).await.unwrap().is_none());
    assert!(world.store().event(other, theirs.id).await.unwrap().is_some());
}

pub(crate) async fn an_unknown_event_is_none(world: World) {
    assert!(world.store().event(HOME, EventId(1)).await.unwrap().is_none());
}

pub(crate) async fn depth_tells_the_oldest_entry(mut world: World) {
    let lease = world.own().await;
    let normal = async |world: &World| {
        let depth = world.depth().await;
        let lanes: Vec<_> = depth.lanes.iter().map(|lane| lane.lane).collect();
        assert_eq!(lanes, Lane::ALL);
        (depth.lanes[0].entries, depth.lanes[0].oldest)
    };
    assert_eq!(normal(&world).await, (0, None));
    let first = world.accept_one().await;
    world.fixture.pass(Duration::from_millis(20)).await;
    let held = world.event();
    world.store().accept(vec![Acceptance { lane: Lane::Held, ..acceptance(&held) }]).await.unwrap();
    world.accept(2).await;
    let made_at = |timestamp: Option<Timestamp>| timestamp.map(|timestamp| timestamp.0);
    let (entries, oldest) = normal(&world).await;
    assert_eq!((entries, made_at(oldest)), (3, Some(first.accepted_at.0)));
    let claimed = world.claim(&lease).await;
    world.record(&lease, vec![finish(&claimed[0], vec![delivered(&first, 0)])]).await;
    let (entries, oldest) = normal(&world).await;
    assert_eq!((entries, made_at(oldest)), (2, Some(claimed[1].event.accepted_at.0)));
    let depth = world.depth().await;
    assert_eq!((depth.lanes[2].entries, depth.lanes[2].oldest), (1, Some(held.accepted_at)));
}

pub(crate) async fn depth_counts_what_was_finished(mut world: World) {
    let lease = world.own().await;
    let counts = async |world: &World| {
        let depth = world.depth().await;
        depth.lanes.iter().map(|lane| (lane.accepted(), lane.finished)).collect::<Vec<_>>()
    };
    let start = counts(&world).await;
    let expect = async |world: &World, accepted: u64, finished: u64| {
        let mut expected = start.clone();
        expected[0].0 += accepted;
        expected[0].1 += finished;
        assert_eq!(counts(world).await, expected);
    };
    world.accept(4).await;
    expect(&world, 4, 0).await;
    let claimed = world.claim(&lease).await;
    expect(&world, 4, 0).await;
    // However an entry ends, it is finished; progress is no end.
    let now = world.now();
    let batch = || {
        vec![
            finish(&claimed[0], vec![delivered(&claimed[0].event, 0)]),
            finish(&claimed[1], vec![scheduled(&claimed[1].event, 0, now, 1)]),
            progress(&claimed[2], vec![delivered(&claimed[2].event, 0)]),
        ]
    };
    world.record(&lease, batch()).await;
    expect(&world, 4, 2).await;
    world.record(&lease, batch()).await;
    expect(&world, 4, 2).await;
    // The job was counted with its entry.
    let job = world.due(&lease, now).await.remove(0);
    world.record(&lease, vec![finish_job(&job, vec![delivered(&claimed[1].event, 0)])]).await;
    expect(&world, 4, 2).await;
    // Another owner goes on counting; the one before it counts no more.
    let successor = world.take_over("b").await;
    let late = world.store().record(&lease, &[finish(&claimed[2], vec![])]).await;
    assert!(is_fenced(late));
    expect(&world, 4, 2).await;
    for entry in world.reclaim(&successor).await {
        world.record(&successor, vec![finish(&entry, vec![])]).await;
    }
    expect(&world, 4, 4).await;
    let retention = Retention { age: Duration::ZERO, bytes: 0, dead_letter_age: Duration::ZERO };
    while world.store().trim(&successor, retention, world.now().after(Duration::from_secs(60))).await.unwrap().more {}
    world.fixture.restart().await;
    expect(&world, 4, 4).await;
    world.accept(1).await;
    expect(&world, 5, 4).await;
}
