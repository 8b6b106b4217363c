use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::limits::check_rate;
use super::{Faults, FieldError, Kind, check_name};
use crate::clock::Timestamp;
use crate::config::units;
use crate::control::snapshot::{Plan, Shards, Tenant};
use crate::dispatch::rate::Rate;
use crate::event::{Shard, TenantId};
use crate::store::BookmarkLimits;

/// Tenants.
#[derive(Debug)]
pub enum Tenants {}

impl Kind for Tenants {
    type Id = TenantId;
    type Spec = TenantRecord;
    type Parts = Arc<Tenant>;
    const NAME: &'static str = "tenant";
    const KEY: &'static str = "ten";
    const FORMAT: u8 = 2;

    /// A release that knows of one shard only must not take the others for nobody's.
    fn format(spec: &TenantRecord) -> u8 {
        if spec.further.is_empty() { 1 } else { 2 }
    }

    fn new_id(now: Timestamp, random: u128) -> TenantId {
        TenantId::new(now, random)
    }

    fn name(spec: &TenantRecord) -> &str {
        &spec.name
    }
}

/// A tenant as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TenantSpec)]
pub struct TenantSpec {
    /// Unique on the gateway.
    #[schema(example = "acme")]
    pub name: String,
    /// What it may use.
    #[serde(default)]
    pub plan: PlanSpec,
}

/// A tenant as it is stored: its home was chosen when it was made, further shards when its plan asked for them. Of its plan the number
/// of shards is not stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TenantRecord {
    /// Unique on the gateway.
    pub name: String,
    /// What it may use.
    pub plan: PlanSpec,
    /// Where its events are: its home.
    pub shard: Shard,
    /// Where they are as well, in the order in which it got these shards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<Shard>,
    /// Since when it is being deleted, if it is. It has nothing left then but what is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleting: Option<Timestamp>,
}

/// What a tenant may use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlanSpec {
    /// Events per second that stay in the normal lane; what exceeds it goes to the low one. Default 1000.
    pub rate: f64,
    /// Events above the rate that may come at once and still stay in the normal lane. Default 2000.
    pub burst: u32,
    /// Share against other tenants where queues are served in turn. Default 1.
    pub weight: u32,
    /// Events being planned or delivered at once, in all its shards together; more of them wait in the store. Each shard has its part, at
    /// least one. Default 512.
    pub in_flight: usize,
    /// Events per second that are taken at all, in either lane; what exceeds it is refused with 429. As many as come in one second of
    /// it, or the burst if that is more, may come at once. At least the rate. Default 100000, or the rate if that is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<f64>,
    /// Bytes of work that may be queued: events and deliveries that wait or are worked on, without dead letters and history. At or over
    /// it events are refused with 429. Default 1 GiB.
    #[serde(with = "units::size")]
    #[schema(value_type = String, example = "1GiB")]
    pub queued_bytes: u64,
    /// Bytes that the tables of all its plugins may take: keys, values, and 128 for each entry. 0 forbids tables. Default 16 MiB.
    #[serde(with = "units::size")]
    #[schema(value_type = String, example = "16MiB")]
    pub table_bytes: u64,
    /// Shards that its events are spread over, at most as many as the gateway has: for a tenant that is too big for one. May grow later,
    /// never shrink; left out, it stays as it is. A new tenant has one. When it grows, a part of the dedup keys moves to the new shards: a
    /// repeat of an event from before, inside its source's window, may be taken once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub shards: Option<u16>,
    /// Fuel a second that its plugins may use, in all its shards together; each has its part, and saves up what comes in in five seconds.
    /// Who has used up more than that waits in the store until as much has come in; nobody else does. 0 forbids plugins. Default 3 billion,
    /// about what a core does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin_fuel: Option<u64>,
    /// Compiled code of all versions of its plugins; an upload that would exceed it is refused. Default 512 MiB.
    #[serde(with = "units::size_option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "512MiB")]
    pub plugin_bytes: Option<u64>,
    /// Attempts in a time, of all its destinations together; more deliveries wait in the store. Each of its shards has the same part of it, rounded
    /// down, at least one. Without it as many as there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_rate: Option<Rate>,
    /// Bookmarks that it may have; 0 forbids them. Default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1000)]
    pub bookmarks: Option<u32>,
    /// Bytes that the copies of all its bookmarks may take. Default 16 MiB.
    #[serde(with = "units::size_option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "16MiB")]
    pub bookmark_bytes: Option<u64>,
}

/// The ceiling of a plan that says nothing of it, unless its rate is above.
const DEFAULT_CEILING: f64 = 100_000.0;
/// The highest rate, and the highest ceiling.
const MAX_RATE: f64 = 10_000_000.0;
const MAX_QUEUED: u64 = 1 << 50;
/// Fuel a second of a plan that says nothing of it.
const DEFAULT_FUEL: u64 = 3_000_000_000;
const MAX_FUEL: u64 = 1_000_000_000_000_000;
/// Compiled code of a plan that says nothing of it.
const DEFAULT_COMPILED: u64 = 512 << 20;
const MAX_COMPILED: u64 = 1 << 40;
const MAX_TABLES: u64 = 1 << 40;
/// Bookmarks, and bytes of them, of a plan that says nothing of them.
const DEFAULT_BOOKMARKS: u32 = 100;
const MAX_BOOKMARKS: u32 = 1000;
const DEFAULT_BOOKMARKED: u64 = 16 << 20;
const MAX_BOOKMARKED: u64 = 1 << 40;

impl Default for PlanSpec {
    fn default() -> Self {
        Self {
            rate: 1000.0,
            burst: 2000,
            weight: 1,
            in_flight: 512,
            ceiling: None,
            queued_bytes: 1 << 30,
            table_bytes: 16 << 20,
            shards: None,
            plugin_fuel: None,
            plugin_bytes: None,
            delivery_rate: None,
            bookmarks: None,
            bookmark_bytes: None,
        }
    }
}

impl PlanSpec {
    /// What its bookmarks may take.
    pub fn bookmark_limits(&self) -> BookmarkLimits {
        BookmarkLimits {
            count: self.bookmarks.unwrap_or(DEFAULT_BOOKMARKS).into(),
            bytes: self.bookmark_bytes.unwrap_or(DEFAULT_BOOKMARKED),
        }
    }
}

impl TenantRecord {
    /// Checks it and makes it ready for use.
    pub(in crate::control) fn prepare(&self, id: TenantId) -> Result<Arc<Tenant>, Vec<FieldError>> {
        let mut faults = Faults::default();
        let PlanSpec { rate, burst, weight, in_flight, ceiling, queued_bytes, table_bytes, shards: _, .. } = self.plan;
        let PlanSpec { plugin_fuel, plugin_bytes, delivery_rate, .. } = self.plan;
        check_name("name", &self.name, &mut faults);
        faults.range("plan.rate", rate, 0.001, MAX_RATE);
        faults.range("plan.burst", burst, 1, 100_000_000);
        faults.range("plan.weight", weight, 1, 1_000);
        faults.range("plan.in_flight", in_flight, 1, 1_000_000);
        let ceiling = ceiling.unwrap_or(DEFAULT_CEILING.max(rate));
        if ceiling < rate {
            faults.add("plan.ceiling", format!("must be at least plan.rate, which is {rate}, not {ceiling}"));
        } else {
            faults.range("plan.ceiling", ceiling, 0.001, MAX_RATE);
        }
        faults.range("plan.queued_bytes", queued_bytes, 1, MAX_QUEUED);
        let (plugin_fuel, plugin_bytes) = (plugin_fuel.unwrap_or(DEFAULT_FUEL), plugin_bytes.unwrap_or(DEFAULT_COMPILED));
        faults.range("plan.plugin_fuel", plugin_fuel, 0, MAX_FUEL);
        faults.range("plan.plugin_bytes", plugin_bytes, 0, MAX_COMPILED);
        faults.range("plan.table_bytes", table_bytes, 0, MAX_TABLES);
        check_rate("plan.delivery_rate", delivery_rate, &mut faults);
        let bookmarks = self.plan.bookmark_limits();
        faults.range("plan.bookmarks", bookmarks.count, 0, MAX_BOOKMARKS.into());
        faults.range("plan.bookmark_bytes", bookmarks.bytes, 0, MAX_BOOKMARKED);
        let plan =
            Plan { rate, burst, weight, in_flight, ceiling, queued_bytes, table_bytes, plugin_fuel, plugin_bytes, delivery_rate };
        let shards = Shards::new(self.shard, self.further.clone());
        faults.or(Arc::new(Tenant { id, name: self.name.clone(), shards, plan, deleting: self.deleting }))
    }
}
