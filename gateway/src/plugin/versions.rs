//! Versions that are ready to run: loaded when first needed, one at a time each, the least used let go.

mod cache;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OnceCell, Semaphore};
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use self::cache::Cache;
pub(super) use self::cache::CacheSize;
use super::Components;
use super::artifact::{Artifacts, Found};
use super::call::{Offers, Ready};
use super::compile::Compiler;
use super::cost::Costs;
use super::engine::Filling;
use super::error::{LoadError, Refusal};
use super::host::{State, one_line};
use super::limits::CompileLimits;
use super::reuse::{Idle, Instances};
use super::screen::{Screen, screen};
use crate::background;
use crate::clock::monotonic;
use crate::event::{TenantId, VersionHash};

/// How long a refusal stands before the component is looked at again. A compiler that was stopped on a loaded machine may
/// come through later; one that was stopped by a bomb must not be started for each event.
const REFUSAL_STANDS: Duration = Duration::from_secs(60);

/// What a version takes beside its artifact: its types, its exports, where its functions begin.
const BESIDE_CODE: u64 = 128 << 10;

/// A version in the cache.
pub(super) struct Version {
    pub(super) ready: Ready,
    pub(super) bytes: u64,
}

type Slot = Arc<OnceCell<Result<Arc<Version>, (Refusal, Instant)>>>;

/// What became of a look for an artifact.
enum Loaded {
    Nothing,
    Unloadable(String),
    Version(Arc<Version>),
}

/// What loads the versions whose memories are filled in one of the two ways.
pub(super) struct Side {
    pub(super) filling: Filling,
    pub(super) engine: Engine,
    pub(super) linker: Linker<State>,
    pub(super) artifacts: Arc<Artifacts>,
    pub(super) idle: Arc<Idle>,
}

/// The cache, and all that is needed to fill it.
pub(super) struct Versions {
    sides: [Arc<Side>; 2],
    compiler: Compiler,
    limits: CompileLimits,
    /// Components that may be screened at once.
    screens: Semaphore,
    components: Arc<dyn Components>,
    cache: Mutex<Cache<Slot>>,
}

impl Side {
    /// A version whose artifact is here.
    fn load(&self, version: VersionHash) -> Result<Loaded, LoadError> {
        match self.artifacts.load(&self.engine, version).map_err(io)? {
            Found::Nothing => Ok(Loaded::Nothing),
            Found::Unloadable(reason) => Ok(Loaded::Unloadable(one_line(&reason, 512))),
            Found::Component(compiled, bytes) => self.link(&compiled, bytes).map(Loaded::Version),
        }
    }

    fn link(&self, component: &Component, bytes: u64) -> Result<Arc<Version>, LoadError> {
        let wrong = |name: &str, error: wasmtime::Error| Refusal::WrongType {
            name: name.into(),
            detail: one_line(&format!("{error:#}"), 512),
        };
        let offers = |interface: &str| {
            let prefix = format!("tidegate:plugin/{interface}@");
            component.component_type().exports(&self.engine).any(|(name, _)| name.starts_with(&prefix))
        };
        let pre = self.linker.instantiate_pre(component).map_err(|error| wrong("an import", error))?;
        let offers = Offers::of(&pre, offers)?;
        let instances = Instances::new(Arc::clone(&self.idle), &pre);
        let ready = Ready { pre, offers, instances, costs: Costs::default() };
        Ok(Arc::new(Version { ready, bytes }))
    }
}

impl Versions {
    pub(super) fn new(
        sides: [Side; 2],
        compiler: Compiler,
        limits: CompileLimits,
        screens: usize,
        components: Arc<dyn Components>,
        size: CacheSize,
    ) -> Self {
        let (sides, screens) = (sides.map(Arc::new), Semaphore::new(screens));
        Self { sides, compiler, limits, screens, components, cache: Mutex::new(Cache::new(size)) }
    }

    /// A version that can be run. Loads it, or compiles it at this tenant's turn, if need be; whoever else asks meanwhile waits for the
    /// same load.
    pub(super) async fn get(&self, tenant: TenantId, version: VersionHash) -> Result<Arc<Version>, LoadError> {
        self.ready(tenant, version, None).await
    }

    /// Screens, compiles and links a component that is not yet anybody's.
    pub(super) async fn inspect(
        &self,
        tenant: TenantId,
        component: Bytes,
    ) -> Result<(Screen, VersionHash, Arc<Version>), LoadError> {
        let _room = self.compiler.admit(tenant, component.len())?;
        let (screen, hash) = self.screened(&component).await?;
        let version = self.ready(tenant, hash, Some((component, Filling::of(screen.data)))).await?;
        Ok((screen, hash, version))
    }

    async fn ready(
        &self,
        tenant: TenantId,
        version: VersionHash,
        screened: Option<(Bytes, Filling)>,
    ) -> Result<Arc<Version>, LoadError> {
        let mut slot = self.cache().used(version, tenant);
        match slot.get() {
            Some(Ok(version)) => return Ok(Arc::clone(version)),
            Some(Err((_, since))) if since.elapsed() > REFUSAL_STANDS => {
                self.forget(version, &slot);
                slot = self.cache().used(version, tenant);
            }
            Some(Err(_)) => {}
            None => self.compiler.join(tenant, version),
        }
        let loaded = slot
            .get_or_try_init(|| async {
                match self.load(tenant, version, screened).await {
                    Ok(version) => Ok(Ok(version)),
                    Err(LoadError::Refused(refusal)) => Ok(Err((refusal, monotonic()))),
                    // Not remembered: the next event tries again.
                    Err(error) => Err(error),
                }
            })
            .await;
        let bytes = slot.get().and_then(|loaded| loaded.as_ref().ok()).map_or(0, |version| version.bytes + BESIDE_CODE);
        self.cache().loaded(version, bytes);
        match loaded? {
            Ok(version) => Ok(Arc::clone(version)),
            Err((refusal, _)) => Err(refusal.clone().into()),
        }
    }

    async fn load(
        &self,
        tenant: TenantId,
        version: VersionHash,
        screened: Option<(Bytes, Filling)>,
    ) -> Result<Arc<Version>, LoadError> {
        for side in &self.sides {
            let side = Arc::clone(side);
            let found = tokio::task::spawn_blocking(move || side.load(version)).await;
            if let Loaded::Version(loaded) = found.map_err(|error| LoadError::Gateway(error.to_string()))?? {
                return Ok(loaded);
            }
        }
        // Before the component is fetched: what waits for a turn holds none.
        let turn = self.compiler.turn(tenant, version).await;
        let (component, filling) = match screened {
            Some(screened) => screened,
            None => self.fetch(version).await?,
        };
        let artifact = self.compiler.compile(&turn, &component, filling).await?;
        let [copied, mapped] = &self.sides;
        let side = Arc::clone(if filling == copied.filling { copied } else { mapped });
        let keep = move || {
            side.artifacts.store(version, &artifact).map_err(io)?;
            side.load(version)
        };
        match in_background(keep).await?? {
            Loaded::Version(loaded) => Ok(loaded),
            Loaded::Unloadable(reason) => Err(Refusal::Unloadable(reason).into()),
            Loaded::Nothing => Err(LoadError::Gateway("the artifact was written, but is gone or does not verify".into())),
        }
    }

    async fn fetch(&self, version: VersionHash) -> Result<(Bytes, Filling), LoadError> {
        let component = self.components.fetch(version).await.map_err(|error| LoadError::Fetch(error.to_string()))?;
        let component = component.ok_or(LoadError::Missing(version))?;
        let (screen, hash) = self.screened(&component).await?;
        if hash != version {
            return Err(LoadError::Fetch(format!("the store gave a component with hash {hash} for {version}")));
        }
        Ok((component, Filling::of(screen.data)))
    }

    async fn screened(&self, component: &Bytes) -> Result<(Screen, VersionHash), LoadError> {
        let component = component.clone();
        let limits = self.limits.clone();
        let _one = self.screens.acquire().await;
        Ok(in_background(move || screen(&component, &limits).map(|screen| (screen, VersionHash::of(&component)))).await??)
    }

    fn forget(&self, version: VersionHash, slot: &Slot) {
        let mut cache = self.cache();
        if cache.get(version).is_some_and(|kept| Arc::ptr_eq(kept, slot)) {
            cache.remove(version);
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache<Slot>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, LoadError> {
    let done = background::spawn("plugin-upload", work).await;
    done.map_err(|_| LoadError::Gateway("a thread that looks at a component panicked, or could not be started".into()))
}

fn io(error: std::io::Error) -> LoadError {
    LoadError::Gateway(format!("the plugin directory: {error}"))
}
