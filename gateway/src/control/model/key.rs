use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{Faults, FieldError, Kind, check_name};
use crate::clock::Timestamp;
use crate::event::{KeyId, TenantId};
use crate::secret::Secret;

/// What the text of an API key starts with.
pub const KEY_PREFIX: &str = "tgk_";

/// Hex digits of a key's secret part.
const SECRET_LEN: usize = 64;

/// API keys.
#[derive(Debug)]
pub enum Keys {}

impl Kind for Keys {
    type Id = KeyId;
    type Spec = KeyRecord;
    type Parts = KeyRecord;
    const NAME: &'static str = "key";
    const KEY: &'static str = "key";

    fn new_id(now: Timestamp, random: u128) -> KeyId {
        KeyId::new(now, random)
    }

    fn name(spec: &KeyRecord) -> &str {
        &spec.name
    }
}

/// A key as it is stored: never the key, only its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// What it is called.
    pub name: String,
    /// Whose data it opens; an operator's opens every tenant's.
    pub tenant: Option<TenantId>,
    /// SHA-256 of the key's text, in hex.
    pub hash: String,
}

impl KeyRecord {
    pub(in crate::control) fn prepare(&self) -> Result<Self, Vec<FieldError>> {
        let mut faults = Faults::default();
        check_name("name", &self.name, &mut faults);
        faults.or(self.clone())
    }
}

/// A key that was just made: its text is shown once.
#[derive(Debug)]
pub struct Minted {
    /// `tgk_`, the id's 26 characters, and 64 hex digits.
    pub text: Secret,
    /// What is stored of it.
    pub hash: String,
}

impl Minted {
    /// The key with this id and these random bytes.
    pub fn new(id: KeyId, random: &[u8; 32]) -> Self {
        let id = id.to_string();
        let text = format!("{KEY_PREFIX}{}{}", &id[KeyId::PREFIX.len()..], hex::encode(random));
        let hash = hex::encode(digest_of(&text));
        Self { text: Secret::new(text), hash }
    }
}

/// The id inside a key's text, if the text has a key's form.
pub fn parse_key(text: &str) -> Option<KeyId> {
    let rest = text.strip_prefix(KEY_PREFIX)?;
    let (id, secret) = rest.split_at_checked(rest.len().checked_sub(SECRET_LEN)?)?;
    secret.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| format!("{}{id}", KeyId::PREFIX).parse().ok())?
}

/// SHA-256 of a key's text. The key has 256 random bits, so that a slow hash would add nothing.
pub fn digest_of(text: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_carries_its_id() {
        let id = KeyId::new(Timestamp(1_700_000_000_000), 9);
        let minted = Minted::new(id, &[7; 32]);
        assert_eq!(parse_key(minted.text.expose()), Some(id));
        assert!(!format!("{minted:?}").contains(minted.text.expose()));
        for text in ["", "tgk_", "tgk_abc", &minted.text.expose()[1..], "tgk_é"] {
            assert_eq!(parse_key(text), None, "{text}");
        }
    }
}
