//! Bookmarks: events under names, kept beyond history, and sent again as tests.

use serde::Deserialize;
use utoipa::ToSchema;

use super::homes::Homes;
use super::model::{Tenants, Who};
use super::service::{Control, Error, Idempotency};
use super::state::{State, TenantState};
use crate::event::{ConnectionId, Event, EventId, Lane};
use crate::ingest::verify::VerifiedEvent;
use crate::store::{Acceptance, Bookmark, BookmarkHead, BookmarkName, Bookmarked, Home};

/// The longest note, in bytes.
const MAX_NOTE: usize = 1024;

/// A bookmark to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BookmarkSpec {
    /// 1 to 64 letters, digits, `.`, `_` or `-`; unique within the tenant.
    #[schema(example = "push-with-emoji")]
    pub name: String,
    /// The event's id. History must still keep its request.
    pub event: String,
    /// What it is for; at most 1 KiB.
    #[serde(default)]
    pub note: String,
}

/// How a bookmark is sent.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SendSpec {
    /// Over this connection alone, by id or name, whichever source it belongs to; over all of the event's own source when left out.
    pub connection: Option<String>,
}

impl Control {
    /// Keeps an event's request under a name.
    pub async fn create_bookmark(
        &self,
        homes: &Homes,
        spec: &BookmarkSpec,
        by: &Who,
        again: Option<&Idempotency>,
    ) -> Result<(BookmarkName, Bookmark), Error> {
        let name: BookmarkName = spec.name.parse().map_err(|error| Error::field("name", format!("{error}")))?;
        if spec.note.len() > MAX_NOTE {
            return Err(Error::field("note", format!("must be at most {MAX_NOTE} bytes, not {}", spec.note.len())));
        }
        let limits = living(&self.state(), homes)?.entry.tenant().plan.bookmark_limits();
        let made_at = self.moment(again).await?;
        let (_, history) = self.event(homes, &spec.event).await?;
        let mut event = history.event.ok_or(Error::State("history does not keep the event's request any more"))?;
        self.unsign(homes, &mut event)?;
        let bookmark = Bookmark::new(event, made_at, by.name().to_owned(), spec.note.clone());
        match self.store.keep_bookmark(home(homes), &name, &bookmark, limits).await? {
            Bookmarked::Kept => Ok((name, bookmark)),
            Bookmarked::Taken => Err(Error::Taken { kind: "bookmark", name: name.to_string() }),
            Bookmarked::TooMany => Err(Error::OverPlan {
                code: "too_many_bookmarks",
                detail: format!("the tenant has {} bookmarks: delete some, or have plan.bookmarks raised", limits.count),
            }),
            Bookmarked::TooLarge => Err(Error::OverPlan {
                code: "bookmarks_full",
                detail: format!(
                    "with its {} bytes the tenant's bookmarks would take more than {}: delete some, or have plan.bookmark_bytes raised",
                    bookmark.head.bytes, limits.bytes
                ),
            }),
        }
    }

    /// Takes out what its sender signed it with: it may be sent over another source's connections.
    fn unsign(&self, homes: &Homes, event: &mut Event) -> Result<(), Error> {
        let snapshot = self.snapshots().load();
        let source = snapshot.sources.get(&event.source).filter(|source| source.tenant.id == homes.tenant);
        let source =
            source.ok_or(Error::State("the event's source is not there any more, so its signature's headers are not known"))?;
        source.unsign(&mut event.request);
        Ok(())
    }

    /// A tenant's bookmarks, in order of their names.
    pub async fn bookmarks(&self, homes: &Homes) -> Result<Vec<(BookmarkName, BookmarkHead)>, Error> {
        Ok(self.store.bookmarks(home(homes)).await?)
    }

    /// A bookmark with its request.
    pub async fn bookmark(&self, homes: &Homes, name: &str) -> Result<(BookmarkName, Bookmark), Error> {
        let parsed: BookmarkName = name.parse().map_err(|_| missing(name))?;
        let found = self.store.bookmark(home(homes), &parsed).await?;
        found.map(|bookmark| (parsed, bookmark)).ok_or_else(|| missing(name))
    }

    /// Takes a bookmark away.
    pub async fn delete_bookmark(&self, homes: &Homes, name: &str) -> Result<(), Error> {
        let parsed: BookmarkName = name.parse().map_err(|_| missing(name))?;
        let was_there = self.store.drop_bookmark(home(homes), &parsed).await?;
        was_there.then_some(()).ok_or_else(|| missing(name))
    }

    /// Sends a bookmark's request as a new event, as if it had just come in, but for what makes an event a duplicate.
    pub async fn send_bookmark(&self, homes: &Homes, name: &str, spec: &SendSpec) -> Result<EventId, Error> {
        let (_, Bookmark { head, event: first }) = self.bookmark(homes, name).await?;
        self.check_queued(homes).await?;
        let over = spec.connection.as_deref().map(|reference| self.connection_for_test(homes, reference)).transpose()?;
        let snapshot = self.snapshots().current();
        let source = match over {
            None => Some(head.source),
            Some(over) => snapshot.connections.get(&over).map(|connection| connection.source),
        };
        let source = source.and_then(|source| snapshot.sources.get(&source)).filter(|source| source.tenant.id == homes.tenant);
        let source = source.ok_or(Error::State("the event's source is not there any more: name a connection to send it over"))?;
        if !source.enabled {
            return Err(Error::State("the source is disabled: enable it, or name a connection of another one"));
        }
        let now = self.clock.now();
        let id = EventId::new(now, self.random_id()?);
        let event = Event {
            id,
            tenant: homes.tenant,
            source: source.id,
            revision: snapshot.revision,
            accepted_at: now,
            request: first.request,
            pins: source.pins_for(id),
            trace: None,
        };
        let shards = &source.tenant.shards;
        let shard = if source.is_ordered { shards.home() } else { shards.place(id, None) };
        let is_diverted = snapshot.traffic.diversion(homes.tenant, source.id, shard).is_some();
        let lane = if is_diverted { Lane::Held } else { Lane::Normal };
        let event = VerifiedEvent::again(event.sent_again(over));
        self.store.accept(vec![Acceptance { event, shard, lane, dedup: None }]).await?;
        Ok(id)
    }

    fn connection_for_test(&self, homes: &Homes, reference: &str) -> Result<ConnectionId, Error> {
        let state = self.state();
        let tenant = living(&state, homes)?;
        let unknown = || Error::field("connection", "is neither the id nor the name of a connection");
        let connection = tenant.connections.find(reference).ok_or_else(unknown)?;
        match self.snapshots().load().connections.get(&connection.id) {
            Some(connection) if connection.enabled => Ok(connection.id),
            Some(_) => Err(Error::field("connection", "is disabled: enable it, or name another one")),
            None => Err(unknown()),
        }
    }

    /// Refuses where ingest would: a tenant that has as much queued as its plan allows.
    async fn check_queued(&self, homes: &Homes) -> Result<(), Error> {
        let limit = living(&self.state(), homes)?.entry.tenant().plan.queued_bytes;
        let mut queued = 0;
        for home in homes.iter() {
            queued += self.store.queued_bytes(home).await?;
        }
        if queued < limit {
            return Ok(());
        }
        let detail =
            format!("the tenant has {queued} bytes queued: wait until some are delivered, or have plan.queued_bytes raised");
        Err(Error::OverPlan { code: "queue_full", detail })
    }
}

fn home(homes: &Homes) -> Home {
    homes.at(homes.shards.home())
}

fn missing(name: &str) -> Error {
    Error::NotFound { kind: "bookmark", reference: name.chars().take(80).collect() }
}

/// The tenant, unless it is being deleted.
fn living<'a>(state: &'a State, homes: &Homes) -> Result<&'a TenantState, Error> {
    let tenant = state.tenant(homes.tenant).ok_or_else(|| Error::missing::<Tenants>(&homes.tenant.to_string()))?;
    if tenant.entry.parts.deleting.is_some() { Err(Error::BeingDeleted) } else { Ok(tenant) }
}
