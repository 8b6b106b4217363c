//! What a transform costs in the sandbox, beside bare wasmtime with the same component, engine and limits. In this process: nothing else
//! of the gateway takes part.
//!
//! | figure | of | floor |
//! |---|---|---|
//! | `plugin_call` | CPU of one call, a fresh instance each | the same, bare |
//! | `plugin_call_small` | the same with an event of 250 B; of the first-party transform alone | the same, bare |
//! | `plugin_reused` | CPU of one call on a stage whose instances are used again | one call of an instance that lives on, bare |
//! | `plugin_fuel`, `plugin_memory` | one call | |
//! | `plugin_compile` | from the component to a version that can be called: screened, compiled in a process of its own, kept | compiled, bare |
//! | `plugin_load` | the first call of a version whose artifact is on disk | one call, bare |

use std::path::PathBuf;
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
use crate::event::{ConnectionId, EventId, Header, SharedRequest, TenantId, VersionHash};
use crate::plugin::reuse::MAX_INVOCATIONS;
use crate::plugin::{Call, Components, Limits, PluginConfig, Reuse, Runtime, Table};

/// Of our call to a bare one.
const CALL: Goal = Goal::RatioAtMost(1.2);
/// Of a call with 250 B, in microseconds.
const SMALL_CALL: Goal = Goal::AtMost(20.0);

/// Calls that wait or run at once: enough that a thread always finds one.
const CALLERS: usize = 64;

/// What is measured.
#[derive(Clone)]
pub(in crate::cli::bench) struct Subject {
    /// A component's file; the first-party transform if none.
    pub(in crate::cli::bench) component: Option<PathBuf>,
    /// Its configuration.
    pub(in crate::cli::bench) config: String,
    /// A body's file; a GitHub push of 1 KB if none.
    pub(in crate::cli::bench) body: Option<PathBuf>,
}

/// One event of it.
struct Event {
    component: Bytes,
    config: Arc<str>,
    body: Bytes,
}

/// What a repetition has measured of one event.
struct Measured {
    /// CPU of one call, in microseconds.
    call: f64,
    bare: f64,
    reused: f64,
    bare_reused: f64,
    calls: u64,
    fuel: u64,
    memory: u64,
    /// Milliseconds.
    compile: f64,
    bare_compile: f64,
    load: f64,
    bare_first: f64,
}

struct Shelf(VersionHash, Bytes);

#[async_trait]
impl Components for Shelf {
    async fn fetch(&self, version: VersionHash) -> Result<Option<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
        Ok((version == self.0).then(|| self.1.clone()))
    }
}

pub(super) async fn run(lab: &Lab, subject: &Subject) -> Result<Findings, BenchError> {
    let read = |path: &PathBuf| std::fs::read(path).map(Bytes::from).map_err(BenchError::io(path.display().to_string()));
    let component = subject.component.as_ref().map_or(Ok(Bytes::from_static(COMPONENT)), read)?;
    let body = subject.body.as_ref().map_or_else(|| Ok(Bytes::copy_from_slice(Body::new().bytes())), read)?;
    let event = Event { component: component.clone(), config: subject.config.as_str().into(), body };
    let is_ours = subject.component.is_none() && subject.body.is_none();
    let small =
        is_ours.then(|| Event { component, config: Arc::clone(&event.config), body: Bytes::from_static(body::SMALL.as_bytes()) });

    let (mut whole, mut of_small) = (Vec::new(), Vec::new());
    for repetition in 1..=lab.repetitions {
        progress(&format!("repetition {repetition} of {}", lab.repetitions));
        whole.push(measure(lab, &event).await?);
        if let Some(small) = &small {
            of_small.push(measure(lab, small).await?);
        }
    }
    let mut figures = figures(lab, &event, &whole);
    if let Some(small) = &small {
        let what = called(lab, small);
        figures.insert(
            1,
            figure("plugin_call_small", "us", &of_small, |run| run.call, Some(|run: &Measured| run.bare), Some(SMALL_CALL), what),
        );
    }
    Ok((figures, Vec::new()))
}

fn called(lab: &Lab, event: &Event) -> String {
    format!(
        "CPU of one call with an event of {} B, a fresh instance each, {CALLERS} callers on {} threads; floor: bare wasmtime, same \
         engine and limits, as many threads",
        event.body.len(),
        lab.threads
    )
}

#[allow(clippy::cast_precision_loss)]
fn figures(lab: &Lab, event: &Event, runs: &[Measured]) -> Vec<Figure> {
    let of = format!("with an event of {} B", event.body.len());
    let reused = format!(
        "CPU of one call {of} on a stage that uses an instance {MAX_INVOCATIONS} times, {CALLERS} callers on {} threads; floor: an instance \
         that lives on, bare, one for each thread",
        lab.threads
    );
    let compile = format!(
        "from {} B of component to a version that can be called: screened, compiled in a process of its own, kept; floor: compiled \
         by bare wasmtime",
        event.component.len()
    );
    let load = format!("the first call {of} of a version whose artifact is on disk; floor: one call, bare");
    let none = None::<fn(&Measured) -> f64>;
    vec![
        figure("plugin_call", "us", runs, |run| run.call, Some(|run: &Measured| run.bare), Some(CALL), called(lab, event)),
        figure("plugin_reused", "us", runs, |run| run.reused, Some(|run: &Measured| run.bare_reused), None, reused),
        figure("plugin_fuel", "", runs, |run| run.fuel as f64, none, None, format!("fuel of one call {of}")),
        figure(
            "plugin_memory",
            "KiB",
            runs,
            |run| (run.memory >> 10) as f64,
            none,
            None,
            format!("linear memory of one call {of}"),
        ),
        figure("plugin_compile", "ms", runs, |run| run.compile, Some(|run: &Measured| run.bare_compile), None, compile),
        figure("plugin_load", "ms", runs, |run| run.load, Some(|run: &Measured| run.bare_first), None, load),
    ]
}

fn figure(
    name: &str,
    unit: &'static str,
    runs: &[Measured],
    value: impl Fn(&Measured) -> f64,
    floor: Option<impl Fn(&Measured) -> f64>,
    goal: Option<Goal>,
    what: String,
) -> Figure {
    let events = runs.iter().map(|run| run.calls).sum();
    let details = Details { what, repetitions: runs.len(), events, ..Details::default() };
    let floor = floor.map(|floor| Spread::of(runs.iter().map(floor)));
    Figure::new(name.into(), unit, Spread::of(runs.iter().map(value)), floor, goal, details)
}

async fn measure(lab: &Lab, event: &Event) -> Result<Measured, BenchError> {
    let head = head();
    let started = clock::monotonic();
    let guest = Guest::prepare(&event.component, lab.threads, &event.config).map_err(|error| broken(&format!("{error:#}")))?;
    let bare_compile = millis(started.elapsed());
    let started = clock::monotonic();
    guest.instance().map_err(|error| broken(&error))?.call(&head, &event.body).map_err(|error| broken(&error))?;
    let bare_first = millis(started.elapsed());
    let instance = || guest.instance().map_err(|error| broken(&error));
    let bare = on_threads(lab, || Ok(|| instance()?.call(&head, &event.body).map(drop).map_err(|error| broken(&error))))?;
    let bare_reused = on_threads(lab, || {
        let mut instance = instance()?;
        let (head, body) = (&head, &event.body);
        Ok(move || {
            instance.allow_another().map_err(|error| broken(&error))?;
            instance.call(head, body).map(drop).map_err(|error| broken(&error))
        })
    })?;
    drop(guest);

    let directory = TempDir::new_in(lab.dir()).map_err(BenchError::io("a directory for artifacts"))?;
    let shelf = Arc::new(Shelf(VersionHash::of(&event.component), event.component.clone()));
    let start = || -> Result<Runtime, BenchError> {
        let config = PluginConfig::new(directory.path().to_owned()).map_err(BenchError::io("this program's path"))?;
        Runtime::start(PluginConfig { threads: lab.threads, ..config }, shelf.clone()).map_err(|error| broken(&error))
    };
    let compiling = start()?;
    let started = clock::monotonic();
    let version = compiling.inspect(event.component.clone()).await.map_err(|error| broken(&error))?.version;
    let compile = millis(started.elapsed());
    drop(compiling);

    let runtime = start()?;
    let call = call(version, event);
    let started = clock::monotonic();
    let report = runtime.transform(call.clone()).await;
    let load = millis(started.elapsed());
    report.result.map_err(|error| broken(&error))?;
    let (ours, calls) = many(lab, &runtime, &call).await?;
    let reuse = Some(Reuse { connection: ConnectionId(1), stage: 0, invocations: MAX_INVOCATIONS });
    let (reused, _) = many(lab, &runtime, &Call { reuse, ..call }).await?;
    Ok(Measured {
        call: ours,
        bare,
        reused,
        bare_reused,
        calls,
        fuel: report.run.fuel,
        memory: report.run.memory,
        compile,
        bare_compile,
        load,
        bare_first,
    })
}

fn call(version: VersionHash, event: &Event) -> Call {
    let header =
        |(name, value): (&str, &'static str)| Header { name: name.to_owned(), value: Bytes::from_static(value.as_bytes()) };
    Call {
        tenant: TenantId(1),
        version,
        event: EventId(1),
        accepted_at: Timestamp(0),
        request: SharedRequest::Made(Arc::new(crate::event::Request {
            method: "POST".into(),
            path: String::new(),
            query: None,
            headers: body::HEADERS.into_iter().map(header).collect(),
            body: event.body.clone(),
        })),
        config: Arc::clone(&event.config),
        secrets: Arc::default(),
        limits: Limits::default(),
        table: Table::default(),
        reuse: None,
    }
}

fn head() -> Parts {
    let mut request = Request::post("/");
    for (name, value) in body::HEADERS {
        request = request.header(name, value);
    }
    request.body(()).expect("these are headers").into_parts().0
}

/// CPU of one bare call, one after the other on each thread. `caller` is made on each.
fn on_threads<C>(lab: &Lab, caller: impl Fn() -> Result<C, BenchError> + Sync) -> Result<f64, BenchError>
where
    C: FnMut() -> Result<(), BenchError>,
{
    let calls = |time: Duration| -> Result<u64, BenchError> {
        let mut call = caller()?;
        let started = clock::monotonic();
        let mut calls = 0;
        while started.elapsed() < time {
            call()?;
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
    cost(before, calls?.into_iter().sum())
}

/// CPU of one call of the gateway's runtime, and how many there were.
async fn many(lab: &Lab, runtime: &Runtime, call: &Call) -> Result<(f64, u64), BenchError> {
    calls_for(lab.time / 4, runtime, call).await?;
    let before = own_cpu()?;
    let calls = calls_for(lab.time, runtime, call).await?;
    Ok((cost(before, calls)?, calls))
}

async fn calls_for(time: Duration, runtime: &Runtime, call: &Call) -> Result<u64, BenchError> {
    let until = clock::monotonic() + time;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (runtime, call) = (runtime.clone(), call.clone());
        callers.spawn(async move {
            let mut calls = 0;
            while clock::monotonic() < until {
                runtime.transform(call.clone()).await.result.map_err(|error| broken(&error))?;
                calls += 1;
            }
            Ok(calls)
        });
    }
    callers.join_all().await.into_iter().sum()
}

fn broken(error: &dyn std::fmt::Display) -> BenchError {
    BenchError::Plugin(error.to_string())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn own_cpu() -> Result<Duration, BenchError> {
    cpu::used_by(std::process::id())
}

#[allow(clippy::cast_precision_loss)]
fn cost(before: Duration, calls: u64) -> Result<f64, BenchError> {
    let used = own_cpu()?.saturating_sub(before);
    Ok(used.as_secs_f64() * 1e6 / calls.max(1) as f64)
}
