//! A runtime with a store of components in memory, and calls to make of it.

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use tempfile::TempDir;
use tidegate::clock::Timestamp;
use tidegate::event::{EventId, Header, Request, SharedRequest, TenantId, VersionHash};
use tidegate::plugin::table::{NoTables, Tables};
use tidegate::plugin::{Call, Components, Limits, PluginConfig, Runtime, Secrets, Table};

/// Components in memory, and how often each was asked for.
#[derive(Default)]
pub(crate) struct Shelf {
    components: Mutex<HashMap<VersionHash, Bytes>>,
    pub(crate) fetched: AtomicUsize,
}

#[async_trait]
impl Components for Shelf {
    async fn fetch(&self, version: VersionHash) -> Result<Option<Bytes>, Box<dyn Error + Send + Sync>> {
        self.fetched.fetch_add(1, Ordering::SeqCst);
        Ok(self.components.lock().unwrap().get(&version).cloned())
    }
}

/// A runtime of its own, in a directory of its own.
pub(crate) struct Sandbox {
    pub(crate) runtime: Runtime,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) config: PluginConfig,
    _directory: TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut PluginConfig)) -> Self {
        Self::with_tables(change, Arc::new(NoTables))
    }

    pub(crate) fn with_tables(change: impl FnOnce(&mut PluginConfig), tables: Arc<dyn Tables>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = PluginConfig::new(directory.path().join("plugins")).unwrap();
        config.compiler = PathBuf::from(env!("CARGO_BIN_EXE_tidegate"));
        change(&mut config);
        let shelf = Arc::new(Shelf::default());
        let runtime = Runtime::with_tables(config.clone(), shelf.clone(), tables).unwrap();
        Self { runtime, shelf, config, _directory: directory }
    }

    /// The same node after a restart.
    pub(crate) fn restarted(&self) -> Runtime {
        Runtime::start(self.config.clone(), self.shelf.clone()).unwrap()
    }

    pub(crate) fn add(&self, component: impl Into<Bytes>) -> VersionHash {
        let component = component.into();
        let version = VersionHash::of(&component);
        self.shelf.components.lock().unwrap().insert(version, component);
        version
    }
}

pub(crate) fn call(version: VersionHash, body: impl Into<Bytes>) -> Call {
    Call {
        tenant: TenantId(1),
        version,
        event: EventId(7),
        accepted_at: Timestamp(1_700_000_000_000),
        request: SharedRequest::Made(Arc::new(Request {
            method: "POST".into(),
            path: "/hook".into(),
            query: Some("a=b".into()),
            headers: vec![
                header("content-type", b"application/json"),
                header("x-github-event", b"push"),
                header("x-raw", b"\xff\x01"),
                header("x-raw", b""),
            ],
            body: body.into(),
        })),
        config: "{}".into(),
        secrets: Arc::new(Secrets::default()),
        limits: Limits::default(),
        table: Table::default(),
        reuse: None,
    }
}

pub(crate) fn header(name: &str, value: &[u8]) -> Header {
    Header { name: name.into(), value: Bytes::copy_from_slice(value) }
}

pub(crate) fn prebuilt(name: &str) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../plugins/prebuilt").join(name).with_extension("wasm");
    std::fs::read(path).unwrap().into()
}
