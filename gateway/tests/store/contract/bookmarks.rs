use std::time::Duration;

use bytes::Bytes;
use tidegate::event::Event;
use tidegate::store::{Bookmark, BookmarkLimits, BookmarkName, Bookmarked, Home, Retention};

use crate::world::*;

const MUCH: BookmarkLimits = BookmarkLimits { count: 1000, bytes: 1 << 30 };

fn name(text: &str) -> BookmarkName {
    text.parse().unwrap()
}

fn bookmark(event: &Event) -> Bookmark {
    Bookmark::new(event.clone(), event.accepted_at, "me".into(), "for tests".into())
}

async fn keep(world: &World, home: Home, text: &str, bookmark: &Bookmark, limits: BookmarkLimits) -> Bookmarked {
    world.store().keep_bookmark(home, &name(text), bookmark, limits).await.unwrap()
}

async fn names(world: &World, home: Home) -> Vec<String> {
    world.store().bookmarks(home).await.unwrap().into_iter().map(|(name, _)| name.to_string()).collect()
}

pub(crate) async fn comes_back_byte_exact_after_a_restart_and_a_crash(mut world: World) {
    let event = world.event_of(TENANT, Bytes::from((0..=255).collect::<Vec<u8>>()));
    let kept = bookmark(&event);
    assert_eq!(world.store().bookmark(HOME, &name("a")).await.unwrap(), None);
    assert_eq!(keep(&world, HOME, "a", &kept, MUCH).await, Bookmarked::Kept);
    assert_eq!(world.store().bookmark(HOME, &name("a")).await.unwrap(), Some(kept.clone()));
    world.fixture.restart().await;
    assert_eq!(world.store().bookmark(HOME, &name("a")).await.unwrap(), Some(kept.clone()));
    world.fixture.crash().await;
    assert_eq!(world.store().bookmark(HOME, &name("a")).await.unwrap(), Some(kept));
    assert!(world.store().drop_bookmark(HOME, &name("a")).await.unwrap());
    assert!(!world.store().drop_bookmark(HOME, &name("a")).await.unwrap());
    assert_eq!(world.store().bookmark(HOME, &name("a")).await.unwrap(), None);
}

pub(crate) async fn are_listed_by_name_without_their_copies(mut world: World) {
    let mut expected = Vec::new();
    for text in ["a", "b", "a.b", "B", "a-1"] {
        let kept = bookmark(&world.event());
        assert_eq!(keep(&world, HOME, text, &kept, MUCH).await, Bookmarked::Kept);
        expected.push((name(text), kept.head));
    }
    expected.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert_eq!(world.store().bookmarks(HOME).await.unwrap(), expected);
}

/// Word for word it may be sent again, as after a lost answer.
pub(crate) async fn a_name_is_given_once(mut world: World) {
    let (first, second) = (world.event(), world.event());
    let (first, second) = (bookmark(&first), bookmark(&second));
    assert_eq!(keep(&world, HOME, "a", &first, MUCH).await, Bookmarked::Kept);
    assert_eq!(keep(&world, HOME, "a", &first, MUCH).await, Bookmarked::Kept);
    assert_eq!(keep(&world, HOME, "a", &second, MUCH).await, Bookmarked::Taken);
    assert_eq!(world.store().bookmark(HOME, &name("a")).await.unwrap(), Some(first));
    assert!(world.store().drop_bookmark(HOME, &name("a")).await.unwrap());
    assert_eq!(keep(&world, HOME, "a", &second, MUCH).await, Bookmarked::Kept);
}

pub(crate) async fn what_is_too_much_is_not_kept(mut world: World) {
    let event = world.event_of(TENANT, Bytes::from(vec![1; 1000]));
    let kept = bookmark(&event);
    let exact = BookmarkLimits { count: 2, bytes: 2 * kept.head.bytes };
    assert_eq!(keep(&world, HOME, "a", &kept, BookmarkLimits { count: 0, ..exact }).await, Bookmarked::TooMany);
    assert_eq!(keep(&world, HOME, "a", &kept, exact).await, Bookmarked::Kept);
    let short = BookmarkLimits { bytes: exact.bytes - 1, ..exact };
    assert_eq!(keep(&world, HOME, "b", &kept, short).await, Bookmarked::TooLarge);
    assert_eq!(keep(&world, HOME, "b", &kept, exact).await, Bookmarked::Kept);
    assert_eq!(keep(&world, HOME, "c", &kept, BookmarkLimits { bytes: 1 << 30, ..exact }).await, Bookmarked::TooMany);
    assert_eq!(names(&world, HOME).await, ["a", "b"]);
    // What is taken away makes room for as much.
    assert!(world.store().drop_bookmark(HOME, &name("a")).await.unwrap());
    assert_eq!(keep(&world, HOME, "c", &kept, exact).await, Bookmarked::Kept);
    assert_eq!(keep(&world, HOME, "d", &kept, BookmarkLimits { count: 9, ..exact }).await, Bookmarked::TooLarge);
}

pub(crate) async fn of_concurrent_bookmarks_no_more_are_kept_than_may_be(mut world: World) {
    let kept = bookmark(&world.event());
    let limits = BookmarkLimits { count: 5, ..MUCH };
    let keeping = (0..20).map(|number| {
        let (store, kept) = (world.store(), kept.clone());
        tokio::spawn(async move { store.keep_bookmark(HOME, &name(&format!("n{number}")), &kept, limits).await.unwrap() })
    });
    let mut count = 0;
    for keeping in keeping.collect::<Vec<_>>() {
        match keeping.await.unwrap() {
            Bookmarked::Kept => count += 1,
            refused => assert_eq!(refused, Bookmarked::TooMany),
        }
    }
    assert_eq!((count, names(&world, HOME).await.len()), (5, 5));
}

pub(crate) async fn outlives_the_history_of_its_event(mut world: World) {
    let lease = world.own().await;
    let event = world.settle(&lease, |event| vec![delivered(event, 0)]).await;
    let kept = bookmark(&event);
    assert_eq!(keep(&world, HOME, "a", &kept, MUCH).await, Bookmarked::Kept);
    let none = Retention { age: Duration::ZERO, bytes: 0, dead_letter_age: Duration::ZERO };
    let later = world.now().after(Duration::from_secs(3600));
    while world.store().trim(&lease, none, later).await.unwrap().more {}
    assert!(world.store().event(HOME, event.id).await.unwrap().is_none());
    assert_eq!(world.store().bookmark(HOME, &name("a")).await.unwrap(), Some(kept));
}

pub(crate) async fn tenants_and_shards_are_apart(mut world: World) {
    let homes = [HOME, Home { tenant: OTHER_TENANT, ..HOME }, Home { shard: OTHER_SHARD, ..HOME }];
    let one = BookmarkLimits { count: 1, ..MUCH };
    for home in homes {
        let kept = bookmark(&world.event_of(home.tenant, "body".into()));
        assert_eq!(keep(&world, home, "a", &kept, one).await, Bookmarked::Kept);
    }
    assert!(world.store().drop_bookmark(homes[0], &name("a")).await.unwrap());
    for (home, expected) in homes.into_iter().zip([0, 1, 1]) {
        assert_eq!(names(&world, home).await.len(), expected);
    }
}

pub(crate) async fn a_purge_takes_all_bookmarks_of_a_tenant(mut world: World) {
    let lease = world.own().await;
    let other = Home { tenant: OTHER_TENANT, ..HOME };
    let kept = bookmark(&world.event());
    for number in 0..150 {
        assert_eq!(keep(&world, HOME, &format!("n{number}"), &kept, MUCH).await, Bookmarked::Kept);
    }
    assert_eq!(keep(&world, other, "a", &kept, MUCH).await, Bookmarked::Kept);
    let mut steps = 0;
    while !world.store().purge(&lease, TENANT).await.unwrap().done {
        steps += 1;
        assert!(steps < 100, "the purge comes to no end");
    }
    assert_eq!((names(&world, HOME).await.len(), names(&world, other).await.len()), (0, 1));
    // Nothing is counted any more.
    let exact = BookmarkLimits { count: 1, bytes: kept.head.bytes };
    assert_eq!(keep(&world, HOME, "a", &kept, exact).await, Bookmarked::Kept);
}
