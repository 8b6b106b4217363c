//! What the limits of a configuration allow in memory.

use super::{Config, Store};

/// For what no limit counts: the program and its threads at rest, connections, buffers of the store's client, the allocator's slack.
pub const OVERHEAD: u64 = 192 << 20;

/// The settings that bound memory, with the bytes that each allows.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// `ingest.max_body_bytes`.
    pub bodies: u64,
    /// `dispatch.bytes`.
    pub in_flight: u64,
    /// `dispatch.output_bytes`.
    pub outputs: u64,
    /// `egress.response_bytes`.
    pub responses: u64,
    /// `plugins.loaded_bytes`.
    pub loaded: u64,
    /// `plugins.max_memory` for each plugin that may run at once.
    pub running: u64,
    /// `plugins.idle_bytes`.
    pub idle: u64,
    /// The embedded store's `cache`.
    pub cache: u64,
    /// For what no limit counts.
    pub overhead: u64,
}

impl MemoryLimits {
    /// What a gateway stays under, whatever the backlog.
    pub fn sum(&self) -> u64 {
        let Self { bodies, in_flight, outputs, responses, loaded, running, idle, cache, overhead } = *self;
        [bodies, in_flight, outputs, responses, loaded, running, idle, cache, overhead].into_iter().fold(0, u64::saturating_add)
    }
}

impl Config {
    /// What bounds the memory of a gateway where so many threads run plugins.
    pub fn memory(&self, plugin_threads: usize) -> MemoryLimits {
        MemoryLimits {
            bodies: self.ingest.max_body_bytes as u64,
            in_flight: self.dispatch.bytes as u64,
            outputs: self.dispatch.output_bytes as u64,
            responses: self.egress.response_bytes as u64,
            loaded: self.plugins.loaded_bytes,
            running: plugin_threads.saturating_mul(self.plugins.max_memory) as u64,
            idle: if self.plugins.idle_instances > 0 { self.plugins.idle_bytes as u64 } else { 0 },
            cache: match &self.store {
                Store::Embedded(store) => store.cache,
                Store::Redis(_) => 0,
            },
            overhead: OVERHEAD,
        }
    }
}
