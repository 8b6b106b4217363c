//! The real program from start to end: ready, killed, started again, stopped, and refusing what it cannot run.

use std::path::Path;
use std::time::Duration;

use tidegate_test_support::eventually;
use tidegate_test_support::gateway::Launch;
use tidegate_test_support::http::send;
use tidegate_test_support::process::{self, Process, Signal};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// Starts, is killed, starts again on the same data, stops when told to.
async fn live_through(launch: Launch) {
    let mut gateway = launch.start().await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(send("GET", &gateway.admin(path), &[], "").await.status, 200, "{path}");
    }
    assert_eq!(send("POST", &gateway.ingest("/in/src_nobody"), &[], "{}").await.status, 404);
    gateway.kill();
    gateway.restart().await;
    let status = gateway.stop(STOP_DEADLINE).await;
    assert!(status.success(), "{status}:\n{}", gateway.log());
}

#[tokio::test]
async fn on_the_embedded_store() {
    live_through(Launch::new(TIDEGATE).init().await.config("")).await;
}

#[tokio::test]
async fn on_redis_and_valkey() {
    for flavor in [Flavor::Redis, Flavor::Valkey] {
        let server = Server::start(Config::new(flavor, Fsync::EverySec)).await;
        live_through(Launch::new(TIDEGATE).init().await.config(&format!("[store]\nkind = 'redis'\nurls = ['{}']", server.url())))
            .await;
    }
}

#[tokio::test]
async fn a_redis_that_evicts_is_refused() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec).with("maxmemory-policy", "allkeys-lru")).await;
    let launch = Launch::new(TIDEGATE).init().await.config(&format!("[store]\nkind = 'redis'\nurls = ['{}']", server.url()));
    let finished = launch.run(&["serve", "--config", "tidegate.toml"]).await;
    assert!(!finished.status.success());
    assert!(finished.output.contains("noeviction"), "{}", finished.output);
}

#[tokio::test]
async fn a_configuration_with_faults_is_refused_with_all_of_them() {
    let launch = Launch::new(TIDEGATE).file("wrong.toml", "[ingest]\nlisten = 'nowhere'\n\n[store]\nkindd = 'redis'\n");
    let finished = launch.run(&["serve", "--config", "wrong.toml"]).await;
    assert!(!finished.status.success());
    for fault in ["wrong.toml:2", "wrong.toml:5"] {
        assert!(finished.output.contains(fault), "{fault} is not in {}", finished.output);
    }
}

/// It once listened for signals only after it had said that it was up: whoever stopped it then killed it, and its data stayed.
#[tokio::test]
async fn dev_can_be_stopped_as_soon_as_it_says_that_it_is_up() {
    for signal in [Signal::Terminate, Signal::Interrupt] {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("dev.log");
        let mut command = process::command(Path::new(TIDEGATE));
        command.args(["dev", "--ingest", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--receiver", "127.0.0.1:0"]);
        command.env("TMPDIR", directory.path());
        let mut dev = Process::spawn("tidegate dev", command, &log);
        eventually("it introduces itself", STOP_DEADLINE, async || dev.log().contains("for development").then_some(())).await;
        dev.signal(signal);
        let status = dev.exit_within(STOP_DEADLINE).await;
        assert!(status.success(), "{signal:?}: {status}\n{}", dev.log());
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["dev.log"], "{signal:?}: its temporary directory is gone");
    }
}
