//! Every wait ends. What waits for something that may never come (a window, a lane that is served later or not at all, a disabled
//! destination) is given up once it is older than `dispatch.max_wait`, with what it waited for as the reason. Its age counts from the
//! event's acceptance, or from when somebody asked for another try.

use super::Shared;
use super::order;
use super::record::Done;
use super::work::Item;
use crate::clock::Timestamp;
use crate::control::snapshot::{Destination, Snapshot};
use crate::event::{ConnectionId, DeliveryId, Failure, Party, TenantId};
use crate::store::{DeliveryRecord, DeliveryState, Job, Origin, QueueKey, Record, Work};

/// What a piece of work waited for before it was taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing but its turn.
    Turn,
    /// The low lane, which is served behind the normal one.
    LowLane,
    /// An operator, who diverted it.
    Held,
    /// An operator, who paused retries.
    RetriesPaused,
    /// A place in its tenant's window.
    TenantWindow,
    /// A place in its destination's window.
    DestinationWindow,
    /// Its destination, which is disabled.
    DestinationDisabled,
    /// Its destination, which has not agreed to be sent to.
    Handshake,
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
    /// Its connection, which is paused.
    ConnectionPaused,
    /// What is before it in its line.
    Order,
}

impl Wait {
    /// For what deliveries wait to a destination that is not enabled.
    pub(super) fn of_disabled(destination: &Destination) -> Self {
        if destination.awaits.is_some() { Self::Handshake } else { Self::DestinationDisabled }
    }

    /// The name of it in states and reasons.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::LowLane => "low_lane",
            Self::Held => "held",
            Self::RetriesPaused => "retries_paused",
            Self::TenantWindow => "tenant_window",
            Self::DestinationWindow => "destination_window",
            Self::DestinationDisabled => "destination_disabled",
            Self::Handshake => "destination_handshake",
            Self::PluginFuel => "plugin_fuel",
            Self::PluginPoisoned => "plugin_poisoned",
            Self::RateLimit => "rate_limit",
            Self::DeliveryRate => "delivery_rate",
            Self::NoCapacity => Failure::NO_CAPACITY,
            Self::CircuitOpen => "circuit_open",
            Self::ConnectionPaused => "connection_paused",
            Self::Order => "order",
        }
    }

    /// Whether it waited in its destination's queue, out of which it has a place in the window already.
    pub(super) fn is_for_destination(self) -> bool {
        matches!(
            self,
            Self::DestinationWindow
                | Self::DestinationDisabled
                | Self::Handshake
                | Self::RateLimit
                | Self::DeliveryRate
                | Self::NoCapacity
                | Self::CircuitOpen
                | Self::Order
        )
    }

    /// When what waits since then is given up.
    pub(super) fn ends(self, shared: &Shared, since: Timestamp) -> Timestamp {
        if self == Self::Turn { Timestamp(u64::MAX) } else { since.after(shared.config.max_wait) }
    }

    /// Why it is given up now, if its time is up.
    pub(super) fn over(self, shared: &Shared, since: Timestamp, now: Timestamp) -> Option<Failure> {
        (now >= self.ends(shared, since)).then(|| Failure {
            party: Party::Gateway,
            code: self.as_str().to_owned(),
            detail: format!("{} for longer than {}", self.in_words(), humantime::format_duration(shared.config.max_wait)),
            retryable: false,
        })
    }

    /// The same for a piece of work, of which `spent` attempts count. How long a delivery is tried again is the retry policy's to say, wherever it
    /// waits for its turn meanwhile.
    pub(super) fn over_for(self, shared: &Shared, spent: u32, since: Timestamp, now: Timestamp) -> Option<Failure> {
        let is_turn = matches!(
            self,
            Self::TenantWindow
                | Self::DestinationWindow
                | Self::RetriesPaused
                | Self::PluginFuel
                | Self::RateLimit
                | Self::DeliveryRate
                | Self::NoCapacity
                | Self::Order
        );
        self.over(shared, since, now).filter(|_| spent == 0 || !is_turn)
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Turn => "it waited",
            Self::LowLane => "the tenant was over its plan's throughput, and the event waited in the low lane",
            Self::Held => "an operator held the event",
            Self::RetriesPaused => "an operator paused retries",
            Self::TenantWindow => "the tenant's window was full, and the event waited",
            Self::DestinationWindow => "the destination's window was full, and the delivery waited",
            Self::DestinationDisabled => "the destination was disabled",
            Self::Handshake => "the destination did not agree to be sent to",
            Self::PluginFuel => "the tenant's plugins had used up their fuel, `plan.plugin_fuel`, and the event waited",
            Self::PluginPoisoned => "a plugin was stopped again and again, and the event was held",
            Self::RateLimit => "the destination's `rate` was used up, and the delivery waited",
            Self::DeliveryRate => "the tenant's `plan.delivery_rate` was used up, and the delivery waited",
            Self::NoCapacity => "no connection became free, `egress.max_connections`, and the delivery waited",
            Self::CircuitOpen => "the destination failed again and again, and its circuit was open",
            Self::ConnectionPaused => "the connection was paused",
            Self::Order => "the destination keeps an order, and the delivery waited behind others",
        }
    }
}

/// Whether a connection is paused.
pub(super) fn is_paused(snapshot: &Snapshot, connection: ConnectionId) -> bool {
    snapshot.connections.get(&connection).is_some_and(|connection| connection.paused)
}

/// Where a delivery waits whose connection is paused.
pub(super) fn paused(shared: &Shared, work: &Work) -> Option<QueueKey> {
    let Work::Attempt(delivery) = work else { return None };
    is_paused(&shared.snapshots.load(), delivery.connection).then_some(QueueKey::Paused(delivery.tenant, delivery.connection))
}

/// Why the work of a tenant is given up that is being deleted.
pub(super) fn deleted(shared: &Shared, tenant: TenantId) -> Option<Failure> {
    let snapshot = shared.snapshots.load();
    snapshot.tenants.get(&tenant)?.deleting.map(|_| Failure {
        party: Party::Gateway,
        code: Failure::TENANT_DELETED.to_owned(),
        detail: "the tenant was deleted while this was queued".to_owned(),
        retryable: false,
    })
}

/// Gives up what is left to do of a piece of work, unattempted.
pub(super) fn given_up(shared: &Shared, item: Item, reason: Failure) -> Done {
    let now = shared.clock.now();
    let (trace, connection) = match &item.work {
        Work::Attempt(delivery) => (delivery.trace, Some(delivery.connection)),
        Work::Plan { event, connection } => (event.trace, *connection),
    };
    shared.spans.dead_lettered(trace, connection, id_of(&item), now, &reason);
    order::apart(shared, item, DeliveryState::DeadLettered { reason })
}

fn id_of(item: &Item) -> DeliveryId {
    match (&item.origin, &item.work) {
        (Origin::Job(id), _) => *id,
        (Origin::Entry(_), Work::Plan { event, .. }) => DeliveryId::of_event(event.id),
        (Origin::Entry(_), Work::Attempt(delivery)) => delivery.id,
    }
}

/// Moves a whole piece of work elsewhere, unattempted.
pub(super) fn moved(item: Item, state: DeliveryState, at: Timestamp) -> Done {
    let id = id_of(&item);
    let Item { origin, attempts, spent, since, work, held, progress: _, wait: _, pass: _, line, claims: _ } = item;
    let job = Job { id, attempts, spent, since, work, line, claims: 0 };
    let (connection, destination, output) = match &job.work {
        Work::Attempt(delivery) => (Some(delivery.connection), Some(delivery.destination), delivery.output),
        Work::Plan { connection, .. } => (*connection, line.map(|line| line.destination), 0),
    };
    let (event, tenant) = (job.event(), job.tenant());
    let row = DeliveryRecord {
        id,
        connection,
        destination,
        output,
        at,
        state,
        attempts: Vec::new(),
        runs: Vec::new(),
        job: Some(Box::new(job)),
    };
    Done::new(Record { origin, event, tenant, finished: true, deliveries: vec![row] }, Some(held))
}
