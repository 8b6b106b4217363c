//! Uploads that are made to keep a compiler busy: each ends with an error of its own, in bounds, and delays nobody else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate::event::TenantId;
use tidegate::plugin::{LoadError, PluginConfig, Refusal};
use tidegate_test_support::monotonic;
use tokio::task::{JoinHandle, JoinSet};

use crate::bombs::{self, many_functions};
use crate::fixture::{Sandbox, call, prebuilt};

const ATTACKER: TenantId = TenantId(2);
const QUIET: TenantId = TenantId(3);

async fn refusal(sandbox: &Sandbox, component: Bytes) -> Refusal {
    match sandbox.runtime.inspect_for(ATTACKER, component).await {
        Err(LoadError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn every_bomb_ends_with_an_error_of_its_own_and_holds_up_no_other_task() {
    let (sandbox, bombs) = (Sandbox::new(), bombs::all());
    // One thread runs all tasks here: whoever blocks it makes the ticks late.
    let ticks = Ticks::start();
    for bomb in bombs {
        let started = monotonic();
        let refusal = refusal(&sandbox, bomb.component).await;
        println!("{:20} {:>8.0?} {refusal}", bomb.name, started.elapsed());
        assert_eq!(refusal.code(), bomb.code, "{}: {refusal}", bomb.name);
        assert!(refusal.to_string().contains(bomb.names), "{}: {refusal}", bomb.name);
    }
    let (late, machine) = ticks.latest();
    println!("the latest tick of the event loop came {late:.0?} late; of a thread that does nothing else, {machine:.0?}");
    assert!(late < machine * 2 + Duration::from_secs(1), "{late:?}, of a thread that does nothing else {machine:?}");
}

#[tokio::test]
async fn a_tenants_queue_of_bombs_delays_no_other_tenants_upload() {
    let sandbox = Sandbox::new();
    let mut bombs = JoinSet::new();
    for number in 0..8 {
        let runtime = sandbox.runtime.clone();
        bombs.spawn(async move { runtime.inspect_for(ATTACKER, many_functions(6_000 + number)).await.unwrap_err().code() });
    }
    sandbox.runtime.inspect_for(QUIET, prebuilt("github-push-to-chat")).await.unwrap();
    let mut done = 0;
    while bombs.try_join_next().is_some() {
        done += 1;
    }
    assert!(done <= 4, "{done} bombs were compiled before the quiet tenant's component");
    bombs.shutdown().await;
    sandbox.runtime.inspect_for(ATTACKER, prebuilt("json-field-filter")).await.expect("who left the line freed it");
}

#[tokio::test]
async fn uploads_that_wait_are_bounded_by_tenant_with_a_named_error() {
    let sandbox = Sandbox::with(|config| config.compile.uploads = 2);
    let mut bombs = JoinSet::new();
    for number in 0..10 {
        let runtime = sandbox.runtime.clone();
        bombs.spawn(async move { runtime.inspect_for(ATTACKER, many_functions(1 + number)).await.unwrap_err().code() });
    }
    let mut codes = bombs.join_all().await;
    codes.sort_unstable();
    assert_eq!(codes.iter().filter(|code| **code == "compile_queue_full").count(), 8, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == "wrong_type").count(), 2, "{codes:?}");
    let bytes = Sandbox::with(|config| config.compile.upload_bytes = 100);
    let error = bytes.runtime.inspect_for(QUIET, prebuilt("json-field-filter")).await.unwrap_err();
    assert_eq!(error.code(), "compile_queue_full");
    assert!(error.to_string().contains("100 bytes of this tenant's uploads"), "{error}");
}

/// A compiler that writes down how it was started, and then does what `then` says.
fn scripted(config: &mut PluginConfig, then: &str) {
    let script = config.directory.with_extension("sh");
    let text = format!(
        "#!/bin/sh\necho start >> \"$0.starts\"\ncat /proc/$$/environ > \"$0.environ\"\nls -l /proc/$$/fd > \"$0.descriptors\"\n{then}\n"
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    config.compiler = script;
}

fn note(sandbox: &Sandbox, kind: &str) -> String {
    fs::read_to_string(Path::new(&format!("{}.{kind}", sandbox.config.compiler.display()))).unwrap()
}

fn real(config: &mut PluginConfig) {
    scripted(config, &format!("exec {} \"$@\"", env!("CARGO_BIN_EXE_tidegate")));
}

#[tokio::test]
async fn the_compiler_gets_no_environment_and_none_of_the_gateways_descriptors() {
    let sandbox = Sandbox::with(real);
    sandbox.runtime.inspect(prebuilt("json-field-filter")).await.unwrap();
    assert_eq!(note(&sandbox, "environ"), "");
    let descriptors = note(&sandbox, "descriptors");
    let targets: Vec<_> = descriptors.lines().filter_map(|line| line.split_once(" -> ")).map(|(_, target)| target).collect();
    assert!(targets.len() >= 3, "{descriptors}");
    let script = sandbox.config.compiler.to_str().unwrap();
    for target in targets {
        assert!(target.starts_with("pipe:") || target == "/dev/null" || target.starts_with(script), "{descriptors}");
    }
}

#[tokio::test]
async fn uploads_and_events_of_one_version_start_one_compiler() {
    let sandbox = Sandbox::with(real);
    let component = prebuilt("json-field-filter");
    let mut work = JoinSet::new();
    for number in 0..5 {
        let (runtime, component) = (sandbox.runtime.clone(), component.clone());
        work.spawn(async move { runtime.inspect_for(TenantId(number), component).await.is_ok() });
        let (runtime, mut call) = (sandbox.runtime.clone(), call(sandbox.add(prebuilt("json-field-filter")), "{}"));
        call.config = r#"{"rules": [{"pointer": ""}]}"#.into();
        work.spawn(async move { runtime.filter(call).await.result.is_ok() });
    }
    assert!(work.join_all().await.into_iter().all(|worked| worked));
    assert_eq!(note(&sandbox, "starts").lines().count(), 1);
}

#[tokio::test]
async fn a_compiler_that_crashes_is_named_and_not_started_for_each_event() {
    for (then, how) in [("kill -SEGV $$", "signal: 11"), ("exit 101", "exit status: 101")] {
        let sandbox = Sandbox::with(|config| scripted(config, then));
        let version = sandbox.add(prebuilt("json-field-filter"));
        for _ in 0..3 {
            let failure = sandbox.runtime.filter(call(version, "{}")).await.run.outcome.unwrap_err();
            assert_eq!((&failure.code[..], failure.retryable), ("compiler_died", true), "{failure:?}");
            assert!(failure.detail.contains(how), "{}", failure.detail);
        }
        assert_eq!(note(&sandbox, "starts").lines().count(), 1);
    }
}

/// How late the event loop runs, and how late a thread that does nothing else on this machine.
struct Ticks {
    event_loop: Arc<AtomicU64>,
    machine: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

const TICK: Duration = Duration::from_millis(10);

impl Ticks {
    fn start() -> Self {
        let (event_loop, machine) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let latest = Arc::clone(&event_loop);
        let task = tokio::spawn(async move {
            loop {
                let due = monotonic() + TICK;
                tokio::time::sleep(TICK).await;
                late(&latest, due);
            }
        });
        // Ends with its owner.
        let latest = Arc::downgrade(&machine);
        thread::spawn(move || {
            while let Some(latest) = latest.upgrade() {
                let due = monotonic() + TICK;
                thread::sleep(TICK);
                late(&latest, due);
            }
        });
        Self { event_loop, machine, task }
    }

    fn latest(self) -> (Duration, Duration) {
        self.task.abort();
        let read = |latest: &AtomicU64| Duration::from_micros(latest.load(Ordering::Relaxed));
        (read(&self.event_loop), read(&self.machine))
    }
}

fn late(latest: &AtomicU64, due: Instant) {
    let by = monotonic().saturating_duration_since(due);
    latest.fetch_max(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
}
