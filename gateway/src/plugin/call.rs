//! One call: an instance, a fresh one unless its stage says otherwise, its limits, the guest's answer, and what it used.

use std::sync::Arc;

use wasmtime::component::{Instance, InstancePre};
use wasmtime::{FrameInfo, Store, Trap, WasmBacktrace};

use super::bindings::types::{
    AttributeParam, Event as GuestEvent, Failure as GuestFailure, HeaderParam, Request as GuestRequest, Retry,
};
use super::bindings::{filter, transform};
use super::cost::Costs;
use super::error::{CallError, LoadError, Refusal, Stop};
use super::host::{Secrets, State, one_line};
use super::limits::{EPOCH, GROWN_BYTE_FUEL, HANDLES, Limits, MAX_FRAMES};
use super::output;
use super::reuse::{Instances, Kept, Reuse};
use super::table::{Table, TableOp};
use super::visit::Visits;
use crate::clock::{Timestamp, monotonic};
use crate::event::{EventId, PluginRun, Request, SharedRequest, TenantId, VersionHash};

/// One event for one plugin.
#[derive(Clone, Debug)]
pub struct Call {
    /// Whose call it is: tenants share the threads fairly.
    pub tenant: TenantId,
    /// What to run.
    pub version: VersionHash,
    /// The event's id, which seeds the guest's random numbers.
    pub event: EventId,
    /// When it was accepted: the guest's clock.
    pub accepted_at: Timestamp,
    /// The request that came in, or the output of the plugin before this one.
    pub request: SharedRequest,
    /// The plugin's configuration on this connection: a JSON text.
    pub config: Arc<str>,
    /// Secrets that the connection hands over.
    pub secrets: Arc<Secrets>,
    /// What the call may use.
    pub limits: Limits,
    /// The table that it may use.
    pub table: Table,
    /// Which calls may go on in one instance; without it this one has an instance of its own.
    pub reuse: Option<Reuse>,
}

/// How a call ended.
#[derive(Debug)]
pub struct Report<T> {
    /// The answer.
    pub result: Result<T, CallError>,
    /// What is recorded of it.
    pub run: PluginRun,
    /// Where the guest was when it trapped or was stopped, innermost first; empty for all other ends. At most [`MAX_FRAMES`].
    pub backtrace: Vec<Frame>,
    /// Whether it used its table: run again, it may find something else there.
    pub used_table: bool,
    /// What it costs beside its run's fuel: the memory that it grew by, and its operations on its table.
    pub(super) beside: u64,
    /// What it was stopped for: it is to run again with the answer.
    pub(super) asked: Option<TableOp>,
    /// Whether it ran in an instance that an earlier call had left.
    pub(super) reused: bool,
}

impl<T> Report<T> {
    /// Of a call that never ran.
    pub fn failed(version: VersionHash, error: CallError) -> Self {
        let run = PluginRun { version, fuel: 0, memory: 0, took_us: 0, outcome: Err(error.to_failure()), logs: Vec::new() };
        Self { result: Err(error), run, backtrace: Vec::new(), used_table: false, beside: 0, asked: None, reused: false }
    }

    /// What its tenant pays for it, out of its fuel a second.
    pub fn price(&self) -> u64 {
        self.run.fuel.saturating_add(self.beside)
    }

    /// Of a call with this answer.
    pub fn answered(answer: T, run: PluginRun) -> Self {
        Self { result: Ok(answer), run, backtrace: Vec::new(), used_table: false, beside: 0, asked: None, reused: false }
    }

    /// With what `make` makes of the answer.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Report<U> {
        let Self { result, run, backtrace, used_table, beside, asked, reused } = self;
        Report { result: result.map(make), run, backtrace, used_table, beside, asked, reused }
    }
}

/// A function of the guest that had not returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its name, if the component has one for it; otherwise `func` and its index in its module.
    pub function: String,
    /// Where in its core module, in bytes.
    pub offset: u64,
}

/// A version that is ready to run.
pub(super) struct Ready {
    pub(super) pre: InstancePre<State>,
    pub(super) offers: Offers,
    /// Those of its instances that wait for another call.
    pub(super) instances: Instances,
    pub(super) costs: Costs,
}

/// What it exports.
pub(super) struct Offers {
    filter: Option<filter::GuestIndices>,
    transform: Option<transform::GuestIndices>,
    pub(super) visits: Visits,
}

impl Offers {
    /// `offers` tells whether an interface is among the exports.
    pub(super) fn of(pre: &InstancePre<State>, offers: impl Fn(&str) -> bool) -> Result<Self, Refusal> {
        let wrong = |name: &str, error: wasmtime::Error| Refusal::WrongType {
            name: format!("tidegate:plugin/{name}"),
            detail: one_line(&format!("{error:#}"), 512),
        };
        Ok(Self {
            filter: offers("filter").then(|| filter::GuestIndices::new(pre)).transpose().map_err(|e| wrong("filter", e))?,
            transform: offers("transform")
                .then(|| transform::GuestIndices::new(pre))
                .transpose()
                .map_err(|e| wrong("transform", e))?,
            visits: Visits::of(pre, offers, wrong)?,
        })
    }

    /// Only an instance tells the types of its exports.
    fn check(&self, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<()> {
        if let Some(indices) = &self.filter {
            indices.load(&mut *store, instance).map_err(|error| wrong_type(FILTER, &error))?;
        }
        if let Some(indices) = &self.transform {
            indices.load(&mut *store, instance).map_err(|error| wrong_type(TRANSFORM, &error))?;
        }
        self.visits.check(store, instance)
    }
}

/// Asks the filter.
pub(super) fn filter(ready: &Ready, call: &Call) -> Report<bool> {
    let Some(indices) = &ready.offers.filter else { return failed(call.version, CallError::NotOffered(FILTER)) };
    with_event(
        ready,
        call,
        |kept| u32::from(*kept),
        |store, instance, event| {
            let guest = indices.load(&mut *store, instance).map_err(|error| wrong_type(FILTER, &error))?;
            guest.call_keep(store, event)
        },
    )
}

/// Asks the transform.
pub(super) fn transform(ready: &Ready, call: &Call) -> Report<Vec<Request>> {
    let Some(indices) = &ready.offers.transform else { return failed(call.version, CallError::NotOffered(TRANSFORM)) };
    with_event(
        ready,
        call,
        |requests: &Vec<Request>| u32::try_from(requests.len()).unwrap_or(u32::MAX),
        |store, instance, event| {
            let guest = indices.load(&mut *store, instance).map_err(|error| wrong_type(TRANSFORM, &error))?;
            // Here, so that an instance whose answer can't be taken is not kept.
            match guest.call_run(store, event)? {
                Ok(outputs) => Ok(Ok(output::requests(outputs, &call.request, &call.limits)?)),
                Err(failure) => Ok(Err(failure)),
            }
        },
    )
}

/// Makes an instance, checks the types of what it exports, and throws it away.
pub(super) fn instantiate(ready: &Ready, call: &Call) -> Report<()> {
    run(ready, call, |()| 0, |store, instance| ready.offers.check(store, instance).map(Ok))
}

const FILTER: &str = "tidegate:plugin/filter";
const TRANSFORM: &str = "tidegate:plugin/transform";

pub(super) fn wrong_type(interface: &str, error: &wasmtime::Error) -> wasmtime::Error {
    Refusal::WrongType { name: interface.to_owned(), detail: one_line(&format!("{error:#}"), 512) }.into()
}

impl<T> Report<T> {
    /// Makes something else of the answer; `count` is what is recorded of it.
    pub(super) fn and_then<U>(self, make: impl FnOnce(T) -> Result<U, Stop>, count: impl FnOnce(&U) -> usize) -> Report<U> {
        let Self { result, run, backtrace, used_table, beside, asked, reused } = self;
        let result = result.and_then(|answer| Ok(make(answer)?));
        let outcome = match &result {
            Ok(made) => Ok(u32::try_from(count(made)).unwrap_or(u32::MAX)),
            Err(error) => Err(error.to_failure()),
        };
        Report { result, run: PluginRun { outcome, ..run }, backtrace, used_table, beside, asked, reused }
    }
}

/// A report of a call that never ran.
pub(super) fn failed<T>(version: VersionHash, error: CallError) -> Report<T> {
    Report::failed(version, error)
}

/// What a guest gives back, or why it could not.
pub(super) type Answer<T> = wasmtime::Result<Result<T, GuestFailure>>;

/// Asks about an event.
fn with_event<T>(
    ready: &Ready,
    call: &Call,
    outcome: impl FnOnce(&T) -> u32,
    ask: impl FnOnce(&mut Store<State>, &Instance, GuestEvent<'_>) -> Answer<T>,
) -> Report<T> {
    let headers = headers(&call.request);
    let id = call.event.to_string();
    let attributes: [AttributeParam<'_>; 0] = [];
    let event =
        GuestEvent { id: &id, accepted_at: call.accepted_at.0, request: request(&call.request, &headers), attributes: &attributes };
    run(ready, call, outcome, |store, instance| ask(store, instance, event))
}

/// A request's headers, as a guest is shown them.
pub(super) fn headers(request: &Request) -> Vec<HeaderParam<'_>> {
    request.headers.iter().map(|header| HeaderParam { name: &header.name, value: &header.value }).collect()
}

/// A request, as a guest is shown it.
pub(super) fn request<'a>(request: &'a Request, headers: &'a [HeaderParam<'a>]) -> GuestRequest<'a> {
    GuestRequest { method: &request.method, path: &request.path, query: request.query.as_deref(), headers, body: &request.body }
}

pub(super) fn run<T>(
    ready: &Ready,
    call: &Call,
    outcome: impl FnOnce(&T) -> u32,
    ask: impl FnOnce(&mut Store<State>, &Instance) -> Answer<T>,
) -> Report<T> {
    let started = monotonic();
    let kept = ready.instances.take(call);
    let reused = kept.is_some();
    let prepared = match kept {
        Some(Kept { mut store, instance, runs }) => again(&mut store, call).map(|()| (store, Some(instance), runs)),
        None => store(ready, call).map(|store| (store, None, 0)),
    };
    let (mut store, instance, runs) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return failed(call.version, CallError::Gateway(error.to_string())),
    };
    let instance = instance.map_or_else(|| ready.pre.instantiate(&mut store), Ok);
    let answer = instance.and_then(|instance| Ok((ask(&mut store, &instance)?, instance)));
    let mut backtrace = Vec::new();
    let (result, instance) = match answer {
        Ok((answer, instance)) => (answer.map_err(guest_failure), Some(instance)),
        Err(error) => {
            backtrace = frames(&error);
            (Err(classify(&error, &call.limits)), None)
        }
    };
    let fuel = call.limits.fuel.saturating_sub(store.get_fuel().unwrap_or(0));
    let state = store.data_mut();
    let (memory, grown) = (state.usage.memory, state.usage.grown);
    let (logs, asked) = (std::mem::take(&mut state.log).into_lines(), state.table.asked.take());
    match instance {
        Some(instance) => ready.instances.give(call, Kept { store, instance, runs: runs.saturating_add(1) }),
        None => drop(store),
    }
    let run = PluginRun {
        version: call.version,
        fuel,
        memory: memory as u64,
        took_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        outcome: result.as_ref().map(outcome).map_err(CallError::to_failure),
        logs,
    };
    let used_table = !call.table.answers.is_empty();
    Report { result, run, backtrace, used_table, beside: grown as u64 * GROWN_BYTE_FUEL, asked, reused }
}

fn store(ready: &Ready, call: &Call) -> wasmtime::Result<Store<State>> {
    let mut store = Store::try_new(ready.pre.engine(), State::new(call))?;
    store.limiter(|state| &mut state.usage);
    store.set_max_component_handles(HANDLES);
    store.epoch_deadline_callback(|mut store| Ok(store.data_mut().epoch()));
    // Before instantiation: start functions count.
    allow(&mut store, &call.limits)?;
    Ok(store)
}

/// Makes a store that had another call ready for this one.
fn again(store: &mut Store<State>, call: &Call) -> wasmtime::Result<()> {
    store.data_mut().begin_again(call);
    allow(store, &call.limits)
}

/// What one call may take.
fn allow(store: &mut Store<State>, limits: &Limits) -> wasmtime::Result<()> {
    store.set_fuel(limits.fuel)?;
    store.data_mut().epochs = u64::try_from(limits.wall.as_millis() / EPOCH.as_millis()).unwrap_or(u64::MAX).max(1);
    store.set_epoch_deadline(1);
    // For each value that the host takes from the guest; its default is 128 MiB.
    store.set_hostcall_fuel(limits.output_bytes.saturating_add(1 << 20));
    Ok(())
}

/// Where the guest was, if it was running.
fn frames(error: &wasmtime::Error) -> Vec<Frame> {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else { return Vec::new() };
    let frame = |frame: &FrameInfo| {
        let name = frame.func_name().map(|name| format!("{:#}", rustc_demangle::demangle(name)));
        Frame {
            function: one_line(&name.unwrap_or_else(|| format!("func {}", frame.func_index())), 256),
            offset: frame.module_offset().unwrap_or_default() as u64,
        }
    };
    trace.frames().iter().take(MAX_FRAMES).map(frame).collect()
}

fn guest_failure(failure: GuestFailure) -> CallError {
    let code: String = failure.code.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).take(64).collect();
    CallError::Failed {
        code: if code.is_empty() { "unnamed".into() } else { code },
        message: one_line(&failure.message, 1024),
        retryable: matches!(failure.retry, Retry::Later),
    }
}

fn classify(error: &wasmtime::Error, limits: &Limits) -> CallError {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return stop.clone().into();
    }
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return LoadError::from(refusal.clone()).into();
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return CallError::Gateway(error.to_string());
    }
    let stop = match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Stop::Fuel(limits.fuel),
        Some(Trap::Interrupt) => Stop::Wall(limits.wall),
        Some(Trap::StackOverflow) => Stop::Stack,
        Some(Trap::UnreachableCodeReached) => Stop::Abort,
        Some(trap) => Stop::Trap(trap.to_string()),
        // All that is left: values that the guest handed over, and that could not be lifted.
        None => Stop::Unreadable(one_line(&error.root_cause().to_string(), 256)),
    };
    stop.into()
}
