//! Where the store's servers are, as far as the store knows: who reaches out for others must not reach these.
//!
//! Known are the servers of the URLs, the master that the sentinels name, a cluster's masters, and the replicas that any of them tells of. Names
//! among them are resolved by the system, as the client does it; what a name led to is kept while it cannot be resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::time::timeout;

use super::config::{RedisConfig, Topology};
use super::health::Health;
use super::link::{Connector, place};
use crate::clock;

/// Between two looks at servers that tell of no others than before: their names may lead elsewhere.
const EVERY: Duration = Duration::from_secs(30);
/// How long one name may take to be resolved.
const PATIENCE: Duration = Duration::from_secs(2);

/// A host, by name or address, and a port.
pub(super) type Place = (String, u16);

/// What is known of the servers.
pub(super) struct Servers {
    configured: BTreeSet<Place>,
    told: BTreeSet<Place>,
    found: BTreeMap<Place, Vec<SocketAddr>>,
    looked: Option<Instant>,
    addresses: Arc<ArcSwap<Vec<SocketAddr>>>,
}

impl Servers {
    pub(super) fn new(config: &RedisConfig) -> Self {
        let urls = match &config.topology {
            Topology::Standalone(url) => std::slice::from_ref(url),
            Topology::Sentinel { urls, .. } | Topology::Cluster(urls) => urls,
        };
        let configured = urls.iter().filter_map(|url| place(&redis::IntoConnectionInfo::into_connection_info(url.reveal()).ok()?));
        Self {
            configured: configured.collect(),
            told: BTreeSet::new(),
            found: BTreeMap::new(),
            looked: None,
            addresses: Arc::default(),
        }
    }

    /// All addresses, as the last look found them.
    pub(super) fn addresses(&self) -> Arc<ArcSwap<Vec<SocketAddr>>> {
        Arc::clone(&self.addresses)
    }

    /// Looks again, if the servers tell of others than before or the last look was long ago.
    pub(super) async fn look(&mut self, connector: &Connector, health: &Health) {
        let is_recent = self.looked.is_some_and(|looked| clock::monotonic().saturating_duration_since(looked) < EVERY);
        if is_recent && health.told == self.told {
            return;
        }
        let mut places = &self.configured | &health.told;
        places.extend(connector.master().await);
        let mut found = BTreeMap::new();
        for one in places {
            let resolved = timeout(PATIENCE, tokio::net::lookup_host((one.0.as_str(), one.1))).await.ok().and_then(Result::ok);
            let addresses = resolved.map(Iterator::collect).or_else(|| self.found.remove(&one)).unwrap_or_default();
            found.insert(one, addresses);
        }
        self.addresses.store(Arc::new(found.values().flatten().copied().collect()));
        self.found = found;
        self.told.clone_from(&health.told);
        self.looked = Some(clock::monotonic());
    }
}
