use std::time::Duration;

use bytes::Bytes;

use crate::event::{FORMAT, Revision, VersionHash, encode};
use crate::store::embedded::disk::Tree;
use crate::store::embedded::keys::{self, kind};
use crate::store::embedded::rows::Remembered;
use crate::store::{ConfigChange, StoreError};

use super::Committer;

impl Committer {
    pub(super) fn configure(&mut self, expected: Revision, changes: Vec<ConfigChange>) -> Result<Revision, StoreError> {
        if expected != self.revision {
            return Err(StoreError::Conflict(self.revision));
        }
        for (key, value) in changes {
            match value {
                Some(value) => self.put(Tree::Index, keys::config(&key), versioned(&value)),
                None => self.remove(Tree::Index, keys::config(&key)),
            }
        }
        self.revision.0 += 1;
        self.put(Tree::Index, keys::single(kind::REVISION), encode(&self.revision));
        Ok(self.revision)
    }

    pub(super) fn put_component(&mut self, version: VersionHash, component: &[u8]) {
        self.put(Tree::Components, version.0.to_vec(), versioned(component));
    }

    pub(super) fn remember(&mut self, key: &str, value: Bytes, ttl: Duration) -> Option<Bytes> {
        let now = self.shared.clock.now();
        let key = keys::remembered(key);
        if let Some(known) = self.read::<Remembered>(&key).filter(|known| now < known.until) {
            return Some(known.value);
        }
        let until = now.after(ttl);
        self.put(Tree::Index, keys::expiry(until, &key), encode(&()));
        self.put(Tree::Index, key, encode(&Remembered { until, value }));
        None
    }

    /// Keeps a value in place of the one before.
    pub(super) fn say(&mut self, key: Vec<u8>, value: Bytes, ttl: Duration) {
        if let Some(before) = self.read::<Remembered>(&key) {
            self.remove(Tree::Index, keys::expiry(before.until, &key));
        }
        let until = self.shared.clock.now().after(ttl);
        self.put(Tree::Index, keys::expiry(until, &key), encode(&()));
        self.put(Tree::Index, key, encode(&Remembered { until, value }));
    }
}

/// Bytes with the format version before them.
fn versioned(bytes: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(bytes.len() + 1);
    record.push(FORMAT);
    record.extend_from_slice(bytes);
    record
}
