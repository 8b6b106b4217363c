//! How requests are signed.

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Faults, header_name};
use crate::clock::Timestamp;
use crate::config::units;
use crate::egress::{self, HmacHeader, MAX_SECRETS, SignError, Signer, SigningKey};
use crate::secret::Secret;

/// Bytes of what stands before a signature.
const MAX_PREFIX: usize = 64;
/// Bytes of an HMAC header's secret.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 8..=4096;

/// Signatures as Standard Webhooks defines them, and an HMAC of the body for receivers that expect that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SigningSpec {
    /// `whsec_` and base64 of 24 to 64 bytes (v1, HMAC), or `whsk_` and base64 of an Ed25519 private key (v1a). Each gives a signature, so
    /// that receivers can change over. None: requests are not signed.
    #[schema(schema_with = crate::control::schema::secrets)]
    pub secrets: Vec<Secret>,
    /// Secrets that sign until a time. A rotation puts what it replaces here. With those above at most 4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub retiring: Vec<RetiringSpec>,
    /// A header with an HMAC of the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hmac: Option<HmacSpec>,
}

/// A secret that signs until a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetiringSpec {
    /// As in `secrets`.
    #[schema(schema_with = crate::control::schema::secret)]
    pub secret: Secret,
    /// RFC 3339.
    #[serde(with = "units::time")]
    #[schema(value_type = String, format = DateTime, example = "2026-01-31T10:00:00.000Z")]
    pub until: Timestamp,
}

/// A header with an HMAC of the body, as GitHub sends it unless the fields say otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HmacSpec {
    /// The header. Default `X-Hub-Signature-256`.
    #[serde(default = "hub_header")]
    pub header: String,
    /// What stands before the signature. Default `sha256=`.
    #[serde(default = "hub_prefix")]
    pub prefix: String,
    /// The hash. Default `sha256`.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// How the signature is written. Default `hex`.
    #[serde(default)]
    pub encoding: Encoding,
    /// The key: the text's bytes as they are, 8 to 4096.
    #[schema(schema_with = crate::control::schema::secret)]
    pub secret: Secret,
}

/// Which hash an HMAC uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// SHA-1, for receivers that know nothing better.
    Sha1,
    /// SHA-256.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
}

/// How a signature is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Lower case.
    #[default]
    Hex,
    /// With padding.
    Base64,
}

fn hub_header() -> String {
    "X-Hub-Signature-256".into()
}

fn hub_prefix() -> String {
    "sha256=".into()
}

impl SigningSpec {
    /// A signer, unless there is nothing to sign with.
    pub(super) fn prepare(&self, faults: &mut Faults) -> Option<Signer> {
        if self.secrets.len() + self.retiring.len() > MAX_SECRETS {
            faults.add("signing.secrets", SignError::Count.to_string());
        }
        let lasting = self.secrets.iter().enumerate().map(|(index, secret)| (format!("signing.secrets[{index}]"), secret, None));
        let retiring = self.retiring.iter().enumerate();
        let retiring = retiring.map(|(index, one)| (format!("signing.retiring[{index}].secret"), &one.secret, Some(one.until)));
        let mut keys = Vec::new();
        for (field, secret, until) in lasting.chain(retiring) {
            match SigningKey::parse(secret) {
                Ok(key) => keys.push((key, until)),
                Err(error) => faults.add(field, error.to_string()),
            }
        }
        let hmac = self.hmac.as_ref().and_then(|hmac| hmac.prepare(faults));
        (!keys.is_empty() || hmac.is_some()).then(|| Signer::new(keys, hmac))
    }
}

impl HmacSpec {
    fn prepare(&self, faults: &mut Faults) -> Option<HmacHeader> {
        if !SECRET_BYTES.contains(&self.secret.expose().len()) {
            faults.add("signing.hmac.secret", format!("must be {} to {} bytes long", SECRET_BYTES.start(), SECRET_BYTES.end()));
        }
        let name = header_name("signing.hmac.header", &self.header, faults);
        let prefix = HeaderValue::from_str(&self.prefix).ok().filter(|prefix| prefix.len() <= MAX_PREFIX);
        if prefix.is_none() {
            faults.add("signing.hmac.prefix", format!("must be printable characters, at most {MAX_PREFIX} bytes"));
        }
        let algorithm = match self.algorithm {
            Algorithm::Sha1 => egress::Algorithm::Sha1,
            Algorithm::Sha256 => egress::Algorithm::Sha256,
            Algorithm::Sha512 => egress::Algorithm::Sha512,
        };
        let encoding = match self.encoding {
            Encoding::Hex => egress::Encoding::Hex,
            Encoding::Base64 => egress::Encoding::Base64,
        };
        Some(HmacHeader::new(name?, prefix?, algorithm, encoding, &self.secret))
    }
}
