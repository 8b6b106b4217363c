//! Whatever a destination does: what is recorded of it, how long it takes, what it costs the gateway, and that it delays nobody else.
//!
//! What is wrong over plain HTTP/1.1 are the faults of `tidegate dev`'s receiver; ports and TLS are in `secure`.

mod secure;

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tidegate::cli::dev::faults::{self, FAULTS, PREFIX};
use tidegate_test_support::gateway::Launch;
use tidegate_test_support::http::{Receiver, send, try_send};
use tokio::net::TcpListener;

use crate::api::text;
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};
use secure::Secure;

/// Of every destination that does something wrong.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What a busy machine adds to it.
const SLACK: Duration = Duration::from_secs(3);
/// Events for every destination.
const EVENTS: usize = 5;
/// All attempts together may take no more memory than this, in KiB.
const MEMORY: u64 = 64 << 10;

/// A request may have been written on its connection by the time that it is seen to be closed, and then it is an attempt like any other.
const STALE: &str = "stale";

/// A destination that does something wrong.
struct Bad {
    name: String,
    url: String,
    /// What is recorded; `None` is a delivery.
    code: Option<&'static str>,
    /// Certificates that are trusted for it.
    ca_pem: Option<String>,
}

impl Bad {
    fn declared(&self) -> Value {
        // Without the rule the destination that is gone would be disabled by the first event, and the others would wait.
        let mut retry = json!({"max_attempts": 1, "on": [{"status": "410", "do": "dead_letter"}]});
        if self.name == STALE {
            retry = json!({"max_attempts": 20, "base": "10ms"});
        }
        let mut declared = json!({
            "name": self.name, "url": self.url, "timeout": format!("{}s", TIMEOUT.as_secs()), "retry": retry,
            "circuit_breaker": {"enabled": false},
        });
        if let Some(pem) = &self.ca_pem {
            declared["tls"] = json!({ "ca_pem": pem });
        }
        declared
    }
}

/// The receiver of `tidegate dev`, without the rest of it.
async fn plain() -> Vec<Bad> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move { assert!(faults::meet(stream).await.is_none(), "there is such a fault") });
        }
    });
    let bad = |fault: &faults::Fault| Bad {
        name: fault.name.to_owned(),
        url: format!("http://{address}{PREFIX}{}", fault.name),
        code: fault.code,
        ca_pem: None,
    };
    FAULTS.iter().map(bad).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_of_a_destination_costs_anybody_else_anything_on_the_embedded_store() {
    faulty(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_of_a_destination_costs_anybody_else_anything_on_redis() {
    faulty(REDIS).await;
}

async fn faulty(engine: Engine) {
    let secure = Secure::start().await;
    let world = World::with(engine, |launch| launch, secure::CONFIG).await;
    let mut bad = plain().await;
    bad.extend(secure.destinations());
    let well = Receiver::start().await;
    let connection = |name: &str| json!({"name": name, "source": "in", "destination": name});
    let mut destinations: Vec<_> = bad.iter().map(Bad::declared).collect();
    destinations
        .extend([json!({"name": "sibling", "url": well.url("/sibling")}), json!({"name": "other", "url": well.url("/other")})]);
    let mut connections: Vec<_> = bad.iter().map(|bad| connection(&bad.name)).collect();
    connections.extend([connection("sibling"), json!({"name": "other", "source": "quiet", "destination": "other"})]);
    world
        .api
        .apply(json!({
            "sources": [{"name": "in"}, {"name": "quiet"}], "destinations": destinations, "connections": connections,
        }))
        .await;
    let url = async |source: &str| world.gateway.ingest(&format!("/in/{}", world.api.id("sources", source).await));
    let (faulty, quiet) = (url("in").await, url("quiet").await);
    let mut names = std::collections::HashMap::new();
    for one in &bad {
        names.insert(world.api.id("destinations", &one.name).await, one);
    }
    // What the first connections, certificates and pages cost is not the faults'.
    let post = async |url: &str| text(&send("POST", url, &[], "{}").await.json()["id"]);
    world.api.settled(&post(&quiet).await, SOON).await;
    let before = memory(world.gateway.pid(), "VmRSS:");

    let (mut events, mut posted) = (Vec::new(), vec![tidegate_test_support::now()]);
    for _ in 0..EVENTS {
        events.push(post(&faulty).await);
        posted.push(tidegate_test_support::now());
        post(&quiet).await;
        posted.push(tidegate_test_support::now());
    }
    let arrived = well.wait_for(1 + 2 * EVENTS, SOON).await;
    // The slowest of the faulty ones was begun before the last healthy one arrived, and it takes longer than all of these together.
    let last: SystemTime = arrived.iter().map(|one| one.at).max().unwrap();
    let waited = last.duration_since(posted[0]).unwrap_or_default();
    assert!(waited < TIMEOUT, "healthy destinations waited {waited:?}");

    for event in &events {
        let settled = world.api.settled(event, SOON).await;
        let rows = settled["deliveries"].as_array().unwrap();
        assert_eq!(rows.len(), bad.len() + 1);
        for row in rows {
            if let Some(bad) = names.get(row["destination"].as_str().unwrap()) {
                judge(bad, row);
            }
        }
    }
    let most = memory(world.gateway.pid(), "VmHWM:");
    println!("{} faults, healthy ones waited at most {waited:?}; resident: {before} KiB before, at most {most} KiB", bad.len());
    assert!(most.saturating_sub(before) < MEMORY, "{before} KiB became {most} KiB");
}

#[tokio::test]
async fn dev_offers_the_faults_and_lists_them() {
    let launch = Launch::new(env!("CARGO_BIN_EXE_tidegate"));
    let help = launch.run(&["dev", "--help"]).await.output;
    let (ingest, admin) = (launch.ingest_address(), launch.admin_address());
    let arguments = ["dev", "--receiver", "127.0.0.1:0", "--ingest", &ingest, "--admin", &admin];
    let dev = arguments.iter().fold(launch, |launch, argument| launch.argument(argument)).start().await;
    let log = dev.wait_for_log(SOON, |log| log.contains("/fault lists")).await;
    let receiver = log.lines().find_map(|line| line.trim().strip_prefix("receiver   ")).unwrap().split(' ').next().unwrap();
    let listed = send("GET", &format!("{receiver}/fault"), &[], "").await;
    let listed = String::from_utf8(listed.body.to_vec()).unwrap();
    for fault in &FAULTS {
        let line = format!("{PREFIX}{:<18} {}: {}", fault.name, fault.what, fault.code.unwrap_or("delivered"));
        assert!(help.contains(&line) && listed.contains(&line), "{line} is missing in:\n{help}\n{listed}");
    }
    let post = async |path: &str| try_send("POST", &format!("{receiver}{path}"), &[], "{}").await.map(|reply| reply.status);
    assert_eq!(post("/fault/busy").await.unwrap(), 503);
    assert!(post("/fault/reset").await.is_err());
    assert_eq!(post("/fault/of-nobody").await.unwrap(), 421, "there is none of that name");
    assert_eq!(post("/hook").await.unwrap(), 200);
}

fn judge(bad: &Bad, row: &Value) {
    let attempts = row["attempts"].as_array().unwrap();
    if bad.name == STALE {
        assert_eq!(row["state"], "delivered", "{row:#}");
        return;
    }
    assert_eq!(attempts.len(), 1, "{}: {row:#}", bad.name);
    let state = if bad.code.is_none() { "delivered" } else { "dead_lettered" };
    let code = attempts[0]["failure"]["code"].as_str();
    // Who waits for the connection that another request opens has none.
    let code = if bad.name == "tls-hang" && code == Some("connect_timeout") { bad.code } else { code };
    assert_eq!((row["state"].as_str(), code), (Some(state), bad.code), "{}: {row:#}", bad.name);
    let took = Duration::from_micros(attempts[0]["took_us"].as_u64().unwrap());
    assert!(took < TIMEOUT + SLACK, "{} took {took:?}", bad.name);
}

/// A line of `/proc/PID/status`, in KiB.
fn memory(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
