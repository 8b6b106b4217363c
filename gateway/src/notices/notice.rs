//! What a notice says: the body of its event.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::alarm::{Condition, Edge};

/// A notice of the gateway: the body of the webhook. The same `webhook-id` means the same notice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Notice {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: NoticeKind,
    /// When the gateway decided to tell it, RFC 3339 in UTC.
    #[schema(format = DateTime, example = "2026-01-31T10:00:00.000Z")]
    pub timestamp: String,
    /// What it is about.
    pub data: NoticeData,
}

/// What happened. Each that begins has one that ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum NoticeKind {
    /// The gateway disabled a destination: it answered 410, or has failed for `circuit_breaker.disable_after`.
    #[serde(rename = "destination.disabled")]
    DestinationDisabled,
    /// It was enabled again.
    #[serde(rename = "destination.enabled")]
    DestinationEnabled,
    /// A destination has failed for a fifth of `circuit_breaker.disable_after`, and will be disabled.
    #[serde(rename = "destination.failing")]
    DestinationFailing,
    /// It works again, or was enabled.
    #[serde(rename = "destination.recovered")]
    DestinationRecovered,
    /// A destination's circuit opened: nothing is sent to it but probes.
    #[serde(rename = "circuit.opened")]
    CircuitOpened,
    /// It closed.
    #[serde(rename = "circuit.closed")]
    CircuitClosed,
    /// The tenant has had `notices.dead_letters` new dead letters within `notices.dead_letters_window`.
    #[serde(rename = "dead_letters.growing")]
    DeadLettersGrowing,
    /// It has had fewer than half of that.
    #[serde(rename = "dead_letters.calm")]
    DeadLettersCalm,
    /// A version of a plugin was stopped again and again on a connection, and does not run there but to be tried.
    #[serde(rename = "plugin.poisoned")]
    PluginPoisoned,
    /// It answers again, or another version took its place.
    #[serde(rename = "plugin.recovered")]
    PluginRecovered,
    /// The tenant has `notices.backlog_percent` of its `plan.queued_bytes` queued.
    #[serde(rename = "backlog.over_threshold")]
    BacklogOverThreshold,
    /// It has less than half of that.
    #[serde(rename = "backlog.normal")]
    BacklogNormal,
}

/// What a notice is about. What does not concern its type is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NoticeData {
    /// Whose.
    pub tenant: NoticeThing,
    /// The destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<NoticeThing>,
    /// The connection that the plugin is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<NoticeThing>,
    /// The plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PluginThing>,
    /// When it began, RFC 3339 in UTC.
    #[schema(format = DateTime, example = "2026-01-31T09:59:58.000Z")]
    pub since: String,
    /// The last failure that led to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<NoticeReason>,
    /// How much there was, and how much was too much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<Measure>,
    /// What to do, in a sentence or two for people.
    pub advice: String,
}

/// Something with an id and a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NoticeThing {
    /// Its id.
    pub id: String,
    /// Its name at that moment.
    pub name: String,
}

/// A plugin on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PluginThing {
    /// Its id.
    pub id: String,
    /// Its name at that moment.
    pub name: String,
    /// Its position on the connection, from 0.
    pub stage: usize,
    /// The version that runs there at that moment: the SHA-256 of its component, in hex.
    pub version: String,
}

/// Why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NoticeReason {
    /// A stable name: `status`, `connect_timeout`, `gone`, `aborted`, ...
    pub code: String,
    /// A sentence for people.
    pub detail: String,
}

/// A number and its threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Measure {
    /// How much there was.
    pub value: u64,
    /// From how much on it is told; over is below half of it.
    pub threshold: u64,
    /// Of what.
    pub unit: NoticeUnit,
    /// Within how long, seconds, if it is counted over a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_s: Option<u64>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoticeUnit {
    /// New dead letters.
    DeadLetters,
    /// Bytes of queued work.
    Bytes,
    /// Runs in a row that were stopped.
    Stops,
}

impl NoticeKind {
    /// What is told when a condition begins or is over.
    pub(super) fn of(condition: Condition, edge: Edge) -> Self {
        match (condition, edge) {
            (Condition::Disabled(_), Edge::Begun) => Self::DestinationDisabled,
            (Condition::Disabled(_), Edge::Over) => Self::DestinationEnabled,
            (Condition::Failing(_), Edge::Begun) => Self::DestinationFailing,
            (Condition::Failing(_), Edge::Over) => Self::DestinationRecovered,
            (Condition::Circuit(_), Edge::Begun) => Self::CircuitOpened,
            (Condition::Circuit(_), Edge::Over) => Self::CircuitClosed,
            (Condition::DeadLetters, Edge::Begun) => Self::DeadLettersGrowing,
            (Condition::DeadLetters, Edge::Over) => Self::DeadLettersCalm,
            (Condition::Poisoned { .. }, Edge::Begun) => Self::PluginPoisoned,
            (Condition::Poisoned { .. }, Edge::Over) => Self::PluginRecovered,
            (Condition::Backlog, Edge::Begun) => Self::BacklogOverThreshold,
            (Condition::Backlog, Edge::Over) => Self::BacklogNormal,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DestinationDisabled => "destination.disabled",
            Self::DestinationEnabled => "destination.enabled",
            Self::DestinationFailing => "destination.failing",
            Self::DestinationRecovered => "destination.recovered",
            Self::CircuitOpened => "circuit.opened",
            Self::CircuitClosed => "circuit.closed",
            Self::DeadLettersGrowing => "dead_letters.growing",
            Self::DeadLettersCalm => "dead_letters.calm",
            Self::PluginPoisoned => "plugin.poisoned",
            Self::PluginRecovered => "plugin.recovered",
            Self::BacklogOverThreshold => "backlog.over_threshold",
            Self::BacklogNormal => "backlog.normal",
        }
    }

    /// What to do about it.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::DestinationDisabled => {
                "Put the destination right, then enable it: POST /v1/destinations/{destination}/enable. What waits for it is delivered then, \
                 and given up once it is older than dispatch.max_wait."
            }
            Self::DestinationFailing => {
                "Put the destination right: it is disabled once it has only failed for circuit_breaker.disable_after."
            }
            Self::CircuitOpened => {
                "Look at why the destination fails. Its deliveries wait, and it is tried now and then; nothing needs to be done once it answers."
            }
            Self::DeadLettersGrowing => {
                "See why with GET /v1/dead-letters; once the cause is put right, try them again with POST /v1/dead-letters/retry-jobs."
            }
            Self::PluginPoisoned => {
                "Upload a version that is not stopped, or roll the alias back. on_poisoned says what becomes of events meanwhile."
            }
            Self::BacklogOverThreshold => {
                "Put the destinations right that the work waits for, or have plan.queued_bytes raised: once it is reached, events are refused with 429."
            }
            Self::DestinationEnabled
            | Self::DestinationRecovered
            | Self::CircuitClosed
            | Self::DeadLettersCalm
            | Self::PluginRecovered
            | Self::BacklogNormal => "Nothing needs to be done.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ConnectionId, DestinationId};

    #[test]
    fn a_kind_is_written_as_it_is_called_and_each_condition_has_two_of_its_own() {
        let destination = DestinationId(1);
        let poisoned = Condition::Poisoned { connection: ConnectionId(2), stage: 0 };
        let conditions = [
            Condition::Disabled(destination),
            Condition::Failing(destination),
            Condition::Circuit(destination),
            Condition::DeadLetters,
            poisoned,
            Condition::Backlog,
        ];
        let kinds = conditions.iter().flat_map(|condition| [Edge::Begun, Edge::Over].map(|edge| NoticeKind::of(*condition, edge)));
        let names: std::collections::BTreeSet<_> = kinds
            .map(|kind| {
                assert_eq!(serde_json::to_value(kind).expect("plain data"), kind.as_str());
                kind.as_str()
            })
            .collect();
        assert_eq!(names.len(), 12);
    }
}
