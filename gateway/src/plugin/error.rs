//! What can go wrong, by who has to mend it.

use std::io;

use crate::event::{Failure, Party, VersionHash};

/// The plugin runtime cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The sandbox could not be set up.
    #[error("the WebAssembly engine cannot start: {0}; it reserves some 32 GiB of address space a thread: is `ulimit -v` set?")]
    Engine(String),
    /// The directory for compiled artifacts, or its key, cannot be used.
    #[error("the plugin directory {path}: {source}")]
    Directory {
        /// Which file or directory.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The worker threads could not be started.
    #[error("a plugin thread cannot start: {0}")]
    Thread(io::Error),
}

/// Why a component is not taken. The text says what is wrong and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A core module.
    #[error("this is a core module, not a component: make one of it with `tidegate plugin build`")]
    CoreModule,
    /// Compiled code.
    #[error("this is compiled code (.cwasm), which is never taken from outside: upload the component that it was compiled from")]
    Precompiled,
    /// Something else.
    #[error("this is not WebAssembly (a component begins with `\\0asm`)")]
    NotWasm,
    /// Not a valid component, or one that uses proposals that are switched off.
    #[error("the component is not valid: {0}")]
    Invalid(String),
    /// It asks for something that does not exist here.
    #[error("the component imports `{name}`, which the gateway does not offer: {mend}")]
    ForeignImport {
        /// The import.
        name: String,
        /// What to do.
        mend: &'static str,
    },
    /// It was built against a later interface.
    #[error("`{name}` is newer than this gateway, which offers {offered}: upgrade the gateway, or build with an older SDK")]
    NewerInterface {
        /// The import or export.
        name: String,
        /// What this gateway offers.
        offered: &'static str,
    },
    /// It offers nothing.
    #[error(
        "the component exports none of `tidegate:plugin/filter@1`, `transform`, `verify`, `respond`, `sign` and `judge`, so there is \
         nothing to run: export one with the SDK's `export!`"
    )]
    MissingExport,
    /// It exports the right name with the wrong type.
    #[error("`{name}` does not have the type that sdk/wit gives it: {detail}")]
    WrongType {
        /// The export or import.
        name: String,
        /// What differs.
        detail: String,
    },
    /// It exceeds a limit of [`CompileLimits`](super::CompileLimits).
    #[error("the component has {value} {limit}, {max} are allowed: {mend}")]
    TooComplex {
        /// The limit's name.
        limit: &'static str,
        /// What the component has.
        value: u64,
        /// What is allowed.
        max: u64,
        /// What to do.
        mend: &'static str,
    },
    /// It uses a structure whose cost cannot be told before compiling.
    #[error("the component {0}, whose cost cannot be told before it is compiled: no known tool chain makes such components")]
    Opaque(&'static str),
    /// The compiler was stopped.
    #[error("compiling the component was stopped at the limit `{limit}` ({allowed}): make the component smaller")]
    CompilerStopped {
        /// The limit's name.
        limit: &'static str,
        /// What is allowed.
        allowed: String,
    },
    /// The compiler crashed on it.
    #[error("the compiler ended without an answer ({how}): build the component with the SDK's tool chain; if it was, report it")]
    CompilerDied {
        /// How the process ended.
        how: String,
    },
    /// It was compiled, but has more memories, tables or core instances than an instance may have.
    #[error("the component does not fit the sandbox: {0}")]
    Unloadable(String),
    /// The trial instantiation failed.
    #[error("the component cannot be instantiated: {0}")]
    Instantiation(String),
}

impl Refusal {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::CoreModule => "core_module",
            Self::Precompiled => "precompiled",
            Self::NotWasm => "not_wasm",
            Self::Invalid(_) => "invalid_component",
            Self::ForeignImport { .. } => "foreign_import",
            Self::NewerInterface { .. } => "newer_interface",
            Self::MissingExport => "missing_export",
            Self::WrongType { .. } => "wrong_type",
            Self::TooComplex { .. } => "too_complex",
            Self::Opaque(_) => "opaque",
            Self::CompilerStopped { .. } => "compiler_stopped",
            Self::CompilerDied { .. } => "compiler_died",
            Self::Unloadable(_) => "unloadable",
            Self::Instantiation(_) => "instantiation_failed",
        }
    }
}

/// Why a version cannot be run, or a component not be inspected.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// The component itself is at fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nobody has the component.
    #[error("no component with hash {0}")]
    Missing(VersionHash),
    /// The component cannot be read now.
    #[error("the component cannot be read: {0}")]
    Fetch(String),
    /// Too much waits to be compiled already.
    #[error("{max} {limit} wait to be compiled already: try again when they are done")]
    QueueFull {
        /// What there is too much of.
        limit: &'static str,
        /// How much may wait.
        max: usize,
    },
    /// The gateway is at fault.
    #[error("the gateway could not compile or load the component: {0}")]
    Gateway(String),
}

impl LoadError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Missing(_) => "component_missing",
            Self::Fetch(_) => "component_unavailable",
            Self::QueueFull { .. } => "compile_queue_full",
            Self::Gateway(_) => "plugin_runtime",
        }
    }
}

/// Why one call gave no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The version cannot be run.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The version offers no such interface.
    #[error("the plugin does not export `{0}`")]
    NotOffered(&'static str),
    /// A limit of the call was reached, or the guest trapped.
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// The plugin itself said that it cannot decide.
    #[error("{code}: {message}")]
    Failed {
        /// The plugin's own code.
        code: String,
        /// The plugin's own words, control characters removed.
        message: String,
        /// Whether the plugin says that a later try can help.
        retryable: bool,
    },
    /// The plugin's table could not be asked now.
    #[error("the plugin's table cannot be reached: {0}")]
    Table(String),
    /// A bug of ours, or the machine is out of something.
    #[error("the gateway could not run the plugin: {0}")]
    Gateway(String),
}

/// Why a running guest was stopped, or what it returned refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// `fuel`.
    #[error("used up its fuel ({0})")]
    Fuel(u64),
    /// `wall`.
    #[error("ran longer than {0:?}")]
    Wall(std::time::Duration),
    /// [`STACK`](super::limits::STACK).
    #[error("exhausted its call stack: endless recursion?")]
    Stack,
    /// `memory`.
    #[error("asked for more than {0} bytes of memory")]
    Memory(usize),
    /// `table_elements`.
    #[error("asked for more than {0} table elements")]
    Tables(usize),
    /// `host_calls`.
    #[error("called the host more than {0} times")]
    HostCalls(u32),
    /// `table_ops`.
    #[error("used its table more than {0} times")]
    TableOps(u32),
    /// `table_traffic`.
    #[error("moved more than {0} bytes to and from its table")]
    TableTraffic(usize),
    /// It waits for an answer of its table. Seen by nobody: the call goes on with it.
    #[error("waits for its table")]
    Asks,
    /// `log_flood`.
    #[error("logged more than {0} lines")]
    LogFlood(usize),
    /// [`RANDOM_BYTES`](super::limits::RANDOM_BYTES).
    #[error("asked for {0} random bytes at once")]
    Random(u32),
    /// `outputs`.
    #[error("gave {0} outputs, {1} are allowed")]
    Outputs(usize, usize),
    /// `output_bytes`.
    #[error("gave outputs of more than {0} bytes together")]
    OutputBytes(usize),
    /// What it returned, or handed to the host, cannot be read: text that is not UTF-8, pointers outside its memory, far too much.
    #[error("handed over what cannot be read: {0}")]
    Unreadable(String),
    /// An output that is not a request.
    #[error("output {index}: {detail}")]
    BadOutput {
        /// Which output.
        index: usize,
        /// What is wrong.
        detail: String,
    },
    /// A response, or a header of a signature, that cannot be sent.
    #[error("its answer: {0}")]
    BadAnswer(String),
    /// An output that sets what belongs to the gateway.
    #[error("output {index} sets the header `{name}`, which belongs to the gateway")]
    ReservedHeader {
        /// Which output.
        index: usize,
        /// The header.
        name: String,
    },
    /// A panic, an abort, an assertion.
    #[error("aborted (its log may say why)")]
    Abort,
    /// Any other trap.
    #[error("trapped: {0}")]
    Trap(String),
}

impl Stop {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Fuel(_) => "fuel_exhausted",
            Self::Wall(_) => "wall_clock",
            Self::Stack => "stack_overflow",
            Self::Memory(_) => "memory_limit",
            Self::Tables(_) => "table_limit",
            Self::HostCalls(_) => "host_call_flood",
            Self::TableOps(_) => "table_flood",
            Self::TableTraffic(_) => "table_traffic",
            Self::Asks => "table_asked",
            Self::LogFlood(_) => "log_flood",
            Self::Random(_) => "random_request_too_large",
            Self::Outputs(..) => "too_many_outputs",
            Self::OutputBytes(_) => "output_too_large",
            Self::Unreadable(_) => "output_unreadable",
            Self::BadOutput { .. } => "output_invalid",
            Self::BadAnswer(_) => "answer_invalid",
            Self::ReservedHeader { .. } => "reserved_header",
            Self::Abort => "aborted",
            Self::Trap(_) => "trap",
        }
    }
}

impl CallError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Load(error) => error.code(),
            Self::NotOffered(_) => "not_offered",
            Self::Stopped(stop) => stop.code(),
            Self::Failed { .. } => "plugin_failed",
            Self::Table(_) => "table_unavailable",
            Self::Gateway(_) => "plugin_runtime",
        }
    }

    /// Who failed.
    pub fn party(&self) -> Party {
        match self {
            Self::Load(LoadError::Refused(_)) | Self::NotOffered(_) | Self::Stopped(_) | Self::Failed { .. } => Party::Plugin,
            Self::Load(_) | Self::Table(_) | Self::Gateway(_) => Party::Gateway,
        }
    }

    /// Whether the same event can fare better later. Time on a loaded machine can; all else that a plugin does is repeated exactly.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Load(LoadError::Refused(refusal)) => {
                matches!(refusal, Refusal::CompilerStopped { .. } | Refusal::CompilerDied { .. })
            }
            Self::Load(_) | Self::Table(_) | Self::Gateway(_) | Self::Stopped(Stop::Wall(_)) => true,
            Self::Failed { retryable, .. } => *retryable,
            Self::NotOffered(_) | Self::Stopped(_) => false,
        }
    }

    /// As it is recorded.
    pub fn to_failure(&self) -> Failure {
        let detail = match self {
            Self::Stopped(stop) => format!("the plugin {stop}"),
            other => other.to_string(),
        };
        Failure { party: self.party(), code: self.code().to_owned(), detail, retryable: self.retryable() }
    }
}
