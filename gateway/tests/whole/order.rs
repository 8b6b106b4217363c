//! A destination that keeps an order by key, with a receiver that fails and is slow at random, and gateways that are killed: every
//! acknowledged event arrives, and those of a key arrive in the order in which they were accepted.
//!
//! Each run prints its seed; `TIDEGATE_SEED` repeats one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tidegate_test_support::gateway::Gateway;
use tidegate_test_support::http::{Answer, Received, Receiver, SendError};
use tidegate_test_support::{eventually, now};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::Api;
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};

const EVENTS: usize = 10_000;
const KEYS: usize = 100;
const SENDERS: usize = 10;
/// The destination's window: as many deliveries may be under way at a kill. Less than there are keys, so that events wait.
const WINDOW: usize = 64;
/// An answer may take this long.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two tries to reach a gateway that is away.
const PAUSE: Duration = Duration::from_millis(10);
/// All of it, on a busy machine.
const LONG: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_while_a_gateway_is_killed_and_started_again_on_the_embedded_store() {
    kill_and_restart(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_while_a_gateway_is_killed_and_started_again_on_redis() {
    kill_and_restart(REDIS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_while_another_gateway_takes_over() {
    let mut world = World::start(REDIS).await;
    let other = world.servers.launch("").start().await;
    let run = Run::start(&world, &[&world.gateway, &other]).await;
    run.until(EVENTS / 2).await;
    world.gateway.kill();
    run.killed();
    run.end(&Api::of(&other), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_fails_delays_no_other() {
    const BLOCKED: &str = "key-7";
    let world = World::start(EMBEDDED).await;
    set_up(&world.api, &world.receiver, "1s").await;
    let is_blocked = |request: &Received| request.target == "/" && request.header("x-key") == Some(BLOCKED);
    world.receiver.answer_with(move |request| Answer::status(if is_blocked(request) { 503 } else { 200 }));
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "in").await));
    let mut sender = Sender::to(vec![url]);
    for number in 0..1_000 {
        sender.send(&format!("key-{}", number % 10), number).await.expect("accepted");
    }
    let others = |requests: &[Received]| requests.iter().filter(|one| one.target == "/" && !is_blocked(one)).count();
    let requests = world.receiver.wait_until(SOON, |requests| others(requests) >= 900).await;
    let tried: BTreeSet<_> = requests.iter().filter(|request| is_blocked(request)).map(number).collect();
    assert_eq!(tried, [7].into(), "only the first of the key that fails was tried");
    world.receiver.answer(Answer::status(200));
    let requests = world
        .receiver
        .wait_until(SOON, |requests| requests.iter().filter(|request| is_blocked(request)).map(number).max() == Some(997))
        .await;
    let mut order: Vec<_> = requests.iter().filter(|request| is_blocked(request)).map(number).collect();
    order.dedup();
    assert_eq!(order, (0..100).map(|at| at * 10 + 7).collect::<Vec<_>>());
    assert_eq!(others(&requests), 900, "nothing came twice");
}

async fn kill_and_restart(engine: Engine) {
    let mut world = World::start(engine).await;
    let run = Run::start(&world, &[&world.gateway]).await;
    run.until(EVENTS / 2).await;
    world.gateway.kill();
    run.killed();
    world.gateway.restart().await;
    run.end(&world.api, 1).await;
}

async fn set_up(api: &Api, receiver: &Receiver, max_delay: &str) {
    api.apply(json!({
        "plan": {"rate": 100_000.0, "burst": 100_000, "in_flight": 256},
        "sources": [{"name": "in"}],
        "destinations": [{
            "name": "out",
            "url": receiver.url("/"),
            "order": {"by": "header", "name": "x-key"},
            "in_flight": WINDOW,
            "circuit_breaker": {"enabled": false},
            "retry": {"base": "20ms", "max_delay": max_delay, "max_attempts": 50},
        }, {"name": "free", "url": receiver.url("/free")}],
        "connections": [
            {"name": "through", "source": "in", "destination": "out"},
            {"name": "free", "source": "in", "destination": "free", "filter": {"body": {"free": true}}},
        ],
    }))
    .await;
}

/// Whether an event goes to a destination without an order as well.
fn is_free(number: usize) -> bool {
    number.is_multiple_of(4)
}

fn number(request: &Received) -> usize {
    request.json()["number"].as_u64().expect("a number") as usize
}

/// Senders at work, and what the receiver has seen.
struct Run {
    seen: Seen,
    /// What was acknowledged of each key, in order.
    senders: JoinSet<BTreeMap<String, Vec<usize>>>,
    acked: watch::Receiver<usize>,
    generation: Arc<AtomicUsize>,
}

impl Run {
    /// Each key has one sender, which sends an event once the one before is acknowledged, or was in vain.
    async fn start(world: &World, gateways: &[&Gateway]) -> Self {
        let seed = std::env::var("TIDEGATE_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
        println!("TIDEGATE_SEED={seed}");
        set_up(&world.api, &world.receiver, "50ms").await;
        let path = format!("/in/{}", world.api.id("sources", "in").await);
        for gateway in gateways {
            eventually("every gateway knows the source", SOON, async || {
                let of = Api::of(gateway).try_get(&format!("/v1/sources/in?tenant={}", crate::api::TENANT)).await;
                (of.status == 200).then_some(())
            })
            .await;
        }
        let urls: Vec<String> = gateways.iter().map(|gateway| gateway.ingest(&path)).collect();
        let generation = Arc::<AtomicUsize>::default();
        let seen = Seen::watch(&world.receiver, StdRng::seed_from_u64(seed), generation.clone());
        let (count, acked) = watch::channel(0);
        let mut senders = JoinSet::new();
        for sender in 0..SENDERS {
            let mut urls = urls.clone();
            urls.rotate_left(sender % gateways.len());
            senders.spawn(send_all(Sender::to(urls), sender, count.clone()));
        }
        Self { seen, senders, acked, generation }
    }

    /// Waits for so many acknowledgements.
    async fn until(&self, count: usize) {
        let mut acked = self.acked.clone();
        let enough = acked.wait_for(|acked| *acked >= count);
        tokio::time::timeout(LONG, enough).await.expect("events are accepted").expect("senders live");
    }

    /// Notes a kill, which found work under way.
    fn killed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        let taken: usize = self.seen.lines.lock().expect("no panic").values().map(|line| line.taken.len()).sum();
        println!("killed with {} acknowledged, {taken} of them delivered", *self.acked.borrow());
        assert!(taken > 0 && taken < EVENTS, "{taken} had arrived");
    }

    /// Waits for the rest, and judges.
    async fn end(mut self, api: &Api, kills: usize) {
        let mut acked = BTreeMap::new();
        while let Some(sent) = self.senders.join_next().await {
            acked.extend(sent.expect("senders don't fail"));
        }
        let count: usize = acked.values().map(Vec::len).sum();
        assert_eq!((acked.len(), count), (KEYS, EVENTS));
        let missing = |seen: &Seen| {
            let free = seen.free.lock().expect("no panic");
            let is_missing = |number: &&usize| is_free(**number) && !free.contains(number);
            let missing_there = acked.values().flatten().filter(is_missing).count();
            let lines = seen.lines.lock().expect("no panic");
            let taken =
                |key: &str| lines.get(key).map(|line| line.taken.iter().copied().collect::<BTreeSet<_>>()).unwrap_or_default();
            acked.iter().map(|(key, numbers)| numbers.iter().filter(|number| !taken(key).contains(number)).count()).sum::<usize>()
                + missing_there
        };
        eventually("all that was acknowledged arrives", LONG, async || (missing(&self.seen) == 0).then_some(())).await;
        let waits = api.get(&format!("/v1/dead-letters?tenant={}", crate::api::TENANT)).await;
        assert_eq!(waits["items"], json!([]));
        let seen = self.seen.lines.lock().expect("no panic");
        let (mut twice, mut attempts) = (0, 0);
        for (key, line) in seen.iter() {
            assert!(line.faults.is_empty(), "{key}: {:?}", line.faults);
            assert!(line.taken.is_sorted_by(|earlier, later| earlier < later), "{key} arrived in another order: {:?}", line.taken);
            (twice, attempts) = (twice + line.twice, attempts + line.attempts);
        }
        println!("{count} events acknowledged, {attempts} attempts, {twice} arrived twice");
        assert!(twice <= WINDOW * kills, "{twice} came twice: more than was under way");
    }
}

async fn send_all(mut sender: Sender, first: usize, count: watch::Sender<usize>) -> BTreeMap<String, Vec<usize>> {
    let mut acked = BTreeMap::<String, Vec<usize>>::new();
    let mut left = EVENTS / SENDERS;
    // Every sender has keys of its own.
    for number in (first..).step_by(SENDERS) {
        if left == 0 {
            break;
        }
        let key = format!("key-{}", number % KEYS);
        // A number is sent once only: what became of an unanswered one is not known.
        if sender.send(&key, number).await.is_ok() {
            acked.entry(key).or_default().push(number);
            left -= 1;
            count.send_modify(|count| *count += 1);
        } else {
            tokio::time::sleep(PAUSE).await;
        }
    }
    acked
}

/// What arrived, by key.
#[derive(Clone)]
struct Seen {
    lines: Arc<Mutex<HashMap<String, Arrivals>>>,
    /// What arrived where no order is kept.
    free: Arc<Mutex<HashSet<usize>>>,
}

#[derive(Default)]
struct Arrivals {
    /// Numbers that were taken, in order, each once.
    taken: Vec<usize>,
    /// What was taken before, and came again.
    twice: usize,
    attempts: usize,
    /// The attempt that may be under way: its number, until when, and how many kills there had been.
    busy: Option<(usize, std::time::SystemTime, usize)>,
    faults: Vec<String>,
}

impl Seen {
    /// Answers a fifth of all requests 503, and a third late.
    fn watch(receiver: &Receiver, rng: StdRng, generation: Arc<AtomicUsize>) -> Self {
        let seen = Self { lines: Arc::default(), free: Arc::default() };
        let (lines, free) = (seen.lines.clone(), seen.free.clone());
        let rng = Mutex::new(rng);
        receiver.answer_with(move |request| {
            if request.target == "/free" {
                free.lock().expect("no panic").insert(number(request));
                return Answer::status(200);
            }
            let (is_refused, delay) = {
                let mut rng = rng.lock().expect("no panic");
                let delay = if rng.random_ratio(1, 3) { rng.random_range(1..30) } else { 0 };
                (rng.random_ratio(1, 5), Duration::from_millis(delay))
            };
            let key = request.header("x-key").expect("a key").to_owned();
            let mut lines = lines.lock().expect("no panic");
            lines.entry(key).or_default().arrived(number(request), is_refused, delay, generation.load(Ordering::SeqCst));
            Answer::status(if is_refused { 503 } else { 200 }).after(delay)
        });
        seen
    }
}

impl Arrivals {
    fn arrived(&mut self, number: usize, is_refused: bool, delay: Duration, generation: usize) {
        self.attempts += 1;
        let now = now();
        if let Some((other, until, then)) = self.busy.replace((number, now + delay, generation)) {
            if other != number && now < until && then == generation {
                self.faults.push(format!("{number} came while {other} was under way"));
            }
            if number < other {
                self.faults.push(format!("{number} came after {other}"));
            }
            if number > other && self.taken.last() != Some(&other) {
                self.faults.push(format!("{number} came before {other} was taken"));
            }
        }
        match self.taken.last() {
            _ if is_refused => {}
            Some(last) if *last == number => self.twice += 1,
            _ => self.taken.push(number),
        }
    }
}

/// One request at a time, to the first of its gateways that answers.
struct Sender {
    urls: Vec<String>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Sender {
    fn to(urls: Vec<String>) -> Self {
        Self { urls, connection: None }
    }

    async fn send(&mut self, key: &str, number: usize) -> Result<(), SendError> {
        let sent = tokio::time::timeout(PATIENCE, self.try_send(key, number)).await;
        let sent = sent.unwrap_or_else(|late| Err(late.into()));
        if sent.is_err() {
            self.connection = None;
            self.urls.rotate_left(1);
        }
        sent
    }

    async fn try_send(&mut self, key: &str, number: usize) -> Result<(), SendError> {
        let uri: http::Uri = self.urls[0].parse()?;
        let authority = uri.authority().expect("a URL with a host").as_str();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let (sender, connection) = handshake(TokioIo::new(TcpStream::connect(authority).await?)).await?;
                tokio::spawn(connection);
                sender
            }
        };
        let request = Request::post(uri.path()).header("host", authority).header("x-key", key);
        connection.ready().await?;
        let body = Full::from(json!({"number": number, "free": is_free(number)}).to_string());
        let (head, body) = connection.send_request(request.body(body)?).await?.into_parts();
        #[allow(clippy::disallowed_methods, reason = "limited")]
        Limited::new(body, 1 << 20).collect().await?;
        if head.status != 202 {
            return Err(format!("answered {}", head.status).into());
        }
        self.connection = Some(connection);
        Ok(())
    }
}
