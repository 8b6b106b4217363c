//! Plugins that do not run for now, as this node sees it.

use super::Control;
use crate::control::inspect::Ailing;
use crate::event::{PluginId, TenantId};
use crate::plugin::poison::Poisoned;

impl Control {
    /// Where versions of a plugin are poisoned. Circuits of stages that run another plugin by now are left out.
    pub fn poisoned(&self, owner: TenantId, plugin: PluginId) -> Vec<Poisoned> {
        let (state, id) = (self.state(), plugin.to_string());
        let Some(tenant) = state.tenant(owner) else { return Vec::new() };
        let mut poisoned = self.inspector.poisoned(owner);
        poisoned.retain(|poisoned| {
            let connection = tenant.connections.get(poisoned.place.connection);
            let stage = connection.and_then(|connection| connection.parts.stages.get(poisoned.place.stage));
            stage.is_some_and(|stage| stage.plugin == id)
        });
        poisoned
    }

    /// What waits for plugins' sake.
    pub fn ailing(&self) -> Ailing {
        self.inspector.ailing()
    }
}
