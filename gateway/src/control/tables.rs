//! Plugins' tables as people see and fill them. What plugins themselves do with them goes past the configuration.

use std::time::Duration;

use bytes::Bytes;

use super::homes::Homes;
use super::model::{Kind, Plugins, Tenants};
use super::service::{Control, Error};
use super::state::State;
use crate::event::{PluginId, TenantId};
use crate::store::table::MAX_TABLE_OPS;
use crate::store::{
    ConfigChange, Home, Page, Table, TableAnswer, TableEntry, TableFault, TableKey, TableOp, TablePage, TableResult, TableUse,
};

/// An entry to be written: its key, its value and its time to live.
pub type Load = (TableKey, Bytes, Option<Duration>);

impl Control {
    /// The table of a plugin that is there, and what the tables of its tenant may take.
    fn table_of(&self, owner: TenantId, plugin: &str) -> Result<(Table, u64), Error> {
        let plugin = self.get::<Plugins>(owner, plugin)?.id;
        let state = self.state();
        let tenant = state.tenant(owner).ok_or_else(|| Error::missing::<Tenants>(&owner.to_string()))?;
        let parts = &tenant.entry.parts;
        Ok((Table { home: Home { tenant: owner, shard: parts.shards.home() }, plugin }, parts.plan.table_bytes))
    }

    async fn table_call(&self, owner: TenantId, plugin: &str, ops: &[(TableKey, TableOp)]) -> Result<Vec<TableResult>, Error> {
        let (table, quota) = self.table_of(owner, plugin)?;
        Ok(self.store.table(table, None, ops, quota, self.clock.now()).await?)
    }

    /// What an entry of a plugin's table holds.
    pub async fn table_value(&self, owner: TenantId, plugin: &str, key: &TableKey) -> Result<Bytes, Error> {
        let answers = self.table_call(owner, plugin, &[(key.clone(), TableOp::Get)]).await?;
        match answers.into_iter().next() {
            Some(Ok(TableAnswer::Value(Some(value)))) => Ok(value),
            _ => Err(missing(key)),
        }
    }

    /// Writes an entry.
    pub async fn set_table_value(&self, owner: TenantId, plugin: &str, (key, value, ttl): Load) -> Result<(), Error> {
        let answers = self.table_call(owner, plugin, &[(key, TableOp::Set { value, ttl })]).await?;
        answers.into_iter().try_for_each(|answer| answer.map(drop)).map_err(Error::Table)
    }

    /// Takes an entry away.
    pub async fn delete_table_value(&self, owner: TenantId, plugin: &str, key: &TableKey) -> Result<(), Error> {
        match self.table_call(owner, plugin, &[(key.clone(), TableOp::Delete)]).await?[..] {
            [Ok(TableAnswer::Deleted(true))] => Ok(()),
            _ => Err(missing(key)),
        }
    }

    /// Writes many entries, in order. Not all or nothing: answers how many were written, and why the next was not, if one was not.
    pub async fn load_table(&self, owner: TenantId, plugin: &str, entries: Vec<Load>) -> Result<(u64, Option<TableFault>), Error> {
        let mut loaded = 0;
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let chunk = entries.by_ref().take(MAX_TABLE_OPS);
            let ops: Vec<_> = chunk.map(|(key, value, ttl)| (key, TableOp::Set { value, ttl })).collect();
            let answers = self.table_call(owner, plugin, &ops).await?;
            let fault = answers.iter().find_map(|answer| answer.as_ref().err());
            loaded += answers.iter().filter(|answer| answer.is_ok()).count() as u64;
            if let Some(fault) = fault {
                return Ok((loaded, Some(*fault)));
            }
        }
        Ok((loaded, None))
    }

    /// A page of a plugin's table, in order of keys.
    pub async fn table_page(&self, owner: TenantId, plugin: &str, page: &TablePage) -> Result<Page<TableEntry, TableKey>, Error> {
        let (table, _) = self.table_of(owner, plugin)?;
        Ok(self.store.table_page(table, page, self.clock.now()).await?)
    }

    /// What all tables of a tenant take.
    pub async fn table_use(&self, homes: &Homes) -> Result<TableUse, Error> {
        Ok(self.store.table_use(homes.at(homes.shards.home())).await?)
    }

    /// Takes the tables of plugins away that `changes` have deleted. What a plugin writes to one later, because an event was in its hands
    /// just then, stays until it ends, or until its tenant goes.
    pub(super) async fn drop_tables_of(&self, deleted: Vec<(Home, PluginId)>) {
        for (home, plugin) in deleted {
            if let Err(error) = self.drop_tables(home, Some(plugin)).await {
                tracing::warn!(tenant = %home.tenant, %plugin, %error, "the table of a deleted plugin is still there");
            }
        }
    }

    /// Takes a plugin's table away, or all of a tenant.
    pub(super) async fn drop_tables(&self, home: Home, plugin: Option<PluginId>) -> Result<(), Error> {
        while self.store.drop_tables(home, plugin).await? > 0 {}
        Ok(())
    }
}

fn missing(key: &TableKey) -> Error {
    Error::NotFound { kind: "entry", reference: key.as_str().chars().take(80).collect() }
}

/// The plugins that changes of the configuration delete, with where their tables are. A tenant that is being deleted is purged by the
/// owners of its shards.
pub(super) fn deleted_plugins(state: &State, changes: &[ConfigChange]) -> Vec<(Home, PluginId)> {
    let deleted = changes.iter().filter(|(_, record)| record.is_none()).filter_map(|(key, _)| {
        let (tenant, plugin) = key.strip_prefix(Plugins::KEY)?.strip_prefix('/')?.split_once('/')?;
        let parts = &state.tenant(tenant.parse().ok()?)?.entry.parts;
        let home = Home { tenant: parts.id, shard: parts.shards.home() };
        parts.deleting.is_none().then_some((home, plugin.parse().ok()?))
    });
    deleted.collect()
}
