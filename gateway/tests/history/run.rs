//! One run: gateways, a receiver, operations in order, and somebody who reads all the while.

mod steps;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::event::EventId;
use tidegate_test_support::gateway::Gateway;
use tidegate_test_support::http::{Receiver, try_send};
use tidegate_test_support::{eventually, monotonic};
use tokio::task::JoinSet;

use crate::api::TENANT;
use crate::facts::{self, Facts, Sent};
use crate::ops::{CONNECTIONS, DESTINATIONS, Op, Script};
use crate::reader::{Shared, lock};
use crate::verdict::Wrong;
use crate::world::{Engine, SOON, Servers, prebuilt};

/// How long everything may take to come to its end when nothing holds it up any more.
const END: Duration = Duration::from_secs(90);
/// How long requests are waited for that may not come.
const A_MOMENT: Duration = Duration::from_millis(300);

struct Node {
    gateway: Gateway,
    runs: bool,
}

/// A run under way.
pub(crate) struct Run {
    shared: Shared,
    nodes: Vec<Node>,
    receiver: Receiver,
    component: String,
    _servers: Servers,
}

/// Runs these operations, and tells what was wrong.
pub(crate) async fn run(engine: Engine, seed: u64, ops: &[Op]) -> Result<(), Wrong> {
    let mut run = Run::start(engine).await;
    let stop = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn(run.shared.clone().read_on(seed, stop.clone()));
    let mut outcome = Ok(());
    for (number, op) in ops.iter().enumerate() {
        if reader.is_finished() {
            break;
        }
        outcome = run.apply(op).await.map_err(|wrong| format!("at operation {number}, {op:?}: {wrong}"));
        if outcome.is_err() {
            break;
        }
    }
    if outcome.is_ok() && !reader.is_finished() {
        outcome = run.end().await.map_err(|wrong| format!("at the end: {wrong}"));
    }
    stop.store(true, Ordering::SeqCst);
    let read = reader.await.expect("the reader does not panic");
    let outcome = read.and(outcome);
    run.tell();
    if outcome.is_err() && std::env::var_os("TIDEGATE_HISTORY_LOG").is_some() {
        for node in &run.nodes {
            println!("-- the log of {}:\n{}", node.gateway.admin(""), node.gateway.log());
        }
    }
    outcome
}

impl Run {
    async fn start(engine: Engine) -> Self {
        let servers = Servers::start(engine).await;
        let count = if matches!(engine, Engine::Redis(_)) { 2 } else { 1 };
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(Node { gateway: servers.launch("").start().await, runs: true });
        }
        let bases = nodes.iter().map(|node| node.gateway.admin("")).collect();
        let shared = Shared { facts: Arc::default(), bases: Arc::new(Mutex::new(bases)), reading: Arc::default() };
        let receiver = Receiver::start().await;
        let facts = shared.facts.clone();
        facts::answer(&receiver, move |scripts| {
            let mut facts = lock(&facts);
            let answered = facts::together(scripts, |delivery| facts.answers(delivery).len());
            for ((delivery, _), answer) in scripts.iter().zip(&answered) {
                facts.answers.entry(*delivery).or_default().push(*answer);
            }
            answered
        });
        let kept = shared.ask("POST", "/v1/components", "application/wasm", prebuilt("json-field-filter")).await;
        let component = kept.expect("the gateway answers").json()["hash"].as_str().expect("a hash").to_owned();
        let mut run = Self { shared, nodes, receiver, component, _servers: servers };
        run.restore().await.expect("the tenant can be made");
        run
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        lock(&self.shared.facts)
    }

    /// What the run was about.
    fn tell(&self) {
        let letters = self.facts().dead_letters().len();
        let (facts, requests) = (self.facts(), self.receiver.count());
        let ended = facts.ended;
        println!("{} events, {requests} requests, {letters} dead letters, {ended} gateways ended", facts.events.len());
    }

    async fn apply(&mut self, op: &Op) -> Result<(), Wrong> {
        match op {
            Op::Send { source, gateway, events } => self.send(*source, *gateway, events, None).await,
            Op::SendAndKill { source, gateway, events, requests } => self.send(*source, *gateway, events, Some(*requests)).await,
            Op::Await { requests } => {
                self.requests(*requests).await;
                Ok(())
            }
            Op::Pause { connection, paused } => {
                let path = format!("/v1/connections/{}?tenant={TENANT}", CONNECTIONS[*connection].0);
                self.set(("PATCH", &path, json!({ "paused": paused })), |settings| settings.paused[*connection] = *paused).await
            }
            Op::Enable { destination, enabled } => {
                let path = format!("/v1/destinations/{}?tenant={TENANT}", DESTINATIONS[*destination]);
                self.set(("PATCH", &path, json!({ "enabled": enabled })), |settings| settings.disabled[*destination] = !enabled)
                    .await
            }
            Op::Limit { destination, limited } => {
                let path = format!("/v1/destinations/{}?tenant={TENANT}", DESTINATIONS[*destination]);
                let rate = if *limited { json!({"limit": 20, "per": "second"}) } else { Value::Null };
                self.set(("PATCH", &path, json!({ "rate": rate })), |settings| settings.limited[*destination] = *limited).await
            }
            Op::Retries { paused } => {
                let share = json!({"percent": if *paused { 0 } else { 100 }});
                self.set(("PUT", "/v1/traffic/retries", share), |settings| settings.retries_paused = *paused).await
            }
            Op::Divert { diverted } => {
                let method = if *diverted { "PUT" } else { "DELETE" };
                let path = format!("/v1/traffic/diversions/{TENANT}");
                self.set((method, &path, json!({})), |settings| settings.diverted = *diverted).await
            }
            Op::Spread => {
                self.expect("PATCH", &format!("/v1/tenants/{TENANT}"), &json!({"plan": {"shards": 4}}), &[200]).await.map(drop)
            }
            Op::RetryEvent { event } => self.retry_event(*event).await,
            Op::RetryLetters { count } => self.retry_letters(*count).await,
            Op::RetryJob => self.retry_job().await,
            Op::DeleteConnection { connection } => self.delete_connections(|place| place == *connection).await,
            Op::DeleteDestination { destination } => {
                self.delete_connections(|place| CONNECTIONS[place].2 == *destination).await?;
                self.delete("destinations", DESTINATIONS[*destination]).await
            }
            Op::DeleteSource { source } => self.delete_source(*source).await,
            Op::Restore => self.restore().await,
            Op::Kill { gateway } => {
                self.kill(*gateway).await;
                Ok(())
            }
            Op::Stop { gateway } => {
                self.stop(*gateway).await;
                Ok(())
            }
            Op::Start => {
                self.start_all().await;
                Ok(())
            }
        }
    }

    /// Sends events at once, and looks each up that was acknowledged; kills a gateway after so many requests.
    async fn send(&mut self, source: usize, gateway: usize, events: &[Script], kill: Option<usize>) -> Result<(), Wrong> {
        let Some(id) = self.facts().sources[source].clone() else { return Ok(()) };
        let node = self.node(gateway);
        let url = self.nodes[node].gateway.ingest(&format!("/in/{id}"));
        let mut senders = JoinSet::new();
        for script in events {
            let number = {
                let mut facts = self.facts();
                let at = facts.tick();
                facts.sent.push(Sent { script: script.clone(), source: id.clone(), at, answer: None });
                facts.sent.len() - 1
            };
            let (shared, url, body) = (self.shared.clone(), url.clone(), facts::body(number, script));
            senders.spawn(async move {
                let Ok(reply) = try_send("POST", &url, &[], body).await else { return Ok(()) };
                lock(&shared.facts).sent[number].answer = Some(reply.status);
                match reply.status {
                    202 => {}
                    // What is not refused for its own sake may be refused for the store's.
                    503 => return Ok(()),
                    status => return Err(format!("answered {status}: {:?}", reply.body)),
                }
                let event: EventId = reply.json()["id"].as_str().and_then(|id| id.parse().ok()).ok_or("no id")?;
                shared.accepted(event, number)?;
                shared.listed_at_once(event).await
            });
        }
        if let Some(requests) = kill {
            self.requests(requests).await;
            self.kill(node).await;
        }
        senders.join_all().await.into_iter().collect()
    }

    /// Waits for so many requests more at the receiver, a moment at most.
    async fn requests(&self, requests: usize) {
        let goal = self.receiver.count() + requests;
        let coming = eventually("requests", Duration::MAX, async || (self.receiver.count() >= goal).then_some(()));
        // There may be none to come.
        let _ = tokio::time::timeout(A_MOMENT, coming).await;
    }

    /// A gateway that runs: this one, or another.
    fn node(&self, gateway: usize) -> usize {
        let gateway = gateway % self.nodes.len();
        if self.nodes[gateway].runs { gateway } else { (gateway + 1) % self.nodes.len() }
    }

    async fn kill(&mut self, gateway: usize) {
        let node = self.node(gateway);
        self.leave(node);
        self.nodes[node].gateway.kill();
        self.go_on().await;
    }

    async fn stop(&mut self, gateway: usize) {
        let node = self.node(gateway);
        self.leave(node);
        self.nodes[node].gateway.stop(SOON).await;
        self.go_on().await;
    }

    fn leave(&mut self, node: usize) {
        let base = self.nodes[node].gateway.admin("");
        lock(&self.shared.bases).retain(|other| *other != base);
        self.nodes[node].runs = false;
        self.facts().ended += 1;
    }

    /// One gateway runs always.
    async fn go_on(&mut self) {
        if !self.nodes.iter().any(|node| node.runs) {
            self.start_all().await;
        }
    }

    async fn start_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| !node.runs) {
            node.gateway.restart().await;
            node.runs = true;
            lock(&self.shared.bases).push(node.gateway.admin(""));
        }
    }

    /// Nothing holds anything up any more: all comes to its end, which is the model's, and stays so over a crash.
    async fn end(&mut self) -> Result<(), Wrong> {
        self.start_all().await;
        for op in [Op::Divert { diverted: false }, Op::Retries { paused: false }] {
            self.apply(&op).await?;
        }
        {
            let mut facts = self.facts();
            facts.changes += 1;
            facts.settings = facts::Settings::default();
            facts.changes += 1;
        }
        self.restore().await?;
        let began = monotonic();
        while self.shared.listing().await?.contains(&false) {
            if began.elapsed() > END {
                let open: Vec<_> = self.shared.open();
                return Err(format!("not at an end after {END:?}: {open:#?}"));
            }
            for name in DESTINATIONS {
                self.expect("POST", &format!("/v1/destinations/{name}/enable?tenant={TENANT}"), &json!({}), &[200]).await?;
            }
            self.requests(1).await;
        }
        self.compare().await?;
        for node in 0..self.nodes.len() {
            self.leave(node);
            self.nodes[node].gateway.kill();
        }
        self.start_all().await;
        self.compare().await
    }

    /// Compares what all gateways show with the model.
    async fn compare(&self) -> Result<(), Wrong> {
        self.facts().unsteady = self.nodes.iter().any(|node| node.gateway.log().contains("shard lost"));
        for base in self.shared.all() {
            self.shared.listing_of(&base).await?;
            let letters = self.shared.letters(&base).await?;
            let facts = self.facts();
            for (id, event) in &facts.events {
                facts.settled(*id).map_err(|wrong| format!("{id}: {wrong}\n{event:#?}\n{:?}", facts.sent[event.number]))?;
            }
            let expected = facts.dead_letters();
            if letters != expected {
                return Err(format!("dead letters are {letters:?}, and by their events {expected:?}"));
            }
            let lost = facts.sent.iter().enumerate().filter(|(_, sent)| sent.answer == Some(202));
            let kept: BTreeSet<usize> = facts.events.values().map(|event| event.number).collect();
            if let Some((number, sent)) = lost.into_iter().find(|(number, _)| !kept.contains(number)) {
                return Err(format!("event {number} was acknowledged and is nowhere: {sent:?}"));
            }
        }
        let shared = &self.shared;
        let what = std::cell::RefCell::new(Value::Null);
        let emptied = eventually("the counts are those of the events", Duration::MAX, async || {
            let signals = shared.ask("GET", "/v1/signals", "application/json", "").await?.json();
            let queues = &signals["gateway"];
            let in_lanes: u64 = queues["lanes"].as_array()?.iter().filter_map(|lane| lane["events"].as_u64()).sum();
            let letters = lock(&shared.facts).dead_letters().len();
            let is_so = in_lanes == 0
                && ["scheduled", "parked", "bytes"].iter().all(|name| queues[*name] == 0)
                && queues["dead_letters"] == letters;
            what.replace(queues.clone());
            is_so.then_some(())
        });
        // They are as old as a second.
        let counted = tokio::time::timeout(SOON, emptied).await;
        counted.map_err(|_| format!("the counts are not those of the events: {}", what.borrow()))
    }
}
