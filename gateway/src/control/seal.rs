//! Secrets at rest.
//!
//! A sealed text is `1.<key>.<base64 of nonce, ciphertext and tag>`: AES-256-GCM under the encryption key whose id is `<key>`, a
//! random nonce each, and as associated data the resource's id and the field, so that a sealed text can't be moved to another
//! place. Specs are sealed as JSON: the places that hold secrets are patterns like `plugins/*/secrets/*`.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use crate::secret::Secret;

/// What the text of an encryption key starts with.
pub const KEY_PREFIX: &str = "tgek_";

/// What can go wrong with sealed texts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not a key.
    #[error("not an encryption key: `tidegate init` makes one, `{KEY_PREFIX}` and 64 hex digits")]
    NotAKey,
    /// The system gives no randomness.
    #[error("the system gives no random numbers")]
    NoRandomness,
    /// Sealed under a key that this node doesn't have.
    #[error("sealed under encryption key `{0}`, which is not configured here: add it to `keys.previous_encryption`")]
    UnknownKey(String),
    /// Damaged, or moved here from somewhere else.
    #[error("a sealed text is damaged, or not of this place")]
    Damaged,
}

/// Seals and opens.
pub struct Sealer {
    // The first one seals; all open.
    keys: Vec<(String, LessSafeKey)>,
    random: SystemRandom,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<&str> = self.keys.iter().map(|(id, _)| id.as_str()).collect();
        f.debug_struct("Sealer").field("keys", &ids).finish()
    }
}

/// A new encryption key.
pub fn generate_key() -> Result<Secret, SealError> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| SealError::NoRandomness)?;
    Ok(Secret::new(format!("{KEY_PREFIX}{}", hex::encode(bytes))))
}

impl Sealer {
    /// Seals under `current`; opens what was sealed under it or an earlier one.
    pub fn new(current: &Secret, previous: &[Secret]) -> Result<Self, SealError> {
        let keys = std::iter::once(current).chain(previous).map(parse_key).collect::<Result<_, _>>()?;
        Ok(Self { keys, random: SystemRandom::new() })
    }

    /// Whether it can open what was sealed under this key.
    pub fn has(&self, key: &str) -> bool {
        self.keys.iter().any(|(known, _)| known == key)
    }

    /// Seals `text` for this place.
    pub fn seal(&self, place: &str, text: &str) -> Result<String, SealError> {
        let (id, key) = &self.keys[0];
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
        let mut sealed = text.as_bytes().to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut sealed)
            .map_err(|_| SealError::Damaged)?;
        let mut bytes = nonce.to_vec();
        bytes.extend_from_slice(&sealed);
        Ok(format!("1.{id}.{}", STANDARD_NO_PAD.encode(bytes)))
    }

    /// Opens what was sealed for this place.
    pub fn open(&self, place: &str, sealed: &str) -> Result<Secret, SealError> {
        let mut parts = sealed.splitn(3, '.');
        let (Some("1"), Some(id), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(SealError::Damaged);
        };
        let known = self.keys.iter().find(|(known, _)| known == id);
        let (_, key) = known.ok_or_else(|| SealError::UnknownKey(id.chars().take(16).collect()))?;
        let bytes = STANDARD_NO_PAD.decode(text).map_err(|_| SealError::Damaged)?;
        let (nonce, rest) = bytes.split_at_checked(NONCE_LEN).ok_or(SealError::Damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Damaged)?;
        let mut rest = rest.to_vec();
        let text = key.open_in_place(nonce, Aad::from(place), &mut rest).map_err(|_| SealError::Damaged)?;
        String::from_utf8(text.to_vec()).map(Secret::new).map_err(|_| SealError::Damaged)
    }

    /// Seals every secret in `spec`.
    pub fn seal_json(&self, id: &str, patterns: &[&str], spec: &mut Value) -> Result<(), SealError> {
        for_secrets(spec, patterns, &mut |pattern, value| {
            if let Value::String(text) = value {
                *value = json!({ SEALED: self.seal(&place(id, pattern), text)? });
            }
            Ok(())
        })
    }

    /// Opens every secret in `spec` that is sealed.
    pub fn open_json(&self, id: &str, patterns: &[&str], spec: &mut Value) -> Result<(), SealError> {
        for_secrets(spec, patterns, &mut |pattern, value| {
            if let Some(sealed) = value.get(SEALED) {
                let text = sealed.as_str().ok_or(SealError::Damaged)?;
                *value = Value::String(self.open(&place(id, pattern), text)?.expose().to_owned());
            }
            Ok(())
        })
    }
}

const SEALED: &str = "sealed";

/// Adds the ids of the keys that secrets in a stored record are sealed under. What is no record has none.
pub fn keys_in(record: &[u8], found: &mut BTreeSet<String>) {
    fn look(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| look(item, found)),
            Value::Object(fields) => {
                let sealed = fields.get(SEALED).and_then(Value::as_str).and_then(|sealed| sealed.strip_prefix("1."));
                found.extend(sealed.and_then(|rest| rest.split('.').next()).map(str::to_owned));
                fields.values().for_each(|field| look(field, found));
            }
            _ => {}
        }
    }
    if let Ok(record) = serde_json::from_slice(record) {
        look(&record, found);
    }
}

/// Takes the sealed texts out of `spec`, leaving `{"sealed": true}`: what the API shows.
pub fn redact_json(patterns: &[&str], spec: &mut Value) {
    let redacted: Result<(), std::convert::Infallible> = for_secrets(spec, patterns, &mut |_, value| {
        *value = json!({ SEALED: true });
        Ok(())
    });
    match redacted {
        Ok(()) => {}
    }
}

/// Whether this is what the API shows in a secret's place.
pub fn is_redacted(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.len() == 1 && object.get(SEALED) == Some(&Value::Bool(true)))
}

fn place(id: &str, pattern: &str) -> String {
    format!("{id}/{pattern}")
}

fn for_secrets<E>(spec: &mut Value, patterns: &[&str], act: &mut impl FnMut(&str, &mut Value) -> Result<(), E>) -> Result<(), E> {
    patterns.iter().try_for_each(|pattern| walk(spec, pattern, pattern, act))
}

fn walk<E>(value: &mut Value, rest: &str, pattern: &str, act: &mut impl FnMut(&str, &mut Value) -> Result<(), E>) -> Result<(), E> {
    if rest.is_empty() {
        return if value.is_null() { Ok(()) } else { act(pattern, value) };
    }
    let (head, rest) = rest.split_once('/').unwrap_or((rest, ""));
    match (value, head) {
        (Value::Array(list), "*") => list.iter_mut().try_for_each(|item| walk(item, rest, pattern, act)),
        (Value::Object(map), "*") => map.values_mut().try_for_each(|item| walk(item, rest, pattern, act)),
        (Value::Object(map), name) => map.get_mut(name).map_or(Ok(()), |item| walk(item, rest, pattern, act)),
        _ => Ok(()),
    }
}

fn parse_key(secret: &Secret) -> Result<(String, LessSafeKey), SealError> {
    let text = secret.expose().strip_prefix(KEY_PREFIX).ok_or(SealError::NotAKey)?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| SealError::NotAKey)?;
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"tidegate encryption key id");
    context.update(&bytes);
    let id = hex::encode(&context.finish().as_ref()[..4]);
    let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| SealError::NotAKey)?;
    Ok((id, LessSafeKey::new(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_text_opens_only_in_its_place_and_with_its_key() {
        let old = generate_key().expect("random");
        let new = generate_key().expect("random");
        let sealer = Sealer::new(&old, &[]).expect("a key");
        let sealed = sealer.seal("src_1/auth/key", "hunter2").expect("seals");
        assert!(!sealed.contains("hunter2"));
        assert_ne!(sealed, sealer.seal("src_1/auth/key", "hunter2").expect("seals"), "nonces differ");
        assert_eq!(sealer.open("src_1/auth/key", &sealed).expect("opens").expose(), "hunter2");
        assert_eq!(sealer.open("src_2/auth/key", &sealed), Err(SealError::Damaged));
        let rotated = Sealer::new(&new, std::slice::from_ref(&old)).expect("keys");
        assert_eq!(rotated.open("src_1/auth/key", &sealed).expect("opens").expose(), "hunter2");
        let other = Sealer::new(&new, &[]).expect("a key");
        assert!(matches!(other.open("src_1/auth/key", &sealed), Err(SealError::UnknownKey(_))));
        for damaged in ["", "1", "1.x", "2.a.b", "1..", &sealed[..sealed.len() - 2]] {
            assert!(sealer.open("src_1/auth/key", damaged).is_err(), "{damaged}");
        }
    }

    #[test]
    fn json_is_sealed_by_pattern_and_opened_again() {
        let sealer = Sealer::new(&generate_key().expect("random"), &[]).expect("a key");
        let patterns = ["auth/key", "plugins/*/secrets/*"];
        let spec = json!({"auth": {"key": "hunter2"}, "plugins": [{"secrets": {"a": "hunter3"}}, {}], "other": "seen"});
        let mut sealed = spec.clone();
        sealer.seal_json("x", &patterns, &mut sealed).expect("seals");
        assert!(!sealed.to_string().contains("hunter") && sealed.to_string().contains("seen"), "{sealed}");
        let mut shown = sealed.clone();
        redact_json(&patterns, &mut shown);
        assert_eq!(shown["plugins"][0]["secrets"]["a"], json!({"sealed": true}));
        let mut keys = BTreeSet::new();
        keys_in(sealed.to_string().as_bytes(), &mut keys);
        assert!(keys.len() == 1 && keys.iter().all(|key| sealer.has(key)), "{keys:?}");
        assert!(!sealer.has("00000000"));
        sealer.open_json("x", &patterns, &mut sealed).expect("opens");
        assert_eq!(sealed, spec);
    }

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        let error = Sealer::new(&Secret::new("hunter2"), &[]).expect_err("is no key");
        assert!(!error.to_string().contains("hunter2"));
    }
}
