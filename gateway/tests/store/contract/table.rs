use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tidegate::clock::Timestamp;
use tidegate::event::{ConnectionId, EventId, PluginId};
use tidegate::store::table::{
    MAX_TABLE_CALLS, MAX_TABLE_OPS, MAX_TABLE_TTL, MAX_TABLE_VALUE, SHOWN_TABLE_VALUE, TABLE_CALL_AGE, TABLE_ENTRY_OVERHEAD,
};
use tidegate::store::{
    Home, Once, Retention, StoreError, Table, TableAnswer, TableEntry, TableFault, TableKey, TableOp, TablePage, TableResult,
    TableUse,
};
use tokio::task::JoinSet;

use crate::world::*;

use TableAnswer::{Added, Deleted, Done, Number, Value};

const SECOND: Duration = Duration::from_secs(1);
const TABLE: Table = Table { home: HOME, plugin: PluginId(1) };
const MUCH: u64 = 1 << 30;
const NO_AGE: Duration = Duration::from_secs(1 << 30);
const KEEP: Retention = Retention { age: NO_AGE, bytes: u64::MAX, dead_letter_age: NO_AGE };

pub(crate) fn key(text: &str) -> TableKey {
    text.parse().unwrap()
}

pub(crate) fn set(value: impl Into<Bytes>) -> TableOp {
    TableOp::Set { value: value.into(), ttl: None }
}

pub(crate) fn set_for(value: impl Into<Bytes>, ttl: Duration) -> TableOp {
    TableOp::Set { value: value.into(), ttl: Some(ttl) }
}

pub(crate) fn add(value: impl Into<Bytes>) -> TableOp {
    TableOp::Add { value: value.into(), ttl: None }
}

pub(crate) fn plus(by: i64) -> TableOp {
    TableOp::Increment { by, ttl: None }
}

pub(crate) fn once(number: u32) -> Once {
    Once { event: EventId(7), connection: ConnectionId(1), stage: 0, output: 0, number }
}

fn found(value: &str) -> TableResult {
    Ok(Value(Some(Bytes::copy_from_slice(value.as_bytes()))))
}

const NOTHING: TableResult = Ok(Value(None));

/// An engine at one moment.
struct At<'a>(&'a World, Timestamp);

impl At<'_> {
    async fn call(&self, table: Table, once: Option<Once>, ops: &[(&str, TableOp)], quota: u64) -> Vec<TableResult> {
        let ops: Vec<_> = ops.iter().map(|(text, op)| (key(text), op.clone())).collect();
        self.0.store().table(table, once, &ops, quota, self.1).await.unwrap()
    }

    async fn all(&self, ops: &[(&str, TableOp)]) -> Vec<TableResult> {
        self.call(TABLE, None, ops, MUCH).await
    }

    async fn one(&self, key: &str, op: TableOp) -> TableResult {
        self.within(MUCH, key, op).await
    }

    async fn within(&self, quota: u64, key: &str, op: TableOp) -> TableResult {
        self.call(TABLE, None, &[(key, op)], quota).await.remove(0)
    }

    async fn get(&self, key: &str) -> TableResult {
        self.one(key, TableOp::Get).await
    }

    async fn page(&self, table: Table, prefix: &str, after: Option<TableKey>, limit: usize) -> (Vec<TableEntry>, Option<TableKey>) {
        let page = TablePage { prefix: prefix.into(), after, limit };
        let page = self.0.store().table_page(table, &page, self.1).await.unwrap();
        (page.items, page.next)
    }

    async fn keys(&self, table: Table) -> Vec<String> {
        self.page(table, "", None, 200).await.0.into_iter().map(|entry| entry.key.to_string()).collect()
    }

    async fn usage(&self) -> TableUse {
        self.0.store().table_use(HOME).await.unwrap()
    }

    async fn entries(&self) -> u64 {
        self.usage().await.entries
    }
}

fn now(world: &World) -> At<'_> {
    At(world, world.now())
}

fn later(world: &World, by: Duration) -> At<'_> {
    At(world, world.now().after(by))
}

pub(crate) async fn reads_what_was_written_byte_exact(world: World) {
    let all = now(&world);
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(all.get("a").await, NOTHING);
    assert_eq!(all.one("a", set(bytes.clone())).await, Ok(Done));
    assert_eq!(all.one("user:7/é", set("")).await, Ok(Done));
    assert_eq!(all.one("b", set(vec![1; MAX_TABLE_VALUE])).await, Ok(Done));
    assert_eq!(all.get("a").await, Ok(Value(Some(bytes.into()))));
    assert_eq!(all.get("user:7/é").await, found(""));
    assert_eq!(all.get("b").await, Ok(Value(Some(vec![1; MAX_TABLE_VALUE].into()))));
    assert_eq!(all.one("a", TableOp::Delete).await, Ok(Deleted(true)));
    assert_eq!(all.one("a", TableOp::Delete).await, Ok(Deleted(false)));
    assert_eq!(all.get("a").await, NOTHING);
}

pub(crate) async fn operations_of_a_call_see_those_before_them(world: World) {
    let ops = [
        ("a", TableOp::Get),
        ("a", add("1")),
        ("a", add("2")),
        ("a", plus(41)),
        ("a", TableOp::Get),
        ("a", TableOp::Delete),
        ("a", TableOp::Get),
        ("b", plus(-3)),
    ];
    let answers = now(&world).all(&ops).await;
    let expected =
        [NOTHING, Ok(Added(true)), Ok(Added(false)), Ok(Number(42)), found("42"), Ok(Deleted(true)), NOTHING, Ok(Number(-3))];
    assert_eq!(answers, expected);
    assert_eq!(now(&world).all(&[]).await, []);
    assert_eq!(now(&world).all(&[("b", TableOp::Get), ("a", TableOp::Get)]).await, [found("-3"), NOTHING]);
}

pub(crate) async fn of_concurrent_adds_one_wins(world: World) {
    let mut tasks = JoinSet::new();
    for task in 0..20 {
        let (store, now) = (world.store(), world.now());
        tasks.spawn(async move {
            let answers = store.table(TABLE, None, &[(key("a"), add(format!("{task}")))], MUCH, now).await.unwrap();
            (task, answers[0].clone())
        });
    }
    let answers = tasks.join_all().await;
    let winners: Vec<_> = answers.iter().filter(|(_, answer)| *answer == Ok(Added(true))).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(now(&world).get("a").await, found(&winners[0].0.to_string()));
}

pub(crate) async fn concurrent_increments_give_each_number_once(world: World) {
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let (store, now) = (world.store(), world.now());
        tasks.spawn(async move {
            let mut numbers = Vec::new();
            for _ in 0..25 {
                let answers = store.table(TABLE, None, &[(key("a"), plus(1))], MUCH, now).await.unwrap();
                let Ok(Number(number)) = answers[0] else { panic!("{answers:?}") };
                numbers.push(number);
            }
            numbers
        });
    }
    let numbers: BTreeSet<i64> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(numbers, (1..=400).collect());
}

pub(crate) async fn an_increment_needs_a_number_that_fits(world: World) {
    let all = now(&world);
    for text in ["", "x", "1.0", "01", "-0", "+1", " 1", "9223372036854775808"] {
        all.one("a", set(text.to_owned())).await.unwrap();
        assert_eq!(all.one("a", plus(1)).await, Err(TableFault::NotANumber), "{text:?}");
        assert_eq!(all.get("a").await, found(text), "and it is as it was");
    }
    all.one("a", set("9223372036854775806")).await.unwrap();
    assert_eq!(all.one("a", plus(1)).await, Ok(Number(i64::MAX)));
    assert_eq!(all.one("a", plus(1)).await, Err(TableFault::OutOfRange));
    assert_eq!(all.one("a", plus(i64::MIN)).await, Ok(Number(-1)));
    assert_eq!(all.one("a", plus(i64::MIN)).await, Err(TableFault::OutOfRange));
    assert_eq!(all.one("b", plus(i64::MIN)).await, Ok(Number(i64::MIN)));
    assert_eq!(
        all.all(&[("x", plus(1)), ("a", plus(i64::MIN)), ("a", plus(1))]).await[1..],
        [Err(TableFault::OutOfRange), Ok(Number(0))]
    );
    let TableUse { bytes, entries } = all.usage().await;
    assert_eq!((bytes, entries), (3 * (1 + TABLE_ENTRY_OVERHEAD) + 1 + 20 + 1, 3));
}

pub(crate) async fn an_entry_ends_with_its_time(world: World) {
    let all = now(&world);
    all.one("a", set_for("1", SECOND)).await.unwrap();
    all.one("b", TableOp::Add { value: "1".into(), ttl: Some(SECOND) }).await.unwrap();
    all.one("c", TableOp::Increment { by: 1, ttl: Some(SECOND) }).await.unwrap();
    let just_before = later(&world, SECOND - Duration::from_millis(1));
    for name in ["a", "b", "c"] {
        assert_eq!(just_before.get(name).await, found("1"));
    }
    let then = later(&world, SECOND);
    assert_eq!(then.keys(TABLE).await, Vec::<String>::new());
    assert_eq!(then.all(&[("a", TableOp::Get), ("b", TableOp::Get), ("c", TableOp::Get)]).await, [NOTHING; 3]);
    let answers = then.all(&[("a", TableOp::Delete), ("b", add("2")), ("c", plus(5)), ("b", TableOp::Get)]).await;
    assert_eq!(answers, [Ok(Deleted(false)), Ok(Added(true)), Ok(Number(5)), found("2")]);
    assert_eq!(later(&world, 100 * SECOND).keys(TABLE).await, ["b", "c"], "and these are for good");
    assert_eq!(then.usage().await, TableUse { bytes: 2 * (2 + TABLE_ENTRY_OVERHEAD), entries: 2 });
}

pub(crate) async fn only_a_set_changes_an_end(world: World) {
    let all = now(&world);
    all.one("a", set_for("1", SECOND)).await.unwrap();
    all.one("a", TableOp::Add { value: "9".into(), ttl: None }).await.unwrap();
    all.one("a", TableOp::Increment { by: 1, ttl: Some(100 * SECOND) }).await.unwrap();
    all.one("b", set_for("1", SECOND)).await.unwrap();
    all.one("b", set_for("2", 3 * SECOND)).await.unwrap();
    all.one("c", set_for("1", SECOND)).await.unwrap();
    all.one("c", set("3")).await.unwrap();
    let until = |at: &At<'_>, by: Duration| Some(at.1.after(by));
    let entry = |name: &str, value: &str, until| TableEntry {
        key: key(name),
        size: 1,
        until,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    };
    let expected = [entry("a", "2", until(&all, SECOND)), entry("b", "2", until(&all, 3 * SECOND)), entry("c", "3", None)];
    assert_eq!(all.page(TABLE, "", None, 10).await, (expected.into(), None));
    let then = later(&world, SECOND);
    assert_eq!(then.all(&[("a", TableOp::Get), ("b", TableOp::Get), ("c", TableOp::Get)]).await, [NOTHING, found("2"), found("3")]);
    assert_eq!(later(&world, 3 * SECOND).all(&[("b", TableOp::Get), ("c", plus(0))]).await, [NOTHING, Ok(Number(3))]);
}

pub(crate) async fn what_is_too_much_is_a_fault(world: World) {
    let all = now(&world);
    let large = vec![0; MAX_TABLE_VALUE + 1];
    let ops = [
        ("a", set(large.clone())),
        ("a", add(large)),
        ("a", set_for("1", Duration::from_micros(999))),
        ("a", set_for("1", MAX_TABLE_TTL + SECOND)),
        ("a", TableOp::Increment { by: 1, ttl: Some(Duration::ZERO) }),
    ];
    let expected = [
        Err(TableFault::TooLarge),
        Err(TableFault::TooLarge),
        Err(TableFault::TimeToLive),
        Err(TableFault::TimeToLive),
        Err(TableFault::TimeToLive),
    ];
    assert_eq!(all.all(&ops).await, expected);
    assert_eq!(
        all.all(&[&ops[..], &[("b", set_for("1", MAX_TABLE_TTL)), ("b", TableOp::Get)]].concat()).await[5..],
        [Ok(Done), found("1")]
    );
    assert_eq!(all.entries().await, 1);
    let most = vec![(key("a"), plus(1)); MAX_TABLE_OPS];
    let answers = world.store().table(TABLE, None, &most, MUCH, world.now()).await.unwrap();
    assert_eq!(answers.last(), Some(&Ok(Number(MAX_TABLE_OPS as i64))));
    let more = vec![(key("a"), plus(1)); MAX_TABLE_OPS + 1];
    let refused = world.store().table(TABLE, None, &more, MUCH, world.now()).await;
    assert!(matches!(&refused, Err(StoreError::Refused(_))), "{refused:?}");
}

pub(crate) async fn the_quota_is_exact(world: World) {
    let all = now(&world);
    let entry = TABLE_ENTRY_OVERHEAD + 1 + 9;
    assert_eq!(all.within(entry - 1, "a", set("123456789")).await, Err(TableFault::Quota));
    assert_eq!(all.within(0, "a", plus(1)).await, Err(TableFault::Quota));
    assert_eq!((all.get("a").await, all.usage().await), (NOTHING, TableUse::default()));
    assert_eq!(all.within(entry, "a", set("123456789")).await, Ok(Done));
    assert_eq!(all.usage().await, TableUse { bytes: entry, entries: 1 });
    assert_eq!(all.within(entry, "b", add("")).await, Err(TableFault::Quota));
    assert_eq!(all.within(entry, "a", set("1234567890")).await, Err(TableFault::Quota));
    assert_eq!(all.within(entry, "a", set("999999999")).await, Ok(Done), "it is no larger");
    assert_eq!(all.within(entry, "a", plus(1)).await, Err(TableFault::Quota), "one digit more");
    assert_eq!(all.get("a").await, found("999999999"));
    assert_eq!(all.within(0, "a", plus(-1)).await, Ok(Number(999_999_998)), "it is no larger, though there is too much");
    let ops = [("a", set("1")), ("b", set("")), ("a", TableOp::Delete), ("b", set("12345678"))];
    let answers = all.call(TABLE, None, &ops, entry).await;
    assert_eq!(answers, [Ok(Done), Err(TableFault::Quota), Ok(Deleted(true)), Ok(Done)], "what goes makes room at once");
    assert_eq!(all.usage().await, TableUse { bytes: entry - 1, entries: 1 });
}

pub(crate) async fn what_has_ended_makes_room(world: World) {
    let all = now(&world);
    let entry = TABLE_ENTRY_OVERHEAD + 4 + 1;
    let quota = 100 * entry;
    for first in [0, 50] {
        let names: Vec<String> = (first..first + 50).map(|n| format!("k{n:03}")).collect();
        let ops: Vec<_> = names.iter().map(|name| (name.as_str(), set_for("1", SECOND))).collect();
        assert_eq!(all.call(TABLE, None, &ops, quota).await, vec![Ok(Done); 50]);
    }
    let other = Table { plugin: PluginId(2), ..TABLE };
    assert_eq!(all.call(other, None, &[("more", set("1"))], quota).await, [Err(TableFault::Quota)]);
    let then = later(&world, SECOND);
    let names: Vec<String> = (0..60).map(|n| format!("n{n:03}")).collect();
    let ops: Vec<_> = names.iter().map(|name| (name.as_str(), set("1"))).collect();
    assert_eq!(then.call(other, None, &ops, quota).await, vec![Ok(Done); 60]);
    assert_eq!(then.usage().await.bytes % entry, 0);
    let lease = world.own().await;
    while world.store().trim(&lease, KEEP, then.1).await.unwrap().more {}
    assert_eq!(then.usage().await, TableUse { bytes: 60 * entry, entries: 60 });
}

pub(crate) async fn a_trim_takes_what_has_ended(world: World) {
    let all = now(&world);
    for tenant in 0..70_u32 {
        let table = Table { home: Home { tenant: tidegate::event::TenantId(0x100 + u128::from(tenant)), ..HOME }, ..TABLE };
        let ttl = SECOND * (1 + tenant % 2);
        assert_eq!(all.call(table, None, &[("a", set_for("1", ttl)), ("b", set("1"))], MUCH).await, [Ok(Done), Ok(Done)]);
    }
    let lease = world.own().await;
    for (passed, left) in [(0, 70 * 2), (1, 35 * 2 + 35), (2, 70)] {
        let then = world.now().after(SECOND * passed);
        for _ in 0..3 {
            while world.store().trim(&lease, KEEP, then).await.unwrap().more {}
        }
        let mut entries = 0;
        for tenant in 0..70 {
            let home = Home { tenant: tidegate::event::TenantId(0x100 + tenant), ..HOME };
            entries += world.store().table_use(home).await.unwrap().entries;
        }
        assert_eq!(entries, left, "{passed}");
    }
}

pub(crate) async fn a_call_made_again_is_done_once(mut world: World) {
    let ops = [
        ("n", plus(1)),
        ("a", add("x")),
        ("n", TableOp::Get),
        ("gone", TableOp::Delete),
        ("big", set(vec![0; 500])),
        ("s", set("v")),
    ];
    let first = now(&world).call(TABLE, Some(once(3)), &ops, 2000).await;
    let expected = [Ok(Number(1)), Ok(Added(true)), found("1"), Ok(Deleted(false)), Ok(Done), Ok(Done)];
    assert_eq!(first, expected);
    now(&world).all(&[("n", plus(10)), ("a", TableOp::Delete), ("gone", set("1")), ("s", set("w"))]).await;
    for round in 0..3 {
        let again = later(&world, SECOND * round).call(TABLE, Some(once(3)), &ops, 0).await;
        let expected = [Ok(Number(1)), Ok(Added(true)), found("11"), Ok(Deleted(false)), Ok(Done), Ok(Done)];
        assert_eq!(again, expected, "what it reads is read anew");
        assert_eq!(now(&world).get("s").await, found("w"));
        match round {
            0 => world.fixture.restart().await,
            _ => world.fixture.crash().await,
        }
    }
    assert_eq!(now(&world).keys(TABLE).await, ["big", "gone", "n", "s"]);
}

pub(crate) async fn a_fault_is_remembered_too(world: World) {
    let full = now(&world).call(TABLE, Some(once(0)), &[("a", add("1"))], 0).await;
    assert_eq!(full, [Err(TableFault::Quota)]);
    assert_eq!(now(&world).call(TABLE, Some(once(0)), &[("a", add("1"))], MUCH).await, full);
    assert_eq!(now(&world).get("a").await, NOTHING);
}

pub(crate) async fn of_concurrent_repeats_one_is_done(world: World) {
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let (store, now) = (world.store(), world.now());
        tasks.spawn(async move { store.table(TABLE, Some(once(0)), &[(key("n"), plus(1))], MUCH, now).await.unwrap() });
    }
    assert_eq!(tasks.join_all().await, vec![[Ok(Number(1))]; 20]);
    assert_eq!(now(&world).get("n").await, found("1"));
}

pub(crate) async fn another_call_is_done_anew(world: World) {
    let all = now(&world);
    let n = [("n", plus(1))];
    let mut number = 0;
    let mut next = || {
        number += 1;
        [Ok(Number(number))]
    };
    assert_eq!(all.call(TABLE, Some(once(0)), &n, MUCH).await, next());
    assert_eq!(all.call(TABLE, Some(once(1)), &n, MUCH).await, next());
    assert_eq!(all.call(TABLE, Some(Once { event: EventId(8), ..once(0) }), &n, MUCH).await, next());
    assert_eq!(all.call(TABLE, Some(Once { connection: ConnectionId(2), ..once(0) }), &n, MUCH).await, next());
    assert_eq!(all.call(TABLE, Some(Once { stage: 1, ..once(0) }), &n, MUCH).await, next());
    assert_eq!(all.call(TABLE, Some(Once { output: 1, ..once(0) }), &n, MUCH).await, next());
    assert_eq!(all.call(TABLE, None, &n, MUCH).await, next());
    assert_eq!(all.call(TABLE, None, &n, MUCH).await, next());
    // A run that went another way: it asks for something else at the same place.
    assert_eq!(all.call(TABLE, Some(once(0)), &[("n", plus(0))], MUCH).await, [Ok(Number(number))]);
    let other = Table { plugin: PluginId(2), ..TABLE };
    assert_eq!(all.call(other, Some(once(0)), &n, MUCH).await, [Ok(Number(1))]);
}

pub(crate) async fn a_call_is_forgotten_after_a_day(world: World) {
    let n = [("n", plus(1))];
    assert_eq!(now(&world).call(TABLE, Some(once(0)), &n, MUCH).await, [Ok(Number(1))]);
    let day = later(&world, TABLE_CALL_AGE);
    day.one("x", set("1")).await.unwrap();
    assert_eq!(day.call(TABLE, Some(once(0)), &n, MUCH).await, [Ok(Number(1))]);
    let more = later(&world, TABLE_CALL_AGE + Duration::from_millis(1));
    more.one("x", set("1")).await.unwrap();
    assert_eq!(more.call(TABLE, Some(once(0)), &n, MUCH).await, [Ok(Number(2))]);
}

pub(crate) async fn a_tenants_last_calls_are_remembered(world: World) {
    let all = now(&world);
    let n = [("n", plus(1))];
    assert_eq!(all.call(TABLE, Some(once(0)), &n, MUCH).await, [Ok(Number(1))]);
    let mut tasks = JoinSet::new();
    for task in 0..64_u64 {
        let (store, now) = (world.store(), world.now());
        tasks.spawn(async move {
            for number in 0..MAX_TABLE_CALLS / 64 {
                let at = now.after(Duration::from_millis(1 + number));
                let once = Once { event: EventId(9), output: task as u32, ..once(number as u32) };
                store.table(TABLE, Some(once), &[(key("m"), plus(1))], MUCH, at).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let last = Once { event: EventId(9), output: 63, ..once((MAX_TABLE_CALLS / 64 - 1) as u32) };
    let then = later(&world, SECOND);
    let before = then.get("m").await;
    then.call(TABLE, Some(last), &[("m", plus(1))], MUCH).await;
    assert_eq!(then.get("m").await, before, "a late one is");
    assert_eq!(then.call(TABLE, Some(once(0)), &n, MUCH).await, [Ok(Number(2))], "the first is not");
}

pub(crate) async fn tenants_plugins_and_shards_are_apart(world: World) {
    let all = now(&world);
    let tables = [
        TABLE,
        Table { plugin: PluginId(2), ..TABLE },
        Table { home: Home { tenant: OTHER_TENANT, ..HOME }, ..TABLE },
        Table { home: Home { shard: OTHER_SHARD, ..HOME }, ..TABLE },
    ];
    for (n, table) in tables.iter().enumerate() {
        assert_eq!(all.call(*table, Some(once(0)), &[("a", TableOp::Get), ("a", plus(1))], MUCH).await, [NOTHING, Ok(Number(1))]);
        all.call(*table, None, &[("a", set(n.to_string()))], MUCH).await;
    }
    for (n, table) in tables.iter().enumerate() {
        assert_eq!(all.call(*table, None, &[("a", TableOp::Get)], MUCH).await, [found(&n.to_string())]);
        assert_eq!(all.keys(*table).await, ["a"]);
    }
    assert_eq!(all.usage().await.entries, 2, "a tenant's plugins count together");
    // Another's quota is no matter: this one has two entries, the others one.
    let quota = 2 * (TABLE_ENTRY_OVERHEAD + 2);
    assert_eq!(all.call(tables[1], None, &[("b", set("1"))], quota).await, [Err(TableFault::Quota)]);
    assert_eq!(all.call(tables[2], None, &[("b", set("1"))], quota).await, [Ok(Done)]);
    assert_eq!(all.call(tables[3], None, &[("b", set("1"))], quota).await, [Ok(Done)]);
}

pub(crate) async fn pages_are_complete_and_in_order(world: World) {
    let all = now(&world);
    let mut names: Vec<String> = (0..120).map(|n| format!("{}{:03}", ["user:", "user", "v", "é"][n % 4], n * 7 % 120)).collect();
    for chunk in names.chunks(40) {
        let ops: Vec<_> =
            chunk.iter().enumerate().map(|(n, name)| (name.as_str(), set_for("1", SECOND * (1 + n as u32 % 2)))).collect();
        all.all(&ops).await;
    }
    let other = Table { plugin: PluginId(2), ..TABLE };
    all.call(other, None, &[("user:", set(vec![1; SHOWN_TABLE_VALUE])), ("user;", set(vec![1; SHOWN_TABLE_VALUE + 1]))], MUCH)
        .await;
    names.sort();
    for (at, limit) in [(&all, 7), (&all, 1), (&later(&world, SECOND), 9)] {
        for prefix in ["", "user", "user:", "user:0", "é", "zz"] {
            let (mut keys, mut after) = (Vec::new(), None);
            loop {
                let (items, next) = at.page(TABLE, prefix, after, limit).await;
                assert!(items.len() <= limit);
                keys.extend(items.into_iter().map(|entry| entry.key.to_string()));
                after = next;
                if after.is_none() {
                    break;
                }
            }
            let wanted: Vec<_> = names.iter().filter(|name| name.starts_with(prefix)).cloned().collect();
            if at.1 == all.1 {
                assert_eq!(keys, wanted, "{prefix} {limit}");
            } else {
                assert!(keys.len() <= wanted.len() && keys.iter().all(|key| wanted.contains(key)) && keys.is_sorted());
            }
        }
    }
    let (items, _) = all.page(other, "", None, 10).await;
    let shown: Vec<_> = items.iter().map(|entry| (entry.size, entry.value.is_some())).collect();
    assert_eq!(shown, [(SHOWN_TABLE_VALUE as u64, true), (SHOWN_TABLE_VALUE as u64 + 1, false)]);
}

pub(crate) async fn a_dropped_table_is_gone(world: World) {
    let all = now(&world);
    let other = Table { plugin: PluginId(2), ..TABLE };
    for n in 0..25 {
        let names: Vec<String> = (0..50).map(|m| format!("{n}-{m}")).collect();
        let ops: Vec<_> = names.iter().map(|name| (name.as_str(), set_for("1", SECOND))).collect();
        all.all(&ops).await;
    }
    all.call(other, None, &[("a", set("1"))], MUCH).await;
    let mut gone = 0;
    loop {
        match world.store().drop_tables(HOME, Some(TABLE.plugin)).await.unwrap() {
            0 => break,
            step => gone += step,
        }
    }
    assert_eq!(gone, 25 * 50);
    assert_eq!((all.keys(TABLE).await, all.keys(other).await), (vec![], vec!["a".to_owned()]));
    assert_eq!(all.usage().await, TableUse { bytes: TABLE_ENTRY_OVERHEAD + 2, entries: 1 });
    assert_eq!(all.one("a", plus(1)).await, Ok(Number(1)), "and it can be used anew");
}

pub(crate) async fn a_purge_takes_all_tables_of_a_tenant(world: World) {
    let all = now(&world);
    let theirs = Table { home: Home { tenant: OTHER_TENANT, ..HOME }, ..TABLE };
    for plugin in 0..3 {
        for n in 0..12 {
            let names: Vec<String> = (0..50).map(|m| format!("{n}-{m}")).collect();
            let ops: Vec<_> = names.iter().map(|name| (name.as_str(), set_for("1", SECOND * 100))).collect();
            all.call(Table { plugin: PluginId(plugin), ..TABLE }, None, &ops, MUCH).await;
        }
    }
    all.call(TABLE, Some(once(0)), &[("n", plus(1))], MUCH).await;
    all.call(theirs, None, &[("a", set("1"))], MUCH).await;
    let lease = world.own().await;
    let mut steps = 0;
    while !world.store().purge(&lease, TENANT).await.unwrap().done {
        steps += 1;
        assert!(steps < 1000, "the purge comes to no end");
    }
    assert_eq!(all.usage().await, TableUse::default());
    assert_eq!((all.keys(TABLE).await, all.keys(theirs).await), (vec![], vec!["a".to_owned()]));
    assert_eq!(all.call(TABLE, Some(once(0)), &[("n", plus(1))], MUCH).await, [Ok(Number(1))], "nor is a call remembered");
    while world.store().drop_tables(HOME, None).await.unwrap() > 0 {}
    assert_eq!(all.usage().await, TableUse::default());
}

pub(crate) async fn survives_a_restart_and_a_crash(mut world: World) {
    now(&world).all(&[("a", set_for("1", 100 * SECOND)), ("n", plus(7)), ("x", set("1")), ("x", TableOp::Delete)]).await;
    let usage = now(&world).usage().await;
    for round in 0..2 {
        match round {
            0 => world.fixture.restart().await,
            _ => world.fixture.crash().await,
        }
        assert_eq!(now(&world).keys(TABLE).await, ["a", "n"]);
        assert_eq!(now(&world).usage().await, usage);
        assert_eq!(now(&world).one("n", plus(0)).await, Ok(Number(7)));
        assert_eq!(later(&world, 100 * SECOND).get("a").await, NOTHING);
    }
}
