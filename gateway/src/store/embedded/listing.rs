//! What anybody may ask: events, dead letters, configuration, components.

use bytes::Bytes;

use super::disk::{Disk, Tree};
use super::keys::{self, LogKey, Parts, kind};
use super::rows::{Place, Remembered, Story, Waiting};
use crate::clock::Timestamp;
use crate::event::{DeliveryId, EventId, FORMAT, Revision, TenantId, VersionHash, decode, decode_event, decode_with};
use crate::store::{Burial, DeadLetter, EventHistory, EventSummary, Home, MAX_PAGE, Page, PageRequest, StoreError, Work};

/// A tenant's history is in order of its events, whatever their shards: so many of other shards are passed over for one page.
const MAX_ELSEWHERE: usize = 1024;

/// All that history holds of an event.
pub(super) fn story(disk: &Disk, tenant: TenantId, event: EventId) -> Result<Story, StoreError> {
    let mut story = Story::default();
    let prefix = &keys::history(tenant, event, 0)[..32];
    for row in disk.range(Tree::History, prefix.to_vec(), keys::after(prefix)) {
        let (key, value) = row?;
        story.add(Parts(&key[32..]).u64()?, &value)?;
    }
    Ok(story)
}

pub(super) fn event(disk: &Disk, home: Home, id: EventId) -> Result<Option<EventHistory>, StoreError> {
    let story = story(disk, home.tenant, id)?;
    let Some(listed) = story.listed.filter(|listed| listed.shard == home.shard) else { return Ok(None) };
    let at = LogKey { shard: listed.shard, lane: listed.lane, seq: listed.seq, tenant: home.tenant, event: id };
    let record = disk.get(Tree::Log, &at.encode())?;
    let event = record.map(|record| decode_event(&Bytes::from_owner(record))).transpose()?;
    Ok(story.summary(id).map(|summary| EventHistory { summary, event }))
}

pub(super) fn events(disk: &Disk, home: Home, page: PageRequest<EventId>) -> Result<Page<EventSummary, EventId>, StoreError> {
    let limit = page.limit.clamp(1, MAX_PAGE);
    let tenant = home.tenant;
    let from = keys::history(tenant, EventId(0), 0);
    let to = match page.before {
        Some(before) => keys::history(tenant, before, 0),
        None => keys::after(&from[..16]),
    };
    let mut items = Vec::new();
    let mut rows: Vec<(u64, fjall::Slice)> = Vec::new();
    let mut last = None;
    let mut elsewhere = 0;
    for row in disk.range(Tree::History, from, to).rev() {
        let (key, value) = row?;
        let mut parts = Parts(&key[16..]);
        let (event, n) = (EventId(parts.u128()?), parts.u64()?);
        if items.len() == limit || elsewhere == MAX_ELSEWHERE {
            return Ok(Page { items, next: last });
        }
        rows.push((n, value));
        if n > 0 {
            continue;
        }
        // Backwards, the listing row is an event's last.
        let mut story = Story::default();
        for (n, value) in rows.drain(..).rev() {
            story.add(n, &value)?;
        }
        last = Some(event);
        if story.listed.is_some_and(|listed| listed.shard == home.shard) {
            items.extend(story.summary(event));
        } else {
            elsewhere += 1;
        }
    }
    Ok(Page { items, next: None })
}

pub(super) fn dead_letters(disk: &Disk, home: Home, page: PageRequest<Burial>) -> Result<Page<DeadLetter, Burial>, StoreError> {
    let from = keys::dead_of(home.shard, home.tenant);
    let to = match page.before {
        Some(Burial { at, id }) => keys::dead(home.shard, home.tenant, at, id),
        None => keys::after(&from),
    };
    letters(disk, home, disk.keys(Tree::Index, from, to).rev(), page.limit)
}

pub(super) fn oldest_dead_letters(
    disk: &Disk,
    home: Home,
    after: Option<Burial>,
    limit: usize,
) -> Result<Page<DeadLetter, Burial>, StoreError> {
    let all = keys::dead_of(home.shard, home.tenant);
    let to = keys::after(&all);
    let from = match after {
        Some(Burial { at, id }) => keys::after(&keys::dead(home.shard, home.tenant, at, id)),
        None => all,
    };
    letters(disk, home, disk.keys(Tree::Index, from, to), limit)
}

/// A page of the dead letters with these keys.
fn letters(
    disk: &Disk,
    home: Home,
    keys: impl Iterator<Item = Result<fjall::Slice, StoreError>>,
    limit: usize,
) -> Result<Page<DeadLetter, Burial>, StoreError> {
    let limit = limit.clamp(1, MAX_PAGE);
    let prefix = keys::dead_of(home.shard, home.tenant).len();
    let mut items = Vec::new();
    let mut last = None;
    for key in keys {
        let key = key?;
        if items.len() == limit {
            return Ok(Page { items, next: last });
        }
        let mut parts = Parts(&key[prefix..]);
        let (at, id) = (Timestamp(parts.u64()?), DeliveryId(parts.u128()?));
        last = Some(Burial { at, id });
        // One that was retried or trimmed meanwhile is none any more, or was given up again and stands elsewhere now.
        let letter = dead_letter(disk, home, id)?;
        items.extend(letter.filter(|letter| letter.place() == Burial { at, id }));
    }
    Ok(Page { items, next: None })
}

pub(super) fn dead_letters_of(disk: &Disk, home: Home, ids: &[DeliveryId]) -> Result<Vec<DeadLetter>, StoreError> {
    ids.iter().filter_map(|id| dead_letter(disk, home, *id).transpose()).collect()
}

fn dead_letter(disk: &Disk, home: Home, id: DeliveryId) -> Result<Option<DeadLetter>, StoreError> {
    let waiting = disk.read::<Waiting>(Tree::Index, &keys::waiting(home.shard, id))?;
    let Some(waiting) = waiting.filter(|waiting| waiting.tenant == home.tenant) else { return Ok(None) };
    let Place::Dead { at, reason } = &waiting.place else { return Ok(None) };
    let (at, reason) = (*at, reason.clone());
    let Some(record) = disk.get(Tree::Jobs, &keys::job(home.shard, id))? else { return Ok(None) };
    let (work, last) = decode_with::<Work, _>(&record)?;
    Ok(Some(DeadLetter { job: waiting.job(id, work, 0), at, reason, last }))
}

pub(super) fn config(disk: &Disk) -> Result<(Revision, Vec<(String, Bytes)>), StoreError> {
    let prefix = keys::single(kind::CONFIG);
    let to = keys::after(&prefix);
    let (revision, rows) = disk.index_at_once(&keys::single(kind::REVISION), prefix, to)?;
    let revision = revision.map(|value| decode(&value)).transpose()?.unwrap_or_default();
    let record = |(key, value): (fjall::Slice, fjall::Slice)| {
        let key = String::from_utf8(key[1..].to_vec()).map_err(|_| StoreError::Damaged("a configuration key".into()))?;
        Ok((key, unversioned(value)?))
    };
    Ok((revision, rows.into_iter().map(record).collect::<Result<_, StoreError>>()?))
}

/// What nodes say under a topic and has not ended.
pub(super) fn said(disk: &Disk, topic: &str, now: Timestamp) -> Result<Vec<Bytes>, StoreError> {
    let prefix = keys::said(topic);
    let to = keys::after(&prefix);
    let mut said = Vec::new();
    for row in disk.range(Tree::Index, prefix, to) {
        let known: Remembered = decode(&row?.1)?;
        if now < known.until {
            said.push(known.value);
        }
    }
    Ok(said)
}

pub(super) fn component(disk: &Disk, version: VersionHash) -> Result<Option<Bytes>, StoreError> {
    disk.get(Tree::Components, &version.0)?.map(unversioned).transpose()
}

/// Bytes without the format version before them.
fn unversioned(record: fjall::Slice) -> Result<Bytes, StoreError> {
    match record.first() {
        Some(&FORMAT) => Ok(Bytes::from_owner(record).slice(1..)),
        Some(&newer) => Err(crate::event::DecodeError::Newer(newer).into()),
        None => Err(crate::event::DecodeError::Empty.into()),
    }
}
