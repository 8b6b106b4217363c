//! API keys.

use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::crud::{Idempotency, MAX_LIMIT, parse_cursor};
use super::{Access, Control, Error, Listed};
use crate::control::model::{KeyRecord, Keys, Minted, digest_of, parse_key};
use crate::control::state::Entry;
use crate::event::{KeyId, TenantId};
use crate::secret::Secret;

impl Control {
    /// Whose key this text is. The comparison takes as long for a wrong secret as for the right one.
    pub fn authenticate(&self, text: &str) -> Option<Access> {
        self.holder(text).map(|entry| entry.key().tenant.map_or(Access::Operator, Access::Tenant))
    }

    /// The key that this text is of, as [`Control::authenticate`] finds it.
    pub(in crate::control) fn holder(&self, text: &str) -> Option<Arc<Entry<Keys>>> {
        let state = self.state();
        let entry = state.key(parse_key(text)?)?;
        let mut known = [0; 32];
        hex::decode_to_slice(&entry.key().hash, &mut known).ok()?;
        bool::from(known.ct_eq(&digest_of(text))).then(|| Arc::clone(entry))
    }

    /// Makes a key; its text is in the answer and nowhere else. Without a tenant it is an operator's.
    pub async fn create_key(
        &self,
        access: Access,
        name: &str,
        tenant: Option<TenantId>,
        again: Option<&Idempotency>,
    ) -> Result<(Arc<Entry<Keys>>, Secret), Error> {
        match tenant {
            None => access.operator()?,
            Some(id) if !access.reaches(id) => return Err(Error::missing::<crate::control::model::Tenants>(&id.to_string())),
            Some(_) => {}
        }
        let seed = self.seed(again).await?;
        let id = seed.id::<Keys>();
        let mut secret = [0; 32];
        hex::decode_to_slice(&seed.secret, &mut secret).map_err(|error| Error::Unusable(error.to_string()))?;
        let minted = Minted::new(id, &secret);
        let record = KeyRecord { name: name.to_owned(), tenant, hash: minted.hash };
        let entry = self
            .change(|draft| {
                if let Some(made) = draft.state().key(id) {
                    return Ok(Arc::clone(made));
                }
                if let Some(tenant) = tenant {
                    draft.living(tenant)?;
                }
                let taken = draft.state().keys.values().any(|key| key.key().tenant == tenant && key.name == record.name);
                if taken {
                    return Err(Error::Taken { kind: "key", name: record.name.clone() });
                }
                draft.put_key(id, &record)
            })
            .await?;
        Ok((entry, minted.text))
    }

    /// A key. Another tenant's is not there.
    pub fn key(&self, access: Access, reference: &str) -> Result<Arc<Entry<Keys>>, Error> {
        let missing = || Error::missing::<Keys>(reference);
        let id: KeyId = reference.parse().map_err(|_| missing())?;
        let state = self.state();
        let found = state.key(id).filter(|entry| sees(access, entry));
        found.cloned().ok_or_else(missing)
    }

    /// A page of the keys that the caller sees, oldest first; only that tenant's if one is given.
    pub fn keys(
        &self,
        access: Access,
        tenant: Option<TenantId>,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Listed<Keys>, Error> {
        let after: Option<KeyId> = cursor.map(parse_cursor).transpose()?;
        let limit = limit.clamp(1, MAX_LIMIT);
        let state = self.state();
        let rows = state.keys.values().filter(|entry| {
            sees(access, entry)
                && tenant.is_none_or(|tenant| entry.key().tenant == Some(tenant))
                && after.is_none_or(|after| entry.id > after)
        });
        let mut items: Vec<Arc<Entry<Keys>>> = rows.take(limit + 1).cloned().collect();
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| last.id.to_string());
        Ok(Listed { items, next })
    }

    /// Takes a key away: it opens nothing from now on.
    pub async fn delete_key(&self, access: Access, reference: &str) -> Result<(), Error> {
        let id = self.key(access, reference)?.id;
        self.change(|draft| {
            draft.delete_key(id);
            Ok(())
        })
        .await
    }
}

fn sees(access: Access, entry: &Entry<Keys>) -> bool {
    match access {
        Access::Operator => true,
        Access::Tenant(tenant) => entry.key().tenant == Some(tenant),
    }
}
