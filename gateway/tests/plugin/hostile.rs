//! Guests that loop, recurse, grow, flood or lie. Each ends with an error of its own, and hurts nobody else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate::event::{Failure, Party, SharedRequest, TenantId};
use tidegate::plugin::limits::MAX_FRAMES;
use tidegate::plugin::{Access, Call, Frame, Limits, Secrets};

use crate::fixture::{Sandbox, call, prebuilt};
use crate::guest::{filter, import, transform};

/// An answer at address 8: keep.
const KEEP: &str = "(i32.store8 (i32.const 8) (i32.const 0)) (i32.store8 (i32.const 12) (i32.const 1)) (i32.const 8)";

async fn filter_failure(component: Bytes, limits: Limits) -> Failure {
    let sandbox = Sandbox::new();
    let call = Call { limits, ..call(sandbox.add(component), "{}") };
    let report = sandbox.runtime.filter(call).await;
    let failure = report.run.outcome.expect_err("a hostile guest has no answer");
    assert_eq!(report.result.unwrap_err().code(), failure.code);
    assert_eq!(failure.party, Party::Plugin, "{failure:?}");

    let after = call_github(&sandbox).await;
    assert_eq!(after, Ok(0), "the neighbour is served after {}", failure.code);
    failure
}

async fn call_github(sandbox: &Sandbox) -> Result<u32, Failure> {
    let mut call = call(sandbox.add(prebuilt("github-push-to-chat")), "{}");
    let mut request = call.request.into_request();
    request.headers.clear();
    call.request = SharedRequest::Made(request.into());
    sandbox.runtime.transform(call).await.run.outcome
}

async fn transform_failure(component: Bytes) -> Failure {
    let sandbox = Sandbox::new();
    sandbox.runtime.transform(call(sandbox.add(component), "{}")).await.run.outcome.expect_err("a hostile guest has no answer")
}

#[tokio::test]
async fn an_endless_loop_uses_up_its_fuel() {
    let limits = Limits { fuel: 1_000_000, ..Limits::default() };
    let failure = filter_failure(filter("", "(loop (br 0)) (unreachable)"), limits.clone()).await;
    assert_eq!(failure.code, "fuel_exhausted");
    assert!(!failure.retryable);
    let start = filter("(func $spin (loop (br 0))) (start $spin)", KEEP);
    assert_eq!(filter_failure(start, limits).await.code, "fuel_exhausted", "a start function counts");
}

#[tokio::test]
async fn what_stops_while_it_runs_says_where() {
    let deep = "(func $innermost unreachable) (func $_ZN5shape6middle17h0123456789abcdefE (call $innermost))";
    let trapping = filter(deep, "(call $_ZN5shape6middle17h0123456789abcdefE) (i32.const 8)");
    let spinning = filter("(func $spin (loop (br 0)))", "(call $spin) (i32.const 8)");
    let sandbox = Sandbox::new();
    let ask = async |component: Bytes| {
        let limits = Limits { fuel: 100_000, ..Limits::default() };
        sandbox.runtime.filter(Call { limits, ..call(sandbox.add(component), "{}") }).await.backtrace
    };
    let names = |frames: &[Frame]| frames.iter().map(|frame| frame.function.clone()).collect::<Vec<_>>();
    let trapped = ask(trapping).await;
    assert_eq!(names(&trapped), ["innermost", "shape::middle", "main"], "{trapped:?}");
    assert!(trapped.iter().all(|frame| frame.offset > 0), "{trapped:?}");
    assert_eq!(names(&ask(spinning).await), ["spin", "main"]);
    assert!(ask(filter("", KEEP)).await.is_empty());
    let endless = filter("(func $f (result i32) (i32.add (call $f) (i32.const 1)))", "(call $f)");
    assert_eq!(ask(endless).await.len(), MAX_FRAMES, "a backtrace is bounded");
}

/// What is not known to be long yet begins among the short ones, on their only thread.
#[tokio::test]
async fn a_call_that_turns_out_to_be_long_holds_up_no_other() {
    let sandbox = Sandbox::with(|config| (config.threads, config.long_threads) = (1, 1));
    let (endless, quiet) = (sandbox.add(filter("", "(loop (br 0)) (unreachable)")), sandbox.add(filter("", KEEP)));
    // Both are loaded.
    let once = Call { limits: Limits { fuel: 1000, ..Limits::default() }, ..call(endless, "{}") };
    assert_eq!(sandbox.runtime.filter(once).await.result.unwrap_err().code(), "fuel_exhausted");
    assert!(sandbox.runtime.filter(call(quiet, "{}")).await.result.is_ok_and(|kept| kept));

    let limits = Limits { fuel: u64::MAX, wall: Duration::from_secs(20), ..Limits::default() };
    let runs = |tenant| {
        let (runtime, limits) = (sandbox.runtime.clone(), limits.clone());
        let call = Call { tenant: TenantId(tenant), limits, ..call(endless, "{}") };
        tokio::spawn(async move { runtime.filter(call).await })
    };
    let endless = [runs(2), runs(2), runs(3)];
    tokio::task::yield_now().await;
    for _ in 0..3 {
        assert!(sandbox.runtime.filter(call(quiet, "{}")).await.result.is_ok_and(|kept| kept));
    }
    assert!(endless.iter().all(|run| !run.is_finished()), "they run, or wait for a place among the long ones");
}

#[tokio::test]
async fn a_loop_with_endless_fuel_meets_the_wall_clock() {
    let limits = Limits { fuel: u64::MAX, wall: Duration::from_millis(50), ..Limits::default() };
    let failure = filter_failure(filter("", "(loop (br 0)) (unreachable)"), limits).await;
    assert_eq!(failure.code, "wall_clock");
    assert!(failure.retryable, "a loaded machine may have been at fault");
}

#[tokio::test]
async fn endless_recursion_exhausts_the_stack() {
    let component = filter("(func $f (result i32) (i32.add (call $f) (i32.const 1)))", "(call $f)");
    assert_eq!(filter_failure(component, Limits::default()).await.code, "stack_overflow");
}

#[tokio::test]
async fn growing_memory_and_tables_meet_their_limits() {
    let memory = filter("", "(loop (drop (memory.grow (i32.const 16))) (br 0)) (unreachable)");
    let failure = filter_failure(memory, Limits { memory: 20 << 20, ..Limits::default() }).await;
    assert_eq!(failure.code, "memory_limit");
    assert!(failure.detail.contains("20971520"), "{}", failure.detail);
    let table =
        filter("(table $t 1 funcref)", "(loop (drop (table.grow $t (ref.null func) (i32.const 100))) (br 0)) (unreachable)");
    assert_eq!(filter_failure(table, Limits::default()).await.code, "table_limit");
    let initial = filter("", KEEP);
    let failure = filter_failure(initial, Limits { memory: 1 << 20, ..Limits::default() }).await;
    assert_eq!(failure.code, "memory_limit", "what an instance begins with counts");
}

#[tokio::test]
async fn floods_of_host_calls_and_logs_are_stopped() {
    let calls = filter(&import("clock", "now", "(result i64)"), "(loop (drop (call $now)) (br 0)) (unreachable)");
    assert_eq!(filter_failure(calls.clone(), Limits::default()).await.code, "host_call_flood");
    let charged = Limits { fuel: 100_000, ..Limits::default() };
    assert_eq!(filter_failure(calls, charged).await.code, "fuel_exhausted", "host calls cost fuel");

    let log = import("log", "write", "(param i32 i32 i32)");
    let line = "(loop (call $write (i32.const 1) (i32.const 0) (i32.const 100)) (br 0)) (unreachable)";
    assert_eq!(filter_failure(filter(&log, line), Limits::default()).await.code, "log_flood");
    let huge = "(loop (call $write (i32.const 1) (i32.const 2097152) (i32.const 8000000)) (br 0)) (unreachable)";
    assert_eq!(filter_failure(filter(&log, huge), Limits::default()).await.code, "fuel_exhausted", "bytes cost fuel");
}

#[tokio::test]
async fn too_many_random_bytes_are_refused_by_name() {
    let component =
        filter(&import("random", "bytes", "(param i32 i32)"), "(call $bytes (i32.const 5000) (i32.const 8)) (unreachable)");
    assert_eq!(filter_failure(component, Limits::default()).await.code, "random_request_too_large");
}

#[tokio::test]
async fn aborts_and_traps_have_names() {
    assert_eq!(filter_failure(filter("", "(unreachable)"), Limits::default()).await.code, "aborted");
    let failure = filter_failure(filter("", "(i32.div_u (i32.const 1) (i32.const 0))"), Limits::default()).await;
    assert_eq!((&failure.code[..], failure.detail.contains("divide by zero")), ("trap", true), "{}", failure.detail);
    let failure = filter_failure(filter("", "(i32.load (i32.const -4))"), Limits::default()).await;
    assert_eq!((&failure.code[..], failure.detail.contains("out of bounds")), ("trap", true), "{}", failure.detail);
}

#[tokio::test]
async fn garbage_answers_are_refused() {
    let answers = [
        // The answer lies beyond the memory, is not aligned, is neither ok nor error, holds a bool that is none.
        "(i32.const -16)",
        "(i32.const 9)",
        "(i32.store8 (i32.const 8) (i32.const 7)) (i32.const 8)",
        // A failure whose code lies beyond the memory.
        "(i32.store8 (i32.const 8) (i32.const 1)) (i32.store (i32.const 12) (i32.const -8)) (i32.store (i32.const 16) (i32.const 100)) (i32.const 8)",
        // A failure whose code is not UTF-8.
        "(i32.store8 (i32.const 8) (i32.const 1)) (i32.store (i32.const 12) (i32.const 64)) (i32.store (i32.const 16) (i32.const 1))
         (i32.store8 (i32.const 64) (i32.const 255)) (i32.const 8)",
    ];
    for answer in answers {
        assert_eq!(filter_failure(filter("", answer), Limits::default()).await.code, "output_unreadable", "{answer}");
    }
    let log = import("log", "write", "(param i32 i32 i32)");
    let component = filter(
        &log,
        "(i32.store8 (i32.const 0) (i32.const 255)) (call $write (i32.const 1) (i32.const 0) (i32.const 1)) (unreachable)",
    );
    assert_eq!(filter_failure(component, Limits::default()).await.code, "output_unreadable");
}

/// `count` outputs, all of the same shape: body of `length` bytes at address 0.
fn outputs(count: u32, length: u32) -> Bytes {
    let body = format!(
        "(local $i i32)
         (loop $next
            (i32.store8 offset=1048620 (i32.mul (local.get $i) (i32.const 64)) (i32.const 1))
            (i32.store offset=1048628 (i32.mul (local.get $i) (i32.const 64)) (i32.const {length}))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (i32.const {count}))))
         (i32.store (i32.const 12) (i32.const 1048576))
         (i32.store (i32.const 16) (i32.const {count}))
         (i32.const 8)"
    );
    transform("", &body)
}

#[tokio::test]
async fn oversized_outputs_are_refused() {
    let sandbox = Sandbox::new();
    let report = sandbox.runtime.transform(call(sandbox.add(outputs(2, 5)), "{}")).await;
    let requests = report.result.unwrap();
    assert_eq!((requests.len(), &requests[1].body[..], &requests[1].method[..]), (2, &[0; 5][..], "POST"));

    assert_eq!(transform_failure(outputs(1, 8_500_000)).await.code, "output_too_large");
    assert_eq!(transform_failure(outputs(257, 1)).await.code, "too_many_outputs");
    // One buffer named many times: never copied out more than the limit allows.
    assert_eq!(transform_failure(outputs(200, 1_000_000)).await.code, "output_unreadable");
}

#[tokio::test]
async fn an_instance_never_sees_what_another_left() {
    let sandbox = Sandbox::with(|config| (config.threads, config.long_threads) = (1, 1));
    // One after the other they have the same memory; the data of the last is mapped, that of the others copied.
    let versions = [1, 100_000, 1_000_000].map(|length| sandbox.add(dirties(length)));
    for round in 0..10 {
        for version in versions.into_iter().chain(versions) {
            let report = sandbox.runtime.filter(call(version, "{}")).await;
            assert!(report.result.unwrap(), "round {round}");
        }
    }
}

/// A filter with so many bytes of data. Traps if one of them, or a byte before, between or after them, is not what it was made to be; then
/// overwrites them all.
fn dirties(length: usize) -> Bytes {
    const DATA: usize = 2 << 20;
    let traps_unless =
        |at: usize, value: u8| format!("(if (i32.ne (i32.load8_u (i32.const {at})) (i32.const {value})) (then (unreachable)))");
    let expected = [(4096, 0), (DATA - 1, 0), (DATA, b'd'), (DATA + length - 1, b'd'), (DATA + length, 0), (DATA + (2 << 20), 0)];
    let checks: String = expected.into_iter().map(|(at, value)| traps_unless(at, value)).collect();
    let data = format!(r#"(data (i32.const {DATA}) "{}")"#, "d".repeat(length));
    let overwrite = "(memory.fill (i32.const 4096) (i32.const 90) (i32.const 5000000))";
    filter(&data, &format!("{checks} {overwrite} {KEEP}"))
}

#[tokio::test]
async fn what_a_guest_logs_is_cleaned_and_kept_even_if_it_traps() {
    let log = format!(r#"{} (data (i32.const 0) "a\1b[31m\0ab")"#, import("log", "write", "(param i32 i32 i32)"));
    let sandbox = Sandbox::new();
    let component = filter(&log, "(call $write (i32.const 2) (i32.const 0) (i32.const 8)) (unreachable)");
    let report = sandbox.runtime.filter(call(sandbox.add(component), "{}")).await;
    assert_eq!(report.run.logs, ["warn: a [31m b"]);
}

#[tokio::test]
async fn clock_random_and_secrets_are_the_events_own() {
    // Writes what it is told as a log line each: the time, a random number, a secret, and one that is kept for signing.
    let fields = [
        import("clock", "now", "(result i64)"),
        import("random", "number", "(result i64)"),
        import("secret", "get", "(param i32 i32 i32)"),
        import("hmac", "sign", "(param i32 i32 i32 i32 i32 i32)"),
        r#"(data (i32.const 128) "tokenkey")"#.to_owned(),
    ]
    .concat();
    let checks = "
        (if (i64.ne (call $now) (i64.const 1700000000000)) (then (unreachable)))
        (if (i64.eq (call $number) (call $number)) (then (unreachable)))
        (call $get (i32.const 128) (i32.const 5) (i32.const 256))
        (if (i32.ne (i32.load8_u (i32.const 256)) (i32.const 1)) (then (unreachable)))
        (if (i32.ne (i32.load8_u (i32.load (i32.const 260))) (i32.const 115)) (then (unreachable)))
        (call $get (i32.const 133) (i32.const 3) (i32.const 256))
        (if (i32.ne (i32.load8_u (i32.const 256)) (i32.const 0)) (then (unreachable)))
        (call $sign (i32.const 1) (i32.const 133) (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 256))
        (if (i32.ne (i32.load8_u (i32.const 256)) (i32.const 1)) (then (unreachable)))
        (if (i32.ne (i32.load (i32.const 264)) (i32.const 32)) (then (unreachable)))";
    let sandbox = Sandbox::new();
    let mut call = call(sandbox.add(filter(&fields, &format!("{checks} {KEEP}"))), "{}");
    let mut secrets = Secrets::default();
    secrets.insert("token".into(), Bytes::from_static(b"s3cret"), Access::Read);
    secrets.insert("key".into(), Bytes::from_static(b"k"), Access::Sign);
    call.secrets = Arc::new(secrets);
    assert!(sandbox.runtime.filter(call).await.result.unwrap());
}
