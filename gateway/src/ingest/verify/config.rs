//! What a verifier is made from.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use http::HeaderName;
use serde::{Deserialize, Serialize};

use super::Kind;
use super::credentials::{ApiKey, Basic};
use super::hmac::Hmac;
use crate::secret::Secret;

/// How a source's requests are verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum VerifierConfig {
    /// Not at all.
    None {},
    /// Nobody's: the source takes the gateway's own notices and nothing else.
    Notices {},
    /// A key in a header or in a query parameter: exactly one of the two is named.
    ApiKey {
        /// The header.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        header: Option<String>,
        /// What stands before the key in the header, such as `Bearer `.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        prefix: String,
        /// The query parameter.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        query: Option<String>,
        /// Keys that pass.
        keys: Vec<Secret>,
    },
    /// Basic authentication (RFC 7617).
    Basic {
        /// Users that pass.
        users: Vec<BasicUser>,
    },
    /// A provider's signature, by the name of a preset.
    Preset {
        /// One of [`preset_names`].
        name: String,
        /// Secrets that pass.
        secrets: Vec<Secret>,
        /// Instead of the preset's own tolerance.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tolerance_s: Option<u64>,
        /// Instead of the preset's own form of the secrets.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<KeyForm>,
    },
    /// An HMAC signature of any other kind.
    Hmac {
        /// How it is made.
        scheme: HmacScheme,
        /// Secrets that pass.
        secrets: Vec<Secret>,
    },
}

/// A user of basic authentication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasicUser {
    /// The name; no colon in it.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// How an HMAC signature is made and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HmacScheme {
    /// The header of the signature.
    pub header: String,
    /// What separates several items in that header, if it can hold several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// What stands before the signature in its item: `sha256=`, `v1,`. Items without it are of another scheme.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// What is signed: text with `{body}`, `{timestamp}`, `{method}` and `{header:NAME}`.
    pub content: String,
    /// The hash.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// How the signature is written.
    pub encoding: Encoding,
    /// How the key is made from the secret.
    #[serde(default)]
    pub key: KeyForm,
    /// Where the time of signing stands, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<TimestampRule>,
}

/// Where the time of signing stands, and how far it may be off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimestampRule {
    /// The header; may be that of the signature.
    pub header: String,
    /// What stands before the time in its item: `t=`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Its unit.
    #[serde(default)]
    pub unit: TimeUnit,
    /// How far it may be from now, either way.
    pub tolerance_s: u64,
}

/// A hash function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// SHA-1, for providers that know no other.
    Sha1,
    /// SHA-256.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
}

/// How a signature is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Hexadecimal, either case.
    Hex,
    /// Standard base64 with padding.
    Base64,
}

/// How the key is made from the secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyForm {
    /// The secret's bytes.
    #[default]
    Text,
    /// Base64, after `whsec_` where that stands before it.
    Whsec,
    /// Base64.
    Base64,
    /// Hexadecimal.
    Hex,
}

/// The unit of a timestamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// Seconds since the epoch.
    #[default]
    Seconds,
    /// Milliseconds since the epoch.
    Milliseconds,
}

/// A configuration that makes no verifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such preset.
    #[error("name: there is no preset `{name}`; there are {}", preset_names().collect::<Vec<_>>().join(", "))]
    UnknownPreset {
        /// What was asked for.
        name: String,
    },
    /// None, or too many.
    #[error("{field}: from 1 to {MAX_SECRETS} are needed")]
    Count {
        /// The field.
        field: &'static str,
    },
    /// An empty or overlong secret, or one that is not in the form that it should be.
    #[error("{field}[{index}]: {problem}")]
    Secret {
        /// The field.
        field: &'static str,
        /// Which one.
        index: usize,
        /// What is wrong; not the secret.
        problem: &'static str,
    },
    /// A key stands in a header or in a query parameter.
    #[error("exactly one of `header` and `query` is needed")]
    KeyPlace,
    /// A field that cannot be used.
    #[error("{field}: {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// Secrets, keys or users of one verifier.
pub(super) const MAX_SECRETS: usize = 8;
/// Bytes of a secret, name or template.
pub(super) const MAX_TEXT: usize = 1024;
const MAX_TOLERANCE_S: u64 = 24 * 60 * 60;

static PRESETS: LazyLock<BTreeMap<String, HmacScheme>> =
    LazyLock::new(|| toml::from_str(include_str!("presets.toml")).expect("a test reads every preset"));

/// Headers, in lower case, that presets' signatures and their times stand in.
pub(super) fn preset_headers() -> impl Iterator<Item = &'static str> {
    let time = |scheme: &'static HmacScheme| scheme.timestamp.as_ref().map(|rule| rule.header.as_str());
    PRESETS.values().flat_map(move |scheme| std::iter::once(scheme.header.as_str()).chain(time(scheme)))
}

/// The names of all presets.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    PRESETS.keys().map(String::as_str)
}

impl VerifierConfig {
    /// The same without its secrets, to be shown.
    pub fn redacted(&self) -> Self {
        let mut shown = self.clone();
        let secrets: Vec<&mut Secret> = match &mut shown {
            Self::None {} | Self::Notices {} => vec![],
            Self::ApiKey { keys, .. } => keys.iter_mut().collect(),
            Self::Basic { users } => users.iter_mut().map(|user| &mut user.password).collect(),
            Self::Preset { secrets, .. } | Self::Hmac { secrets, .. } => secrets.iter_mut().collect(),
        };
        secrets.into_iter().for_each(|secret| *secret = Secret::new("[redacted]"));
        shown
    }
}

pub(super) fn build(config: &VerifierConfig) -> Result<Kind, ConfigError> {
    Ok(match config {
        VerifierConfig::None {} => Kind::None,
        VerifierConfig::Notices {} => Kind::Notices,
        VerifierConfig::ApiKey { header, prefix, query, keys } => {
            check_secrets("keys", keys.iter())?;
            Kind::ApiKey(match (header, query) {
                (Some(header), None) => ApiKey::in_header(header_name("header", header)?, prefix, keys),
                (None, Some(query)) if !query.is_empty() && query.len() <= MAX_TEXT && prefix.is_empty() => {
                    ApiKey::in_query(query, keys)
                }
                _ => return Err(ConfigError::KeyPlace),
            })
        }
        VerifierConfig::Basic { users } => {
            check_secrets("users", users.iter().map(|user| &user.password))?;
            if users.iter().any(|user| user.username.contains(':') || user.username.len() > MAX_TEXT) {
                return Err(field("users", "a user name has a colon or is too long"));
            }
            Kind::Basic(Basic::new(users))
        }
        VerifierConfig::Preset { name, secrets, tolerance_s, key } => {
            let preset = PRESETS.get(name).ok_or_else(|| ConfigError::UnknownPreset { name: name.chars().take(64).collect() })?;
            let mut scheme = preset.clone();
            scheme.key = key.unwrap_or(scheme.key);
            match (&mut scheme.timestamp, tolerance_s) {
                (Some(rule), Some(tolerance_s)) => rule.tolerance_s = *tolerance_s,
                (None, Some(_)) => return Err(field("tolerance_s", "this preset signs no time")),
                (_, None) => {}
            }
            Kind::Hmac(hmac(&scheme, secrets)?)
        }
        VerifierConfig::Hmac { scheme, secrets } => Kind::Hmac(hmac(scheme, secrets)?),
    })
}

fn hmac(scheme: &HmacScheme, secrets: &[Secret]) -> Result<Hmac, ConfigError> {
    check_secrets("secrets", secrets.iter())?;
    if let Some(rule) = &scheme.timestamp
        && !(1..=MAX_TOLERANCE_S).contains(&rule.tolerance_s)
    {
        return Err(field("tolerance_s", format!("must be from 1 to {MAX_TOLERANCE_S}")));
    }
    if scheme.split.as_ref().is_some_and(String::is_empty) {
        return Err(field("split", "must not be empty"));
    }
    Hmac::new(scheme, secrets)
}

fn check_secrets<'a>(name: &'static str, secrets: impl ExactSizeIterator<Item = &'a Secret>) -> Result<(), ConfigError> {
    if !(1..=MAX_SECRETS).contains(&secrets.len()) {
        return Err(ConfigError::Count { field: name });
    }
    for (index, secret) in secrets.enumerate() {
        let problem = match secret.expose().len() {
            0 => "it is empty",
            1..=MAX_TEXT => continue,
            _ => "it is too long",
        };
        return Err(ConfigError::Secret { field: name, index, problem });
    }
    Ok(())
}

/// A header's name in lower case.
pub(super) fn header_name(name: &'static str, text: &str) -> Result<String, ConfigError> {
    HeaderName::from_bytes(text.as_bytes())
        .map(|header| header.as_str().to_owned())
        .map_err(|_| field(name, "is not a header's name"))
}

pub(super) fn field(field: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Field { field, problem: problem.into() }
}
