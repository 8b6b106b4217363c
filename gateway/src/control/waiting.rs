//! Why something that is queued is not delivered yet: from what is recorded of it and from the configuration as it is now.
//!
//! What an operator set goes first, since nothing else matters while it stands; then a destination that is disabled; then what the
//! record says. What is in somebody's hands this moment has no record of that, and is told as waiting in its lane.

use super::model::{Knob, Level};
use super::snapshot::{Diversion, Diverted, Percent};
use super::state::State;
use crate::clock::Timestamp;
use crate::event::{DestinationId, Lane};
use crate::store::{DeliveryRecord, DeliveryState, EventSummary, Home};

/// Why something waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// For what.
    pub reason: Reason,
    /// Since when, as far as it is recorded.
    pub since: Timestamp,
    /// When it goes on by itself, if that is known.
    pub until: Option<Timestamp>,
    /// In words.
    pub detail: String,
}

/// What something waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its turn in its lane.
    Lane,
    /// An operator, who diverted its tenant or source.
    Held,
    /// An operator, who paused its lane, its shard or retries; or somebody who paused its connection.
    Paused,
    /// A place in its tenant's window.
    TenantWindow,
    /// A place in its destination's window.
    DestinationWindow,
    /// Its destination, which is disabled.
    DestinationDisabled,
    /// The time of its next attempt.
    Retry,
    /// Fuel for its tenant's plugins.
    PluginFuel,
    /// A plugin that is poisoned.
    PluginPoisoned,
    /// Its destination's rate.
    RateLimit,
    /// Its tenant's rate of deliveries.
    DeliveryRate,
    /// Its destination's circuit, which is open.
    CircuitOpen,
}

impl Reason {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lane => "lane",
            Self::Held => "held",
            Self::Paused => "paused",
            Self::TenantWindow => "tenant_window",
            Self::DestinationWindow => "destination_window",
            Self::DestinationDisabled => "destination_disabled",
            Self::Retry => "retry",
            Self::PluginFuel => "plugin_fuel",
            Self::PluginPoisoned => "plugin_poisoned",
            Self::RateLimit => "rate_limit",
            Self::DeliveryRate => "delivery_rate",
            Self::CircuitOpen => "circuit_open",
        }
    }
}

/// Tells why an event of a tenant waits.
#[derive(Clone, Copy, Debug)]
pub struct Explainer<'a> {
    state: &'a State,
    home: Home,
    event: &'a EventSummary,
}

impl<'a> Explainer<'a> {
    /// For an event of this tenant.
    pub fn new(state: &'a State, home: Home, event: &'a EventSummary) -> Self {
        Self { state, home, event }
    }

    /// Why the event waits: for its first delivery that does, or else in its lane. None if nothing more happens by itself.
    pub fn event(&self) -> Option<Waiting> {
        let delivery = self.event.deliveries.iter().find_map(|row| self.delivery(row));
        delivery.or_else(|| (!self.event.finished).then(|| self.lane()))
    }

    /// Why a delivery waits. None for one to which nothing more happens by itself.
    pub fn delivery(&self, row: &DeliveryRecord) -> Option<Waiting> {
        let recorded = recorded(row)?;
        let retries = (!row.attempts.is_empty()).then_some((Knob::Retries, self.state.steering().traffic().retries));
        let by_operator = self.held(row.at).or_else(|| self.paused(retries, row.at));
        Some(by_operator.or_else(|| self.disabled(row)).or_else(|| self.connection_paused(row)).unwrap_or(recorded))
    }

    fn lane(&self) -> Waiting {
        let (lane, since) = (self.event.lane, self.event.accepted_at);
        let share = (Knob::Lane(lane), self.state.steering().traffic().lane(lane));
        // What is in the held lane and is paused there is held, whoever it was that is diverted no more.
        let paused = || self.paused((lane != Lane::Held).then_some(share), since);
        self.held(since).or_else(paused).unwrap_or_else(|| {
            let detail = match lane {
                Lane::Normal => "it is in the normal lane, and is worked on in its turn",
                Lane::Low => {
                    "the tenant was over its plan's throughput: it is in the low lane, which is served behind the normal one"
                }
                Lane::Held => "it is in the held lane, and is worked on in its turn",
            };
            Waiting { reason: Reason::Lane, since, until: None, detail: detail.into() }
        })
    }

    /// Whether its tenant or its source is diverted.
    fn held(&self, since: Timestamp) -> Option<Waiting> {
        let steering = self.state.steering();
        let both = [Diverted::Source(self.event.source), Diverted::Tenant(self.home.tenant)];
        let (who, setting) = both.into_iter().find_map(|who| {
            let setting = steering.settings().get(&Knob::Diversion(who))?;
            (setting.level == Level::Diversion(Diversion::Held)).then_some((who, setting))
        })?;
        let kind = match who {
            Diverted::Tenant(_) => "tenant",
            Diverted::Source(_) => "source",
        };
        let detail = because(format!("an operator diverted its {kind}"), setting.reason.as_deref());
        Some(Waiting { reason: Reason::Held, since: since.max(setting.at), until: None, detail })
    }

    /// Whether its shard is paused, or the kind of work that it is.
    fn paused(&self, share: Option<(Knob, Percent)>, since: Timestamp) -> Option<Waiting> {
        let steering = self.state.steering();
        let shard = (Knob::Shard(self.home.shard), steering.traffic().shard(self.home.shard));
        let (knob, _) = share.into_iter().chain([shard]).find(|(_, percent)| *percent == Percent::NONE)?;
        let setting = steering.settings().get(&knob);
        let detail = because(format!("an operator paused {knob}"), setting.and_then(|setting| setting.reason.as_deref()));
        let since = setting.map_or(since, |setting| since.max(setting.at));
        Some(Waiting { reason: Reason::Paused, since, until: None, detail })
    }

    fn connection_paused(&self, row: &DeliveryRecord) -> Option<Waiting> {
        let connection = self.state.tenant(self.home.tenant)?.connections.get(row.connection?)?;
        let detail = || format!("connection `{}` is paused", connection.name);
        connection.parts.paused.then(|| Waiting { reason: Reason::Paused, since: row.at, until: None, detail: detail() })
    }

    fn disabled(&self, row: &DeliveryRecord) -> Option<Waiting> {
        let id: DestinationId = row.destination?;
        let destination = self.state.tenant(self.home.tenant)?.destinations.get(id)?;
        let waiting = |detail| Waiting { reason: Reason::DestinationDisabled, since: row.at, until: None, detail };
        let name = &destination.name;
        match &destination.condition.disabled {
            Some(by_gateway) => Some(waiting(format!("destination `{name}` was disabled: {}; enable it again", by_gateway.detail))),
            None if !destination.parts.destination.enabled => Some(waiting(format!("destination `{name}` is disabled"))),
            None => None,
        }
    }
}

/// What the record itself says; none if nothing more happens by itself.
fn recorded(row: &DeliveryRecord) -> Option<Waiting> {
    let waiting = |reason, until, detail: String| Some(Waiting { reason, since: row.at, until, detail });
    match &row.state {
        DeliveryState::Scheduled { due } => match row.attempts.last() {
            Some(attempt) => {
                let code = attempt.failure.as_ref().map_or("failed", |failure| failure.code.as_str());
                waiting(Reason::Retry, Some(*due), format!("attempt {} ended with `{code}`", attempt.number))
            }
            None => waiting(Reason::Lane, Some(*due), "it is worked on in its turn".into()),
        },
        DeliveryState::Parked { reason, .. } => match reason.as_str() {
            "tenant_window" => waiting(Reason::TenantWindow, None, "the tenant's window is full: `plan.in_flight`".into()),
            "destination_window" => {
                waiting(Reason::DestinationWindow, None, "the destination's window is full: its `in_flight`".into())
            }
            "rate_limit" => {
                waiting(Reason::RateLimit, None, "the destination's `rate` is used up, and it waits for its turn".into())
            }
            "delivery_rate" => waiting(
                Reason::DeliveryRate,
                None,
                "the tenant's `plan.delivery_rate` is used up, and it waits for its turn".into(),
            ),
            "circuit_open" => {
                let detail = "the destination failed again and again, and is tried now and then: see `status` of the destination";
                waiting(Reason::CircuitOpen, None, detail.into())
            }
            "destination_disabled" => {
                waiting(Reason::DestinationDisabled, None, "the destination was disabled, and it is worked on in its turn".into())
            }
            "held" => waiting(Reason::Held, None, "an operator held it, and it is worked on in its turn".into()),
            "connection_paused" => {
                waiting(Reason::Paused, None, "its connection was paused, and it is worked on in its turn".into())
            }
            "retries_paused" => waiting(Reason::Paused, None, "an operator paused retries, and it is worked on in its turn".into()),
            "plugin_fuel" => waiting(
                Reason::PluginFuel,
                None,
                "the tenant's plugins have used up their fuel: `plan.plugin_fuel`, a second".into(),
            ),
            "plugin_poisoned" => {
                let detail = "a plugin was stopped again and again, and is tried now and then: upload a version that is not, see `poisoned` of the plugin";
                waiting(Reason::PluginPoisoned, None, detail.into())
            }
            other => waiting(Reason::Lane, None, format!("it was put aside: {other}")),
        },
        DeliveryState::Delivered
        | DeliveryState::Filtered { .. }
        | DeliveryState::Unmatched
        | DeliveryState::DeadLettered { .. } => None,
    }
}

fn because(what: String, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{what}: {reason}"),
        None => what,
    }
}
