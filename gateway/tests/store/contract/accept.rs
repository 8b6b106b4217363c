use bytes::Bytes;
use tidegate::event::{Event, Header, Lane, Request};
use tidegate::store::{Acceptance, PageRequest};

use crate::world::*;

fn awkward(mut event: Event) -> Event {
    event.request = Request {
        method: "PATCH".into(),
        path: "/a%00b//c".into(),
        query: Some(String::new()),
        headers: vec![
            Header { name: "b".into(), value: Bytes::new() },
            Header { name: "a".into(), value: Bytes::from_static(b"\xff\xfe\t ") },
            Header { name: "b".into(), value: Bytes::from_static(b"again") },
        ],
        body: (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect(),
    };
    event.pins.clear();
    event.trace = None;
    event
}

pub(crate) async fn keeps_every_event_byte_exact(mut world: World) {
    let large = awkward(world.event());
    let small = world.event();
    let empty = world.event_of(TENANT, Bytes::new());
    let zeros = world.event_of(TENANT, Bytes::from_static(b"\0\0\r\n\r\n\0"));
    let events = [large, small, empty, zeros];
    world.accept_all(&events).await;
    let lease = world.own().await;
    let claimed: Vec<_> = world.claim(&lease).await.into_iter().map(|claimed| claimed.event).collect();
    assert!(claimed == events);
    for event in events {
        assert!(world.history(event.id).await.event == Some(event));
    }
}

pub(crate) async fn keeps_the_order_of_a_batch_and_of_batches(mut world: World) {
    let mut sent = world.accept(30).await;
    sent.extend(world.accept(1).await);
    sent.extend(world.accept(20).await);
    let lease = world.own().await;
    assert_eq!(claimed_ids(&world.claim(&lease).await), ids(&sent));
}

pub(crate) async fn a_repeat_inside_the_window_is_dropped_with_the_first_id(mut world: World) {
    let (first, repeat, other) = (world.event(), world.event(), world.event());
    let window = world.fixture.span() * 100;
    let store = world.store();
    assert_eq!(repeats(store.accept(vec![once(&first, 1, window)]).await.unwrap()), [None]);
    let answers = store.accept(vec![once(&repeat, 1, window), once(&other, 2, window)]).await.unwrap();
    assert_eq!(repeats(answers), [Some(first.id), None]);
}

pub(crate) async fn a_repeat_in_the_same_batch_is_dropped(mut world: World) {
    let (first, second, third) = (world.event(), world.event(), world.event());
    let window = world.fixture.span() * 100;
    let batch = vec![once(&first, 1, window), once(&second, 1, window), acceptance(&third)];
    let answers = world.store().accept(batch).await.unwrap();
    assert_eq!(repeats(answers), [None, Some(first.id), None]);
    let lease = world.own().await;
    assert_eq!(claimed_ids(&world.claim(&lease).await), [first.id, third.id]);
}

pub(crate) async fn of_concurrent_accepts_with_one_key_one_is_kept(mut world: World) {
    let window = world.fixture.span() * 100;
    let events: Vec<_> = (0..32).map(|_| world.event()).collect();
    let accepts = events.iter().map(|event| {
        let (store, batch) = (world.store(), vec![once(event, 1, window)]);
        tokio::spawn(async move { repeats(store.accept(batch).await.unwrap()).remove(0) })
    });
    let mut answers = Vec::new();
    for accept in accepts.collect::<Vec<_>>() {
        answers.push(accept.await.unwrap());
    }
    let kept: Vec<_> = events.iter().zip(&answers).filter(|(_, answer)| answer.is_none()).collect();
    let [(kept, _)] = kept[..] else { panic!("kept {}", kept.len()) };
    assert_eq!(answers.iter().filter(|answer| **answer == Some(kept.id)).count(), 31);
    let lease = world.own().await;
    assert_eq!(claimed_ids(&world.claim(&lease).await), [kept.id]);
}

pub(crate) async fn a_repeat_after_the_window_is_kept(mut world: World) {
    let (first, second, third) = (world.event(), world.event(), world.event());
    let window = world.fixture.span();
    assert_eq!(repeats(world.store().accept(vec![once(&first, 1, window)]).await.unwrap()), [None]);
    world.fixture.pass(window).await;
    assert_eq!(repeats(world.store().accept(vec![once(&second, 1, window * 100)]).await.unwrap()), [None]);
    let answer = world.store().accept(vec![once(&third, 1, window)]).await.unwrap();
    assert_eq!(repeats(answer), [Some(second.id)], "the window starts anew with the event that was kept");
}

pub(crate) async fn a_dropped_repeat_leaves_no_trace(mut world: World) {
    let (first, repeat) = (world.event(), world.event());
    let window = world.fixture.span() * 100;
    world.store().accept(vec![once(&first, 1, window)]).await.unwrap();
    world.store().accept(vec![once(&repeat, 1, window)]).await.unwrap();
    assert!(world.store().event(HOME, repeat.id).await.unwrap().is_none());
    let listed = world.store().events(HOME, PageRequest { before: None, limit: 10 }).await.unwrap().items;
    assert_eq!(listed.iter().map(|row| row.id).collect::<Vec<_>>(), [first.id]);
    assert_eq!(world.counts().await, [1, 0, 0, 0]);
}

pub(crate) async fn one_batch_goes_into_several_shards_and_lanes(mut world: World) {
    let events: Vec<_> = (0..4).map(|_| world.event()).collect();
    let places = [(SHARD, Lane::Normal), (SHARD, Lane::Low), (SHARD, Lane::Held), (OTHER_SHARD, Lane::Normal)];
    let batch = events.iter().zip(places).map(|(event, (shard, lane))| Acceptance { shard, lane, ..acceptance(event) });
    world.store().accept(batch.collect()).await.unwrap();
    let here = world.own().await;
    let there = world.store().acquire(OTHER_SHARD, "a", world.fixture.span()).await.unwrap().unwrap();
    for (event, (shard, lane)) in events.iter().zip(places) {
        let lease = if shard == SHARD { &here } else { &there };
        assert_eq!(claimed_ids(&world.store().claim(lease, lane, ALL).await.unwrap()), [event.id], "{shard:?} {lane:?}");
    }
}

pub(crate) async fn an_accept_wakes_the_shard(mut world: World) {
    let signal = world.store().signal(SHARD);
    let lease = world.own().await;
    let waiting = tokio::spawn(async move { signal.notified().await });
    world.accept_one().await;
    let woken = tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await;
    woken.expect("a signal within ten seconds").unwrap();
    assert_eq!(world.claim(&lease).await.len(), 1);
}

pub(crate) async fn an_empty_batch_is_fine(world: World) {
    assert_eq!(world.store().accept(Vec::new()).await.unwrap(), []);
    let lease = world.own().await;
    world.record(&lease, Vec::new()).await;
}
