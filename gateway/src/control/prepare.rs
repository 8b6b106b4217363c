//! From a spec to what is ready for use. What can't be prepared is not valid, so this is also the validation.

use super::model::{
    Connections, Destinations, FieldError, KeyRecord, Keys, Kind, PluginRecord, Plugins, Sources, TenantRecord, Tenants,
};
use super::parts::Origin;
use super::seal::Sealer;
use crate::egress::policy::AddressPolicy;
use crate::event::TenantId;
use crate::plugin::Limits;

/// What preparing needs to know of this gateway.
#[derive(Debug)]
pub struct Preparer {
    /// Seals and opens secrets.
    pub sealer: Sealer,
    /// The largest body that a source may be set to take.
    pub max_body: usize,
    /// The most that a plugin's run may be given.
    pub ceilings: Limits,
    /// The same for one that a sender or an attempt waits for.
    pub gate: Limits,
    /// What destinations may reach.
    pub policy: AddressPolicy,
}

/// A kind whose specs can be prepared.
pub trait Prepare: Kind {
    /// Checks a spec and makes it ready.
    fn prepare(
        owner: Option<TenantId>,
        id: Self::Id,
        spec: &Self::Spec,
        with: &Preparer,
        origin: Origin,
    ) -> Result<Self::Parts, Vec<FieldError>>;
}

impl Prepare for Tenants {
    fn prepare(
        _: Option<TenantId>,
        id: TenantId,
        spec: &TenantRecord,
        _: &Preparer,
        _: Origin,
    ) -> Result<Self::Parts, Vec<FieldError>> {
        spec.prepare(id)
    }
}

impl Prepare for Keys {
    fn prepare(_: Option<TenantId>, _: Self::Id, spec: &KeyRecord, _: &Preparer, _: Origin) -> Result<KeyRecord, Vec<FieldError>> {
        spec.prepare()
    }
}

impl Prepare for Sources {
    fn prepare(
        _: Option<TenantId>,
        _: Self::Id,
        spec: &Self::Spec,
        with: &Preparer,
        _: Origin,
    ) -> Result<Self::Parts, Vec<FieldError>> {
        spec.prepare(with.max_body, &with.gate)
    }
}

impl Prepare for Destinations {
    fn prepare(
        owner: Option<TenantId>,
        id: Self::Id,
        spec: &Self::Spec,
        with: &Preparer,
        origin: Origin,
    ) -> Result<Self::Parts, Vec<FieldError>> {
        spec.prepare(id, owner.expect("destinations have a tenant"), (&with.policy, &with.gate), origin)
    }
}

impl Prepare for Connections {
    fn prepare(
        _: Option<TenantId>,
        _: Self::Id,
        spec: &Self::Spec,
        with: &Preparer,
        _: Origin,
    ) -> Result<Self::Parts, Vec<FieldError>> {
        spec.prepare(&with.ceilings)
    }
}

impl Prepare for Plugins {
    fn prepare(
        _: Option<TenantId>,
        _: Self::Id,
        spec: &PluginRecord,
        _: &Preparer,
        _: Origin,
    ) -> Result<PluginRecord, Vec<FieldError>> {
        spec.prepare()
    }
}
