//! The engines of the process, one for each way to fill a memory, and the same settings without the pool for the compiler's child
//! process: what the child compiles, an engine loads.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::thread;

use wasmtime::{
    Config, Enabled, Engine, EngineWeak, InstanceAllocationStrategy, ModuleVersionStrategy, OperatorCost, PoolingAllocationConfig,
    Strategy,
};

use super::limits::{CORE_INSTANCES, EPOCH, Limits, MAX_FRAMES, MEMORIES, STACK, TABLES};

/// The wasmtime release whose artifacts these are. Its own check looks at the major version alone.
const WASMTIME: &str = "wasmtime 48.0.8, tidegate 1";

/// How the memories of a fresh instance get what the component says stands in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filling {
    /// It is copied. That costs the same whichever version had the place before.
    Copied,
    /// It is mapped out of the artifact, and a page is copied when the guest writes to it. That costs system calls and a fault a page
    /// whenever another version had the place before, but nothing for what the guest leaves alone.
    Mapped,
}

impl Filling {
    /// What is quicker for a component with so many bytes of data.
    pub(super) fn of(data: u64) -> Self {
        if data <= COPIED { Self::Copied } else { Self::Mapped }
    }
}

/// Up to so many bytes of data are copied: some 20 us, as much as a few dozen faults.
const COPIED: u64 = 512 << 10;

/// The engine that runs guests, with room for `slots` instances that run at once, and for those that wait: so many that these memories are
/// enough for them.
pub(super) fn runtime(filling: Filling, slots: u32, waiting_memories: u32) -> wasmtime::Result<Engine> {
    let instances = slots + waiting_memories;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances * CORE_INSTANCES)
        .total_memories(slots * MEMORIES + waiting_memories)
        .total_tables(instances * TABLES)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_tables_per_module(4)
        .table_elements(Limits::default().table_elements)
        // What most guests of compiled languages use: cleared by hand it costs no system call, no flush on the other cores and no fault
        // when it is used again.
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(16 << 10)
        // Can hand one tenant's swapped-out pages to the next; see the wasmtime issue tracker.
        .pagemap_scan(Enabled::No);
    let mut config = settings(filling)?;
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// The engine of the compiler's child process. It never instantiates, and reserves no address space.
pub(super) fn compiler(filling: Filling) -> wasmtime::Result<Engine> {
    let mut config = settings(filling)?;
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    Engine::new(&config)
}

/// What artifacts of this engine depend on: settings, processor features, wasmtime's own format.
pub(super) fn compatibility(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    WASMTIME.hash(&mut hasher);
    hasher.finish()
}

/// Moves the engines' wall clocks on while all of them live.
pub(super) fn start_epochs<'a>(engines: impl IntoIterator<Item = &'a Engine>) -> std::io::Result<()> {
    let engines: Vec<_> = engines.into_iter().map(Engine::weak).collect();
    thread::Builder::new().name("plugin-epoch".into()).spawn(move || {
        while let Some(engines) = engines.iter().map(EngineWeak::upgrade).collect::<Option<Vec<_>>>() {
            engines.iter().for_each(Engine::increment_epoch);
            drop(engines);
            thread::sleep(EPOCH);
        }
    })?;
    Ok(())
}

fn settings(filling: Filling) -> wasmtime::Result<Config> {
    let mut cost = OperatorCost::new();
    // Free by default, and each page costs the host a fault and a clearing: about a microsecond for each 4 KiB.
    cost.variable.memory_grow_per_page = 255;
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .module_version(ModuleVersionStrategy::Custom(WASMTIME.into()))?
        .consume_fuel(true)
        .operator_cost(cost)
        .epoch_interruption(true)
        .max_wasm_stack(STACK)
        .memory_init_cow(filling == Filling::Mapped)
        .concurrency_support(false)
        .wasm_component_model(true)
        .wasm_tail_call(false)
        // The adapters that wasmtime itself makes between components inside a component copy from one memory to another.
        .wasm_multi_memory(true)
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .wasm_wide_arithmetic(false)
        // Costs nothing unless a guest traps.
        .wasm_backtrace_max_frames(NonZeroUsize::new(MAX_FRAMES));
    Ok(config)
}
