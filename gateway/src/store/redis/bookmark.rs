//! Bookmarks: what they say in one hash of their tenant's, their copies in another.
//!
//! Keeping one is sent again after a lost answer: what is there word for word is kept. Of a deletion that is sent again the second may find nothing;
//! it then says so.

use redis::{Pipeline, Value, cmd};

use super::error::{Fault, odd};
use super::{Inner, scripts};
use crate::event::decode;
use crate::store::bookmark::StoredBookmark;
use crate::store::{Bookmark, BookmarkHead, BookmarkLimits, BookmarkName, Bookmarked, Home, StoreError};

pub(super) async fn keep(
    inner: &Inner,
    home: Home,
    name: &BookmarkName,
    bookmark: &Bookmark,
    limits: BookmarkLimits,
) -> Result<Bookmarked, StoreError> {
    let stored = StoredBookmark::of(bookmark);
    let mut call = scripts::BOOKMARK_KEEP.call(&keys(inner, home)?.each_ref().map(String::as_str));
    call.arg(name.as_str()).arg(stored.head).arg(stored.event).arg(limits.count).arg(limits.bytes);
    let answer = inner.query.repeat(&call).await.map_err(Fault::into_store)?;
    match redis::from_redis_value::<String>(answer).as_deref() {
        Ok("kept") => Ok(Bookmarked::Kept),
        Ok("taken") => Ok(Bookmarked::Taken),
        Ok("too_many") => Ok(Bookmarked::TooMany),
        Ok("too_large") => Ok(Bookmarked::TooLarge),
        _ => Err(odd("a bookmark")),
    }
}

pub(super) async fn list(inner: &Inner, home: Home) -> Result<Vec<(BookmarkName, BookmarkHead)>, StoreError> {
    let ask = cmd("HGETALL").arg(inner.keys(home.shard)?.bookmarks(home.tenant)).to_owned();
    let answer = inner.query.repeat(&ask).await.map_err(Fault::into_store)?;
    let rows: Vec<(String, Vec<u8>)> = redis::from_redis_value(answer).map_err(|_| odd("a tenant's bookmarks"))?;
    let row = |(name, head): (String, Vec<u8>)| {
        let name: BookmarkName = name.parse().map_err(|_| odd("a bookmark's name"))?;
        Ok((name, decode(&head)?))
    };
    let mut bookmarks: Vec<_> = rows.into_iter().map(row).collect::<Result<_, StoreError>>()?;
    bookmarks.sort_by(|(a, _): &(BookmarkName, BookmarkHead), (b, _)| a.cmp(b));
    Ok(bookmarks)
}

pub(super) async fn find(inner: &Inner, home: Home, name: &BookmarkName) -> Result<Option<Bookmark>, StoreError> {
    let [heads, copies, _] = keys(inner, home)?;
    let mut ask = Pipeline::new();
    for key in [heads, copies] {
        ask.cmd("HGET").arg(key).arg(name.as_str());
    }
    let answers = inner.query.repeat_all(&ask).await.map_err(Fault::into_store)?;
    let found: [Option<Vec<u8>>; 2] = redis::from_redis_value(Value::Array(answers)).map_err(|_| odd("a bookmark"))?;
    match found {
        [Some(head), Some(event)] => Ok(Some(Bookmark::read(&head, event.into())?)),
        _ => Ok(None),
    }
}

pub(super) async fn drop_one(inner: &Inner, home: Home, name: &BookmarkName) -> Result<bool, StoreError> {
    let mut call = scripts::BOOKMARK_DROP.call(&keys(inner, home)?.each_ref().map(String::as_str));
    call.arg(name.as_str());
    let answer = inner.query.repeat(&call).await.map_err(Fault::into_store)?;
    redis::from_redis_value(answer).map_err(|_| odd("a bookmark"))
}

/// Takes all bookmarks of a tenant away. Answers whether there were any.
pub(super) async fn drop_all(inner: &Inner, home: Home) -> Result<bool, StoreError> {
    let unlink = cmd("UNLINK").arg(&keys(inner, home)?[..]).to_owned();
    let answer = inner.query.repeat(&unlink).await.map_err(Fault::into_store)?;
    let gone: u64 = redis::from_redis_value(answer).map_err(|_| odd("dropped bookmarks"))?;
    Ok(gone > 0)
}

/// Heads, copies, bytes.
fn keys(inner: &Inner, home: Home) -> Result<[String; 3], StoreError> {
    let keys = inner.keys(home.shard)?;
    Ok([keys.bookmarks(home.tenant), keys.bookmarked(home.tenant), keys.bookmark_bytes(home.tenant)])
}
