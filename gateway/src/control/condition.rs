//! What the gateway notes of a destination by itself: that it disabled it, or that it fails; and how its circuits stand.
//!
//! What it disabled is configuration, kept in the destination's record beside its spec: a change like any other, that every node hears of
//! and a restart does not forget. `enabled` in the spec stays as its owner set it, so that declaring the same again enables nothing; whoever
//! wants it back says so ([`Control::enable`]). Circuits are in the memory of their shards' owners, who say of each
//! change what it is; that stays for [`KEPT`] after the next probe.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::model::{DestinationSpec, Destinations};
use super::service::{Control, Error};
use super::state::Entry;
use crate::clock::Timestamp;
use crate::dispatch::circuit::Phase;
use crate::event::{DestinationId, Failure, TenantId};

/// How much longer than until the next probe stays what an owner said of a circuit.
pub const KEPT: Duration = Duration::from_secs(10 * 60);
/// The format of what owners say.
const FORMAT: u8 = 1;

/// What the gateway noted of a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Set while it is disabled by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
    /// Since when it fails, once that is long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// What it answered when it was asked whether it agrees to be sent to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered: Option<Answered>,
    /// When somebody last enabled it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled_at: Option<Timestamp>,
}

/// Why the gateway disabled a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    /// When.
    pub at: Timestamp,
    /// `gone` or `failing`.
    pub code: String,
    /// In words.
    pub detail: String,
}

/// What a destination answered to the handshake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// When it was first answered so.
    pub at: Timestamp,
    /// What was asked: [`Handshake::asked`](super::snapshot::Handshake::asked).
    pub asked: String,
    /// What it agreed to, or why not.
    pub answer: Result<Agreement, String>,
}

/// What a destination agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// Requests a minute; none for no limit.
    pub rate: Option<u32>,
}

/// What dispatch noticed of a destination. It says so again and again for as long as it is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// It answered 410.
    Gone {
        /// In words.
        detail: String,
    },
    /// It has failed for long: it will be disabled.
    Failing {
        /// Since when.
        since: Timestamp,
    },
    /// It has failed for too long.
    FailedTooLong {
        /// In words.
        detail: String,
    },
    /// It works again.
    Recovered,
    /// It agrees to be sent to.
    Agreed {
        /// What was asked.
        asked: String,
        /// Requests a minute.
        rate: Option<u32>,
    },
    /// It does not.
    NotAgreed {
        /// What was asked.
        asked: String,
        /// In words.
        detail: String,
    },
}

/// How a destination's circuit stands in one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CircuitNote {
    /// What it is at.
    pub phase: Phase,
    /// Since when it is not closed, or when it closed.
    pub since: Timestamp,
    /// When an open one lets a probe in.
    pub until: Option<Timestamp>,
    /// The last failure.
    pub reason: Failure,
}

#[derive(Serialize, Deserialize)]
struct Said {
    v: u8,
    #[serde(flatten)]
    note: CircuitNote,
}

impl Condition {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// With what was noticed then. What was noticed before it was enabled says nothing any more.
    fn with(&self, noticed: &Noticed, at: Timestamp) -> Self {
        if self.enabled_at.is_some_and(|enabled_at| at <= enabled_at) {
            return self.clone();
        }
        let disabled = |code: &str, detail: &String| {
            let new = || Disabled { at, code: code.to_owned(), detail: detail.clone() };
            Some(self.disabled.clone().unwrap_or_else(new))
        };
        match noticed {
            Noticed::Gone { detail } => Self { disabled: disabled("gone", detail), ..self.clone() },
            Noticed::FailedTooLong { detail } => Self { disabled: disabled("failing", detail), ..self.clone() },
            Noticed::Failing { since } => Self { failing_since: self.failing_since.or(Some(*since)), ..self.clone() },
            Noticed::Recovered => Self { failing_since: None, ..self.clone() },
            Noticed::Agreed { asked, rate } => self.answered(asked, Ok(Agreement { rate: *rate }), at),
            Noticed::NotAgreed { asked, detail } => self.answered(asked, Err(detail.clone()), at),
        }
    }

    /// The first of several answers that say the same stays. What was asked meanwhile of something else is for its own answer to say.
    fn answered(&self, asked: &str, answer: Result<Agreement, String>, at: Timestamp) -> Self {
        match &self.answered {
            Some(before) if before.asked == asked && (before.answer == answer || before.answer.is_ok()) => self.clone(),
            _ => Self { answered: Some(Answered { at, asked: asked.to_owned(), answer }), ..self.clone() },
        }
    }

    /// What was agreed to, if this was asked.
    pub fn agreement(&self, asked: &str) -> Option<Agreement> {
        self.answered.as_ref().filter(|answered| answered.asked == asked).and_then(|answered| answered.answer.clone().ok())
    }

    /// Of one that is enabled.
    pub(super) fn afresh(&self, now: Timestamp) -> Self {
        if self.disabled.is_none() && self.failing_since.is_none() {
            return self.clone();
        }
        Self { enabled_at: Some(now), answered: self.answered.clone(), ..Self::default() }
    }
}

impl CircuitNote {
    /// Where a destination's circuits are said.
    pub fn topic(destination: DestinationId) -> String {
        format!("circuit/{destination}")
    }

    /// As it is said.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(&Said { v: FORMAT, note: self.clone() }).expect("plain data")
    }

    fn decode(said: &[u8]) -> Option<Self> {
        let said: Said = serde_json::from_slice(said).ok()?;
        (said.v <= FORMAT).then_some(said.note)
    }
}

impl Control {
    /// Keeps what was noticed of a destination, then. Does nothing for one that is not there any more, or of which it is known.
    pub async fn notice(&self, owner: TenantId, destination: DestinationId, noticed: &Noticed, at: Timestamp) -> Result<(), Error> {
        let (name, before, after) = self
            .change(|draft| {
                let found = draft.state().tenant(owner).and_then(|tenant| tenant.destinations.get(destination)).cloned();
                let Some(entry) = found else { return Ok((String::new(), Condition::default(), Condition::default())) };
                let condition = entry.condition.with(noticed, at);
                if condition != entry.condition {
                    let spec = entry.open(draft.with())?;
                    draft.put_with::<Destinations>(owner, destination, spec, condition.clone())?;
                }
                Ok((entry.name.clone(), entry.condition.clone(), condition))
            })
            .await?;
        if let Some(Answered { answer, .. }) =
            after.answered.as_ref().filter(|answered| before.answered.as_ref() != Some(*answered))
        {
            match answer {
                Ok(Agreement { rate }) => {
                    tracing::info!(tenant = %owner, %destination, name, rate, "destination agreed to be sent to")
                }
                Err(detail) => {
                    tracing::warn!(tenant = %owner, %destination, name, detail, "destination did not agree to be sent to")
                }
            }
        }
        match (&before.disabled, &after.disabled, before.failing_since, after.failing_since) {
            (None, Some(Disabled { code, detail, .. }), ..) => {
                tracing::warn!(tenant = %owner, %destination, name, code, detail, "destination disabled");
            }
            (_, _, None, Some(since)) => {
                tracing::warn!(tenant = %owner, %destination, name, %since, "destination has failed for long, and will be disabled");
            }
            _ => {}
        }
        Ok(())
    }

    /// Enables a destination, whoever disabled it, and closes its circuits.
    pub async fn enable(&self, owner: TenantId, reference: &str) -> Result<Arc<Entry<Destinations>>, Error> {
        let condition = Condition { enabled_at: Some(self.clock.now()), ..Condition::default() };
        self.change(|draft| {
            let found = draft.living(owner)?.destinations.find(reference).cloned();
            let entry = found.ok_or_else(|| Error::missing::<Destinations>(reference))?;
            let spec = DestinationSpec { enabled: true, ..entry.open(draft.with())? };
            draft.put_with::<Destinations>(owner, entry.id, spec, condition.clone())
        })
        .await
    }

    /// How a destination's circuit stands: the worst of its tenant's shards. None if nobody says that it is not closed.
    pub async fn circuit(&self, destination: DestinationId) -> Result<Option<CircuitNote>, Error> {
        let said = self.store.said(&CircuitNote::topic(destination)).await?;
        let notes = said.iter().filter_map(|said| CircuitNote::decode(said));
        Ok(notes.max_by_key(|note| (note.phase, note.since)).filter(|note| note.phase != Phase::Closed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Party;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    #[test]
    fn the_first_reason_stays_until_it_is_enabled() {
        let gone = Noticed::Gone { detail: "the destination answered 410".into() };
        let failing = Condition::default().with(&Noticed::Failing { since: Timestamp(5) }, NOW);
        assert_eq!(failing.failing_since, Some(Timestamp(5)));
        assert_eq!(failing.with(&Noticed::Failing { since: Timestamp(6) }, NOW), failing);
        let disabled = failing.with(&gone, NOW).with(&Noticed::FailedTooLong { detail: "later".into() }, Timestamp(NOW.0 + 1));
        assert_eq!(disabled.disabled.as_ref().map(|disabled| (disabled.at, disabled.code.as_str())), Some((NOW, "gone")));
        let enabled = disabled.afresh(NOW);
        assert_eq!((&enabled.disabled, enabled.failing_since, enabled.enabled_at), (&None, None, Some(NOW)));
        assert_eq!(enabled.afresh(Timestamp(NOW.0 + 1)), enabled, "there is nothing to enable");
        assert_eq!(enabled.with(&gone, NOW), enabled, "that was before");
        assert!(enabled.with(&gone, Timestamp(NOW.0 + 1)).disabled.is_some());
        assert!(failing.with(&Noticed::Recovered, NOW).is_empty());
    }

    #[test]
    fn what_an_owner_says_is_read_again_and_what_is_newer_is_not() {
        let reason = Failure { party: Party::Network, code: "reset".into(), detail: "it hung up".into(), retryable: true };
        let note = CircuitNote { phase: Phase::Open, since: NOW, until: Some(NOW), reason };
        assert_eq!(CircuitNote::decode(&note.encode()), Some(note.clone()));
        let newer = String::from_utf8(note.encode()).expect("JSON").replace("\"v\":1", "\"v\":2");
        assert_eq!(CircuitNote::decode(newer.as_bytes()), None);
    }
}
