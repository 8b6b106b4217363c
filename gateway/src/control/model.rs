//! Resources as they are written and as they are stored.
//!
//! # In the store
//! One JSON record each, `{"v": 1, "created_at": ms, "updated_at": ms, "spec": {...}}` with its secrets sealed, under
//! `ten/<id>`, `key/<owner>/<id>`, `src/<tenant>/<id>`, `dst/<tenant>/<id>`, `con/<tenant>/<id>` or `plg/<tenant>/<id>`;
//! `<owner>` is a tenant, or `-` for an operator. A tenant that is spread over several shards is in format 2, and so
//! is a plugin with an alias that is split, and a source or destination that names a plugin; a destination of another kind than HTTP, or one that keeps an order or sends batches, is in format 3. What operators set for the gateway's work is under `trf/` ([`super::steering`]).
//!
//! # Limits
//! Names 64 bytes; descriptions and other short texts 1 KiB; the numbers of things beside each other are constants here.

mod batch;
mod connection;
mod destination;
mod handshake;
mod key;
mod limits;
mod name;
mod order;
mod plugin;
mod retry;
mod source;
mod tenant;
mod traffic;
mod visit;

use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use batch::BatchSpec;
pub use connection::{ConnectionSpec, Connections, LimitsSpec, StageSpec};
pub use destination::{
    AmqpSpec, Compression, DestinationAuth, DestinationKind, DestinationSpec, Destinations, HeaderSpec, KafkaSpec, NatsSpec,
    ProxySpec, RedisStreamSpec, RetiringSpec, S3Spec, SigningSpec, TlsSpec,
};
pub use handshake::{DestinationHandshakeSpec, SourceHandshakeSpec};
pub use key::{KEY_PREFIX, KeyRecord, Keys, Minted, digest_of, parse_key};
pub use limits::CircuitBreakerSpec;
pub use name::check_name;
pub use order::{OrderName, OrderSpec};
pub use plugin::{
    LATEST, MAX_RETIRED, MAX_VERSIONS, PastRecord, PluginRecord, Plugins, PortionRecord, RetiredRecord, SplitRecord, VersionRecord,
    check_alias,
};
pub use retry::{BackoffSpec, DelaySpec, JitterName, JitterSpec, RetrySpec, RuleSpec};
pub use source::{DedupSpec, SourceAuth, SourceSpec, Sources};
pub use tenant::{PlanSpec, TenantRecord, TenantSpec, Tenants};
pub use traffic::{Change, Knob, Level, MAX_CHANGES, MAX_DIVERTED, MAX_REASON, Setting, Who, check_percent, check_reason};
pub(super) use visit::VisitParts;
pub use visit::VisitSpec;

use crate::clock::Timestamp;
use crate::event::IdError;

/// The record format that this release writes, of what has not changed since the first.
pub const FORMAT: u8 = 1;
/// The format of a source or destination that names a plugin: an older release does not know such fields.
const VISITED: u8 = 2;
/// The format of a destination that keeps an order, sends batches, or is no receiver of HTTP requests: an older release would break the one, know
/// nothing of the other, and take the third's URL for a receiver's.
const LATER: u8 = 3;

/// A kind of resource.
pub trait Kind: Sized + Send + Sync + 'static {
    /// Its ids.
    type Id: Copy + Ord + Debug + Display + FromStr<Err = IdError> + Send + Sync + 'static;
    /// What is written and stored of it.
    type Spec: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What is made of it for use.
    type Parts: Debug + Send + Sync + 'static;
    /// What people call one.
    const NAME: &'static str;
    /// What its keys in the store start with.
    const KEY: &'static str;
    /// Where its spec holds secrets.
    const SECRETS: &'static [&'static str] = &[];
    /// The newest record format of it that this release reads.
    const FORMAT: u8 = FORMAT;

    /// A new id.
    fn new_id(now: Timestamp, random: u128) -> Self::Id;

    /// The spec's name.
    fn name(spec: &Self::Spec) -> &str;

    /// The format that a spec is written in: the oldest that has all of it, so that older releases read what they can.
    fn format(_: &Self::Spec) -> u8 {
        FORMAT
    }
}

/// One thing that is wrong with a request, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct FieldError {
    /// The field, as a path with dots: `auth.secrets[0]`. Empty for the whole.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub struct Faults(pub Vec<FieldError>);

impl Faults {
    /// Notes a fault.
    pub fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError { field: field.into(), message: message.into() });
    }

    /// Notes a fault unless `value` is in the range.
    pub fn range<T: PartialOrd + Display>(&mut self, field: &str, value: T, min: T, max: T) {
        if value < min || value > max {
            self.add(field, format!("must be from {min} to {max}, not {value}"));
        }
    }

    /// Notes a fault unless `value` is in the range.
    pub fn time(&mut self, field: &str, value: std::time::Duration, min: std::time::Duration, max: std::time::Duration) {
        if value < min || value > max {
            let show = humantime::format_duration;
            self.add(field, format!("must be from {} to {}, not {}", show(min), show(max), show(value)));
        }
    }

    /// The value, if there was nothing.
    pub fn or<T>(self, value: T) -> Result<T, Vec<FieldError>> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0) }
    }
}

fn yes() -> bool {
    true
}
