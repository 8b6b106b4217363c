//! HMAC signatures over a template of the request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use subtle::{Choice, ConstantTimeEq};

use super::config::{Algorithm, ConfigError, Encoding, HmacScheme, KeyForm, MAX_TEXT, TimeUnit, TimestampRule, field, header_name};
use super::{MAX_SIGNATURES, VerifyError, only_header};
use crate::clock::Timestamp;
use crate::event::Request;
use crate::secret::Secret;

/// A scheme, made ready.
#[derive(Clone, Debug)]
pub(super) struct Hmac {
    header: String,
    split: Option<String>,
    prefix: String,
    content: Vec<Piece>,
    encoding: Encoding,
    timestamp: Option<TimestampRule>,
    keys: Vec<hmac::Key>,
}

/// A piece of the signed content.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Body,
    Timestamp,
    Method,
    Header(String),
}

impl Hmac {
    pub(super) fn new(scheme: &HmacScheme, secrets: &[Secret]) -> Result<Self, ConfigError> {
        let algorithm = match scheme.algorithm {
            Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
        };
        let key = |(index, secret): (usize, &Secret)| {
            let bytes = key_bytes(scheme.key, secret.expose()).ok_or(ConfigError::Secret {
                field: "secrets",
                index,
                problem: "it is not in the form that the scheme's `key` names",
            })?;
            Ok(hmac::Key::new(algorithm, &bytes))
        };
        let timestamp = scheme
            .timestamp
            .as_ref()
            .map(|rule| Ok(TimestampRule { header: header_name("timestamp.header", &rule.header)?, ..rule.clone() }));
        let content = pieces(&scheme.content)?;
        // A body that is not signed, or a time that anybody can change, protects nothing.
        if content.iter().filter(|piece| **piece == Piece::Body).count() != 1 {
            return Err(field("content", "must have {body} in it, once"));
        }
        if content.contains(&Piece::Timestamp) != timestamp.is_some() {
            return Err(field("content", "must have {timestamp} in it if there is a `timestamp`, and only then"));
        }
        Ok(Self {
            header: header_name("header", &scheme.header)?,
            split: scheme.split.clone(),
            prefix: scheme.prefix.clone(),
            content,
            encoding: scheme.encoding,
            timestamp: timestamp.transpose()?,
            keys: secrets.iter().enumerate().map(key).collect::<Result<_, _>>()?,
        })
    }

    /// The headers of the signature and of its time.
    pub(super) fn headers(&self) -> impl Iterator<Item = &str> {
        let time = self.timestamp.as_ref().map(|rule| rule.header.as_str()).filter(|name| *name != self.header);
        std::iter::once(self.header.as_str()).chain(time)
    }

    pub(super) fn check(&self, request: &Request, now: Timestamp) -> Result<(), VerifyError> {
        let line = only_header(request, &self.header)?;
        let signatures = self.signatures(line)?;
        let time = self.timestamp.as_ref().map(|rule| self.time(rule, request, now)).transpose()?;
        for key in &self.keys {
            let expected = self.sign(key, request, time.unwrap_or_default())?;
            let found =
                signatures.iter().fold(Choice::from(0), |found, signature| found | signature.as_bytes().ct_eq(expected.as_ref()));
            if found.into() {
                return Ok(());
            }
        }
        Err(VerifyError::WrongSignature)
    }

    /// The signatures of our scheme, decoded. One that cannot be decoded is skipped like one of another scheme.
    fn signatures(&self, line: &[u8]) -> Result<Vec<Decoded>, VerifyError> {
        let unknown = || VerifyError::UnknownSignatureForm(self.header.clone());
        let line = std::str::from_utf8(line).map_err(|_| unknown())?;
        let ours: Vec<&str> =
            self.items(line).filter_map(|item| item.strip_prefix(&*self.prefix)).take(MAX_SIGNATURES + 1).collect();
        if ours.len() > MAX_SIGNATURES {
            return Err(VerifyError::TooManySignatures(self.header.clone()));
        }
        let decoded: Vec<Decoded> = ours.into_iter().filter_map(|text| Decoded::read(self.encoding, text)).collect();
        if decoded.is_empty() { Err(unknown()) } else { Ok(decoded) }
    }

    fn items<'a>(&'a self, line: &'a str) -> impl Iterator<Item = &'a str> {
        let pieces = self.split.as_deref().map(|separator| line.split(separator));
        let whole = if pieces.is_none() { Some(line) } else { None };
        pieces.into_iter().flatten().chain(whole).map(str::trim_ascii)
    }

    /// The time as it was sent, if it is near enough.
    fn time<'a>(&'a self, rule: &'a TimestampRule, request: &'a Request, now: Timestamp) -> Result<&'a [u8], VerifyError> {
        let line = std::str::from_utf8(only_header(request, &rule.header)?).map_err(|_| VerifyError::MalformedTimestamp)?;
        let text = if rule.header == self.header {
            self.items(line).find_map(|item| item.strip_prefix(&*rule.prefix))
        } else {
            line.strip_prefix(&*rule.prefix)
        };
        let text = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).ok_or(VerifyError::MalformedTimestamp)?;
        let number: u64 = text.parse().map_err(|_| VerifyError::MalformedTimestamp)?;
        let signed_at = match rule.unit {
            TimeUnit::Seconds => Timestamp(number.saturating_mul(1000)),
            TimeUnit::Milliseconds => Timestamp(number),
        };
        let tolerance = std::time::Duration::from_secs(rule.tolerance_s);
        if now.since(signed_at) > tolerance {
            return Err(VerifyError::TimestampTooOld);
        }
        if signed_at.since(now) > tolerance {
            return Err(VerifyError::TimestampTooNew);
        }
        Ok(text.as_bytes())
    }

    fn sign(&self, key: &hmac::Key, request: &Request, time: &[u8]) -> Result<hmac::Tag, VerifyError> {
        let mut context = hmac::Context::with_key(key);
        for piece in &self.content {
            context.update(match piece {
                Piece::Text(text) => text.as_bytes(),
                Piece::Body => &request.body,
                Piece::Timestamp => time,
                Piece::Method => request.method.as_bytes(),
                Piece::Header(name) => only_header(request, name)?,
            });
        }
        Ok(context.sign())
    }
}

/// A decoded signature: of a hash's length, at most 64 bytes.
struct Decoded {
    bytes: [u8; MAX_HASH],
    length: usize,
}

const MAX_HASH: usize = 64;

impl Decoded {
    fn read(encoding: Encoding, text: &str) -> Option<Self> {
        let mut bytes = [0; MAX_HASH];
        let length = match encoding {
            Encoding::Hex => {
                let length = text.len() / 2;
                hex::decode_to_slice(text, bytes.get_mut(..length)?).ok()?;
                length
            }
            Encoding::Base64 => STANDARD.decode_slice(text, &mut bytes).ok()?,
        };
        Some(Self { bytes, length })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn key_bytes(form: KeyForm, secret: &str) -> Option<Vec<u8>> {
    let bytes = match form {
        KeyForm::Text => secret.as_bytes().to_vec(),
        KeyForm::Base64 => STANDARD.decode(secret).ok()?,
        KeyForm::Whsec => STANDARD.decode(secret.strip_prefix("whsec_").unwrap_or(secret)).ok()?,
        KeyForm::Hex => hex::decode(secret).ok()?,
    };
    if bytes.is_empty() { None } else { Some(bytes) }
}

fn pieces(template: &str) -> Result<Vec<Piece>, ConfigError> {
    if template.len() > MAX_TEXT {
        return Err(field("content", "is too long"));
    }
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once('{') {
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        let (name, after) = after.split_once('}').ok_or_else(|| field("content", "has a { without a }"))?;
        pieces.push(match name.split_once(':') {
            None if name == "body" => Piece::Body,
            None if name == "timestamp" => Piece::Timestamp,
            None if name == "method" => Piece::Method,
            Some(("header", header)) => Piece::Header(header_name("content", header)?),
            _ => return Err(field("content", "knows {body}, {timestamp}, {method} and {header:NAME}")),
        });
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}
