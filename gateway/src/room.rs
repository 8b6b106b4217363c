//! Room for so many at once, of which no tenant has all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::event::TenantId;

/// With more tenants than this those are forgotten that hold nothing and wait for nothing.
const SWEEP: usize = 1024;

/// Room that tenants share.
pub(crate) struct Room {
    all: Arc<Semaphore>,
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
    each: usize,
}

/// A place, until this is dropped.
pub(crate) struct Held {
    _own: Option<OwnedSemaphorePermit>,
    _common: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Room for `all`, and for no more than `each` of one tenant.
    pub(crate) fn new(all: usize, each: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), tenants: Mutex::default(), each }
    }

    /// Waits for a place: first for one of the tenant's, so that who has too many keeps nobody else waiting.
    pub(crate) async fn take(&self, tenant: TenantId) -> Held {
        // The semaphores are never closed.
        let own = self.tenant(tenant).acquire_owned().await.ok();
        let common = Arc::clone(&self.all).acquire_owned().await.ok();
        Held { _own: own, _common: common }
    }

    fn tenant(&self, tenant: TenantId) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.len() > SWEEP {
            // Nobody holds, and so nobody waits for, what only the map knows.
            tenants.retain(|_, room| Arc::strong_count(room) > 1);
        }
        Arc::clone(tenants.entry(tenant).or_insert_with(|| Arc::new(Semaphore::new(self.each))))
    }
}

#[cfg(test)]
impl Held {
    /// None at all.
    pub(crate) fn nothing() -> Self {
        Self { _own: None, _common: None }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn no_tenant_has_all_and_a_place_that_is_left_is_the_next_ones() {
        let room = Room::new(3, 2);
        let take = |tenant| room.take(TenantId(tenant));
        let held = [take(1), take(1)].map(|take| take.now_or_never().expect("there is room"));
        let mut third = Box::pin(take(1));
        assert!(third.as_mut().now_or_never().is_none(), "two are its share");
        let other = take(2).now_or_never().expect("the other tenant's");
        assert!(take(3).now_or_never().is_none(), "three are all");
        drop(held);
        assert!(third.now_or_never().is_some());
        drop(other);
    }

    #[test]
    fn tenants_that_hold_nothing_are_forgotten() {
        let room = Room::new(1, 1);
        for tenant in 0..5000 {
            drop(room.take(TenantId(tenant)).now_or_never());
        }
        assert!(room.tenants.lock().unwrap().len() <= SWEEP + 1);
    }
}
