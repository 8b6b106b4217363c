//! A whole installation is moved: exported from one store, imported into another, and started there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate::clock::Clock;
use tidegate::event::{Event, EventId, Lane, Request, Revision, Shard, SourceId, TenantId};
use tidegate::ingest::verify::Verifier;
use tidegate::store::embedded::{Embedded, Options};
use tidegate::store::redis::{RedisConfig, RedisStore};
use tidegate::store::{Acceptance, Store};
use tidegate_test_support::eventually;
use tidegate_test_support::gateway::{Finished, Gateway, Launch};
use tidegate_test_support::http::{Answer, Receiver, send};

use crate::api::{Api, TENANT, text};
use crate::guest::{filter, import};
use crate::world::{EMBEDDED, Engine, REDIS, SOON, Servers, World};

const EVENTS: usize = 12;
/// The most that may be resident while 200 MB of events are moved.
const MEMORY_KIB: u64 = 160 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_installation_moves_from_the_embedded_store_to_redis() {
    moves(EMBEDDED, REDIS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_installation_moves_from_redis_to_the_embedded_store() {
    moves(REDIS, EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_installation_moves_from_one_redis_to_another() {
    moves(REDIS, REDIS).await;
}

/// A filter that counts events in its table and keeps all.
fn counter() -> Bytes {
    let fields = format!(r#"{} (data (i32.const 32) "events")"#, import("kv", "increment", "(param i32 i32 i64 i32 i32 i32)"));
    let count = "(call $increment (i32.const 32) (i32.const 6) (i64.const 1) (i32.const 0) (i32.const 0) (i32.const 128))";
    let keep = "(i32.store8 (i32.const 8) (i32.const 0)) (i32.store8 (i32.const 12) (i32.const 1)) (i32.const 8)";
    filter(&fields, &format!("{count} {keep}"))
}

/// One source, and a connection to a destination of each kind: one that answers, through a plugin with a table; one that fails and is tried
/// again; one that fails once and is given up; one that is disabled; and a connection that is paused.
async fn set_up(world: &World) {
    let plugin = world.api.keep(counter()).await;
    let names = ["up", "away", "dead", "off", "paused"];
    let destination = |name: &str| {
        let retry =
            if name == "dead" { json!({"max_attempts": 1}) } else { json!({"base": "300s", "max_delay": "300s", "jitter": 0.0}) };
        json!({
            "name": name, "url": world.receiver.url(&format!("/{name}")), "retry": retry,
            "enabled": name != "off", "circuit_breaker": {"enabled": false},
            "signing": {"secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]},
        })
    };
    let connection = |name: &str| {
        let plugins = if name == "up" { json!([{"plugin": "counter"}]) } else { json!([]) };
        json!({"name": name, "source": "in", "destination": name, "paused": name == "paused", "plugins": plugins})
    };
    world
        .api
        .apply(json!({
            "plan": {"in_flight": 1, "queued_bytes": "1MiB"},
            "plugins": [{"name": "counter", "component": plugin}],
            "sources": [{"name": "in"}],
            "destinations": names.map(destination),
            "connections": names.map(connection),
        }))
        .await;
}

fn answer(receiver: &Receiver, well: bool) {
    let fails = |target: &str| matches!(target, "/away" | "/dead");
    receiver.answer_with(move |request| Answer::status(if !well && fails(&request.target) { 503 } else { 200 }));
}

async fn accept(gateway: &Gateway, api: &Api, body: String) -> String {
    let source = api.id("sources", "in").await;
    let reply = send("POST", &gateway.ingest(&format!("/in/{source}")), &[], body).await;
    assert_eq!(reply.status, 202, "{:?}", reply.body);
    text(&reply.json()["id"])
}

/// How often each body arrived at a destination, and in which order they first did.
fn arrived(receiver: &Receiver, at: &str) -> (BTreeMap<String, usize>, Vec<String>) {
    let (mut counts, mut order) = (BTreeMap::new(), Vec::new());
    for request in receiver.requests().iter().filter(|request| request.target == format!("/{at}")) {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        if !counts.contains_key(&body) {
            order.push(body.clone());
        }
        *counts.entry(body).or_default() += 1;
    }
    (counts, order)
}

/// The states of an event's deliveries, by the names of their connections.
async fn states(api: &Api, event: &str, names: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let event = api.event(event).await;
    let rows = event["deliveries"].as_array().unwrap();
    rows.iter().map(|row| (names[row["connection"].as_str().unwrap()].clone(), text(&row["state"]))).collect()
}

async fn names(api: &Api) -> BTreeMap<String, String> {
    let all = api.all("/v1/connections").await;
    all.iter().map(|connection| (text(&connection["id"]), text(&connection["name"]))).collect()
}

fn assert_done(finished: &Finished) {
    assert!(finished.status.success(), "{}", finished.output);
}

async fn moves(from: Engine, to: Engine) {
    let mut world = World::start(from).await;
    set_up(&world).await;
    answer(&world.receiver, false);
    let names = names(&world.api).await;
    let mut events = Vec::new();
    let expected: BTreeMap<String, String> =
        [("up", "delivered"), ("away", "scheduled"), ("dead", "dead_lettered"), ("off", "parked"), ("paused", "parked")]
            .map(|(name, state)| (name.to_owned(), state.to_owned()))
            .into();
    // One after the other, so that the order in which they wait is known.
    for number in 0..EVENTS {
        let event = accept(&world.gateway, &world.api, number.to_string()).await;
        eventually(&format!("{event} has gone as far as it can"), SOON, async || {
            (states(&world.api, &event, &names).await == expected).then_some(())
        })
        .await;
        events.push(event);
    }
    let before = histories(&world.api, &events).await;
    let table = world.api.get(&format!("/v1/plugins/counter/table?tenant={TENANT}")).await;
    assert!(world.gateway.stop(SOON).await.success());
    let finished = world.gateway.run(&["export", "backup"]).await;
    assert_done(&finished);
    for part in ["12 finished events", "12 dead letters", "24 parked", "12 scheduled", "1 table entries"] {
        assert!(finished.output.contains(part), "{part}: {}", finished.output);
    }
    let again = world.gateway.run(&["export", "backup"]).await;
    assert!(!again.status.success() && again.output.contains("exists"), "no backup is written over: {}", again.output);

    let servers = Servers::start(to).await;
    let launch = servers.launch("");
    let backup = std::fs::read(world.gateway.directory().join("backup")).unwrap();
    let launch = launch.file("backup", &backup);
    assert_done(&launch.run(&["import", "backup"]).await);
    let gateway = launch.start().await;
    let api = Api::of(&gateway);
    assert_eq!(histories(&api, &events).await, before, "history is as it was");
    assert_eq!(api.get(&format!("/v1/plugins/counter/table?tenant={TENANT}")).await, table);

    answer(&world.receiver, true);
    let letters: BTreeSet<String> = api.all("/v1/dead-letters").await.iter().map(|letter| text(&letter["event"])).collect();
    assert_eq!(letters, events.iter().cloned().collect());
    api.patch(&format!("/v1/connections/paused?tenant={TENANT}"), &json!({"paused": false})).await;
    api.post(&format!("/v1/destinations/off/enable?tenant={TENANT}"), &json!({})).await;
    let begun = api.send("POST", &format!("/v1/dead-letters/retry-jobs?tenant={TENANT}"), "application/json", "{}").await;
    assert_eq!(begun.status, 202, "{:?}", begun.body);
    let job = begun.json();
    eventually("the dead letters are tried again", SOON, async || {
        let path = format!("/v1/dead-letters/retry-jobs/{}?tenant={TENANT}", text(&job["id"]));
        (api.get(&path).await["state"] == "done").then_some(())
    })
    .await;
    let last = accept(&gateway, &api, "last".to_owned()).await;
    for (name, body) in [("paused", true), ("off", true), ("dead", true), ("up", true)] {
        eventually(&format!("all is delivered at {name}"), SOON, async || {
            (arrived(&world.receiver, name).0.len() == EVENTS + usize::from(body)).then_some(())
        })
        .await;
    }
    // What was delivered before is not delivered again, and nothing waits for ever.
    let order: Vec<String> = (0..EVENTS).map(|number| number.to_string()).chain(["last".to_owned()]).collect();
    for name in ["up", "paused", "off"] {
        let (counts, arrived) = arrived(&world.receiver, name);
        assert!(counts.values().all(|count| *count == 1), "{name}: {counts:?}");
        assert_eq!(arrived, order, "{name} keeps its order");
    }
    let (counts, _) = arrived(&world.receiver, "dead");
    assert!(counts.iter().all(|(body, count)| *count == if body == "last" { 1 } else { 2 }), "{counts:?}");
    let signed = world.receiver.requests().iter().all(|request| request.header("webhook-signature").is_some());
    assert!(signed, "sealed secrets are open");
    let table = api.get(&format!("/v1/plugins/counter/table?tenant={TENANT}")).await;
    assert_eq!(table["items"][0]["value"], json!((EVENTS + 1).to_string()), "the table goes on");
    assert_eq!(states(&api, &events[0], &names).await["away"], "scheduled", "its time has not come");
    api.settled(&last, SOON).await;
}

async fn histories(api: &Api, events: &[String]) -> Vec<Value> {
    let mut all = Vec::new();
    for event in events {
        all.push(api.event(event).await);
    }
    all
}

/// A launch with other keys than the installation's.
fn with_other_key(servers: &Servers) -> Launch {
    let other = format!("tgek_{}", "ab".repeat(32));
    servers.launch("").file("encryption.key", other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_cut_altered_or_sealed_by_others_is_refused() {
    let mut world = World::start(EMBEDDED).await;
    set_up(&world).await;
    let running = world.gateway.run(&["export", "early"]).await;
    assert!(!running.status.success() && running.output.contains("one gateway per directory"), "{}", running.output);
    assert!(!world.gateway.directory().join("early").exists(), "what was not written is not there");
    assert!(world.gateway.stop(SOON).await.success());
    assert_done(&world.gateway.run(&["export", "backup"]).await);
    let backup = std::fs::read(world.gateway.directory().join("backup")).unwrap();

    let servers = Servers::start(EMBEDDED).await;
    let mut altered = backup.clone();
    altered[backup.len() / 2] ^= 1;
    let cut = &backup[..backup.len() - 10];
    let launch = servers.launch("").file("altered", &altered).file("cut", cut).file("other", "no export");
    for (file, says) in [("altered", "damaged"), ("cut", "cut short"), ("other", "no file that `tidegate export` wrote")] {
        let refused = launch.run(&["import", file]).await;
        assert!(!refused.status.success() && refused.output.contains(says), "{file}: {}", refused.output);
        assert!(!launch.directory().join("data").exists(), "nothing was written");
    }
    let stranger = with_other_key(&servers).file("backup", &backup);
    let refused = stranger.run(&["import", "backup"]).await;
    assert!(!refused.status.success() && refused.output.contains("keys.previous_encryption"), "{}", refused.output);
    let few = servers
        .launch("")
        .file("backup", &backup)
        .config("dispatch.shards = 2\n[keys]\nencryption = \"file:encryption.key\"\noperator = \"file:operator.key\"\n");
    let refused = few.run(&["import", "backup"]).await;
    assert!(!refused.status.success() && refused.output.contains("`dispatch.shards` is 2"), "{}", refused.output);

    // From a pipe it can't be looked at beforehand: what was written then is no store.
    let script = "exec \"$0\" \"$@\" < cut";
    let piped = servers.launch("").file("cut", cut).within(["bash", "-c", script].map(str::to_owned).to_vec());
    let refused = piped.run(&["import", "-"]).await;
    assert!(!refused.status.success() && refused.output.contains("cut short"), "{}", refused.output);
    let refused = piped.file("cut", "").run(&["serve"]).await;
    assert!(!refused.status.success() && refused.output.contains("did not come to its end"), "{}", refused.output);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_queued_events_move_in_bounded_memory() {
    const MANY: u64 = 100_000;
    let servers = Servers::start(REDIS).await;
    let (from, to) = (Servers::start(EMBEDDED).await.launch(""), servers.launch(""));
    queue(&from.directory().join("data"), MANY).await;
    let exported = watched(&from, &["export", "backup"]).await;
    let backup = from.directory().join("backup");
    assert!(std::fs::metadata(&backup).unwrap().len() > 200_000_000);
    let imported = watched(&to, &["import", backup.to_str().unwrap()]).await;
    assert!(exported.max(imported) < MEMORY_KIB, "{exported} KiB and {imported} KiB");
    let url = servers.redis.as_ref().unwrap().url().parse().unwrap();
    let config = RedisConfig { namespace: "tidegate".into(), ..RedisConfig::standalone(url) };
    let store = Box::pin(RedisStore::connect(config, Clock::system())).await.unwrap();
    let mut queued = 0;
    for shard in 0..4 {
        let lanes = store.depth(Shard(shard)).await.unwrap().lanes;
        queued += lanes.iter().map(|lane| lane.entries).sum::<u64>();
    }
    assert_eq!(queued, MANY);
}

/// Accepts events into an embedded store without a gateway.
async fn queue(dir: &Path, count: u64) {
    let store = Embedded::open(Options { reserve_bytes: 0, ..Options::new(dir) }).unwrap();
    let now = Clock::system().now();
    let body = Bytes::from(vec![b'x'; 2048]);
    for first in (0..count).step_by(1000) {
        let batch = (first..first + 1000).map(|number| {
            let request = Request { method: "POST".into(), body: body.clone(), ..Request::default() };
            let event = Event {
                id: EventId::new(now.after(Duration::from_millis(number / 10)), number.into()),
                tenant: TenantId(1),
                source: SourceId(1),
                revision: Revision(0),
                accepted_at: now,
                request,
                pins: Vec::new(),
                trace: None,
            };
            let event = Verifier::none().verify(event, now).unwrap();
            Acceptance { event, shard: Shard((number % 4) as u16), lane: Lane::Normal, dedup: None }
        });
        store.accept(batch.collect()).await.unwrap();
    }
    tokio::task::spawn_blocking(move || drop(store)).await.unwrap();
}

/// Runs a command to its end. The most that was resident, in KiB.
async fn watched(launch: &Launch, arguments: &[&str]) -> u64 {
    let mut child =
        std::process::Command::new(env!("CARGO_BIN_EXE_tidegate")).args(arguments).current_dir(launch.directory()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        most = most.max(peak.unwrap_or(0));
        if let Some(ended) = child.try_wait().unwrap() {
            assert!(ended.success());
            assert!(most > 0, "it was seen while it ran");
            return most;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
