//! What sends: keep-alive HTTP/1.1 POSTs on a number of connections, by hand so that they cost little.
//!
//! `run MS RATE` sends for that long and answers with a [`Sent`]. At rate 0 each connection is a closed loop. At any other, requests are
//! due at fixed moments, in turn on the connections; one that can't be sent when it is due is sent when it can be, and its times
//! count from when it was due. `crawl MS` sends bodies for that long that never end (see [`crawl`]). `each` sends one request to each path. `log PATH` writes a line for each confirmed event: its id, when its
//! request was due in microseconds since the epoch, and which of the paths it went to.

mod crawl;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::body::{self, Body};
use super::error::BenchError;
use super::part;
use super::statistics::percentile;
use crate::clock;
use crate::event::EventId;

/// The longest answer that is read.
const MAX_ANSWER: usize = 64 << 10;

/// How long a connection waits before it goes on after a refusal or a failure: a server that refuses is not to be hammered.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// Where to send.
    #[arg(long)]
    target: SocketAddr,
    /// A file with the paths to post to in turn, one a line: there may be more of them than fit into arguments.
    #[arg(long)]
    paths: PathBuf,
    /// Bytes of a body.
    #[arg(long, default_value_t = body::SIZE)]
    size: usize,
    /// How many connections.
    #[arg(long)]
    connections: u16,
    /// Remember the ids of confirmed events.
    #[arg(long)]
    record: bool,
}

/// What came of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Sent {
    /// Answered with 202.
    pub(super) accepted: u64,
    /// Answered with something else, by status.
    pub(super) refused: BTreeMap<u16, u64>,
    /// Not answered: the connection failed, or the answer was no HTTP.
    pub(super) failed: u64,
    /// From the first request to the last answer.
    pub(super) elapsed_us: u64,
    /// Time from request to answer, median.
    pub(super) answer_p50_us: u64,
    /// The same, 99th percentile.
    pub(super) answer_p99_us: u64,
}

impl Sent {
    /// An error unless something was accepted: what waits for enough of it would wait for ever.
    pub(super) fn some(self, name: &str) -> Result<Self, BenchError> {
        if self.accepted > 0 {
            return Ok(self);
        }
        let detail = format!("{} failed, refused by status: {:?}", self.failed, self.refused);
        Err(BenchError::NothingAccepted { name: name.to_owned(), detail })
    }
}

/// Runs until its input ends.
pub(super) fn run(args: &LoadArgs) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BenchError::io("runtime"))?;
    runtime.block_on(async {
        let mut orders = part::Orders::ready(None)?;
        let target = Arc::new(Target::read(args)?);
        let mut log = Vec::new();
        let mut number = 0;
        while let Some(order) = orders.next().await {
            match order.split(' ').collect::<Vec<_>>()[..] {
                ["run", ms, rate] => {
                    let time = Duration::from_millis(ms.parse().unwrap_or(0));
                    let rate = rate.parse().unwrap_or(0.0);
                    let pattern = if rate > 0.0 { Pattern::Paced { time, rate } } else { Pattern::Closed { time } };
                    let sent = send(args, &target, pattern, &mut number, &mut log).await;
                    part::say(&serde_json::to_string(&sent).unwrap_or_default())?;
                }
                ["each"] => {
                    let sent = send(args, &target, Pattern::Each, &mut number, &mut log).await;
                    part::say(&serde_json::to_string(&sent).unwrap_or_default())?;
                }
                ["crawl", ms] => {
                    let time = Duration::from_millis(ms.parse().unwrap_or(0));
                    let sent = crawl::crawl(&target, args.connections, time).await;
                    part::say(&serde_json::to_string(&sent).unwrap_or_default())?;
                }
                ["log", path] => {
                    std::fs::write(path, lines(&log)).map_err(BenchError::io(path))?;
                    part::say(&log.len().to_string())?;
                }
                _ => part::say("null")?,
            }
        }
        Ok(())
    })
}

/// A confirmed event, when it was due, and where it was sent.
type Confirmed = (EventId, u64, usize);

/// When requests are sent.
#[derive(Clone, Copy)]
enum Pattern {
    /// Each connection sends its next one when it has its answer.
    Closed { time: Duration },
    /// At fixed moments, so many a second.
    Paced { time: Duration, rate: f64 },
    /// One to each path, as fast as they are answered.
    Each,
}

async fn send(args: &LoadArgs, target: &Arc<Target>, pattern: Pattern, number: &mut u64, log: &mut Vec<Confirmed>) -> Sent {
    let started = clock::monotonic();
    let mut senders = JoinSet::new();
    let mut clocks = Vec::new();
    let (paths, connections) = (target.heads.len(), usize::from(args.connections));
    for lane in 0..connections {
        // Bodies differ across connections and runs; a run of a connection never sends as many.
        let sender = Sender::new(target.clone(), args.record, *number + lane as u64 * 1_000_000);
        match pattern {
            // Each starts elsewhere: together they are to be everywhere at once.
            Pattern::Closed { time } => drop(senders.spawn(sender.run(started + time, lane * paths / connections))),
            Pattern::Each => drop(senders.spawn(sender.each((lane..paths).step_by(connections)))),
            Pattern::Paced { time, rate } => {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let most = (rate * time.as_secs_f64()) as usize / connections + 1;
                let (due, moments) = mpsc::channel(most);
                clocks.push(due);
                senders.spawn(sender.paced(moments));
            }
        }
    }
    let pacer = std::thread::spawn(move || {
        if let Pattern::Paced { time, rate } = pattern {
            pace(started, time, rate, paths, &clocks);
        }
    });
    *number += u64::from(args.connections) * 1_000_000;
    let mut sent = Sent::default();
    let mut times = Vec::new();
    for sender in senders.join_all().await {
        sent.accepted += sender.accepted;
        sent.failed += sender.failed;
        for (status, count) in sender.refused {
            *sent.refused.entry(status).or_default() += count;
        }
        log.extend(sender.log);
        times.extend(sender.times_us);
    }
    let _ = pacer.join();
    times.sort_unstable();
    sent.elapsed_us = micros(started.elapsed());
    (sent.answer_p50_us, sent.answer_p99_us) = (percentile(&times, 0.5), percentile(&times, 0.99));
    sent
}

/// When a request is due, and where it goes.
#[derive(Clone, Copy)]
struct Due {
    at: Instant,
    /// The same in microseconds since the epoch.
    wall: u64,
    path: usize,
}

impl Due {
    fn now(path: usize) -> Self {
        Self { at: clock::monotonic(), wall: clock::wall_micros(), path }
    }
}

/// Tells the connections in turn when their requests are due. On a thread of its own: the runtime's timers are good to a millisecond only.
#[allow(clippy::cast_precision_loss)]
fn pace(started: Instant, time: Duration, rate: f64, paths: usize, connections: &[mpsc::Sender<Due>]) {
    let start = Due::now(0);
    for number in 0_u64.. {
        let after = Duration::from_secs_f64(number as f64 / rate);
        if after >= time {
            return;
        }
        let at = started + after;
        std::thread::sleep(at.saturating_duration_since(clock::monotonic()));
        let wall = start.wall + micros(at.saturating_duration_since(start.at));
        let turn = usize::try_from(number).unwrap_or_default();
        // There is room for all that a run sends.
        let _ = connections[turn % connections.len()].try_send(Due { at, wall, path: turn % paths });
    }
}

/// Where requests go, and what they are.
struct Target {
    address: SocketAddr,
    /// One for each path.
    heads: Vec<Vec<u8>>,
    body: Body,
}

impl Target {
    fn read(args: &LoadArgs) -> Result<Self, BenchError> {
        let paths = std::fs::read_to_string(&args.paths).map_err(BenchError::io(args.paths.display().to_string()))?;
        let head = |path: &str| {
            let mut head = format!("POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n", args.target, args.size);
            for (name, value) in body::HEADERS {
                let _ = write!(head, "{name}: {value}\r\n");
            }
            head.push_str("\r\n");
            head.into_bytes()
        };
        Ok(Self { address: args.target, heads: paths.lines().map(head).collect(), body: Body::of(args.size) })
    }
}

/// One connection.
struct Sender {
    target: Arc<Target>,
    request: Vec<u8>,
    number: u64,
    record: bool,
    answer: Vec<u8>,
    accepted: u64,
    refused: BTreeMap<u16, u64>,
    failed: u64,
    log: Vec<Confirmed>,
    times_us: Vec<u64>,
}

impl Sender {
    fn new(target: Arc<Target>, record: bool, number: u64) -> Self {
        Self {
            target,
            request: Vec::new(),
            number,
            record,
            answer: Vec::with_capacity(4096),
            accepted: 0,
            refused: BTreeMap::new(),
            failed: 0,
            log: Vec::new(),
            times_us: Vec::new(),
        }
    }

    /// Sends until then, to the paths in turn from the one at `first`.
    async fn run(mut self, until: Instant, first: usize) -> Self {
        let mut connection = None;
        for turn in first.. {
            if clock::monotonic() >= until {
                break;
            }
            if !self.one(&mut connection, Due::now(turn % self.target.heads.len())).await {
                tokio::time::sleep(PAUSE).await;
            }
        }
        self
    }

    /// Sends one request to each of these paths.
    async fn each(mut self, paths: impl Iterator<Item = usize>) -> Self {
        let mut connection = None;
        for path in paths {
            self.one(&mut connection, Due::now(path)).await;
        }
        self
    }

    async fn paced(mut self, mut moments: mpsc::Receiver<Due>) -> Self {
        let mut connection = None;
        while let Some(due) = moments.recv().await {
            self.one(&mut connection, due).await;
        }
        self
    }

    /// Sends one request; whether it was accepted.
    async fn one(&mut self, connection: &mut Option<TcpStream>, due: Due) -> bool {
        let answer = self.exchange(connection, due).await;
        match answer {
            Ok(202) => self.accepted += 1,
            Ok(status) => *self.refused.entry(status).or_default() += 1,
            Err(_) => {
                self.failed += 1;
                *connection = None;
            }
        }
        matches!(answer, Ok(202))
    }

    async fn exchange(&mut self, connection: &mut Option<TcpStream>, due: Due) -> std::io::Result<u16> {
        let stream = match connection {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.target.address).await?;
                stream.set_nodelay(true)?;
                connection.insert(stream)
            }
        };
        let (head, body) = (&self.target.heads[due.path], &self.target.body);
        self.request.clear();
        self.request.extend_from_slice(head);
        self.request.extend_from_slice(body.bytes());
        let digits = body.number_range();
        body::write_number(self.number, &mut self.request[head.len() + digits.start..head.len() + digits.end]);
        self.number += 1;
        stream.write_all(&self.request).await?;
        self.answer.clear();
        let answer = loop {
            if stream.read_buf(&mut self.answer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(answer) = Answer::parse(&self.answer)? {
                break answer;
            }
        };
        self.times_us.push(micros(due.at.elapsed()));
        if self.record && answer.status == 202 {
            let id = event_id(answer.body).ok_or(std::io::ErrorKind::InvalidData)?;
            self.log.push((id, due.wall, due.path));
        }
        let (status, close) = (answer.status, answer.close);
        if close {
            *connection = None;
        }
        Ok(status)
    }
}

/// A complete answer.
struct Answer<'a> {
    status: u16,
    close: bool,
    body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// `None` while something is missing.
    fn parse(bytes: &'a [u8]) -> std::io::Result<Option<Self>> {
        let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return if bytes.len() > MAX_ANSWER { Err(invalid()) } else { Ok(None) };
        };
        let head = std::str::from_utf8(&bytes[..end]).map_err(|_| invalid())?;
        let status = head.get(9..12).and_then(|digits| digits.parse().ok()).ok_or_else(invalid)?;
        let (mut length, mut close) = (None, false);
        for (name, value) in head.lines().filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse::<usize>().ok();
            } else if name.eq_ignore_ascii_case("connection") {
                close = value.trim().eq_ignore_ascii_case("close");
            }
        }
        let length = length.filter(|length| *length <= MAX_ANSWER).ok_or_else(invalid)?;
        let body = &bytes[end + 4..];
        match body.len().cmp(&length) {
            std::cmp::Ordering::Less => Ok(None),
            std::cmp::Ordering::Equal => Ok(Some(Self { status, close, body })),
            std::cmp::Ordering::Greater => Err(invalid()),
        }
    }
}

/// The id in `{"id": "evt_..."}`.
fn event_id(body: &[u8]) -> Option<EventId> {
    #[derive(Deserialize)]
    struct Accepted<'a> {
        id: &'a str,
    }
    serde_json::from_slice::<Accepted<'_>>(body).ok()?.id.parse().ok()
}

fn lines(log: &[Confirmed]) -> String {
    log.iter().fold(String::new(), |mut text, (id, due, path)| {
        let _ = writeln!(text, "{id} {due} {path}");
        text
    })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_only_when_it_is_complete() {
        let whole = b"HTTP/1.1 202 Accepted\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody";
        for cut in 0..whole.len() {
            assert!(Answer::parse(&whole[..cut]).unwrap().is_none(), "cut at {cut}");
        }
        let answer = Answer::parse(whole).unwrap().unwrap();
        assert_eq!((answer.status, answer.close, answer.body), (202, true, &b"body"[..]));
        assert!(Answer::parse(b"HTTP/1.1 202 Accepted\r\n\r\n").is_err(), "no length: where it ends is not known");
        assert!(Answer::parse(b"garbage\r\n\r\n").is_err());
    }

    #[test]
    fn a_202_without_an_event_id_is_not_an_event() {
        let id = EventId(7);
        assert_eq!(event_id(format!(r#"{{"id": "{id}"}}"#).as_bytes()), Some(id));
        assert_eq!(event_id(br#"{"id": "src_0"}"#), None);
        assert_eq!(event_id(b""), None);
    }
}
