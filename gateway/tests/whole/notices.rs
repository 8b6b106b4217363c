//! Notices: tenants and the operator hear, once and signed, of what became of destinations, plugins and queues.

use serde_json::{Value, json};
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Received, Receiver, send};
use tidegate_test_support::standard_webhooks::{verify_node, verify_python, verify_rust};

use crate::api::{Api, TENANT, text};
use crate::guest::filter;
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// An answer at address 8: keep.
const KEEP: &str = "(i32.store8 (i32.const 8) (i32.const 0)) (i32.store8 (i32.const 12) (i32.const 1)) (i32.const 8)";
/// Quick to tell, and slow to tell the same again.
const RULES: &str = "notices.every = \"100ms\"\nnotices.hold = \"500ms\"\nnotices.quiet = \"1h\"\nnotices.dead_letters = 4\n\
    notices.dead_letters_window = \"3s\"\nnotices.tenant = \"ops\"\n";

/// A gateway with a tenant whose notices go to one receiver, and an operator whose go to another.
struct Told {
    world: World,
    tenant: Receiver,
    operator: Receiver,
}

impl Told {
    async fn start(engine: Engine) -> Self {
        Self::with(engine, "").await
    }

    /// With more configuration.
    async fn with(engine: Engine, toml: &str) -> Self {
        let world = World::with(engine, |launch| launch, &format!("{RULES}{toml}")).await;
        let told = Self { world, tenant: Receiver::start().await, operator: Receiver::start().await };
        let mut ops = told.own(&told.operator);
        ops["name"] = "ops".into();
        told.world.api.post("/v1/apply", &json!({ "tenants": [ops] })).await;
        told
    }

    /// What brings notices to a receiver.
    fn own(&self, receiver: &Receiver) -> Value {
        json!({
            "sources": [{"name": "notices", "auth": {"type": "notices"}}],
            "destinations": [{
                "name": "told", "url": receiver.url("/told"), "signing": {"secrets": [SECRET]},
                "retry": {"base": "10ms", "max_delay": "10ms"},
            }],
            "connections": [{"name": "told", "source": "notices", "destination": "told"}],
        })
    }

    /// Brings the tenant to a state that has its notices beside this.
    async fn apply(&self, state: Value) {
        let mut whole = self.own(&self.tenant);
        for (name, value) in state.as_object().unwrap() {
            match (whole.get_mut(name), value) {
                (Some(Value::Array(all)), Value::Array(more)) => all.extend(more.clone()),
                _ => whole[name] = value.clone(),
            }
        }
        self.world.api.apply(whole).await;
    }

    /// A source, and a destination whose circuit opens after so many failures, for a second.
    async fn set_up(&self, failures: u32) {
        let breaker =
            json!({"failures": failures, "percent": 0, "pause": "1s", "max_pause": "1s", "probes": 1, "disable_after": "1h"});
        self.apply(json!({
            "sources": [{"name": "in"}],
            "destinations": [{
                "name": "ill", "url": self.world.receiver.url("/"), "circuit_breaker": breaker,
                "retry": {"base": "1ms", "max_delay": "1ms"},
            }],
            "connections": [{"name": "ill", "source": "in", "destination": "ill"}],
        }))
        .await;
    }

    async fn post(&self) -> String {
        let url = self.world.gateway.ingest(&format!("/in/{}", self.world.api.id("sources", "in").await));
        text(&send("POST", &url, &[], "{\"some\": \"event\"}").await.json()["id"])
    }

    /// Waits until tenant and operator have heard of this many things, and gives what the tenant has.
    async fn heard(&self, count: usize) -> Vec<Value> {
        let tenant = once(&self.tenant.wait_until(SOON, |requests| once(requests).len() >= count).await);
        let operator = once(&self.operator.wait_until(SOON, |requests| once(requests).len() >= count).await);
        assert_eq!(kinds(&tenant), kinds(&operator));
        bodies(&tenant)
    }

    /// The last of so many, which is of this type.
    async fn next(&self, count: usize, kind: &str) -> Value {
        let heard = self.heard(count).await;
        assert_eq!(heard.last().unwrap()["type"], kind, "{heard:#?}");
        heard.last().unwrap().clone()
    }
}

/// Each notice once: after a crash a delivery may come again, with the same id.
fn once(requests: &[Received]) -> Vec<Received> {
    let mut seen = std::collections::BTreeSet::new();
    requests.iter().filter(|request| seen.insert(request.webhook_id().map(str::to_owned))).cloned().collect()
}

fn bodies(requests: &[Received]) -> Vec<Value> {
    requests.iter().map(Received::json).collect()
}

fn kinds(requests: &[Received]) -> Vec<String> {
    requests.iter().map(|request| text(&request.json()["type"])).collect()
}

async fn metric(world: &World, name: &str) -> Option<String> {
    let metrics = String::from_utf8(world.api.try_get("/metrics").await.body.to_vec()).unwrap();
    metrics.lines().find(|line| line.starts_with(name)).and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_s_circuit_and_its_end_are_told_once_on_the_embedded_store() {
    destinations(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_s_circuit_and_its_end_are_told_once_on_redis() {
    destinations(REDIS).await;
}

async fn destinations(engine: Engine) {
    let told = Told::start(engine).await;
    let receiver = &told.world.receiver;
    receiver.answer(Answer::status(500));
    told.set_up(3).await;
    let ill = told.world.api.id("destinations", "ill").await;
    let first = told.post().await;
    let opened = told.next(1, "circuit.opened").await;
    let data = &opened["data"];
    assert_eq!((&data["destination"]["id"], &data["destination"]["name"]), (&json!(ill), &json!("ill")), "{opened:#}");
    assert_eq!((&data["tenant"]["name"], &data["reason"]["code"]), (&json!(TENANT), &json!("status")));
    assert!(data["since"].as_str() <= opened["timestamp"].as_str() && data["advice"].as_str().is_some_and(|text| text.len() > 20));
    eventually("the metrics say so too", SOON, async || {
        (metric(&told.world, "tidegate_conditions{condition=\"circuit_open\"").await.as_deref() == Some("1")).then_some(())
    })
    .await;

    receiver.answer(Answer::status(200));
    assert_eq!(told.world.api.settled(&first, SOON).await["state"], "delivered");
    told.next(2, "circuit.closed").await;

    receiver.answer(Answer::status(410));
    let gone = told.post().await;
    assert_eq!(told.world.api.settled(&gone, SOON).await["state"], "dead_lettered");
    let disabled = told.next(3, "destination.disabled").await;
    assert_eq!(disabled["data"]["reason"]["code"], "gone", "{disabled:#}");
    receiver.answer(Answer::status(200));
    told.world.api.post("/v1/destinations/ill/enable?tenant=acme", &json!({})).await;
    told.next(4, "destination.enabled").await;
    assert_eq!(metric(&told.world, "tidegate_notices_total{type=\"destination.disabled\"").await.as_deref(), Some("1"));

    let requests = told.tenant.requests();
    for request in &requests {
        for verify in [verify_rust, verify_python, verify_node] {
            assert_eq!(verify(SECRET, &request.headers, &request.body), Ok(()));
        }
        assert_eq!(request.header("content-type"), Some("application/json"));
    }
    let ids: std::collections::BTreeSet<_> = requests.iter().map(|request| request.webhook_id().unwrap()).collect();
    assert_eq!(ids.len(), 4, "each is one of its own");

    // They are events like any other, and nobody else can make them.
    let events = told.world.api.all("/v1/events").await;
    let source = told.world.api.id("sources", "notices").await;
    assert_eq!(events.iter().filter(|event| event["source"] == source).count(), 4);
    let refused = send("POST", &told.world.gateway.ingest(&format!("/in/{source}")), &[], "{}").await;
    assert_eq!((refused.status, &refused.json()["code"]), (401, &json!("only_notices")));
}

/// A receiver that fails gets them one behind the other, as they were made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_keep_the_order_that_their_destination_asks_for() {
    let told = Told::start(EMBEDDED).await;
    let receiver = &told.world.receiver;
    told.set_up(1).await;
    let ordered = json!({
        "order": {"by": "destination"}, "circuit_breaker": {"enabled": false},
        "retry": {"base": "1s", "max_delay": "1s", "max_attempts": 50},
    });
    told.world.api.patch(&format!("/v1/destinations/told?tenant={TENANT}"), &ordered).await;
    told.tenant.answer(Answer::status(503));
    let kinds_of = |requests: &[Received]| kinds(&once(requests));
    let is_told = async |count: usize| {
        told.operator.wait_until(SOON, |requests| once(requests).len() >= count).await;
    };
    receiver.answer(Answer::status(500));
    told.post().await;
    is_told(1).await;
    receiver.answer(Answer::status(200));
    is_told(2).await;
    receiver.answer(Answer::status(410));
    told.post().await;
    is_told(3).await;
    assert_eq!(kinds_of(&told.tenant.requests()), ["circuit.opened"], "the others wait behind it");
    told.tenant.answer(Answer::status(200));
    let requests = told.tenant.wait_until(SOON, |requests| once(requests).len() >= 3).await;
    assert_eq!(kinds_of(&requests), ["circuit.opened", "circuit.closed", "destination.disabled"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_a_poisoned_plugin_and_a_backlog_are_told_on_the_embedded_store() {
    tenants(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_a_poisoned_plugin_and_a_backlog_are_told_on_redis() {
    tenants(REDIS).await;
}

async fn tenants(engine: Engine) {
    let told = Told::start(engine).await;
    let bad = told.world.api.keep(filter("", "(unreachable)")).await;
    let good = told.world.api.keep(filter("", KEEP)).await;
    told.world.receiver.answer(Answer::status(422));
    let state = |component: Option<&str>, is_paused: bool| {
        let stages = component.map_or(json!([]), |_| json!([{"plugin": "p", "version": "live", "poison_after": 1}]));
        let plugins = component.map_or(json!([]), |component| json!([{"name": "p", "component": component, "aliases": ["live"]}]));
        json!({
            "plan": {"queued_bytes": "4KiB"},
            "plugins": plugins,
            "sources": [{"name": "in"}],
            "destinations": [{
                "name": "d", "url": told.world.receiver.url("/"), "circuit_breaker": {"enabled": false},
                "retry": {"on": [{"status": "422", "do": "dead_letter"}]},
            }],
            "connections": [{"name": "c", "source": "in", "destination": "d", "plugins": stages, "paused": is_paused}],
        })
    };
    told.apply(state(None, false)).await;
    for _ in 0..4 {
        let event = told.post().await;
        assert_eq!(told.world.api.settled(&event, SOON).await["state"], "dead_lettered");
    }
    let growing = told.next(1, "dead_letters.growing").await;
    let measure = json!({"value": 4, "threshold": 4, "unit": "dead_letters", "window_s": 3});
    assert_eq!(growing["data"]["measure"], measure, "{growing:#}");
    told.next(2, "dead_letters.calm").await;

    told.world.receiver.answer(Answer::status(200));
    told.apply(state(Some(&bad), false)).await;
    let held = told.post().await;
    let poisoned = told.next(3, "plugin.poisoned").await;
    let data = &poisoned["data"];
    assert_eq!((&data["plugin"]["name"], &data["plugin"]["version"]), (&json!("p"), &json!(bad)), "{poisoned:#}");
    assert_eq!((&data["connection"]["name"], &data["reason"]["code"]), (&json!("c"), &json!("aborted")));
    told.apply(state(Some(&good), false)).await;
    assert_eq!(told.world.api.settled(&held, SOON).await["state"], "delivered");
    told.next(4, "plugin.recovered").await;

    // Half of 4 KiB. What is refused is not queued.
    told.apply(state(Some(&good), true)).await;
    let source = told.world.gateway.ingest(&format!("/in/{}", told.world.api.id("sources", "in").await));
    let body = vec![b'x'; 1000];
    for _ in 0..3 {
        assert_eq!(send("POST", &source, &[], body.clone()).await.status, 202);
    }
    let over = told.next(5, "backlog.over_threshold").await;
    let measure = &over["data"]["measure"];
    assert_eq!((&measure["threshold"], &measure["unit"]), (&json!(2048), &json!("bytes")), "{over:#}");
    assert!(measure["value"].as_u64().is_some_and(|value| value >= 2048), "{over:#}");
    told.apply(state(Some(&good), false)).await;
    told.next(6, "backlog.normal").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_comes_and_goes_gives_no_flood_and_that_of_notices_none_at_all() {
    let told = Told::start(EMBEDDED).await;
    let breaker = json!({"failures": 1, "percent": 0, "pause": "1s", "max_pause": "1s", "probes": 1});
    let mut whole = told.own(&told.tenant);
    whole["destinations"][0]["circuit_breaker"] = breaker.clone();
    whole["sources"].as_array_mut().unwrap().push(json!({"name": "in"}));
    let ill = json!({
        "name": "ill", "url": told.world.receiver.url("/"), "circuit_breaker": breaker, "retry": {"base": "1ms", "max_delay": "1ms"},
    });
    whole["destinations"].as_array_mut().unwrap().push(ill);
    whole["connections"].as_array_mut().unwrap().push(json!({"name": "ill", "source": "in", "destination": "ill"}));
    told.world.api.apply(whole).await;
    // Nobody takes the tenant's notices: their destination's circuit opens too.
    told.tenant.answer(Answer::status(503));
    let circuit = async |name: &str| {
        text(&told.world.api.get(&format!("/v1/destinations/{name}?tenant={TENANT}")).await["status"]["circuit"]["state"])
    };
    for _ in 0..4 {
        told.world.receiver.answer(Answer::status(500));
        let event = told.post().await;
        eventually("its circuit opens", SOON, async || (circuit("ill").await == "open").then_some(())).await;
        told.world.receiver.answer(Answer::status(200));
        assert_eq!(told.world.api.settled(&event, SOON).await["state"], "delivered");
    }
    eventually("the circuit of the notices' destination opens", SOON, async || (circuit("told").await != "closed").then_some(()))
        .await;
    // One of each: the next of either could come in an hour.
    let operator = told.operator.wait_for(2, SOON).await;
    assert_eq!(kinds(&operator), ["circuit.opened", "circuit.closed"]);
    assert!(bodies(&operator).iter().all(|notice| notice["data"]["destination"]["name"] == "ill"));
    let source = told.world.api.id("sources", "notices").await;
    let events = told.world.api.all("/v1/events").await;
    assert_eq!(events.iter().filter(|event| event["source"] == source).count(), 2);

    told.tenant.answer(Answer::status(200));
    for event in events.iter().filter(|event| event["source"] == source) {
        assert_eq!(told.world.api.settled(&text(&event["id"]), SOON).await["state"], "delivered");
    }
    assert_eq!(told.operator.count(), 2);
    assert_eq!(kinds(&once(&told.tenant.requests())), ["circuit.opened", "circuit.closed"]);
}

/// Destinations `d0`, `d1`, ... of one source, each with a circuit that opens at once.
fn many(told: &Told, count: usize) -> Value {
    let breaker = json!({"failures": 1, "percent": 0, "pause": "1s", "max_pause": "1s", "probes": 1});
    let destination = |number: usize| {
        json!({
            "name": format!("d{number}"), "url": told.world.receiver.url(&format!("/{number}")), "circuit_breaker": breaker,
            "retry": {"base": "1ms", "max_delay": "1ms"},
        })
    };
    let connection = |number: usize| json!({"name": format!("c{number}"), "source": "in", "destination": format!("d{number}")});
    json!({
        "sources": [{"name": "in"}],
        "destinations": (0..count).map(destination).collect::<Vec<_>>(),
        "connections": (0..count).map(connection).collect::<Vec<_>>(),
    })
}

fn counted(notices: &[Value], kind: &str) -> usize {
    let of = |notice: &&Value| notice["type"] == kind;
    let named: std::collections::BTreeSet<_> =
        notices.iter().filter(of).map(|one| text(&one["data"]["destination"]["name"])).collect();
    named.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_alarms_at_once_are_each_told_once_on_the_embedded_store() {
    hundred(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_alarms_at_once_are_each_told_once_on_redis() {
    hundred(REDIS).await;
}

async fn hundred(engine: Engine) {
    let mut told = Told::start(engine).await;
    told.world.receiver.answer(Answer::status(500));
    told.apply(many(&told, 100)).await;
    let event = told.post().await;
    let opened = told.heard(100).await;
    assert_eq!((opened.len(), counted(&opened, "circuit.opened")), (100, 100));
    eventually("the metrics say so too", SOON, async || {
        (metric(&told.world, "tidegate_conditions{condition=\"circuit_open\"").await.as_deref() == Some("100")).then_some(())
    })
    .await;
    // Who takes over knows what was told, and tells the rest.
    told.world.gateway.kill();
    told.world.gateway.restart().await;
    told.world.receiver.answer(Answer::status(200));
    assert_eq!(told.world.api.settled(&event, SOON).await["state"], "delivered");
    let all = told.heard(200).await;
    assert_eq!((all.len(), counted(&all, "circuit.opened"), counted(&all, "circuit.closed")), (200, 100, 100));
}

/// While nobody hears, nothing is told; what is so when somebody hears again is told, however little time has passed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hears_again_is_told_what_is_so() {
    let told = Told::start(EMBEDDED).await;
    // Nobody but the tenant hears.
    let off = json!({"enabled": false});
    told.world.api.patch("/v1/sources/notices?tenant=ops", &off).await;
    told.world.receiver.answer(Answer::status(410));
    told.apply(many(&told, 1)).await;
    let gone = told.post().await;
    assert_eq!(told.world.api.settled(&gone, SOON).await["state"], "dead_lettered");
    let heard = async |count: usize| {
        let heard = once(&told.tenant.wait_until(SOON, |requests| once(requests).len() >= count).await);
        kinds(&heard)
    };
    assert_eq!(heard(1).await, ["destination.disabled"]);
    told.world.api.patch("/v1/sources/notices?tenant=acme", &off).await;
    // Nobody hears of what comes meanwhile, and the gateway has looked at it.
    told.world.gateway.wait_for_log(SOON, |log| log.contains("nobody hears of this any more")).await;
    told.world.api.patch("/v1/sources/notices?tenant=acme", &json!({"enabled": true})).await;
    assert_eq!(heard(2).await, ["destination.disabled", "destination.disabled"]);
}

/// Notices that are given up before anything is planned are no dead letters that make notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_that_are_given_up_make_no_notices() {
    let told = Told::with(EMBEDDED, "dispatch.max_wait = \"5s\"\n").await;
    told.world.receiver.answer(Answer::status(500));
    told.apply(many(&told, 3)).await;
    let diversion = "/v1/traffic/diversions/acme%2Fnotices";
    assert_eq!(told.world.api.send("PUT", diversion, "application/json", "{}").await.status, 200);
    let event = told.post().await;
    let operator = async |count: usize| {
        let heard = once(&told.operator.wait_until(SOON, |requests| once(requests).len() >= count).await);
        kinds(&heard)
    };
    assert_eq!(operator(3).await, ["circuit.opened"; 3]);
    told.world.receiver.answer(Answer::status(200));
    assert_eq!(told.world.api.settled(&event, SOON).await["state"], "delivered");
    assert_eq!(operator(6).await[3..], ["circuit.closed"; 3]);
    eventually("the tenant's notices are given up", SOON, async || {
        (told.world.api.all("/v1/dead-letters").await.len() == 6).then_some(())
    })
    .await;
    // Whatever is told of them is told before this.
    told.world.receiver.answer(Answer::status(410));
    told.post().await;
    assert_eq!(operator(9).await[6..], ["destination.disabled"; 3]);
    assert_eq!(told.tenant.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_tell_once_and_so_does_who_takes_over() {
    let mut told = Told::start(REDIS).await;
    let other = told.world.servers.launch(RULES).start().await;
    told.world.receiver.answer(Answer::status(500));
    let breaker = json!({"failures": 1, "percent": 0, "pause": "1s", "max_pause": "1s", "probes": 1});
    told.apply(json!({
        "plan": {"shards": 4},
        "sources": [{"name": "in"}],
        "destinations": [{
            "name": "gone", "url": told.world.receiver.url("/"), "circuit_breaker": breaker, "retry": {"base": "1ms", "max_delay": "1ms"},
        }],
        "connections": [{"name": "gone", "source": "in", "destination": "gone"}],
    }))
    .await;
    let api = Api::of(&other);
    eventually("the other gateway knows", SOON, async || {
        (api.try_get(&format!("/v1/sources/in?tenant={TENANT}")).await.status == 200).then_some(())
    })
    .await;
    // Spread over the shards of both, each of which has a circuit of its own.
    let mut events = Vec::new();
    for _ in 0..16 {
        events.push(told.post().await);
    }
    told.next(1, "circuit.opened").await;
    told.world.receiver.wait_for(4, SOON).await;
    told.world.receiver.answer(Answer::status(200));
    for event in &events {
        assert_eq!(told.world.api.settled(event, SOON).await["state"], "delivered");
    }
    told.next(2, "circuit.closed").await;
    told.world.receiver.answer(Answer::status(410));
    let event = told.post().await;
    assert_eq!(told.world.api.settled(&event, SOON).await["state"], "dead_lettered");
    told.next(3, "destination.disabled").await;

    // The other one takes all shards over, and knows what was told.
    told.world.gateway.kill();
    api.post("/v1/destinations/gone/enable?tenant=acme", &json!({})).await;
    let told_of = told.heard(4).await;
    assert_eq!(told_of[3]["type"], "destination.enabled", "{told_of:#?}");
    let source = text(&api.get(&format!("/v1/sources/notices?tenant={TENANT}")).await["id"]);
    let events = api.all("/v1/events").await;
    assert_eq!(events.iter().filter(|event| event["source"] == source).count(), 4, "{events:#?}");
}

#[tokio::test]
async fn a_tenant_has_one_source_of_notices_which_answers_nobody() {
    let told = Told::start(EMBEDDED).await;
    told.apply(json!({})).await;
    let second = json!({"name": "more", "auth": {"type": "notices"}}).to_string();
    let reply = told.world.api.send("POST", "/v1/sources?tenant=acme", "application/json", second).await;
    assert_eq!((reply.status, &reply.json()["errors"][0]["field"]), (422, &json!("auth.type")), "{:?}", reply.body);
    let plugin = json!({"respond": {"plugin": "p"}}).to_string();
    let reply = told.world.api.send("PATCH", "/v1/sources/notices?tenant=acme", "application/json", plugin).await;
    assert_eq!(reply.status, 422);
    assert!(reply.json()["errors"].as_array().unwrap().iter().any(|error| error["field"] == "respond"), "{:?}", reply.body);
    // The same again, and another name, are no second one.
    told.apply(json!({})).await;
    told.world.api.patch("/v1/sources/notices?tenant=acme", &json!({"name": "told"})).await;
}
