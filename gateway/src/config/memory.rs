//! What the limits of a configuration allow in memory.

use super::{Config, Store};

/// For what no limit counts: the program and its threads at rest, connections, buffers of the store's client, the allocator's slack.
pub const OVERHEAD: u64 = 192 << 20;

impl Config {
    /// The settings that bound memory, with the bytes that each allows, where so many threads run plugins. Whatever the backlog,
    /// a gateway stays under their sum and [`OVERHEAD`].
    pub fn memory(&self, plugin_threads: usize) -> Vec<(&'static str, u64)> {
        let cache = match &self.store {
            Store::Embedded(store) => store.cache,
            Store::Redis(_) => 0,
        };
        let running = plugin_threads.saturating_mul(self.plugins.max_memory) as u64;
        vec![
            ("ingest.max_body_bytes", self.ingest.max_body_bytes as u64),
            ("dispatch.bytes", self.dispatch.bytes as u64),
            ("dispatch.output_bytes", self.dispatch.output_bytes as u64),
            ("egress.response_bytes", self.egress.response_bytes as u64),
            ("plugins.loaded_bytes", self.plugins.loaded_bytes),
            ("plugins.max_memory on each thread", running),
            ("store.cache", cache),
        ]
    }
}
