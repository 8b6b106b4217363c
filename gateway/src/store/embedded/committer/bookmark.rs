use crate::event::encode;
use crate::store::bookmark::StoredBookmark;
use crate::store::embedded::disk::Tree;
use crate::store::embedded::rows::BookmarkUse;
use crate::store::embedded::{bookmark, keys};
use crate::store::{BookmarkHead, BookmarkLimits, BookmarkName, Bookmarked, Home, StoreError};

use super::Committer;

/// Bookmarks that one step of a purge takes away.
const STEP: usize = 64;

impl Committer {
    pub(super) fn keep_bookmark(
        &mut self,
        home: Home,
        name: &BookmarkName,
        stored: StoredBookmark,
        limits: BookmarkLimits,
    ) -> Result<Bookmarked, StoreError> {
        let (at, counted_at) = (keys::bookmark(home, name.as_str()), keys::bookmark_use(home));
        if let Some(known) = self.unit.unit.raw(&self.shared.disk, Tree::Tables, &at)? {
            return Ok(if known[..] == stored.head[..] { Bookmarked::Kept } else { Bookmarked::Taken });
        }
        let used: BookmarkUse = self.unit.unit.read(&self.shared.disk, Tree::Tables, &counted_at)?.unwrap_or_default();
        let now = BookmarkUse { count: used.count + 1, bytes: used.bytes + stored.bytes() };
        if now.count > limits.count {
            return Ok(Bookmarked::TooMany);
        }
        if now.bytes > limits.bytes {
            return Ok(Bookmarked::TooLarge);
        }
        self.put(Tree::Tables, at, stored.head);
        self.put(Tree::Tables, keys::bookmarked(home, name.as_str()), stored.event);
        self.put(Tree::Tables, counted_at, encode(&now));
        Ok(Bookmarked::Kept)
    }

    pub(super) fn drop_bookmark(&mut self, home: Home, name: &BookmarkName) -> Result<bool, StoreError> {
        let (at, counted_at) = (keys::bookmark(home, name.as_str()), keys::bookmark_use(home));
        let Some(head) = self.unit.unit.read::<BookmarkHead>(&self.shared.disk, Tree::Tables, &at)? else { return Ok(false) };
        let used: BookmarkUse = self.unit.unit.read(&self.shared.disk, Tree::Tables, &counted_at)?.unwrap_or_default();
        let left = BookmarkUse { count: used.count.saturating_sub(1), bytes: used.bytes.saturating_sub(head.bytes) };
        self.remove(Tree::Tables, at);
        self.remove(Tree::Tables, keys::bookmarked(home, name.as_str()));
        if left.count == 0 {
            self.remove(Tree::Tables, counted_at);
        } else {
            self.put(Tree::Tables, counted_at, encode(&left));
        }
        Ok(true)
    }

    /// A bounded step of taking all bookmarks of a tenant away. Answers how many it took away.
    pub(super) fn drop_bookmarks(&mut self, home: Home) -> Result<usize, StoreError> {
        let prefix = keys::bookmarks_of(home);
        let rows: Vec<_> = self.shared.disk.keys(Tree::Tables, prefix.clone(), keys::after(&prefix)).take(STEP).collect();
        let mut gone = 0;
        for row in rows {
            gone += usize::from(self.drop_bookmark(home, &bookmark::name(&row?[prefix.len()..])?)?);
        }
        Ok(gone)
    }
}
