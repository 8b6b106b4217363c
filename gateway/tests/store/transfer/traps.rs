//! What a move of a store can stumble over.

use tidegate::store::transfer::{MovedEvent, PAGE_BYTES};

use super::*;

/// A node that only ingests takes no shards, and so nothing says that it is there. What it accepted while a store is filled, the next try would
/// take away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_there_already_sees_no_configuration_before_redis_is_filled() {
    let (from, to) = (Site::disk(), Site::redis(Flavor::Redis).await);
    let store = from.open().await.unwrap();
    fill(&*store).await;
    close(store).await;
    let (file, _) = from.export().await;
    let node = to.open().await.unwrap();
    let mut filling = to.incoming().await.unwrap();
    filling.put(items(&file)).await.unwrap();
    assert_eq!(node.config_revision().await.unwrap(), Revision(0));
    filling.finish().await.unwrap();
    assert_eq!(node.config_revision().await.unwrap(), Revision(2));
    assert_eq!(node.config().await.unwrap().1.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_the_embedded_store_are_bounded_in_bytes() {
    bounded(Site::disk()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_redis_are_bounded_in_bytes() {
    bounded(Site::redis(Flavor::Redis).await).await;
}

/// Many small events, and then large ones, some of them scheduled.
async fn bounded(site: Site) {
    const LARGE: usize = 300 << 10;
    let store = site.open().await.unwrap();
    let now = Clock::system().now();
    let make = |number: u64| event(number, TENANT, now, Bytes::from(vec![b'x'; if number > 100 { LARGE } else { 10 }]));
    for number in 1..=140 {
        store.accept(vec![acceptance(&make(number))]).await.unwrap();
    }
    let lease = store.acquire(SHARD, "a", SPAN).await.unwrap().unwrap();
    let claimed = store.claim(&lease, Lane::Normal, Budget::new(120, 64 << 20)).await.unwrap();
    for one in &claimed[100..] {
        store.record(&lease, &[finish(one, vec![scheduled(&one.event, 0, now.after(SPAN), 1)])]).await.unwrap();
    }
    store.release(&lease).await.unwrap();
    close(store).await;
    let mut export = site.outgoing().await.unwrap();
    let mut count = 0;
    while let Some(page) = export.next().await.unwrap() {
        count += page.iter().filter(|item| matches!(item, Item::Event(_) | Item::Job(_))).count();
        let bytes: usize = page.iter().map(Item::size).sum();
        // A hash keeps some of its fields beside each other.
        assert!(bytes <= PAGE_BYTES + 4 * (LARGE + 1024), "{} items, {bytes} bytes", page.len());
    }
    assert_eq!(count, 160);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_claimed_before_what_is_finished_is_handed_out_by_the_embedded_store() {
    gap(Site::disk()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_claimed_before_what_is_finished_is_handed_out_by_redis() {
    gap(Site::redis(Flavor::Redis).await).await;
}

/// As Redis gives it after its group was lost, which begins anew with the first entry.
async fn gap(site: Site) {
    let now = Clock::system().now();
    let entry = |number: u64, claims: u32, finished: bool| {
        let event = event(number, TENANT, now, Bytes::from_static(b"body"));
        let rows = if finished { vec![delivered(&event, 0)] } else { Vec::new() };
        Item::Event(Box::new(MovedEvent { shard: SHARD, lane: Lane::Normal, claims, finished, event, rows }))
    };
    let entries =
        [(1, 0, false), (2, 0, false), (3, 0, true), (4, 0, false), (5, 2, false), (6, 0, true), (7, 0, false), (8, 0, false)];
    let mut filling = site.incoming().await.unwrap();
    // The first two in pages of their own.
    for page in [&entries[..1], &entries[1..2], &entries[2..]] {
        filling.put(page.iter().map(|(number, claims, finished)| entry(*number, *claims, *finished)).collect()).await.unwrap();
    }
    filling.finish().await.unwrap();
    let store = site.open().await.unwrap();
    let lease = store.acquire(SHARD, "a", SPAN).await.unwrap().unwrap();
    let of = |number: u64| event(number, TENANT, now, Bytes::from_static(b"body")).id;
    let reclaimed = reclaim_all(&*store, &lease).await;
    let ids: Vec<_> = reclaimed.iter().map(|one| one.event.id).collect();
    assert_eq!(ids, [1, 2, 4, 5].map(of));
    let claimed = store.claim(&lease, Lane::Normal, ALL).await.unwrap();
    assert_eq!(claimed.iter().map(|one| one.event.id).collect::<Vec<_>>(), [7, 8].map(of));
    close(store).await;
}
