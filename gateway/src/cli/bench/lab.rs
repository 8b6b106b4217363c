//! Where a run happens: its directory, its settings, and one measurement as all cases make it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use tempfile::TempDir;
use tokio::time::sleep;

use super::error::BenchError;
use super::load::Sent;
use super::outcome::{Acknowledged, Arrivals, read_acknowledged, read_arrivals};
use super::part::Part;
use super::receiver::OPEN;
use super::{Options, body, cpu, http};
use crate::clock;

/// What a run takes unless told otherwise.
const SECONDS: u64 = 4;
const REPETITIONS: u32 = 5;
/// A measurement of the short form.
const SHORT: Duration = Duration::from_millis(400);

/// How long an answer may come after the load's time is over.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long nothing may arrive before the rest is given up.
const STALLED: Duration = Duration::from_secs(20);
/// How often arrivals are counted while they are waited for.
const LOOK: Duration = Duration::from_millis(20);
/// A process is at rest when it has used no more than 10 ms of CPU in this time.
const REST: Duration = Duration::from_millis(200);
/// How long a measured process may take to record what it did.
const RECORDED: Duration = Duration::from_secs(4);

/// The settings of a run, and its directory, which is removed with it.
pub(super) struct Lab {
    /// This program.
    pub(super) program: PathBuf,
    /// Runtime threads of the gateway and of the floor.
    pub(super) threads: usize,
    pub(super) time: Duration,
    pub(super) repetitions: u32,
    dir: TempDir,
    rooms: std::cell::Cell<u32>,
}

impl Lab {
    pub(super) fn set_up(options: &Options) -> Result<Self, BenchError> {
        let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new().prefix("tidegate-bench-").tempdir_in(&parent);
        let time = options.seconds.map_or(if options.short { SHORT } else { Duration::from_secs(SECONDS) }, Duration::from_secs);
        Ok(Self {
            program: std::env::current_exe().map_err(BenchError::io("this program's path"))?,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            time,
            repetitions: options.repetitions.unwrap_or(if options.short { 1 } else { REPETITIONS }),
            dir: dir.map_err(BenchError::io(parent.display().to_string()))?,
            rooms: std::cell::Cell::new(0),
        })
    }

    pub(super) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// A directory that nothing has used yet.
    pub(super) fn room(&self) -> Result<PathBuf, BenchError> {
        self.rooms.set(self.rooms.get() + 1);
        let room = self.dir().join(self.rooms.get().to_string());
        std::fs::create_dir(&room).map_err(BenchError::io(room.display().to_string()))?;
        Ok(room)
    }

    pub(super) async fn load(&self, target: SocketAddr, paths: &[impl AsRef<str>], connections: u16) -> Result<Part, BenchError> {
        self.load_of(target, paths, connections, body::SIZE).await
    }

    /// Sends bodies of `size` bytes.
    pub(super) async fn load_of(
        &self,
        target: SocketAddr,
        paths: &[impl AsRef<str>],
        connections: u16,
        size: usize,
    ) -> Result<Part, BenchError> {
        let file = self.room()?.join("paths");
        let text: String = paths.iter().flat_map(|path| [path.as_ref(), "\n"]).collect();
        std::fs::write(&file, text).map_err(BenchError::io(file.display().to_string()))?;
        let arguments = [
            format!("--target={target}"),
            format!("--connections={connections}"),
            format!("--size={size}"),
            format!("--paths={}", file.display()),
            "--record".to_owned(),
        ];
        Part::start(&self.program, "load", &arguments).await
    }

    pub(super) async fn receiver(&self) -> Result<Part, BenchError> {
        Part::start(&self.program, "receiver", &[]).await
    }

    pub(super) async fn floor(&self, more: &[String]) -> Result<Part, BenchError> {
        Part::start(&self.program, "floor", &[&[format!("--threads={}", self.threads)], more].concat()).await
    }

    /// Warms up, then measures once.
    pub(super) async fn measure(&self, stage: &mut Stage<'_>) -> Result<Measured, BenchError> {
        let warm = stage.send(self.time / 4, None).await?;
        let before = (clock::wall_micros(), stage.cpu()?);
        let sent = stage.send(self.time, None).await?.some(&stage.name)?;
        let used = stage.cpu()?;
        #[allow(clippy::cast_precision_loss)]
        let each = |time: Duration| time.as_secs_f64() * 1e6 / sent.accepted as f64;
        let cpu_us = used.into_iter().map(|(name, used)| (name, each(used.saturating_sub(before.1[name])))).collect();
        let unclear = [&warm, &sent].into_iter().map(|sent| sent.failed + sent.refused.values().sum::<u64>()).sum();
        Ok(Measured { since: before.0, sent, unclear, cpu_us })
    }
}

/// What is measured at once: who sends, who receives, and whose CPU is counted.
pub(super) struct Stage<'a> {
    /// For errors.
    pub(super) name: String,
    pub(super) load: &'a mut Part,
    /// If events are to arrive, they are waited for.
    pub(super) receiver: Option<&'a Part>,
    /// Processes by name; the first one's rest ends a measurement.
    pub(super) processes: Vec<(&'static str, u32)>,
}

/// One measurement.
#[derive(Clone)]
pub(super) struct Measured {
    /// When it began, after the warm-up: microseconds since the epoch.
    pub(super) since: u64,
    pub(super) sent: Sent,
    /// Requests without a 202, those of the warm-up too.
    pub(super) unclear: u64,
    /// CPU of each process for each accepted event, in microseconds.
    pub(super) cpu_us: BTreeMap<&'static str, f64>,
}

impl Stage<'_> {
    /// Sends for `time`, at `rate` requests per second if one is given, then waits until what was accepted has arrived and is recorded.
    pub(super) async fn send(&mut self, time: Duration, rate: Option<f64>) -> Result<Sent, BenchError> {
        let arrived = self.arrived().await?;
        let sent = send(self.load, time, rate).await?;
        self.drain(arrived + sent.accepted).await?;
        Ok(sent)
    }

    async fn drain(&self, expected: u64) -> Result<(), BenchError> {
        let Some(receiver) = self.receiver else { return Ok(()) };
        all_arrived(receiver, expected).await?;
        self.rest().await
    }

    /// Waits until the measured process has recorded what it did.
    async fn rest(&self) -> Result<(), BenchError> {
        let Some(&(_, pid)) = self.processes.first() else { return Ok(()) };
        at_rest(pid, 1, RECORDED).await
    }

    async fn arrived(&self) -> Result<u64, BenchError> {
        match self.receiver {
            Some(receiver) => arrived(receiver).await,
            None => Ok(0),
        }
    }

    fn cpu(&self) -> Result<BTreeMap<&'static str, Duration>, BenchError> {
        self.processes.iter().map(|&(name, pid)| Ok((name, cpu::used_by(pid)?))).collect()
    }
}

/// Waits until a process has been at rest so many times in a row, at most this long.
pub(super) async fn at_rest(pid: u32, in_a_row: u32, within: Duration) -> Result<(), BenchError> {
    let until = clock::monotonic() + within;
    let mut before = cpu::used_by(pid)?;
    let mut quiet = 0;
    while quiet < in_a_row && clock::monotonic() < until {
        sleep(REST).await;
        let now = cpu::used_by(pid)?;
        quiet = if now.saturating_sub(before) <= Duration::from_millis(10) { quiet + 1 } else { 0 };
        before = now;
    }
    Ok(())
}

/// Sends for `time`, at `rate` requests per second if one is given.
pub(super) async fn send(load: &mut Part, time: Duration, rate: Option<f64>) -> Result<Sent, BenchError> {
    load.ask(&format!("run {} {}", time.as_millis(), rate.unwrap_or(0.0)), time + PATIENCE).await
}

/// Sends one request to each path, in at most this time.
pub(super) async fn send_each(load: &mut Part, time: Duration) -> Result<Sent, BenchError> {
    load.ask("each", time + PATIENCE).await
}

/// Sends bodies for `time` that never end.
pub(super) async fn crawl(load: &mut Part, time: Duration) -> Result<Sent, BenchError> {
    load.ask(&format!("crawl {}", time.as_millis()), time + PATIENCE).await
}

/// Lets the deliveries through that wait at the receiver.
pub(super) async fn open_gate(receiver: &Part) -> Result<(), BenchError> {
    get(receiver, OPEN).await.map(drop)
}

/// How many deliveries have come.
pub(super) async fn arrived(receiver: &Part) -> Result<u64, BenchError> {
    let text = get(receiver, "/count").await?;
    text.parse().map_err(|_| BenchError::Answer { name: "receiver", answer: text })
}

/// Waits until that many deliveries have come, or none comes any more.
pub(super) async fn all_arrived(receiver: &Part, expected: u64) -> Result<(), BenchError> {
    let (mut seen, mut since) = (0, clock::monotonic());
    loop {
        let now = arrived(receiver).await?;
        if now > seen {
            (seen, since) = (now, clock::monotonic());
        }
        if now >= expected || since.elapsed() > STALLED {
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

/// What the load got a 202 for.
pub(super) async fn accepted(lab: &Lab, load: &mut Part) -> Result<Acknowledged, BenchError> {
    let path = lab.room()?.join("accepted.log");
    let _: u64 = load.ask(&format!("log {}", path.display()), PATIENCE).await?;
    let text = std::fs::read_to_string(&path).map_err(BenchError::io(path.display().to_string()))?;
    read_acknowledged(&text)
}

/// What the receiver got.
pub(super) async fn delivered(receiver: &Part) -> Result<Arrivals, BenchError> {
    read_arrivals(&get(receiver, "/log").await?)
}

async fn get(receiver: &Part, path: &'static str) -> Result<String, BenchError> {
    let mut request = Request::new(Full::<Bytes>::default());
    *request.uri_mut() = hyper::Uri::from_static(path);
    let (_, body) = http::call(receiver.address()?, request).await?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}
