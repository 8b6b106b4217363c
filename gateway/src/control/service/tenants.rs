//! Tenants, and who may reach which.

use std::sync::Arc;

use serde_json::Value;

use super::crud::{Idempotency, MAX_LIMIT, parse_cursor};
use super::{Control, Error, Listed};
use crate::control::homes::Homes;
use crate::control::model::{PlanSpec, TenantRecord, TenantSpec, Tenants};
use crate::control::state::{Entry, State};
use crate::event::{Shard, TenantId};

/// Whose data the caller may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Operator,
    /// One tenant's.
    Tenant(TenantId),
}

impl Access {
    /// Refuses whoever is not an operator.
    pub fn operator(self) -> Result<(), Error> {
        match self {
            Self::Operator => Ok(()),
            Self::Tenant(_) => Err(Error::Forbidden("this needs an operator's key")),
        }
    }

    /// Whether that tenant is the caller's.
    pub fn reaches(self, tenant: TenantId) -> bool {
        self == Self::Operator || self == Self::Tenant(tenant)
    }
}

impl Control {
    /// The tenant that a request is for: the one it names, or the key's own.
    pub fn homes(&self, access: Access, named: Option<&str>) -> Result<Homes, Error> {
        let state = self.state();
        let tenant = match (access, named) {
            (_, Some(reference)) => self.tenant(access, reference)?,
            (Access::Tenant(id), None) => {
                let tenant = state.tenant(id).ok_or_else(|| Error::missing::<Tenants>(&id.to_string()))?;
                Arc::clone(&tenant.entry)
            }
            (Access::Operator, None) => {
                return Err(Error::field("tenant", "an operator's key needs `?tenant=` with a tenant's id or name"));
            }
        };
        Ok(tenant.homes())
    }

    /// A tenant by id or name. Another one than the caller's is not there.
    pub fn tenant(&self, access: Access, reference: &str) -> Result<Arc<Entry<Tenants>>, Error> {
        let state = self.state();
        let found = state.find_tenant(reference).filter(|tenant| access.reaches(tenant.id()));
        found.map(|tenant| Arc::clone(&tenant.entry)).ok_or_else(|| Error::missing::<Tenants>(reference))
    }

    /// A page of the tenants that the caller reaches, oldest first.
    pub fn tenants(&self, access: Access, cursor: Option<&str>, limit: usize) -> Result<Listed<Tenants>, Error> {
        let after: Option<TenantId> = cursor.map(parse_cursor).transpose()?;
        let limit = limit.clamp(1, MAX_LIMIT);
        let state = self.state();
        let rows = state.tenants().filter(|tenant| access.reaches(tenant.id()) && after.is_none_or(|after| tenant.id() > after));
        let mut items: Vec<Arc<Entry<Tenants>>> = rows.take(limit + 1).map(|tenant| Arc::clone(&tenant.entry)).collect();
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| last.id.to_string());
        Ok(Listed { items, next })
    }

    /// Makes a tenant, on the shards that have the fewest.
    pub async fn create_tenant(
        &self,
        access: Access,
        spec: &TenantSpec,
        again: Option<&Idempotency>,
    ) -> Result<Arc<Entry<Tenants>>, Error> {
        access.operator()?;
        let id = self.seed(again).await?.id::<Tenants>();
        self.change(|draft| {
            if let Some(made) = draft.state().tenant(id) {
                return Ok(Arc::clone(&made.entry));
            }
            let record = self.new_tenant(draft.state(), &spec.name, spec.plan)?;
            draft.put_tenant(id, &record)
        })
        .await
    }

    /// Changes a tenant's name or plan.
    pub async fn patch_tenant(&self, access: Access, reference: &str, patch: &TenantPatch) -> Result<Arc<Entry<Tenants>>, Error> {
        let id = self.tenant(access, reference)?.id;
        access.operator()?;
        self.change(|draft| {
            let tenant = draft.tenant(id)?;
            let mut record = tenant.entry.tenant();
            record.name = patch.name.clone().unwrap_or(record.name);
            if let Some(plan) = &patch.plan {
                let mut merged = serde_json::to_value(record.plan).expect("plain data");
                merge_flat(&mut merged, plan);
                record.plan =
                    serde_json::from_value::<PlanSpec>(merged).map_err(|error| Error::field("plan", error.to_string()))?;
                self.spread(draft.state(), &mut record)?;
            }
            if record == tenant.entry.tenant() {
                return Ok(Arc::clone(&tenant.entry));
            }
            draft.put_tenant(id, &record)
        })
        .await
    }

    /// A tenant to be made, as it is stored.
    pub(in crate::control) fn new_tenant(&self, state: &State, name: &str, plan: PlanSpec) -> Result<TenantRecord, Error> {
        let shard = self.emptiest_shards(state).next().unwrap_or_default();
        let mut record = TenantRecord { name: name.to_owned(), plan, shard, further: Vec::new(), deleting: None };
        self.spread(state, &mut record)?;
        Ok(record)
    }

    /// Gives a tenant as many shards as its plan asks for, if it does. None is taken away: what is in it would be out of reach.
    pub(in crate::control) fn spread(&self, state: &State, record: &mut TenantRecord) -> Result<(), Error> {
        let Some(wanted) = record.plan.shards.take() else { return Ok(()) };
        let (wanted, has, all) = (usize::from(wanted), 1 + record.further.len(), self.shards);
        if wanted < has {
            let message = format!("must be at least {has}, as many as the tenant has: shards are only added, never taken away");
            return Err(Error::field("plan.shards", message));
        }
        if wanted > usize::from(all).max(has) {
            return Err(Error::field("plan.shards", format!("must be from {has} to {all}: `dispatch.shards` is {all}")));
        }
        let others = self.emptiest_shards(state).filter(|shard| *shard != record.shard && !record.further.contains(shard));
        let added: Vec<Shard> = others.take(wanted - has).collect();
        record.further.extend(added);
        Ok(())
    }

    /// All shards, those that fewest tenants have first.
    fn emptiest_shards(&self, state: &State) -> impl Iterator<Item = Shard> + use<> {
        let mut counts = vec![0_usize; usize::from(self.shards)];
        for shard in state.tenants().flat_map(|tenant| tenant.entry.parts.shards.iter()) {
            if let Some(count) = counts.get_mut(usize::from(shard.0)) {
                *count += 1;
            }
        }
        let mut shards: Vec<u16> = (0..self.shards).collect();
        shards.sort_by_key(|shard| counts[usize::from(*shard)]);
        shards.into_iter().map(Shard)
    }
}

/// What to change of a tenant; what is left out stays.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TenantPatch {
    /// The name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The plan's fields that change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<PlanSpec>)]
    pub plan: Option<Value>,
}

fn merge_flat(target: &mut Value, patch: &Value) {
    if let (Value::Object(target), Value::Object(patch)) = (target, patch) {
        target.extend(patch.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
}
