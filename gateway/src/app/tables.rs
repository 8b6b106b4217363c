//! The tables of plugins, in the store.

use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Clock;
use crate::control::snapshot::Snapshots;
use crate::plugin::table::{Place, TableAction, TableAnswer, TableFault, TableOp, TableResult, Tables};
use crate::store::table::{self, MAX_TABLE_TTL, Once, Table, TableKey};
use crate::store::{Home, Store};

/// Asks the store for what a plugin asks.
pub(super) struct StoredTables {
    store: Arc<dyn Store>,
    clock: Clock,
    /// Known once the configuration is loaded, which a plugin's run needs first.
    snapshots: OnceLock<Snapshots>,
}

impl StoredTables {
    pub(super) fn new(store: Arc<dyn Store>, clock: Clock) -> Self {
        Self { store, clock, snapshots: OnceLock::new() }
    }

    /// Where tenants' homes and plans are found.
    pub(super) fn follow(&self, snapshots: Snapshots) {
        let _ = self.snapshots.set(snapshots);
    }
}

#[async_trait]
impl Tables for StoredTables {
    async fn ask(&self, place: &Place, number: u32, op: &TableOp) -> Result<TableResult, Box<dyn Error + Send + Sync>> {
        let tenant = self.snapshots.get().and_then(|snapshots| snapshots.load().tenants.get(&place.tenant).cloned());
        let Some(tenant) = tenant else { return Ok(Err(TableFault::NoTable)) };
        let Ok(key) = op.key.parse::<TableKey>() else { return Ok(Err(TableFault::TooLarge)) };
        let table = Table { home: Home { tenant: place.tenant, shard: tenant.shards.home() }, plugin: place.plugin };
        let once = Once {
            event: place.event,
            connection: place.connection,
            stage: u8::try_from(place.stage).unwrap_or(u8::MAX),
            output: place.input,
            number,
        };
        let asked = [(key, asked(&op.action))];
        let answers = self.store.table(table, Some(once), &asked, tenant.plan.table_bytes, self.clock.now()).await?;
        let answer = answers.into_iter().next().ok_or("the store gave no answer")?;
        Ok(answer.map(told).map_err(fault))
    }
}

/// What a plugin asks, as the store is asked.
pub(crate) fn asked(action: &TableAction) -> table::TableOp {
    let ttl = |ttl: Option<u32>| ttl.map(|seconds| Duration::from_secs(seconds.max(1).into()).min(MAX_TABLE_TTL));
    match action {
        TableAction::Get => table::TableOp::Get,
        TableAction::Set { value, ttl: seconds } => table::TableOp::Set { value: value.clone(), ttl: ttl(*seconds) },
        TableAction::Add { value, ttl: seconds } => table::TableOp::Add { value: value.clone(), ttl: ttl(*seconds) },
        TableAction::Delete => table::TableOp::Delete,
        TableAction::Increment { by, ttl: seconds } => table::TableOp::Increment { by: *by, ttl: ttl(*seconds) },
    }
}

/// What the store answers, as a plugin is told.
pub(crate) fn told(answer: table::TableAnswer) -> TableAnswer {
    match answer {
        table::TableAnswer::Value(value) => TableAnswer::Value(value),
        table::TableAnswer::Done => TableAnswer::Done,
        table::TableAnswer::Added(changed) | table::TableAnswer::Deleted(changed) => TableAnswer::Changed(changed),
        table::TableAnswer::Number(number) => TableAnswer::Number(number),
    }
}

/// Why an operation was not done, in the same manner.
pub(crate) fn fault(fault: table::TableFault) -> TableFault {
    match fault {
        table::TableFault::Quota => TableFault::Quota,
        table::TableFault::NotANumber | table::TableFault::OutOfRange => TableFault::NotANumber,
        table::TableFault::TooLarge | table::TableFault::TimeToLive => TableFault::TooLarge,
    }
}
