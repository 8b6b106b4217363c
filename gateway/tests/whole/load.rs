//! Senders that record what was acknowledged, and a receiver's log to compare it with: as sets, never by counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tidegate_test_support::http::{Answer, Receiver, SendError};
use tidegate_test_support::{eventually, now};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::api::{Api, text};

/// Connections of the load: every event goes to the first, every second one to the other as well.
const EVERY: &str = "every";
const EVEN: &str = "even";

/// The tenant that the load is sent to.
pub(crate) async fn set_up(api: &Api, receiver: &Receiver) {
    let retry = json!({"base": "20ms", "max_delay": "200ms", "max_attempts": 50});
    api.apply(json!({
        "plan": {"rate": 100_000.0, "burst": 100_000},
        "sources": [{"name": "load"}],
        "destinations": [
            {"name": EVERY, "url": receiver.url("/every"), "retry": retry},
            {"name": EVEN, "url": receiver.url("/even"), "retry": retry},
        ],
        "connections": [
            {"name": EVERY, "source": "load", "destination": EVERY},
            {"name": EVEN, "source": "load", "destination": EVEN, "filter": {"body": {"even": true}}},
        ],
    }))
    .await;
}

/// An event that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Acked {
    pub(crate) event: String,
    pub(crate) sent_at: SystemTime,
    pub(crate) acked_at: SystemTime,
}

/// What was acknowledged so far, by the number in the body.
#[derive(Default)]
pub(crate) struct Ledger {
    acked: Mutex<BTreeMap<u64, Acked>>,
    count: AtomicUsize,
    refused: AtomicUsize,
    unanswered: AtomicUsize,
    changed: Notify,
}

impl Ledger {
    pub(crate) fn acked(&self) -> BTreeMap<u64, Acked> {
        lock(&self.acked).clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits for that many acknowledgements more.
    pub(crate) async fn more(&self, count: usize, within: Duration) {
        let goal = self.count() + count;
        let waiting = async {
            while self.count() < goal {
                let changed = self.changed.notified();
                if self.count() < goal {
                    changed.await;
                }
            }
        };
        if tokio::time::timeout(within, waiting).await.is_err() {
            let (refused, unanswered) = (self.refused.load(Ordering::SeqCst), self.unanswered.load(Ordering::SeqCst));
            panic!("{} events of {goal} acknowledged within {within:?}; {refused} refused, {unanswered} unanswered", self.count());
        }
    }
}

/// Senders at work.
pub(crate) struct Load {
    pub(crate) ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    senders: JoinSet<()>,
}

impl Load {
    /// Starts so many senders, each with one request at a time on a connection of its own, taking turns among the URLs.
    pub(crate) fn start(urls: &[String], senders: usize) -> Self {
        let (ledger, stop, next) = (Arc::new(Ledger::default()), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for number in 0..senders {
            let sender = Sender {
                url: urls[number % urls.len()].clone(),
                ledger: ledger.clone(),
                stop: stop.clone(),
                next: next.clone(),
                connection: None,
            };
            tasks.spawn(sender.run());
        }
        Self { ledger, stop, senders: tasks }
    }

    /// Lets each sender finish its request; gives what was acknowledged.
    pub(crate) async fn stop(mut self) -> BTreeMap<u64, Acked> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.senders.join_next().await {
            ended.expect("senders don't fail");
        }
        self.ledger.acked()
    }
}

struct Sender {
    url: String,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    next: Arc<AtomicU64>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// An answer may take this long.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two tries to reach a gateway that is away.
const PAUSE: Duration = Duration::from_millis(10);

impl Sender {
    async fn run(mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            // A number is sent once only: what became of an unanswered one is not known, and nobody was promised anything.
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let sent_at = now();
            match tokio::time::timeout(PATIENCE, self.send(number)).await {
                Ok(Ok((202, answer))) => {
                    let acked = Acked { event: text(&answer["id"]), sent_at, acked_at: now() };
                    lock(&self.ledger.acked).insert(number, acked);
                    self.ledger.count.fetch_add(1, Ordering::SeqCst);
                    self.ledger.changed.notify_waiters();
                }
                Ok(Ok((status, answer))) => {
                    assert_eq!(status, 503, "{answer}");
                    self.ledger.refused.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(Err(_)) | Err(_) => {
                    self.connection = None;
                    self.ledger.unanswered.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn send(&mut self, number: u64) -> Result<(u16, Value), SendError> {
        let uri: http::Uri = self.url.parse()?;
        let authority = uri.authority().expect("a URL with a host").as_str();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let (sender, connection) = handshake(TokioIo::new(TcpStream::connect(authority).await?)).await?;
                tokio::spawn(connection);
                sender
            }
        };
        let body = json!({"number": number, "even": number.is_multiple_of(2), "padding": "x".repeat(200)}).to_string();
        let request = Request::post(uri.path()).header("host", authority).header("content-type", "application/json");
        connection.ready().await?;
        let (head, body) = connection.send_request(request.body(Full::from(body))?).await?.into_parts();
        #[allow(clippy::disallowed_methods, reason = "limited")]
        let body = Limited::new(body, 1 << 20).collect().await?.to_bytes();
        self.connection = Some(connection);
        Ok((head.status.as_u16(), serde_json::from_slice(&body)?))
    }
}

/// An acknowledged event on a connection that it matched.
pub(crate) type Promise = (u64, &'static str);

/// What the receiver does with a request. Only what it takes counts as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Take,
    Refuse,
    Hang,
}

/// What the receiver took, and how often.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<HashMap<Promise, usize>>>);

impl Log {
    /// Keeps the log of a receiver, which does with each request, given its number, what `script` says.
    pub(crate) fn keep(receiver: &Receiver, script: impl Fn(usize) -> Verdict + Send + Sync + 'static) -> Self {
        let log = Self::default();
        let kept = log.clone();
        receiver.answer_with(move |request| match script(request.number) {
            Verdict::Refuse => Answer::status(503),
            Verdict::Hang => Answer::hang(),
            Verdict::Take => {
                let target = if request.target == "/every" { EVERY } else { EVEN };
                let number = request.json()["number"].as_u64().expect("a number");
                *lock(&kept.0).entry((number, target)).or_default() += 1;
                Answer::status(200)
            }
        });
        log
    }

    pub(crate) fn received(&self) -> BTreeSet<Promise> {
        lock(&self.0).keys().copied().collect()
    }

    /// Deliveries beyond the first of each.
    pub(crate) fn duplicates(&self) -> usize {
        lock(&self.0).values().map(|count| count - 1).sum()
    }

    /// Waits until everything that was promised was received, or `within` is over; gives what is missing then.
    pub(crate) async fn missing(&self, promised: &BTreeSet<Promise>, within: Duration) -> BTreeSet<Promise> {
        let missing = || promised.difference(&self.received()).copied().collect::<BTreeSet<_>>();
        let all = eventually("everything is received", Duration::MAX, async || missing().is_empty().then_some(()));
        // What is still missing is for the caller to judge.
        let _ = tokio::time::timeout(within, all).await;
        missing()
    }
}

/// What acknowledged events promise.
pub(crate) fn promised(acked: &BTreeMap<u64, Acked>) -> BTreeSet<Promise> {
    let even = acked.keys().filter(|number| number.is_multiple_of(2)).map(|number| (*number, EVEN));
    acked.keys().map(|number| (*number, EVERY)).chain(even).collect()
}

/// The store's states of what was promised, by the API: `queued` for an event that is not planned yet.
pub(crate) async fn states(api: &Api, acked: &BTreeMap<u64, Acked>) -> BTreeMap<Promise, String> {
    let connections = [(api.id("connections", EVERY).await, EVERY), (api.id("connections", EVEN).await, EVEN)];
    let events: HashMap<String, Value> = api.all("/v1/events").await.into_iter().map(|event| (text(&event["id"]), event)).collect();
    let mut states = BTreeMap::new();
    for (number, connection) in promised(acked) {
        let Some(event) = events.get(&acked[&number].event) else { continue };
        let (id, _) = connections.iter().find(|(_, name)| *name == connection).expect("one of the two");
        let rows = event["deliveries"].as_array().expect("deliveries");
        let row = rows.iter().find(|row| row["connection"] == id.as_str() || row["connection"].is_null());
        match row {
            Some(row) => drop(states.insert((number, connection), text(&row["state"]))),
            None if matches!(event["state"].as_str(), Some("queued" | "active")) => {
                states.insert((number, connection), "queued".to_owned());
            }
            None => {}
        }
    }
    states
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
