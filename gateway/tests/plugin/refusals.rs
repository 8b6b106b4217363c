//! Components that are not taken, each with the reason and the mend.

use std::time::Duration;

use bytes::Bytes;
use tidegate::plugin::{CompileLimits, LoadError, PluginConfig, Refusal, screen};

use crate::bombs::{exporting_a_filter, flat, nested, wide_tables};
use crate::fixture::{Sandbox, call};
use crate::guest::{filter, wat};

const KEEP: &str = "(i32.store8 (i32.const 12) (i32.const 1)) (i32.const 8)";

async fn refusal_with(component: Bytes, change: impl FnOnce(&mut PluginConfig)) -> Refusal {
    match Sandbox::with(change).runtime.inspect(component).await {
        Err(LoadError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

async fn refusal(component: impl Into<Bytes>) -> Refusal {
    refusal_with(component.into(), |_| {}).await
}

#[tokio::test]
async fn what_is_no_component_is_refused_by_what_it_is() {
    assert_eq!(refusal(wat("(module)")).await, Refusal::CoreModule);
    assert_eq!(refusal(&b"not wasm"[..]).await, Refusal::NotWasm);
    assert_eq!(refusal(Bytes::new()).await, Refusal::NotWasm);
    let engine = wasmtime::Engine::default();
    let compiled = engine.precompile_component(&wat("(component)")).unwrap();
    assert_eq!(refusal(compiled).await, Refusal::Precompiled);
    let component = filter("", KEEP);
    for cut in [9, 20, component.len() / 3, component.len() - 1] {
        let refusal = screen(&component[..cut], &CompileLimits::default()).unwrap_err();
        assert_eq!(refusal.code(), "invalid_component", "cut at {cut}: {refusal}");
    }
}

#[tokio::test]
async fn imports_and_exports_are_checked_by_name() {
    assert_eq!(refusal(wat("(component)")).await, Refusal::MissingExport);
    let wasi = refusal(wat(r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#)).await;
    assert!(wasi.to_string().contains("wasi:cli/environment@0.2.0") && wasi.to_string().contains("without WASI"), "{wasi}");
    let other = refusal(wat(r#"(component (import "acme:thing/thing@1.0.0" (instance)))"#)).await;
    assert_eq!(other.code(), "foreign_import");
    let unknown = refusal(wat(r#"(component (import "tidegate:plugin/files@1.0.0" (instance)))"#)).await;
    assert_eq!(unknown.code(), "foreign_import");
    let newer = refusal(wat(r#"(component (import "tidegate:plugin/log@1.7.0" (instance)))"#)).await;
    assert_eq!(newer.code(), "newer_interface");
}

#[tokio::test]
async fn the_wrong_type_under_the_right_name_is_refused() {
    let export = refusal(exporting_a_filter("")).await;
    assert_eq!(export.code(), "wrong_type", "{export}");
    let import =
        refusal(exporting_a_filter(r#"(import "tidegate:plugin/clock@1.0.0" (instance (export "now" (func (result string)))))"#))
            .await;
    assert_eq!(import.code(), "wrong_type", "{import}");
}

/// Copying from one memory to another takes a module with two memories, which wasmtime makes itself. Where its settings forbade that, the
/// compiler panicked, and components of JavaScript and Python could not be used.
#[tokio::test]
async fn parts_with_memories_of_their_own_are_compiled() {
    let parts = r#"
        (component $hears
            (core module $m
                (memory (export "memory") 1)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 16))
                (func (export "hear") (param i32 i32)))
            (core instance $i (instantiate $m))
            (func (export "hear") (param "text" string)
                (canon lift (core func $i "hear") (memory $i "memory") (realloc (func $i "realloc")))))
        (component $tells
            (import "hear" (func $hear (param "text" string)))
            (core module $memory (memory (export "memory") 1))
            (core instance $i (instantiate $memory))
            (core func $lowered (canon lower (func $hear) (memory $i "memory")))
            (core module $m (import "" "hear" (func (param i32 i32))))
            (core instance (instantiate $m (with "" (instance (export "hear" (func $lowered)))))))
        (instance $hearing (instantiate $hears))
        (instance (instantiate $tells (with "hear" (func $hearing "hear"))))"#;
    let refusal = refusal(exporting_a_filter(parts)).await;
    assert_eq!(refusal.code(), "wrong_type", "it was compiled, and then its filter looked at: {refusal}");
}

#[tokio::test]
async fn invalid_code_is_refused_by_the_compiler() {
    let refusal = refusal(exporting_a_filter(r#"(core module (func (result i32) (i64.const 1)))"#)).await;
    assert_eq!(refusal.code(), "invalid_component", "{refusal}");
}

#[tokio::test]
async fn a_start_function_that_traps_is_found_at_upload() {
    let refusal = refusal(filter("(func $f (unreachable)) (start $f)", KEEP)).await;
    assert_eq!(refusal.code(), "instantiation_failed", "{refusal}");
}

#[tokio::test]
async fn components_that_expand_are_refused_before_they_are_compiled() {
    for bomb in [nested(24), flat(24)] {
        assert!(bomb.len() < 4096);
        let refusal = refusal_with(bomb, |config| {
            // No compiler is ever started.
            config.compiler = "/nonexistent".into();
            config.compile.nesting = 64;
        })
        .await;
        assert!(matches!(refusal, Refusal::TooComplex { limit: "instances", .. }), "{refusal}");
    }
    let deep = refusal_with(nested(24), |config| config.compile.instances = u64::MAX).await;
    assert!(matches!(deep, Refusal::TooComplex { limit: "nesting", .. }), "{deep}");
}

#[tokio::test]
async fn each_count_has_a_limit() {
    let component = exporting_a_filter("(core module (memory 1) (func) (func (nop)) (data (i32.const 0)) (data (i32.const 0)))");
    type Change = fn(&mut PluginConfig);
    let cases: [(&str, Change); 5] = [
        ("component_bytes", |config| config.compile.component_bytes = 10),
        ("modules", |config| config.compile.modules = 1),
        ("functions", |config| config.compile.functions = 2),
        ("function_bytes", |config| config.compile.function_bytes = 1),
        ("segments", |config| config.compile.segments = 1),
    ];
    for (name, change) in cases {
        let refusal = refusal_with(component.clone(), change).await;
        assert!(matches!(refusal, Refusal::TooComplex { limit, .. } if limit == name), "{name}: {refusal}");
    }
}

#[tokio::test]
async fn a_compiler_that_takes_too_much_is_killed() {
    type Change = fn(&mut PluginConfig);
    let cases: [(&str, Change); 4] = [
        ("compile_cpu", |config| config.compile.cpu = Duration::from_secs(1)),
        ("compile_time", |config| config.compile.wall = Duration::from_millis(300)),
        ("compile_memory", |config| config.compile.memory = 48 << 20),
        ("artifact_bytes", |config| config.compile.artifact_bytes = 10_000),
    ];
    let bomb = wide_tables(60);
    for (name, change) in cases {
        let component = if name == "artifact_bytes" { exporting_a_filter("") } else { bomb.clone() };
        let refusal = refusal_with(component, change).await;
        assert!(matches!(refusal, Refusal::CompilerStopped { limit, .. } if limit == name), "{name}: {refusal}");
    }
}

#[tokio::test]
async fn an_event_for_a_version_that_is_refused_fails_with_its_reason_and_the_compiler_starts_once() {
    let sandbox = Sandbox::new();
    let version = sandbox.add(exporting_a_filter("(core module (func (result i32) (i64.const 1)))"));
    for _ in 0..3 {
        let failure = sandbox.runtime.filter(call(version, "{}")).await.run.outcome.unwrap_err();
        assert_eq!(failure.code, "invalid_component");
    }
    assert_eq!(sandbox.shelf.fetched.load(std::sync::atomic::Ordering::SeqCst), 1);
    let version = sandbox.add(exporting_a_filter(""));
    let failure = sandbox.runtime.filter(call(version, "{}")).await.run.outcome.unwrap_err();
    assert_eq!(failure.code, "wrong_type");
}

#[tokio::test]
async fn a_compiler_that_cannot_start_is_the_gateways_fault() {
    let sandbox = Sandbox::with(|config| config.compiler = "/nonexistent".into());
    let failure = sandbox.runtime.filter(call(sandbox.add(filter("", KEEP)), "{}")).await.run.outcome.unwrap_err();
    assert_eq!((failure.party, &failure.code[..], failure.retryable), (tidegate::event::Party::Gateway, "plugin_runtime", true));
}
