//! Create, read, change, delete and list what belongs to a tenant.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Control, Error};
use crate::clock::Timestamp;
use crate::control::draft::Owned;
use crate::control::model::Kind;
use crate::control::seal::is_redacted;
use crate::control::state::{Entry, Table};
use crate::event::TenantId;

/// How long an idempotency key is remembered.
pub(super) const IDEMPOTENCY: Duration = Duration::from_secs(24 * 60 * 60);

/// The most rows of a page.
pub const MAX_LIMIT: usize = 200;

/// A page of a listing.
#[derive(Debug)]
pub struct Listed<K: Kind> {
    /// The rows, oldest first.
    pub items: Vec<Arc<Entry<K>>>,
    /// Where the next page starts, if there is one.
    pub next: Option<String>,
}

/// A request that may come again.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// What the caller calls it, with whose it is and what it asks for.
    pub key: String,
    /// A hash of the request's body.
    pub body: [u8; 32],
}

/// From what a new resource's id and secrets are made: the same when the request comes again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Seed {
    body: Vec<u8>,
    pub(super) now: Timestamp,
    pub(super) id: [u8; 16],
    /// Sealed.
    pub(super) secret: String,
}

impl Seed {
    pub(super) fn id<K: Kind>(&self) -> K::Id {
        K::new_id(self.now, u128::from_be_bytes(self.id))
    }
}

impl Control {
    /// Makes a new one. The same request under the same idempotency key gives the same one.
    pub async fn create<K: Owned>(
        &self,
        owner: TenantId,
        spec: K::Spec,
        again: Option<&Idempotency>,
    ) -> Result<Arc<Entry<K>>, Error> {
        let id = self.seed(again).await?.id::<K>();
        self.change(|draft| match K::table(draft.tenant(owner)?).get(id) {
            Some(made) => Ok(Arc::clone(made)),
            None => draft.put::<K>(owner, id, spec.clone()),
        })
        .await
    }

    /// By id or name.
    pub fn get<K: Owned>(&self, owner: TenantId, reference: &str) -> Result<Arc<Entry<K>>, Error> {
        let state = self.state();
        let entry = state.tenant(owner).and_then(|tenant| K::table(tenant).find(reference));
        entry.cloned().ok_or_else(|| Error::missing::<K>(reference))
    }

    /// A page, oldest first.
    pub fn list<K: Owned>(&self, owner: TenantId, cursor: Option<&str>, limit: usize) -> Result<Listed<K>, Error> {
        let state = self.state();
        let tenant = state.tenant(owner).ok_or_else(|| Error::missing::<crate::control::model::Tenants>(&owner.to_string()))?;
        page(K::table(tenant), cursor, limit)
    }

    /// Changes what `patch` names (RFC 7396) and leaves the rest, secrets too. One that names `enabled` as true takes back that the gateway
    /// disabled it.
    pub async fn patch<K: Owned>(&self, owner: TenantId, reference: &str, patch: &Value) -> Result<Arc<Entry<K>>, Error> {
        self.change(|draft| {
            let found = K::table(draft.tenant(owner)?).find(reference).cloned();
            let entry = found.ok_or_else(|| Error::missing::<K>(reference))?;
            let mut spec = entry.sealed.clone();
            merge(&mut spec, patch);
            draft.with().sealer.open_json(&entry.id.to_string(), K::SECRETS, &mut spec).map_err(|_| sealed_by_hand())?;
            let spec: K::Spec = serde_path_to_error::deserialize(spec).map_err(|error| {
                let field = error.path().to_string();
                Error::field(if field == "." { String::new() } else { field }, error.into_inner().to_string())
            })?;
            let open = entry.open(draft.with())?;
            let enables = patch.get("enabled") == Some(&Value::Bool(true));
            let condition = if enables { entry.condition.afresh(self.clock.now()) } else { entry.condition.clone() };
            // Sealing makes new bytes each time: what is the same is left alone.
            if condition == entry.condition && serde_json::to_value(&open).ok() == serde_json::to_value(&spec).ok() {
                return Ok(entry);
            }
            draft.put_with::<K>(owner, entry.id, spec, condition)
        })
        .await
    }

    /// Takes it away, unless something refers to it.
    pub async fn delete<K: Owned>(&self, owner: TenantId, reference: &str) -> Result<(), Error> {
        self.change(|draft| {
            let found = K::table(draft.tenant(owner)?).find(reference).map(|entry| entry.id);
            draft.delete::<K>(owner, found.ok_or_else(|| Error::missing::<K>(reference))?)
        })
        .await
    }

    /// When a request was first made that may come again.
    pub(in crate::control) async fn moment(&self, again: Option<&Idempotency>) -> Result<Timestamp, Error> {
        Ok(self.seed(again).await?.now)
    }

    pub(super) async fn seed(&self, again: Option<&Idempotency>) -> Result<Seed, Error> {
        let body = again.map_or_else(Vec::new, |again| again.body.to_vec());
        let secret = hex::encode(self.random::<32>()?);
        let mut seed = Seed { body, now: self.clock.now(), id: self.random()?, secret };
        let Some(again) = again else { return Ok(seed) };
        let place = format!("idempotency/{}", again.key);
        seed.secret = self.preparer.sealer.seal(&place, &seed.secret)?;
        let value = Bytes::from(serde_json::to_vec(&seed).expect("plain data"));
        if let Some(first) = self.remember(&place, value).await? {
            seed = serde_json::from_slice(&first).map_err(|error| Error::Unusable(error.to_string()))?;
            if seed.body != again.body {
                return Err(Error::OtherRequest);
            }
        }
        seed.secret = self.preparer.sealer.open(&place, &seed.secret)?.expose().to_owned();
        Ok(seed)
    }
}

pub(super) fn page<K: Kind>(table: &Table<K>, cursor: Option<&str>, limit: usize) -> Result<Listed<K>, Error> {
    let after = cursor.map(parse_cursor).transpose()?;
    let limit = limit.clamp(1, MAX_LIMIT);
    let mut items: Vec<Arc<Entry<K>>> = table.after(after).take(limit + 1).cloned().collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| last.id.to_string());
    Ok(Listed { items, next })
}

pub(in crate::control) fn parse_cursor<T: std::str::FromStr>(cursor: &str) -> Result<T, Error> {
    cursor.parse().map_err(|_| Error::field("cursor", "is not one that this listing gave: leave it out for the first page"))
}

fn sealed_by_hand() -> Error {
    Error::field("", "a secret is given as its text, or left out to stay as it is")
}

/// RFC 7396, but `{"sealed": true}` in a secret's place leaves it as it is, so that what was shown can be sent back.
fn merge(target: &mut Value, patch: &Value) {
    if is_redacted(patch) {
        return;
    }
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(map) = target else { return };
    for (name, value) in patch {
        match value {
            Value::Null => {
                map.remove(name);
            }
            value => merge(map.entry(name).or_insert(Value::Null), value),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merging_follows_rfc_7396_and_keeps_what_is_sealed() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "token": {"sealed": "1.x.y"}, "list": [1, 2]});
        merge(&mut target, &json!({"a": {"b": null, "d": {"e": null}}, "token": {"sealed": true}, "list": [3]}));
        assert_eq!(target, json!({"a": {"c": 2, "d": {}}, "token": {"sealed": "1.x.y"}, "list": [3]}));
    }
}
