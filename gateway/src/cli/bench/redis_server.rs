//! A Redis server of the benchmark's own, and what the store's commands cost on it without us.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rand::RngExt;
use redis::aio::MultiplexedConnection;
use redis::streams::StreamReadReply;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::body::Body;
use super::cpu;
use super::error::BenchError;
use super::machine::RedisSettings;
use super::statistics::Spread;
use crate::clock;

/// What differs from the server's defaults, for the machine's description.
const SETTINGS: &str = "appendonly yes, appendfsync everysec, save \"\", auto-aof-rewrite-percentage 0";

/// How long it may take to answer its first ping.
const START: Duration = Duration::from_secs(10);
/// How often it is pinged meanwhile.
const PING: Duration = Duration::from_millis(10);
/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(10);

/// Ports below belong to servers that are known by them.
const LOWEST_PORT: u16 = 10_000;
/// Ports that are tried before the kernel is to choose one.
const TRIES: usize = 100;

/// Between two writes that are timed beside other work.
const BETWEEN: Duration = Duration::from_millis(5);
/// Writes that are timed one by one.
const WRITES: usize = 500;
/// Events in one batch of the floor.
const BATCH: usize = 64;
const STREAM: &str = "tidegate:bench:floor";
const GROUP: &str = "floor";

/// A running server. Killed when dropped.
pub(super) struct RedisServer {
    _child: Child,
    data: PathBuf,
    pid: u32,
    port: u16,
    version: String,
}

/// A run may fill many servers, and a disk.
impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

impl RedisServer {
    /// Starts one on a free port, with its data in `dir`.
    pub(super) async fn start(program: &Path, dir: &Path) -> Result<Self, BenchError> {
        std::fs::create_dir_all(dir).map_err(BenchError::io(dir.display().to_string()))?;
        let port = free_port()?;
        let failed = |source| BenchError::Start { name: "redis", program: program.to_owned(), source };
        let log = dir.join("redis.log");
        let child = Command::new(program)
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no"])
            .args(["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--auto-aof-rewrite-percentage", "0"])
            .arg("--dir")
            .arg(dir)
            .arg("--logfile")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let pid = child.id().ok_or_else(|| failed(std::io::Error::other("it ended at once")))?;
        let mut server = Self { _child: child, data: dir.join("appendonlydir"), pid, port, version: String::new() };
        server.version = timeout(START, server.wait_until_it_answers()).await.map_err(|_| late(&log))?;
        Ok(server)
    }

    /// Its address, as clients take it.
    pub(super) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    pub(super) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// What it is.
    pub(super) fn settings(&self) -> RedisSettings {
        RedisSettings { version: self.version.clone(), settings: SETTINGS }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// CPU for each event of the least that a store on streams must do, in microseconds: `XADD`, `XREADGROUP`, `XACK` and `XDEL`
    /// of 1 KB events in batches of 64, for `time`.
    pub(super) async fn floor(&self, time: Duration) -> Result<f64, BenchError> {
        let mut connection = self.connect().await?;
        let _: () = redis::cmd("XGROUP").arg(&["CREATE", STREAM, GROUP, "$", "MKSTREAM"]).query_async(&mut connection).await?;
        let body = Body::new();
        let _ = batches(&mut connection, &body, time / 4).await?;
        let before = cpu::used_by(self.pid)?;
        let events = batches(&mut connection, &body, time).await?;
        let used = cpu::used_by(self.pid)?.saturating_sub(before);
        let _: () = redis::cmd("DEL").arg(STREAM).query_async(&mut connection).await?;
        #[allow(clippy::cast_precision_loss)]
        Ok(used.as_secs_f64() * 1e6 / events as f64)
    }

    /// How long one write of a 1 KB event takes when nothing else goes on, in milliseconds: the median of many.
    pub(super) async fn write_ms(&self) -> Result<f64, BenchError> {
        let mut connection = self.connect().await?;
        let body = Body::new();
        let mut times = Vec::with_capacity(WRITES);
        for _ in 0..WRITES {
            let started = clock::monotonic();
            let _: String = redis::cmd("XADD").arg(STREAM).arg("*").arg("b").arg(body.bytes()).query_async(&mut connection).await?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let _: () = redis::cmd("DEL").arg(STREAM).query_async(&mut connection).await?;
        Ok(Spread::of(times).median)
    }

    /// Writes 1 KB events one after the other for `time`, through what listens at `through`: when each write began, and how long it
    /// took, in microseconds.
    pub(super) async fn writes(&self, through: SocketAddr, time: Duration) -> Result<Vec<(u64, u64)>, BenchError> {
        let mut connection = connect(format!("redis://{through}")).await?;
        let (body, started, mut writes) = (Body::new(), clock::monotonic(), Vec::new());
        while started.elapsed() < time {
            let (at, before) = (clock::wall_micros(), clock::monotonic());
            let mut add = redis::cmd("XADD");
            add.arg(STREAM).arg(&["MAXLEN", "~", "1000", "*", "b"]).arg(body.bytes());
            let _: String = add.query_async(&mut connection).await?;
            writes.push((at, u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX)));
            sleep(BETWEEN).await;
        }
        Ok(writes)
    }

    async fn connect(&self) -> Result<MultiplexedConnection, BenchError> {
        connect(self.url()).await
    }
    async fn wait_until_it_answers(&self) -> String {
        loop {
            if let Ok(mut connection) = self.connect().await
                && let Ok(info) = redis::cmd("INFO").arg("server").query_async::<redis::InfoDict>(&mut connection).await
                && let Some(version) = info.get("redis_version")
            {
                return version;
            }
            sleep(PING).await;
        }
    }
}

async fn connect(url: String) -> Result<MultiplexedConnection, BenchError> {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(COMMAND)).set_connection_timeout(Some(COMMAND));
    let client = redis::Client::open(url)?;
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

async fn batches(connection: &mut MultiplexedConnection, body: &Body, time: Duration) -> Result<usize, BenchError> {
    let started = clock::monotonic();
    let mut events = 0;
    while started.elapsed() < time {
        let mut add = redis::pipe();
        for _ in 0..BATCH {
            add.cmd("XADD").arg(STREAM).arg("*").arg("b").arg(body.bytes()).ignore();
        }
        let () = add.query_async(connection).await?;
        let read: StreamReadReply = redis::cmd("XREADGROUP")
            .arg(&["GROUP", GROUP, "bench", "COUNT", &BATCH.to_string(), "STREAMS", STREAM, ">"])
            .query_async(connection)
            .await?;
        let ids: Vec<String> = read.keys.into_iter().flat_map(|key| key.ids).map(|entry| entry.id).collect();
        let mut done = redis::pipe();
        done.cmd("XACK").arg(STREAM).arg(GROUP).arg(&ids).ignore();
        done.cmd("XDEL").arg(STREAM).arg(&ids).ignore();
        let () = done.query_async(connection).await?;
        events += ids.len();
    }
    Ok(events)
}

/// A port on loopback that nobody listens on now.
pub(super) fn free_port() -> Result<u16, BenchError> {
    // Not one that a connection which goes out may get meanwhile.
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    let first = first.and_then(|range| range.split_whitespace().next()?.parse().ok()).unwrap_or(32_768_u16);
    let ports = (0..TRIES).map(|_| rand::rng().random_range(LOWEST_PORT..first.max(LOWEST_PORT + 1))).chain([0]);
    let mut bound = ports.map(|port| TcpListener::bind(("127.0.0.1", port)));
    let listener = bound.find(Result::is_ok).unwrap_or_else(|| TcpListener::bind("127.0.0.1:0"));
    let address = listener.and_then(|listener| listener.local_addr());
    Ok(address.map_err(BenchError::io("bind"))?.port())
}

fn late(log: &Path) -> BenchError {
    BenchError::Part { name: "redis", what: "did not answer in time".into(), log: super::gateway::tail(log) }
}
