//! What the owner of a shard sees of a tenant there, and says to the owner of the tenant's home.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::event::{ConnectionId, DestinationId, Shard, TenantId};
use crate::store::{Store, StoreError};

use super::notice::NoticeReason;

/// The format of what owners say.
const FORMAT: u8 = 1;
/// How long what takes something back stays.
const AT_ONCE: Duration = Duration::from_millis(1);

/// What is to be seen of a tenant in a shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Seen {
    /// Destinations whose circuit is not closed.
    pub(super) circuits: Vec<SeenCircuit>,
    /// Stages where what runs is poisoned.
    pub(super) poisoned: Vec<SeenPoison>,
    /// Dead letters of the last window.
    pub(super) dead_letters: u64,
    /// Since when these are counted.
    pub(super) dead_since: Option<Timestamp>,
    /// Bytes that are queued, if they are many.
    pub(super) queued: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SeenCircuit {
    pub(super) destination: DestinationId,
    pub(super) since: Timestamp,
    pub(super) reason: NoticeReason,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SeenPoison {
    pub(super) connection: ConnectionId,
    pub(super) stage: usize,
    pub(super) since: Timestamp,
    pub(super) stops: u64,
    pub(super) reason: NoticeReason,
}

#[derive(Serialize, Deserialize)]
struct Said {
    v: u8,
    #[serde(flatten)]
    seen: Seen,
}

impl Seen {
    /// Whether there is nothing to tell.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// With what is seen in another shard.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.circuits.extend(other.circuits);
        self.poisoned.extend(other.poisoned);
        self.dead_letters += other.dead_letters;
        self.dead_since = [self.dead_since, other.dead_since].into_iter().flatten().min();
        self.queued += other.queued;
        self
    }

    fn topic(tenant: TenantId) -> String {
        format!("notices/seen/{tenant}")
    }

    /// Says what is seen in a shard that is not the tenant's home, for so long; or that there is nothing any more.
    pub(super) async fn say(&self, store: &dyn Store, tenant: TenantId, shard: Shard, ttl: Duration) -> Result<(), StoreError> {
        let ttl = if self.is_empty() { AT_ONCE } else { ttl };
        let said = serde_json::to_vec(&Said { v: FORMAT, seen: self.clone() }).expect("plain data");
        store.say(&Self::topic(tenant), &format!("shard-{}", shard.0), Bytes::from(said), ttl).await
    }

    /// What owners of a tenant's other shards say, as one.
    pub(super) async fn said(store: &dyn Store, tenant: TenantId) -> Result<Self, StoreError> {
        let said = store.said(&Self::topic(tenant)).await?;
        let read = said.iter().filter_map(|said| serde_json::from_slice::<Said>(said).ok()).filter(|said| said.v <= FORMAT);
        Ok(read.fold(Self::default(), |sum, said| sum.and(said.seen)))
    }
}
