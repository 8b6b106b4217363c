//! Very many tenants, sources, destinations and connections: written into the store by the gateway's own control while no gateway runs,
//! a number of tenants in each revision. Through the API it would be a revision and a durable write for each thing, and a
//! compilation for each component.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};

use super::error::BenchError;
use super::gateway::{IN_FLIGHT, Planned, SECRET, wide_plan};
use crate::app;
use crate::control::apply::Mode;
use crate::control::inspect::{InspectError, Inspection, Inspector};
use crate::control::model::Who;
use crate::control::service::{Access, Control};
use crate::event::{ConnectionId, VersionHash};
use crate::plugin::{self, CompileLimits, PluginConfig};

/// Destinations of one revision, about.
const REVISION: usize = 500;

/// What there is to be.
#[derive(Clone, Copy)]
pub(super) struct Estate {
    pub(super) tenants: usize,
    /// Of each tenant, each with a source and a connection of its own.
    pub(super) destinations: usize,
    /// Stands in every connection; each tenant has its own version of it.
    pub(super) component: Option<&'static [u8]>,
}

/// Where to post to, and the connection behind each path.
pub(super) struct Routes {
    pub(super) paths: Vec<String>,
    pub(super) connections: Vec<ConnectionId>,
}

impl Estate {
    /// Writes it, with all destinations at `receiver`.
    pub(super) async fn write(&self, planned: &Planned, receiver: SocketAddr) -> Result<Routes, BenchError> {
        let (config, base) = planned.config()?;
        let inspector = Arc::new(Transform::of(self.component)?);
        let offline = app::offline(&config, base, inspector).await;
        let (store, control) = offline.map_err(|error| BenchError::Setup(error.to_string()))?;
        let mut versions = Vec::new();
        if let Some(component) = self.component {
            for tenant in 0..self.tenants {
                let copy = distinct(component, tenant);
                let hash = VersionHash::of(&copy);
                store.put_component(hash, copy).await.map_err(|error| BenchError::Setup(error.to_string()))?;
                versions.push(hash);
            }
            let plugins = PluginConfig::new(config.plugins.cache.clone()).map_err(BenchError::io("this program's path"))?;
            let plugins = PluginConfig { disk_bytes: config.plugins.cache_bytes, ..plugins };
            let stocked = plugin::stock(&plugins, &component.into(), &distinct(component, 0), versions.clone()).await;
            stocked.map_err(|error| BenchError::Setup(error.to_string()))?;
        }
        let numbers: Vec<usize> = (0..self.tenants).collect();
        for some in numbers.chunks(REVISION.div_ceil(self.destinations)) {
            let tenants: Vec<Value> = some.iter().map(|&tenant| self.tenant(tenant, versions.get(tenant), receiver)).collect();
            let spec = serde_json::from_value(json!({"tenants": tenants})).map_err(|error| BenchError::Setup(error.to_string()))?;
            let applied = control.apply(Access::Operator, &Who::Operator, &spec, Mode::default()).await;
            applied.map_err(|error| BenchError::Setup(format!("{error:?}")))?;
        }
        self.routes(&control)
    }

    fn tenant(&self, tenant: usize, version: Option<&VersionHash>, receiver: SocketAddr) -> Value {
        let each = |make: &dyn Fn(String) -> Value| (0..self.destinations).map(|at| make(at.to_string())).collect::<Vec<_>>();
        let url = format!("http://{receiver}/hook");
        let stages = if version.is_some() { json!([{"plugin": "transform"}]) } else { json!([]) };
        let component = version.map(ToString::to_string);
        json!({
            "name": name(tenant),
            "plan": wide_plan(),
            "plugins": component.map(|component| json!({"name": "transform", "component": component})).as_slice(),
            "sources": each(&|at| json!({"name": at})),
            "destinations": each(&|at| json!({"name": at, "url": url, "in_flight": IN_FLIGHT, "signing": {"secrets": [SECRET]}})),
            "connections": each(&|at| json!({"name": at, "source": at, "destination": at, "plugins": stages})),
        })
    }

    fn routes(&self, control: &Control) -> Result<Routes, BenchError> {
        let state = control.state();
        let mut routes = Routes { paths: Vec::new(), connections: Vec::new() };
        for number in 0..self.tenants * self.destinations {
            let at = (number / self.tenants).to_string();
            let found = state
                .find_tenant(&name(number % self.tenants))
                .and_then(|tenant| Some((tenant.sources.named(&at)?.id, tenant.connections.named(&at)?.id)));
            let (source, connection) = found.ok_or_else(|| BenchError::Setup("a tenant is not as it was applied".into()))?;
            routes.paths.push(format!("/in/{source}"));
            routes.connections.push(connection);
        }
        Ok(routes)
    }
}

fn name(tenant: usize) -> String {
    format!("tenant-{tenant}")
}

/// The component with a custom section that says `number`: another version that does the same.
pub(super) fn distinct(component: &[u8], number: usize) -> Bytes {
    let name = b"tidegate-bench";
    let number = (number as u64).to_be_bytes();
    let length = 1 + name.len() + number.len();
    let head = [0, u8::try_from(length).expect("short"), u8::try_from(name.len()).expect("short")];
    [component, &head, name, &number].concat().into()
}

/// Knows what the copies of one component are without compiling each.
struct Transform(Option<Inspection>);

impl Transform {
    fn of(component: Option<&[u8]>) -> Result<Self, BenchError> {
        let screen = component.map(|component| plugin::screen(component, &CompileLimits::default())).transpose();
        let screen = screen.map_err(|refusal| BenchError::Plugin(refusal.to_string()))?;
        Ok(Self(screen.as_ref().map(Inspection::of)))
    }
}

#[async_trait]
impl Inspector for Transform {
    async fn inspect(&self, _: Bytes) -> Result<Inspection, InspectError> {
        self.0.clone().ok_or_else(|| InspectError::Unavailable("there is no component here".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_differ_and_do_the_same() {
        let component = super::super::cases::COMPONENT;
        let (one, other) = (distinct(component, 1), distinct(component, 2));
        assert_ne!(VersionHash::of(&one), VersionHash::of(&other));
        let limits = CompileLimits::default();
        assert_eq!(plugin::screen(&one, &limits).unwrap(), plugin::screen(component, &limits).unwrap());
    }
}
