//! Attacks on a run from where nobody looks at first: what is done after the answer, copies in bulk,
//! handles, calls whose caller has gone.

use std::time::Duration;

use bytes::Bytes;
use tidegate::event::TenantId;
use tidegate::plugin::{Limits, LoadError};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::bombs::exporting_a_filter;
use crate::fixture::{Sandbox, call};
use crate::guest::filter;

/// An answer at address 8: keep.
const KEEP: &str = "(i32.store8 (i32.const 8) (i32.const 0)) (i32.store8 (i32.const 12) (i32.const 1)) (i32.const 8)";
const LOOP: &str = "(loop (br 0)) (unreachable)";

async fn code(component: Bytes) -> String {
    let sandbox = Sandbox::new();
    sandbox.runtime.filter(call(sandbox.add(component), "{}")).await.run.outcome.expect_err("stopped").code
}

#[tokio::test]
async fn work_after_the_answer_counts() {
    let after = r#"(func (export "cabi_post_tidegate:plugin/filter@1.1.0#keep") (param i32) (loop (br 0)))"#;
    assert_eq!(code(filter(after, KEEP)).await, "fuel_exhausted");
}

#[tokio::test]
async fn bulk_copies_cost_fuel_by_the_byte() {
    for copy in [
        "(memory.fill (i32.const 1048576) (i32.const 90) (i32.const 8000000))",
        "(memory.copy (i32.const 1048576) (i32.const 2097152) (i32.const 8000000))",
    ] {
        assert_eq!(code(filter("", &format!("(loop {copy} (br 0)) (unreachable)"))).await, "fuel_exhausted", "{copy}");
    }
}

#[tokio::test]
async fn a_flood_of_handles_is_stopped() {
    let component = exporting_a_filter(
        r#"(type $thing (resource (rep i32)))
           (core func $new (canon resource.new $thing))
           (core module $n
                (import "" "new" (func $new (param i32) (result i32)))
                (func $flood (loop (drop (call $new (i32.const 1))) (br 0)))
                (start $flood))
           (core instance (instantiate $n (with "" (instance (export "new" (func $new))))))"#,
    );
    match Sandbox::new().runtime.inspect(component).await {
        Err(LoadError::Refused(refusal)) => {
            assert_eq!(refusal.code(), "instantiation_failed", "{refusal}");
            assert!(refusal.to_string().contains("handle") || refusal.to_string().contains("resource"), "{refusal}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn traps_give_their_place_back() {
    let sandbox = Sandbox::with(|config| (config.threads, config.long_threads) = (1, 1));
    // At once, with memory and tables grown, out of bounds.
    let grown = "(drop (memory.grow (i32.const 100))) (drop (table.grow $t (ref.null func) (i32.const 1000))) (unreachable)";
    let traps = [filter("", "(unreachable)"), filter("(table $t 1 funcref)", grown), filter("", "(i32.load (i32.const -4))")];
    let traps = traps.map(|component| sandbox.add(component));
    let works = sandbox.add(filter("(table $t 1 funcref)", KEEP));
    for round in 0..200 {
        let version = traps[round % traps.len()];
        sandbox.runtime.filter(call(version, "{}")).await.result.expect_err("it traps");
    }
    for _ in 0..10 {
        assert!(sandbox.runtime.filter(call(works, "{}")).await.result.unwrap());
    }
}

#[tokio::test]
async fn callers_that_went_away_leave_no_work_and_hold_no_place() {
    let sandbox = Sandbox::with(|config| {
        (config.threads, config.long_threads) = (1, 1);
        (config.queue, config.tenant_queue) = (8, 4);
    });
    let spins = sandbox.add(filter("", LOOP));
    let keeps = sandbox.add(filter("", KEEP));
    assert!(sandbox.runtime.filter(call(keeps, "{}")).await.result.unwrap());
    let mut callers = JoinSet::new();
    for number in 0..200 {
        let mut call = call(spins, "{}");
        call.limits = Limits { fuel: u64::MAX, wall: Duration::from_millis(20), ..Limits::default() };
        let runtime = sandbox.runtime.clone();
        // Some before they are queued, some while they run.
        let patience = Duration::from_millis(number % 20);
        callers.spawn(async move { drop(timeout(patience, runtime.filter(call)).await) });
    }
    callers.join_all().await;
    // All places of the tenant, and of the pool, are free again.
    let mut calls = JoinSet::new();
    for number in 0..64 {
        let mut call = call(keeps, "{}");
        call.tenant = TenantId(number % 8);
        let runtime = sandbox.runtime.clone();
        calls.spawn(async move { runtime.filter(call).await.result.unwrap() });
    }
    assert!(calls.join_all().await.into_iter().all(|kept| kept));
}
