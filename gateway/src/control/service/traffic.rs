//! Steering the gateway's work: shares of lanes, retries and shards, and who is diverted.

use std::sync::Arc;

use super::{Control, Error};
use crate::control::draft::Draft;
use crate::control::model::{Change, Faults, Knob, Level, MAX_DIVERTED, Setting, Who, check_percent, check_reason};
use crate::control::snapshot::{Diversion, Diverted};
use crate::control::steering::Steering;
use crate::event::Shard;

impl Control {
    /// What is set, and the last changes of it.
    pub fn steering(&self) -> Arc<Steering> {
        Arc::clone(self.state().steering())
    }

    /// Sets what a lane, retries or a shard may use, in percent. The same again changes nothing.
    pub async fn set_share(&self, knob: Knob, percent: i64, by: &Who, reason: Option<&str>) -> Result<Setting, Error> {
        let mut faults = Faults::default();
        if let Knob::Shard(shard) = knob
            && shard.0 >= self.shards
        {
            let message = format!("must be from 0 to {}: `dispatch.shards` is {}", self.shards - 1, self.shards);
            faults.add("shard", message);
        }
        let percent = check_percent(percent, &mut faults);
        check_reason(reason, &mut faults);
        let percent = faults.or(percent).map_err(Error::Invalid)?.expect("what is in its range is a percentage");
        self.change(|draft| Ok(set(draft, knob, Level::Percent(percent), by, reason))).await
    }

    /// Diverts a tenant or a source: new events of it go to the held lane, and nothing of it is delivered.
    pub async fn divert(&self, reference: &str, by: &Who, reason: Option<&str>) -> Result<(Diverted, Setting), Error> {
        let mut faults = Faults::default();
        check_reason(reason, &mut faults);
        faults.or(()).map_err(Error::Invalid)?;
        self.change(|draft| {
            let who = find(draft, reference)?;
            if draft.state().steering().diversion(who).is_none()
                && draft.state().steering().traffic().diverted.len() >= MAX_DIVERTED
            {
                let message = format!("at most {MAX_DIVERTED} tenants and sources may be diverted at once: give others back first");
                return Err(Error::field("", message));
            }
            Ok((who, set(draft, Knob::Diversion(who), Level::Diversion(Diversion::Held), by, reason)))
        })
        .await
    }

    /// Begins to give back who is diverted: what is held is delivered again, and newcomers stand behind it until nothing is left of
    /// it. None for who is not diverted.
    pub async fn give_back(&self, reference: &str, by: &Who, reason: Option<&str>) -> Result<(Diverted, Option<Setting>), Error> {
        let mut faults = Faults::default();
        check_reason(reason, &mut faults);
        faults.or(()).map_err(Error::Invalid)?;
        self.change(|draft| {
            let who = find(draft, reference)?;
            let diverted = draft.state().steering().diversion(who).is_some();
            let back = || set(draft, Knob::Diversion(who), Level::Diversion(Diversion::Returning), by, reason);
            Ok((who, diverted.then(back)))
        })
        .await
    }

    /// Nothing is held any more in a shard of who is returning: ends the diversion there, and as a whole if it was the last shard. Does
    /// nothing for who is not returning (any more).
    pub async fn returned(&self, who: Diverted, shard: Shard) -> Result<(), Error> {
        self.change(|draft| {
            draft.returned(who, shard);
            Ok(())
        })
        .await
    }
}

/// Who it is, unless it is being deleted.
fn find(draft: &Draft, reference: &str) -> Result<Diverted, Error> {
    let missing = || Error::NotFound { kind: "tenant or source", reference: reference.chars().take(80).collect() };
    let who = draft.state().find_diverted(reference).ok_or_else(missing)?;
    if let Diverted::Tenant(id) = who {
        draft.living(id)?;
    }
    Ok(who)
}

/// Sets it unless it stands so already, for the same reason or for none that is new.
fn set(draft: &mut Draft, knob: Knob, level: Level, by: &Who, reason: Option<&str>) -> Setting {
    let settings = draft.state().steering().settings();
    let same = |setting: &&Setting| setting.level == level && (reason.is_none() || setting.reason.as_deref() == reason);
    if let Some(setting) = settings.get(&knob).filter(same) {
        return setting.clone();
    }
    draft.steer(knob, Some(level), by, reason);
    draft.state().steering().settings()[&knob].clone()
}

/// A line for each change, once it is written.
pub(super) fn log(changes: &[Arc<Change>]) {
    let shown = |level: Option<Level>| level.map_or_else(|| "none".to_owned(), |level| level.to_string());
    for change in changes {
        let key = match &change.by {
            Who::Key { id, .. } => Some(id.to_string()),
            Who::Operator | Who::Gateway => None,
        };
        tracing::info!(
            what = %change.knob, name = change.name, from = shown(change.from), to = shown(change.to),
            by = change.by.name(), key, reason = change.reason, "traffic changed"
        );
    }
}
