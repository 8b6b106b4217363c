use bytes::Bytes;
use tidegate::event::{Revision, VersionHash};
use tidegate::store::StoreError;

use crate::world::*;

fn set(key: &str, value: &'static str) -> (String, Option<Bytes>) {
    (key.into(), Some(Bytes::from_static(value.as_bytes())))
}

async fn records(world: &World) -> Vec<(String, Bytes)> {
    let (_, mut records) = world.store().config().await.unwrap();
    records.sort();
    records
}

pub(crate) async fn a_configuration_starts_empty(world: World) {
    assert_eq!(world.store().config().await.unwrap(), (Revision(0), Vec::new()));
    assert_eq!(world.store().config_revision().await.unwrap(), Revision(0));
}

pub(crate) async fn changes_make_the_next_revision(world: World) {
    let store = world.store();
    let first = store.configure(Revision(0), vec![set("tenant/b", "1"), set("tenant/a", "2")]).await.unwrap();
    assert_eq!(first, Revision(1));
    let second = store.configure(first, vec![set("tenant/b", "3")]).await.unwrap();
    assert_eq!(second, Revision(2));
    assert_eq!(store.config_revision().await.unwrap(), second);
    assert_eq!(store.config().await.unwrap().0, second);
    assert_eq!(records(&world).await, [("tenant/a".into(), "2".into()), ("tenant/b".into(), Bytes::from("3"))]);
}

pub(crate) async fn a_stale_revision_is_a_conflict(world: World) {
    let store = world.store();
    store.configure(Revision(0), vec![set("a", "1")]).await.unwrap();
    for expected in [Revision(0), Revision(2)] {
        let conflict = store.configure(expected, vec![set("a", "2")]).await;
        assert!(matches!(conflict, Err(StoreError::Conflict(Revision(1)))), "{conflict:?}");
    }
    assert_eq!(records(&world).await, [("a".into(), Bytes::from("1"))]);
}

pub(crate) async fn of_concurrent_changes_one_wins(world: World) {
    let changes = (0..16).map(|_| {
        let store = world.store();
        tokio::spawn(async move { store.configure(Revision(0), vec![set("a", "1")]).await })
    });
    let mut won = 0;
    for change in changes.collect::<Vec<_>>() {
        match change.await.unwrap() {
            Ok(revision) => {
                assert_eq!(revision, Revision(1));
                won += 1;
            }
            Err(error) => assert!(matches!(error, StoreError::Conflict(Revision(1))), "{error}"),
        }
    }
    assert_eq!(won, 1);
}

pub(crate) async fn none_deletes(world: World) {
    let store = world.store();
    let revision = store.configure(Revision(0), vec![set("a", "1"), set("b", "2"), set("c", "")]).await.unwrap();
    store.configure(revision, vec![("a".into(), None), ("unknown".into(), None)]).await.unwrap();
    assert_eq!(records(&world).await, [("b".into(), Bytes::from("2")), ("c".into(), Bytes::new())]);
}

pub(crate) async fn components_come_back_byte_exact(world: World) {
    let component: Bytes = (0..3 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let version = VersionHash::of(&component);
    let store = world.store();
    assert_eq!(store.component(version).await.unwrap(), None);
    store.put_component(version, component.clone()).await.unwrap();
    store.put_component(version, component.clone()).await.unwrap();
    assert!(store.component(version).await.unwrap() == Some(component));
    assert_eq!(store.component(VersionHash([0; 32])).await.unwrap(), None);
}

pub(crate) async fn remembers_the_first_value_for_its_time(mut world: World) {
    let (long, short) = (world.fixture.span() * 100, world.fixture.span());
    let store = world.store();
    assert_eq!(store.remember("a", "1".into(), long).await.unwrap(), None);
    assert_eq!(store.remember("b", "2".into(), short).await.unwrap(), None);
    assert_eq!(store.remember("a", "3".into(), short).await.unwrap(), Some("1".into()));
    assert_eq!(store.remember("b", "3".into(), long).await.unwrap(), Some("2".into()));
    world.fixture.pass(short).await;
    assert_eq!(store.remember("a", "4".into(), short).await.unwrap(), Some("1".into()), "a second value prolongs nothing");
    assert_eq!(store.remember("b", "4".into(), long).await.unwrap(), None);
    assert_eq!(store.remember("b", "5".into(), long).await.unwrap(), Some("4".into()));
}

pub(crate) async fn of_concurrent_remembers_one_is_first(world: World) {
    let long = world.fixture.span() * 100;
    let calls = (0..16_u8).map(|i| {
        let store = world.store();
        tokio::spawn(async move { store.remember("key", vec![i].into(), long).await.unwrap() })
    });
    let mut answers = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        answers.push(call.await.unwrap());
    }
    let first = answers.iter().position(Option::is_none).expect("one is first");
    let expected = Bytes::from(vec![first as u8]);
    assert_eq!(answers.iter().filter(|answer| answer.as_ref() == Some(&expected)).count(), 15);
}

pub(crate) async fn tells_what_each_node_says_last_for_its_time(mut world: World) {
    let (long, short) = (world.fixture.span() * 100, world.fixture.span());
    let store = world.store();
    let said = async |topic: &str| {
        let mut said = store.said(topic).await.unwrap();
        said.sort();
        said
    };
    assert_eq!(said("a").await, Vec::<Bytes>::new());
    store.say("a", "one", "1".into(), long).await.unwrap();
    store.say("a", "two", "2:\0\n".into(), short).await.unwrap();
    store.say("ab", "one", "other".into(), long).await.unwrap();
    assert_eq!(said("a").await, ["1", "2:\0\n"].map(Bytes::from));
    store.say("a", "one", "3".into(), short).await.unwrap();
    store.say("a", "three", "4".into(), short).await.unwrap();
    store.say("a", "three", "5".into(), long).await.unwrap();
    assert_eq!(said("a").await, ["2:\0\n", "3", "5"].map(Bytes::from));
    world.fixture.pass(short).await;
    assert_eq!(said("a").await, ["5"].map(Bytes::from), "the last word counts, for its own time");
    assert_eq!(said("ab").await, ["other"].map(Bytes::from));
}

pub(crate) async fn is_ready_and_answers_the_probe(world: World) {
    world.store().ready().unwrap();
    world.store().probe().await.unwrap();
    world.store().ready().unwrap();
}
