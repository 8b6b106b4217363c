//! What a purge has done. A tenant's data goes in bounded steps, over restarts and owners; the count of what went is written in the
//! same atomic unit that removes it.

use serde::{Deserialize, Serialize};

/// What [`Store::purge`](super::Store::purge) has removed of a tenant since its first step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// Events with their history.
    pub events: u64,
    /// Work that still waited: jobs, and dead letters with the code
    /// [`TENANT_DELETED`](crate::event::Failure::TENANT_DELETED).
    pub given_up: u64,
    /// Dead letters from before.
    pub dead_letters: u64,
    /// Whether the last whole look found nothing that is left.
    pub done: bool,
}
