//! Why something that is queued is not delivered yet: from what is recorded of it and from the configuration as it is now.
//!
//! What an operator set goes first, since nothing else matters while it stands; then a destination that is disabled, a connection that is
//! paused, and a circuit that opened since; then what the record says, unless that is over by now: then it waits for its turn alone. What is in
//! somebody's hands this moment has no record of that, and is told as it was before.

use std::collections::HashMap;

use super::condition::CircuitNote;
use super::model::{Connections, Destinations, Knob, Level};
use super::snapshot::{Diversion, Diverted, Percent};
use super::state::{Entry, State};
use crate::clock::Timestamp;
use crate::event::{DeliveryId, DestinationId, Failure, Lane};
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
    /// Its turn, in its lane or behind what it waited for before.
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
    /// Its destination, which has not agreed to be sent to.
    DestinationHandshake,
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
    /// A connection: its tenant has all that it may have, or the gateway has.
    NoCapacity,
    /// Its destination's circuit, which is open.
    CircuitOpen,
    /// Deliveries of its key that come before it.
    Order,
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
            Self::DestinationHandshake => "destination_handshake",
            Self::Retry => "retry",
            Self::PluginFuel => "plugin_fuel",
            Self::PluginPoisoned => "plugin_poisoned",
            Self::RateLimit => "rate_limit",
            Self::DeliveryRate => "delivery_rate",
            Self::NoCapacity => Failure::NO_CAPACITY,
            Self::CircuitOpen => "circuit_open",
            Self::Order => "order",
        }
    }
}

/// Tells why an event of a tenant waits.
#[derive(Clone, Copy, Debug)]
pub struct Explainer<'a> {
    state: &'a State,
    home: Home,
    event: &'a EventSummary,
    circuits: &'a Circuits,
}

/// The circuits that are not closed, of the destinations that were asked for.
pub type Circuits = HashMap<DestinationId, CircuitNote>;

/// Whether a delivery waits for its destination, whose circuit says more than its record then.
pub(super) fn waits_for_circuit(row: &DeliveryRecord) -> Option<DestinationId> {
    const OF_DESTINATION: [&str; 5] = ["destination_window", "rate_limit", "delivery_rate", Failure::NO_CAPACITY, CIRCUIT_OPEN];
    let is_it = matches!(&row.state, DeliveryState::Parked { reason, .. } if OF_DESTINATION.contains(&reason.as_str()));
    row.destination.filter(|_| is_it)
}

const CIRCUIT_OPEN: &str = "circuit_open";

impl<'a> Explainer<'a> {
    /// For an event of this tenant.
    pub fn new(state: &'a State, home: Home, event: &'a EventSummary, circuits: &'a Circuits) -> Self {
        Self { state, home, event, circuits }
    }

    /// Whether a replay made this delivery: its id is not the one that the event's own plan gives.
    pub fn is_replay(&self, row: &DeliveryRecord) -> bool {
        let Some(connection) = row.connection else { return false };
        row.id != DeliveryId::derive(self.event.id, connection, row.output)
    }

    /// Why the event waits: for its first delivery that does, or else in its lane. None if nothing more happens by itself.
    pub fn event(&self) -> Option<Waiting> {
        let delivery = self.event.deliveries.iter().find_map(|row| self.delivery(row));
        delivery.or_else(|| (!self.event.finished).then(|| self.lane()))
    }

    /// Why a delivery waits. None for one to which nothing more happens by itself.
    pub fn delivery(&self, row: &DeliveryRecord) -> Option<Waiting> {
        let recorded = recorded(row)?;
        let retries = was_tried(row).then_some((Knob::Retries, self.state.steering().traffic().retries));
        // What is planned waits for its destination, whatever becomes of its source.
        let by_operator = self.held(row.at, row.destination.is_none()).or_else(|| self.paused(retries, row.at));
        let by_others = || self.disabled(row).or_else(|| self.connection_paused(row)).or_else(|| self.circuit(row));
        Some(by_operator.or_else(by_others).unwrap_or_else(|| self.still(row, recorded)))
    }

    /// What the record says, or its turn if that is over.
    fn still(&self, row: &DeliveryRecord, recorded: Waiting) -> Waiting {
        let tenant = self.state.tenant(self.home.tenant);
        let is_so = match recorded.reason {
            // If it were so, it would have been told.
            Reason::Held | Reason::Paused | Reason::DestinationDisabled | Reason::CircuitOpen => false,
            Reason::RateLimit => self.destination(row).is_some_and(|destination| destination.parts.destination.rate.is_some()),
            Reason::DeliveryRate => tenant.is_some_and(|tenant| tenant.entry.parts.plan.delivery_rate.is_some()),
            _ => true,
        };
        if is_so {
            return recorded;
        }
        let detail = format!("it waited for `{}`, which is over, and is worked on in its turn", recorded.reason.as_str());
        Waiting { reason: Reason::Lane, detail, ..recorded }
    }

    fn lane(&self) -> Waiting {
        let (lane, since) = (self.event.lane, self.event.accepted_at);
        let share = (Knob::Lane(lane), self.state.steering().traffic().lane(lane));
        // What is in the held lane and is paused there is held, whoever it was that is diverted no more.
        let paused = || self.paused((lane != Lane::Held).then_some(share), since);
        self.held(since, true).or_else(paused).unwrap_or_else(|| {
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

    /// Whether its tenant is diverted, or its source, if that concerns it.
    fn held(&self, since: Timestamp, by_source: bool) -> Option<Waiting> {
        let steering = self.state.steering();
        let source = by_source.then_some(Diverted::Source(self.event.source));
        let (who, setting) = source.into_iter().chain([Diverted::Tenant(self.home.tenant)]).find_map(|who| {
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

    fn connection(&self, row: &DeliveryRecord) -> Option<&'a Entry<Connections>> {
        Some(self.state.tenant(self.home.tenant)?.connections.get(row.connection?)?)
    }

    /// The one that it is for, or will be.
    fn destination(&self, row: &DeliveryRecord) -> Option<&'a Entry<Destinations>> {
        let destinations = &self.state.tenant(self.home.tenant)?.destinations;
        match row.destination {
            Some(id) => Some(destinations.get(id)?),
            None => Some(destinations.find(&self.connection(row)?.parts.destination)?),
        }
    }

    fn connection_paused(&self, row: &DeliveryRecord) -> Option<Waiting> {
        let connection = self.connection(row)?;
        let detail = || format!("connection `{}` is paused", connection.name);
        connection.parts.paused.then(|| Waiting { reason: Reason::Paused, since: row.at, until: None, detail: detail() })
    }

    fn disabled(&self, row: &DeliveryRecord) -> Option<Waiting> {
        let destination = self.destination(row)?;
        let waiting = |since, detail| Waiting { reason: Reason::DestinationDisabled, since, until: None, detail };
        let name = &destination.name;
        match &destination.condition.disabled {
            Some(by_gateway) => {
                let detail = format!("destination `{name}` was disabled: {}; enable it again", by_gateway.detail);
                Some(waiting(row.at.max(by_gateway.at), detail))
            }
            None if !destination.parts.destination.enabled => Some(waiting(row.at, format!("destination `{name}` is disabled"))),
            None => None,
        }
    }

    /// Whether it waits for its destination's circuit: it did when that was recorded, or the circuit opened since.
    fn circuit(&self, row: &DeliveryRecord) -> Option<Waiting> {
        let note = self.circuits.get(&waits_for_circuit(row)?)?;
        let DeliveryState::Parked { reason, .. } = &row.state else { return None };
        let is_it = reason == CIRCUIT_OPEN || note.since >= row.at;
        let (since, reason) = (row.at.max(note.since), Reason::CircuitOpen);
        let detail =
            "the destination failed again and again, and is tried now and then: see `status` of the destination".to_owned();
        is_it.then_some(Waiting { reason, since, until: note.until, detail })
    }
}

/// Whether an attempt of it was made, or its plugins ran and failed: what operators mean by retries.
fn was_tried(row: &DeliveryRecord) -> bool {
    !row.attempts.is_empty() || failed_run(row).is_some()
}

/// Why its plugins did not give it, if that is what is tried again.
fn failed_run(row: &DeliveryRecord) -> Option<&Failure> {
    row.runs.last().filter(|_| row.destination.is_none())?.outcome.as_ref().err()
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
            None => match failed_run(row) {
                Some(failure) => waiting(Reason::Retry, Some(*due), format!("its plugins failed with `{}`", failure.code)),
                None => waiting(Reason::Lane, Some(*due), "it is worked on in its turn".into()),
            },
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
            Failure::NO_CAPACITY => waiting(
                Reason::NoCapacity,
                None,
                "no connection became free: its tenant has half of `egress.max_connections`, or all are in use".into(),
            ),
            CIRCUIT_OPEN => {
                let detail = "the destination failed again and again, and is tried now and then: see `status` of the destination";
                waiting(Reason::CircuitOpen, None, detail.into())
            }
            "destination_disabled" => {
                waiting(Reason::DestinationDisabled, None, "the destination was disabled, and it is worked on in its turn".into())
            }
            "destination_handshake" => {
                let detail =
                    "the destination has not agreed to be sent to, and is asked now and then: see `status` of the destination";
                waiting(Reason::DestinationHandshake, None, detail.into())
            }
            "held" => waiting(Reason::Held, None, "an operator held it, and it is worked on in its turn".into()),
            "connection_paused" => {
                waiting(Reason::Paused, None, "its connection was paused, and it is worked on in its turn".into())
            }
            "order" => waiting(Reason::Order, None, "its destination keeps an order, and it waits for its turn".into()),
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
