//! Signatures of what goes out. Pure.
//!
//! Standard Webhooks signs `id.timestamp.body`: v1 with HMAC-SHA256, v1a with Ed25519. Several keys sign at once, so that a receiver can
//! change to a new one while the old one still signs. Beside it there may be one header with an HMAC of the body alone, for receivers that
//! were made for other senders.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::clock::Timestamp;
use crate::secret::Secret;

/// Keys that sign at once.
pub const MAX_SECRETS: usize = 4;
/// Bytes of an HMAC key, as the specification gives them.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Before an HMAC key.
const HMAC_PREFIX: &str = "whsec_";
/// Before an Ed25519 private key.
const PRIVATE_PREFIX: &str = "whsk_";
/// Before an Ed25519 public key.
const PUBLIC_PREFIX: &str = "whpk_";
const ED25519_BYTES: usize = 32;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// A secret that cannot sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Too many.
    #[error("at most {MAX_SECRETS} secrets sign at once")]
    Count,
    /// Not base64, after `whsec_` or `whsk_` where that stands before it.
    #[error("is not base64")]
    Base64,
    /// Too short to protect, or too long.
    #[error("must be from {} to {} bytes long when decoded", KEY_BYTES.start(), KEY_BYTES.end())]
    Length,
    /// Not an Ed25519 key.
    #[error("must be an Ed25519 private key: {ED25519_BYTES} bytes, or with its public key {}", 2 * ED25519_BYTES)]
    Ed25519,
    /// The id cannot stand in a header.
    #[error("the id cannot stand in a header")]
    Id,
}

/// Signs for one destination.
#[derive(Debug, Default)]
pub struct Signer {
    keys: Vec<(SigningKey, Option<Timestamp>)>,
    hmac: Option<HmacHeader>,
}

/// A key of Standard Webhooks.
pub enum SigningKey {
    /// v1.
    Hmac(hmac::Key),
    /// v1a.
    Ed25519(Box<Ed25519KeyPair>),
}

/// A header with an HMAC of the body: `X-Hub-Signature-256: sha256=...`.
#[derive(Debug)]
pub struct HmacHeader {
    name: HeaderName,
    prefix: HeaderValue,
    encoding: Encoding,
    key: hmac::Key,
}

/// Which hash an HMAC uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// How a signature is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Lower case.
    Hex,
    /// With padding.
    Base64,
}

impl SigningKey {
    /// A key from its text: base64, after `whsec_` (or nothing) for HMAC, after `whsk_` for Ed25519.
    pub fn parse(secret: &Secret) -> Result<Self, SignError> {
        let text = secret.expose();
        if let Some(text) = text.strip_prefix(PRIVATE_PREFIX) {
            let bytes = STANDARD.decode(text).map_err(|_| SignError::Base64)?;
            let pair = match bytes.split_at_checked(ED25519_BYTES) {
                Some((seed, [])) => Ed25519KeyPair::from_seed_unchecked(seed),
                Some((seed, public)) => Ed25519KeyPair::from_seed_and_public_key(seed, public),
                None => return Err(SignError::Ed25519),
            };
            return pair.map(|pair| Self::Ed25519(Box::new(pair))).map_err(|_| SignError::Ed25519);
        }
        let bytes = STANDARD.decode(text.strip_prefix(HMAC_PREFIX).unwrap_or(text)).map_err(|_| SignError::Base64)?;
        if !KEY_BYTES.contains(&bytes.len()) {
            return Err(SignError::Length);
        }
        Ok(Self::Hmac(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// The text of a key of these bytes: `whsec_...`, or `whsk_...` for Ed25519.
    pub fn text(bytes: &[u8; 32], is_ed25519: bool) -> Secret {
        let prefix = if is_ed25519 { PRIVATE_PREFIX } else { HMAC_PREFIX };
        Secret::new(format!("{prefix}{}", STANDARD.encode(bytes)))
    }

    /// `whpk_...`, if receivers verify with another key than this.
    pub fn public(&self) -> Option<String> {
        match self {
            Self::Hmac(_) => None,
            Self::Ed25519(pair) => Some(format!("{PUBLIC_PREFIX}{}", STANDARD.encode(pair.public_key()))),
        }
    }

    fn sign(&self, id: &str, seconds: &str, body: &[u8], to: &mut String) {
        let pieces = [id.as_bytes(), b".", seconds.as_bytes(), b".", body];
        match self {
            Self::Hmac(key) => {
                let mut context = hmac::Context::with_key(key);
                pieces.iter().for_each(|piece| context.update(piece));
                to.push_str("v1,");
                STANDARD.encode_string(context.sign(), to);
            }
            Self::Ed25519(pair) => {
                to.push_str("v1a,");
                STANDARD.encode_string(pair.sign(&pieces.concat()), to);
            }
        }
    }
}

impl HmacHeader {
    /// A header of this name, with `prefix` before the signature. The key is the secret's bytes as they are.
    pub fn new(name: HeaderName, prefix: HeaderValue, algorithm: Algorithm, encoding: Encoding, secret: &Secret) -> Self {
        let algorithm = match algorithm {
            Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
        };
        let key = hmac::Key::new(algorithm, secret.expose().as_bytes());
        Self { name, prefix, encoding, key }
    }

    fn value(&self, body: &[u8]) -> HeaderValue {
        let tag = hmac::sign(&self.key, body);
        let text = match self.encoding {
            Encoding::Hex => hex::encode(tag),
            Encoding::Base64 => STANDARD.encode(tag),
        };
        HeaderValue::from_maybe_shared(Bytes::from([self.prefix.as_bytes(), text.as_bytes()].concat())).expect("checked, and plain")
    }
}

impl Signer {
    /// A signer with these keys, some until a time, and such a header.
    pub fn new(keys: Vec<(SigningKey, Option<Timestamp>)>, hmac: Option<HmacHeader>) -> Self {
        Self { keys, hmac }
    }

    /// The keys that sign.
    pub fn keys(&self) -> impl Iterator<Item = &SigningKey> {
        self.keys.iter().map(|(key, _)| key)
    }

    /// Sets `webhook-id`, `webhook-timestamp` and `webhook-signature` for this attempt, and the header of the body's HMAC.
    pub fn sign(&self, headers: &mut HeaderMap, id: &str, now: Timestamp, body: &[u8]) -> Result<(), SignError> {
        let id_value = HeaderValue::from_str(id).map_err(|_| SignError::Id)?;
        if let Some(header) = &self.hmac {
            headers.insert(header.name.clone(), header.value(body));
        }
        headers.insert(ID, id_value);
        let seconds = now.as_secs().to_string();
        let mut signatures = String::with_capacity(self.keys.len() * 48);
        for (key, _) in self.keys.iter().filter(|(_, until)| until.is_none_or(|until| now < until)) {
            if !signatures.is_empty() {
                signatures.push(' ');
            }
            key.sign(id, &seconds, body, &mut signatures);
        }
        if signatures.is_empty() {
            return Ok(());
        }
        headers.insert(TIMESTAMP, HeaderValue::from_maybe_shared(Bytes::from(seconds)).expect("digits"));
        headers.insert(SIGNATURE, HeaderValue::from_maybe_shared(Bytes::from(signatures)).expect("base64"));
        Ok(())
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hmac(_) => "Hmac",
            Self::Ed25519(_) => "Ed25519",
        })
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const OTHER: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const NOW: Timestamp = Timestamp(1_649_367_553_000);

    fn key(text: &str) -> Result<SigningKey, SignError> {
        SigningKey::parse(&Secret::new(text))
    }

    fn signed(keys: &[(&str, Option<Timestamp>)], id: &str, now: Timestamp, body: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let keys = keys.iter().map(|(text, until)| (key(text).unwrap(), *until)).collect();
        Signer::new(keys, None).sign(&mut headers, id, now, body).unwrap();
        headers
    }

    #[test]
    fn the_official_vector() {
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let headers = signed(&[(SECRET, None)], "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", NOW, body);
        assert_eq!(headers["webhook-id"], "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk");
        assert_eq!(headers["webhook-timestamp"], "1649367553");
        assert_eq!(headers["webhook-signature"], "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }

    #[test]
    fn the_official_library_verifies_with_either_secret() {
        let now = crate::clock::Clock::system().now();
        // That library takes texts only; any bytes are signed alike.
        let body = "{\"ä\": 1}".as_bytes();
        let headers = signed(&[(SECRET, None), (OTHER, None)], "msg_1", now, body);
        for secret in [SECRET, OTHER] {
            standardwebhooks::Webhook::new(secret).unwrap().verify(body, &headers).unwrap();
        }
        let stranger = standardwebhooks::Webhook::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        assert!(stranger.verify(body, &headers).is_err());
        assert!(standardwebhooks::Webhook::new(SECRET).unwrap().verify(b"other bytes", &headers).is_err());
    }

    #[test]
    fn ed25519_keys_sign_too_and_show_their_public_half() {
        // RFC 8032, section 7.1, test 1.
        let seed = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let public = hex::decode("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a").unwrap();
        for bytes in [seed.clone(), [seed, public.clone()].concat()] {
            let text = format!("whsk_{}", STANDARD.encode(bytes));
            assert_eq!(key(&text).unwrap().public(), Some(format!("whpk_{}", STANDARD.encode(&public))));
            let headers = signed(&[(SECRET, None), (&text, None)], "msg_1", NOW, b"{}");
            let (v1, v1a) = headers["webhook-signature"].to_str().unwrap().split_once(' ').unwrap();
            assert!(v1.starts_with("v1,"));
            let signature = STANDARD.decode(v1a.strip_prefix("v1a,").unwrap()).unwrap();
            UnparsedPublicKey::new(&ED25519, &public).verify(b"msg_1.1649367553.{}", &signature).unwrap();
        }
    }

    #[test]
    fn a_key_that_retires_signs_until_its_time() {
        let keys = [(SECRET, None), (OTHER, Some(Timestamp(NOW.0 + 1)))];
        let count = |now| signed(&keys, "msg_1", now, b"").get("webhook-signature").unwrap().to_str().unwrap().split(' ').count();
        assert_eq!((count(NOW), count(Timestamp(NOW.0 + 1))), (2, 1));
    }

    /// The example of GitHub's documentation on validating deliveries.
    #[test]
    fn a_header_for_receivers_that_were_made_for_others() {
        let header = |algorithm, encoding| {
            let name = HeaderName::from_static("x-hub-signature-256");
            let secret = Secret::new("It's a Secret to Everybody");
            let made = HmacHeader::new(name, HeaderValue::from_static("sha256="), algorithm, encoding, &secret);
            let mut headers = HeaderMap::new();
            let signer = Signer::new(Vec::new(), Some(made));
            signer.sign(&mut headers, "msg_1", NOW, b"Hello, World!").unwrap();
            assert_eq!((headers.len(), &headers["webhook-id"]), (2, &HeaderValue::from_static("msg_1")));
            headers["x-hub-signature-256"].to_str().unwrap().to_owned()
        };
        let hex = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert_eq!(header(Algorithm::Sha256, Encoding::Hex), format!("sha256={hex}"));
        assert_eq!(header(Algorithm::Sha256, Encoding::Base64), format!("sha256={}", STANDARD.encode(hex::decode(hex).unwrap())));
        assert_eq!(header(Algorithm::Sha1, Encoding::Hex).len(), 7 + 40);
        assert_eq!(header(Algorithm::Sha512, Encoding::Hex).len(), 7 + 128);
    }

    #[test]
    fn secrets_are_checked() {
        assert_eq!(key("whsec_?").unwrap_err(), SignError::Base64);
        assert_eq!(key("whsec_c2hvcnQ=").unwrap_err(), SignError::Length);
        assert_eq!(key("whsk_c2hvcnQ=").unwrap_err(), SignError::Ed25519);
        let wrong = format!("whsk_{}", STANDARD.encode([7; 64]));
        assert_eq!(key(&wrong).unwrap_err(), SignError::Ed25519, "the public key is another's");
        assert!(!format!("{:?}", Signer::new(vec![(key(SECRET).unwrap(), None)], None)).contains("C2FV"));
        for is_ed25519 in [false, true] {
            assert_eq!(key(SigningKey::text(&[1; 32], is_ed25519).expose()).unwrap().public().is_some(), is_ed25519);
        }
    }

    #[test]
    fn an_id_that_would_break_the_header_is_refused() {
        let mut headers = HeaderMap::new();
        let signer = Signer::new(vec![(key(SECRET).unwrap(), None)], None);
        assert_eq!(signer.sign(&mut headers, "a\r\nb: c", Timestamp(0), b""), Err(SignError::Id));
        assert!(headers.is_empty());
    }
}
