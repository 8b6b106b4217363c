//! What is compiled once stays compiled, for this node and only as it was made.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use tidegate::plugin::{Components, Runtime};
use tokio::task::JoinSet;

use crate::fixture::{Sandbox, Shelf, call, prebuilt};

const CONFIG: &str = r#"{"rules": [{"pointer": ""}]}"#;

async fn keeps(runtime: &Runtime, sandbox: &Sandbox) -> bool {
    let mut call = call(sandbox.add(prebuilt("json-field-filter")), "{}");
    call.config = CONFIG.into();
    runtime.filter(call).await.result.unwrap()
}

fn artifact(sandbox: &Sandbox) -> PathBuf {
    let files = fs::read_dir(&sandbox.config.directory).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "code")).collect();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[tokio::test]
async fn many_events_at_once_compile_a_version_once() {
    let sandbox = Sandbox::new();
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let runtime = sandbox.runtime.clone();
        let mut call = call(sandbox.add(prebuilt("json-field-filter")), "{}");
        call.config = CONFIG.into();
        calls.spawn(async move { runtime.filter(call).await.result.unwrap() });
    }
    assert!(calls.join_all().await.into_iter().all(|kept| kept));
    assert_eq!(sandbox.shelf.fetched.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_restarted_node_needs_neither_component_nor_compiler() {
    let mut sandbox = Sandbox::new();
    assert!(keeps(&sandbox.runtime, &sandbox).await);
    sandbox.config.compiler = "/nonexistent".into();
    assert!(keeps(&sandbox.restarted(), &sandbox).await);
    assert_eq!(sandbox.shelf.fetched.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_changed_artifact_is_compiled_anew_and_never_loaded() {
    let sandbox = Sandbox::new();
    assert!(keeps(&sandbox.runtime, &sandbox).await);
    let path = artifact(&sandbox);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let good = fs::read(&path).unwrap();
    for (place, fetched) in [(0, 2), (10, 3), (good.len() / 2, 4), (good.len() - 1, 5)] {
        let mut bad = good.clone();
        bad[place] ^= 1;
        fs::write(&path, bad).unwrap();
        assert!(keeps(&sandbox.restarted(), &sandbox).await);
        assert_eq!(sandbox.shelf.fetched.load(Ordering::SeqCst), fetched, "byte {place}");
    }
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(keeps(&sandbox.restarted(), &sandbox).await);
    assert_eq!(sandbox.shelf.fetched.load(Ordering::SeqCst), 6, "cut short");
}

#[tokio::test]
async fn an_artifact_of_another_node_is_not_taken() {
    let (here, there) = (Sandbox::new(), Sandbox::new());
    assert!(keeps(&here.runtime, &here).await);
    assert!(keeps(&there.runtime, &there).await);
    fs::copy(artifact(&there), artifact(&here)).unwrap();
    assert!(keeps(&here.restarted(), &here).await);
    assert_eq!(here.shelf.fetched.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_key_that_others_could_read_stops_the_start() {
    let sandbox = Sandbox::new();
    let key = sandbox.config.directory.join("key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let shelf: std::sync::Arc<dyn Components> = std::sync::Arc::new(Shelf::default());
    let error = Runtime::start(sandbox.config.clone(), shelf).expect_err("refused");
    assert!(error.to_string().contains("others could read it"), "{error}");
}

#[tokio::test]
async fn a_small_cache_lets_versions_go_and_loads_them_from_disk_again() {
    let sandbox = Sandbox::with(|config| config.cached_versions = 1);
    for _ in 0..3 {
        assert!(keeps(&sandbox.runtime, &sandbox).await);
        let other = call(sandbox.add(prebuilt("github-push-to-chat")), "{}");
        assert!(sandbox.runtime.transform(other).await.result.is_err(), "{{}} is no push");
    }
    assert_eq!(sandbox.shelf.fetched.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_missing_component_is_the_gateways_fault_and_tried_again() {
    let sandbox = Sandbox::new();
    let version = tidegate::event::VersionHash([9; 32]);
    for _ in 0..2 {
        let failure = sandbox.runtime.filter(call(version, "{}")).await.run.outcome.unwrap_err();
        assert_eq!((&failure.code[..], failure.retryable), ("component_missing", true));
    }
    assert_eq!(sandbox.shelf.fetched.load(Ordering::SeqCst), 2);
}
