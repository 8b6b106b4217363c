//! Ids. All are 128 bits and `Copy`; shown with a prefix that tells what they are (`evt_01j9...`).

use std::fmt;
use std::str::FromStr;

use ring::digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

use crate::clock::Timestamp;

/// A text that is not an id of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {kind} id: it must be `{prefix}` and 26 characters")]
pub struct IdError {
    text: String,
    kind: &'static str,
    prefix: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal, $kind:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl $name {
            /// What its text form starts with.
            pub const PREFIX: &'static str = $prefix;

            /// A new id: 48 bits of time, so that ids sort by it, and 80 random bits.
            pub fn new(now: Timestamp, random: u128) -> Self {
                Self(Ulid::from_parts(now.0, random).0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut buffer = [0; ulid::ULID_LEN];
                let text = Ulid(self.0).array_to_str(&mut buffer);
                text.make_ascii_lowercase();
                write!(f, "{}{text}", $prefix)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix($prefix)
                    .and_then(|rest| Ulid::from_string(rest).ok())
                    .map(|ulid| Self(ulid.0))
                    .ok_or_else(|| IdError { text: text.chars().take(64).collect(), kind: $kind, prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.to_be_bytes().serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 16]>::deserialize(deserializer).map(|bytes| Self(u128::from_be_bytes(bytes)))
                }
            }
        }
    )+};
}

ids! {
    /// A tenant.
    TenantId = "ten_", "a tenant";
    /// A source. Unguessable: its random bits are what keeps strangers out of a source without authentication.
    SourceId = "src_", "a source";
    /// A destination.
    DestinationId = "dst_", "a destination";
    /// A connection.
    ConnectionId = "con_", "a connection";
    /// A plugin, as a name that versions belong to.
    PluginId = "plg_", "a plugin";
    /// An API key, not the key itself.
    KeyId = "key_", "a key";
    /// An event.
    EventId = "evt_", "an event";
    /// A delivery.
    DeliveryId = "dlv_", "a delivery";
    /// A job over many dead letters.
    JobId = "job_", "a job";
    /// A batch: several deliveries in one request.
    BatchId = "bat_", "a batch";
}

impl EventId {
    /// When the id was made: the accepting gateway's clock.
    pub fn made_at(self) -> Timestamp {
        Timestamp(Ulid(self.0).timestamp_ms())
    }
}

impl DeliveryId {
    /// Stands for a whole event that is parked, scheduled or given up before it was planned.
    pub fn of_event(event: EventId) -> Self {
        Self::derive(event, ConnectionId(0), 0)
    }

    /// The id that every plan of this output of this event on this connection gives.
    pub fn derive(event: EventId, connection: ConnectionId, output: u32) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"tidegate delivery 1");
        context.update(&event.0.to_be_bytes());
        context.update(&connection.0.to_be_bytes());
        context.update(&output.to_be_bytes());
        Self::first_of(context)
    }

    /// The id of the first output when `job` replays the event on a connection: the same each time the job does.
    pub fn replay(job: JobId, event: EventId, connection: ConnectionId) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"tidegate replay 1");
        context.update(&job.0.to_be_bytes());
        context.update(&event.0.to_be_bytes());
        context.update(&connection.0.to_be_bytes());
        Self::first_of(context)
    }

    /// The id of another output of the plan whose first one has this id: as [`DeliveryId::derive`] makes it, or of a replay.
    pub fn output(self, event: EventId, connection: ConnectionId, output: u32) -> Self {
        if output == 0 {
            return self;
        }
        if self == Self::derive(event, connection, 0) {
            return Self::derive(event, connection, output);
        }
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"tidegate output 1");
        context.update(&self.0.to_be_bytes());
        context.update(&output.to_be_bytes());
        Self::first_of(context)
    }

    fn first_of(context: digest::Context) -> Self {
        let mut first = [0; 16];
        first.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(u128::from_be_bytes(first))
    }
}

impl BatchId {
    /// The id of a request of these deliveries: the same whenever the same ones go out together, in whatever order.
    pub fn of(deliveries: impl IntoIterator<Item = DeliveryId>) -> Self {
        let mut deliveries: Vec<_> = deliveries.into_iter().collect();
        deliveries.sort_unstable();
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"tidegate batch 1");
        for delivery in deliveries {
            context.update(&delivery.0.to_be_bytes());
        }
        let mut first = [0; 16];
        first.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(u128::from_be_bytes(first))
    }
}

/// The content hash of a plugin's component: SHA-256, shown in hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionHash(pub [u8; 32]);

impl VersionHash {
    /// The hash of a component.
    pub fn of(component: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, component).as_ref());
        Self(hash)
    }
}

impl fmt::Display for VersionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for VersionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VersionHash {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash).map_err(|_| IdError {
            text: text.chars().take(64).collect(),
            kind: "a version",
            prefix: "64 hex digits, not",
        })?;
        Ok(Self(hash))
    }
}

impl Serialize for VersionHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for VersionHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 32]>::deserialize(deserializer).map(Self)
        }
    }
}

/// The unit of ownership, and of one Redis Cluster slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shard(pub u16);

/// A revision of the configuration; each change makes the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_names_the_kind_on_error() {
        let id = EventId::new(Timestamp(1_700_000_000_123), 42);
        assert_eq!(id.to_string().parse::<EventId>(), Ok(id));
        assert_eq!(id.made_at(), Timestamp(1_700_000_000_123));
        let error = id.to_string().parse::<SourceId>().unwrap_err().to_string();
        assert!(error.contains("not a source id"), "{error}");
    }

    #[test]
    fn delivery_ids_differ_by_output_and_repeat() {
        let event = EventId(7);
        let connection = ConnectionId(9);
        assert_eq!(DeliveryId::derive(event, connection, 1), DeliveryId::derive(event, connection, 1));
        assert_ne!(DeliveryId::derive(event, connection, 0), DeliveryId::derive(event, connection, 1));
    }

    #[test]
    fn a_batch_is_known_by_what_is_in_it() {
        let id = |deliveries: &[u128]| BatchId::of(deliveries.iter().map(|id| DeliveryId(*id)));
        assert_eq!(id(&[1, 2, 3]), id(&[3, 1, 2]));
        assert_ne!(id(&[1, 2, 3]), id(&[1, 2]));
        assert_ne!(id(&[1]).0, 1);
    }

    #[test]
    fn replays_have_ids_of_their_own_for_each_job_and_output() {
        let (event, connection) = (EventId(7), ConnectionId(9));
        let own = DeliveryId::derive(event, connection, 0);
        assert_eq!(own.output(event, connection, 3), DeliveryId::derive(event, connection, 3));
        let replayed = |job| DeliveryId::replay(JobId(job), event, connection);
        assert_eq!(replayed(1), replayed(1));
        let mut all: Vec<_> = [own, replayed(1), replayed(2)]
            .into_iter()
            .flat_map(|first| [0, 1, 2].map(|output| first.output(event, connection, output)))
            .collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 9);
    }
}
