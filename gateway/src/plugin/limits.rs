//! Every limit of the sandbox: its name, its default, and the error that names it when it is reached.
//!
//! | limit | default | error |
//! |---|---|---|
//! | `fuel`: work of one call, about one unit an instruction, one a byte copied, and what host calls cost | 100 million | `fuel_exhausted` |
//! | `wall`: time of one call, looked at every [`EPOCH`]; what passes between two looks counts as one, so that no call pays for a busy machine | 1 s | `wall_clock` |
//! | `memory`: linear memory, all memories of the instance together | 64 MiB | `memory_limit` |
//! | `table_elements`: entries, all tables together | 50,000 | `table_limit` |
//! | `outputs`: outputs of one call | 256 | `too_many_outputs` |
//! | `output_bytes`: all outputs of one call as they would be sent, kept bodies counted for each output | 8 MiB | `output_too_large` |
//! | `log_lines`, `log_bytes`: kept of one call | 64, 16 KiB | none: the rest is counted, not kept |
//! | `log_flood`: lines written by one call, kept or not | 1,024 | `log_flood` |
//! | `host_calls`: calls of host functions in one call | 10,000 | `host_call_flood` |
//! | `table_ops`: operations on the plugin's table in one call | 32 | `table_flood` |
//! | `table_traffic`: bytes of the keys and values that it writes there and of the values that it reads, in one call | 512 KiB | `table_traffic` |
//! | [`MAX_KEY`](super::table::MAX_KEY), [`MAX_VALUE`](super::table::MAX_VALUE): of an entry of the table | 256, 64 KiB | none: the guest is told `too-large` |
//! | [`RESPONSE_BYTES`]: of a handshake's answer or a signature's headers | 64 KiB | `output_too_large` |
//! | [`RANDOM_BYTES`]: of one request for random bytes | 4,096 | `random_request_too_large` |
//! | [`STACK`]: the guest's call stack | 256 KiB | `stack_overflow` |
//! | [`HANDLES`]: component handles in one call | 1,024 | `trap` |
//! | [`MAX_INVOCATIONS`](super::reuse::MAX_INVOCATIONS): runs of an instance that is used again; its memory, its table entries and its handles are limited for all of them together | 10,000 | none: a fresh one follows |
//!
//! What all runs of a tenant may use in a second is its plan's `plugin_fuel`; [`TABLE_FUEL`], [`TABLE_BYTE_FUEL`] and
//! [`GROWN_BYTE_FUEL`] count towards it too.
//!
//! What may be uploaded is limited by [`CompileLimits`]; each of its limits is a [`Refusal`](super::Refusal) of its own.

use std::time::Duration;

/// How often the wall clock of running plugins is looked at.
pub const EPOCH: Duration = Duration::from_millis(5);
/// A guest's call stack.
pub const STACK: usize = 256 * 1024;
/// Component handles that one call may hold.
pub const HANDLES: usize = 1024;
/// Random bytes of one request.
pub const RANDOM_BYTES: u32 = 4096;
/// Bytes of what `respond` answers or `sign` adds: headers and body together.
pub const RESPONSE_BYTES: usize = 64 << 10;
/// Core instances of one component. Python's standard library comes as 38 modules.
pub const CORE_INSTANCES: u32 = 64;
/// Memories of one component.
pub const MEMORIES: u32 = 8;
/// Tables of one component.
pub const TABLES: u32 = 64;
/// Frames of a trap's backtrace, innermost first; the rest is not kept.
pub const MAX_FRAMES: usize = 32;
/// What each operation on a table costs of its tenant's fuel a second, beside the run's own fuel: the store is shared by all tenants.
pub const TABLE_FUEL: u64 = 1_000_000;
/// The same for each byte of its key, of the value that is written, and of the value that is read.
pub const TABLE_BYTE_FUEL: u64 = 1_000;
/// What each byte that a run's memories grow by costs of its tenant's fuel a second, beside the run's own fuel: each page costs the host a
/// fault and a clearing, one to two microseconds for 4 KiB, and its memory management is shared by all.
pub const GROWN_BYTE_FUEL: u64 = 1;
/// Calls of one node that may use tables at once, and of one tenant there. Who has no turn waits.
pub const TABLE_CALLS: usize = 64;
/// See [`TABLE_CALLS`].
pub const TENANT_TABLE_CALLS: usize = 8;
/// Fuel that any host call costs, beside one unit for each byte that it moves.
pub const HOST_CALL_FUEL: u64 = 500;

/// What one call may use. The module's documentation has the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Work.
    pub fuel: u64,
    /// Time, as far as the call was at work in it.
    pub wall: Duration,
    /// Linear memory in bytes, summed.
    pub memory: usize,
    /// Table entries, summed.
    pub table_elements: usize,
    /// Outputs of a transform.
    pub outputs: usize,
    /// Bytes of all outputs together.
    pub output_bytes: usize,
    /// Log lines kept.
    pub log_lines: usize,
    /// Log bytes kept.
    pub log_bytes: usize,
    /// Log lines written, kept or not.
    pub log_flood: usize,
    /// Calls of host functions.
    pub host_calls: u32,
    /// Operations on the plugin's table.
    pub table_ops: u32,
    /// Bytes that these move.
    pub table_traffic: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fuel: 100_000_000,
            wall: Duration::from_secs(1),
            memory: 64 << 20,
            table_elements: 50_000,
            outputs: 256,
            output_bytes: 8 << 20,
            log_lines: 64,
            log_bytes: 16 << 10,
            log_flood: 1024,
            host_calls: 10_000,
            table_ops: 32,
            table_traffic: 512 << 10,
        }
    }
}

/// What a component may be, and what compiling it may cost. Each limit is a refusal that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Bytes of the component: `component_bytes`.
    pub component_bytes: usize,
    /// Core modules: `modules`.
    pub modules: u64,
    /// Functions in all modules, and those that pass values between them: `functions`.
    pub functions: u64,
    /// Bytes of one function: `function_bytes`.
    pub function_bytes: u64,
    /// Data and element segments in all modules: `segments`.
    pub segments: u64,
    /// Entries of element segments in all modules: `elements`.
    pub elements: u64,
    /// Types of all modules and components, declarations inside of types among them: `types`.
    pub types: u64,
    /// How deep declarations of component and instance types nest: `type_nesting`.
    pub type_nesting: u64,
    /// Imports, exports and aliases of all modules, instances and components: `externs`.
    pub externs: u64,
    /// Globals, tables and memories of all modules: `globals`.
    pub globals: u64,
    /// How deep components nest: `nesting`.
    pub nesting: u64,
    /// Instances after every nested component is expanded: `instances`.
    pub instances: u64,
    /// Processor time of the compiler: `compile_cpu`.
    pub cpu: Duration,
    /// Wall time of the compiler: `compile_time`.
    pub wall: Duration,
    /// Resident memory of the compiler: `compile_memory`.
    pub memory: u64,
    /// Bytes of the compiled artifact: `artifact_bytes`.
    pub artifact_bytes: usize,
    /// Uploads of one tenant that wait for a compiler or are compiled: `compile_queue_full`.
    pub uploads: usize,
    /// Bytes of these: `compile_queue_full`. Of all tenants together, twice as many.
    pub upload_bytes: usize,
}

impl Default for CompileLimits {
    /// Room for what the JavaScript, Python and Go tool chains give (19 MB, 13,500 functions, 43,000 segments, 9,900 externs, 1,500 types;
    /// 20 s of processor time, 415 MB), on slower machines too, and not much more.
    fn default() -> Self {
        Self {
            component_bytes: 32 << 20,
            modules: 64,
            functions: 50_000,
            function_bytes: 1 << 20,
            segments: 100_000,
            elements: 100_000,
            types: 20_000,
            type_nesting: 16,
            externs: 50_000,
            globals: 10_000,
            nesting: 4,
            instances: 256,
            cpu: Duration::from_secs(60),
            wall: Duration::from_secs(300),
            memory: 1 << 30,
            artifact_bytes: 128 << 20,
            uploads: 16,
            upload_bytes: 64 << 20,
        }
    }
}
