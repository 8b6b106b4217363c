//! What can be done with the configuration. No HTTP here.
//!
//! Each change is made on a copy of the state, checked there as a whole, written with one compare-and-set, and published before
//! the caller hears of it. When another node was first, the configuration is read again and the change made anew.

mod ailing;
mod aliases;
mod compiled;
mod crud;
mod deletion;
mod error;
mod keys;
mod plugins;
mod rotation;
mod tenants;
mod traffic;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Mutex;

pub(in crate::control) use aliases::change_alias;
pub use aliases::{AliasChange, PortionChange};
pub(in crate::control) use crud::parse_cursor;
pub use crud::{Idempotency, Listed, MAX_LIMIT};
pub use error::Error;
pub(in crate::control) use plugins::add_version;
pub use plugins::{Component, Inspected, Uploaded};
pub use rotation::{MAX_OVERLAP, Rotated, Rotation};
pub use tenants::{Access, TenantPatch};

use super::assemble::{Dangling, assemble};
use super::draft::Draft;
use super::inspect::Inspector;
use super::prepare::Preparer;
use super::signals::Signals;
use super::snapshot::{Snapshot, Snapshots};
use super::state::{RecordError, State};
use super::tables::deleted_plugins;
use crate::clock::Clock;
use crate::event::{PluginId, Revision};
use crate::store::{Home, Store, StoreError};

/// How often a change is made anew because another node was first.
const MAX_TRIES: usize = 10;

/// What control needs to know and use.
pub struct Options {
    /// Where the configuration is.
    pub store: Arc<dyn Store>,
    /// How specs are made ready.
    pub preparer: Preparer,
    /// Judges uploaded components.
    pub inspector: Arc<dyn Inspector>,
    /// The time.
    pub clock: Clock,
    /// Shards that new tenants are spread over.
    pub shards: u16,
}

/// A configuration that can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store didn't give it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record can't be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Records don't fit together.
    #[error(transparent)]
    Dangling(#[from] Dangling),
}

/// Whether a gateway could start with these records.
pub fn check_records(revision: Revision, records: &[(String, Bytes)], with: &Preparer) -> Result<(), LoadError> {
    let state = State::load(&State::default(), revision, records, with)?;
    assemble(&State::default(), &Snapshot::default(), &state)?;
    Ok(())
}

/// The configuration and all that can be done with it.
pub struct Control {
    pub(super) store: Arc<dyn Store>,
    pub(super) preparer: Arc<Preparer>,
    pub(super) inspector: Arc<dyn Inspector>,
    pub(super) clock: Clock,
    shards: u16,
    pub(super) signals: Signals,
    state: ArcSwap<State>,
    snapshots: Snapshots,
    // Held while the state is replaced, so that changes of this node queue up instead of conflicting.
    changing: Mutex<()>,
    random: SystemRandom,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("revision", &self.state.load().revision).finish_non_exhaustive()
    }
}

impl Control {
    /// Loads the configuration. Fails if any of it can't be used: there is no last good one yet.
    pub async fn load(options: Options) -> Result<Arc<Self>, LoadError> {
        let Options { store, preparer, inspector, clock, shards } = options;
        let control = Self {
            store,
            preparer: Arc::new(preparer),
            inspector,
            clock,
            shards: shards.max(1),
            signals: Signals::default(),
            state: ArcSwap::default(),
            snapshots: Snapshots::new(Snapshot::default()),
            changing: Mutex::new(()),
            random: SystemRandom::new(),
        };
        control.reload().await?;
        Ok(Arc::new(control))
    }

    /// Where the wings get their snapshot.
    pub fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    /// How many shards there are.
    pub(super) fn shards(&self) -> u16 {
        self.shards
    }

    /// The configuration as it is now.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Reads the configuration again if its revision changed. What can't be used changes nothing.
    pub async fn refresh(&self) -> Result<bool, LoadError> {
        if self.store.config_revision().await? == self.state.load().revision {
            return Ok(false);
        }
        let _changing = self.changing.lock().await;
        self.reload().await?;
        Ok(true)
    }

    async fn reload(&self) -> Result<(), LoadError> {
        let (revision, records) = self.store.config().await?;
        let before = self.state.load_full();
        let state = State::load(&before, revision, &records, &self.preparer)?;
        self.publish(&before, state)?;
        Ok(())
    }

    fn publish(&self, before: &State, state: State) -> Result<(), Dangling> {
        let snapshot = assemble(before, &self.snapshots.load(), &state)?;
        self.state.store(Arc::new(state));
        self.snapshots.publish(snapshot);
        Ok(())
    }

    /// Makes a change. `make` may run several times, each time on the newest state.
    pub(super) async fn change<T>(&self, make: impl Fn(&mut Draft) -> Result<T, Error>) -> Result<T, Error> {
        let (made, deleted) = self.try_change(make).await?;
        self.drop_tables_of(deleted).await;
        Ok(made)
    }

    /// The same, with the plugins that it deleted.
    async fn try_change<T>(&self, make: impl Fn(&mut Draft) -> Result<T, Error>) -> Result<(T, Vec<(Home, PluginId)>), Error> {
        let _changing = self.changing.lock().await;
        for _ in 0..MAX_TRIES {
            let before = self.state.load_full();
            let mut draft = self.draft(&before);
            let made = make(&mut draft)?;
            let (mut state, changes, steered) = draft.into_parts();
            if changes.is_empty() {
                return Ok((made, Vec::new()));
            }
            let records = changes.len();
            let deleted = deleted_plugins(&state, &changes);
            match self.store.configure(before.revision, changes).await {
                Ok(revision) => {
                    tracing::info!(revision = revision.0, records, "configuration changed");
                    state.revision = revision;
                    self.publish(&before, state)?;
                    traffic::log(&steered);
                    return Ok((made, deleted));
                }
                Err(StoreError::Conflict(_)) => self.reload().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Busy)
    }

    /// What a change would do, without doing it.
    pub(super) fn rehearse<T>(&self, make: impl Fn(&mut Draft) -> Result<T, Error>) -> Result<T, Error> {
        let before = self.state.load_full();
        let mut draft = self.draft(&before);
        let made = make(&mut draft)?;
        // What can't be assembled could not be published either.
        assemble(&before, &self.snapshots.load(), draft.state())?;
        Ok(made)
    }

    fn draft(&self, state: &State) -> Draft {
        Draft::new(state.clone(), Arc::clone(&self.preparer), self.clock.now())
    }

    /// Whether requests can be served, or why not.
    pub fn ready(&self) -> Result<Revision, StoreError> {
        self.store.ready()?;
        Ok(self.state.load().revision)
    }

    pub(in crate::control) fn random<const N: usize>(&self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes).map_err(|_| super::seal::SealError::NoRandomness)?;
        Ok(bytes)
    }

    pub(in crate::control) fn random_id(&self) -> Result<u128, Error> {
        Ok(u128::from_be_bytes(self.random()?))
    }

    pub(super) async fn remember(&self, key: &str, value: Bytes) -> Result<Option<Bytes>, Error> {
        Ok(self.store.remember(key, value, crud::IDEMPOTENCY).await?)
    }
}
