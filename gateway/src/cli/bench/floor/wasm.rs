//! A bare wasmtime call of a transform: the gateway's engine and limits, a fresh instance for each event, and nothing of the
//! gateway around it. It runs where the request is served, without a hand-off.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hyper::http::request::Parts;
use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Engine, Store, StoreContextMut, StoreLimits, StoreLimitsBuilder};

use self::exports::tidegate::plugin::transform::{Guest as Transform, GuestIndices};
use self::tidegate::plugin::types::{Event, HeaderParam, Output, Request};
use super::Cause;
use crate::cli::bench::error::BenchError;
use crate::plugin::limits::{EPOCH, HANDLES, Limits};

wasmtime::component::bindgen!({
    path: "../sdk/wit",
    inline: "
        package tidegate:floor;

        world bare {
            export tidegate:plugin/transform@1.1.0;
        }
    ",
    world: "bare",
    ownership: Borrowing { duplicate_if_necessary: true },
});

/// A component, ready to be called.
pub(in crate::cli::bench) struct Guest {
    pre: InstancePre<StoreLimits>,
    transform: GuestIndices,
    limits: Limits,
}

impl Guest {
    /// Compiles what is in a file.
    pub(super) fn load(path: &Path, threads: usize) -> Result<Self, BenchError> {
        let bytes = std::fs::read(path).map_err(BenchError::io(path.display().to_string()))?;
        Self::prepare(&bytes, threads, "{}").map_err(|error| BenchError::Plugin(format!("{error:#}")))
    }

    /// Compiles a component for `threads` calls at once, configured with this text.
    pub(in crate::cli::bench) fn prepare(bytes: &[u8], threads: usize, config: &str) -> wasmtime::Result<Self> {
        let engine = crate::plugin::bare_engine(bytes, u32::try_from(threads).unwrap_or(u32::MAX))?;
        let component = Component::new(&engine, bytes)?;
        let mut linker = Linker::new(&engine);
        let text: Arc<str> = config.into();
        let config = move |_: StoreContextMut<'_, StoreLimits>, (): ()| Ok((Arc::clone(&text),));
        linker.instance("tidegate:plugin/config@1.1.0")?.func_wrap("get", config)?;
        linker.define_unknown_imports_as_traps(&component)?;
        let pre = linker.instantiate_pre(&component)?;
        let transform = GuestIndices::new(&pre)?;
        Ok(Self { pre, transform, limits: Limits::default() })
    }

    /// The body of the component's only output.
    pub(in crate::cli::bench) fn transform(&self, head: &Parts, body: &Bytes) -> Result<Bytes, Cause> {
        let output = self.instance()?.call(head, body)?.pop().ok_or("the component gave no output")?;
        Ok(output.body.map_or_else(|| body.clone(), Bytes::from))
    }

    /// An instance of its own.
    pub(in crate::cli::bench) fn instance(&self) -> wasmtime::Result<Instance> {
        let mut store = self.store()?;
        let instance = self.pre.instantiate(&mut store)?;
        let transform = self.transform.load(&mut store, &instance)?;
        Ok(Instance { store, transform, limits: self.limits.clone() })
    }

    fn store(&self) -> wasmtime::Result<Store<StoreLimits>> {
        let limits = StoreLimitsBuilder::new().memory_size(self.limits.memory).table_elements(self.limits.table_elements).build();
        let mut store = Store::try_new(self.engine(), limits)?;
        allow(&mut store, &self.limits)?;
        store.limiter(|limits| limits);
        store.set_max_component_handles(HANDLES);
        store.set_hostcall_fuel(self.limits.output_bytes);
        Ok(store)
    }

    fn engine(&self) -> &Engine {
        self.pre.engine()
    }
}

/// What one call may take.
fn allow(store: &mut Store<StoreLimits>, limits: &Limits) -> wasmtime::Result<()> {
    store.set_fuel(limits.fuel)?;
    store.set_epoch_deadline(u64::try_from(limits.wall.as_millis() / EPOCH.as_millis()).unwrap_or(u64::MAX));
    Ok(())
}

/// A component's instance, which may be called more than once.
pub(in crate::cli::bench) struct Instance {
    store: Store<StoreLimits>,
    transform: Transform,
    limits: Limits,
}

impl Instance {
    /// What the component makes of a request.
    pub(in crate::cli::bench) fn call(&mut self, head: &Parts, body: &Bytes) -> Result<Vec<Output>, Cause> {
        let headers: Vec<_> =
            head.headers.iter().map(|(name, value)| HeaderParam { name: name.as_str(), value: value.as_bytes() }).collect();
        let event = Event {
            id: "evt_00000000000000000000000000",
            accepted_at: 0,
            request: Request { method: head.method.as_str(), path: "", query: None, headers: &headers, body },
            attributes: &[],
        };
        let outputs = self.transform.call_run(&mut self.store, event)?;
        Ok(outputs.map_err(|failure| failure.message)?)
    }

    /// Gives it again what one call may take.
    pub(in crate::cli::bench) fn allow_another(&mut self) -> wasmtime::Result<()> {
        allow(&mut self.store, &self.limits)
    }
}
