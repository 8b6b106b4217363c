//! Stages whose instances are used again: what one run leaves, the next of the same stage finds, and no other.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use tidegate::clock::Timestamp;
use tidegate::event::{ConnectionId, EventId, PluginId, TenantId};
use tidegate::plugin::limits::{TABLE_BYTE_FUEL, TABLE_FUEL};
use tidegate::plugin::table::{Place, TableAction, TableAnswer, TableOp, TableResult, Tables};
use tidegate::plugin::{Call, Limits, Report, Reuse, Secrets, Table};
use tidegate_test_support::eventually;

use crate::fixture::{Sandbox, call};
use crate::guest::{filter, import, transform};

const MIB: u64 = 1 << 20;
const IDLE: usize = 40 << 20;
const SOON: Duration = Duration::from_secs(20);

/// Logs how many runs its instance has had, as one character from `1` on.
const COUNT: &str = "(global.set $runs (i32.add (global.get $runs) (i32.const 1)))
    (i32.store8 (i32.const 64) (i32.add (global.get $runs) (i32.const 48)))
    (call $write (i32.const 1) (i32.const 64) (i32.const 1))";
const KEEP: &str = "(i32.store8 (i32.const 8) (i32.const 0)) (i32.store8 (i32.const 12) (i32.const 1)) (i32.const 8)";

/// The globals and imports that [`COUNT`] needs, beside these.
fn counting(imports: &str) -> String {
    format!("{} {imports} (global $runs (mut i32) (i32.const 0))", import("log", "write", "(param i32 i32 i32)"))
}

/// Does what its body's first character says.
fn body_is(letter: char, then: &str) -> String {
    format!("(if (i32.eq (i32.load8_u (local.get 12)) (i32.const {})) (then {then}))", u32::from(letter))
}

/// A filter that counts its runs. It keeps all events, but for those that tell it to end in another way.
fn counter(more: &str) -> Bytes {
    let fail =
        "(i64.store (i32.const 8) (i64.const 1)) (i64.store (i32.const 16) (i64.const 0)) (i64.store (i32.const 24) (i64.const 0))
        (i64.store (i32.const 32) (i64.const 0)) (return (i32.const 8))";
    let ends = [
        body_is('x', "(unreachable)"),
        body_is('l', "(loop (br 0))"),
        body_is('g', "(drop (memory.grow (i32.const 1000)))"),
        body_is('h', "(loop (call $write (i32.const 1) (i32.const 64) (i32.const 1)) (br 0))"),
        body_is('f', fail),
    ];
    filter(&format!("{} {more}", counting("")), &format!("{COUNT} {} {KEEP}", ends.concat()))
}

fn reuse(invocations: u32) -> Option<Reuse> {
    Some(Reuse { connection: ConnectionId(1), stage: 0, invocations })
}

/// The run's number in its instance, as its guest tells.
fn count<T>(report: &Report<T>) -> u32 {
    let [line] = &report.run.logs[..] else { panic!("{:?} {:?}", report.run.logs, report.run.outcome) };
    u32::from(line.strip_prefix("info: ").unwrap().chars().next().unwrap()) - u32::from('0')
}

/// Runs a filter again and again.
async fn counts(sandbox: &Sandbox, call: &Call, runs: usize) -> Vec<u32> {
    let mut counts = Vec::new();
    for _ in 0..runs {
        let report = sandbox.runtime.filter(call.clone()).await;
        assert!(report.result.as_ref().is_ok_and(|kept| *kept), "{:?}", report.result);
        counts.push(count(&report));
    }
    counts
}

#[tokio::test]
async fn a_stage_that_asks_for_it_finds_what_its_runs_left_and_no_other_does() {
    let sandbox = Sandbox::new();
    let version = sandbox.add(counter(""));
    let fresh = call(version, "{}");
    assert_eq!(counts(&sandbox, &fresh, 3).await, [1, 1, 1]);
    assert_eq!(sandbox.runtime.idle_instances(), (0, 0));

    let mine = Call { reuse: reuse(100), ..fresh.clone() };
    assert_eq!(counts(&sandbox, &mine, 3).await, [1, 2, 3]);
    assert_eq!(counts(&sandbox, &fresh, 1).await, [1], "who did not ask for it never gets one");
    let (other, same) = (sandbox.add(counter("(data (i32.const 4096) \"other\")")), mine.reuse.unwrap());
    let others = [
        ("tenant", Call { tenant: TenantId(2), ..mine.clone() }),
        ("connection", Call { reuse: Some(Reuse { connection: ConnectionId(2), ..same }), ..mine.clone() }),
        ("stage", Call { reuse: Some(Reuse { stage: 1, ..same }), ..mine.clone() }),
        ("version", Call { version: other, ..mine.clone() }),
        ("configuration, though it says the same", Call { config: "{}".into(), ..mine.clone() }),
        ("secrets", Call { secrets: Arc::new(Secrets::default()), ..mine.clone() }),
    ];
    for (number, (another, call)) in others.iter().enumerate() {
        assert_eq!(counts(&sandbox, call, 2).await, [1, 2], "another {another}");
        assert_eq!(counts(&sandbox, &mine, 1).await, [4 + u32::try_from(number).unwrap()], "beside another {another}");
    }
}

#[tokio::test]
async fn an_instance_goes_after_as_many_runs_as_the_stage_says() {
    let sandbox = Sandbox::new();
    let version = sandbox.add(counter(""));
    let three = Call { reuse: reuse(3), ..call(version, "{}") };
    assert_eq!(counts(&sandbox, &three, 7).await, [1, 2, 3, 1, 2, 3, 1]);
    let one = Call { reuse: reuse(1), tenant: TenantId(2), ..three };
    assert_eq!(counts(&sandbox, &one, 3).await, [1, 1, 1]);
}

#[tokio::test]
async fn a_run_that_is_stopped_takes_its_instance_along() {
    let sandbox = Sandbox::new();
    let version = sandbox.add(counter(""));
    let limits = Limits { fuel: 2_000_000, log_flood: 10, ..Limits::default() };
    let good = Call { reuse: reuse(100), limits, ..call(version, "{}") };
    let like = |body: &'static str| Call { request: call(version, body).request, ..good.clone() };
    let stops = [("x", "aborted"), ("l", "fuel_exhausted"), ("g", "memory_limit"), ("h", "log_flood")];
    for (body, code) in stops {
        assert_eq!(counts(&sandbox, &good, 2).await, [1, 2], "{code}");
        let report = sandbox.runtime.filter(like(body)).await;
        assert_eq!(report.result.unwrap_err().code(), code);
        assert_eq!(report.run.logs[0], "info: 3", "it was in the same instance");
        assert_eq!(sandbox.runtime.idle_instances(), (0, 0), "{code}");
    }
    // What it says itself is an answer like any other.
    assert_eq!(counts(&sandbox, &good, 1).await, [1]);
    let failed = sandbox.runtime.filter(like("f")).await;
    assert_eq!((failed.result.as_ref().unwrap_err().code(), count(&failed)), ("plugin_failed", 2));
    assert_eq!(counts(&sandbox, &good, 1).await, [3]);
}

#[tokio::test]
async fn an_answer_that_cannot_be_taken_ends_its_instance_too() {
    let sandbox = Sandbox::new();
    // With the body `x` a list of outputs outside of the memory, with `y` one of two, else an empty one.
    let list = |at: i32, length: u32| {
        format!("(i32.store (i32.const 12) (i32.const {at})) (i32.store (i32.const 16) (i32.const {length}))")
    };
    let (outside, two) = (body_is('x', &list(-16, 1000)), body_is('y', &list(1 << 20, 2)));
    let body = format!("{COUNT} (i32.store8 (i32.const 8) (i32.const 0)) {} {outside} {two} (i32.const 8)", list(256, 0));
    let version = sandbox.add(transform(&counting(""), &body));
    let good = Call { reuse: reuse(100), limits: Limits { outputs: 1, ..Limits::default() }, ..call(version, "{}") };
    for (body, code) in [("x", "output_unreadable"), ("y", "too_many_outputs")] {
        for expected in [1, 2] {
            assert_eq!(count(&sandbox.runtime.transform(good.clone()).await), expected);
        }
        let bad = Call { request: call(version, body).request, ..good.clone() };
        let report = sandbox.runtime.transform(bad).await;
        assert_eq!((report.result.unwrap_err().code(), &report.run.logs[0][..]), (code, "info: 3"));
        assert_eq!(sandbox.runtime.idle_instances(), (0, 0), "{code}");
    }
}

#[tokio::test]
async fn every_run_has_its_own_fuel_calls_logs_time_and_random_numbers() {
    let sandbox = Sandbox::new();
    let imports = [
        import("clock", "now", "(result i64)"),
        import("random", "number", "(result i64)"),
        import("random", "bytes", "(param i32 i32)"),
    ];
    // Logs a random letter, one for the last digits of the time, and another random one; then works.
    let letter = |at: u32, number: &str| {
        format!("(i32.store8 (i32.const {at}) (i32.add (i32.const 65) (i32.wrap_i64 (i64.and {number} (i64.const 15)))))")
    };
    let body = format!(
        "(call $bytes (i32.const 5) (i32.const 96)) {} {} {} (call $write (i32.const 1) (i32.const 64) (i32.const 3))
         (local.set 0 (i32.const 60000)) (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) {KEEP}",
        letter(64, "(call $number)"),
        letter(65, "(call $now)"),
        letter(66, "(call $number)"),
    );
    let version = sandbox.add(filter(&counting(&imports.concat()), &body));
    // Enough for one run, and not for two.
    let limits = Limits { fuel: 500_000, host_calls: 5, log_lines: 1, log_flood: 1, ..Limits::default() };
    let first = Call { reuse: reuse(100), limits, ..call(version, "{}") };
    let mut said = Vec::new();
    for event in [7, 8, 9, 7] {
        let of_event = Call { event: EventId(event.into()), accepted_at: Timestamp(1_700_000_000_000 + event), ..first.clone() };
        let again = sandbox.runtime.filter(of_event.clone()).await;
        let fresh = sandbox.runtime.filter(Call { reuse: None, ..of_event }).await;
        assert!(again.result.is_ok() && fresh.result.is_ok(), "{:?} {:?}", again.result, fresh.result);
        assert!(fresh.run.fuel > 250_000, "{}", fresh.run.fuel);
        assert_eq!(again.run.logs, fresh.run.logs, "event {event}");
        said.push(again.run.logs[0].clone());
    }
    assert_eq!(said[0], said[3]);
    assert!(said[0] != said[1] && said[1] != said[2], "{said:?}");
    assert_eq!(sandbox.runtime.idle_instances().0, 1);
}

#[tokio::test]
async fn memory_that_runs_take_adds_up() {
    let sandbox = Sandbox::new();
    // A MiB each time; with the body `m` 13 more.
    let grow = format!("(drop (memory.grow (i32.const 16))) {}", body_is('m', "(drop (memory.grow (i32.const 208)))"));
    let version = sandbox.add(filter(&counting(""), &format!("{COUNT} {grow} {KEEP}")));
    let limits = Limits { memory: 32 << 20, ..Limits::default() };
    let grows = Call { reuse: reuse(100), limits, ..call(version, "{}") };
    let mut runs = Vec::new();
    for _ in 0..10 {
        let report = sandbox.runtime.filter(grows.clone()).await;
        runs.push((u64::from(count(&report)), report.run.memory / MIB));
    }
    let expected: Vec<_> = (1..=9).map(|count| (count, 16 + count)).chain([(1, 17)]).collect();
    assert_eq!(runs, expected, "with more than three quarters of its limit it is not kept");

    let much = Call { request: call(version, "m").request, ..grows.clone() };
    counts(&sandbox, &grows, 2).await;
    let report = sandbox.runtime.filter(much.clone()).await;
    assert_eq!((report.result.unwrap_err().code(), &report.run.logs[0][..]), ("memory_limit", "info: 4"));
    let report = sandbox.runtime.filter(much).await;
    assert_eq!((report.run.memory / MIB, count(&report)), (30, 1), "a fresh one has room for it");
}

#[tokio::test]
async fn what_waits_is_bounded_and_the_least_used_goes_first() {
    let by_number = Sandbox::with(|config| config.idle_instances = 2);
    let by_bytes = Sandbox::with(|config| config.idle_bytes = IDLE);
    for sandbox in [by_number, by_bytes] {
        let version = sandbox.add(counter(""));
        let base = call(version, "{}");
        let stage = |stage| Call { reuse: Some(Reuse { stage, ..reuse(100).unwrap() }), ..base.clone() };
        for number in 0..5 {
            assert_eq!(counts(&sandbox, &stage(number), 1).await, [1]);
            let (waiting, bytes) = sandbox.runtime.idle_instances();
            assert!(waiting <= 2 && (waiting << 24..IDLE).contains(&bytes), "{waiting} {bytes}");
        }
        assert_eq!(counts(&sandbox, &stage(3), 1).await, [2]);
        assert_eq!(counts(&sandbox, &stage(0), 1).await, [1], "it takes the place of the fifth");
        assert_eq!(counts(&sandbox, &stage(3), 1).await, [3]);
        assert_eq!(counts(&sandbox, &stage(4), 1).await, [1]);
    }
    let none = Sandbox::with(|config| config.idle_instances = 0);
    let version = none.add(counter(""));
    assert_eq!(counts(&none, &Call { reuse: reuse(100), ..call(version, "{}") }, 3).await, [1, 1, 1]);
}

#[tokio::test]
async fn what_waits_goes_with_time_and_with_its_version() {
    let sandbox = Sandbox::with(|config| config.idle_time = Duration::from_millis(40));
    let version = sandbox.add(counter(""));
    let mine = Call { reuse: reuse(100), ..call(version, "{}") };
    counts(&sandbox, &mine, 1).await;
    eventually("it has waited for too long", SOON, async || (sandbox.runtime.idle_instances() == (0, 0)).then_some(())).await;
    assert_eq!(counts(&sandbox, &mine, 1).await, [1]);

    let sandbox = Sandbox::with(|config| config.cached_versions = 1);
    let versions = ["", "(data (i32.const 4096) \"other\")"].map(|more| sandbox.add(counter(more)));
    for version in [versions[0], versions[1], versions[0]] {
        assert_eq!(counts(&sandbox, &Call { version, ..mine.clone() }, 2).await, [1, 2], "another one was loaded instead");
        assert_eq!(sandbox.runtime.idle_instances().0, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_a_stage_at_once_have_an_instance_each() {
    let sandbox = Sandbox::with(|config| (config.threads, config.tenant_queue, config.idle_bytes) = (4, 300, 1 << 30));
    let version = sandbox.add(counter(""));
    let mine = Call { reuse: reuse(9), ..call(version, "{}") };
    counts(&sandbox, &mine, 1).await;
    let runs = join_all((0..300).map(|_| sandbox.runtime.filter(mine.clone()))).await;
    let mut by_count = BTreeMap::from([(1, 1)]);
    for report in &runs {
        assert!(report.result.is_ok(), "{:?}", report.result);
        *by_count.entry(count(report)).or_insert(0) += 1;
    }
    let numbers: Vec<u32> = (1..=9).map(|count| by_count.remove(&count).unwrap_or(0)).collect();
    assert!(by_count.is_empty(), "more runs than the stage allows: {by_count:?}");
    assert_eq!(numbers.iter().sum::<u32>(), 301);
    assert!(numbers.is_sorted_by(|before, after| before >= after), "two runs had one instance at once: {numbers:?}");
    // At least 34, and what was not used up waits: one for each thread that ran them, the long ones' too.
    assert!((34..=44).contains(&numbers[0]), "{numbers:?}");
    assert!(sandbox.runtime.idle_instances().0 <= 8);
}

/// Answers every question with a number, and notes it.
#[derive(Default)]
struct Asked(Mutex<Vec<String>>);

#[async_trait]
impl Tables for Asked {
    async fn ask(&self, _: &Place, number: u32, op: &TableOp) -> Result<TableResult, Box<dyn Error + Send + Sync>> {
        self.0.lock().unwrap().push(format!("{number}: {}", op.key));
        assert!(matches!(op.action, TableAction::Get));
        Ok(Ok(TableAnswer::Value(None)))
    }
}

/// With the body `k` it asks for an entry under its count, which a fresh instance does not know.
#[tokio::test]
async fn a_run_that_asks_its_table_has_fresh_instances_alone() {
    let tables = Arc::new(Asked::default());
    let sandbox = Sandbox::with_tables(|_| {}, tables.clone());
    let get = import("kv", "get", "(param i32 i32 i32)");
    let ask = body_is(
        'k',
        "(call $get (i32.const 64) (i32.const 1) (i32.const 96)) (call $get (i32.const 64) (i32.const 1) (i32.const 96))",
    );
    let version = sandbox.add(filter(&counting(&get), &format!("{COUNT} {ask} {KEEP}")));
    let place =
        Place { tenant: TenantId(1), plugin: PluginId(1), event: EventId(7), connection: ConnectionId(1), stage: 0, input: 0 };
    let quiet = Call { reuse: reuse(100), table: Table::live(place), ..call(version, "{}") };
    let asks = Call { request: call(version, "k").request, ..quiet.clone() };
    assert_eq!(counts(&sandbox, &quiet, 2).await, [1, 2], "a table that is not asked changes nothing");
    let report = sandbox.runtime.filter(asks.clone()).await;
    assert!(report.result.as_ref().is_ok_and(|kept| *kept) && report.used_table, "{:?}", report.result);
    assert_eq!(count(&report), 1);
    assert_eq!(
        report.price(),
        report.run.fuel + 2 * (TABLE_FUEL + TABLE_BYTE_FUEL),
        "each question is paid for, and each byte of its key"
    );
    assert_eq!(*tables.0.lock().unwrap(), ["0: 1", "1: 1"], "what an older instance asked is not answered");
    assert_eq!(sandbox.runtime.idle_instances(), (0, 0));
    assert_eq!(counts(&sandbox, &quiet, 2).await, [1, 2]);
    let trial = Call { table: Table::trial(place), ..asks };
    assert_eq!(count(&sandbox.runtime.filter(trial).await), 1);
}

/// A memory of two tenants' instances, one after the other in the same places: the second finds none of the first's.
#[tokio::test]
async fn a_place_that_is_given_up_is_clean_for_the_next() {
    let sandbox = Sandbox::with(|config| (config.threads, config.long_threads, config.idle_instances) = (1, 1, 1));
    // Traps if anything stands where it then writes.
    let check =
        "(local.set 0 (i32.const 1048576)) (loop (if (i64.ne (i64.load (local.get 0)) (i64.extend_i32_u (global.get $runs)))
        (then (unreachable))) (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 4096))) (i32.const 16000000))))";
    let write = "(local.set 0 (i32.const 1048576)) (loop (i64.store (local.get 0) (i64.extend_i32_u (global.get $runs)))
        (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 4096))) (i32.const 16000000))))";
    let version = sandbox.add(filter(&counting(""), &format!("{check} {COUNT} {write} {KEEP}")));
    let of = |tenant| Call { tenant: TenantId(tenant), reuse: reuse(100), ..call(version, "{}") };
    let (first, second) = (of(1), of(2));
    for round in 0..3 {
        for tenant in [&first, &second] {
            assert_eq!(counts(&sandbox, tenant, 3).await, [1, 2, 3], "round {round}");
        }
    }
}
