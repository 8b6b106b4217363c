//! The gateway's sandbox with one component in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::event::VersionHash;
use crate::plugin::table::Tables;
use crate::plugin::{Components, PluginConfig, Runtime};

/// Compiled components that are kept for the next test, in all.
const KEPT: u64 = 1 << 30;

/// How long compiling may take.
const PATIENCE: Duration = Duration::from_secs(1800);

struct Only(VersionHash, Bytes);

#[async_trait]
impl Components for Only {
    async fn fetch(&self, version: VersionHash) -> Result<Option<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
        Ok((version == self.0).then(|| self.1.clone()))
    }
}

/// A runtime, set up as a gateway's, that knows this component alone. What it compiles is kept in `directory`.
pub(super) fn runtime(component: &Bytes, directory: &Path, tables: Arc<dyn Tables>) -> anyhow::Result<Runtime> {
    let mut config = PluginConfig::new(directory.to_owned())?;
    config.disk_bytes = KEPT;
    // Its processor time is limited as a gateway's is; how long that takes on a busy machine says nothing of the component.
    config.compile.wall = PATIENCE;
    Ok(Runtime::with_tables(config, Arc::new(Only(VersionHash::of(component), component.clone())), tables)?)
}

/// Where what is compiled is kept from one run to the next: components of Python take twenty seconds. None where there is no home.
pub(super) fn cache() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")))?;
    caches.is_absolute().then(|| caches.join("tidegate/compiled"))
}
