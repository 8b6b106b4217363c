//! `plugin_call`: what one call of a transform costs in the sandbox, a fresh instance each, beside a bare wasmtime call of the same
//! component with the same engine and limits. In this process: nothing else of the gateway takes part.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::Request;
use hyper::http::request::Parts;
use tempfile::TempDir;

use super::super::body::{self, Body};
use super::super::cpu;
use super::super::error::BenchError;
use super::super::floor::Guest;
use super::super::lab::Lab;
use super::super::report::{Details, Figure, Goal};
use super::super::statistics::Spread;
use super::{COMPONENT, Findings, progress};
use crate::clock::{self, Timestamp};
use crate::event::{EventId, Header, SharedRequest, TenantId, VersionHash};
use crate::plugin::{Call, Components, Limits, PluginConfig, Runtime, Table};

const GOAL: Goal = Goal::RatioAtMost(1.2);

/// Calls that wait or run at once: enough that a thread always finds one.
const CALLERS: usize = 64;

struct Nothing;

#[async_trait]
impl Components for Nothing {
    async fn fetch(&self, _: VersionHash) -> Result<Option<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(None)
    }
}

/// CPU of one call, in microseconds, and how many were made.
struct Cost {
    us: f64,
    calls: u64,
    fuel: u64,
    memory: u64,
}

pub(super) async fn run(lab: &Lab, component: Option<&Path>) -> Result<Findings, BenchError> {
    let component = match component {
        Some(path) => Bytes::from(std::fs::read(path).map_err(BenchError::io(path.display().to_string()))?),
        None => Bytes::from_static(COMPONENT),
    };
    let guest = Guest::prepare(&component, lab.threads).map_err(|error| BenchError::Plugin(format!("{error:#}")))?;
    let (mut floors, mut costs) = (Vec::new(), Vec::new());
    for repetition in 1..=lab.repetitions {
        progress(&format!("repetition {repetition} of {}", lab.repetitions));
        floors.push(bare(lab, &guest)?);
        costs.push(sandboxed(lab, component.clone()).await?);
    }
    let last = costs.last().map_or((0, 0), |cost| (cost.fuel, cost.memory));
    let what = format!(
        "CPU of one call with a 1 KB event, a fresh instance each, {CALLERS} callers on {} threads; fuel {}, memory {} KiB; floor: \
         bare wasmtime, same engine and limits, as many threads",
        lab.threads,
        last.0,
        last.1 >> 10
    );
    let events = costs.iter().map(|cost| cost.calls).sum();
    let details = Details { what, repetitions: costs.len(), events, ..Details::default() };
    let spread = |costs: &[Cost]| Spread::of(costs.iter().map(|cost| cost.us));
    let figure = Figure::new("plugin_call".into(), "us", spread(&costs), Some(spread(&floors)), Some(GOAL), details);
    Ok((vec![figure], Vec::new()))
}

fn head() -> Parts {
    let mut request = Request::post("/");
    for (name, value) in body::HEADERS {
        request = request.header(name, value);
    }
    request.body(()).expect("these are headers").into_parts().0
}

/// Bare calls, one after the other on each thread.
fn bare(lab: &Lab, guest: &Guest) -> Result<Cost, BenchError> {
    let (head, body) = (head(), Bytes::copy_from_slice(Body::new().bytes()));
    let calls = |time: Duration| -> Result<u64, BenchError> {
        let started = clock::monotonic();
        let mut calls = 0;
        while started.elapsed() < time {
            guest.transform(&head, &body).map_err(|error| BenchError::Plugin(error.to_string()))?;
            calls += 1;
        }
        Ok(calls)
    };
    calls(lab.time / 4)?;
    let before = own_cpu()?;
    let (time, threads) = (lab.time, lab.threads);
    let calls: Result<Vec<u64>, BenchError> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| calls(time))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a bare call does not panic")).collect()
    });
    cost(before, calls?.into_iter().sum(), 0, 0)
}

/// Calls through the sandbox: the queue of a tenant, the hand-off to a thread, the host's bookkeeping.
async fn sandboxed(lab: &Lab, component: Bytes) -> Result<Cost, BenchError> {
    let broken = |error: &dyn std::fmt::Display| BenchError::Plugin(error.to_string());
    let directory = TempDir::new_in(lab.dir()).map_err(BenchError::io("a directory for artifacts"))?;
    let config = PluginConfig::new(directory.path().to_owned()).map_err(BenchError::io("this program's path"))?;
    let runtime =
        Runtime::start(PluginConfig { threads: lab.threads, ..config }, Arc::new(Nothing)).map_err(|error| broken(&error))?;
    let version = runtime.inspect(component).await.map_err(|error| broken(&error))?.version;
    let call = Call {
        tenant: TenantId(1),
        version,
        event: EventId(1),
        accepted_at: Timestamp(0),
        request: SharedRequest::Made(Arc::new(request())),
        config: "{}".into(),
        secrets: Arc::default(),
        limits: Limits::default(),
        table: Table::default(),
    };
    many(&runtime, &call, lab.time / 4).await?;
    let before = own_cpu()?;
    let calls = many(&runtime, &call, lab.time).await?;
    let run = runtime.transform(call).await.run;
    cost(before, calls, run.fuel, run.memory)
}

async fn many(runtime: &Runtime, call: &Call, time: Duration) -> Result<u64, BenchError> {
    let until = clock::monotonic() + time;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (runtime, call) = (runtime.clone(), call.clone());
        callers.spawn(async move {
            let mut calls = 0;
            while clock::monotonic() < until {
                runtime.transform(call.clone()).await.result.map_err(|error| BenchError::Plugin(error.to_string()))?;
                calls += 1;
            }
            Ok(calls)
        });
    }
    callers.join_all().await.into_iter().sum()
}

fn request() -> crate::event::Request {
    let header =
        |(name, value): (&str, &'static str)| Header { name: name.to_owned(), value: Bytes::from_static(value.as_bytes()) };
    crate::event::Request {
        method: "POST".into(),
        path: String::new(),
        query: None,
        headers: body::HEADERS.into_iter().map(header).collect(),
        body: Bytes::copy_from_slice(Body::new().bytes()),
    }
}

fn own_cpu() -> Result<Duration, BenchError> {
    cpu::used_by(std::process::id())
}

#[allow(clippy::cast_precision_loss)]
fn cost(before: Duration, calls: u64, fuel: u64, memory: u64) -> Result<Cost, BenchError> {
    let used = own_cpu()?.saturating_sub(before);
    Ok(Cost { us: used.as_secs_f64() * 1e6 / calls.max(1) as f64, calls, fuel, memory })
}
