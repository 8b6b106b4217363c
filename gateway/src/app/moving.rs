//! Moving an installation: a store into a file, a file into a store. No gateway runs on either.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;

use bytes::Bytes;

use super::{StartError, parts};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::control::seal;
use crate::control::service::{LoadError, check_records};
use crate::event::{Revision, Shard};
use crate::store::StoreError;
use crate::store::transfer::file::{FORMAT, FileError, Header, Next, Reader, Writer};
use crate::store::transfer::{Counts, Item, PAGE_BYTES, PAGE_ITEMS};

/// Why a move failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MoveError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The gateway's configuration.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Secrets that nobody could open any more.
    #[error(
        "secrets in the file are sealed under the encryption key `{0}`, which is not configured here: set it as `keys.encryption`, or \
         add it to `keys.previous_encryption`"
    )]
    UnknownKey(String),
    /// Events would be out of every gateway's reach.
    #[error("the file has {has} shards, and `dispatch.shards` is {here}: set it to at least {has}")]
    TooFewShards {
        /// In the file.
        has: u32,
        /// Here.
        here: u16,
    },
    /// The configuration can't be used by this release, or here.
    #[error("the file's configuration can't be used here: {0}")]
    Load(#[from] LoadError),
}

/// Writes all that the configured store holds. Answers what that was, by kind.
pub(crate) async fn export<W: Write>(config: &Config, to: W) -> Result<(W, Counts), MoveError> {
    let clock = Clock::system();
    let created_at = clock.now();
    let mut store = parts::outgoing(config, &clock).await?;
    // The configuration comes first, and is no larger than gateways hold in memory.
    let mut first = Vec::new();
    while let Some(items) = store.next().await? {
        let is_over = items.iter().any(|item| !matches!(item, Item::Revision(_) | Item::Setting { .. }));
        first.extend(items);
        if is_over {
            break;
        }
    }
    let (mut revision, mut keys) = (Revision::default(), BTreeSet::new());
    for item in &first {
        match item {
            Item::Revision(present) => revision = *present,
            Item::Setting { value, .. } => seal::keys_in(value, &mut keys),
            _ => {}
        }
    }
    let header = Header {
        format: FORMAT,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        created_at,
        store: engine(config).to_owned(),
        shards: config.dispatch.shards,
        revision,
        encryption_keys: keys.into_iter().collect(),
    };
    let mut writer = Writer::new(to, &header)?;
    let mut items = Some(first);
    while let Some(page) = items {
        for item in &page {
            check_shard(item, config.dispatch.shards)?;
            writer.item(item)?;
        }
        items = store.next().await?;
    }
    // Without its trailer the file is none.
    store.finish().await?;
    Ok(writer.finish()?)
}

fn engine(config: &Config) -> &'static str {
    match config.store {
        config::Store::Embedded(_) => "embedded",
        config::Store::Redis(_) => "redis",
    }
}

fn check_shard(item: &Item, here: u16) -> Result<(), MoveError> {
    match item.shard() {
        Some(Shard(shard)) if shard >= here => Err(MoveError::TooFewShards { has: u32::from(shard) + 1, here }),
        _ => Ok(()),
    }
}

/// Reads a file to its end without a store.
pub(crate) fn verify<R: Read>(from: R) -> Result<Counts, FileError> {
    let mut reader = Reader::new(from)?;
    loop {
        if let Next::End(counts) = reader.next()? {
            return Ok(counts);
        }
    }
}

/// What an import did.
pub(crate) struct Imported {
    pub(crate) header: Header,
    pub(crate) counts: Counts,
    /// Dedup keys that the engine has no place for.
    pub(crate) left_out: u64,
}

/// Fills the configured store, which must be empty. Its mark goes only once the file was whole and its configuration can be used.
pub(crate) async fn import<R: Read>(config: &Config, base: &Path, from: R) -> Result<Imported, MoveError> {
    let mut reader = Reader::new(from)?;
    let header = reader.header().clone();
    let preparer = parts::preparer(config, base)?;
    if let Some(unknown) = header.encryption_keys.iter().find(|key| !preparer.sealer.has(key)) {
        return Err(MoveError::UnknownKey(unknown.clone()));
    }
    if header.shards > config.dispatch.shards {
        return Err(MoveError::TooFewShards { has: header.shards.into(), here: config.dispatch.shards });
    }
    let mut store = parts::incoming(config, &Clock::system()).await?;
    let mut records: Vec<(String, Bytes)> = Vec::new();
    let (mut page, mut bytes) = (Vec::new(), 0);
    let counts = loop {
        match reader.next()? {
            Next::Item(item) => {
                check_shard(&item, config.dispatch.shards)?;
                if let Item::Setting { key, value } = &*item {
                    records.push((key.clone(), value.clone()));
                }
                bytes += item.size();
                page.push(*item);
                if page.len() >= PAGE_ITEMS || bytes >= PAGE_BYTES {
                    store.put(std::mem::take(&mut page)).await?;
                    bytes = 0;
                }
            }
            Next::End(counts) => break counts,
        }
    };
    store.put(page).await?;
    check_records(header.revision, &records, &preparer)?;
    let left_out = store.finish().await?;
    Ok(Imported { header, counts, left_out })
}
