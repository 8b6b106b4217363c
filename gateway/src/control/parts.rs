//! How specs become what other modules run: the one place that calls their constructors.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::model::{Faults, LimitsSpec};
use crate::egress::policy::AddressPolicy;
use crate::egress::{Speaks, Target, TargetConfig, TargetError};
use crate::plugin::{Access, Limits, Secrets};
use crate::secret::Secret;

/// Where a spec comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody asks for it now: what this gateway doesn't allow is refused.
    Asked,
    /// It was taken before: what this gateway doesn't allow any more is held, so that it doesn't stop the gateway.
    Stored,
}

/// Stands where a stored destination's URL leads to what is not allowed any more. Never resolves (RFC 6761).
const HELD: &str = "https://held.invalid/";

/// A target, and whether deliveries to it are held because the address policy doesn't allow it any more.
pub(super) fn target(config: &TargetConfig, policy: &AddressPolicy, origin: Origin) -> Result<(Target, bool), TargetError> {
    match Target::new(config, policy) {
        Err(TargetError::Refused(refusal)) if origin == Origin::Stored => {
            tracing::warn!(destination = %config.destination, %refusal, "destination held: its address is not allowed any more");
            let held = TargetConfig { url: HELD.into(), speaks: Speaks::Http, ..config.clone() };
            Target::new(&held, &AddressPolicy::default()).map(|target| (target, true))
        }
        result => result.map(|target| (target, false)),
    }
}

pub(super) fn secrets(secrets: &BTreeMap<String, Secret>, sign_only: &[String]) -> Secrets {
    let mut handed = Secrets::default();
    for (name, secret) in secrets {
        let access = if sign_only.contains(name) { Access::Sign } else { Access::Read };
        handed.insert(name.clone(), Bytes::copy_from_slice(secret.expose().as_bytes()), access);
    }
    handed
}

/// The limits of a run: what is asked for, never above the gateway's ceilings.
pub(super) fn limits(spec: &LimitsSpec, ceilings: &Limits, field: &str, faults: &mut Faults) -> Limits {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let defaults = Limits::default();
    if let Some(fuel) = spec.fuel {
        faults.range(&format!("{field}.fuel"), fuel, 10_000, u64::MAX);
    }
    if let Some(memory) = spec.memory {
        faults.range(&format!("{field}.memory"), memory, 64 << 10, 4 << 30);
    }
    if let Some(time) = spec.time {
        faults.time(&format!("{field}.time"), time, Duration::from_millis(1), Duration::from_secs(3600));
    }
    if let Some(output) = spec.output {
        faults.range(&format!("{field}.output"), output, 1, 1 << 30);
    }
    Limits {
        fuel: spec.fuel.unwrap_or(defaults.fuel).min(ceilings.fuel),
        wall: spec.time.unwrap_or(defaults.wall).min(ceilings.wall),
        memory: spec.memory.map_or(defaults.memory, size).min(ceilings.memory),
        output_bytes: spec.output.map_or(defaults.output_bytes, size).min(ceilings.output_bytes),
        ..defaults
    }
}
