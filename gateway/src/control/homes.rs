//! What is asked of all shards of a tenant. The store answers for one shard; here the answers are put together.

use std::collections::VecDeque;

use futures_util::future::{BoxFuture, TryFutureExt};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::snapshot::Shards;
use crate::clock::Timestamp;
use crate::event::{DeliveryId, EventId, Shard, TenantId};
use crate::store::{
    Burial, DeadLetter, EventHistory, EventSummary, Home, MAX_PAGE, Page, PageRequest, Purged, RETRIED_APART, Store, StoreError,
};

/// Shards that are asked at once.
const AT_ONCE: usize = 16;
/// Dead letters that are read at once where no more than their age is wanted.
const READ: usize = 16;

/// Where the data of a tenant is: in one shard, or spread over several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Homes {
    /// The tenant.
    pub tenant: TenantId,
    /// Its shards.
    pub shards: Shards,
}

impl Homes {
    /// In this shard.
    pub fn at(&self, shard: Shard) -> Home {
        Home { tenant: self.tenant, shard }
    }

    /// In each shard.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Home> {
        self.shards.iter().map(|shard| self.at(shard))
    }

    /// A page of its events, newest first, each with where it is.
    pub(super) async fn events(
        &self,
        store: &dyn Store,
        page: PageRequest<EventId>,
    ) -> Result<Page<(Home, EventSummary), EventId>, StoreError> {
        self.merge(page, |home, page| store.events(home, page), |event| event.id).await
    }

    /// A page of its dead letters, newest first.
    pub(super) async fn dead_letters(
        &self,
        store: &dyn Store,
        page: PageRequest<Burial>,
    ) -> Result<Page<DeadLetter, Burial>, StoreError> {
        let Page { items, next } = self.merge(page, |home, page| store.dead_letters(home, page), DeadLetter::place).await?;
        Ok(Page { items: items.into_iter().map(|(_, letter)| letter).collect(), next })
    }

    /// The place of the newest dead letter in each shard.
    pub(super) async fn newest_dead_letters(&self, store: &dyn Store) -> Result<Vec<Option<Burial>>, StoreError> {
        let pages = self.ask(|home| store.dead_letters(home, PageRequest { before: None, limit: 1 })).await?;
        // One that somebody retried as it was read is none any more, and what comes next stands before it.
        Ok(pages.iter().map(|page| page.items.first().map(DeadLetter::place).or(page.next)).collect())
    }

    /// An event, and where it is: its id doesn't tell, since it may be older than some of the shards.
    pub(super) async fn event(&self, store: &dyn Store, id: EventId) -> Result<Option<(Home, EventHistory)>, StoreError> {
        let found = self.ask(|home| store.event(home, id)).await?;
        Ok(self.iter().zip(found).find_map(|(home, history)| Some((home, history?))))
    }

    /// Tries dead letters again. Returns how many of them were there.
    pub(super) async fn retry(&self, store: &dyn Store, ids: &[DeliveryId], now: Timestamp) -> Result<u64, StoreError> {
        Ok(self.ask(|home| store.retry(home, ids, now)).await?.into_iter().sum())
    }

    /// The same, each due after the one before it, the oldest first.
    pub(super) async fn retry_in_order(&self, store: &dyn Store, ids: &[DeliveryId], now: Timestamp) -> Result<u64, StoreError> {
        let retry = |home| -> BoxFuture<'_, _> {
            Box::pin(async move {
                let mut letters = Vec::new();
                for ids in ids.chunks(READ) {
                    letters.extend(store.dead_letters_of(home, ids).await?.iter().map(|letter| (letter.age(), letter.job.id)));
                }
                letters.sort_unstable();
                letters.dedup();
                let dues = (0..).map(|place| now.after(RETRIED_APART * place));
                let each: Vec<_> = letters.into_iter().map(|(_, id)| id).zip(dues).collect();
                store.retry_each(home, &each).await
            })
        };
        Ok(self.ask(retry).await?.into_iter().sum())
    }

    /// What its deletion has removed; done once it is in every shard.
    pub(super) async fn purged(&self, store: &dyn Store) -> Result<Purged, StoreError> {
        let all = self.ask(|home| store.purged(home)).await?.into_iter().map(Option::unwrap_or_default);
        let add = |sum: Purged, one: Purged| Purged {
            events: sum.events + one.events,
            given_up: sum.given_up + one.given_up,
            dead_letters: sum.dead_letters + one.dead_letters,
            done: sum.done && one.done,
        };
        Ok(all.reduce(add).unwrap_or_default())
    }

    /// Asks each shard, and answers in their order.
    async fn ask<'a, T>(&self, ask: impl Fn(Home) -> BoxFuture<'a, Result<T, StoreError>>) -> Result<Vec<T>, StoreError> {
        stream::iter(self.iter()).map(ask).buffered(AT_ONCE).try_collect().await
    }

    /// One page of what all shards list, newest first, each row with where it is. A place is the same in all of them, so that where one
    /// page ends each shard goes on, one that was added meanwhile too.
    async fn merge<'a, T, P: Copy + Ord>(
        &self,
        page: PageRequest<P>,
        read: impl Fn(Home, PageRequest<P>) -> BoxFuture<'a, Result<Page<T, P>, StoreError>>,
        place: impl Fn(&T) -> P,
    ) -> Result<Page<(Home, T), P>, StoreError> {
        let limit = page.limit.clamp(1, MAX_PAGE);
        // Rows are spread evenly: a shard is asked for a little more than its share, and again if it has more still.
        let share = limit.min(2 * self.shards.part(limit));
        let first = Some(PageRequest { limit: share, ..page });
        let mut parts: Vec<_> = self.iter().map(|home| Part { home, rows: VecDeque::new(), next: first }).collect();
        let mut items = Vec::with_capacity(limit);
        let mut last = None;
        while items.len() < limit {
            let open = parts.iter_mut().enumerate().filter(|(_, part)| part.rows.is_empty());
            let asked: Vec<_> = open.filter_map(|(number, part)| Some((number, part.home, part.next.take()?))).collect();
            let answers = stream::iter(asked).map(|(number, home, page)| read(home, page).map_ok(move |page| (number, page)));
            for (number, page) in answers.buffered(AT_ONCE).try_collect::<Vec<_>>().await? {
                parts[number].rows = page.items.into();
                parts[number].next = page.next.map(|before| PageRequest { before: Some(before), limit: share });
            }
            while items.len() < limit {
                // What is not known yet of one shard may stand before what is known of the others.
                let unknown = parts.iter().filter(|part| part.rows.is_empty()).filter_map(|part| part.next?.before).max();
                let fronts = parts.iter_mut().filter_map(|part| Some((place(part.rows.front()?), part)));
                match fronts.max_by_key(|(place, _)| *place) {
                    Some((newest, part)) if unknown.is_none_or(|unknown| unknown <= newest) => {
                        items.extend(part.rows.pop_front().map(|row| (part.home, row)));
                        last = Some(newest);
                    }
                    None if unknown.is_none() => return Ok(Page { items, next: None }),
                    _ => break,
                }
            }
        }
        let more = parts.iter().any(|part| !part.rows.is_empty() || part.next.is_some());
        Ok(Page { items, next: last.filter(|_| more) })
    }
}

/// One shard's part of a listing.
struct Part<T, P> {
    home: Home,
    rows: VecDeque<T>,
    /// What to ask it for next; none if it has no more.
    next: Option<PageRequest<P>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOMES: [u16; 3] = [4, 0, 9];

    fn homes() -> Homes {
        Homes { tenant: TenantId(1), shards: Shards::new(Shard(HOMES[0]), HOMES[1..].iter().copied().map(Shard).collect()) }
    }

    /// A page of a shard that has the numbers up to 100 whose remainder is its place, given out in steps that end where they like.
    fn read(home: Home, page: PageRequest<u32>, step: u32) -> Page<u32, u32> {
        let mine = HOMES.iter().position(|shard| Shard(*shard) == home.shard).expect("a shard of it") as u32;
        let before = page.before.unwrap_or(101);
        let from = before.saturating_sub(step);
        let mut items: Vec<u32> = (from..before).rev().filter(|number| number * number / 7 % 3 == mine).collect();
        let is_cut = items.len() > page.limit;
        items.truncate(page.limit);
        let end = if is_cut { items.last().copied().unwrap_or(from) } else { from };
        Page { items, next: (end > 0).then_some(end) }
    }

    #[tokio::test]
    async fn pages_are_complete_and_in_order_however_short_each_shards_are() {
        for step in [1, 2, 5, 33, 200] {
            for limit in [1, 3, 10, 101, 200] {
                let (mut seen, mut before) = (Vec::new(), None);
                loop {
                    let answer = |home, page| -> BoxFuture<'_, _> { Box::pin(async move { Ok(read(home, page, step)) }) };
                    let page = homes().merge(PageRequest { before, limit }, answer, |number| *number).await.expect("answers");
                    assert!(page.items.len() == limit || page.next.is_none(), "short by itself: {step} {limit}");
                    assert!(
                        page.items.iter().all(|(home, number)| read(*home, PageRequest { before: None, limit: 200 }, 200)
                            .items
                            .contains(number))
                    );
                    seen.extend(page.items.into_iter().map(|(_, number)| number));
                    before = page.next;
                    if before.is_none() {
                        break;
                    }
                }
                assert_eq!(seen, (0..=100).rev().collect::<Vec<_>>(), "{step} {limit}");
            }
        }
    }

    #[tokio::test]
    async fn a_shard_that_does_not_answer_fails_the_page() {
        let answer = |home: Home, page| -> BoxFuture<'_, _> {
            Box::pin(async move {
                if home.shard == Shard(9) { Err(StoreError::Unavailable("away".into())) } else { Ok(read(home, page, 10)) }
            })
        };
        let page = homes().merge(PageRequest { before: None, limit: 5 }, answer, |number| *number).await;
        assert!(matches!(page, Err(StoreError::Unavailable(_))), "never a page with a gap");
    }
}
