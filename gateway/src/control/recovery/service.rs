//! What can be asked about dead letters and jobs over them.

use super::MAX_EXAMINED;
use super::events::{Replay, ReplayJobSpec};
use super::filter::{LetterFilter, LetterFilterSpec};
use super::job::{self, DEFAULT_RATE, Job, JobKind, JobSpec, JobState, MAX_JOBS, MAX_JOBS_KEPT, MAX_RATE, Order, Progress};
use crate::control::homes::Homes;
use crate::control::model::{Faults, Tenants, Who};
use crate::control::service::{Control, Error};
use crate::control::state::{State, TenantState};
use crate::event::JobId;
use crate::store::{Burial, DeadLetter, MAX_PAGE, Page, PageRequest};

/// Dead letters that are read at once for a page with a filter.
const READ: usize = 50;

impl Control {
    /// A tenant's dead letters that a filter means, newest first. A page may be short and still have a next one.
    pub async fn dead_letters(
        &self,
        homes: &Homes,
        spec: &LetterFilterSpec,
        page: PageRequest<Burial>,
    ) -> Result<Page<DeadLetter, Burial>, Error> {
        let state = self.state();
        let tenant = owner(&state, homes)?;
        let mut faults = Faults::default();
        let filter = spec.resolve(tenant, "", &mut faults);
        let filter = faults.or(filter).map_err(Error::Invalid)?;
        let snapshot = self.snapshots().current();
        let ends = |connection| snapshot.connections.get(&connection).map(|wired| (wired.source, wired.destination.id));
        let at_least = if filter == LetterFilter::default() { 1 } else { READ };
        let limit = page.limit.clamp(1, MAX_PAGE);
        let mut before = [page.before, filter.before()].into_iter().flatten().min();
        let (mut items, mut examined) = (Vec::new(), 0);
        loop {
            let read = PageRequest { before, limit: (limit - items.len()).max(at_least) };
            let Page { items: letters, next } = homes.dead_letters(&*self.store, read).await?;
            for letter in letters {
                if filter.is_past(letter.at) {
                    return Ok(Page { items, next: None });
                }
                // A full page ends where its last row stands, which tells whether there is another one.
                if items.len() == limit || examined == MAX_EXAMINED {
                    return Ok(Page { items, next: before });
                }
                examined += 1;
                before = Some(letter.place());
                if filter.matches(&letter, ends) {
                    items.push(letter);
                }
            }
            match next {
                None => return Ok(Page { items, next: None }),
                Some(next) if items.len() == limit || examined >= MAX_EXAMINED => return Ok(Page { items, next: Some(next) }),
                Some(next) => before = Some(next),
            }
        }
    }

    /// Begins a job that tries dead letters again.
    pub async fn begin_retry_job(&self, homes: &Homes, spec: &JobSpec, by: &Who) -> Result<Job, Error> {
        let state = self.state();
        let tenant = owner(&state, homes)?;
        if tenant.entry.parts.deleting.is_some() {
            return Err(Error::BeingDeleted);
        }
        let mut faults = Faults::default();
        let filter = spec.filter.resolve(tenant, "filter.", &mut faults);
        let rate = rate(tenant, spec.rate, &mut faults);
        faults.or(()).map_err(Error::Invalid)?;
        self.begin(homes, (filter, None), (rate, spec.dry_run), by).await
    }

    /// Begins a job that replays events over a connection.
    pub async fn begin_replay_job(&self, homes: &Homes, spec: &ReplayJobSpec, by: &Who) -> Result<Job, Error> {
        let state = self.state();
        let tenant = owner(&state, homes)?;
        if tenant.entry.parts.deleting.is_some() {
            return Err(Error::BeingDeleted);
        }
        let mut faults = Faults::default();
        let replay = spec.resolve(state.revision, tenant, &mut faults);
        let rate = rate(tenant, spec.rate, &mut faults);
        let replay = faults.or(replay).map_err(Error::Invalid)?;
        self.begin(homes, (LetterFilter::default(), replay), (rate, spec.dry_run), by).await
    }

    async fn begin(
        &self,
        homes: &Homes,
        (filter, replay): (LetterFilter, Option<Replay>),
        (rate, dry_run): (u32, bool),
        by: &Who,
    ) -> Result<Job, Error> {
        self.room_for_job(homes).await?;
        let newest = if replay.is_none() { homes.newest_dead_letters(&*self.store).await? } else { Vec::new() };
        let newest = newest.into_iter().map(|newest| newest.map(|Burial { at, id }| (at, id))).collect();
        let now = self.clock.now();
        let id = JobId::new(now, self.random_id()?);
        let order = Order { id, created_at: now, by: by.name().to_owned(), filter, rate, dry_run, newest, replay };
        job::begin(&*self.store, homes.tenant, &order).await?;
        Ok(Job { order, progress: Progress::default(), cancelled: false })
    }

    /// Refuses one more job than may be under way, and forgets the oldest that are over where too many are kept.
    async fn room_for_job(&self, homes: &Homes) -> Result<(), Error> {
        let jobs = job::jobs(&*self.store, homes.tenant).await?;
        let (open, over): (Vec<_>, Vec<_>) = jobs.iter().partition(|job| !job.progress.is_over());
        if open.len() >= MAX_JOBS {
            return Err(Error::State(
                "a tenant may have 4 retry and replay jobs under way at once: wait until one is over, or cancel one",
            ));
        }
        for job in over.iter().skip(MAX_JOBS_KEPT - 1 - open.len()) {
            job::forget(&*self.store, homes.tenant, job.order.id).await?;
        }
        Ok(())
    }

    /// A tenant's jobs of a kind, newest first.
    pub async fn jobs(&self, homes: &Homes, kind: JobKind) -> Result<Vec<Job>, Error> {
        let mut jobs = job::jobs(&*self.store, homes.tenant).await?;
        jobs.retain(|job| job.order.kind() == kind);
        Ok(jobs)
    }

    /// One of them.
    pub async fn job(&self, homes: &Homes, kind: JobKind, reference: &str) -> Result<Job, Error> {
        let name = match kind {
            JobKind::Retry => "retry job",
            JobKind::Replay => "replay job",
        };
        let missing = || Error::NotFound { kind: name, reference: reference.chars().take(80).collect() };
        let id: JobId = reference.parse().map_err(|_| missing())?;
        let job = job::job(&*self.store, homes.tenant, id).await?;
        job.filter(|job| job.order.kind() == kind).ok_or_else(missing)
    }

    /// Has a job end; what it has put back stays so. Nothing changes for one that is over.
    pub async fn cancel_job(&self, homes: &Homes, kind: JobKind, reference: &str) -> Result<Job, Error> {
        let job = self.job(homes, kind, reference).await?;
        if job.progress.state == JobState::Running && !job.cancelled {
            job::cancel(&*self.store, homes.tenant, job.order.id).await?;
        }
        Ok(Job { cancelled: true, ..job })
    }
}

/// What a job may do a second, or what is wrong with what is asked for.
fn rate(tenant: &TenantState, asked: Option<u32>, faults: &mut Faults) -> u32 {
    let most = (tenant.entry.parts.plan.rate as u32).clamp(1, MAX_RATE);
    let rate = asked.unwrap_or(DEFAULT_RATE.min(most));
    if !(1..=most).contains(&rate) {
        faults.add("rate", format!("must be from 1 to {most}, not {rate}: the tenant's `plan.rate` bounds it"));
    }
    rate
}

fn owner<'a>(state: &'a State, homes: &Homes) -> Result<&'a TenantState, Error> {
    let missing = || Error::missing::<Tenants>(&homes.tenant.to_string());
    state.tenant(homes.tenant).map(|tenant| &**tenant).ok_or_else(missing)
}
