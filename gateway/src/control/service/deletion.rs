//! Deleting a tenant. Its sources, destinations, connections, plugins and keys go at once, so that nothing more comes in or out. What
//! is queued is given up by the owners of its shards, which then purge all that the store holds of it; the tenant's own record stays
//! until that is done in all of them, so that it goes on after a restart and can be watched.

use std::sync::Arc;

use super::{Access, Control, Error};
use crate::control::model::Tenants;
use crate::control::state::Entry;
use crate::event::TenantId;
use crate::store::Purged;

impl Control {
    /// Begins to delete a tenant; nothing changes for one that is being deleted already.
    pub async fn delete_tenant(&self, access: Access, reference: &str) -> Result<Arc<Entry<Tenants>>, Error> {
        let id = self.tenant(access, reference)?.id;
        access.operator()?;
        self.change(|draft| draft.begin_deletion(id)).await
    }

    /// How far the deletion of a tenant has come; none if it is not being deleted.
    pub async fn deletion(&self, tenant: &Entry<Tenants>) -> Result<Option<Purged>, Error> {
        if tenant.parts.deleting.is_none() {
            return Ok(None);
        }
        Ok(Some(tenant.homes().purged(&*self.store).await?))
    }

    /// Takes tenants away of which the store holds nothing any more. Any node may do it.
    pub(in crate::control) async fn end_deletions(&self) -> Result<(), Error> {
        let state = self.state();
        for tenant in state.tenants().filter(|tenant| tenant.entry.parts.deleting.is_some()) {
            let Some(purged) = self.deletion(&tenant.entry).await?.filter(|purged| purged.done) else { continue };
            // What a plugin wrote in another shard of the tenant after this one's purge.
            let homes = tenant.entry.homes();
            self.drop_tables(homes.at(homes.shards.home()), None).await?;
            self.end_deletion(tenant.id(), purged).await?;
        }
        Ok(())
    }

    async fn end_deletion(&self, id: TenantId, purged: Purged) -> Result<(), Error> {
        match self.change(|draft| draft.end_deletion(id)).await {
            Ok(()) => {
                let Purged { events, given_up, dead_letters, .. } = purged;
                tracing::info!(tenant = %id, events, given_up, dead_letters, "tenant deleted");
                Ok(())
            }
            // Another node was first.
            Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
