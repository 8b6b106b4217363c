//! What the figures were measured on.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::error::BenchError;
use super::statistics::Spread;
use crate::clock;

/// Writes of the fsync probe.
const PROBES: usize = 50;

/// The machine, and how things were set up on it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    pub(super) cores: usize,
    pub(super) cpu: String,
    pub(super) kernel: String,
    pub(super) memory_mib: u64,
    /// Processes that wanted to run when the benchmark began, over the last minute: others on the machine distort what follows.
    pub(super) load_average: f64,
    /// Appending 1 KB and waiting for the disk, before the first measurement; durable figures carry their own.
    pub(super) fsync_ms: Fsync,
    pub(super) redis: Option<RedisSettings>,
    pub(super) durability: Durability,
    pub(super) runtime_threads: usize,
    pub(super) tidegate: &'static str,
    /// `release`, or `debug`: then no figure counts.
    pub(super) profile: &'static str,
    /// What the gateway ran with.
    pub(super) defaults: &'static str,
}

/// The Redis server that was started.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RedisSettings {
    pub(super) version: String,
    pub(super) settings: &'static str,
}

/// What an acknowledgement means in the figures.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Durability {
    pub(super) embedded: &'static str,
    pub(super) redis: &'static str,
}

/// Milliseconds that the disk takes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Fsync {
    pub(super) median: f64,
    pub(super) max: f64,
}

/// Whether this is a build whose figures count.
pub(super) const fn is_release() -> bool {
    !cfg!(debug_assertions)
}

impl Machine {
    /// Looks at this machine; `dir` is where the stores will keep their data.
    pub(super) fn look(dir: &Path, threads: usize, redis: Option<RedisSettings>) -> Result<Self, BenchError> {
        let cpuinfo = read("/proc/cpuinfo")?;
        let meminfo = read("/proc/meminfo")?;
        let value = |text: &str, name: &str| {
            text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start_matches([' ', '\t', ':']).to_owned()))
        };
        let memory_kib: u64 = value(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(0);
        let load = read("/proc/loadavg")?;
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: value(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().into(),
            memory_mib: memory_kib / 1024,
            load_average: load.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0),
            fsync_ms: fsync_probe(dir)?,
            redis,
            durability: Durability { embedded: "fsync", redis: "everysec" },
            runtime_threads: threads,
            tidegate: env!("CARGO_PKG_VERSION"),
            profile: if is_release() { "release" } else { "debug" },
            defaults: "trace sampling and history as they are by default, no trace exporter, deliveries signed with one secret",
        })
    }
}

/// How long the disk below `dir` takes to keep 1 KB now.
pub(super) fn fsync_probe(dir: &Path) -> Result<Fsync, BenchError> {
    let path = dir.join("fsync-probe");
    let failed = |source| BenchError::Io { what: path.display().to_string(), source };
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).map_err(failed)?;
    let times: Result<Vec<Duration>, _> = (0..PROBES).map(|_| append(&mut file)).collect();
    let times = Spread::of(times.map_err(failed)?.iter().map(|time| time.as_secs_f64() * 1e3));
    std::fs::remove_file(&path).map_err(failed)?;
    Ok(Fsync { median: times.median, max: times.max })
}

fn append(file: &mut File) -> std::io::Result<Duration> {
    let started = clock::monotonic();
    file.write_all(&[7; 1024])?;
    file.sync_data()?;
    Ok(started.elapsed())
}

fn read(path: &'static str) -> Result<String, BenchError> {
    std::fs::read_to_string(path).map_err(BenchError::io(path))
}
