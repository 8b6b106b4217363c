//! Bookmarks as anybody may read them. The committer writes them.

use bytes::Bytes;

use super::disk::{Disk, Tree};
use super::keys;
use crate::event::decode;
use crate::store::{Bookmark, BookmarkHead, BookmarkName, Home, StoreError};

pub(super) fn list(disk: &Disk, home: Home) -> Result<Vec<(BookmarkName, BookmarkHead)>, StoreError> {
    let prefix = keys::bookmarks_of(home);
    let row = |row| {
        let (key, head): super::disk::Pair = row?;
        Ok((name(&key[prefix.len()..])?, decode(&head)?))
    };
    disk.range(Tree::Tables, prefix.clone(), keys::after(&prefix)).map(row).collect()
}

pub(super) fn find(disk: &Disk, home: Home, name: &BookmarkName) -> Result<Option<Bookmark>, StoreError> {
    let Some(head) = disk.get(Tree::Tables, &keys::bookmark(home, name.as_str()))? else { return Ok(None) };
    let Some(event) = disk.get(Tree::Tables, &keys::bookmarked(home, name.as_str()))? else { return Ok(None) };
    Ok(Some(Bookmark::read(&head, Bytes::copy_from_slice(&event))?))
}

/// A name as it stands at the end of a key.
pub(super) fn name(text: &[u8]) -> Result<BookmarkName, StoreError> {
    let name = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    name.ok_or_else(|| StoreError::Damaged("a bookmark's name".into()))
}
