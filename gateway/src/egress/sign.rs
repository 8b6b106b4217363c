//! Signatures of what goes out: Standard Webhooks v1 (HMAC-SHA256 over `id.timestamp.body`). Pure.
//!
//! Several secrets sign at once, so that a receiver can change to a new one while the old one still signs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;

use crate::clock::Timestamp;
use crate::secret::Secret;

/// Secrets that sign at once.
pub const MAX_SECRETS: usize = 4;
/// Bytes of a key, as the specification gives them.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// A secret that cannot sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// None, or too many.
    #[error("from 1 to {MAX_SECRETS} secrets are needed")]
    Count,
    /// Not base64, after `whsec_` where that stands before it.
    #[error("secret {index} is not base64")]
    Base64 {
        /// Which one, from 0.
        index: usize,
    },
    /// Too short to protect, or too long.
    #[error("secret {index} must be from {} to {} bytes long when decoded", KEY_BYTES.start(), KEY_BYTES.end())]
    Length {
        /// Which one, from 0.
        index: usize,
    },
    /// The id cannot stand in a header.
    #[error("the id cannot stand in a header")]
    Id,
}

/// Signs for one destination.
#[derive(Clone, Debug)]
pub struct Signer {
    keys: Vec<hmac::Key>,
}

impl Signer {
    /// A signer with these secrets: base64, usually after `whsec_`.
    pub fn new(secrets: &[Secret]) -> Result<Self, SignError> {
        if !(1..=MAX_SECRETS).contains(&secrets.len()) {
            return Err(SignError::Count);
        }
        let key = |(index, secret): (usize, &Secret)| {
            let text = secret.expose();
            let bytes = STANDARD.decode(text.strip_prefix("whsec_").unwrap_or(text)).map_err(|_| SignError::Base64 { index })?;
            if !KEY_BYTES.contains(&bytes.len()) {
                return Err(SignError::Length { index });
            }
            Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
        };
        Ok(Self { keys: secrets.iter().enumerate().map(key).collect::<Result<_, _>>()? })
    }

    /// Sets `webhook-id`, `webhook-timestamp` and `webhook-signature` for this attempt.
    pub fn sign(&self, headers: &mut HeaderMap, id: &str, now: Timestamp, body: &[u8]) -> Result<(), SignError> {
        let id_value = HeaderValue::from_str(id).map_err(|_| SignError::Id)?;
        let seconds = now.as_secs().to_string();
        let mut signatures = String::with_capacity(self.keys.len() * 48);
        for key in &self.keys {
            let mut context = hmac::Context::with_key(key);
            for piece in [id.as_bytes(), b".", seconds.as_bytes(), b".", body] {
                context.update(piece);
            }
            if !signatures.is_empty() {
                signatures.push(' ');
            }
            signatures.push_str("v1,");
            STANDARD.encode_string(context.sign(), &mut signatures);
        }
        headers.insert(ID, id_value);
        headers.insert(TIMESTAMP, HeaderValue::from_maybe_shared(bytes::Bytes::from(seconds)).expect("digits"));
        headers.insert(SIGNATURE, HeaderValue::from_maybe_shared(bytes::Bytes::from(signatures)).expect("base64"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const OTHER: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn signer(secrets: &[&str]) -> Result<Signer, SignError> {
        Signer::new(&secrets.iter().map(|secret| Secret::new(*secret)).collect::<Vec<_>>())
    }

    #[test]
    fn the_official_vector() {
        let mut headers = HeaderMap::new();
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        signer(&[SECRET])
            .unwrap()
            .sign(&mut headers, "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", Timestamp(1_649_367_553_000), body)
            .unwrap();
        assert_eq!(headers["webhook-id"], "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk");
        assert_eq!(headers["webhook-timestamp"], "1649367553");
        assert_eq!(headers["webhook-signature"], "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }

    #[test]
    fn the_official_library_verifies_with_either_secret() {
        let mut headers = HeaderMap::new();
        let now = crate::clock::Clock::system().now();
        // That library takes texts only; any bytes are signed alike.
        let body = "{\"ä\": 1}".as_bytes();
        signer(&[SECRET, OTHER]).unwrap().sign(&mut headers, "msg_1", now, body).unwrap();
        for secret in [SECRET, OTHER] {
            standardwebhooks::Webhook::new(secret).unwrap().verify(body, &headers).unwrap();
        }
        let stranger = standardwebhooks::Webhook::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        assert!(stranger.verify(body, &headers).is_err());
        assert!(standardwebhooks::Webhook::new(SECRET).unwrap().verify(b"other bytes", &headers).is_err());
    }

    #[test]
    fn secrets_are_checked() {
        assert_eq!(signer(&[]).unwrap_err(), SignError::Count);
        assert_eq!(signer(&[SECRET; 5]).unwrap_err(), SignError::Count);
        assert_eq!(signer(&[SECRET, "whsec_?"]).unwrap_err(), SignError::Base64 { index: 1 });
        assert_eq!(signer(&["whsec_c2hvcnQ="]).unwrap_err(), SignError::Length { index: 0 });
        assert!(!format!("{:?}", signer(&[SECRET]).unwrap()).contains("C2FV"));
    }

    #[test]
    fn an_id_that_would_break_the_header_is_refused() {
        let mut headers = HeaderMap::new();
        assert_eq!(signer(&[SECRET]).unwrap().sign(&mut headers, "a\r\nb: c", Timestamp(0), b""), Err(SignError::Id));
        assert!(headers.is_empty());
    }
}
