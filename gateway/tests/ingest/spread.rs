//! A tenant with several shards: where its events go, and what counts of all of them together.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate::control::snapshot::{DedupBy, DedupRule, Diversion, Diverted, Plan, Shards, Snapshot, Source, Tenant};
use tidegate::event::{Lane, Revision, Shard};

use crate::world::{Setup, TENANT, World, post, source};

fn three() -> Shards {
    Shards::new(Shard(2), vec![Shard(5), Shard(1)])
}

fn spread(shards: Shards, plan: Plan) -> Source {
    let source = source();
    Source { tenant: Arc::new(Tenant { shards, plan, ..(*source.tenant).clone() }), ..source }
}

async fn start(source: Source) -> World {
    World::start(Setup { source, ..Setup::default() }).await
}

fn plan() -> Plan {
    source().tenant.plan
}

#[tokio::test]
async fn events_go_to_all_shards_each_by_its_id() {
    let world = start(spread(three(), plan())).await;
    for _ in 0..60 {
        assert_eq!(world.send(&post("", b"x")).await.status, 202);
    }
    let shards = world.store.shards();
    let placed: Vec<Shard> = world.store.events().iter().map(|event| three().place(event.id, None)).collect();
    assert_eq!(shards, placed);
    assert_eq!(shards.into_iter().collect::<BTreeSet<_>>(), three().iter().collect());
}

#[tokio::test]
async fn duplicates_meet_in_one_shard_until_there_are_more() {
    let dedup = Some(DedupRule { by: DedupBy::Header("x-id".parse().unwrap()), window: Duration::from_secs(60) });
    let world = start(Source { dedup: dedup.clone(), ..spread(three(), plan()) }).await;
    let keys: Vec<String> = (0..20).map(|key| format!("x-id: {key}\r\n")).collect();
    let send_all = async || {
        for key in &keys {
            assert_eq!(world.send(&post(key, b"x")).await.status, 202);
        }
    };
    send_all().await;
    send_all().await;
    let shards = world.store.shards();
    assert_eq!(shards[..20], shards[20..], "by the key and not by the event");
    assert_eq!(world.store.events().len(), 20);
    assert_eq!(shards.iter().copied().collect::<BTreeSet<_>>(), three().iter().collect());
    // With a shard more some keys go there, and the others stay.
    let four = Shards::new(Shard(2), vec![Shard(5), Shard(1), Shard(3)]);
    let grown = Arc::new(Source { dedup, ..spread(four, plan()) });
    let snapshot = (*world.snapshots.current()).clone();
    world.snapshots.publish(Snapshot { revision: Revision(9), sources: [(grown.id, grown)].into_iter().collect(), ..snapshot });
    send_all().await;
    let after = world.store.shards()[40..].to_vec();
    let moved = shards[..20].iter().zip(&after).filter(|(before, after)| before != after).map(|(_, after)| *after);
    assert_eq!(moved.collect::<BTreeSet<_>>(), [Shard(3)].into());
}

#[tokio::test]
async fn what_is_queued_counts_of_all_shards_together() {
    let world = start(spread(three(), Plan { queued_bytes: 30, ..plan() })).await;
    world.store.queued.store(9, Ordering::Relaxed);
    for _ in 0..30 {
        assert_eq!(world.send(&post("", b"x")).await.status, 202);
    }
    assert_eq!(world.store.looked.load(Ordering::Relaxed), 0, "27 is not too much");
    world.store.queued.store(10, Ordering::Relaxed);
    let mut taken = 0;
    while world.send(&post("", b"x")).await.status == 202 {
        taken += 1;
    }
    assert!((3..60).contains(&taken), "as soon as each shard has said so: {taken}");
    assert_eq!(world.store.looked.load(Ordering::Relaxed), 3, "each shard is asked");
    assert_eq!(world.send(&post("", b"x")).await.status, 429);
    world.store.queued.store(5, Ordering::Relaxed);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.send(&post("", b"x")).await.status, 202);
    assert_eq!(world.store.looked.load(Ordering::Relaxed), 6);
}

#[tokio::test]
async fn where_a_diversion_is_over_events_go_to_their_lane_again() {
    let mut setup = Setup { source: spread(three(), plan()), ..Setup::default() };
    let who = Diverted::Tenant(TENANT);
    setup.traffic.diverted.insert(who, Diversion::Returning);
    setup.traffic.drained.insert((who, Shard(5)));
    let world = World::start(setup).await;
    for _ in 0..60 {
        assert_eq!(world.send(&post("", b"x")).await.status, 202);
    }
    let seen: BTreeSet<_> = world.store.shards().into_iter().zip(world.store.lanes()).collect();
    assert_eq!(seen, [(Shard(1), Lane::Held), (Shard(2), Lane::Held), (Shard(5), Lane::Normal)].into());
}

#[tokio::test]
async fn events_that_keep_an_order_stay_in_one_lane_and_the_home_shard() {
    let plan = Plan { rate: 1.0, burst: 1, ..plan() };
    let world = start(Source { is_ordered: true, ..spread(three(), plan) }).await;
    for _ in 0..20 {
        assert_eq!(world.send(&post("", b"x")).await.status, 202);
    }
    assert_eq!(world.store.shards(), [Shard(2); 20]);
    assert_eq!(world.store.lanes(), [Lane::Normal; 20], "what is over the plan's throughput would be overtaken in the low lane");
}
